import type { RoleAssignment } from "@pulumi/azure-native/authorization/index.js";
import {
  AgentPool,
  listManagedClusterUserCredentialsOutput,
  MaintenanceConfiguration,
  ManagedCluster,
  type ManagedClusterArgs,
} from "@pulumi/azure-native/containerservice/index.js";
import { UserAssignedIdentity } from "@pulumi/azure-native/managedidentity/index.js";
import { Provider as KubernetesProvider } from "@pulumi/kubernetes/provider.js";
import { ComponentResource, type ComponentResourceOptions, type Input, type Output, type Unwrap } from "@pulumi/pulumi";
import { identityName, localName } from "../naming.ts";
import type { Settings } from "../settings.ts";
import { ADDRESS_PLAN } from "./address-plan.ts";
import { kubeloginKubeconfig } from "./kubeconfig.ts";
import type { Network } from "./network.ts";
import { FIXED_AT_CREATION, nodePool, poolName } from "./node-pool.ts";
import type { Principal } from "./principal.ts";
import type { Registry } from "./registry.ts";
import { assignRole, type RoleName, settled } from "./role-assignment.ts";
import type { Site } from "./site.ts";
import type { Telemetry } from "./telemetry.ts";

export interface ClusterArgs {
  readonly site: Site;
  readonly settings: Pick<Settings, "cluster" | "managementPlanes" | "maintenance">;
  readonly network: Network;
  readonly registry: Registry;
  readonly telemetry: Telemetry;
}

/**
 * First-deployment failure 3: until a role is honoured, AKS refuses the identity it is to run as, and its API server
 * refuses the deployer. AKS gives 60 minutes at worst for the first; an identity that never asked for a token before is
 * not in any cache, and two suffice as a rule. Azure RBAC in the cluster: up to five.
 */
const CLUSTER_IDENTITY_MINUTES = 2;
const CLUSTER_ADMIN_MINUTES = 5;

/** Source: AKS, "Monitoring data reference". kube-audit would add every read, at many times the volume. */
const LOG_CATEGORIES = [
  "kube-audit-admin",
  "guard",
  "kube-apiserver",
  "kube-controller-manager",
  "kube-scheduler",
  "cluster-autoscaler",
  "cloud-controller-manager",
];

/** What AKS upgrades by itself, each within its own window. */
const UPGRADES = { cluster: "aksManagedAutoUpgradeSchedule", "node-os": "aksManagedNodeOSUpgradeSchedule" } as const;

/**
 * The AKS cluster. A month: API server 0 USD (Free) or 73 (Standard), a Standard_D4ds_v5 node 165, the load balancer 18;
 * the log categories above a few USD.
 */
export class Cluster extends ComponentResource {
  readonly name: Output<string>;
  readonly id: Output<string>;
  readonly oidcIssuer: Output<string>;
  /**
   * Options of everything inside the cluster: a provider that logs in as whoever runs the program, usable once nodes are
   * there and the admins' roles are honoured; and no deletion one by one when the cluster itself goes, for finalizers
   * whose controller went first would hang `pulumi destroy`.
   */
  readonly inCluster: ComponentResourceOptions;

  readonly #name: string;
  readonly #args: ClusterArgs;

  constructor(name: string, args: ClusterArgs, opts?: ComponentResourceOptions) {
    super("mcp:azure:Cluster", name, {}, opts);
    this.#name = name;
    this.#args = args;
    const identity = this.#createIdentity("cluster");
    const kubelet = this.#createIdentity("kubelet");
    const roles = this.#grantIdentity(identity, kubelet);
    args.registry.grantPull(principal("kubelet", kubelet));

    const cluster = this.#createCluster(identity, kubelet, roles);
    const userPool = this.#createUserPool(cluster);
    this.#scheduleUpgrades(cluster);
    args.telemetry.collect(name, cluster.id, LOG_CATEGORIES);
    const adminRoles = this.#grantAdmins(cluster);

    this.name = cluster.name;
    this.id = cluster.id;
    this.oidcIssuer = cluster.oidcIssuerProfile.apply((profile) => profile?.issuerURL ?? "");
    this.inCluster = {
      provider: this.#connect(cluster, adminRoles, userPool),
      transformations: [({ props, opts }) => ({ props, opts: { ...opts, deletedWith: cluster } })],
    };
    this.registerOutputs({ name: this.name, oidcIssuer: this.oidcIssuer });
  }

  #createIdentity(purpose: "cluster" | "kubelet"): UserAssignedIdentity {
    const { site } = this.#args;
    return new UserAssignedIdentity(
      `${this.#name}-${purpose}-identity`,
      {
        resourceGroupName: site.resourceGroupName,
        resourceName: identityName(purpose, site.parts),
        location: site.location,
        tags: site.tags,
      },
      { parent: this },
    );
  }

  /** First-deployment failure 4: an identity of one's own, so that its rights exist before the cluster needs them. */
  #grantIdentity(identity: UserAssignedIdentity, kubelet: UserAssignedIdentity): RoleAssignment[] {
    const { site, network } = this.#args;
    const cluster = principal("cluster", identity);
    const grant = (role: RoleName, on: { name: string; id: Input<string> }) =>
      assignRole({ site, principal: cluster, role, on }, { parent: this });
    const ipGroup = network.publicIp.resourceGroupName.apply(
      (group) => `/subscriptions/${site.subscriptionId}/resourceGroups/${group}`,
    );
    return [
      grant("network-contributor", { name: "node-subnet", id: network.nodeSubnetId }),
      grant("network-contributor", { name: "ip-group", id: ipGroup }),
      ...(network.apiServerSubnetId === undefined
        ? []
        : [grant("network-contributor", { name: "api-server-subnet", id: network.apiServerSubnetId })]),
      grant("managed-identity-operator", { name: "kubelet-identity", id: kubelet.id }),
    ];
  }

  #createCluster(
    identity: UserAssignedIdentity,
    kubelet: UserAssignedIdentity,
    roles: readonly RoleAssignment[],
  ): ManagedCluster {
    const { site, settings, network } = this.#args;
    const { systemPool } = settings.cluster;
    return new ManagedCluster(
      this.#name,
      {
        resourceGroupName: site.resourceGroupName,
        resourceName: localName("cluster", site.parts),
        nodeResourceGroup: localName("nodeResourceGroup", site.parts),
        location: site.location,
        tags: site.tags,
        sku: { name: "Base", tier: settings.cluster.tier },
        supportPlan: "KubernetesOfficial",
        dnsPrefix: `${site.parts.name}-${site.parts.stack}`,
        // A minor version: AKS takes its newest patch, and the patch channel keeps it so.
        kubernetesVersion: settings.cluster.kubernetesVersion,

        identity: { type: "UserAssigned", userAssignedIdentities: [identity.id] },
        identityProfile: {
          kubeletidentity: { resourceId: kubelet.id, clientId: kubelet.clientId, objectId: kubelet.principalId },
        },
        // No static credential opens the cluster: Entra says who, Azure RBAC what.
        disableLocalAccounts: true,
        enableRBAC: true,
        aadProfile: { managed: true, enableAzureRBAC: true, tenantID: site.tenantId },
        oidcIssuerProfile: { enabled: true },
        securityProfile: {
          workloadIdentity: { enabled: true },
          // Unused images are attack surface and disk; weekly is AKS's own rhythm.
          imageCleaner: { enabled: true, intervalHours: 168 },
          // About 7 USD a vCPU and month; a decision for the whole subscription, made in Defender for Cloud.
          defender: { securityMonitoring: { enabled: false } },
          // etcd is encrypted by the platform; keys of one's own are another vault to operate. The cluster's Secrets
          // hold a hash of the API key, never the key.
          azureKeyVaultKms: { enabled: false },
        },
        apiServerAccessProfile: apiServerAccess(settings.managementPlanes, network.apiServerSubnetId),
        networkProfile: NETWORK_PROFILE,

        agentPoolProfiles: [
          {
            name: "system",
            ...nodePool({
              pool: systemPool,
              mode: "System",
              zones: settings.cluster.zones,
              kubernetesVersion: settings.cluster.kubernetesVersion,
              subnetId: network.nodeSubnetId,
              dedicated: settings.cluster.systemPoolDedicated,
              tags: site.tags,
            }),
          },
        ],
        autoScalerProfile: {
          balanceSimilarNodeGroups: "true",
          expander: "least-waste",
          // An emptyDir must not keep a node alive: every pod here may move.
          skipNodesWithLocalStorage: "false",
        },
        autoUpgradeProfile: { upgradeChannel: "patch", nodeOSUpgradeChannel: "NodeImage" },

        addonProfiles: {
          // Enforces policies that somebody assigns; this program assigns none (Pod Security "restricted" holds without
          // it). It fails on a subscription that has not registered Microsoft.PolicyInsights.
          azurepolicy: { enabled: false },
          // The server reads Key Vault itself, through workload identity, and sees rotations without a restart.
          azureKeyvaultSecretsProvider: { enabled: false },
          // Loki and Prometheus run in the cluster.
          omsagent: { enabled: false },
        },
        azureMonitorProfile: { metrics: { enabled: false } },
        ingressProfile: { webAppRouting: { enabled: false } }, // Envoy Gateway
        serviceMeshProfile: { mode: "Disabled" },
        // KEDA comes from its chart; a cluster has room for one.
        workloadAutoScalerProfile: { keda: { enabled: false }, verticalPodAutoscaler: { enabled: false } },
        storageProfile: {
          diskCSIDriver: { enabled: true },
          fileCSIDriver: { enabled: true },
          blobCSIDriver: { enabled: false },
          snapshotController: { enabled: false },
        },
      },
      {
        parent: this,
        // The network as a whole: going down, the cluster's load balancer must let go of the address before the address
        // can go, and the cluster must still hold its roles to take itself apart.
        dependsOn: [network, ...roles.map((role) => settled(role, CLUSTER_IDENTITY_MINUTES))],
        // The autoscaler's business. Without one the count is the setting's.
        ignoreChanges: systemPool.max > systemPool.min ? ["agentPoolProfiles[0].count"] : [],
        customTimeouts: { create: "45m", update: "90m", delete: "45m" },
      },
    );
  }

  /**
   * A resource of its own, for pools listed inside the cluster cannot be exchanged. With a dedicated system pool, AKS
   * runs nothing of ours before this one is up (first-deployment failure 12).
   */
  #createUserPool(cluster: ManagedCluster): AgentPool | undefined {
    const { site, settings, network } = this.#args;
    const { userPool: pool, zones, kubernetesVersion } = settings.cluster;
    if (pool === undefined) return undefined;
    return new AgentPool(
      `${this.#name}-user-pool`,
      {
        resourceGroupName: site.resourceGroupName,
        resourceName: cluster.name,
        agentPoolName: poolName("user", { pool, zones }),
        ...nodePool({
          pool,
          mode: "User",
          zones,
          kubernetesVersion,
          subnetId: network.nodeSubnetId,
          dedicated: false,
          tags: site.tags,
        }),
      },
      {
        parent: this,
        ignoreChanges: pool.max > pool.min ? ["count"] : [],
        // The name changes with them, so the new pool comes up before the old one is drained.
        replaceOnChanges: FIXED_AT_CREATION,
        // Not drained first when the whole cluster goes.
        deletedWith: cluster,
        customTimeouts: { create: "30m", update: "90m", delete: "30m" },
      },
    );
  }

  #scheduleUpgrades(cluster: ManagedCluster): void {
    const { site, settings } = this.#args;
    const { day, startTime } = settings.maintenance;
    for (const [purpose, configName] of Object.entries(UPGRADES)) {
      new MaintenanceConfiguration(
        `${this.#name}-${purpose}-upgrades`,
        {
          resourceGroupName: site.resourceGroupName,
          resourceName: cluster.name,
          configName,
          maintenanceWindow: {
            schedule: { weekly: { dayOfWeek: day, intervalWeeks: 1 } },
            durationHours: 4, // the least that AKS takes
            startTime,
            utcOffset: "+00:00",
          },
        },
        { parent: this, deletedWith: cluster },
      );
    }
  }

  /** @returns the roles with which the next steps of the same `up` work: whoever deploys is an admin. */
  #grantAdmins(cluster: ManagedCluster): { admin: RoleAssignment; user: RoleAssignment }[] {
    const { site } = this.#args;
    return site.admins.map((person) => {
      const grant = (role: RoleName) =>
        assignRole(
          { site, principal: person, role, on: { name: "cluster", id: cluster.id } },
          { parent: this, deletedWith: cluster },
        );
      return { admin: grant("aks-cluster-admin"), user: grant("aks-cluster-user") };
    });
  }

  #connect(
    cluster: ManagedCluster,
    roles: readonly { admin: RoleAssignment; user: RoleAssignment }[],
    userPool: AgentPool | undefined,
  ): KubernetesProvider {
    const { site, settings } = this.#args;
    const credentials = listManagedClusterUserCredentialsOutput(
      {
        resourceGroupName: site.resourceGroupName,
        resourceName: cluster.name,
        format: "exec",
        // The private name resolves in the cluster's network alone; the public one gives a peered runner the same
        // private address.
        serverFqdn: settings.managementPlanes.access === "private" ? "public" : undefined,
      },
      { parent: this, dependsOn: roles.map(({ user }) => user) },
    );
    return new KubernetesProvider(
      `${this.#name}-kubernetes`,
      {
        kubeconfig: credentials.kubeconfigs.apply(([first]) =>
          kubeloginKubeconfig(Buffer.from(first?.value ?? "", "base64").toString("utf8")),
        ),
        // Another cluster is another provider, and everything in it new; another certificate is not.
        clusterIdentifier: cluster.id,
        enableServerSideApply: true,
        // An `up` that was interrupted may have created what its state does not know; the next one takes it over.
        upsertExistingObjects: true,
      },
      {
        parent: this,
        dependsOn: [
          ...(userPool === undefined ? [] : [userPool]),
          ...roles.map(({ admin }) => settled(admin, CLUSTER_ADMIN_MINUTES)),
        ],
      },
    );
  }
}

const NETWORK_PROFILE = {
  networkPlugin: "azure",
  networkPluginMode: "overlay",
  networkDataplane: "cilium",
  networkPolicy: "cilium",
  podCidr: ADDRESS_PLAN.pods,
  serviceCidr: ADDRESS_PLAN.services,
  dnsServiceIP: ADDRESS_PLAN.dns,
  ipFamilies: ["IPv4"],
  loadBalancerSku: "standard",
  // The baseline routes through a firewall of the organisation's; here there is none to route through.
  outboundType: "loadBalancer",
  loadBalancerProfile: { managedOutboundIPs: { count: 1 } },
  // FQDN and L7 policies and flow logs: about 18 USD a node and month (first-deployment failure 13).
  advancedNetworking: { enabled: false },
} satisfies Unwrap<ManagedClusterArgs["networkProfile"]>;

/** Who reaches the API server. `az aks command invoke` stays off: it would let whoever may call Azure around all of it. */
function apiServerAccess(
  planes: Settings["managementPlanes"],
  subnetId: Output<string> | undefined,
): ManagedClusterArgs["apiServerAccessProfile"] {
  switch (planes.access) {
    case "public":
      return { disableRunCommand: true, enablePrivateCluster: false, authorizedIPRanges: [] };
    case "ranges":
      // AKS adds the cluster's own outgoing address by itself.
      return { disableRunCommand: true, enablePrivateCluster: false, authorizedIPRanges: [...planes.ranges] };
    case "private":
      return {
        disableRunCommand: true,
        enablePrivateCluster: true,
        enableVnetIntegration: true,
        subnetId,
        // First-deployment failure 8: this zone is linked to the cluster's network only, so the address gets a public
        // name as well, for the peered runner. Ranges would bind public addresses, of which there are none.
        privateDNSZone: "system",
        enablePrivateClusterPublicFQDN: true,
      };
  }
}

function principal(name: string, identity: UserAssignedIdentity): Principal {
  return { name, principalId: identity.principalId, principalType: "ServicePrincipal" };
}
