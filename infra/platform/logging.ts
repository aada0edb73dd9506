import { ConfigMap } from "@pulumi/kubernetes/core/v1/index.js";
import type { Release } from "@pulumi/kubernetes/helm/v3/index.js";
import { ComponentResource, type ComponentResourceOptions } from "@pulumi/pulumi";
import { type ChartValues, installChart } from "./chart-release.ts";
import { CHARTS } from "./charts.ts";
import { DISK_CLASS, MONITORING_NAMESPACE, resources } from "./monitoring.ts";

const LOKI = "loki";
const LOKI_URL = `http://${LOKI}.${MONITORING_NAMESPACE}:3100`;

/** Fourteen days; Log Analytics keeps the control plane's logs longer. */
const RETENTION = "336h";

/** Loki's own choice for new installations; the schema holds from this day on and must never be moved. */
const SCHEMA_FROM = "2024-04-01";

/** Non-root user of the Alloy image. */
const ALLOY_USER = 473;

/** Alloy's own files: state only, for its root file system is read-only. */
const ALLOY_STATE = "/var/lib/alloy";

/** Nothing to choose yet. */
export type LoggingArgs = Record<string, never>;

/**
 * Every pod's output and the cluster's events, searchable in Grafana: Loki in one replica on a disk, fed by Alloy.
 * Costs about 3 USD a month for the disk, beside a tenth of a vCPU a node.
 */
export class Logging extends ComponentResource {
  constructor(name: string, _args: LoggingArgs, options: ComponentResourceOptions) {
    super("mcp:platform:Logging", name, {}, options);
    const loki = this.#installLoki();
    this.#installPodLogs(loki);
    this.#installEvents(loki);
    this.#addDataSource();
    this.registerOutputs({});
  }

  #installLoki(): Release {
    return installChart(
      LOKI,
      { chart: CHARTS.loki, namespace: MONITORING_NAMESPACE, values: lokiValues() },
      { parent: this },
    );
  }

  /** One Alloy a node. It reads logs through the API server, so it needs no path of its host. */
  #installPodLogs(loki: Release): void {
    installChart(
      "alloy",
      {
        chart: CHARTS.alloy,
        namespace: MONITORING_NAMESPACE,
        values: alloyValues({
          content: POD_LOGS,
          rules: [readOnly("pods", "pods/log")],
          controller: {
            type: "daemonset",
            // System nodes have logs, too, where a taint keeps everything else off them.
            tolerations: [{ key: "CriticalAddonsOnly", operator: "Exists" }],
          },
        }),
      },
      { parent: this, dependsOn: loki },
    );
  }

  /** A release of its own with one replica: on every node, each event would be stored once a node. */
  #installEvents(loki: Release): void {
    installChart(
      "alloy-events",
      {
        chart: CHARTS.alloy,
        namespace: MONITORING_NAMESPACE,
        values: alloyValues({
          content: CLUSTER_EVENTS,
          rules: [readOnly("events")],
          controller: { type: "deployment", replicas: 1 },
        }),
      },
      { parent: this, dependsOn: loki },
    );
  }

  #addDataSource(): void {
    const name = "grafana-datasource-loki";
    new ConfigMap(
      name,
      {
        metadata: { name, namespace: MONITORING_NAMESPACE, labels: { grafana_datasource: "1" } },
        data: {
          "loki.yaml": JSON.stringify({
            apiVersion: 1,
            datasources: [{ name: "Loki", uid: LOKI, type: "loki", access: "proxy", url: LOKI_URL }],
          }),
        },
      },
      { parent: this },
    );
  }
}

function lokiValues(): ChartValues {
  return {
    fullnameOverride: LOKI,
    // Rendering fails unless the modes not chosen are at zero.
    read: { replicas: 0 },
    write: { replicas: 0 },
    backend: { replicas: 0 },
    singleBinary: {
      replicas: 1,
      resources: resources("100m", "256Mi", "1Gi"),
      persistence: { size: "32Gi", storageClass: DISK_CLASS },
      // One replica: a budget could only block the draining of its node.
      podDisruptionBudget: { enabled: false },
    },
    loki: {
      // One tenant: only Alloy and Grafana reach it.
      auth_enabled: false,
      commonConfig: { replication_factor: 1 },
      storage: { type: "filesystem" },
      schemaConfig: {
        configs: [
          {
            from: SCHEMA_FROM,
            store: "tsdb",
            object_store: "filesystem",
            schema: "v13",
            index: { prefix: "loki_index_", period: "24h" },
          },
        ],
      },
      limits_config: { retention_period: RETENTION },
      compactor: { retention_enabled: true, delete_request_store: "filesystem" },
      analytics: { reporting_enabled: false },
    },
    // Memory caches of several GiB and probes of its own, for installations many times this size.
    chunksCache: { enabled: false },
    resultsCache: { enabled: false },
    gateway: { enabled: false },
    lokiCanary: { enabled: false },
    test: { enabled: false },
    // Reads alerting rules out of every Secret of the cluster.
    sidecar: { rules: { enabled: false } },
    monitoring: { serviceMonitor: { enabled: true } },
  };
}

function alloyValues(args: { content: string; rules: ChartValues[]; controller: ChartValues }): ChartValues {
  return {
    // The Prometheus operator's kinds are kube-prometheus-stack's.
    crds: { create: false },
    // In place of the chart's, which read every Secret. It joins two lists into one role, and neither may be empty.
    rbac: { rules: args.rules, clusterRules: [readOnly("namespaces")] },
    alloy: {
      configMap: { content: args.content },
      enableReporting: false,
      storagePath: ALLOY_STATE,
      mounts: { extra: [{ name: "state", mountPath: ALLOY_STATE }] },
      resources: resources("50m", "128Mi", "384Mi"),
      securityContext: {
        runAsNonRoot: true,
        runAsUser: ALLOY_USER,
        runAsGroup: ALLOY_USER,
        allowPrivilegeEscalation: false,
        readOnlyRootFilesystem: true,
        capabilities: { drop: ["ALL"] },
        seccompProfile: { type: "RuntimeDefault" },
      },
    },
    global: { podSecurityContext: { fsGroup: ALLOY_USER } },
    controller: { ...args.controller, volumes: { extra: [{ name: "state", emptyDir: { sizeLimit: "256Mi" } }] } },
    serviceMonitor: { enabled: true },
  };
}

function readOnly(...kinds: string[]) {
  return { apiGroups: [""], resources: kinds, verbs: ["get", "list", "watch"] };
}

const WRITE = `
loki.write "default" {
  endpoint {
    url = "${LOKI_URL}/loki/api/v1/push"
  }
}
`;

/** HOSTNAME is the node's name: the chart sets it. */
const POD_LOGS = `
discovery.kubernetes "pods" {
  role = "pod"
  selectors {
    role  = "pod"
    field = "spec.nodeName=" + sys.env("HOSTNAME")
  }
}

discovery.relabel "pods" {
  targets = discovery.kubernetes.pods.targets
  rule {
    source_labels = ["__meta_kubernetes_namespace"]
    target_label  = "namespace"
  }
  rule {
    source_labels = ["__meta_kubernetes_pod_name"]
    target_label  = "pod"
  }
  rule {
    source_labels = ["__meta_kubernetes_pod_container_name"]
    target_label  = "container"
  }
  rule {
    source_labels = ["__meta_kubernetes_pod_label_app_kubernetes_io_name"]
    target_label  = "app"
  }
}

loki.source.kubernetes "pods" {
  targets    = discovery.relabel.pods.output
  forward_to = [loki.write.default.receiver]
}
${WRITE}`;

const CLUSTER_EVENTS = `
loki.source.kubernetes_events "cluster" {
  job_name   = "kubernetes-events"
  log_format = "json"
  forward_to = [loki.write.default.receiver]
}
${WRITE}`;
