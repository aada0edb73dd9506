import { createHash } from "node:crypto";
import type { AgentPoolArgs } from "@pulumi/azure-native/containerservice/index.js";
import type { Input } from "@pulumi/pulumi";
import type { NodePool } from "../settings.ts";
import { someZones } from "./network.ts";

export interface NodePoolShape {
  readonly pool: NodePool;
  readonly mode: "System" | "User";
  readonly zones: readonly string[];
  readonly kubernetesVersion: string;
  readonly subnetId: Input<string>;
  /** Keeps everything off but what AKS itself runs. */
  readonly dedicated: boolean;
  readonly tags: Readonly<Record<string, string>>;
}

/** AKS's own name for "only what tolerates it"; its add-ons do, and nothing else should. */
const DEDICATED_TAINT = "CriticalAddonsOnly=true:NoSchedule";

/** Overlay pods cost no address of the network; this is as many as Kubernetes is tested with on a node. */
const MAX_PODS = 110;

/** Nodes as both the cluster's own pool and a pool resource take them. */
export function nodePool(shape: NodePoolShape) {
  const { pool, mode, zones, kubernetesVersion, subnetId, dedicated, tags } = shape;
  const autoscaled = pool.max > pool.min;
  return {
    mode,
    type: "VirtualMachineScaleSets",
    vmSize: pool.vmSize,
    count: pool.min,
    enableAutoScaling: autoscaled,
    minCount: autoscaled ? pool.min : undefined,
    maxCount: autoscaled ? pool.max : undefined,
    availabilityZones: someZones(zones),
    orchestratorVersion: kubernetesVersion,
    vnetSubnetID: subnetId,
    nodeTaints: dedicated ? [DEDICATED_TAINT] : [],
    osType: "Linux",
    // Microsoft's own distribution for nodes: a fraction of the packages, patched by them.
    osSKU: "AzureLinux",
    ...osDisk(pool.vmSize),
    maxPods: MAX_PODS,
    // Nodes are reached through the load balancer only.
    enableNodePublicIP: false,
    // Would be wanted, but fails unless the subscription has registered Microsoft.Compute/EncryptionAtHost. With an
    // ephemeral OS disk a node keeps nothing but caches; data disks are encrypted by the platform.
    enableEncryptionAtHost: false,
    // FIPS images exist for whoever must have them and cost every pod start time.
    enableFIPS: false,
    securityProfile: {
      // Nobody logs in to nodes; `kubectl debug node` is the way, and leaves an audit record.
      sshAccess: "Disabled",
      // Trusted launch is refused by sizes of the first generation, and a pool cannot change it later.
      enableSecureBoot: false,
      enableVTPM: false,
    },
    upgradeSettings: {
      // Rounds up: one node more while upgrading, which the quota must allow (first-deployment failure 12).
      maxSurge: "10%",
      drainTimeoutInMinutes: 30,
    },
    tags,
  } satisfies Partial<AgentPoolArgs>;
}

/** Properties that Azure does not change on existing pools, or, the size, only by replacing them. */
export const FIXED_AT_CREATION = [
  "vmSize",
  "osDiskType",
  "osDiskSizeGB",
  "maxPods",
  "availabilityZones",
  "vnetSubnetID",
];

/**
 * A pool's name, from everything that cannot change on an existing pool: other nodes are a pool of another name, which
 * can come up before the old one goes. Linux pools: 1 to 12 lower-case letters and digits, a letter first.
 */
export function poolName(prefix: string, { pool, zones }: Pick<NodePoolShape, "pool" | "zones">): string {
  const { osDiskType } = osDisk(pool.vmSize);
  const digest = createHash("sha256")
    .update([pool.vmSize, osDiskType, ...zones].join("|"))
    .digest();
  return `${prefix}${digest.readUIntBE(0, 4).toString(36).slice(0, 4).padStart(4, "0")}`;
}

/**
 * Ephemeral where the size has a local disk, which the letter "d" says (Azure: "VM sizes naming conventions"): faster,
 * free, and gone with the node. Sized to fit the local disk of the smallest such size: 75 GiB with 2 vCPUs, 150 with 4.
 */
export function osDisk(vmSize: string): { osDiskType: "Ephemeral" | "Managed"; osDiskSizeGB: number } {
  const [, vcpus = "0", features = ""] = /^Standard_[A-Z]+(\d+)(?:-\d+)?([a-z]*)(?:_|$)/.exec(vmSize) ?? [];
  if (!features.includes("d")) return { osDiskType: "Managed", osDiskSizeGB: 128 };
  return { osDiskType: "Ephemeral", osDiskSizeGB: Number(vcpus) >= 4 ? 128 : 64 };
}
