import { describe, expect, test } from "vitest";
import { isInstalled, run, suites } from "./suites.ts";

/** Both together take about three seconds on two cores. */
const TIMEOUT_MS = 60_000;

describe.each(suites)("$title", (suite) => {
  test(
    "has every scored check green, with no list of expected failures",
    async () => {
      expect(isInstalled(suite), `${suite.package} is missing; run npm ci`).toBe(true);
      const { scenarios, scored, output } = await run(suite);
      // An empty run would be green too.
      expect(scenarios, output).toBeGreaterThanOrEqual(suite.scenarios);
      expect(scored.filter(({ status }) => status === "FAILURE" || status === "WARNING")).toEqual([]);
    },
    TIMEOUT_MS,
  );
});
