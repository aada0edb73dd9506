import { azureError } from "../cloud-error.ts";
import { at, guidOf, numberAt, objectAt, objectsAt, textAt } from "../values.ts";
import { armId, resourceGroupId } from "./arm-id.ts";
import { DEPLOYER } from "./deployer.ts";
import { parseRange } from "./ipv4.ts";
import { SUBNET } from "./network.ts";
import type { Azure, AzureRequest, AzureResource, AzureType } from "./resource-type.ts";

const VAULT = "Microsoft.KeyVault/vaults";
const NAMESPACE = "Microsoft.ServiceBus/namespaces";
const REDIS = "Microsoft.Cache/redisEnterprise";

/** Registry, vault, Service Bus and Redis. */
export const DATA_TYPES: Readonly<Record<string, AzureType>> = {
  "azure-native:containerregistry:Registry": {
    arm: "Microsoft.ContainerRegistry/registries",
    names: ["registryName"],
    unique: "world",
    takenCode: "AlreadyInUse",
    naming: {
      pattern: /^[a-zA-Z0-9]{5,50}$/,
      code: "InvalidParameter",
      sentence:
        "The registry name '{name}' is invalid: registry names may contain alpha numeric characters only and must be between 5 and 50 characters.",
    },
    required: ["sku.name"],
    check: checkRegistry,
    outputs: ({ name, inputs }) => ({
      loginServer: `${name.toLowerCase()}.azurecr.io`,
      creationDate: "2020-01-01T00:00:00Z",
      sku: { name: textAt(inputs, "sku.name"), tier: textAt(inputs, "sku.name") },
    }),
  },

  "azure-native:keyvault:Vault": {
    arm: VAULT,
    names: ["vaultName"],
    unique: "world",
    takenCode: "VaultAlreadyExists",
    naming: {
      pattern: /^(?=.{3,24}$)[a-zA-Z](-?[a-zA-Z0-9])*$/,
      code: "VaultNameNotValid",
      sentence:
        "The vault name '{name}' is invalid. A vault's name must be between 3-24 alphanumeric characters. The name must begin with a letter, end with a letter or digit, and not contain consecutive hyphens.",
    },
    required: ["properties.tenantId", "properties.sku.name", "properties.sku.family"],
    replacedBy: ["properties.tenantId"],
    check: checkVault,
    outputs: ({ name, inputs }) => ({
      properties: {
        ...objectAt(inputs, "properties"),
        vaultUri: `https://${name.toLowerCase()}.vault.azure.net/`,
        provisioningState: "Succeeded",
        enableSoftDelete: true,
        hsmPoolResourceId: "",
      },
    }),
  },

  "azure-native:keyvault:Secret": {
    arm: `${VAULT}/secrets`,
    names: ["vaultName", "secretName"],
    located: false,
    naming: {
      pattern: /^[a-zA-Z0-9-]{1,127}$/,
      code: "BadParameter",
      sentence:
        "The request URI contains an invalid name: {name}. A secret's name has 1 to 127 letters, digits and hyphens.",
    },
    check({ inputs, name }) {
      const value = textAt(inputs, "properties.value");
      if (value === undefined)
        throw azureError("BadParameter", `The parameter 'value' of secret '${name}' is missing.`);
      // Key Vault, "About secrets": 25 KB.
      if (Buffer.byteLength(value) > 25 * 1024)
        throw azureError("BadParameter", `The value of secret '${name}' exceeds 25 kilobytes.`);
    },
    outputs: ({ names, name, inputs, id }) => {
      const { value: _value, ...properties } = objectAt(inputs, "properties");
      const uri = `https://${names[0]?.toLowerCase()}.vault.azure.net/secrets/${name}`;
      // The value is written through Azure Resource Manager and never read back.
      return {
        properties: {
          ...properties,
          secretUri: uri,
          secretUriWithVersion: `${uri}/${guidOf("secret version", id).replaceAll("-", "")}`,
        },
      };
    },
  },

  "azure-native:servicebus:Namespace": {
    arm: NAMESPACE,
    names: ["namespaceName"],
    unique: "world",
    takenCode: "NamespaceUnavailable",
    naming: {
      pattern: /^(?=.{6,50}$)[a-zA-Z][a-zA-Z0-9-]*[a-zA-Z0-9]$(?<!-sb|-mgmt)/,
      sentence:
        "Namespace name '{name}' is invalid. The namespace name must be between 6 and 50 characters long, start with a letter, end with a letter or number, contain only letters, numbers and hyphens, and not end with '-sb' or '-mgmt'.",
    },
    replacedBy: ["sku.name"],
    check: checkNamespace,
    outputs: ({ name, id }) => ({
      serviceBusEndpoint: `https://${name}.servicebus.windows.net:443/`,
      metricId: `${guidOf("metrics", id)}:${name}`,
      status: "Active",
      createdAt: "2020-01-01T00:00:00Z",
    }),
  },

  "azure-native:servicebus:Queue": {
    arm: `${NAMESPACE}/queues`,
    names: ["namespaceName", "queueName"],
    located: false,
    naming: {
      pattern: /^[a-zA-Z0-9]([\w./-]{0,258}[a-zA-Z0-9])?$/,
      sentence:
        "The entity path '{name}' is invalid. A queue's name has 1 to 260 letters, numbers, periods, hyphens, underscores and slashes, and starts and ends with a letter or number.",
    },
    replacedBy: ["requiresDuplicateDetection", "requiresSession", "enablePartitioning"],
    check: checkQueue,
    outputs: () => ({ status: "Active", messageCount: 0, sizeInBytes: 0, createdAt: "2020-01-01T00:00:00Z" }),
  },

  "azure-native:redisenterprise:RedisEnterprise": {
    arm: REDIS,
    names: ["clusterName"],
    unique: "world",
    takenCode: "NameNotAvailable",
    naming: {
      pattern: /^(?=.{1,60}$)[A-Za-z0-9](-?[A-Za-z0-9])*$/,
      sentence:
        "The cluster name '{name}' is invalid. A name has 1 to 60 letters, digits and hyphens, none of them first, last or doubled.",
    },
    required: ["sku.name", "publicNetworkAccess"],
    check: checkRedis,
    outputs: ({ name, location }) => ({
      hostName: `${name.toLowerCase()}.${location}.redis.azure.net`,
      redisVersion: "7.4",
      resourceState: "Running",
    }),
  },

  "azure-native:redisenterprise:Database": {
    arm: `${REDIS}/databases`,
    names: ["clusterName", "databaseName"],
    located: false,
    naming: { pattern: /^default$/, sentence: "The database of a cluster must be named 'default', not '{name}'." },
    fixed: ["port", "modules"],
    check({ inputs }) {
      const port = numberAt(inputs, "port") ?? 10_000;
      if (port !== 10_000)
        throw azureError(
          "InvalidRequestBody",
          `The value '${port}' of 'port' is not valid: Azure Managed Redis listens on port 10000.`,
        );
      const policy = textAt(inputs, "clusteringPolicy") ?? "OSSCluster";
      if (!["EnterpriseCluster", "OSSCluster", "NoCluster"].includes(policy)) {
        throw azureError(
          "InvalidRequestBody",
          `The value '${policy}' of 'clusteringPolicy' is not one of EnterpriseCluster, OSSCluster, NoCluster.`,
        );
      }
    },
    outputs: ({ inputs }) => ({ port: inputs.port ?? 10_000, resourceState: "Running", redisVersion: "7.4" }),
  },

  "azure-native:redisenterprise:AccessPolicyAssignment": {
    arm: `${REDIS}/databases/accessPolicyAssignments`,
    names: ["clusterName", "databaseName", "accessPolicyAssignmentName"],
    located: false,
    naming: {
      pattern: /^[A-Za-z0-9]{1,60}$/,
      sentence: "The access policy assignment name '{name}' is invalid. A name has 1 to 60 letters and digits.",
    },
    // One write at a time on a cluster: others are answered with 409 Conflict.
    serialisedBelow: 0,
    required: ["accessPolicyName", "user.objectId"],
    check({ inputs, names, resourceGroup }, azure) {
      const objectId = textAt(inputs, "user.objectId") ?? "";
      if (azure.principalType(objectId) === undefined) {
        throw azureError(
          "PrincipalNotFound",
          `Principal ${objectId} does not exist in the directory ${DEPLOYER.tenantId}.`,
        );
      }
      if (inputs.accessPolicyName !== "default") {
        throw azureError(
          "InvalidRequestBody",
          `The access policy '${String(inputs.accessPolicyName)}' does not exist; the one there is is 'default'.`,
        );
      }
      const database = azure.find(
        armId(resourceGroupId(DEPLOYER.subscriptionId, resourceGroup), `${REDIS}/databases`, names.slice(0, 2)),
      );
      if (database && textAt(database.inputs, "clientProtocol") === "Plaintext") {
        throw azureError("InvalidRequestBody", "Access policy assignments need the client protocol 'Encrypted'.");
      }
    },
  },
};

function checkRegistry({ inputs, name }: AzureRequest): void {
  const sku = textAt(inputs, "sku.name") ?? "";
  if (!["Basic", "Standard", "Premium"].includes(sku)) {
    throw azureError("InvalidSku", `The SKU '${sku}' of registry ${name} is not one of Basic, Standard, Premium.`);
  }
  if (sku === "Premium") return;
  const premium = (feature: string) =>
    azureError(
      "FeatureNotSupported",
      `The registry SKU '${sku}' does not support ${feature}. Upgrade registry ${name} to the Premium SKU.`,
    );
  if (inputs.publicNetworkAccess === "Disabled") throw premium("disabling public network access");
  if (
    objectsAt(inputs, "networkRuleSet.ipRules").length > 0 ||
    textAt(inputs, "networkRuleSet.defaultAction") === "Deny"
  ) {
    throw premium("network rules");
  }
  if (textAt(inputs, "policies.retentionPolicy.status") === "enabled") throw premium("a retention policy");
  if (textAt(inputs, "policies.trustPolicy.status") === "enabled") throw premium("content trust");
  if (inputs.dataEndpointEnabled === true) throw premium("dedicated data endpoints");
  if (textAt(inputs, "encryption.status") === "enabled") throw premium("customer-managed keys");
  if (sku === "Basic" && inputs.anonymousPullEnabled === true) {
    throw azureError("FeatureNotSupported", `The registry SKU 'Basic' does not support anonymous pull.`);
  }
}

function checkVault({ inputs, name, updates }: AzureRequest, azure: Azure): void {
  const properties = objectAt(inputs, "properties");
  if (properties.enablePurgeProtection === false) {
    throw azureError(
      "BadRequest",
      'The property "enablePurgeProtection" cannot be set to false. Enabling the purge protection for a vault is an irreversible action.',
    );
  }
  if (properties.enableSoftDelete === false) {
    throw azureError(
      "BadRequest",
      "The property \"enableSoftDelete\" can be set to false only for creating new vault. Enabling the 'soft delete' functionality is an irreversible action.",
    );
  }
  const days = properties.softDeleteRetentionInDays;
  if (days !== undefined && !(typeof days === "number" && Number.isInteger(days) && days >= 7 && days <= 90)) {
    throw azureError(
      "BadRequest",
      `The property "softDeleteRetentionInDays" must be between 7 and 90 days, and is ${String(days)}.`,
    );
  }
  if (properties.tenantId !== DEPLOYER.tenantId) {
    throw azureError("InvalidTenantId", `The tenant ID in vault ${name} is invalid: ${String(properties.tenantId)}.`);
  }
  const sku = objectAt(properties, "sku");
  if (sku.family !== "A" || !["standard", "premium"].includes(String(sku.name).toLowerCase())) {
    throw azureError(
      "BadRequest",
      `The SKU ${String(sku.family)}/${String(sku.name)} is not valid; take family A and name standard or premium.`,
    );
  }
  checkNetworkRules(objectsAt(properties, "networkAcls.ipRules"), "value");
  for (const rule of objectsAt(properties, "networkAcls.virtualNetworkRules")) {
    needServiceEndpoint(azure.need(rule.id, "networkAcls.virtualNetworkRules.id", SUBNET), "Microsoft.KeyVault");
  }
  if (updates) return;
  const deleted = azure.vaultIsSoftDeleted(name);
  if (properties.createMode === "recover" && !deleted) {
    throw azureError(
      "VaultNotFound",
      `The vault '${name}' cannot be recovered, for none of that name was deleted.`,
      404,
    );
  }
  if (deleted && properties.createMode !== "recover") {
    throw azureError(
      "ConflictError",
      "A vault with the same name already exists in deleted state. You need to either recover or purge existing key vault. Follow this link https://go.microsoft.com/fwlink/?linkid=2149745 for more information on soft delete.",
      409,
    );
  }
}

/** Firewalls of registry, vault and storage take public IPv4 ranges alone. */
export function checkNetworkRules(rules: readonly Record<string, unknown>[], property: string): void {
  for (const rule of rules) {
    const text = String(rule[property]);
    if (!parseRange(text.includes("/") ? text : `${text}/32`)) {
      throw azureError("InvalidNetworkRule", `The IP rule '${text}' is not a valid IPv4 address or CIDR range.`);
    }
    if (/^(10\.|192\.168\.|172\.(1[6-9]|2\d|3[01])\.)/.test(text)) {
      throw azureError(
        "InvalidNetworkRule",
        `The IP rule '${text}' is in a private address range (RFC 1918); IP rules are for public addresses.`,
      );
    }
  }
}

/** A rule for a subnet means something only with the service's endpoint in it. */
export function needServiceEndpoint(subnet: AzureResource | undefined, service: string): void {
  if (!subnet) return;
  const has = objectsAt(subnet.inputs, "serviceEndpoints").some(
    (endpoint) =>
      endpoint.service === service ||
      (service === "Microsoft.Storage" && endpoint.service === "Microsoft.Storage.Global"),
  );
  if (!has) {
    throw azureError(
      "SubnetsHaveNoServiceEndpointsConfigured",
      `Subnets ${subnet.name} of virtual network ${subnet.id} do not have ServiceEndpoints for ${service} resources configured. Add ${service} to subnet's ServiceEndpoints collection before trying to ACL ${service} resources to these subnets.`,
    );
  }
}

function checkNamespace({ inputs, name }: AzureRequest): void {
  const sku = textAt(inputs, "sku.name") ?? "Standard";
  if (!["Basic", "Standard", "Premium"].includes(sku)) {
    throw azureError("BadRequest", `The SKU '${sku}' of namespace ${name} is not one of Basic, Standard, Premium.`);
  }
  const tier = textAt(inputs, "sku.tier");
  if (tier !== undefined && tier !== sku) {
    throw azureError("BadRequest", `SKU tier '${tier}' does not match SKU name '${sku}' of namespace ${name}.`);
  }
  if (sku === "Premium") {
    const units = numberAt(inputs, "sku.capacity");
    if (units !== undefined && ![1, 2, 4, 8, 16].includes(units)) {
      throw azureError("BadRequest", `Messaging units of namespace ${name} must be 1, 2, 4, 8 or 16, not ${units}.`);
    }
    if (![undefined, 1, 2, 4].includes(numberAt(inputs, "premiumMessagingPartitions"))) {
      throw azureError("BadRequest", `premiumMessagingPartitions of namespace ${name} must be 1, 2 or 4.`);
    }
    return;
  }
  if (inputs.premiumMessagingPartitions !== undefined && inputs.premiumMessagingPartitions !== 0) {
    throw azureError(
      "BadRequest",
      `PremiumMessagingPartitions is only supported for Premium SKU namespaces, and ${name} is ${sku}.`,
    );
  }
  if (inputs.publicNetworkAccess === "Disabled") {
    throw azureError(
      "BadRequest",
      `PublicNetworkAccess of namespace ${name} can only be disabled with the Premium SKU, and it is ${sku}.`,
    );
  }
  if (numberAt(inputs, "sku.capacity") !== undefined && sku !== "Premium") {
    throw azureError("BadRequest", `Capacity can only be set for Premium SKU namespaces, and ${name} is ${sku}.`);
  }
}

/** Seconds of an ISO 8601 duration of days, hours, minutes and seconds; undefined for other text. */
export function secondsOf(duration: string): number | undefined {
  const match = /^P(?!$)(?:(\d+)D)?(?:T(?=\d)(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?$/.exec(duration);
  if (!match) return undefined;
  const [, days = 0, hours = 0, minutes = 0, seconds = 0] = match.map((part) =>
    part === undefined ? undefined : Number(part),
  );
  return days * 86_400 + hours * 3600 + minutes * 60 + seconds;
}

const DURATIONS: readonly { property: string; min: number; max: number; bounds: string }[] = [
  { property: "lockDuration", min: 5, max: 300, bounds: "between 5 seconds and 5 minutes" },
  {
    property: "duplicateDetectionHistoryTimeWindow",
    min: 20,
    max: 7 * 86_400,
    bounds: "between 20 seconds and 7 days",
  },
  { property: "autoDeleteOnIdle", min: 300, max: Number.POSITIVE_INFINITY, bounds: "at least 5 minutes" },
  { property: "defaultMessageTimeToLive", min: 1, max: Number.POSITIVE_INFINITY, bounds: "at least 1 second" },
];

function checkQueue({ inputs, name, names, resourceGroup }: AzureRequest, azure: Azure): void {
  const namespace = azure.find(
    armId(resourceGroupId(DEPLOYER.subscriptionId, resourceGroup), NAMESPACE, names.slice(0, 1)),
  );
  const sku = textAt(namespace?.inputs, "sku.name") ?? "Standard";
  for (const { property, min, max, bounds } of DURATIONS) {
    const value = textAt(inputs, property);
    if (value === undefined) continue;
    const seconds = secondsOf(value);
    if (seconds === undefined || seconds < min || seconds > max) {
      throw azureError(
        "MessagingGatewayBadRequest",
        `The value '${value}' of ${property} of queue ${name} is invalid: give an ISO 8601 duration ${bounds}.`,
      );
    }
  }
  const deliveries = numberAt(inputs, "maxDeliveryCount");
  if (deliveries !== undefined && (deliveries < 1 || deliveries > 2000)) {
    throw azureError(
      "MessagingGatewayBadRequest",
      `The value '${deliveries}' of maxDeliveryCount of queue ${name} is invalid: give 1 to 2000.`,
    );
  }
  const size = numberAt(inputs, "maxSizeInMegabytes");
  if (
    size !== undefined &&
    ![1024, 2048, 3072, 4096, 5120].includes(size) &&
    !(sku === "Premium" && size % 1024 === 0 && size <= 81_920)
  ) {
    throw azureError(
      "MessagingGatewayBadRequest",
      `The specified value '${size}' of maxSizeInMegabytes of queue ${name} is invalid: give 1024, 2048, 3072, 4096 or 5120.`,
    );
  }
  if (inputs.maxMessageSizeInKilobytes !== undefined && sku !== "Premium") {
    throw azureError(
      "MessagingGatewayBadRequest",
      `MaxMessageSizeInKilobytes of queue ${name} can only be set for Premium namespaces, and this one is ${sku}.`,
    );
  }
  if (inputs.enablePartitioning === true && sku === "Premium") {
    throw azureError(
      "MessagingGatewayBadRequest",
      `Partitioning of queue ${name} is not available in a Premium namespace.`,
    );
  }
  const target = textAt(inputs, "forwardDeadLetteredMessagesTo");
  if (target !== undefined && namespace && !azure.find(`${namespace.id}/queues/${target}`)) {
    throw azureError(
      "MessagingGatewayBadRequest",
      `The forwarding destination '${target}' of queue ${name} does not exist.`,
    );
  }
}

function checkRedis({ inputs, name, location }: AzureRequest): void {
  const sku = textAt(inputs, "sku.name") ?? "";
  if (
    !/^(Balanced_B(0|1|3|5|10|20|50|100|150|250|350|500|700|1000)|MemoryOptimized_M(10|20|50|100|150|250|350|500|700|1000|1500|2000)|ComputeOptimized_X(3|5|10|20|50|100|150|250|350|500|700))$/.test(
      sku,
    )
  ) {
    throw azureError("InvalidRequestBody", `The value '${sku}' of 'sku.name' is not a SKU of Azure Managed Redis.`);
  }
  if (at(inputs, "sku.capacity") !== undefined) {
    throw azureError("InvalidRequestBody", `'sku.capacity' cannot be set for ${sku}: cluster ${name}.`);
  }
  if (inputs.zones !== undefined) {
    throw azureError(
      "InvalidRequestBody",
      `'zones' cannot be set for ${sku}: cluster ${name} in ${location} spreads over zones by itself.`,
    );
  }
}
