import type { Fault } from "../cloud-error.ts";
import { at, isProperties, objectsAt, type Properties } from "../values.ts";
import { Faults, workloadsOf } from "./faults.ts";
import type { FakeKubernetes } from "./kubernetes.ts";
import { isEmptySelector, type KubernetesObject, selects, type Workload } from "./objects.ts";

/** Policies that apply to nothing, or open for nobody. */
export function verifyPolicies(cluster: FakeKubernetes): Fault[] {
  const faults = new Faults();
  const workloads = workloadsOf(cluster);
  for (const policy of cluster.objects("NetworkPolicy")) {
    if (!matchesPods(at(policy.object, "spec.podSelector"), [policy.namespace], workloads, cluster)) {
      faults.add(policy, "its podSelector matches no pod of the namespace: it protects nothing");
    }
    for (const [direction, key] of [
      ["ingress", "from"],
      ["egress", "to"],
    ] as const) {
      for (const rule of objectsAt(policy.object, `spec.${direction}`)) {
        for (const peer of objectsAt(rule, key)) checkPeer(policy, direction, peer, workloads, cluster, faults);
      }
    }
  }
  for (const policy of cluster.objects("CiliumNetworkPolicy")) {
    const selector = withoutPrefixes(at(policy.object, "spec.endpointSelector"));
    if (!matchesPods(selector, [policy.namespace], workloads, cluster)) {
      faults.add(policy, "its endpointSelector matches no pod of the namespace: it protects nothing");
    }
  }
  return faults.list;
}

function checkPeer(
  policy: KubernetesObject,
  direction: string,
  peer: Properties,
  workloads: readonly Workload[],
  cluster: FakeKubernetes,
  faults: Faults,
): void {
  if (peer.ipBlock !== undefined) return;
  const selector = peer.namespaceSelector;
  const everyNamespace = ["kube-system", "default", ...cluster.objects("Namespace").map(({ name }) => name)];
  const namespaces =
    selector === undefined
      ? [policy.namespace]
      : everyNamespace.filter((name) => selects(selector, cluster.namespaceLabels(name)));
  const shown = JSON.stringify(peer);
  if (namespaces.length === 0) {
    faults.add(policy, `${direction} peer ${shown} matches no namespace`);
    return;
  }
  if (peer.podSelector !== undefined && !matchesPods(peer.podSelector, namespaces, workloads, cluster)) {
    faults.add(policy, `${direction} peer ${shown} matches no pod`);
  }
}

/**
 * Pods that no template of the program makes: the system's own, a chart's, cert-manager's challenge solvers, a
 * Gateway's proxies. Where such run, a selector is given the benefit of the doubt.
 */
function matchesPods(
  selector: unknown,
  namespaces: readonly string[],
  workloads: readonly Workload[],
  cluster: FakeKubernetes,
): boolean {
  if (isEmptySelector(selector)) return true;
  if (isProperties(selector) && JSON.stringify(selector).includes("acme.cert-manager.io/http01-solver")) {
    return namespaces.some((namespace) => cluster.objects("Certificate").some((c) => c.namespace === namespace));
  }
  return namespaces.some(
    (namespace) =>
      namespace.startsWith("kube-") ||
      cluster.hasCharts(namespace) ||
      workloads.some(({ owner, labels }) => owner.namespace === namespace && selects(selector, labels)),
  );
}

/** Cilium spells labels with their source: `k8s:app`, `any:app`. */
function withoutPrefixes(selector: unknown): unknown {
  if (!isProperties(selector) || !isProperties(selector.matchLabels)) return selector;
  const labels = Object.entries(selector.matchLabels).map(([key, value]) => [key.replace(/^(k8s|any):/, ""), value]);
  return { ...selector, matchLabels: Object.fromEntries(labels) };
}
