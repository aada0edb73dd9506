import { at, isProperties, type Properties } from "../values.ts";

/** What the rehearsal knows of a chart that it does not render. */
export interface ChartKnowledge {
  /** API groups whose custom resource definitions it installs with these values. */
  kinds(values: Properties): readonly string[];
  /** API groups that its own objects need with these values, or its controller crash-loops without. */
  needs(values: Properties): readonly string[];
  /** Service accounts that it makes in its namespace, by release name and values. */
  serviceAccounts?(release: string, values: Properties): readonly string[];
}

const MONITORING = "monitoring.coreos.com";
const GATEWAY_API = "gateway.networking.k8s.io";
const ENVOY = "gateway.envoyproxy.io";

const unless = (value: unknown, fallback: boolean) => (typeof value === "boolean" ? value : fallback);

/** By the last part of the chart's name. A chart that is not here brings no kinds. */
const CHARTS: Readonly<Record<string, ChartKnowledge>> = {
  "cert-manager": {
    kinds: (values) =>
      unless(at(values, "crds.enabled"), false) || unless(values.installCRDs, false)
        ? ["cert-manager.io", "acme.cert-manager.io"]
        : [],
    // With the Gateway API switched on and absent, the controller crash-loops and startupapicheck never ends.
    needs: (values) => [
      ...monitors(values),
      ...(at(values, "config.gatewayAPI.enabled") === true || at(values, "config.enableGatewayAPI") === true
        ? [GATEWAY_API]
        : []),
    ],
    serviceAccounts: (release) => [release, `${release}-webhook`, `${release}-cainjector`],
  },
  "kube-prometheus-stack": {
    kinds: (values) => (unless(at(values, "crds.enabled"), true) ? [MONITORING] : []),
    needs: () => [],
  },
  "prometheus-operator-crds": { kinds: () => [MONITORING], needs: () => [] },
  "gateway-crds-helm": {
    kinds: (values) => [
      ...(unless(at(values, "crds.gatewayAPI.enabled"), false) ? [GATEWAY_API] : []),
      ...(unless(at(values, "crds.envoyGateway.enabled"), false) ? [ENVOY] : []),
    ],
    needs: () => [],
  },
  "gateway-helm": {
    kinds: (values) => (unless(at(values, "crds.enabled"), true) ? [GATEWAY_API, ENVOY] : []),
    needs: (values) =>
      unless(at(values, "crds.enabled"), true) ? monitors(values) : [GATEWAY_API, ENVOY, ...monitors(values)],
    serviceAccounts: () => ["envoy-gateway"],
  },
  keda: {
    kinds: (values) => (unless(at(values, "crds.install"), true) ? ["keda.sh", "eventing.keda.sh"] : []),
    needs: (values) => monitors(values),
    serviceAccounts: (_release, values) => [
      String(at(values, "serviceAccount.operator.name") ?? "keda-operator"),
      "keda-metrics-server",
      "keda-webhook",
    ],
  },
  loki: {
    kinds: () => [],
    needs: (values) => monitors(values),
    serviceAccounts: (release, values) => [String(at(values, "serviceAccount.name") ?? release)],
  },
  alloy: {
    kinds: (values) => (unless(at(values, "crds.create"), true) ? [MONITORING] : []),
    needs: (values) => monitors(values),
  },
  flagger: {
    kinds: (values) => (unless(at(values, "crd.create"), false) ? ["flagger.app"] : []),
    needs: (values) => monitors(values),
  },
};

const UNKNOWN: ChartKnowledge = { kinds: () => [], needs: (values) => monitors(values) };

/** What is known of a chart by its reference: a name, or an OCI address ending in it. */
export function knowledgeOf(chart: string): ChartKnowledge {
  return CHARTS[chart.split("/").at(-1)?.split(":")[0] ?? ""] ?? UNKNOWN;
}

/** Every chart spells it its own way: `serviceMonitor.enabled`, `servicemonitor.enabled`, `prometheusRule.enabled`. */
function monitors(values: unknown): string[] {
  const asks = (value: unknown): boolean => {
    if (Array.isArray(value)) return value.some(asks);
    if (!isProperties(value) || value.enabled === false) return false;
    return Object.entries(value).some(
      ([key, inner]) =>
        (/^(service|pod)monitor$|^prometheusrules?$/i.test(key) && isProperties(inner) && inner.enabled === true) ||
        asks(inner),
    );
  };
  return asks(values) ? [MONITORING] : [];
}

/** The kind that Helm names when a group is missing. */
export const KIND_OF_GROUP: Readonly<Record<string, { kind: string; version: string }>> = {
  [MONITORING]: { kind: "ServiceMonitor", version: "v1" },
  [GATEWAY_API]: { kind: "Gateway", version: "v1" },
  [ENVOY]: { kind: "EnvoyProxy", version: "v1alpha1" },
};

/** @returns why these values are no plain data; undefined when they are. */
export function notPlainData(values: unknown, path = "values"): string | undefined {
  if (values === null || ["string", "boolean"].includes(typeof values)) return undefined;
  if (typeof values === "number") return Number.isFinite(values) ? undefined : `${path} is ${values}`;
  if (Array.isArray(values)) {
    return values.map((value, i) => notPlainData(value, `${path}[${i}]`)).find((fault) => fault !== undefined);
  }
  if (isProperties(values)) {
    return Object.entries(values)
      .map(([key, value]) => notPlainData(value, `${path}.${key}`))
      .find((fault) => fault !== undefined);
  }
  return `${path} is a ${typeof values}`;
}
