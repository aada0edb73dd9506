import {
  NetworkSecurityGroup,
  PublicIPAddress,
  Subnet,
  type SubnetArgs,
  VirtualNetwork,
  VirtualNetworkPeering,
} from "@pulumi/azure-native/network/index.js";
import { Provider } from "@pulumi/azure-native/provider.js";
import { ResourceGroup } from "@pulumi/azure-native/resources/index.js";
import type { input } from "@pulumi/azure-native/types/index.js";
import { ComponentResource, type ComponentResourceOptions, type Output, output, RunError } from "@pulumi/pulumi";
import { defaultDnsLabel, localName } from "../naming.ts";
import type { Settings } from "../settings.ts";
import { ADDRESS_PLAN } from "./address-plan.ts";
import type { PrivateLink } from "./private-endpoint.ts";
import type { Site } from "./site.ts";

export interface NetworkArgs {
  readonly site: Site;
  readonly settings: Pick<Settings, "managementPlanes" | "privateEndpoints" | "dnsLabel" | "cluster">;
}

/** The address that the gateway's load balancer takes. */
export interface PublicIp {
  readonly id: Output<string>;
  readonly name: Output<string>;
  /** A group of its own, so that the cluster's right to use addresses reaches this one address. */
  readonly resourceGroupName: Output<string>;
  readonly address: Output<string>;
  /** `<label>.<region>.cloudapp.azure.com`, known while planning. */
  readonly fqdn: Output<string>;
}

/** Tags that the cluster's cloud controller puts on an address it uses (cloud-provider-azure, consts.go). */
const CONTROLLER_TAGS = ["k8s-azure-service", "k8s-azure-cluster-name", "k8s-azure-dns-label-service"];

type SecurityRule = input.network.SecurityRuleArgs;

/** Virtual network, subnets and the gateway's public address: about 4 USD a month for the address. */
export class Network extends ComponentResource {
  readonly id: Output<string>;
  readonly nodeSubnetId: Output<string>;
  /** Only with private management planes. */
  readonly apiServerSubnetId?: Output<string>;
  readonly publicIp: PublicIp;
  /** Only with private endpoints. */
  readonly privateLink?: PrivateLink;

  readonly #name: string;
  readonly #group: Output<string>;

  constructor(name: string, args: NetworkArgs, opts?: ComponentResourceOptions) {
    super("mcp:azure:Network", name, {}, opts);
    const { site, settings } = args;
    this.#name = name;
    this.#group = site.resourceGroupName;
    this.publicIp = this.#createPublicIp(args);
    const network = this.#createNetwork(site);

    // One after the other: Azure changes one subnet of a network at a time and refuses the rest (409 Conflict,
    // AnotherOperationInProgress).
    const nodes = this.#createNodeSubnet(args, network);
    const apiServer =
      settings.managementPlanes.access === "private" ? this.#createApiServerSubnet(site, network, nodes) : undefined;
    const endpoints = settings.privateEndpoints
      ? this.#createEndpointSubnet(site, network, apiServer ?? nodes)
      : undefined;
    if (settings.managementPlanes.access === "private") {
      this.#peerWithRunner(site, network, settings.managementPlanes.runnerNetworkId, endpoints ?? apiServer ?? nodes);
    }

    this.id = network.id;
    this.nodeSubnetId = nodes.id;
    this.apiServerSubnetId = apiServer?.id;
    this.privateLink = endpoints && {
      subnetId: endpoints.id,
      networks: [
        { name: "stack", id: network.id },
        ...(settings.managementPlanes.access === "private"
          ? [{ name: "runner", id: settings.managementPlanes.runnerNetworkId }]
          : []),
      ],
    };
    this.registerOutputs({ id: this.id, address: this.publicIp.address });
  }

  #createPublicIp({ site, settings }: NetworkArgs): PublicIp {
    // The load balancer's controller lists addresses of a whole resource group, so its right must cover the group
    // (first-deployment failure 4). In a group that holds nothing else, that is the right to one address.
    const group = new ResourceGroup(
      `${this.#name}-ip-group`,
      {
        resourceGroupName: `${localName("resourceGroup", site.parts)}-ip`,
        location: site.location,
        tags: site.tags,
      },
      { parent: this },
    );
    const label = settings.dnsLabel ?? defaultDnsLabel(site.parts, site.subscriptionId);
    const ip = new PublicIPAddress(
      `${this.#name}-ip`,
      {
        resourceGroupName: group.name,
        publicIpAddressName: localName("publicIp", site.parts),
        location: site.location,
        tags: site.tags,
        sku: { name: "Standard", tier: "Regional" },
        publicIPAllocationMethod: "Static",
        publicIPAddressVersion: "IPv4",
        zones: someZones(settings.cluster.zones),
        // No domainNameLabelScope: it would put a hash into the name, which could not be known while planning.
        dnsSettings: { domainNameLabel: label },
        // Basic protection, which every address has; a plan of one's own costs about 2,900 USD a month.
        ddosSettings: { protectionMode: "VirtualNetworkInherited" },
      },
      // First-deployment failure 5: the controller tags the address, which is no drift.
      { parent: this, ignoreChanges: CONTROLLER_TAGS.map((tag) => `tags["${tag}"]`) },
    );
    return {
      id: ip.id,
      name: ip.name,
      resourceGroupName: group.name,
      address: ip.ipAddress.apply((address) => address ?? ""),
      fqdn: output(`${label}.${site.location}.cloudapp.azure.com`),
    };
  }

  #createNetwork(site: Site): VirtualNetwork {
    return new VirtualNetwork(
      `${this.#name}-vnet`,
      {
        resourceGroupName: this.#group,
        virtualNetworkName: localName("virtualNetwork", site.parts),
        location: site.location,
        tags: site.tags,
        addressSpace: { addressPrefixes: [ADDRESS_PLAN.network] },
        // Subnets are resources of their own. Naming any here as well would delete the others at the next update.
        enableDdosProtection: false, // a plan costs about 2,900 USD a month
      },
      { parent: this },
    );
  }

  #createNodeSubnet({ site, settings }: NetworkArgs, network: VirtualNetwork): Subnet {
    // AKS guards its nodes' interfaces with a group of its own and opens the gateway's ports there. Both groups must
    // agree, or the endpoint is dead from the start (first-deployment failure 6).
    const group = this.#createSecurityGroup(site, "nodes", [
      {
        ...allow("Gateway", "80 redirects and answers ACME challenges, 443 serves"),
        sourceAddressPrefix: "Internet",
        // Any, for packets reach nodes under the load balancer's address (floating IP). Nodes have no public ones.
        destinationAddressPrefix: "*",
        destinationPortRanges: ["80", "443"],
      },
    ]);
    return this.#createSubnet("nodes", network, undefined, {
      addressPrefix: ADDRESS_PLAN.nodes,
      networkSecurityGroup: { id: group.id },
      // Routes to storage and vault that their firewalls know by this subnet, where no private endpoint leads there.
      // Without locations: Azure fills in the region and its pair, and anything said here would read as a change.
      serviceEndpoints: settings.privateEndpoints
        ? []
        : [{ service: "Microsoft.Storage" }, { service: "Microsoft.KeyVault" }],
      // The way out is the cluster's load balancer, not an address that Azure lends and may change.
      defaultOutboundAccess: false,
    });
  }

  /** First-deployment failure 7: delegated, at least a /28, exclusive. Its cluster can never leave it again. */
  #createApiServerSubnet(site: Site, network: VirtualNetwork, after: Subnet): Subnet {
    // The ports that AKS names for a network security group of one's own ("API Server VNet Integration").
    const group = this.#createSecurityGroup(site, "apiserver", [
      {
        ...allow("Nodes", "kubelets and konnectivity agents"),
        sourceAddressPrefix: ADDRESS_PLAN.nodes,
        destinationAddressPrefix: ADDRESS_PLAN.apiServer,
        destinationPortRanges: ["443", "4443"],
      },
      {
        ...allow("HealthProbe", "AKS puts the API server's replicas behind an internal load balancer"),
        sourceAddressPrefix: "AzureLoadBalancer",
        destinationAddressPrefix: ADDRESS_PLAN.apiServer,
        destinationPortRange: "9988",
      },
      {
        ...allow("Runner", "peered networks count as VirtualNetwork"),
        sourceAddressPrefix: "VirtualNetwork",
        destinationAddressPrefix: ADDRESS_PLAN.apiServer,
        destinationPortRange: "443",
      },
    ]);
    return this.#createSubnet("apiserver", network, after, {
      addressPrefix: ADDRESS_PLAN.apiServer,
      networkSecurityGroup: { id: group.id },
      delegations: [{ name: "aks", serviceName: "Microsoft.ContainerService/managedClusters" }],
      // defaultOutboundAccess stays unset: Azure does not take it on delegated subnets.
    });
  }

  #createEndpointSubnet(site: Site, network: VirtualNetwork, after: Subnet): Subnet {
    const group = this.#createSecurityGroup(site, "endpoints", [
      {
        ...allow("Https", "registry, vault, tables, Service Bus management; nodes and runner"),
        sourceAddressPrefix: "VirtualNetwork",
        destinationAddressPrefix: ADDRESS_PLAN.privateEndpoints,
        destinationPortRange: "443",
      },
      {
        ...allow("Workloads", "NFS, AMQP over TLS, Redis over TLS; nodes alone"),
        sourceAddressPrefix: ADDRESS_PLAN.nodes,
        destinationAddressPrefix: ADDRESS_PLAN.privateEndpoints,
        destinationPortRanges: ["2049", "5671", "10000"],
      },
      {
        name: "DenyTheRest",
        description: "The default rules would admit the whole network and its peers",
        priority: 4096,
        direction: "Inbound",
        access: "Deny",
        protocol: "*",
        sourceAddressPrefix: "*",
        sourcePortRange: "*",
        destinationAddressPrefix: "*",
        destinationPortRange: "*",
      },
    ]);
    return this.#createSubnet("endpoints", network, after, {
      addressPrefix: ADDRESS_PLAN.privateEndpoints,
      networkSecurityGroup: { id: group.id },
      // Without it the rules above do not bind private endpoints.
      privateEndpointNetworkPolicies: "NetworkSecurityGroupEnabled",
      defaultOutboundAccess: false,
    });
  }

  #createSubnet(
    purpose: string,
    network: VirtualNetwork,
    after: Subnet | undefined,
    args: Omit<SubnetArgs, "resourceGroupName" | "virtualNetworkName" | "subnetName">,
  ): Subnet {
    return new Subnet(
      `${this.#name}-${purpose}`,
      {
        resourceGroupName: this.#group,
        virtualNetworkName: network.name,
        subnetName: `snet-${purpose}`,
        ...args,
      },
      { parent: this, dependsOn: after },
    );
  }

  #createSecurityGroup(
    site: Site,
    purpose: string,
    rules: readonly (Omit<SecurityRule, "priority"> & { priority?: number })[],
  ): NetworkSecurityGroup {
    return new NetworkSecurityGroup(
      `${this.#name}-${purpose}-nsg`,
      {
        resourceGroupName: this.#group,
        networkSecurityGroupName: `${localName("networkSecurityGroup", site.parts)}-${purpose}`,
        location: site.location,
        tags: site.tags,
        securityRules: rules.map((rule, i) => ({ priority: 100 + 10 * i, ...rule })),
      },
      { parent: this },
    );
  }

  /** Both ways, for a peering carries traffic only when each side has one. */
  #peerWithRunner(site: Site, network: VirtualNetwork, runnerNetworkId: string, after: Subnet): void {
    const runner = parseNetworkId(runnerNetworkId);
    const peering = {
      allowVirtualNetworkAccess: true,
      // Traffic of the two networks alone; nothing passes through on its way elsewhere.
      allowForwardedTraffic: false,
      allowGatewayTransit: false,
      useRemoteGateways: false,
    };
    const outward = new VirtualNetworkPeering(
      `${this.#name}-to-runner`,
      {
        resourceGroupName: this.#group,
        virtualNetworkName: network.name,
        virtualNetworkPeeringName: "to-runner",
        remoteVirtualNetwork: { id: runnerNetworkId },
        ...peering,
      },
      // After the subnets: a peering changes the network too.
      { parent: this, dependsOn: after },
    );
    new VirtualNetworkPeering(
      `${this.#name}-from-runner`,
      {
        resourceGroupName: runner.resourceGroup,
        virtualNetworkName: runner.name,
        virtualNetworkPeeringName: `to-${site.parts.name}-${site.parts.stack}`,
        remoteVirtualNetwork: { id: network.id },
        ...peering,
      },
      { parent: this, dependsOn: outward, provider: this.#providerFor(runner.subscription, site) },
    );
  }

  /** A provider works in one subscription; the runner's network may be in another. */
  #providerFor(subscription: string, site: Site): Provider | undefined {
    if (subscription.toLowerCase() === site.subscriptionId.toLowerCase()) return undefined;
    return new Provider(`${this.#name}-runner-subscription`, { subscriptionId: subscription }, { parent: this });
  }
}

function allow(source: string, description: string) {
  return {
    name: `AllowInbound${source}`,
    description,
    direction: "Inbound",
    access: "Allow",
    protocol: "Tcp",
    sourcePortRange: "*",
  };
}

/** Azure takes zones or nothing; an empty list would be neither. */
export function someZones(zones: readonly string[]): string[] | undefined {
  return zones.length > 0 ? [...zones] : undefined;
}

export function parseNetworkId(id: string): { subscription: string; resourceGroup: string; name: string } {
  const match = /^\/subscriptions\/([^/]+)\/resourceGroups\/([^/]+)\/providers\/[^/]+\/virtualNetworks\/([^/]+)$/i.exec(
    id,
  );
  const [, subscription, resourceGroup, name] = match ?? [];
  if (subscription === undefined || resourceGroup === undefined || name === undefined) {
    throw new RunError(
      `mcp:runnerNetworkId: "${id}" is not the resource id of a virtual network; copy it from "az network vnet show --query id"`,
    );
  }
  return { subscription, resourceGroup, name };
}
