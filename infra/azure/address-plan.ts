/**
 * Every address range of a stack. The network is peered with a runner's in private stacks, and peered networks must not
 * overlap: hence no range that portals and templates hand out by default (10.0.0.0/16, 10.1.0.0/16, 10.224.0.0/12).
 */
export const ADDRESS_PLAN = {
  network: "10.83.0.0/16",
  /** 4,091 addresses: nodes alone, for pods live in an overlay. Holds two pools of 100 nodes and their surge. */
  nodes: "10.83.0.0/20",
  /** AKS asks for at least a /28 of its own (AKS: "API Server VNet Integration"). */
  apiServer: "10.83.16.0/28",
  privateEndpoints: "10.83.17.0/24",
  /** Overlay: seen in the cluster only. A node takes a /24 of it, so 256 nodes fit. */
  pods: "172.28.0.0/16",
  services: "172.29.0.0/16",
  /** Any address of `services` but its first, which the API server takes. */
  dns: "172.29.0.10",
} as const;
