import { readFileSync } from "node:fs";
import { PassThrough } from "node:stream";
import { beforeAll, expect, test } from "vitest";
import { parseEnvironment } from "../../../server/config.ts";
import { createAudit } from "../../../server/observability/audit.ts";
import { createLogger } from "../../../server/observability/logging.ts";
import { createMetrics } from "../../../server/observability/metrics.ts";
import { find, type PlannedCluster, planCluster } from "./planned-cluster.ts";

interface Rule {
  alert: string;
  expr: string;
  for?: string;
  labels: { severity: string };
  annotations: { summary: string; description: string };
}

const plans: Record<string, PlannedCluster> = {};
beforeAll(async () => {
  plans.dev = await planCluster("dev");
  plans.prod = await planCluster("prod");
});

function rulesOf(stack: string): Rule[] {
  const plan = plans[stack];
  if (!plan) throw new Error(`no plan of ${stack}`);
  const { spec } = find(plan, "kubernetes:monitoring.coreos.com/v1:PrometheusRule").inputs;
  return (spec as { groups: { rules: Rule[] }[] }).groups.flatMap(({ rules }) => rules);
}

const JOBS = ["McpJobsWithoutWorker", "McpJobsWaiting", "McpJobsBreaking", "McpWorkersFailing", "McpJobScalingBlind"];

test("each stack is alerted to what it has: keys in dev, Redis in prod, audit trail and jobs in both", () => {
  expect(rulesOf("dev").map(({ alert }) => alert)).toEqual(["McpApiKeyExpiring", "McpAuditFailing", ...JOBS]);
  expect(rulesOf("prod").map(({ alert }) => alert)).toEqual(["McpAuditFailing", "McpLimitsStoreLost", ...JOBS]);
});

test("jobs wait too long when there are more than the stack's workers run at once", () => {
  const threshold = (stack: string) => rulesOf(stack).find(({ alert }) => alert === "McpJobsWaiting")?.expr;
  expect(threshold("dev")).toMatch(/> 10$/);
  expect(threshold("prod")).toMatch(/> 100$/);
});

test("docs/jobs-operations.md says of every alert about jobs what to do", () => {
  const page = readFileSync("docs/jobs-operations.md", "utf8");
  for (const alert of JOBS) expect(page).toContain(`### ${alert}`);
});

test("alerts ask for metrics that the server has, as they are scraped", async () => {
  const config = parseEnvironment({});
  const metrics = createMetrics([]);
  const audit = createAudit({ config, log: createLogger(config, new PassThrough()), metrics, version: "0" });
  const known = metrics.registry.getMetricsAsArray().map(({ name }) => name);
  await audit.close();
  const asked = [...rulesOf("dev"), ...rulesOf("prod")].flatMap(({ expr }) => [
    ...expr.matchAll(/(mcp_\w+)\{([^}]*)\}/g),
  ]);
  for (const [, metric, labels] of asked) {
    expect(known).toContain(metric);
    // The monitors add both, by the pods that they find.
    expect(labels).toMatch(/^namespace="mcp-system",container=~"(mcp-server|job-worker|mcp-server\|job-worker)"/);
  }
});

test("a key is told of two weeks before it ends, and not after", () => {
  const [rule] = rulesOf("dev");
  expect(rule?.expr).toMatch(/ - time\(\) > 0 < 1209600$/);
});

test("each says what is wrong and what to do, and waits out a restart", () => {
  for (const { alert, annotations, labels, for: patience } of [...rulesOf("dev"), ...rulesOf("prod")]) {
    expect(annotations.summary.length, alert).toBeGreaterThan(20);
    expect(annotations.description.length, alert).toBeGreaterThan(80);
    expect(["warning", "critical"]).toContain(labels.severity);
    // Those without look back by themselves.
    const looksBack = ["McpApiKeyExpiring", "McpWorkersFailing"].includes(alert);
    if (!looksBack) expect(patience, alert).toMatch(/^\d+m$/);
  }
});
