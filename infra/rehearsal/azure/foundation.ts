import { azureError } from "../cloud-error.ts";
import { guidOf, listAt, objectsAt, textAt, textsAt } from "../values.ts";
import { parseArmId } from "./arm-id.ts";
import { DEPLOYER } from "./deployer.ts";
import type { Azure, AzureRequest, AzureType } from "./resource-type.ts";
import { BUILT_IN_ROLES } from "./roles.ts";

/** Regions with availability zones; source: Microsoft, "Azure regions list", 2026. */
const REGIONS_WITH_ZONES = [
  "australiaeast",
  "austriaeast",
  "brazilsouth",
  "canadacentral",
  "centralindia",
  "centralus",
  "chilecentral",
  "eastasia",
  "eastus",
  "eastus2",
  "francecentral",
  "germanywestcentral",
  "indonesiacentral",
  "israelcentral",
  "italynorth",
  "japaneast",
  "japanwest",
  "koreacentral",
  "malaysiawest",
  "mexicocentral",
  "newzealandnorth",
  "northeurope",
  "norwayeast",
  "polandcentral",
  "qatarcentral",
  "southafricanorth",
  "southcentralus",
  "southeastasia",
  "spaincentral",
  "swedencentral",
  "switzerlandnorth",
  "uaenorth",
  "uksouth",
  "westeurope",
  "westus2",
  "westus3",
];
const REGIONS_WITHOUT_ZONES = [
  "australiacentral",
  "australiasoutheast",
  "brazilsoutheast",
  "canadaeast",
  "koreasouth",
  "northcentralus",
  "norwaywest",
  "southindia",
  "ukwest",
  "westcentralus",
  "westindia",
  "westus",
];
export const REGIONS: readonly string[] = [...REGIONS_WITH_ZONES, ...REGIONS_WITHOUT_ZONES].sort();

/** @throws CloudError when zones are asked for that the region does not have. */
export function checkZones(location: string, zones: readonly unknown[], resource: string): void {
  const supported = REGIONS_WITH_ZONES.includes(location) ? ["1", "2", "3"] : [];
  const refused = zones.filter((zone) => !supported.includes(String(zone)));
  if (refused.length > 0) {
    throw azureError(
      "AvailabilityZoneNotSupported",
      `The zone(s) '${refused.join(",")}' for resource '${resource}' is not supported. The supported zones for location '${location}' are '${supported.join(",")}'`,
    );
  }
}

const GUID = /^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$/i;

// Long ago, so that whoever waits until an assignment has aged waits for nothing.
const LONG_AGO = "2020-01-01T00:00:00.0000000Z";

export const FOUNDATION_TYPES: Readonly<Record<string, AzureType>> = {
  "azure-native:resources:ResourceGroup": {
    arm: "Microsoft.Resources/resourceGroups",
    names: ["resourceGroupName"],
    scope: "subscription",
    naming: {
      pattern: /^[-\w.()]{0,89}[-\w()]$/,
      code: "InvalidResourceGroup",
      sentence:
        "The provided resource group name '{name}' has these invalid characters or is too long: a name has up to 90 alphanumerics, underscores, parentheses, hyphens and periods, and does not end with a period.",
    },
    takenCode: "InvalidResourceGroupLocation",
    required: ["location"],
    check({ location }) {
      if (!REGIONS.includes(location)) {
        throw azureError(
          "LocationNotAvailableForResourceGroup",
          `The provided location '${location}' is not available for resource group. List of available regions is '${REGIONS.join(",")}'.`,
        );
      }
    },
  },

  "azure-native:managedidentity:UserAssignedIdentity": {
    arm: "Microsoft.ManagedIdentity/userAssignedIdentities",
    names: ["resourceName"],
    naming: {
      pattern: /^[a-zA-Z0-9][a-zA-Z0-9_-]{2,127}$/,
      code: "InvalidResourceName",
      sentence:
        "Resource name {name} is invalid. The name can contain only letters, numbers, hyphens and underscores, starts with a letter or number, and has 3 to 128 characters.",
    },
    outputs: ({ id }) => ({
      principalId: guidOf("principal", id),
      clientId: guidOf("client", id),
      tenantId: DEPLOYER.tenantId,
    }),
  },

  "azure-native:managedidentity:FederatedIdentityCredential": {
    arm: "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials",
    names: ["resourceName", "federatedIdentityCredentialResourceName"],
    located: false,
    naming: {
      pattern: /^[a-zA-Z0-9][a-zA-Z0-9_-]{2,119}$/,
      sentence:
        "Federated identity credential name {name} is invalid. The name has 3 to 120 letters, numbers, hyphens and underscores and starts with a letter or number.",
    },
    required: ["issuer", "subject", "audiences"],
    // "Concurrent Federated Identity Credentials writes under the same managed identity are not supported."
    serialisedBelow: 0,
    check: checkFederatedCredential,
  },

  "azure-native:authorization:ManagementLockByScope": {
    arm: "Microsoft.Authorization/locks",
    names: ["lockName"],
    scope: "anyResource",
    scopeProperty: "scope",
    located: false,
    naming: {
      pattern: /^[^<>%&:\\?/]{1,90}$/,
      code: "InvalidLockName",
      sentence: "The lock name '{name}' is invalid: 1 to 90 characters, none of them < > % & : \\ ? /.",
    },
    required: ["level"],
    check({ inputs }) {
      const level = textAt(inputs, "level") ?? "";
      if (!["CanNotDelete", "ReadOnly"].includes(level)) {
        throw azureError("InvalidLock", `The lock level '${level}' is not one of CanNotDelete, ReadOnly.`);
      }
    },
  },

  "azure-native:authorization:RoleDefinition": {
    arm: "Microsoft.Authorization/roleDefinitions",
    names: ["roleDefinitionId"],
    scope: "anyResource",
    scopeProperty: "scope",
    located: false,
    naming: {
      pattern: GUID,
      code: "InvalidRoleDefinitionId",
      sentence: "The role definition ID '{name}' must be a GUID.",
    },
    required: ["roleName"],
    check: checkRoleDefinition,
    outputs: () => ({ createdOn: LONG_AGO, updatedOn: LONG_AGO, roleType: "CustomRole" }),
  },

  "azure-native:authorization:RoleAssignment": {
    arm: "Microsoft.Authorization/roleAssignments",
    names: ["roleAssignmentName"],
    scope: "anyResource",
    scopeProperty: "scope",
    located: false,
    naming: {
      pattern: GUID,
      code: "InvalidRoleAssignmentId",
      sentence: "The role assignment ID '{name}' is not valid. The role assignment ID must be a GUID.",
    },
    takenCode: "RoleAssignmentExists",
    required: ["principalId", "roleDefinitionId", "scope"],
    replacedBy: ["principalId", "scope", "roleDefinitionId"],
    check: checkRoleAssignment,
    outputs: () => ({ createdOn: LONG_AGO, updatedOn: LONG_AGO, createdBy: DEPLOYER.objectId }),
  },
};

// Entra: subjects of Kubernetes service accounts are "system:serviceaccount:<namespace>:<name>", of GitHub "repo:...".
const SUBJECT_OF_KUBERNETES =
  /^system:serviceaccount:[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?:[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$/;
const SUBJECT_OF_GITHUB =
  /^repo:[\w.-]+(@\d+)?\/[\w.-]+(@\d+)?:(environment:[^:]+|ref:refs\/(heads|tags)\/.+|pull_request)$/;
const AUDIENCE = "api://AzureADTokenExchange";

function checkFederatedCredential({ inputs, id }: AzureRequest, azure: Azure): void {
  const issuer = textAt(inputs, "issuer") ?? "";
  const subject = textAt(inputs, "subject") ?? "";
  const audiences = listAt(inputs, "audiences");
  if (!/^https:\/\/[^\s/]+/.test(issuer)) {
    throw azureError("BadRequest", `Issuer '${issuer}' is not valid. The issuer must be an HTTPS URL.`);
  }
  if (audiences.length !== 1) {
    throw azureError("BadRequest", `Audiences must hold exactly one value, but ${audiences.length} were given.`);
  }
  if (audiences[0] !== AUDIENCE) {
    throw azureError(
      "BadRequest",
      `Audience '${String(audiences[0])}' is not one that tokens are exchanged for; use '${AUDIENCE}'.`,
    );
  }
  if (subject.includes("*"))
    throw azureError("BadRequest", `Subject '${subject}' must not contain wildcard characters.`);
  if (issuer === "https://token.actions.githubusercontent.com" && !SUBJECT_OF_GITHUB.test(subject)) {
    throw azureError(
      "BadRequest",
      `Subject '${subject}' is none that GitHub presents; use 'repo:<owner>/<repository>:environment:<environment>'.`,
    );
  }
  const ours = /\.oic\.prod-aks\.azure\.com/.test(issuer) || subject.startsWith("system:");
  if (ours && !SUBJECT_OF_KUBERNETES.test(subject)) {
    throw azureError(
      "BadRequest",
      `Subject '${subject}' does not identify a Kubernetes service account; use 'system:serviceaccount:<namespace>:<name>'.`,
    );
  }
  const identity = id.slice(0, id.lastIndexOf("/federatedIdentityCredentials/"));
  const siblings = azure
    .children(identity, "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials")
    .filter((other) => other.id !== id);
  if (siblings.length >= 20) {
    throw azureError("BadRequest", "Too many federated identity credentials: an identity takes at most 20.");
  }
  if (siblings.some((other) => other.inputs.issuer === issuer && other.inputs.subject === subject)) {
    throw azureError("Conflict", "Issuer and subject combination already exists for this Managed Identity.", 409);
  }
}

function checkRoleDefinition({ inputs, id }: AzureRequest, azure: Azure): void {
  const roleName = textAt(inputs, "roleName") ?? "";
  const namesake =
    Object.values(BUILT_IN_ROLES).some((role) => role.name === roleName) ||
    azure
      .all("Microsoft.Authorization/roleDefinitions")
      .some((other) => other.id !== id && other.inputs.roleName === roleName);
  if (namesake) {
    throw azureError(
      "RoleDefinitionWithSameNameExists",
      `A custom role with the same name already exists in this directory. Use a different name: '${roleName}' is taken.`,
      409,
    );
  }
  const scopes = textsAt(inputs, "assignableScopes");
  if (scopes.length === 0) {
    throw azureError("RoleDefinitionMissingAssignableScopes", "The role definition is missing assignable scopes.");
  }
  for (const scope of scopes) azure.need(scope, "assignableScopes");
  for (const permission of objectsAt(inputs, "permissions")) {
    for (const action of [...textsAt(permission, "actions"), ...textsAt(permission, "dataActions")]) {
      // "<provider>/<type>.../<operation>", wildcards allowed.
      if (action !== "*" && !/^[A-Za-z.*]+(\/[A-Za-z0-9*.]+)+$/.test(action)) {
        throw azureError(
          "InvalidActionOrNotAction",
          `'${action}' does not match any of the actions supported by the providers.`,
        );
      }
    }
  }
}

function checkRoleAssignment({ inputs, id }: AzureRequest, azure: Azure): void {
  const { principalId, principalType } = inputs;
  const roleId = textAt(inputs, "roleDefinitionId") ?? "";
  const scope = textAt(inputs, "scope") ?? "";
  const guid = roleId.toLowerCase().split("/").at(-1) ?? "";
  if (
    !/^\/subscriptions\/[^/]+\/providers\/Microsoft\.Authorization\/roleDefinitions\/[^/]+$/i.test(roleId) &&
    !custom(azure, guid)
  ) {
    throw azureError(
      "InvalidRoleDefinitionId",
      `The role definition ID '${roleId}' is not valid; give '/subscriptions/{subscriptionId}/providers/Microsoft.Authorization/roleDefinitions/{guid}'.`,
    );
  }
  const condition = textAt(inputs, "condition");
  if (condition !== undefined && !/^\(\(!\(ActionMatches\{'[\w./]+'\}\)\) OR /.test(condition)) {
    throw azureError("InvalidCondition", `The role assignment condition '${condition}' is not valid.`);
  }
  const own = custom(azure, guid);
  if (!BUILT_IN_ROLES[guid] && !own) {
    throw azureError("RoleDefinitionDoesNotExist", `The specified role definition with ID '${guid}' does not exist.`);
  }
  if (own) {
    azure.mustFollow(own);
    const assignable = textsAt(own.inputs, "assignableScopes");
    if (!assignable.some((above) => `${scope}/`.toLowerCase().startsWith(`${above}/`.toLowerCase()))) {
      throw azureError(
        "RoleAssignmentScopeNotAssignableToRoleDefinition",
        `The role assignment scope '${scope}' is not assignable to the role definition '${guid}'.`,
      );
    }
  }
  const known = azure.principalType(String(principalId));
  // A principal that the same deployment has just made may not have reached the directory's replicas: with its type,
  // Azure does not look it up; without, it does, and often enough finds nothing.
  const lookedUp = principalType === undefined && known === "ServicePrincipal";
  if (known === undefined || lookedUp) {
    throw azureError(
      "PrincipalNotFound",
      `Principal ${String(principalId).replaceAll("-", "")} does not exist in the directory ${DEPLOYER.tenantId}. Check that you have the correct principal ID. If you are creating this principal and then immediately assigning a role, this error might be related to a replication delay. In this case, set the role assignment principalType property to a value, such as ServicePrincipal, User, or Group. See https://aka.ms/docs-principaltype`,
    );
  }
  if (principalType !== undefined && principalType !== known && !azure.isDeployer(String(principalId))) {
    throw azureError(
      "UnmatchedPrincipalType",
      `The PrincipalId '${String(principalId)}' has type '${known}', which is different from specified PrinciaplType '${String(principalType)}'.`,
    );
  }
  const same = azure
    .all("Microsoft.Authorization/roleAssignments")
    .some(
      (other) =>
        other.id !== id &&
        other.inputs.principalId === principalId &&
        String(other.inputs.scope).toLowerCase() === scope.toLowerCase() &&
        String(other.inputs.roleDefinitionId).toLowerCase() === roleId.toLowerCase(),
    );
  if (same) throw azureError("RoleAssignmentExists", "The role assignment already exists.", 409);
}

function custom(azure: Azure, guid: string) {
  return azure
    .all("Microsoft.Authorization/roleDefinitions")
    .find((role) => parseArmId(role.id)?.names.at(-1)?.toLowerCase() === guid);
}
