import { type CheckOutcome, isInstalled, run, suites } from "./suites.ts";

/* `npm run conformance`: both suites, one after the other; exits with 1 when a scored check failed or warned. There is no list of
 * expected failures. */

const count = (checks: readonly CheckOutcome[], status: CheckOutcome["status"]) =>
  checks.filter((check) => check.status === status).length;

let failed = false;
for (const suite of suites) {
  if (!isInstalled(suite)) {
    console.error(`${suite.title}: ${suite.package} is not installed; run npm ci.`);
    failed = true;
    continue;
  }
  const { scenarios, scored, unscored, output } = await run(suite);
  console.log(
    `${suite.title}: ${scenarios} scenarios; ${count(scored, "SUCCESS")} checks passed, ` +
      `${count(scored, "FAILURE")} failed, ${count(scored, "WARNING")} warnings, ${count(scored, "SKIPPED")} skipped` +
      (unscored.length > 0
        ? `; unscored: ${count(unscored, "SUCCESS")} passed, ${count(unscored, "FAILURE")} failed`
        : ""),
  );
  for (const { scenario, id, status, errorMessage } of scored) {
    if (status === "FAILURE" || status === "WARNING")
      console.log(`  ${status} ${scenario} ${id}: ${errorMessage ?? ""}`);
  }
  if (scenarios < suite.scenarios) console.error(output);
  // An empty run would be green too.
  if (scenarios < suite.scenarios || count(scored, "FAILURE") + count(scored, "WARNING") > 0) failed = true;
}
process.exit(failed ? 1 : 0);
