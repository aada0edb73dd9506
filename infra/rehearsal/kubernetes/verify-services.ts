import type { Fault } from "../cloud-error.ts";
import { textsIn } from "../masking.ts";
import { at, isProperties, objectAt, objectsAt, type Properties, textAt, textMapAt, textsAt } from "../values.ts";
import { Faults, workloadsOf } from "./faults.ts";
import type { FakeKubernetes } from "./kubernetes.ts";
import { containersOf, type KubernetesObject, selects, selectsByMap, type Workload } from "./objects.ts";
import { hasPort } from "./verify-pods.ts";

/** Services, who scrapes them, and what else selects pods. */
export function verifyServices(cluster: FakeKubernetes): Fault[] {
  const faults = new Faults();
  const workloads = workloadsOf(cluster);
  for (const service of cluster.objects("Service")) checkService(service, workloads, cluster, faults);
  for (const monitor of cluster.objects("ServiceMonitor")) checkServiceMonitor(monitor, cluster, faults);
  for (const monitor of cluster.objects("PodMonitor")) checkPodMonitor(monitor, workloads, cluster, faults);
  for (const budget of cluster.objects("PodDisruptionBudget")) {
    const selector = at(budget.object, "spec.selector");
    const matched = workloads.some(
      ({ owner, labels }) => owner.namespace === budget.namespace && selects(selector, labels),
    );
    if (!matched && !cluster.hasCharts(budget.namespace)) {
      faults.add(budget, "NoPods: No matching pods found: its selector matches no pod template of the namespace");
    }
  }
  return faults.list;
}

function podsOf(service: KubernetesObject, workloads: readonly Workload[]): Workload[] {
  const selector = textMapAt(service.object, "spec.selector");
  if (Object.keys(selector).length === 0) return [];
  return workloads.filter(
    ({ owner, labels }) => owner.namespace === service.namespace && selectsByMap(selector, labels),
  );
}

function checkService(
  service: KubernetesObject,
  workloads: readonly Workload[],
  cluster: FakeKubernetes,
  faults: Faults,
): void {
  if (Object.keys(textMapAt(service.object, "spec.selector")).length === 0) return;
  const pods = podsOf(service, workloads);
  if (pods.length === 0) {
    if (!cluster.hasCharts(service.namespace)) {
      faults.add(
        service,
        `has no endpoints: no pod template of ${service.namespace} carries ${JSON.stringify(textMapAt(service.object, "spec.selector"))}`,
      );
    }
    return;
  }
  for (const port of objectsAt(service.object, "spec.ports")) {
    const target = port.targetPort ?? port.port;
    const served = pods.some(({ spec }) => containersOf(spec).some((container) => hasPort(container, target)));
    if (!served)
      faults.add(
        service,
        `port ${String(port.port)} goes to targetPort ${JSON.stringify(target)}, which no container of its pods has`,
      );
  }
}

/** Namespaces that a monitor looks into: its own unless it says otherwise. */
function namespacesOf(monitor: KubernetesObject): (namespace: string) => boolean {
  if (at(monitor.object, "spec.namespaceSelector.any") === true) return () => true;
  const names = textsAt(monitor.object, "spec.namespaceSelector.matchNames");
  return (namespace) => (names.length > 0 ? names.includes(namespace) : namespace === monitor.namespace);
}

function checkServiceMonitor(monitor: KubernetesObject, cluster: FakeKubernetes, faults: Faults): void {
  const looksInto = namespacesOf(monitor);
  const services = cluster
    .objects("Service")
    .filter(
      ({ namespace, object }) =>
        looksInto(namespace) && selects(at(monitor.object, "spec.selector"), textMapAt(object, "metadata.labels")),
    );
  if (services.length === 0) {
    if (!cluster.hasCharts(monitor.namespace))
      faults.add(monitor, "its selector matches no Service: Prometheus would scrape nothing");
    return;
  }
  for (const endpoint of objectsAt(monitor.object, "spec.endpoints")) {
    const port = textAt(endpoint, "port");
    if (port === undefined) continue;
    const named = services.some(({ object }) => objectsAt(object, "spec.ports").some((p) => p.name === port));
    if (!named) faults.add(monitor, `scrapes port "${port}", and the Services it selects have none of that name`);
  }
}

function checkPodMonitor(
  monitor: KubernetesObject,
  workloads: readonly Workload[],
  cluster: FakeKubernetes,
  faults: Faults,
): void {
  const looksInto = namespacesOf(monitor);
  const pods = workloads.filter(
    ({ owner, labels }) => looksInto(owner.namespace) && selects(at(monitor.object, "spec.selector"), labels),
  );
  if (pods.length === 0) {
    if (!cluster.hasCharts(monitor.namespace))
      faults.add(monitor, "its selector matches no pod: Prometheus would scrape nothing");
    return;
  }
  for (const endpoint of objectsAt(monitor.object, "spec.podMetricsEndpoints")) {
    const port = textAt(endpoint, "port");
    if (port === undefined) continue;
    const named = pods.some(({ spec }) => containersOf(spec).some((container: Properties) => hasPort(container, port)));
    if (!named) faults.add(monitor, `scrapes port "${port}", and the pods it selects have none of that name`);
  }
}

/** What a chart's values say about Secrets that somebody else has to make. */
export function checkChartSecrets(cluster: FakeKubernetes): Fault[] {
  const faults = new Faults();
  for (const release of cluster.releases()) {
    const owner = { kind: "Release", namespace: release.namespace, name: release.name };
    const walk = (value: unknown): void => {
      if (Array.isArray(value)) {
        for (const item of value) walk(item);
        return;
      }
      if (!isProperties(value)) return;
      checkAlertmanagerSecrets(value, release.namespace, cluster, (message) => faults.add(owner, message));
      const name = value.existingSecret;
      if (typeof name === "string" && name !== "") {
        const secret = cluster.object("Secret", release.namespace, name);
        if (!secret) faults.add(owner, `secret "${name}" not found: its values name it as existingSecret`);
        const keys = secret && ["data", "stringData"].flatMap((part) => Object.keys(objectAt(secret.object, part)));
        for (const property of ["userKey", "passwordKey"]) {
          const key = value[property];
          if (keys && typeof key === "string" && !keys.includes(key)) {
            faults.add(
              owner,
              `couldn't find key ${key} in Secret ${release.namespace}/${name}, which its values name as ${property}`,
            );
          }
        }
      }
      for (const inner of Object.values(value)) walk(inner);
    };
    walk(release.values);
  }
  return faults.list;
}

/** The operator mounts the Secrets of `alertmanagerSpec`; a configuration may read what is mounted and nothing else. */
function checkAlertmanagerSecrets(
  values: Properties,
  namespace: string,
  cluster: FakeKubernetes,
  fault: (message: string) => void,
): void {
  const mounted = textsAt(values, "alertmanagerSpec.secrets");
  for (const name of mounted) {
    if (!cluster.object("Secret", namespace, name)) {
      fault(`secret "${name}" not found: alertmanagerSpec.secrets names it, and Alertmanager's pod would wait for it`);
    }
  }
  for (const path of isProperties(values.alertmanagerSpec) ? textsIn(values.config) : []) {
    const [, name = "", key = ""] = /^\/etc\/alertmanager\/secrets\/([^/]+)\/(.+)$/.exec(path) ?? [];
    if (name === "") continue;
    const secret = cluster.object("Secret", namespace, name);
    const keys = secret && ["data", "stringData"].flatMap((part) => Object.keys(objectAt(secret.object, part)));
    if (!mounted.includes(name) || (keys && !keys.includes(key))) {
      fault(`Alertmanager's configuration reads ${path}, which no Secret of alertmanagerSpec.secrets brings`);
    }
  }
}
