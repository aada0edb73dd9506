import { azureError } from "../cloud-error.ts";
import {
  at,
  guidOf,
  hexOf,
  listAt,
  numberAt,
  objectAt,
  objectsAt,
  type Properties,
  textAt,
  textsAt,
} from "../values.ts";
import { armId, resourceGroupId } from "./arm-id.ts";
import { DEPLOYER } from "./deployer.ts";
import { checkZones } from "./foundation.ts";
import { overlap, parseAddress, parseRange } from "./ipv4.ts";
import { prefixesOf, SUBNET } from "./network.ts";
import type { Azure, AzureRequest, AzureResource, AzureType } from "./resource-type.ts";
import { ROLE } from "./roles.ts";

export const CLUSTER = "Microsoft.ContainerService/managedClusters";
const POOL = "Microsoft.ContainerService/managedClusters/agentPools";
const IDENTITY = "Microsoft.ManagedIdentity/userAssignedIdentities";

/** Minor versions that AKS supports without its long-term plan, with their newest patches; November 2026. */
const VERSIONS: Readonly<Record<string, string>> = { "1.34": "1.34.7", "1.35": "1.35.4", "1.36": "1.36.2" };

const POOL_NAME = {
  pattern: /^[a-z][a-z0-9]{0,11}$/,
  code: "InvalidParameter",
  sentence:
    "The value of parameter agentPoolProfile.name is invalid. Error details: Agent pool name '{name}' is invalid: a Linux pool's name has 1 to 12 lower-case letters and digits and starts with a letter. Please see https://aka.ms/aks-naming-rules for more details.",
};

export const CONTAINER_TYPES: Readonly<Record<string, AzureType>> = {
  "azure-native:containerservice:ManagedCluster": {
    arm: CLUSTER,
    names: ["resourceName"],
    naming: {
      pattern: /^(?=.{1,63}$)[a-zA-Z0-9]([-_a-zA-Z0-9]*[a-zA-Z0-9])?$/,
      code: "InvalidParameter",
      sentence:
        "The value of parameter resourceName is invalid. Error details: '{name}' has 1 to 63 letters, digits, hyphens and underscores, and starts and ends with a letter or digit. Please see https://aka.ms/aks-naming-rules for more details.",
    },
    replacedBy: [
      "dnsPrefix",
      "nodeResourceGroup",
      "networkProfile.serviceCidr",
      "networkProfile.dnsServiceIP",
      "networkProfile.networkPlugin",
      "networkProfile.networkPluginMode",
      "networkProfile.networkDataplane",
      "networkProfile.networkPolicy",
      "networkProfile.podCidr",
      "networkProfile.outboundType",
    ],
    check: checkCluster,
    created: createNodeResourceGroup,
    outputs: clusterOutputs,
  },

  "azure-native:containerservice:AgentPool": {
    arm: POOL,
    names: ["resourceName", "agentPoolName"],
    located: false,
    naming: POOL_NAME,
    replacedBy: ["vmSize"],
    fixed: ["osDiskType", "maxPods", "vnetSubnetID", "availabilityZones"],
    check({ inputs, names, resourceGroup }, azure) {
      const id = armId(resourceGroupId(DEPLOYER.subscriptionId, resourceGroup), CLUSTER, names.slice(0, 1));
      const cluster = azure.find(id);
      if (!cluster) return;
      const inline = objectsAt(cluster.inputs, "agentPoolProfiles").find((pool) => pool.name === names[1]);
      if (inline) {
        throw invalid(
          "agentPoolProfile.name",
          `Agent pool '${names[1]}' already exists in the cluster's own profiles.`,
        );
      }
      checkPool({ ...inputs, name: names[1] }, cluster.location, azure);
      const first = textAt(objectsAt(cluster.inputs, "agentPoolProfiles")[0], "vnetSubnetID");
      sameNetwork(first, textAt(inputs, "vnetSubnetID"), names[1] ?? "");
    },
    outputs: ({ inputs }) => ({
      provisioningState: "Succeeded",
      currentOrchestratorVersion: patchOf(textAt(inputs, "orchestratorVersion") ?? "1.36"),
      nodeImageVersion: "AKSAzureLinux-V3gen2-202611.05.0",
    }),
  },

  "azure-native:containerservice:MaintenanceConfiguration": {
    arm: "Microsoft.ContainerService/managedClusters/maintenanceConfigurations",
    names: ["resourceName", "configName"],
    located: false,
    naming: {
      pattern: /^(default|aksManagedAutoUpgradeSchedule|aksManagedNodeOSUpgradeSchedule)$/,
      code: "InvalidParameter",
      sentence:
        "The value of parameter name is invalid. Error details: The maintenance configuration '{name}' is not one of default, aksManagedAutoUpgradeSchedule, aksManagedNodeOSUpgradeSchedule.",
    },
    check: checkMaintenance,
  },
};

function invalid(parameter: string, details: string): Error {
  return azureError("InvalidParameter", `The value of parameter ${parameter} is invalid. Error details: ${details}`);
}

function patchOf(version: string): string {
  return VERSIONS[version] ?? version;
}

function checkCluster(request: AzureRequest, azure: Azure): void {
  const { inputs, name, location } = request;
  if (inputs.dnsPrefix === undefined && inputs.fqdnSubdomain === undefined) {
    throw azureError("InvalidParameter", "Required parameter dnsPrefix is missing (null).");
  }
  const prefix = textAt(inputs, "dnsPrefix");
  if (prefix !== undefined && !/^(?=.{1,54}$)[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?$/.test(prefix)) {
    throw invalid(
      "dnsPrefix",
      `'${prefix}' has 1 to 54 letters, digits and hyphens, and starts and ends with a letter or digit.`,
    );
  }
  checkVersion(inputs, name, location);
  checkIdentity(request, azure);
  checkAccess(inputs, name);
  checkPools(inputs, location, azure);
  checkNetworkProfile(inputs, azure);
  checkApiServer(request, azure);
  const group = textAt(inputs, "nodeResourceGroup");
  if (group !== undefined) {
    if (!/^[-\w.()]{1,79}[-\w()]$/.test(group))
      throw invalid("nodeResourceGroup", `'${group}' is not a resource group name of up to 80 characters.`);
    const taken = azure.find(resourceGroupId(DEPLOYER.subscriptionId, group));
    if (taken && !request.updates) {
      throw azureError(
        "NodeResourceGroupAlreadyExists",
        `The node resource group ${group} already exists; AKS makes it and owns it.`,
        409,
      );
    }
  }
}

function checkVersion(inputs: Properties, name: string, location: string): void {
  const version = textAt(inputs, "kubernetesVersion");
  if (version === undefined) return;
  const minor = version.split(".").slice(0, 2).join(".");
  if (!VERSIONS[minor]) {
    throw azureError(
      "K8sVersionNotSupported",
      `Managed cluster ${name} is on version ${version}, which is not supported in this region. Please use [az aks get-versions -l ${location}] command to get the supported version list in this region. Supported are ${Object.values(VERSIONS).join(", ")}.`,
    );
  }
}

function checkIdentity({ inputs }: AzureRequest, azure: Azure): void {
  const type = textAt(inputs, "identity.type");
  if (type === undefined && inputs.servicePrincipalProfile === undefined) {
    throw azureError("InvalidParameter", "Required parameter servicePrincipalProfile is missing (null).");
  }
  const own = controlPlaneIdentity(inputs, azure);
  if (type === "UserAssigned" && !own) {
    throw azureError("InvalidParameter", "Required parameter identity.userAssignedIdentities is missing (null).");
  }
  const kubelet = objectAt(inputs, "identityProfile.kubeletidentity");
  if (kubelet.resourceId === undefined) return;
  if (type !== "UserAssigned") {
    throw azureError(
      "CustomKubeletIdentityOnlySupportedOnUserAssignedMSICluster",
      "Custom kubelet identity is only supported on user assigned MSI cluster.",
    );
  }
  const identity = azure.need(kubelet.resourceId, "identityProfile.kubeletidentity.resourceId", IDENTITY);
  if (
    identity &&
    (kubelet.clientId !== identity.outputs.clientId || kubelet.objectId !== identity.outputs.principalId)
  ) {
    throw invalid("identityProfile.kubeletidentity", `clientId and objectId are not those of ${identity.id}.`);
  }
  if (own && identity && !azure.hasRole(String(own.outputs.principalId), ROLE.managedIdentityOperator, identity.id)) {
    throw azureError(
      "CustomKubeletIdentityMissingPermissionError",
      `The cluster user assigned identity must be given permission to assign kubelet identity ${identity.id}. Check access result not allowed for action Microsoft.ManagedIdentity/userAssignedIdentities/assign/action.`,
    );
  }
}

function controlPlaneIdentity(inputs: Properties, azure: Azure): AzureResource | undefined {
  const given = at(inputs, "identity.userAssignedIdentities");
  const ids = Array.isArray(given) ? given : Object.keys(objectAt(inputs, "identity.userAssignedIdentities"));
  return ids.length === 0 ? undefined : azure.need(ids[0], "identity.userAssignedIdentities", IDENTITY);
}

function checkAccess(inputs: Properties, name: string): void {
  if (inputs.disableLocalAccounts === true && at(inputs, "aadProfile.managed") !== true) {
    throw azureError(
      "BadRequest",
      `Disabling local accounts is only allowed on Microsoft Entra ID enabled clusters, and ${name} has no managed aadProfile.`,
    );
  }
  if (at(inputs, "aadProfile.enableAzureRBAC") === true && inputs.enableRBAC === false) {
    throw azureError("BadRequest", "Azure RBAC for Kubernetes authorization needs Kubernetes RBAC (enableRBAC).");
  }
  if (
    at(inputs, "securityProfile.workloadIdentity.enabled") === true &&
    at(inputs, "oidcIssuerProfile.enabled") !== true
  ) {
    throw azureError(
      "BadRequest",
      "Workload identity requires OIDC issuer to be enabled: set oidcIssuerProfile.enabled.",
    );
  }
  const tier = textAt(inputs, "sku.tier");
  if (tier !== undefined && !["Free", "Standard", "Premium"].includes(tier)) {
    throw invalid("sku.tier", `'${tier}' is not one of Free, Standard, Premium.`);
  }
  const channel = textAt(inputs, "autoUpgradeProfile.upgradeChannel");
  if (channel !== undefined && !["rapid", "stable", "patch", "node-image", "none"].includes(channel)) {
    throw invalid(
      "autoUpgradeProfile.upgradeChannel",
      `'${channel}' is not one of rapid, stable, patch, node-image, none.`,
    );
  }
  const osChannel = textAt(inputs, "autoUpgradeProfile.nodeOSUpgradeChannel");
  if (osChannel !== undefined && !["NodeImage", "SecurityPatch", "Unmanaged", "None"].includes(osChannel)) {
    throw invalid(
      "autoUpgradeProfile.nodeOSUpgradeChannel",
      `'${osChannel}' is not one of NodeImage, SecurityPatch, Unmanaged, None.`,
    );
  }
  const hours = numberAt(inputs, "securityProfile.imageCleaner.intervalHours");
  if (hours !== undefined && (hours < 24 || hours > 2160)) {
    throw invalid("securityProfile.imageCleaner.intervalHours", `${hours} is not between 24 and 2160.`);
  }
}

function checkPools(inputs: Properties, location: string, azure: Azure): void {
  const pools = objectsAt(inputs, "agentPoolProfiles");
  if (!pools.some((pool) => pool.mode === "System")) {
    throw invalid("agentPoolProfiles", "Must define at least one system agent pool.");
  }
  for (const pool of pools) {
    if (!POOL_NAME.pattern.test(String(pool.name))) {
      throw azureError(POOL_NAME.code, POOL_NAME.sentence.replaceAll("{name}", String(pool.name)));
    }
    checkPool(pool, location, azure);
    sameNetwork(textAt(pools[0], "vnetSubnetID"), textAt(pool, "vnetSubnetID"), String(pool.name));
  }
}

/** vCPUs by the size's name: the number behind the family's letters. */
function vcpus(vmSize: string): number | undefined {
  const match = /^Standard_[A-Z]+(\d+)/.exec(vmSize);
  return match?.[1] === undefined ? undefined : Number(match[1]);
}

function checkPool(pool: Properties, location: string, azure: Azure): void {
  const name = String(pool.name);
  const vmSize = textAt(pool, "vmSize");
  if (vmSize === undefined)
    throw azureError("InvalidParameter", `Required parameter agentPoolProfile.vmSize is missing (null).`);
  const mode = textAt(pool, "mode") ?? "User";
  if (!["System", "User", "Gateway"].includes(mode))
    throw invalid("agentPoolProfile.mode", `'${mode}' of pool ${name} is not one of System, User, Gateway.`);
  const cores = vcpus(vmSize);
  if (cores === undefined || (mode === "System" && cores < 2)) {
    throw azureError(
      "InvalidSystemPoolVmSize",
      `The VM size ${vmSize} of pool ${name} cannot be used: a system pool needs at least 2 vCPUs and 4 GB of memory.`,
    );
  }
  const { count, minCount, maxCount } = pool;
  if (pool.enableAutoScaling === true) {
    if (typeof minCount !== "number" || typeof maxCount !== "number" || minCount > maxCount) {
      throw invalid(
        "agentPoolProfile.minCount",
        `Pool ${name} scales by itself and needs minCount <= maxCount, not ${String(minCount)} and ${String(maxCount)}.`,
      );
    }
    if (mode === "System" && minCount < 1)
      throw invalid("agentPoolProfile.minCount", `System pool ${name} cannot scale to zero.`);
    if (maxCount > 1000)
      throw invalid("agentPoolProfile.maxCount", `Pool ${name} has at most 1000 nodes, not ${maxCount}.`);
    if (typeof count === "number" && (count < minCount || count > maxCount)) {
      throw invalid(
        "agentPoolProfile.count",
        `Pool ${name} has count ${count}, which is not within ${minCount} and ${maxCount}.`,
      );
    }
  } else if (minCount !== undefined || maxCount !== undefined) {
    throw invalid("agentPoolProfile.minCount", `Pool ${name} gives minCount or maxCount without enableAutoScaling.`);
  } else if (typeof count !== "number" || (mode === "System" && count < 1)) {
    throw invalid("agentPoolProfile.count", `Pool ${name} needs a count of at least 1.`);
  }
  for (const taint of textsAt(pool, "nodeTaints")) {
    if (!/^[\w./-]+(=[\w.-]*)?:(NoSchedule|PreferNoSchedule|NoExecute)$/.test(taint)) {
      throw invalid(
        "agentPoolProfile.nodeTaints",
        `'${taint}' of pool ${name} is not a taint: write key=value:effect.`,
      );
    }
    if (mode === "System" && !taint.startsWith("CriticalAddonsOnly=true:") && !taint.endsWith(":PreferNoSchedule")) {
      throw invalid(
        "agentPoolProfile.nodeTaints",
        `System pool ${name} takes no hard taint but CriticalAddonsOnly=true:NoSchedule, and '${taint}' is one.`,
      );
    }
  }
  checkZones(location, listAt(pool, "availabilityZones"), name);
  const disk = textAt(pool, "osDiskType");
  if (disk === "Ephemeral" && !/^Standard_[A-Z]+\d+[a-z]*d[a-z]*(_v\d+)?$/.test(vmSize)) {
    throw invalid(
      "agentPoolProfile.osDiskType",
      `VM size ${vmSize} of pool ${name} has no local disk for an Ephemeral OS disk.`,
    );
  }
  const sku = textAt(pool, "osSKU");
  if (sku !== undefined && !["AzureLinux", "AzureLinux3", "Ubuntu", "Ubuntu2204", "Ubuntu2404"].includes(sku)) {
    throw invalid(
      "agentPoolProfile.osSKU",
      `'${sku}' of pool ${name} is not one of AzureLinux, AzureLinux3, Ubuntu, Ubuntu2204, Ubuntu2404.`,
    );
  }
  const subnet = textAt(pool, "vnetSubnetID");
  if (subnet !== undefined) {
    const found = azure.need(subnet, "agentPoolProfile.vnetSubnetID", SUBNET);
    if (found && objectsAt(found.inputs, "delegations").length > 0) {
      throw invalid(
        "agentPoolProfile.vnetSubnetID",
        `Subnet ${found.name} is delegated to another service and takes no nodes.`,
      );
    }
  }
}

function sameNetwork(first: string | undefined, other: string | undefined, pool: string): void {
  const network = (id: string | undefined) => id?.slice(0, id.lastIndexOf("/subnets/")).toLowerCase();
  if (network(first) !== network(other)) {
    throw invalid(
      "agentPoolProfile.vnetSubnetID",
      `All agent pools must be in the same virtual network, and ${pool} is in another.`,
    );
  }
}

// What AKS takes when the request is silent.
const DEFAULT_SERVICE_CIDR = "10.0.0.0/16";
const DEFAULT_DNS_IP = "10.0.0.10";
const DEFAULT_POD_CIDR = "10.244.0.0/16";

function checkNetworkProfile(inputs: Properties, azure: Azure): void {
  const profile = objectAt(inputs, "networkProfile");
  const overlay = profile.networkPluginMode === "overlay";
  if (overlay && profile.networkPlugin !== "azure") {
    throw invalid("networkProfile.networkPluginMode", "networkPluginMode 'overlay' requires networkPlugin 'azure'.");
  }
  if (
    profile.networkDataplane === "cilium" &&
    profile.networkPolicy !== undefined &&
    profile.networkPolicy !== "cilium"
  ) {
    throw invalid(
      "networkProfile.networkPolicy",
      `networkDataplane 'cilium' requires networkPolicy 'cilium', not '${String(profile.networkPolicy)}'.`,
    );
  }
  if (profile.networkPolicy === "cilium" && profile.networkDataplane !== "cilium") {
    throw invalid("networkProfile.networkPolicy", "networkPolicy 'cilium' requires networkDataplane 'cilium'.");
  }
  const services = textAt(profile, "serviceCidr") ?? textsAt(profile, "serviceCidrs")[0] ?? DEFAULT_SERVICE_CIDR;
  const serviceRange = parseRange(services);
  if (!serviceRange) throw invalid("networkProfile.serviceCidr", `'${services}' is not a CIDR range.`);
  const dns = parseAddress(textAt(profile, "dnsServiceIP") ?? DEFAULT_DNS_IP);
  if (dns === undefined || dns < serviceRange.first || dns > serviceRange.last) {
    throw invalid("networkProfile.dnsServiceIP", `The DNS service IP is not in the service CIDR ${services}.`);
  }
  if (dns === serviceRange.first || dns === serviceRange.first + 1) {
    throw invalid(
      "networkProfile.dnsServiceIP",
      `The first addresses of the service CIDR ${services} are the API server's.`,
    );
  }
  const pods = overlay ? parseRange(textAt(profile, "podCidr") ?? DEFAULT_POD_CIDR) : undefined;
  if (overlay && !pods) throw invalid("networkProfile.podCidr", `'${String(profile.podCidr)}' is not a CIDR range.`);
  if (pods && overlap(pods, serviceRange))
    throw invalid("networkProfile.podCidr", `The pod CIDR ${pods.text} overlaps with the service CIDR ${services}.`);
  for (const subnet of clusterSubnets(inputs, azure)) {
    for (const prefix of prefixesOf(subnet.inputs)) {
      const range = parseRange(prefix);
      if (!range) continue;
      if (overlap(range, serviceRange)) {
        throw azureError(
          "ServiceCidrOverlapExistingSubnetsCidr",
          `The specified service CIDR ${services} is conflicted with an existing subnet CIDR ${prefix}.`,
        );
      }
      if (pods && overlap(range, pods)) {
        throw azureError(
          "PodCidrOverlapExistingSubnetsCidr",
          `The specified pod CIDR ${pods.text} is conflicted with an existing subnet CIDR ${prefix}.`,
        );
      }
    }
  }
  // Every node of an overlay takes a /24 of the pods' range.
  const nodes = objectsAt(inputs, "agentPoolProfiles").reduce(
    (sum, pool) => sum + (numberAt(pool, "maxCount") ?? numberAt(pool, "count") ?? 0),
    0,
  );
  if (pods && 2 ** (24 - pods.bits) < nodes) {
    throw azureError(
      "InsufficientPodCidrSize",
      `The pod CIDR ${pods.text} is too small for ${nodes} nodes of a /24 each.`,
    );
  }
}

/** Every subnet of the network that the cluster's nodes are in. */
function clusterSubnets(inputs: Properties, azure: Azure): readonly AzureResource[] {
  const first = textAt(objectsAt(inputs, "agentPoolProfiles")[0], "vnetSubnetID");
  return first === undefined ? [] : azure.children(first.slice(0, first.lastIndexOf("/subnets/")), SUBNET);
}

function checkApiServer({ inputs, name, location }: AzureRequest, azure: Azure): void {
  const access = objectAt(inputs, "apiServerAccessProfile");
  const ranges = textsAt(access, "authorizedIPRanges");
  const isPrivate = access.enablePrivateCluster === true;
  if (isPrivate && ranges.length > 0) {
    throw azureError(
      "BadRequest",
      "API server authorized IP ranges are not supported for a private cluster: they bind the public endpoint only.",
    );
  }
  if (ranges.length > 200)
    throw invalid("apiServerAccessProfile.authorizedIPRanges", `At most 200 ranges, not ${ranges.length}.`);
  for (const range of ranges) {
    if (!parseRange(range.includes("/") ? range : `${range}/32`)) {
      throw invalid("apiServerAccessProfile.authorizedIPRanges", `'${range}' is not an IPv4 address or CIDR range.`);
    }
  }
  const own = controlPlaneIdentity(inputs, azure);
  const principal = own && String(own.outputs.principalId);
  const zone = textAt(access, "privateDNSZone");
  if (zone !== undefined && isPrivate) {
    if (zone === "none" && access.enablePrivateClusterPublicFQDN === false) {
      throw azureError(
        "BadRequest",
        "privateDNSZone 'none' with the public FQDN disabled leaves the API server without a name: this is not supported.",
      );
    }
    if (zone !== "none" && zone !== "system") {
      const found = azure.need(zone, "apiServerAccessProfile.privateDNSZone", "Microsoft.Network/privateDnsZones");
      if (found && !new RegExp(`(^|\\.)private(link)?\\.${location}\\.azmk8s\\.io$`).test(found.name)) {
        throw invalid(
          "apiServerAccessProfile.privateDNSZone",
          `The zone's name must be privatelink.${location}.azmk8s.io, not ${found.name}.`,
        );
      }
      if (found && principal && !azure.hasRole(principal, ROLE.privateDnsZoneContributor, found.id)) {
        throw azureError(
          "CustomPrivateDNSZoneMissingPermissionError",
          `The cluster user assigned identity must be given permission to read and write to custom private dns zone ${found.id}. Check access result not allowed for action Microsoft.Network/privateDnsZones/read.`,
        );
      }
    }
  }
  const subnetId = textAt(access, "subnetId");
  if (access.enableVnetIntegration === true && subnetId !== undefined) {
    checkApiServerSubnet(subnetId, name, inputs, principal, azure);
  }
  const nodes = textAt(objectsAt(inputs, "agentPoolProfiles")[0], "vnetSubnetID");
  if (access.enableVnetIntegration === true && subnetId === undefined && nodes !== undefined) {
    throw azureError(
      "InvalidParameter",
      "Required parameter apiServerAccessProfile.subnetId is missing (null): the cluster has a virtual network of its own.",
    );
  }
  if (principal !== undefined && nodes !== undefined && !azure.hasRole(principal, ROLE.networkContributor, nodes)) {
    throw azureError(
      "LinkedAuthorizationFailed",
      `The cluster user assigned identity '${principal}' does not have authorization to perform action 'Microsoft.Network/virtualNetworks/subnets/join/action' on the linked scope '${nodes}': its load balancers would never be made. Assign Network Contributor before the cluster.`,
      403,
    );
  }
}

function checkApiServerSubnet(
  id: string,
  cluster: string,
  inputs: Properties,
  principal: string | undefined,
  azure: Azure,
): void {
  const subnet = azure.need(id, "apiServerAccessProfile.subnetId", SUBNET);
  if (!subnet) return;
  const delegated = objectsAt(subnet.inputs, "delegations").some((delegation) => delegation.serviceName === CLUSTER);
  if (!delegated) {
    throw azureError(
      "BadRequest",
      `Subnet ${subnet.id} of API server VNet integration must be delegated to ${CLUSTER}.`,
    );
  }
  const bits = parseRange(prefixesOf(subnet.inputs)[0] ?? "")?.bits ?? 0;
  if (bits > 28)
    throw azureError(
      "BadRequest",
      `Subnet ${subnet.id} of API server VNet integration must be at least a /28, and is a /${bits}.`,
    );
  const shared = objectsAt(inputs, "agentPoolProfiles").some(
    (pool) => textAt(pool, "vnetSubnetID")?.toLowerCase() === id.toLowerCase(),
  );
  if (shared)
    throw azureError(
      "BadRequest",
      `Subnet ${subnet.id} of API server VNet integration is for cluster ${cluster}'s API server alone and takes no nodes.`,
    );
  if (principal !== undefined && !azure.hasRole(principal, ROLE.networkContributor, id)) {
    throw azureError(
      "ApiServerSubnetMissingPermissionError",
      `The cluster user assigned identity must be given permission to join the API server subnet ${subnet.id}. Check access result not allowed for action Microsoft.Network/virtualNetworks/subnets/join/action.`,
    );
  }
}

function createNodeResourceGroup(request: AzureRequest, azure: Azure): void {
  const name = nodeResourceGroup(request);
  azure.put({
    id: resourceGroupId(DEPLOYER.subscriptionId, name),
    arm: "Microsoft.Resources/resourceGroups",
    name,
    location: request.location,
    inputs: { managedBy: request.id },
    outputs: { name, location: request.location },
  });
}

function nodeResourceGroup({ inputs, resourceGroup, name, location }: AzureRequest): string {
  return textAt(inputs, "nodeResourceGroup") ?? `MC_${resourceGroup}_${name}_${location}`;
}

function clusterOutputs(request: AzureRequest): Properties {
  const { inputs, id, location } = request;
  const version = patchOf(textAt(inputs, "kubernetesVersion") ?? "1.35");
  const label = `${textAt(inputs, "dnsPrefix") ?? textAt(inputs, "fqdnSubdomain")}-${hexOf(8, "fqdn", id)}`;
  const isPrivate = at(inputs, "apiServerAccessProfile.enablePrivateCluster") === true;
  const issuer = at(inputs, "oidcIssuerProfile.enabled") === true;
  return {
    nodeResourceGroup: nodeResourceGroup(request),
    currentKubernetesVersion: version,
    resourceUID: hexOf(24, "uid", id),
    fqdn: `${label}.hcp.${location}.azmk8s.io`,
    azurePortalFQDN: `${label}.portal.hcp.${location}.azmk8s.io`,
    privateFQDN: isPrivate ? `${label}.${guidOf("private", id)}.privatelink.${location}.azmk8s.io` : "",
    powerState: { code: "Running" },
    maxAgentPools: 100,
    oidcIssuerProfile: {
      enabled: issuer,
      ...(issuer && {
        issuerURL: `https://${location}.oic.prod-aks.azure.com/${DEPLOYER.tenantId}/${guidOf("issuer", id)}/`,
      }),
    },
    identityProfile: {
      kubeletidentity: {
        resourceId: `${resourceGroupId(DEPLOYER.subscriptionId, nodeResourceGroup(request))}/providers/${IDENTITY}/${request.name}-agentpool`,
        clientId: guidOf("kubelet client", id),
        objectId: guidOf("kubelet principal", id),
        ...objectAt(inputs, "identityProfile.kubeletidentity"),
      },
    },
  };
}

const DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

function checkMaintenance({ inputs, name }: AzureRequest): void {
  const window = objectAt(inputs, "maintenanceWindow");
  if (name === "default") {
    if (objectsAt(inputs, "timeInWeek").length === 0 && inputs.maintenanceWindow === undefined) {
      throw azureError("InvalidParameter", "Required parameter timeInWeek is missing (null).");
    }
    if (inputs.maintenanceWindow === undefined) return;
  }
  if (inputs.timeInWeek !== undefined || inputs.maintenanceWindow === undefined) {
    throw invalid(
      "maintenanceWindow",
      `The maintenance configuration ${name} needs a maintenanceWindow and no timeInWeek.`,
    );
  }
  const hours = numberAt(window, "durationHours");
  if (hours === undefined || hours < 4 || hours > 24) {
    throw invalid("maintenanceWindow.durationHours", `${String(hours)} is not between 4 and 24.`);
  }
  if (!/^([01]\d|2[0-3]):[0-5]\d$/.test(textAt(window, "startTime") ?? "")) {
    throw invalid("maintenanceWindow.startTime", `'${String(window.startTime)}' is not a time in the form HH:mm.`);
  }
  const offset = textAt(window, "utcOffset");
  if (offset !== undefined && !/^[+-]\d{2}:\d{2}$/.test(offset)) {
    throw invalid("maintenanceWindow.utcOffset", `'${offset}' is not an offset in the form +/-HH:mm.`);
  }
  const day = textAt(window, "schedule.weekly.dayOfWeek");
  if (day !== undefined && !DAYS.includes(day))
    throw invalid("maintenanceWindow.schedule.weekly.dayOfWeek", `'${day}' is not a day of the week.`);
  const every = numberAt(window, "schedule.weekly.intervalWeeks");
  if (day !== undefined && (every === undefined || every < 1 || every > 4)) {
    throw invalid("maintenanceWindow.schedule.weekly.intervalWeeks", `${String(every)} is not between 1 and 4.`);
  }
}
