/** A Helm chart by exact version; `repository` only for charts that are not OCI artifacts. */
export interface PinnedChart {
  readonly chart: string;
  readonly version: string;
  readonly repository?: string;
}

/**
 * Every chart that this stack installs. The versions go together: Envoy Gateway 1.9 speaks Gateway API 1.6 and
 * supports Kubernetes 1.33 to 1.36, and its two charts must be of the same version; before 1.9.2 a local limit by address
 * knows the last twenty addresses only (envoyproxy/gateway #9973).
 */
export const CHARTS = {
  kubePrometheusStack: {
    chart: "oci://ghcr.io/prometheus-community/charts/kube-prometheus-stack",
    version: "88.5.3",
  },
  loki: { chart: "oci://ghcr.io/grafana-community/helm-charts/loki", version: "18.11.0" },
  alloy: { chart: "alloy", version: "1.11.1", repository: "https://grafana.github.io/helm-charts" },
  gatewayCrds: { chart: "oci://docker.io/envoyproxy/gateway-crds-helm", version: "v1.9.2" },
  envoyGateway: { chart: "oci://docker.io/envoyproxy/gateway-helm", version: "v1.9.2" },
  certManager: { chart: "oci://quay.io/jetstack/charts/cert-manager", version: "v1.21.1" },
  keda: { chart: "keda", version: "2.20.2", repository: "https://kedacore.github.io/charts" },
} as const satisfies Record<string, PinnedChart>;

/** The pin in the words that Pulumi's Helm resources take. */
export function chartSource({ chart, version, repository }: PinnedChart) {
  return { chart, version, ...(repository && { repositoryOpts: { repo: repository } }) };
}
