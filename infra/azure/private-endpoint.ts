import { PrivateEndpoint as Endpoint, PrivateDnsZoneGroup } from "@pulumi/azure-native/network/index.js";
import { PrivateZone, VirtualNetworkLink } from "@pulumi/azure-native/privatedns/index.js";
import { all, ComponentResource, type ComponentResourceOptions, type Input, type Output } from "@pulumi/pulumi";
import { privateEndpointName } from "../naming.ts";
import type { Site } from "./site.ts";

/** What a private endpoint needs of the network. Present when the stack uses private endpoints. */
export interface PrivateLink {
  readonly subnetId: Input<string>;
  /** Networks that resolve the endpoints' names: the stack's own, and the runner's where there is one. */
  readonly networks: readonly { readonly name: string; readonly id: Input<string> }[];
}

/** Source: Microsoft, "Azure Private Endpoint private DNS zone values". */
const SERVICES = {
  registry: { groupId: "registry", zone: "privatelink.azurecr.io" },
  vault: { groupId: "vault", zone: "privatelink.vaultcore.azure.net" },
  "service-bus": { groupId: "namespace", zone: "privatelink.servicebus.windows.net" },
  table: { groupId: "table", zone: "privatelink.table.core.windows.net" },
  blob: { groupId: "blob", zone: "privatelink.blob.core.windows.net" },
  file: { groupId: "file", zone: "privatelink.file.core.windows.net" },
  redis: { groupId: "redisEnterprise", zone: "privatelink.redis.azure.net" },
} as const;

export interface PrivateEndpointArgs {
  readonly site: Site;
  readonly link: PrivateLink;
  readonly service: keyof typeof SERVICES;
  /** Resource id of what the endpoint leads to. */
  readonly targetId: Input<string>;
}

/** A service's address inside the network, and the DNS that leads there. About 7.50 USD a month, plus traffic. */
export class PrivateEndpoint extends ComponentResource {
  /** Known once names resolve to the endpoint from every linked network. */
  readonly ready: Output<unknown>;

  constructor(name: string, args: PrivateEndpointArgs, opts?: ComponentResourceOptions) {
    super("mcp:azure:PrivateEndpoint", name, {}, opts);
    const zone = this.#createZone(name, args);
    const links = args.link.networks.map((network) => this.#linkZone(name, args.site, zone, network));
    const endpoint = this.#createEndpoint(name, args);
    const records = this.#registerInZone(name, args, endpoint, zone);
    this.ready = all([records.id, ...links.map((link) => link.id)]);
    this.registerOutputs({});
  }

  #createZone(name: string, { site, service }: PrivateEndpointArgs): PrivateZone {
    return new PrivateZone(
      `${name}-zone`,
      {
        resourceGroupName: site.resourceGroupName,
        privateZoneName: SERVICES[service].zone,
        location: "Global",
        tags: site.tags,
      },
      { parent: this },
    );
  }

  #linkZone(name: string, site: Site, zone: PrivateZone, network: PrivateLink["networks"][number]): VirtualNetworkLink {
    return new VirtualNetworkLink(
      `${name}-zone-${network.name}`,
      {
        resourceGroupName: site.resourceGroupName,
        privateZoneName: zone.name,
        // A network can be linked to one zone of a name only: a runner whose network already has such a zone, from
        // another private stack or a hub, cannot serve this stack as well.
        virtualNetworkLinkName: network.name,
        location: "Global",
        tags: site.tags,
        virtualNetwork: { id: network.id },
        // Machines of the network have no business in this zone.
        registrationEnabled: false,
      },
      { parent: this },
    );
  }

  #createEndpoint(name: string, { site, link, service, targetId }: PrivateEndpointArgs): Endpoint {
    const endpointName = privateEndpointName(service, site.parts);
    return new Endpoint(
      `${name}-endpoint`,
      {
        resourceGroupName: site.resourceGroupName,
        privateEndpointName: endpointName,
        location: site.location,
        tags: site.tags,
        subnet: { id: link.subnetId },
        privateLinkServiceConnections: [
          { name: endpointName, privateLinkServiceId: targetId, groupIds: [SERVICES[service].groupId] },
        ],
        customNetworkInterfaceName: `${endpointName}-nic`,
      },
      { parent: this },
    );
  }

  #registerInZone(
    name: string,
    { site, service }: PrivateEndpointArgs,
    endpoint: Endpoint,
    zone: PrivateZone,
  ): PrivateDnsZoneGroup {
    return new PrivateDnsZoneGroup(
      `${name}-records`,
      {
        resourceGroupName: site.resourceGroupName,
        privateEndpointName: endpoint.name,
        privateDnsZoneGroupName: "default",
        privateDnsZoneConfigs: [{ name: service, privateDnsZoneId: zone.id }],
      },
      { parent: this },
    );
  }
}

/**
 * A service's address, withheld until it leads there. Whoever is given the address thereby waits for the endpoint, and
 * nobody else does.
 */
export function onceReachable(address: Output<string>, endpoint: PrivateEndpoint | undefined): Output<string> {
  return endpoint === undefined ? address : all([address, endpoint.ready]).apply(([value]) => value);
}
