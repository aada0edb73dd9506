import { azureError } from "../cloud-error.ts";
import { guidOf, hexOf, isProperties, listAt, objectsAt, type Properties, textAt, textsAt } from "../values.ts";
import { armId, parseArmId, resourceGroupId, sameId } from "./arm-id.ts";
import { DEPLOYER } from "./deployer.ts";
import { checkZones } from "./foundation.ts";
import { contains, overlap, parseRange } from "./ipv4.ts";
import type { Azure, AzureRequest, AzureResource, AzureType, NameRule } from "./resource-type.ts";

export const VNET = "Microsoft.Network/virtualNetworks";
export const SUBNET = "Microsoft.Network/virtualNetworks/subnets";
export const PUBLIC_IP = "Microsoft.Network/publicIPAddresses";
const ENDPOINT = "Microsoft.Network/privateEndpoints";
const ZONE = "Microsoft.Network/privateDnsZones";

const naming = (min: number, max: number): NameRule => ({
  // Letters, digits, underscores, periods, hyphens; starts with letter or digit, ends with letter, digit or underscore.
  pattern: new RegExp(`^(?=.{${min},${max}}$)[a-zA-Z0-9]([-\\w.]*\\w)?$`),
  sentence: `Resource name {name} is invalid. The name can be up to ${max} characters long. It must begin with a word character, and it must end with a word character or with '_'. The name may contain word characters or '.', '-', '_'.`,
});

export const NETWORK_TYPES: Readonly<Record<string, AzureType>> = {
  "azure-native:network:VirtualNetwork": {
    arm: VNET,
    names: ["virtualNetworkName"],
    naming: naming(2, 64),
    required: ["addressSpace.addressPrefixes"],
    heldAs: "VirtualNetwork",
    check({ inputs, name }) {
      const ranges = ranged(textsAt(inputs, "addressSpace.addressPrefixes"), name);
      ranges.forEach((range, i) => {
        if (ranges.slice(i + 1).some((other) => overlap(range, other))) {
          throw azureError("NetcfgInvalidVirtualNetworkSite", `Address prefixes of virtual network '${name}' overlap.`);
        }
      });
    },
    created: createInlineSubnets,
    outputs: ({ inputs, id }) => ({
      resourceGuid: guidOf("vnet", id),
      subnets: objectsAt(inputs, "subnets").map((subnet) => ({
        ...subnet,
        id: `${id}/subnets/${String(subnet.name)}`,
        provisioningState: "Succeeded",
      })),
    }),
  },

  "azure-native:network:Subnet": {
    arm: SUBNET,
    names: ["virtualNetworkName", "subnetName"],
    located: false,
    naming: naming(1, 80),
    heldAs: "Subnet",
    // Two subnets at a time: AnotherOperationInProgress.
    serialisedBelow: 0,
    check: checkSubnet,
    outputs: () => ({ provisioningState: "Succeeded", purpose: "" }),
  },

  "azure-native:network:VirtualNetworkPeering": {
    arm: "Microsoft.Network/virtualNetworks/virtualNetworkPeerings",
    names: ["virtualNetworkName", "virtualNetworkPeeringName"],
    located: false,
    naming: naming(1, 80),
    required: ["remoteVirtualNetwork.id"],
    check({ inputs, resourceGroup, names }, azure) {
      const remote = azure.need(
        inputs.remoteVirtualNetwork && textAt(inputs, "remoteVirtualNetwork.id"),
        "remoteVirtualNetwork",
        VNET,
      );
      const local = azure.find(armId(resourceGroupId(DEPLOYER.subscriptionId, resourceGroup), VNET, names.slice(0, 1)));
      const spaces = [local, remote].map((network) =>
        textsAt(network?.inputs, "addressSpace.addressPrefixes").flatMap((prefix) => parseRange(prefix) ?? []),
      );
      if (spaces[0]?.some((here) => spaces[1]?.some((there) => overlap(here, there)))) {
        throw azureError(
          "VnetAddressSpacesOverlap",
          `Cannot create or update peering. Virtual networks ${names[0]} and ${remote?.name} cannot be peered because their address spaces overlap.`,
        );
      }
    },
    outputs: () => ({ peeringState: "Initiated", peeringSyncLevel: "FullyInSync", provisioningState: "Succeeded" }),
  },

  "azure-native:network:NetworkSecurityGroup": {
    arm: "Microsoft.Network/networkSecurityGroups",
    names: ["networkSecurityGroupName"],
    naming: naming(1, 80),
    heldAs: "NetworkSecurityGroup",
    check: checkSecurityRules,
    outputs: ({ id }) => ({ resourceGuid: guidOf("nsg", id) }),
  },

  "azure-native:network:PublicIPAddress": {
    arm: PUBLIC_IP,
    names: ["publicIpAddressName"],
    naming: naming(1, 80),
    heldAs: "PublicIPAddress",
    replacedBy: ["sku.name", "publicIPAllocationMethod"],
    check: checkPublicIp,
    outputs: ({ inputs, id, location }) => {
      const label = textAt(inputs, "dnsSettings.domainNameLabel");
      return {
        // RFC 5737: 198.51.100.0/24 belongs to nobody.
        ipAddress: `198.51.100.${1 + (Number.parseInt(hexOf(8, "ip", id), 16) % 254)}`,
        idleTimeoutInMinutes: inputs.idleTimeoutInMinutes ?? 4,
        publicIPAddressVersion: inputs.publicIPAddressVersion ?? "IPv4",
        resourceGuid: guidOf("ip", id),
        ...(label && {
          dnsSettings: {
            ...(isProperties(inputs.dnsSettings) ? inputs.dnsSettings : {}),
            domainNameLabel: label,
            fqdn: `${label}.${location}.cloudapp.azure.com`,
          },
        }),
      };
    },
  },

  "azure-native:network:PrivateEndpoint": {
    arm: ENDPOINT,
    names: ["privateEndpointName"],
    naming: naming(2, 64),
    required: ["subnet.id"],
    replacedBy: ["subnet.id"],
    check: checkPrivateEndpoint,
    outputs: ({ inputs, id, name }) => ({
      networkInterfaces: [
        {
          id: id.replace(
            /privateEndpoints\/[^/]+$/,
            `networkInterfaces/${inputs.customNetworkInterfaceName ?? `${name}.nic`}`,
          ),
        },
      ],
      customDnsConfigs: [],
    }),
  },

  "azure-native:network:PrivateDnsZoneGroup": {
    arm: "Microsoft.Network/privateEndpoints/privateDnsZoneGroups",
    names: ["privateEndpointName", "privateDnsZoneGroupName"],
    located: false,
    naming: naming(1, 80),
    check({ inputs }, azure) {
      const zones = objectsAt(inputs, "privateDnsZoneConfigs");
      if (zones.length === 0)
        throw azureError("InvalidParameter", "Required parameter privateDnsZoneConfigs is missing (null).");
      for (const zone of zones) azure.need(zone.privateDnsZoneId, "privateDnsZoneConfigs.privateDnsZoneId", ZONE);
    },
    outputs: () => ({ provisioningState: "Succeeded" }),
  },

  "azure-native:privatedns:PrivateZone": {
    arm: ZONE,
    names: ["privateZoneName"],
    naming: {
      pattern: /^(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z0-9-]{2,63}$/i,
      sentence: "The domain name '{name}' is invalid. The provided private zone name '{name}' is invalid.",
    },
    check: mustBeGlobal,
    outputs: () => ({ numberOfRecordSets: 1, numberOfVirtualNetworkLinks: 0, maxNumberOfRecordSets: 25_000 }),
  },

  "azure-native:privatedns:VirtualNetworkLink": {
    arm: "Microsoft.Network/privateDnsZones/virtualNetworkLinks",
    names: ["privateZoneName", "virtualNetworkLinkName"],
    naming: naming(1, 80),
    required: ["virtualNetwork.id"],
    replacedBy: ["virtualNetwork.id"],
    check(request, azure) {
      mustBeGlobal(request);
      const network = textAt(request.inputs, "virtualNetwork.id");
      azure.need(network, "virtualNetwork.id", VNET);
      // A network resolves a name through one zone: two links to zones of the same name conflict, even across groups.
      const zone = request.names[0];
      const taken = azure
        .all("Microsoft.Network/privateDnsZones/virtualNetworkLinks")
        .some(
          (link) =>
            link.id !== request.id &&
            parseArmId(link.id)?.names[0] === zone &&
            sameId(textAt(link.inputs, "virtualNetwork.id") ?? "", network ?? ""),
        );
      if (taken) {
        throw azureError(
          "BadRequest",
          `A virtual network cannot be linked to multiple zones with overlapping namespaces. You tried to link virtual network with '${zone}' and '${zone}' zones.`,
        );
      }
    },
    outputs: () => ({ virtualNetworkLinkState: "Completed" }),
  },
};

function ranged(prefixes: readonly string[], name: string) {
  if (prefixes.length === 0)
    throw azureError("InvalidParameter", "Required parameter addressSpace.addressPrefixes is missing (null).");
  return prefixes.map((prefix) => {
    const range = parseRange(prefix);
    if (!range) {
      throw azureError(
        "InvalidCIDRNotation",
        `The address prefix ${prefix} in resource ${name} has an invalid CIDR notation. For the given prefix length, the address prefix should be written without bits behind it.`,
      );
    }
    return range;
  });
}

/** Prefixes of a subnet, whichever way its inputs give them. */
export function prefixesOf(inputs: Properties): string[] {
  const one = textAt(inputs, "addressPrefix");
  return one === undefined ? textsAt(inputs, "addressPrefixes") : [one];
}

function checkSubnet({ inputs, name, names, resourceGroup, id }: AzureRequest, azure: Azure): void {
  const networkName = names[0] ?? "";
  const network = azure.find(armId(resourceGroupId(DEPLOYER.subscriptionId, resourceGroup), VNET, [networkName]));
  const prefixes = prefixesOf(inputs);
  if (prefixes.length === 0)
    throw azureError("InvalidParameter", "Required parameter addressPrefix is missing (null).");
  const ranges = ranged(prefixes, name);
  const space = textsAt(network?.inputs, "addressSpace.addressPrefixes").flatMap((prefix) => parseRange(prefix) ?? []);
  for (const range of ranges) {
    if (network && !space.some((outer) => contains(outer, range))) {
      throw azureError("NetcfgInvalidSubnet", `Subnet '${name}' is not valid in virtual network '${networkName}'.`);
    }
    // Azure keeps five addresses of each subnet for itself.
    if (range.bits > 29)
      throw azureError("NetcfgInvalidSubnet", `Subnet '${name}' is not valid in virtual network '${networkName}'.`);
    const siblings = network ? azure.children(network.id, SUBNET).filter((other) => other.id !== id) : [];
    const hit = siblings.some((other) =>
      prefixesOf(other.inputs).some((prefix) => {
        const taken = parseRange(prefix);
        return taken !== undefined && overlap(taken, range);
      }),
    );
    if (hit) {
      throw azureError(
        "NetcfgSubnetRangesOverlap",
        `Subnet '${name}' is not valid because its IP address range overlaps with that of an existing subnet in virtual network '${networkName}'.`,
      );
    }
  }
  const group = textAt(inputs, "networkSecurityGroup.id");
  if (group !== undefined) azure.need(group, "networkSecurityGroup.id", "Microsoft.Network/networkSecurityGroups");
  for (const endpoint of objectsAt(inputs, "serviceEndpoints")) {
    if (!/^Microsoft\.[A-Za-z]+(\.[A-Za-z]+)?$/.test(String(endpoint.service))) {
      throw azureError(
        "SubnetServiceEndpointInvalid",
        `Service endpoint '${String(endpoint.service)}' of subnet '${name}' is not valid.`,
      );
    }
  }
  for (const delegation of objectsAt(inputs, "delegations")) {
    if (!/^Microsoft\.[A-Za-z]+\/[A-Za-z]+$/.test(String(delegation.serviceName))) {
      throw azureError(
        "InvalidServiceNameOnDelegation",
        `Subnet ${name} has invalid service name ${String(delegation.serviceName)} on delegation.`,
      );
    }
  }
}

function createInlineSubnets({ inputs, id, location }: AzureRequest, azure: Azure): void {
  for (const subnet of objectsAt(inputs, "subnets")) {
    const name = String(subnet.name);
    azure.put({
      id: `${id}/subnets/${name}`,
      arm: SUBNET,
      name,
      location,
      inputs: subnet,
      outputs: { ...subnet, name },
    });
  }
}

function checkSecurityRules({ inputs, name }: AzureRequest): void {
  const seen = new Set<string>();
  for (const rule of objectsAt(inputs, "securityRules")) {
    const priority = Number(rule.priority);
    if (!(priority >= 100 && priority <= 4096)) {
      throw azureError(
        "SecurityRuleInvalidPriority",
        `Security rule ${String(rule.name)} has invalid priority. Priority must be between 100 and 4096 (inclusive).`,
      );
    }
    const key = `${String(rule.direction)} ${priority}`;
    if (seen.has(key)) {
      throw azureError(
        "SecurityRuleConflict",
        `Security rule ${String(rule.name)} conflicts with another rule of ${name}. Rules cannot have the same Priority and Direction.`,
      );
    }
    seen.add(key);
    for (const [one, many] of [
      ["sourceAddressPrefix", "sourceAddressPrefixes"],
      ["destinationAddressPrefix", "destinationAddressPrefixes"],
      ["sourcePortRange", "sourcePortRanges"],
      ["destinationPortRange", "destinationPortRanges"],
    ] as const) {
      const groups = /Address/.test(one) ? listAt(rule, one.replace("AddressPrefix", "ApplicationSecurityGroups")) : [];
      if (rule[one] === undefined && listAt(rule, many).length === 0 && groups.length === 0) {
        throw azureError(
          "SecurityRuleParameterRequired",
          `Security rule parameter ${one} or ${many} of rule ${String(rule.name)} must be specified.`,
        );
      }
    }
  }
}

function checkPublicIp({ inputs, location, name, id }: AzureRequest, azure: Azure): void {
  const standard = textAt(inputs, "sku.name") === "Standard";
  if (!standard) {
    throw azureError(
      "IPv4BasicSkuPublicIpCountLimitReached",
      "Cannot create more than 0 IPv4 Basic SKU public IP addresses for this subscription in this region.",
    );
  }
  if (inputs.publicIPAllocationMethod !== "Static") {
    throw azureError(
      "StandardSkuPublicIPAddressMustBeStatic",
      `Standard sku publicIp ${id} must have AllocationMethod set to Static.`,
    );
  }
  checkZones(location, listAt(inputs, "zones"), name);
  const label = textAt(inputs, "dnsSettings.domainNameLabel");
  if (label === undefined) return;
  if (!/^[a-z][a-z0-9-]{1,61}[a-z0-9]$/.test(label)) {
    throw azureError(
      "InvalidDomainNameLabel",
      `The domain name label for ${name} is invalid. It must conform to the following regular expression: ^[a-z][a-z0-9-]{1,61}[a-z0-9]$.`,
    );
  }
  const taken = azure
    .all(PUBLIC_IP)
    .some(
      (ip) => ip.id !== id && ip.location === location && textAt(ip.inputs, "dnsSettings.domainNameLabel") === label,
    );
  if (taken) {
    throw azureError(
      "DnsRecordInUse",
      `DNS record ${label}.${location}.cloudapp.azure.com is already used by another public IP.`,
      409,
    );
  }
}

/** Sub-resources that a service offers to private endpoints; source: Microsoft, "Private-link resource". */
const GROUP_IDS: Readonly<Record<string, readonly string[]>> = {
  "Microsoft.ContainerRegistry/registries": ["registry"],
  "Microsoft.KeyVault/vaults": ["vault"],
  "Microsoft.ServiceBus/namespaces": ["namespace"],
  "Microsoft.Storage/storageAccounts": ["table", "file", "blob", "queue", "dfs", "web"],
  "Microsoft.Cache/redisEnterprise": ["redisEnterprise"],
  "Microsoft.ContainerService/managedClusters": ["management"],
};

function checkPrivateEndpoint({ inputs, name, location }: AzureRequest, azure: Azure): void {
  const subnet = azure.need(textAt(inputs, "subnet.id"), "subnet.id", SUBNET);
  if (subnet && objectsAt(subnet.inputs, "delegations").length > 0) {
    throw azureError(
      "PrivateEndpointCannotBeCreatedInSubnetWithDelegation",
      `Private endpoint ${name} cannot be created in delegated subnet ${subnet.id}.`,
    );
  }
  const network = subnet && azure.find(subnet.id.slice(0, subnet.id.lastIndexOf("/subnets/")));
  if (network && network.location !== location) {
    throw azureError(
      "InvalidResourceReference",
      `Resource ${subnet.id} referenced by resource ${name} was not found. Please make sure that the referenced resource exists, and that both resources are in the same region.`,
    );
  }
  const connections = [
    ...objectsAt(inputs, "privateLinkServiceConnections"),
    ...objectsAt(inputs, "manualPrivateLinkServiceConnections"),
  ];
  if (connections.length === 0) {
    throw azureError("InvalidParameter", "Required parameter privateLinkServiceConnections is missing (null).");
  }
  for (const connection of connections) {
    const target = azure.need(connection.privateLinkServiceId, "privateLinkServiceConnections.privateLinkServiceId");
    if (!target) continue;
    refuseSku(target, name);
    const offered = GROUP_IDS[target.arm] ?? [];
    const groups = listAt(connection, "groupIds");
    if (groups.length !== 1 || !offered.includes(String(groups[0]))) {
      throw azureError(
        "InvalidPrivateLinkServiceGroupId",
        `Private endpoint ${name} asks for the group id '${groups.join(",")}', and ${target.arm} offers '${offered.join(",")}'.`,
      );
    }
  }
}

function refuseSku(target: AzureResource, endpoint: string): void {
  const sku = textAt(target.inputs, "sku.name");
  if (target.arm === "Microsoft.ContainerRegistry/registries" && sku !== "Premium") {
    throw azureError(
      "PrivateEndpointNotSupported",
      `Private endpoint ${endpoint} cannot be created for registry ${target.name}: private endpoint connections are not supported for the ${sku} SKU. Upgrade the registry to Premium.`,
    );
  }
  if (target.arm === "Microsoft.ServiceBus/namespaces" && sku !== "Premium") {
    throw azureError(
      "MessagingGatewayBadRequest",
      `Private endpoint ${endpoint} cannot be created for namespace ${target.name}: private endpoints are available to Premium namespaces only, and this one is ${sku}.`,
    );
  }
}

function mustBeGlobal({ inputs, name }: AzureRequest): void {
  if (String(inputs.location ?? "").toLowerCase() !== "global") {
    throw azureError(
      "LocationNotAvailableForResourceType",
      `The provided location '${String(inputs.location ?? "")}' is not available for resource '${name}'. List of available regions for the resource type is 'global'.`,
    );
  }
}
