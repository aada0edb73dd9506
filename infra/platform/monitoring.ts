import { Namespace, Secret } from "@pulumi/kubernetes/core/v1/index.js";
import type { Release } from "@pulumi/kubernetes/helm/v3/index.js";
import { ComponentResource, type ComponentResourceOptions, secret } from "@pulumi/pulumi";
import { RandomPassword } from "@pulumi/random/randomPassword.js";
import type { KeyVault } from "../azure/key-vault.ts";
import type { Settings } from "../settings.ts";
import { alertRouting } from "./alert-routing.ts";
import { installChart } from "./chart-release.ts";
import { CHARTS } from "./charts.ts";
import type { PodsElsewhere } from "./network-peer.ts";
import { podSecurity } from "./pod-security.ts";

export const MONITORING_NAMESPACE = "monitoring";

/** node-exporter reads the host's network, processes and file systems, which only a privileged namespace allows. */
const NODE_METRICS_NAMESPACE = "monitoring-nodes";

/** Prefix of what the chart itself names; its subcharts are named one by one below. */
const PREFIX = "kps";
const GRAFANA_SERVICE = "grafana";
const GRAFANA_ADMIN_SECRET = "grafana-admin";
const GRAFANA_VAULT_SECRET = "grafana-admin-password";
const WEBHOOK_SECRET = { name: "alertmanager-webhook", key: "url" };

/** Who scrapes, for NetworkPolicies. */
export const PROMETHEUS_PODS: PodsElsewhere = {
  namespace: MONITORING_NAMESPACE,
  labels: { "app.kubernetes.io/name": "prometheus" },
};

/** Where KEDA and Grafana ask for metrics. */
export const PROMETHEUS_URL = `http://${PREFIX}-prometheus.${MONITORING_NAMESPACE}:9090`;

/** Azure's standard SSD; zone-redundant where the pools span zones. AKS creates the class. */
export const DISK_CLASS = "managed-csi";

export interface MonitoringArgs {
  /** Keeps the Grafana password for people; the cluster has a copy that only Grafana reads. */
  readonly vault: Pick<KeyVault, "addSecret">;
  /** Prometheus grows with the number of nodes it watches. */
  readonly settings: Pick<Settings, "stack" | "cluster" | "alerts">;
}

/**
 * Prometheus, Alertmanager and Grafana, and the custom kinds (ServiceMonitor, PodMonitor, PrometheusRule) that every
 * other part uses. Costs about 3 USD a month for the disk, beside its share of the nodes: half a vCPU, 2 GiB.
 */
export class Monitoring extends ComponentResource {
  readonly namespace = MONITORING_NAMESPACE;
  /** `kubectl -n <namespace> port-forward svc/<service> 3000:80`; user `admin`, password in the vault. */
  readonly grafana = { service: GRAFANA_SERVICE, secretName: GRAFANA_VAULT_SECRET };

  constructor(name: string, args: MonitoringArgs, options: ComponentResourceOptions) {
    super("mcp:platform:Monitoring", name, {}, options);
    const namespace = this.#createNamespace(MONITORING_NAMESPACE, "restricted");
    const nodeNamespace = this.#createNamespace(NODE_METRICS_NAMESPACE, "privileged");
    const admin = this.#createGrafanaAdmin(namespace, args.vault);
    const webhook = args.settings.alerts.webhook && this.#keepWebhook(namespace, args.settings.alerts.webhook.url);
    this.#installStack(args.settings, namespace, [nodeNamespace, admin, ...(webhook ? [webhook] : [])]);
    this.registerOutputs({ namespace: this.namespace, grafana: this.grafana });
  }

  #createNamespace(name: string, level: "restricted" | "privileged"): Namespace {
    return new Namespace(name, { metadata: { name, labels: podSecurity(level) } }, { parent: this });
  }

  /** A generated password that no file, value or log ever holds. */
  #createGrafanaAdmin(namespace: Namespace, vault: MonitoringArgs["vault"]): Secret {
    const password = new RandomPassword(GRAFANA_VAULT_SECRET, { length: 32, special: false }, { parent: this });
    vault.addSecret(GRAFANA_VAULT_SECRET, password.result);
    return new Secret(
      GRAFANA_ADMIN_SECRET,
      {
        metadata: { name: GRAFANA_ADMIN_SECRET, namespace: namespace.metadata.name },
        stringData: { "admin-user": "admin", "admin-password": password.result },
      },
      { parent: this },
    );
  }

  /** Whoever has the URL can post to people, so it stays out of the chart's values, which Helm keeps and shows. */
  #keepWebhook(namespace: Namespace, url: string): Secret {
    const { name, key } = WEBHOOK_SECRET;
    return new Secret(
      name,
      { metadata: { name, namespace: namespace.metadata.name }, stringData: { [key]: secret(url) } },
      { parent: this },
    );
  }

  #installStack(
    { stack, cluster, alerts }: MonitoringArgs["settings"],
    namespace: Namespace,
    dependsOn: (Namespace | Secret)[],
  ): Release {
    const nodes = cluster.systemPool.max + (cluster.userPool?.max ?? 0);
    return installChart(
      "kube-prometheus-stack",
      {
        chart: CHARTS.kubePrometheusStack,
        namespace: namespace.metadata.name,
        values: {
          fullnameOverride: PREFIX,
          // AKS runs these out of reach, and Cilium replaces kube-proxy: scraping them would only raise alarms.
          kubeEtcd: { enabled: false },
          kubeScheduler: { enabled: false },
          kubeControllerManager: { enabled: false },
          kubeProxy: { enabled: false },
          prometheusOperator: {
            resources: resources("25m", "96Mi", "256Mi"),
            prometheusConfigReloader: { resources: resources("10m", "32Mi", "64Mi") },
            admissionWebhooks: { patch: { resources: resources("10m", "32Mi", "128Mi") } },
          },
          prometheus: { prometheusSpec: prometheusSpec(stack, nodes) },
          alertmanager: {
            alertmanagerSpec: {
              resources: resources("10m", "64Mi", "128Mi"),
              storage: disk("2Gi"),
              ...(alerts.webhook && { secrets: [WEBHOOK_SECRET.name] }),
            },
            // The chart's own configuration tells nobody.
            ...(alerts.webhook && { config: alertRouting(alerts.webhook.kind, WEBHOOK_SECRET) }),
          },
          "kube-state-metrics": {
            fullnameOverride: "kube-state-metrics",
            resources: resources("10m", "64Mi", "256Mi"),
          },
          "prometheus-node-exporter": {
            fullnameOverride: "node-exporter",
            namespaceOverride: NODE_METRICS_NAMESPACE,
            resources: resources("10m", "32Mi", "64Mi"),
          },
          grafana: grafanaValues(),
        },
      },
      { parent: this, dependsOn },
    );
  }
}

function prometheusSpec(stack: string, nodes: number) {
  return {
    // Alerts say which stack they come from: several may post to one channel.
    externalLabels: { stack },
    // By default the chart's Prometheus sees only what carries its own release label.
    serviceMonitorSelectorNilUsesHelmValues: false,
    podMonitorSelectorNilUsesHelmValues: false,
    ruleSelectorNilUsesHelmValues: false,
    probeSelectorNilUsesHelmValues: false,
    scrapeConfigSelectorNilUsesHelmValues: false,
    retention: "15d",
    // Below the disk's size, for the write-ahead log lies beside the blocks.
    retentionSize: "26GB",
    storageSpec: disk("32Gi"),
    // A node brings about two thousand series with its pods; a million series take some three GiB.
    resources: resources("200m", `${640 + 32 * nodes}Mi`, `${1536 + 96 * nodes}Mi`),
  };
}

function grafanaValues() {
  return {
    fullnameOverride: GRAFANA_SERVICE,
    admin: { existingSecret: GRAFANA_ADMIN_SECRET, userKey: "admin-user", passwordKey: "admin-password" },
    resources: resources("50m", "192Mi", "512Mi"),
    // Dashboards and data sources come from ConfigMaps, so nothing here is worth a disk; and without one, nothing has
    // to change its owner as root, which the namespace would refuse.
    persistence: { enabled: false },
    initChownData: { enabled: false },
    // The chart's test pod would stay behind after `helm test`.
    testFramework: { enabled: false },
    // The sidecars read ConfigMaps of this namespace, and so nobody's Secrets elsewhere.
    rbac: { namespaced: true },
    sidecar: {
      resources: resources("10m", "80Mi", "160Mi"),
      dashboards: { searchNamespace: MONITORING_NAMESPACE, resource: "configmap" },
      datasources: { searchNamespace: MONITORING_NAMESPACE, resource: "configmap" },
    },
    "grafana.ini": { analytics: { reporting_enabled: false, check_for_updates: false } },
  };
}

/** No CPU limit: a throttled Prometheus misses scrapes, and requests already share the CPU fairly. */
export function resources(cpu: string, memory: string, memoryLimit: string) {
  return { requests: { cpu, memory }, limits: { memory: memoryLimit } };
}

function disk(size: string) {
  return {
    volumeClaimTemplate: {
      spec: {
        storageClassName: DISK_CLASS,
        accessModes: ["ReadWriteOnce"],
        resources: { requests: { storage: size } },
      },
    },
  };
}
