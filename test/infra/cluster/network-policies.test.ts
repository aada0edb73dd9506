import { beforeAll, describe, expect, it } from "vitest";
import { objects, type PlannedCluster, planCluster } from "./planned-cluster.ts";

/*
 * A small evaluator of NetworkPolicy and of the part of CiliumNetworkPolicy that the stack uses, with Cilium's reading:
 * an ipBlock or CIDR matches addresses outside the cluster only, never pods or nodes; entity "host" is the own node.
 */

interface Pod {
  namespace: string;
  labels: Record<string, string>;
}
type Place = Pod | { address: string } | "own node";
interface Port {
  protocol: "TCP" | "UDP";
  port: number;
}

interface Selector {
  matchLabels?: Record<string, string>;
  matchExpressions?: { key: string; operator: string; values: string[] }[];
}
interface Peer {
  namespaceSelector?: Selector;
  podSelector?: Selector;
  ipBlock?: { cidr: string; except?: string[] };
}
interface Rule {
  from?: Peer[];
  to?: Peer[];
  ports?: Port[];
}
interface PlainPolicy {
  kind: "NetworkPolicy";
  metadata: { namespace: string };
  spec: { podSelector: Selector; policyTypes: string[]; ingress?: Rule[]; egress?: Rule[] };
}
interface CiliumPolicy {
  kind: "CiliumNetworkPolicy";
  metadata: { namespace: string };
  spec: {
    endpointSelector: Selector;
    egress: {
      toEntities?: string[];
      toCIDR?: string[];
      toPorts: { ports: { port: string; protocol: string }[] }[];
    }[];
  };
}

const NAMESPACE_NAME = "kubernetes.io/metadata.name";
const isPod = (place: Place): place is Pod => typeof place === "object" && "namespace" in place;

function matches({ matchLabels = {}, matchExpressions = [] }: Selector, labels: Record<string, string>): boolean {
  return (
    Object.entries(matchLabels).every(([key, value]) => labels[key] === value) &&
    matchExpressions.every(({ key, operator, values }) => {
      if (operator !== "In") throw new Error(`no reading of ${operator} here`);
      return values.includes(labels[key] ?? "");
    })
  );
}

const bits = (address: string) => address.split(".").reduce((sum, octet) => sum * 256 + Number(octet), 0);
function inRange(address: string, cidr: string): boolean {
  const [start = "", prefix = "32"] = cidr.split("/");
  const size = 2 ** (32 - Number(prefix));
  return Math.floor(bits(address) / size) === Math.floor(bits(start) / size);
}

function peerMatches(peer: Peer, place: Place, ownNamespace: string): boolean {
  if (peer.ipBlock) {
    const { cidr, except = [] } = peer.ipBlock;
    if (typeof place === "string" || isPod(place)) return false;
    return inRange(place.address, cidr) && !except.some((range) => inRange(place.address, range));
  }
  if (!isPod(place)) return false;
  const inNamespace = peer.namespaceSelector
    ? matches(peer.namespaceSelector, { [NAMESPACE_NAME]: place.namespace })
    : place.namespace === ownNamespace;
  return inNamespace && matches(peer.podSelector ?? {}, place.labels);
}

function ruleMatches(rule: Rule, peers: Peer[] | undefined, place: Place, port: Port, namespace: string): boolean {
  return (
    (peers === undefined || peers.some((peer) => peerMatches(peer, place, namespace))) &&
    (rule.ports === undefined || rule.ports.some((p) => p.port === port.port && p.protocol === port.protocol))
  );
}

class Network {
  readonly plain: PlainPolicy[];
  readonly cilium: CiliumPolicy[];

  constructor(plan: PlannedCluster) {
    const all = objects(plan).map(({ inputs }) => inputs as unknown as PlainPolicy | CiliumPolicy);
    this.plain = all.filter((o): o is PlainPolicy => o.kind === "NetworkPolicy");
    this.cilium = all.filter((o): o is CiliumPolicy => o.kind === "CiliumNetworkPolicy");
  }

  mayTalk(from: Place, to: Place, port: Port): boolean {
    return (!isPod(from) || this.mayLeave(from, to, port)) && (!isPod(to) || this.mayEnter(to, from, port));
  }

  private concerning(pod: Pod, direction: "Ingress" | "Egress"): PlainPolicy[] {
    return this.plain.filter(
      ({ metadata, spec }) =>
        metadata.namespace === pod.namespace &&
        spec.policyTypes.includes(direction) &&
        matches(spec.podSelector, pod.labels),
    );
  }

  private mayEnter(pod: Pod, from: Place, port: Port): boolean {
    if (from === "own node") return true; // the kubelet's probes
    const policies = this.concerning(pod, "Ingress");
    return (
      policies.length === 0 ||
      policies.some(({ spec }) => spec.ingress?.some((r) => ruleMatches(r, r.from, from, port, pod.namespace)))
    );
  }

  private mayLeave(pod: Pod, to: Place, port: Port): boolean {
    const policies = this.concerning(pod, "Egress");
    const own = this.cilium.filter(
      ({ metadata, spec }) => metadata.namespace === pod.namespace && matches(spec.endpointSelector, pod.labels),
    );
    if (policies.length + own.length === 0) return true;
    return (
      policies.some(({ spec }) => spec.egress?.some((r) => ruleMatches(r, r.to, to, port, pod.namespace))) ||
      own.some(({ spec }) =>
        spec.egress.some(
          ({ toEntities = [], toCIDR = [], toPorts }) =>
            ((to === "own node" && toEntities.includes("host")) ||
              (typeof to === "object" && "address" in to && toCIDR.some((range) => inRange(to.address, range)))) &&
            toPorts.some(({ ports }) =>
              ports.some((p) => Number(p.port) === port.port && p.protocol === port.protocol),
            ),
        ),
      )
    );
  }
}

const pod = (namespace: string, labels: Record<string, string>): Pod => ({ namespace, labels });
const name = (value: string) => ({ "app.kubernetes.io/name": value });

const SERVER = pod("mcp-system", { ...name("mcp-server"), "app.kubernetes.io/component": "server" });
const WORKER = pod("mcp-system", { ...name("job-worker"), "app.kubernetes.io/component": "worker" });
const STRANGER = pod("mcp-system", name("stranger"));
const PROXY = pod("envoy-gateway-system", {
  ...name("envoy"),
  "app.kubernetes.io/component": "proxy",
  "gateway.envoyproxy.io/owning-gateway-name": "mcp",
  "gateway.envoyproxy.io/owning-gateway-namespace": "mcp-gateway",
});
const OTHER_PROXY = pod("envoy-gateway-system", {
  ...PROXY.labels,
  "gateway.envoyproxy.io/owning-gateway-name": "somebody-elses",
});
const IMPOSTOR = pod("default", PROXY.labels);
const PROMETHEUS = pod("monitoring", name("prometheus"));
const GRAFANA = pod("monitoring", name("grafana"));
const DNS = pod("kube-system", { "k8s-app": "kube-dns" });
const SOLVER = pod("mcp-gateway", { "acme.cert-manager.io/http01-solver": "true" });
const INTERNET = { address: "20.60.1.2" };
const PRIVATE_ENDPOINT = { address: "10.0.8.5" };
const METADATA_SERVICE = { address: "169.254.169.254" };
const NODE_RESOLVER = { address: "169.254.10.11" };

const tcp = (port: number): Port => ({ protocol: "TCP", port });
const udp = (port: number): Port => ({ protocol: "UDP", port });

let network: Network;
beforeAll(async () => {
  network = new Network(await planCluster("prod"));
});

describe("traffic that the stack needs", () => {
  it.each<[string, Place, Place, Port]>([
    ["the Gateway's proxies to the server", PROXY, SERVER, tcp(8080)],
    ["Prometheus to the server's metrics", PROMETHEUS, SERVER, tcp(9090)],
    ["Prometheus to the worker's metrics", PROMETHEUS, WORKER, tcp(9090)],
    ["the kubelet's probes to the server", "own node", SERVER, tcp(8080)],
    ["the server to DNS", SERVER, DNS, udp(53)],
    ["the server to DNS, long answers", SERVER, DNS, tcp(53)],
    ["the worker to DNS", WORKER, DNS, udp(53)],
    ["the server to the node's resolver by entity", SERVER, "own node", udp(53)],
    ["the worker to the node's resolver by address", WORKER, NODE_RESOLVER, udp(53)],
    ["the server to Entra, Key Vault and tables", SERVER, INTERNET, tcp(443)],
    ["the server to a private endpoint", SERVER, PRIVATE_ENDPOINT, tcp(443)],
    ["the server to Service Bus", SERVER, INTERNET, tcp(5671)],
    ["the worker to Service Bus, privately", WORKER, PRIVATE_ENDPOINT, tcp(5671)],
    ["the server to Redis", SERVER, PRIVATE_ENDPOINT, tcp(10_000)],
    ["the worker to Redis", WORKER, INTERNET, tcp(10_000)],
    ["the proxies to a challenge's solver", PROXY, SOLVER, tcp(8089)],
  ])("passes: %s", (_case, from, to, port) => {
    expect(network.mayTalk(from, to, port)).toBe(true);
  });
});

describe("traffic that nobody needs", () => {
  it.each<[string, Place, Place, Port]>([
    ["the proxies to metrics", PROXY, SERVER, tcp(9090)],
    ["the proxies to the worker", PROXY, WORKER, tcp(8080)],
    ["another Gateway's proxies to the server", OTHER_PROXY, SERVER, tcp(8080)],
    ["a proxy's labels in another namespace to the server", IMPOSTOR, SERVER, tcp(8080)],
    ["Prometheus to the endpoint", PROMETHEUS, SERVER, tcp(8080)],
    ["Grafana to metrics", GRAFANA, SERVER, tcp(9090)],
    ["a neighbour to the server", STRANGER, SERVER, tcp(8080)],
    ["the worker to the server", WORKER, SERVER, tcp(8080)],
    ["the internet to the server, past the proxies", INTERNET, SERVER, tcp(8080)],
    ["the server to the node's tokens", SERVER, METADATA_SERVICE, tcp(80)],
    ["the server to the node's tokens, on an open port", SERVER, METADATA_SERVICE, tcp(443)],
    ["the worker to the node's tokens", WORKER, METADATA_SERVICE, tcp(80)],
    ["the server to plain HTTP", SERVER, INTERNET, tcp(80)],
    ["the server to SSH", SERVER, INTERNET, tcp(22)],
    ["the server to a pod on an open port", SERVER, pod("default", {}), tcp(443)],
    ["the server to Prometheus", SERVER, PROMETHEUS, tcp(9090)],
    ["the server to the kubelet", SERVER, "own node", tcp(10_250)],
    ["the server to a resolver elsewhere", SERVER, INTERNET, udp(53)],
    ["a neighbour to the internet", STRANGER, INTERNET, tcp(443)],
    ["anyone else to a challenge's solver", IMPOSTOR, SOLVER, tcp(8089)],
    ["a challenge's solver to the internet", SOLVER, INTERNET, tcp(443)],
  ])("does not: %s", (_case, from, to, port) => {
    expect(network.mayTalk(from, to, port)).toBe(false);
  });
});
