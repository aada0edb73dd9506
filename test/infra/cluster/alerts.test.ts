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

test("each stack is alerted to what it has: keys in dev, Redis in prod, the audit trail in both", () => {
  expect(rulesOf("dev").map(({ alert }) => alert)).toEqual(["McpApiKeyExpiring", "McpAuditFailing"]);
  expect(rulesOf("prod").map(({ alert }) => alert)).toEqual(["McpAuditFailing", "McpLimitsStoreLost"]);
});

test("alerts ask for metrics that the server has, as they are scraped", async () => {
  const config = parseEnvironment({});
  const metrics = createMetrics([]);
  const audit = createAudit({ config, log: createLogger(config, new PassThrough()), metrics, version: "0" });
  const known = metrics.registry.getMetricsAsArray().map(({ name }) => name);
  await audit.close();
  for (const { expr } of [...rulesOf("dev"), ...rulesOf("prod")]) {
    const [, metric = "", labels] = /(mcp_\w+)\{([^}]*)\}/.exec(expr) ?? [];
    expect(known).toContain(metric);
    // The ServiceMonitor adds both, by the Service that it finds.
    expect(labels).toBe('namespace="mcp-system",service="mcp-server"');
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
    expect(patience).toBe(alert === "McpApiKeyExpiring" ? undefined : "5m");
  }
});
