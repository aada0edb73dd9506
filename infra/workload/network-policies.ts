import type { ICiliumNetworkPolicy } from "@kubernetes-models/cilium/cilium.io/v2/CiliumNetworkPolicy";
import { NetworkPolicy } from "@pulumi/kubernetes/networking/v1/index.js";
import type { networking } from "@pulumi/kubernetes/types/input.js";
import { ComponentResource, type ComponentResourceOptions } from "@pulumi/pulumi";
import { customResource } from "../platform/custom-resource.ts";
import { ENVOY_PROXIES } from "../platform/gateway-names.ts";
import { PROMETHEUS_PODS } from "../platform/monitoring.ts";
import { type PodsElsewhere, peer } from "../platform/network-peer.ts";
import { PORTS } from "./container.ts";
import { SERVER_LABELS, WORKER_LABELS, type WorkloadNamespace } from "./namespace.ts";

const COMPONENT = "app.kubernetes.io/component";
const SERVER = SERVER_LABELS[COMPONENT];
const WORKER = WORKER_LABELS[COMPONENT];

const CLUSTER_DNS: PodsElsewhere = { namespace: "kube-system", labels: { "k8s-app": "kube-dns" } };

const DNS_PORT = 53;

/** Where the workloads' traffic goes: Entra, Key Vault, tables, blobs, telemetry (443), Service Bus (AMQP), Redis. */
const EGRESS_PORTS = { https: 443, amqps: 5671, redis: 10_000 } as const;

/** Azure's instance metadata service: whoever reaches it may ask for a token as the node's identity. */
const INSTANCE_METADATA = "169.254.169.254/32";

/** AKS, "LocalDNS": the addresses of the resolver on each node, where pools run one. */
const LOCAL_DNS = "169.254.10.0/24";

export interface NetworkPoliciesArgs {
  readonly namespace: WorkloadNamespace;
}

/** What may talk to the product, and what it may talk to. Nothing else does. */
export class NetworkPolicies extends ComponentResource {
  constructor(name: string, { namespace }: NetworkPoliciesArgs, options: ComponentResourceOptions) {
    super("mcp:workload:NetworkPolicies", name, {}, options);
    this.#denyEverything(namespace);
    this.#admitRequests(namespace);
    this.#admitScrapes(namespace);
    this.#allowDns(namespace);
    this.#allowNodeDns(namespace);
    this.#allowAzure(namespace);
    this.registerOutputs({});
  }

  #policy(name: string, namespace: WorkloadNamespace, spec: networking.v1.NetworkPolicySpec): void {
    new NetworkPolicy(`workload-${name}`, { metadata: { name, namespace: namespace.name }, spec }, { parent: this });
  }

  #denyEverything(namespace: WorkloadNamespace): void {
    this.#policy("default-deny", namespace, { podSelector: {}, policyTypes: ["Ingress", "Egress"] });
  }

  /** The Gateway's proxies and nobody else: the kubelet's probes come from the node, which no policy concerns. */
  #admitRequests(namespace: WorkloadNamespace): void {
    this.#policy("server-requests", namespace, {
      podSelector: { matchLabels: { [COMPONENT]: SERVER } },
      policyTypes: ["Ingress"],
      ingress: [{ from: [peer(ENVOY_PROXIES)], ports: [{ protocol: "TCP", port: PORTS.http }] }],
    });
  }

  #admitScrapes(namespace: WorkloadNamespace): void {
    this.#policy("metrics", namespace, {
      podSelector: selectComponents(SERVER, WORKER),
      policyTypes: ["Ingress"],
      ingress: [{ from: [peer(PROMETHEUS_PODS)], ports: [{ protocol: "TCP", port: PORTS.metrics }] }],
    });
  }

  #allowDns(namespace: WorkloadNamespace): void {
    this.#policy("dns", namespace, {
      podSelector: selectComponents(SERVER, WORKER),
      policyTypes: ["Egress"],
      egress: [
        {
          to: [peer(CLUSTER_DNS)],
          ports: [
            { protocol: "UDP", port: DNS_PORT },
            { protocol: "TCP", port: DNS_PORT },
          ],
        },
      ],
    });
  }

  /**
   * The resolver that AKS may run on the node itself. Under Cilium an `ipBlock` never matches a node's addresses, so
   * only Cilium's own kind of policy can name them.
   */
  #allowNodeDns(namespace: WorkloadNamespace): void {
    const toPorts = [
      {
        ports: [
          { port: String(DNS_PORT), protocol: "UDP" },
          { port: String(DNS_PORT), protocol: "TCP" },
        ],
      },
    ] satisfies NonNullable<NonNullable<ICiliumNetworkPolicy["spec"]>["egress"]>[number]["toPorts"];
    customResource<ICiliumNetworkPolicy>(
      "workload-node-dns",
      {
        apiVersion: "cilium.io/v2",
        kind: "CiliumNetworkPolicy",
        metadata: { name: "node-dns", namespace: namespace.name },
        spec: {
          endpointSelector: selectComponents(SERVER, WORKER),
          egress: [
            { toEntities: ["host"], toPorts },
            { toCIDR: [LOCAL_DNS], toPorts },
          ],
        },
      },
      { parent: this },
    );
  }

  /**
   * By port, not by name: names in policies are a paid feature of AKS. Private endpoints have addresses of the virtual
   * network, so private ranges stay open; pods and nodes are never matched by an `ipBlock`, whatever it spans.
   */
  #allowAzure(namespace: WorkloadNamespace): void {
    this.#policy("azure", namespace, {
      podSelector: selectComponents(SERVER, WORKER),
      policyTypes: ["Egress"],
      egress: [
        {
          to: [{ ipBlock: { cidr: "0.0.0.0/0", except: [INSTANCE_METADATA] } }],
          ports: Object.values(EGRESS_PORTS).map((port) => ({ protocol: "TCP", port })),
        },
      ],
    });
  }
}

function selectComponents(...values: string[]) {
  return { matchExpressions: [{ key: COMPONENT, operator: "In" as const, values }] };
}
