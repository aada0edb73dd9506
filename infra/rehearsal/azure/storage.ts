import { azureError } from "../cloud-error.ts";
import {
  at,
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
import { checkNetworkRules, needServiceEndpoint } from "./data.ts";
import { DEPLOYER } from "./deployer.ts";
import { SUBNET } from "./network.ts";
import type { Azure, AzureRequest, AzureResource, AzureType } from "./resource-type.ts";

const ACCOUNT = "Microsoft.Storage/storageAccounts";
const CONTAINER = `${ACCOUNT}/blobServices/containers`;
const MANAGEMENT_POLICY = `${ACCOUNT}/managementPolicies`;

/** Storage accounts and what is in them: tables, blobs, file shares. */
export const STORAGE_TYPES: Readonly<Record<string, AzureType>> = {
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
};

/** Account kinds and the SKUs each takes; source: Microsoft, "Storage account overview". */
const ACCOUNT_SKUS: Readonly<Record<string, RegExp>> = {
  StorageV2: /^(Standard_(LRS|GRS|RAGRS|ZRS|GZRS|RAGZRS)|Premium_(LRS|ZRS))$/,
  FileStorage: /^(Premium_(LRS|ZRS)|PremiumV2_(LRS|ZRS)|StandardV2_(LRS|ZRS|GRS|GZRS))$/,
  BlockBlobStorage: /^Premium_(LRS|ZRS)$/,
};

function checkAccount({ inputs, name, updates }: AzureRequest, azure: Azure): void {
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
  for (const { iPAddressOrRange } of objectsAt(inputs, "networkRuleSet.ipRules")) {
    if (/\/3[12]$/.test(String(iPAddressOrRange))) {
      throw azureError(
        "InvalidNetworkAcls",
        `The IP rule '${String(iPAddressOrRange)}' of account ${name} is invalid: prefixes /31 and /32 are not supported; give the addresses.`,
      );
    }
  }
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

function accountOf(resourceGroup: string, names: readonly string[], azure: Azure): AzureResource | undefined {
  return azure.find(armId(resourceGroupId(DEPLOYER.subscriptionId, resourceGroup), ACCOUNT, names.slice(0, 1)));
}

function checkContainer({ inputs, name, names, resourceGroup }: AzureRequest, azure: Azure): void {
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
function checkLifecycle({ inputs, names, resourceGroup }: AzureRequest, azure: Azure): void {
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
export function deafPolicy(resource: AzureResource, azure: Azure): string | undefined {
  if (resource.arm !== MANAGEMENT_POLICY) return undefined;
  const account = azure.all(ACCOUNT).find(({ id }) => resource.id.toLowerCase().startsWith(`${id.toLowerCase()}/`));
  const rules = objectAt(account?.inputs, "networkRuleSet");
  if (rules.defaultAction !== "Deny" || String(rules.bypass).includes("AzureServices")) return undefined;
  return `the storage account ${account?.name} admits no Azure services (networkRuleSet.bypass), so its lifecycle rules do nothing`;
}

function checkShare({ inputs, name, names, resourceGroup }: AzureRequest, azure: Azure): void {
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
