import type { Fault } from "../cloud-error.ts";
import { at, isProperties, objectsAt, type Properties, textAt, textMapAt, textsAt } from "../values.ts";
import { Faults, workloadsOf } from "./faults.ts";
import type { FakeKubernetes } from "./kubernetes.ts";
import { containersOf, type KubernetesObject, selects, selectsByMap, type Workload } from "./objects.ts";

/** Who wants to talk to whom: pods by their labels, in a namespace. */
interface Peer {
  readonly what: string;
  readonly namespace: string;
  readonly labels: Readonly<Record<string, string>>;
}

/** Where Envoy Gateway runs the proxies of every Gateway: beside its controller. */
function proxiesOf(gateway: Pick<KubernetesObject, "namespace" | "name">, cluster: FakeKubernetes): Peer | undefined {
  const controller = cluster.releases().find(({ chart }) => chart === "gateway-helm");
  return (
    controller && {
      what: `the proxies of Gateway ${gateway.namespace}/${gateway.name}`,
      namespace: controller.namespace,
      labels: {
        "app.kubernetes.io/name": "envoy",
        "app.kubernetes.io/component": "proxy",
        "app.kubernetes.io/managed-by": "envoy-gateway",
        "gateway.envoyproxy.io/owning-gateway-name": gateway.name,
        "gateway.envoyproxy.io/owning-gateway-namespace": gateway.namespace,
      },
    }
  );
}

function prometheus(cluster: FakeKubernetes): Peer | undefined {
  const stack = cluster.releases().find(({ chart }) => chart === "kube-prometheus-stack");
  return (
    stack && { what: "Prometheus", namespace: stack.namespace, labels: { "app.kubernetes.io/name": "prometheus" } }
  );
}

/** Policies that stand in the way of the traffic that the other objects arrange: requests, scrapes, names. */
export function verifyTraffic(cluster: FakeKubernetes): Fault[] {
  const faults = new Faults();
  const workloads = workloadsOf(cluster);
  for (const route of cluster.objects("HTTPRoute")) {
    const backends = objectsAt(route.object, "spec.rules").flatMap((rule) => objectsAt(rule, "backendRefs"));
    for (const parent of objectsAt(route.object, "spec.parentRefs")) {
      const gateway = { namespace: String(parent.namespace ?? route.namespace), name: String(parent.name) };
      for (const backend of backends) {
        const service = cluster.object("Service", String(backend.namespace ?? route.namespace), String(backend.name));
        checkWayIn(
          proxiesOf(gateway, cluster),
          service,
          (port) => port.port === backend.port,
          workloads,
          cluster,
          faults,
        );
      }
    }
  }
  for (const monitor of cluster.objects("ServiceMonitor")) {
    const ports = objectsAt(monitor.object, "spec.endpoints").map((endpoint) => endpoint.port);
    for (const service of cluster.objects("Service")) {
      const labels = textMapAt(service.object, "metadata.labels");
      if (service.namespace !== monitor.namespace || !selects(at(monitor.object, "spec.selector"), labels)) continue;
      checkWayIn(prometheus(cluster), service, (port) => ports.includes(port.name), workloads, cluster, faults);
    }
  }
  const dns: Peer = { what: "the cluster's DNS", namespace: "kube-system", labels: { "k8s-app": "kube-dns" } };
  for (const workload of workloads) {
    if (!allows("egress", workload, dns, { number: 53, protocol: "UDP" }, cluster)) {
      faults.add(workload.owner, `no NetworkPolicy lets its pods out to ${dns.what} (UDP 53): no name resolves`);
    }
  }
  return faults.list;
}

function checkWayIn(
  from: Peer | undefined,
  service: KubernetesObject | undefined,
  wanted: (port: Properties) => boolean,
  workloads: readonly Workload[],
  cluster: FakeKubernetes,
  faults: Faults,
): void {
  if (!from || !service) return;
  const selector = textMapAt(service.object, "spec.selector");
  if (Object.keys(selector).length === 0) return;
  const pods = workloads.filter(
    ({ owner, labels }) => owner.namespace === service.namespace && selectsByMap(selector, labels),
  );
  for (const port of objectsAt(service.object, "spec.ports").filter(wanted)) {
    for (const pod of pods) {
      const target = containerPort(pod, port.targetPort ?? port.port);
      if (target === undefined || allows("ingress", pod, from, target, cluster)) continue;
      faults.add(
        pod.owner,
        `no NetworkPolicy lets ${from.what} in on port ${target.number}, which ${service.kind} ${service.namespace}/${service.name} sends it to`,
      );
    }
  }
}

interface Port {
  readonly number: number;
  readonly name?: string;
  readonly protocol: string;
}

function containerPort({ spec }: Workload, port: unknown): Port | undefined {
  const found = containersOf(spec)
    .flatMap((container) => objectsAt(container, "ports"))
    .find((candidate) => candidate.name === port || candidate.containerPort === port);
  if (typeof found?.containerPort !== "number") return undefined;
  return { number: found.containerPort, name: textAt(found, "name"), protocol: textAt(found, "protocol") ?? "TCP" };
}

/** NetworkPolicies add up: a pod that one selects takes (or sends) what any of them lets through, and nothing else. */
function allows(
  direction: "ingress" | "egress",
  pod: Workload,
  peer: Peer,
  port: Port,
  cluster: FakeKubernetes,
): boolean {
  const here = ({ namespace }: KubernetesObject) => namespace === pod.owner.namespace;
  const policies = cluster
    .objects("NetworkPolicy")
    .filter((policy) => here(policy) && selects(at(policy.object, "spec.podSelector"), pod.labels))
    .filter((policy) => typesOf(policy.object).includes(direction));
  if (policies.length === 0) return true;
  // Cilium's own policies say more than this reads; one that speaks of what comes in is given the benefit of the doubt.
  // On the way out they only add, such as the node's own DNS cache.
  const cilium = cluster.objects("CiliumNetworkPolicy").filter(here);
  if (direction === "ingress" && cilium.some((policy) => objectsAt(policy.object, "spec.ingress").length > 0))
    return true;
  return policies.some((policy) =>
    objectsAt(policy.object, `spec.${direction}`).some(
      (rule) =>
        matchesPort(objectsAt(rule, "ports"), port) &&
        matchesPeer(rule[direction === "ingress" ? "from" : "to"], policy.namespace, peer, cluster),
    ),
  );
}

function typesOf(policy: Properties): string[] {
  const given = textsAt(policy, "spec.policyTypes").map((type) => type.toLowerCase());
  return given.length > 0 ? given : ["ingress", ...(at(policy, "spec.egress") === undefined ? [] : ["egress"])];
}

function matchesPort(ports: readonly Properties[], { number, name, protocol }: Port): boolean {
  if (ports.length === 0) return true;
  return ports.some((rule) => {
    if ((rule.protocol ?? "TCP") !== protocol) return false;
    if (typeof rule.endPort === "number") return Number(rule.port) <= number && number <= rule.endPort;
    return rule.port === undefined || rule.port === number || (name !== undefined && rule.port === name);
  });
}

/** `ipBlock` never matches a pod's address under Cilium. */
function matchesPeer(
  peers: unknown,
  ownNamespace: string,
  { namespace, labels }: Peer,
  cluster: FakeKubernetes,
): boolean {
  if (!Array.isArray(peers) || peers.length === 0) return true;
  return peers.filter(isProperties).some((peer) => {
    if (peer.ipBlock !== undefined) return false;
    const inNamespace =
      peer.namespaceSelector === undefined
        ? namespace === ownNamespace
        : selects(peer.namespaceSelector, cluster.namespaceLabels(namespace));
    return inNamespace && (peer.podSelector === undefined || selects(peer.podSelector, labels));
  });
}
