import type { IPrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule";
import { ComponentResource, type ComponentResourceOptions } from "@pulumi/pulumi";
import { customResource } from "../platform/custom-resource.ts";
import type { Range } from "../settings.ts";
import { MCP_SERVER, SERVER_LABELS, type WorkloadNamespace } from "./namespace.ts";

export interface AlertsArgs {
  readonly namespace: WorkloadNamespace;
  /** Whether callers come by keys, which end. */
  readonly apiKeys: boolean;
  /** Whether replicas count limits together, in Redis. */
  readonly sharedStore: boolean;
  /** How many workers there may be; absent: there are none. */
  readonly workers?: Range | undefined;
}

/** How long before a key ends its people are told. */
const NOTICE_DAYS = 14;
const DAY_SECONDS = 86_400;
/** Longer than a replica's start, or a Redis that moves to another node. */
const PATIENCE = "5m";

/** The server's own metrics, of every replica. */
const of = (metric: string) => `${metric}{namespace="${MCP_SERVER.namespace}",service="${MCP_SERVER.name}"}`;

type Rule = NonNullable<NonNullable<NonNullable<IPrometheusRule["spec"]>["groups"]>[number]["rules"]>[number];

/**
 * What somebody has to see to, as Alertmanager gets it. It keeps alerts to itself until it is told whom to tell (Grafana
 * shows them meanwhile). Free.
 */
export class Alerts extends ComponentResource {
  constructor(name: string, args: AlertsArgs, options: ComponentResourceOptions) {
    super("mcp:workload:Alerts", name, {}, options);
    customResource<IPrometheusRule>(
      `${MCP_SERVER.name}-alerts`,
      {
        apiVersion: "monitoring.coreos.com/v1",
        kind: "PrometheusRule",
        metadata: { name: MCP_SERVER.name, namespace: args.namespace.name, labels: SERVER_LABELS },
        spec: {
          groups: [
            {
              name: MCP_SERVER.name,
              rules: [
                ...(args.apiKeys ? [KEY_EXPIRING] : []),
                AUDIT_FAILING,
                ...(args.sharedStore ? [LIMITS_STORE_LOST] : []),
              ],
            },
          ],
        },
      },
      { parent: this },
    );
    this.registerOutputs({});
  }
}

/**
 * The vault's own notice of expiry says nothing here: all keys are in one secret, which does not end. The server tells
 * of each key by its id. Every replica tells the same.
 */
const KEY_EXPIRING: Rule = {
  alert: "McpApiKeyExpiring",
  expr: `min by (id) (${of("mcp_api_key_expiry_timestamp_seconds")}) - time() > 0 < ${NOTICE_DAYS * DAY_SECONDS}`,
  labels: { severity: "warning" },
  annotations: {
    summary: "API key {{ $labels.id }} ends in {{ $value | humanizeDuration }}",
    description:
      "Whoever calls with it is refused from then on. Give it a successor by `mcp-aks keys rotate {{ $labels.id }}`, and pass that on; or revoke it.",
  },
};

const AUDIT_FAILING: Rule = {
  alert: "McpAuditFailing",
  expr: `${of("mcp_audit_healthy")} == 0`,
  for: PATIENCE,
  labels: { severity: "critical" },
  annotations: {
    summary: "{{ $labels.pod }} cannot keep its audit trail",
    description:
      "With mcp:auditFailure closed, calls that change something are refused meanwhile; open, they go on and what is lost is counted. The server's log says why (audit.failing), /health/detailed which sink it is.",
  },
};

const LIMITS_STORE_LOST: Rule = {
  alert: "McpLimitsStoreLost",
  expr: `${of("mcp_limits_store_healthy")} == 0`,
  for: PATIENCE,
  labels: { severity: "warning" },
  annotations: {
    summary: "{{ $labels.pod }} does not reach Redis",
    description:
      "Each replica counts limits by itself meanwhile, so a caller may do as much on each, and tickets for WebSockets hold on the replica alone that issued them. The server's log says why (redis.lost).",
  },
};
