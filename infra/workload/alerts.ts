import type { IPrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule";
import { ComponentResource, type ComponentResourceOptions } from "@pulumi/pulumi";
import { customResource } from "../platform/custom-resource.ts";
import type { Range } from "../settings.ts";
import { JOB_WORKER, MCP_SERVER, SERVER_LABELS, type WorkloadNamespace } from "./namespace.ts";
import { WORKER_SCALING } from "./sizes.ts";

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
/** Longer than a queue of some hundred jobs takes, with the nodes that it needs. */
const LONG_PATIENCE = "30m";
/** Longer than the first worker takes to come, with a node. */
const FIRST_WORKER = "15m";
/** Longer than a replica's start, or a Redis that moves to another node. */
const PATIENCE = "5m";

/** Metrics of the product's own pods, as Prometheus has them from its monitors: by their container. */
const of = (metric: string, container: string) =>
  `${metric}{namespace="${MCP_SERVER.namespace}",container=~"${container}"}`;
const SERVER = MCP_SERVER.name;
const WORKER = JOB_WORKER.name;
const BOTH = `${SERVER}|${WORKER}`;

/** What KEDA's operator finds at every poll, and so with no worker as well. */
const ofScaler = (metric: string) => `${metric}{scaledObject="${WORKER}"}`;

type Rule = NonNullable<NonNullable<NonNullable<IPrometheusRule["spec"]>["groups"]>[number]["rules"]>[number];

/**
 * What somebody has to see to, as Alertmanager gets it. It tells mcp:alertWebhook; without, it keeps alerts to itself
 * (Grafana shows them meanwhile). Free.
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
                ...(args.workers ? jobRules(args.workers) : []),
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
  expr: `min by (id) (${of("mcp_api_key_expiry_timestamp_seconds", SERVER)}) - time() > 0 < ${NOTICE_DAYS * DAY_SECONDS}`,
  labels: { severity: "warning" },
  annotations: {
    summary: "API key {{ $labels.id }} ends in {{ $value | humanizeDuration }}",
    description:
      "Whoever calls with it is refused from then on. Give it a successor by `mcp-aks keys rotate {{ $labels.id }}`, and pass that on; or revoke it.",
  },
};

const AUDIT_FAILING: Rule = {
  alert: "McpAuditFailing",
  expr: `${of("mcp_audit_healthy", BOTH)} == 0`,
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
  expr: `${of("mcp_limits_store_healthy", BOTH)} == 0`,
  for: PATIENCE,
  labels: { severity: "warning" },
  annotations: {
    summary: "{{ $labels.pod }} does not reach Redis",
    description:
      "Each replica counts limits by itself meanwhile, so a caller may do as much on each, and tickets for WebSockets hold on the replica alone that issued them. The server's log says why (redis.lost).",
  },
};

/**
 * What goes wrong with jobs but for those that are set aside, which is Azure's to tell (service-bus.ts).
 * docs/jobs-operations.md goes on from each.
 */
function jobRules(workers: Range): Rule[] {
  const capacity = workers.max * WORKER_SCALING.jobsPerWorker;
  const retries = `sum by (tool) (increase(${of("mcp_job_retries_total", WORKER)}[30m]))`;
  const successes = `sum by (tool) (increase(${of("mcp_jobs_total", WORKER).replace("}", ',outcome="succeeded"}')}[30m]))`;
  return [
    {
      alert: "McpJobsWithoutWorker",
      expr: `sum(${ofScaler("keda_scaler_metrics_value")}) > 0 unless on () (kube_deployment_status_replicas_available{namespace="${JOB_WORKER.namespace}",deployment="${WORKER}"} > 0)`,
      for: FIRST_WORKER,
      labels: { severity: "critical" },
      annotations: {
        summary: "{{ $value }} jobs wait, and no worker is ready to run them",
        description: `Nothing is lost, but nothing is done. Ask \`kubectl --namespace ${JOB_WORKER.namespace} get pods,events\`: Pending is for want of nodes (mcp:userPool) or of quota, CrashLoopBackOff a fault of the image or its environment, not ready that Service Bus or Table storage does not answer.`,
      },
    },
    {
      alert: "McpJobsWaiting",
      expr: `max(${ofScaler("keda_scaler_metrics_value")}) > ${capacity}`,
      for: LONG_PATIENCE,
      labels: { severity: "warning" },
      annotations: {
        summary: `{{ $value }} jobs are in a queue, more than the ${capacity} that all workers run at once`,
        description:
          "New jobs wait for those before them, and may pass their deadline. Raise the second number of mcp:workers, and mcp:userPool with it, if this is not one submitter's flood; docs/scaling.md says how long a queue takes.",
      },
    },
    {
      alert: "McpJobsBreaking",
      expr: `(${retries} > 5) unless (${successes} > ${retries})`,
      for: PATIENCE,
      labels: { severity: "warning" },
      annotations: {
        summary: "Runs of {{ $labels.tool }} are lost or break more often than they succeed",
        description:
          "Each is run again, up to five times, and then set aside. The workers' log says why (job.retried); `mcp-aks jobs dead-letter list` has those that are past it. Replay them once the cause is mended.",
      },
    },
    {
      alert: "McpWorkersFailing",
      expr: `sum(increase(kube_pod_container_status_restarts_total{namespace="${JOB_WORKER.namespace}",container="${WORKER}"}[30m])) > 3`,
      labels: { severity: "warning" },
      annotations: {
        summary: "Workers were restarted {{ $value | humanize }} times in half an hour",
        description: `Jobs that ran in them are run again, or set aside where that may not be. \`kubectl --namespace ${JOB_WORKER.namespace} describe pods\` has the reason: OOMKilled is for want of memory, for a worker's commands share its four GiB; Error is in the log of the container before (--previous).`,
      },
    },
    {
      alert: "McpJobScalingBlind",
      expr: `sum(increase(${ofScaler("keda_scaler_detail_errors_total")}[10m])) > 5`,
      for: PATIENCE,
      labels: { severity: "warning" },
      annotations: {
        summary: "KEDA cannot read how long the job queues are",
        description:
          "Meanwhile there are as many workers as there were, and at least a fifth of the most. The log of keda-operator in namespace keda says why: 401 is its role on the queues (mcp:kedaRole), a time-out the network or the namespace's private endpoint.",
      },
    },
  ];
}
