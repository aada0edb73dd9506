import { azureError } from "../cloud-error.ts";
import {
  at,
  guidOf,
  isProperties,
  listAt,
  numberAt,
  objectAt,
  objectsAt,
  type Properties,
  textAt,
  textsAt,
} from "../values.ts";
import { armId, resourceGroupId } from "./arm-id.ts";
import type { FakeAzure } from "./azure.ts";
import { DEPLOYER } from "./deployer.ts";
import { parseRange } from "./ipv4.ts";
import { SUBNET } from "./network.ts";
import type { AzureRequest, AzureResource, AzureType } from "./resource-type.ts";

const VAULT = "Microsoft.KeyVault/vaults";
const NAMESPACE = "Microsoft.ServiceBus/namespaces";
const ACCOUNT = "Microsoft.Storage/storageAccounts";
const CONTAINER = `${ACCOUNT}/blobServices/containers`;
const MANAGEMENT_POLICY = `${ACCOUNT}/managementPolicies`;
const REDIS = "Microsoft.Cache/redisEnterprise";

/** Registry, vault, Service Bus, storage and Redis. */
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

  "azure-native:storage:StorageAccount": {
    arm: ACCOUNT,
    names: ["accountName"],
    unique: "world",
    takenCode: "StorageAccountAlreadyTaken",
    naming: {
      pattern: /^[a-z0-9]{3,24}$/,
      code: "AccountNameInvalid",
      sentence:
        "{name} is not a valid storage account name. Storage account name must be between 3 and 24 characters in length and use numbers and lower-case letters only.",
    },
    required: ["kind", "sku.name"],
    replacedBy: ["kind"],
    check: checkAccount,
    outputs: ({ name, inputs, location }) => ({
      primaryEndpoints: endpoints(name, textAt(inputs, "kind") ?? ""),
      primaryLocation: location,
      statusOfPrimary: "available",
      creationTime: "2020-01-01T00:00:00Z",
    }),
  },

  "azure-native:storage:BlobServiceProperties": {
    arm: `${ACCOUNT}/blobServices`,
    names: ["accountName", "blobServicesName"],
    located: false,
    naming: {
      pattern: /^default$/,
      sentence: "The blob service of a storage account is named 'default', not '{name}'.",
    },
    check({ inputs, names, resourceGroup }, azure) {
      const account = accountOf(resourceGroup, names, azure);
      const immutable = account && at(account.inputs, "immutableStorageWithVersioning.enabled") === true;
      if (immutable && inputs.isVersioningEnabled !== true) {
        throw azureError(
          "Conflict",
          `Versioning cannot be disabled on account ${account.name}, which has version-level immutability.`,
          409,
        );
      }
    },
  },

  "azure-native:storage:BlobContainer": {
    arm: CONTAINER,
    names: ["accountName", "=default", "containerName"],
    located: false,
    naming: {
      pattern: /^(?=.{3,63}$)[a-z0-9](-?[a-z0-9])*$/,
      code: "InvalidResourceName",
      sentence:
        "The specified resource name contains invalid characters: {name}. A container's name has 3 to 63 lower-case letters, digits and single hyphens.",
    },
    check: checkContainer,
    outputs: ({ inputs }) => ({ publicAccess: textAt(inputs, "publicAccess") ?? "None", hasLegalHold: false }),
  },

  "azure-native:storage:ManagementPolicy": {
    arm: MANAGEMENT_POLICY,
    names: ["accountName", "managementPolicyName"],
    located: false,
    naming: {
      pattern: /^default$/,
      sentence: "The management policy of a storage account is named 'default', not '{name}'.",
    },
    required: ["policy.rules"],
    check: checkLifecycle,
  },

  "azure-native:storage:Table": {
    arm: `${ACCOUNT}/tableServices/tables`,
    names: ["accountName", "=default", "tableName"],
    located: false,
    naming: {
      pattern: /^[A-Za-z][A-Za-z0-9]{2,62}$/,
      code: "InvalidResourceName",
      sentence:
        "The specified resource name contains invalid characters: {name}. A table's name has 3 to 63 letters and digits and starts with a letter.",
    },
    check({ names, resourceGroup }, azure) {
      const account = accountOf(resourceGroup, names, azure);
      if (account && textAt(account.inputs, "kind") === "FileStorage") {
        throw azureError(
          "FeatureNotSupportedForAccount",
          `Table is not supported for the account. Account ${account.name} is of kind FileStorage.`,
          409,
        );
      }
    },
    outputs: ({ name }) => ({ tableName: name }),
  },

  "azure-native:storage:FileServiceProperties": {
    arm: `${ACCOUNT}/fileServices`,
    names: ["accountName", "fileServicesName"],
    located: false,
    naming: {
      pattern: /^default$/,
      sentence: "The file service of a storage account is named 'default', not '{name}'.",
    },
  },

  "azure-native:storage:FileShare": {
    arm: `${ACCOUNT}/fileServices/shares`,
    names: ["accountName", "=default", "shareName"],
    located: false,
    naming: {
      pattern: /^(?=.{3,63}$)[a-z0-9](-?[a-z0-9])*$/,
      code: "InvalidResourceName",
      sentence:
        "The specified resource name contains invalid characters: {name}. A share's name has 3 to 63 lower-case letters, digits and single hyphens.",
    },
    fixed: ["enabledProtocols"],
    check: checkShare,
    outputs: () => ({ leaseState: "available", shareUsageBytes: 0 }),
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

function checkVault({ inputs, name, updates }: AzureRequest, azure: FakeAzure): void {
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

function needServiceEndpoint(subnet: AzureResource | undefined, service: string): void {
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

function checkQueue({ inputs, name, names, resourceGroup }: AzureRequest, azure: FakeAzure): void {
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

/** Account kinds and the SKUs each takes; source: Microsoft, "Storage account overview". */
const ACCOUNT_SKUS: Readonly<Record<string, RegExp>> = {
  StorageV2: /^(Standard_(LRS|GRS|RAGRS|ZRS|GZRS|RAGZRS)|Premium_(LRS|ZRS))$/,
  FileStorage: /^(Premium_(LRS|ZRS)|PremiumV2_(LRS|ZRS)|StandardV2_(LRS|ZRS|GRS|GZRS))$/,
  BlockBlobStorage: /^Premium_(LRS|ZRS)$/,
};

function checkAccount({ inputs, name, updates }: AzureRequest, azure: FakeAzure): void {
  const kind = textAt(inputs, "kind") ?? "";
  const sku = textAt(inputs, "sku.name") ?? "";
  const skus = ACCOUNT_SKUS[kind];
  if (!skus)
    throw azureError(
      "InvalidRequestPropertyValue",
      `The value '${kind}' is not allowed for property kind. Allowed values: ${Object.keys(ACCOUNT_SKUS).join(", ")}.`,
    );
  if (!skus.test(sku)) {
    throw azureError(
      "InvalidRequestPropertyValue",
      `The SKU '${sku}' of storage account ${name} does not go with kind ${kind}.`,
    );
  }
  const tls = textAt(inputs, "minimumTlsVersion");
  if (tls !== undefined && !/^TLS1_[0-3]$/.test(tls)) {
    throw azureError(
      "InvalidRequestPropertyValue",
      `The value '${tls}' is not allowed for property minimumTlsVersion.`,
    );
  }
  checkImmutability(inputs, updates);
  checkNetworkRules(
    objectsAt(inputs, "networkRuleSet.ipRules").map((rule) => ({ value: rule.iPAddressOrRange })),
    "value",
  );
  for (const rule of objectsAt(inputs, "networkRuleSet.virtualNetworkRules")) {
    needServiceEndpoint(
      azure.need(rule.virtualNetworkResourceId, "networkRuleSet.virtualNetworkRules.id", SUBNET),
      "Microsoft.Storage",
    );
  }
}

/** Source: Microsoft, "Immutability policies at the blob version level". */
function checkImmutability(inputs: Properties, updates: boolean): void {
  const policy = objectAt(inputs, "immutableStorageWithVersioning.immutabilityPolicy");
  if (Object.keys(policy).length === 0) return;
  const fault = (message: string) => azureError("InvalidStorageAccountImmutabilityPolicy", message);
  if (at(inputs, "immutableStorageWithVersioning.enabled") !== true) {
    throw fault("Storage account level default immutability policy cannot be set as account level WORM is disabled.");
  }
  const days = numberAt(policy, "immutabilityPeriodSinceCreationInDays");
  if (days === undefined || days < 1 || days > 146_000) {
    throw fault(`The immutability period must be 1 to 146000 days, and is ${String(days)}.`);
  }
  if (policy.state === "Locked" && !updates) {
    throw fault("An immutability policy can only be created in state Disabled or Unlocked.");
  }
}

function endpoints(name: string, kind: string): Record<string, string> {
  const services =
    kind === "FileStorage"
      ? ["file"]
      : kind === "BlockBlobStorage"
        ? ["blob", "dfs", "web"]
        : ["blob", "dfs", "file", "queue", "table", "web"];
  return Object.fromEntries(
    services.map((service) => [
      service,
      `https://${name}.${service === "web" ? "z13.web" : service}.core.windows.net/`,
    ]),
  );
}

function accountOf(resourceGroup: string, names: readonly string[], azure: FakeAzure): AzureResource | undefined {
  return azure.find(armId(resourceGroupId(DEPLOYER.subscriptionId, resourceGroup), ACCOUNT, names.slice(0, 1)));
}

function checkContainer({ inputs, name, names, resourceGroup }: AzureRequest, azure: FakeAzure): void {
  const account = accountOf(resourceGroup, names, azure);
  if (!account) return;
  if (textAt(account.inputs, "kind") === "FileStorage") {
    throw azureError(
      "FeatureNotSupportedForAccount",
      `Blob is not supported for the account. Account ${account.name} is of kind FileStorage.`,
      409,
    );
  }
  const access = textAt(inputs, "publicAccess") ?? "None";
  if (!["None", "Blob", "Container"].includes(access)) {
    throw azureError("InvalidRequestPropertyValue", `The value '${access}' is not allowed for property publicAccess.`);
  }
  // Since API version 2021-04-01 an account that says nothing permits no public access either.
  if (access !== "None" && account.inputs.allowBlobPublicAccess !== true) {
    throw azureError(
      "PublicAccessNotPermitted",
      `Public access is not permitted on this storage account: container ${name} of ${account.name} asks for '${access}'.`,
      409,
    );
  }
}

/** Source: Microsoft, "Azure Blob Storage lifecycle management policy structure". */
function checkLifecycle({ inputs, names, resourceGroup }: AzureRequest, azure: FakeAzure): void {
  const fault = (message: string) => azureError("InvalidManagementPolicy", message);
  const account = accountOf(resourceGroup, names, azure);
  if (account && textAt(account.inputs, "kind") === "FileStorage") {
    throw azureError("FeatureNotSupportedForAccount", `Account ${account.name} is of kind FileStorage.`, 409);
  }
  const rules = objectsAt(inputs, "policy.rules");
  if (rules.length < 1 || rules.length > 100) throw fault(`A policy has 1 to 100 rules, not ${rules.length}.`);
  const rulesByName = new Set(rules.map((rule) => rule.name));
  if (rulesByName.size < rules.length) throw fault("Two rules of the policy have the same name.");
  for (const rule of rules) {
    const name = String(rule.name);
    if (!/^[A-Za-z0-9-]{1,256}$/.test(name)) throw fault(`The rule name '${name}' is invalid.`);
    if (rule.type !== "Lifecycle") throw fault(`The type of rule '${name}' must be 'Lifecycle'.`);
    const types = textsAt(rule, "definition.filters.blobTypes");
    if (types.length === 0) throw fault(`Rule '${name}' must name blobTypes.`);
    if (types.some((type) => !["blockBlob", "appendBlob"].includes(type))) {
      throw fault(`Rule '${name}' names a blob type other than blockBlob and appendBlob.`);
    }
    const prefixes = textsAt(rule, "definition.filters.prefixMatch");
    if (prefixes.length > 10) throw fault(`Rule '${name}' has more than 10 prefixes.`);
    const actions = Object.entries(objectAt(rule, "definition.actions.baseBlob"));
    if (actions.length === 0) throw fault(`Rule '${name}' has no action.`);
    for (const [action, when] of actions) {
      if (action === "enableAutoTierToHotFromCool") continue;
      const conditions = Object.entries(isProperties(when) ? when : {});
      const days = conditions.map(([, value]) => value);
      if (conditions.length === 0 || days.some((value) => typeof value !== "number" || value < 0 || value > 99_999)) {
        throw fault(`Action '${action}' of rule '${name}' needs a condition of 0 to 99999 days.`);
      }
    }
  }
}

/**
 * What deletes or moves old blobs comes from outside the account's networks, as one of Azure's trusted services, and
 * can be kept out.
 */
export function deafPolicy(resource: AzureResource, azure: FakeAzure): string | undefined {
  if (resource.arm !== MANAGEMENT_POLICY) return undefined;
  const account = azure.all(ACCOUNT).find(({ id }) => resource.id.toLowerCase().startsWith(`${id.toLowerCase()}/`));
  const rules = objectAt(account?.inputs, "networkRuleSet");
  if (rules.defaultAction !== "Deny" || String(rules.bypass).includes("AzureServices")) return undefined;
  return `the storage account ${account?.name} admits no Azure services (networkRuleSet.bypass), so its lifecycle rules do nothing`;
}

function checkShare({ inputs, name, names, resourceGroup }: AzureRequest, azure: FakeAzure): void {
  const account = accountOf(resourceGroup, names, azure);
  if (!account) return;
  const premium = /^Premium/.test(textAt(account.inputs, "sku.name") ?? "") && account.inputs.kind === "FileStorage";
  const quota = numberAt(inputs, "shareQuota");
  if (premium && (quota === undefined || quota < 100 || quota > 102_400)) {
    throw azureError(
      "InvalidHeaderValue",
      `The value for one of the HTTP headers is not in the correct format: shareQuota of share ${name} must be 100 to 102400 GiB on a premium account, and is ${String(quota)}.`,
    );
  }
  const squash = textAt(inputs, "rootSquash");
  if (squash !== undefined && inputs.enabledProtocols !== "NFS") {
    throw azureError("InvalidHeaderValue", `rootSquash of share ${name} is for NFS shares only.`);
  }
  if (inputs.enabledProtocols !== "NFS") return;
  if (!premium) {
    throw azureError(
      "FeatureNotSupportedForAccount",
      `NFS is not supported for the account. Account ${account.name} must be of kind FileStorage with a premium SKU.`,
      409,
    );
  }
  if (account.inputs.enableHttpsTrafficOnly !== false) {
    throw azureError(
      "HttpsTrafficOnlyNotSupportedWithNfs",
      `Share ${name} speaks NFS, and account ${account.name} requires secure transfer (enableHttpsTrafficOnly), which refuses NFS mounts without encryption in transit.`,
      409,
    );
  }
  const open =
    at(account.inputs, "networkRuleSet.defaultAction") !== "Deny" && account.inputs.publicNetworkAccess !== "Disabled";
  const reachable =
    listAt(account.inputs, "networkRuleSet.virtualNetworkRules").length > 0 ||
    account.inputs.publicNetworkAccess === "Disabled";
  if (open || !reachable) {
    throw azureError(
      "NfsFileShareNetworkAccess",
      `NFS share ${name} can be mounted from a virtual network only: let account ${account.name} deny by default and name a subnet, or close its public access and give it a private endpoint.`,
      409,
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
