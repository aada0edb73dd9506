import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { DEPLOYER } from "../../../infra/rehearsal/azure/deployer.ts";
import { FakeCloud } from "../../../infra/rehearsal/cloud.ts";
import { CloudError } from "../../../infra/rehearsal/cloud-error.ts";
import type { CloudRequest } from "../../../infra/rehearsal/cloud-request.ts";
import type { Properties } from "../../../infra/rehearsal/values.ts";

const GROUP = "rg-test";
const SUBSCRIPTION = `/subscriptions/${DEPLOYER.subscriptionId}`;
const IN_GROUP = `${SUBSCRIPTION}/resourceGroups/${GROUP}/providers`;
const GUID = "3e7b1c52-0d6e-4f6a-9f5e-3a1c8d2b7e11";
const role = (guid: string) => `${SUBSCRIPTION}/providers/Microsoft.Authorization/roleDefinitions/${guid}`;
const ACR_PULL = "7f951dda-4ed3-4680-a7ca-43fe172d538d";
const NETWORK_CONTRIBUTOR = "4d97b98b-1d4f-4787-a291-c67834d212e7";

function azure(type: string, inputs: Properties, name = "it"): CloudRequest {
  return { type: `azure-native:${type}`, name, inputs: { resourceGroupName: GROUP, ...inputs } };
}

const requests = {
  group: azure("resources:ResourceGroup", { location: "eastus2" }, "group"),
  network: azure("network:VirtualNetwork", {
    virtualNetworkName: "vnet-test",
    addressSpace: { addressPrefixes: ["10.83.0.0/16"] },
  }),
  nodes: azure("network:Subnet", {
    virtualNetworkName: "vnet-test",
    subnetName: "nodes",
    addressPrefix: "10.83.0.0/20",
    serviceEndpoints: [{ service: "Microsoft.Storage" }],
  }),
  registry: azure("containerregistry:Registry", { registryName: "crtest12345", sku: { name: "Basic" } }),
  identity: azure("managedidentity:UserAssignedIdentity", { resourceName: "id-test" }),
  namespace: azure("servicebus:Namespace", { namespaceName: "sbns-test", sku: { name: "Standard", tier: "Standard" } }),
  workspace: azure("operationalinsights:Workspace", { workspaceName: "log-test", sku: { name: "PerGB2018" } }),
  jobs: azure("storage:StorageAccount", { accountName: "stjobs", kind: "StorageV2", sku: { name: "Standard_LRS" } }),
  files: azure("storage:StorageAccount", {
    accountName: "stfiles",
    kind: "FileStorage",
    sku: { name: "Premium_LRS" },
    enableHttpsTrafficOnly: false,
    publicNetworkAccess: "Disabled",
  }),
  redis: azure("redisenterprise:RedisEnterprise", {
    clusterName: "amr-test",
    sku: { name: "Balanced_B0" },
    publicNetworkAccess: "Enabled",
  }),
};

/** A subscription in which a little stands already. */
function subscription(): FakeCloud {
  const cloud = new FakeCloud();
  for (const request of Object.values(requests)) cloud.create(request);
  return cloud;
}

/** A rule for the blobs of an account. */
const lifecycle = (definition: Properties) =>
  azure("storage:ManagementPolicy", {
    accountName: "stjobs",
    managementPolicyName: "default",
    policy: {
      rules: [
        {
          name: "old",
          type: "Lifecycle",
          definition: {
            filters: { blobTypes: ["blockBlob"], prefixMatch: ["jobs/"] },
            actions: { baseBlob: { delete: { daysAfterModificationGreaterThan: 30 } } },
            ...definition,
          },
        },
      ],
    },
  });

/** An alert to what the namespace counts. */
const metricAlert = (criterion: Properties, alert: Properties = {}) =>
  azure("monitor:MetricAlert", {
    ruleName: "ma-test",
    location: "global",
    severity: 2,
    enabled: true,
    scopes: [BUS],
    evaluationFrequency: "PT5M",
    windowSize: "PT15M",
    criteria: {
      odataType: "Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria",
      allOf: [
        {
          name: "dead-letters",
          metricName: "DeadletteredMessages",
          timeAggregation: "Maximum",
          operator: "GreaterThan",
          threshold: 0,
          ...criterion,
        },
      ],
    },
    ...alert,
  });

/** Whom alerts are told to. */
const actionGroup = (inputs: Properties) =>
  azure("monitor:ActionGroup", {
    actionGroupName: "ag-test",
    groupShortName: "test",
    location: "global",
    enabled: true,
    emailReceivers: [{ name: "oncall", emailAddress: "oncall@example.com" }],
    ...inputs,
  });
const ACTION_GROUP = `${IN_GROUP}/Microsoft.Insights/actionGroups/ag-test`;

/** The least that a table, the way into it and an export of it have. */
const LINES = [
  { name: "TimeGenerated", type: "datetime" },
  { name: "Line", type: "string" },
];
const LOGS = `${IN_GROUP}/Microsoft.OperationalInsights/workspaces/log-test`;
const logEntry = azure("monitor:DataCollectionEndpoint", { dataCollectionEndpointName: "dce-test" });
const logTable = (schema: Properties, inputs: Properties = {}) =>
  azure("operationalinsights:Table", {
    workspaceName: "log-test",
    tableName: "Own_CL",
    schema: { name: "Own_CL", columns: LINES, ...schema },
    ...inputs,
  });
const logRule = (flow: Properties) =>
  azure("monitor:DataCollectionRule", {
    dataCollectionRuleName: "dcr-test",
    dataCollectionEndpointId: `${IN_GROUP}/Microsoft.Insights/dataCollectionEndpoints/dce-test`,
    streamDeclarations: { "Custom-Own": { columns: LINES } },
    destinations: { logAnalytics: [{ name: "logs", workspaceResourceId: LOGS }] },
    dataFlows: [{ streams: ["Custom-Own"], destinations: ["logs"], outputStream: "Custom-Own_CL", ...flow }],
  });
const logCopy = (policy: Properties, inputs: Properties = {}) =>
  azure("storage:StorageAccount", {
    accountName: "staudit",
    kind: "StorageV2",
    sku: { name: "Standard_LRS" },
    immutableStorageWithVersioning: {
      enabled: true,
      immutabilityPolicy: { state: "Unlocked", immutabilityPeriodSinceCreationInDays: 30, ...policy },
    },
    ...inputs,
  });
const logExport = azure("operationalinsights:DataExport", {
  workspaceName: "log-test",
  dataExportName: "audit-copy",
  resourceId: `${IN_GROUP}/Microsoft.Storage/storageAccounts/staudit`,
  tableNames: ["Own_CL"],
});

const VNET = `${IN_GROUP}/Microsoft.Network/virtualNetworks/vnet-test`;
const NODES = `${VNET}/subnets/nodes`;
const REGISTRY = `${IN_GROUP}/Microsoft.ContainerRegistry/registries/crtest12345`;
const BUS = `${IN_GROUP}/Microsoft.ServiceBus/namespaces/sbns-test`;
const IDENTITY = `${IN_GROUP}/Microsoft.ManagedIdentity/userAssignedIdentities/id-test`;
const principalId = () => String(subscription().read("azure-native:x:y", IDENTITY)?.principalId);

const subnet = (inputs: Properties) =>
  azure("network:Subnet", {
    virtualNetworkName: "vnet-test",
    subnetName: "other",
    addressPrefix: "10.83.32.0/24",
    ...inputs,
  });
const vault = (properties: Properties, inputs: Properties = {}) =>
  azure("keyvault:Vault", {
    vaultName: "kv-test",
    properties: { tenantId: DEPLOYER.tenantId, sku: { family: "A", name: "standard" }, ...properties },
    ...inputs,
  });
const queue = (inputs: Properties) =>
  azure("servicebus:Queue", { namespaceName: "sbns-test", queueName: "jobs", ...inputs });
const share = (inputs: Properties, account = "stfiles") =>
  azure("storage:FileShare", {
    accountName: account,
    shareName: "workspace",
    shareQuota: 100,
    enabledProtocols: "NFS",
    ...inputs,
  });
const grant = (inputs: Properties): CloudRequest => ({
  type: "azure-native:authorization:RoleAssignment",
  name: "grant",
  inputs: {
    scope: REGISTRY,
    roleAssignmentName: GUID,
    roleDefinitionId: role(ACR_PULL),
    principalId: principalId(),
    principalType: "ServicePrincipal",
    ...inputs,
  },
});
const trust = (inputs: Properties) =>
  azure("managedidentity:FederatedIdentityCredential", {
    resourceName: "id-test",
    federatedIdentityCredentialResourceName: "trust",
    issuer: "https://eastus2.oic.prod-aks.azure.com/a/b/",
    subject: "system:serviceaccount:mcp-system:mcp-server",
    audiences: ["api://AzureADTokenExchange"],
    ...inputs,
  });
const address = (inputs: Properties) =>
  azure("network:PublicIPAddress", {
    publicIpAddressName: "pip-test",
    publicIPAllocationMethod: "Static",
    sku: { name: "Standard" },
    ...inputs,
  });
const pool = { name: "system", mode: "System", vmSize: "Standard_D4ds_v5", count: 2 };
const cluster = (inputs: Properties) =>
  azure("containerservice:ManagedCluster", {
    resourceName: "aks-test",
    dnsPrefix: "test",
    identity: { type: "SystemAssigned" },
    agentPoolProfiles: [pool],
    ...inputs,
  });
const endpoint = (target: string, groupId: string, inputs: Properties = {}) =>
  azure("network:PrivateEndpoint", {
    privateEndpointName: "pep-test",
    subnet: { id: NODES },
    privateLinkServiceConnections: [{ name: "it", privateLinkServiceId: target, groupIds: [groupId] }],
    ...inputs,
  });
const diagnostics = (resourceUri: string, inputs: Properties): CloudRequest => ({
  type: "azure-native:monitor:DiagnosticSetting",
  name: "diagnostics",
  inputs: {
    name: "it",
    resourceUri,
    workspaceId: `${IN_GROUP}/Microsoft.OperationalInsights/workspaces/log-test`,
    ...inputs,
  },
});
const redisDatabase = (inputs: Properties) =>
  azure("redisenterprise:Database", { clusterName: "amr-test", databaseName: "default", ...inputs });
const maintenance = (window: Properties, configName = "aksManagedNodeOSUpgradeSchedule") =>
  azure("containerservice:MaintenanceConfiguration", {
    resourceName: "aks-test",
    configName,
    maintenanceWindow: window,
  });

type Case = readonly [what: string, request: CloudRequest, sentence: string, before?: readonly CloudRequest[]];

const REFUSALS: readonly Case[] = [
  // Places
  [
    "a resource in no group",
    { type: "azure-native:network:VirtualNetwork", name: "it", inputs: {} },
    "Required parameter resourceGroupName is missing",
  ],
  [
    "a group that nobody made",
    azure("network:VirtualNetwork", { resourceGroupName: "rg-gone" }),
    "ResourceGroupNotFound: Resource group 'rg-gone' could not be found.",
  ],
  [
    "a group in no region",
    azure("resources:ResourceGroup", { resourceGroupName: "rg-x", location: "moon" }),
    "LocationNotAvailableForResourceGroup: The provided location 'moon' is not available",
  ],
  [
    "a child of nobody",
    azure("network:Subnet", { virtualNetworkName: "vnet-gone", subnetName: "x", addressPrefix: "10.0.0.0/24" }),
    "ParentResourceNotFound: Failed to perform 'write' on resource(s) of type 'virtualNetworks/subnets', because the parent resource",
  ],
  ["a name twice", requests.network, "already exists. To be managed via Pulumi this resource needs to be imported."],
  [
    "a type that the rehearsal does not know",
    azure("cosmosdb:DatabaseAccount", {}),
    "NotRehearsed: the rehearsal does not know the resource type azure-native:cosmosdb:DatabaseAccount",
  ],
  [
    "a tag with a slash",
    azure("network:VirtualNetwork", {
      virtualNetworkName: "v2",
      addressSpace: { addressPrefixes: ["10.1.0.0/16"] },
      tags: { "a/b": "c" },
    }),
    "InvalidTagNameCharacters: The tag names 'a/b' have reserved characters",
  ],
  // Networks
  [
    "a subnet outside its network",
    subnet({ addressPrefix: "10.99.0.0/24" }),
    "NetcfgInvalidSubnet: Subnet 'other' is not valid in virtual network 'vnet-test'.",
  ],
  [
    "a subnet over another",
    subnet({ addressPrefix: "10.83.8.0/24" }),
    "NetcfgSubnetRangesOverlap: Subnet 'other' is not valid because its IP address range overlaps with that of an existing subnet",
  ],
  [
    "a range with bits behind its prefix",
    subnet({ addressPrefix: "10.83.32.1/24" }),
    "InvalidCIDRNotation: The address prefix 10.83.32.1/24",
  ],
  [
    "a subnet with a security group that nobody made",
    subnet({ networkSecurityGroup: { id: `${IN_GROUP}/Microsoft.Network/networkSecurityGroups/nsg` } }),
    "ResourceNotFound: The Resource 'Microsoft.Network/networkSecurityGroups/nsg' under resource group 'rg-test' was not found.",
  ],
  [
    "a delegation to nothing",
    subnet({ delegations: [{ name: "aks", serviceName: "aks" }] }),
    "InvalidServiceNameOnDelegation: Subnet other has invalid service name aks on delegation.",
  ],
  ["an address of the retired SKU", address({ sku: { name: "Basic" } }), "IPv4BasicSkuPublicIpCountLimitReached"],
  [
    "a dynamic standard address",
    address({ publicIPAllocationMethod: "Dynamic" }),
    "must have AllocationMethod set to Static.",
  ],
  [
    "a DNS label in capitals",
    address({ dnsSettings: { domainNameLabel: "MCP" } }),
    "InvalidDomainNameLabel: The domain name label for pip-test is invalid.",
  ],
  [
    "a DNS label that is taken",
    address({ dnsSettings: { domainNameLabel: "mcp" } }),
    "DnsRecordInUse: DNS record mcp.eastus2.cloudapp.azure.com is already used",
    [address({ publicIpAddressName: "pip-0", dnsSettings: { domainNameLabel: "mcp" } })],
  ],
  [
    "zones where there are none",
    address({ location: "westus", zones: ["1"] }),
    "AvailabilityZoneNotSupported: The zone(s) '1' for resource 'pip-test' is not supported.",
  ],
  [
    "two rules of one priority",
    azure("network:NetworkSecurityGroup", {
      networkSecurityGroupName: "nsg",
      securityRules: [1, 2].map((n) => ({
        name: `r${n}`,
        priority: 100,
        direction: "Inbound",
        sourceAddressPrefix: "*",
        destinationAddressPrefix: "*",
        sourcePortRange: "*",
        destinationPortRange: "443",
      })),
    }),
    "SecurityRuleConflict: Security rule r2 conflicts",
  ],
  [
    "a private endpoint of a Basic registry",
    endpoint(REGISTRY, "registry"),
    "private endpoint connections are not supported for the Basic SKU",
  ],
  [
    "a private endpoint of a Standard namespace",
    endpoint(BUS, "namespace"),
    "private endpoints are available to Premium namespaces only",
  ],
  [
    "a private endpoint to a group that the service lacks",
    endpoint(`${IN_GROUP}/Microsoft.Storage/storageAccounts/stjobs`, "tables"),
    "InvalidPrivateLinkServiceGroupId: Private endpoint pep-test asks for the group id 'tables'",
  ],
  [
    "a private endpoint to nothing",
    endpoint(`${IN_GROUP}/Microsoft.KeyVault/vaults/kv-gone`, "vault"),
    "ResourceNotFound: The Resource 'Microsoft.KeyVault/vaults/kv-gone' under resource group 'rg-test' was not found.",
  ],
  [
    "a DNS zone in a region",
    azure("privatedns:PrivateZone", { privateZoneName: "privatelink.azurecr.io", location: "eastus2" }),
    "LocationNotAvailableForResourceType: The provided location 'eastus2' is not available",
  ],
  // Who may do what
  [
    "a role nobody defined",
    grant({ roleDefinitionId: role(GUID) }),
    `RoleDefinitionDoesNotExist: The specified role definition with ID '${GUID}' does not exist.`,
  ],
  ["a role by its bare id", grant({ roleDefinitionId: ACR_PULL }), "InvalidRoleDefinitionId"],
  [
    "an assignment whose name is no GUID",
    grant({ roleAssignmentName: "acr-pull" }),
    "InvalidRoleAssignmentId: The role assignment ID 'acr-pull' is not valid. The role assignment ID must be a GUID.",
  ],
  [
    "an assignment to nobody",
    grant({ principalId: GUID }),
    "PrincipalNotFound: Principal 3e7b1c520d6e4f6a9f5e3a1c8d2b7e11 does not exist in the directory",
  ],
  ["an assignment to a new identity without its type", grant({ principalType: undefined }), "PrincipalNotFound"],
  ["an assignment with the wrong type", grant({ principalType: "User" }), "UnmatchedPrincipalType: The PrincipalId"],
  [
    "an assignment twice",
    grant({ roleAssignmentName: "11111111-1111-4111-8111-111111111111" }),
    "RoleAssignmentExists: The role assignment already exists.",
    [grant({})],
  ],
  [
    "an assignment on nothing",
    grant({ scope: `${IN_GROUP}/Microsoft.KeyVault/vaults/kv-gone` }),
    "ResourceNotFound: The Resource 'Microsoft.KeyVault/vaults/kv-gone'",
  ],
  [
    "a federated subject with a wildcard",
    trust({ subject: "system:serviceaccount:mcp-system:*" }),
    "must not contain wildcard characters",
  ],
  [
    "a federated subject that is no account",
    trust({ subject: "system:serviceaccount:mcp-server" }),
    "does not identify a Kubernetes service account",
  ],
  [
    "a foreign audience",
    trust({ audiences: ["api://mine"] }),
    "Audience 'api://mine' is not one that tokens are exchanged for",
  ],
  ["an issuer without TLS", trust({ issuer: "http://issuer" }), "The issuer must be an HTTPS URL."],
  [
    "the same trust twice",
    trust({ federatedIdentityCredentialResourceName: "again" }),
    "Issuer and subject combination already exists for this Managed Identity.",
    [trust({})],
  ],
  // Data
  [
    "a registry with a hyphen",
    azure("containerregistry:Registry", { registryName: "cr-test", sku: { name: "Basic" } }),
    "may contain alpha numeric characters only and must be between 5 and 50 characters",
  ],
  [
    "a registry's name that somebody has",
    azure("containerregistry:Registry", {
      resourceGroupName: "rg-two",
      registryName: "CrTest12345",
      sku: { name: "Basic" },
    }),
    "AlreadyInUse: The name 'CrTest12345' is already in use.",
    [azure("resources:ResourceGroup", { resourceGroupName: "rg-two", location: "eastus2" })],
  ],
  [
    "a closed Basic registry",
    azure("containerregistry:Registry", {
      registryName: "crtwo12345",
      sku: { name: "Basic" },
      publicNetworkAccess: "Disabled",
    }),
    "The registry SKU 'Basic' does not support disabling public network access",
  ],
  [
    "network rules of a Standard registry",
    azure("containerregistry:Registry", {
      registryName: "crtwo12345",
      sku: { name: "Standard" },
      networkRuleSet: { defaultAction: "Deny" },
    }),
    "does not support network rules",
  ],
  [
    "purge protection switched off",
    vault({ enablePurgeProtection: false }),
    'The property "enablePurgeProtection" cannot be set to false.',
  ],
  [
    "soft delete for a day",
    vault({ softDeleteRetentionInDays: 1 }),
    '"softDeleteRetentionInDays" must be between 7 and 90 days, and is 1',
  ],
  [
    "a vault with doubled hyphens",
    vault({}, { vaultName: "kv--test" }),
    "VaultNameNotValid: The vault name 'kv--test' is invalid.",
  ],
  ["recovery of a vault that nobody deleted", vault({ createMode: "recover" }), "VaultNotFound"],
  [
    "a private range in a vault's firewall",
    vault({ networkAcls: { ipRules: [{ value: "10.0.0.0/8" }] } }),
    "is in a private address range (RFC 1918)",
  ],
  [
    "a vault's subnet without service endpoint",
    vault({ networkAcls: { virtualNetworkRules: [{ id: NODES }] } }),
    "do not have ServiceEndpoints for Microsoft.KeyVault resources configured",
  ],
  [
    "messaging partitions on Standard",
    azure("servicebus:Namespace", {
      namespaceName: "sbns-two",
      sku: { name: "Standard" },
      premiumMessagingPartitions: 1,
    }),
    "PremiumMessagingPartitions is only supported for Premium SKU namespaces",
  ],
  [
    "a closed Standard namespace",
    azure("servicebus:Namespace", {
      namespaceName: "sbns-two",
      sku: { name: "Standard" },
      publicNetworkAccess: "Disabled",
    }),
    "can only be disabled with the Premium SKU",
  ],
  ["a lock for an hour", queue({ lockDuration: "PT1H" }), "The value 'PT1H' of lockDuration of queue jobs is invalid"],
  ["a duration in seconds", queue({ lockDuration: "60" }), "give an ISO 8601 duration"],
  ["large messages on Standard", queue({ maxMessageSizeInKilobytes: 1024 }), "can only be set for Premium namespaces"],
  ["a queue of an odd size", queue({ maxSizeInMegabytes: 1000 }), "The specified value '1000' of maxSizeInMegabytes"],
  [
    "an account in capitals",
    azure("storage:StorageAccount", { accountName: "stJobs", kind: "StorageV2", sku: { name: "Standard_LRS" } }),
    "AccountNameInvalid: stJobs is not a valid storage account name.",
  ],
  [
    "files on a standard SKU",
    azure("storage:StorageAccount", { accountName: "sttwo", kind: "FileStorage", sku: { name: "Standard_LRS" } }),
    "does not go with kind FileStorage",
  ],
  [
    "a table among files",
    azure("storage:Table", { accountName: "stfiles", tableName: "jobs" }),
    "Table is not supported for the account.",
  ],
  ["a small premium share", share({ shareQuota: 50 }), "must be 100 to 102400 GiB on a premium account, and is 50"],
  ["NFS on a general account", share({}, "stjobs"), "NFS is not supported for the account."],
  [
    "NFS with secure transfer",
    share({}, "sttls"),
    "HttpsTrafficOnlyNotSupportedWithNfs",
    [
      azure("storage:StorageAccount", {
        accountName: "sttls",
        kind: "FileStorage",
        sku: { name: "Premium_LRS" },
        publicNetworkAccess: "Disabled",
      }),
    ],
  ],
  [
    "an account open to a range of one address",
    azure("storage:StorageAccount", {
      accountName: "stone",
      kind: "StorageV2",
      sku: { name: "Standard_LRS" },
      networkRuleSet: { defaultAction: "Deny", ipRules: [{ action: "Allow", iPAddressOrRange: "20.30.40.50/32" }] },
    }),
    "prefixes /31 and /32 are not supported",
  ],
  [
    "a container in capitals",
    azure("storage:BlobContainer", { accountName: "stjobs", containerName: "Jobs" }),
    "A container's name has 3 to 63 lower-case letters",
  ],
  [
    "a container among premium files",
    azure("storage:BlobContainer", { accountName: "stfiles", containerName: "jobs" }),
    "Blob is not supported for the account",
  ],
  [
    "a container open to everyone",
    azure("storage:BlobContainer", { accountName: "stjobs", containerName: "jobs", publicAccess: "Blob" }),
    "PublicAccessNotPermitted: Public access is not permitted on this storage account",
  ],
  ["a lifecycle that does nothing", lifecycle({ actions: { baseBlob: {} } }), "Rule 'old' has no action"],
  [
    "a lifecycle without days",
    lifecycle({ actions: { baseBlob: { delete: {} } } }),
    "Action 'delete' of rule 'old' needs a condition",
  ],
  [
    "a lifecycle of page blobs",
    lifecycle({ filters: { blobTypes: ["pageBlob"] } }),
    "names a blob type other than blockBlob and appendBlob",
  ],
  [
    "NFS open to the internet",
    share({}, "stopen"),
    "can be mounted from a virtual network only",
    [
      azure("storage:StorageAccount", {
        accountName: "stopen",
        kind: "FileStorage",
        sku: { name: "Premium_LRS" },
        enableHttpsTrafficOnly: false,
      }),
    ],
  ],
  [
    "Redis of a retired SKU",
    azure("redisenterprise:RedisEnterprise", {
      clusterName: "amr-two",
      sku: { name: "Enterprise_E10" },
      publicNetworkAccess: "Enabled",
    }),
    "is not a SKU of Azure Managed Redis",
  ],
  ["Redis on its old port", redisDatabase({ port: 6380 }), "Azure Managed Redis listens on port 10000"],
  [
    "a Redis database of another name",
    redisDatabase({ databaseName: "cache" }),
    "must be named 'default', not 'cache'",
  ],
  [
    "Redis access without saying to whom",
    azure("redisenterprise:AccessPolicyAssignment", {
      clusterName: "amr-test",
      databaseName: "default",
      accessPolicyAssignmentName: "one",
      accessPolicyName: "default",
      user: {},
    }),
    "Required parameter user.objectId is missing",
    [redisDatabase({})],
  ],
  // Telemetry
  [
    "logs kept for a week",
    azure("operationalinsights:Workspace", { workspaceName: "log-two", retentionInDays: 7 }),
    "'RetentionInDays' property doesn't match the SKU limits",
  ],
  [
    "Application Insights without workspace",
    azure("applicationinsights:Component", { resourceName: "appi", kind: "web", applicationType: "web" }),
    "classic Application Insights resources can no longer be created",
  ],
  [
    "a log category that the type lacks",
    diagnostics(REGISTRY, { logs: [{ category: "AuditEvent", enabled: true }] }),
    "BadRequest: Category 'AuditEvent' is not supported.",
  ],
  [
    "a metric of storage accounts' on a registry",
    diagnostics(REGISTRY, { metrics: [{ category: "Transaction" }] }),
    "Metric category 'Transaction' is not supported.",
  ],
  [
    "an alert to a metric that the type lacks",
    metricAlert({ metricName: "DeadLetterMessages" }),
    "couldn't find a metric named 'DeadLetterMessages' of Microsoft.ServiceBus/namespaces",
  ],
  [
    "an alert to the sum of what is a level",
    metricAlert({ timeAggregation: "Total" }),
    "the metric has no aggregation 'Total'",
  ],
  [
    "an alert by a dimension that the metric lacks",
    metricAlert({ dimensions: [{ name: "QueueName", operator: "Include", values: ["jobs"] }] }),
    "the metric has no dimension 'QueueName'",
  ],
  ["an alert in a region", metricAlert({}, { location: "eastus2" }), "location must be 'global', not 'eastus2'"],
  ["an alert that looks at less than it waits", metricAlert({}, { windowSize: "PT1M" }), "windowSize no shorter"],
  [
    "an alert told to nobody that is there",
    metricAlert({}, { actions: [{ actionGroupId: ACTION_GROUP }] }),
    "The Resource 'Microsoft.Insights/actionGroups/ag-test' under resource group 'rg-test' was not found",
  ],
  [
    "an alert told to what is no action group",
    metricAlert({}, { actions: [{ actionGroupId: BUS }] }),
    "actions",
    [actionGroup({})],
  ],
  [
    "people under a name that is too long",
    actionGroup({ groupShortName: "mcp-production" }),
    "groupShortName 'mcp-production' must have 1 to 12 characters",
  ],
  ["people in a region", actionGroup({ location: "eastus2" }), "location must be 'global', not 'eastus2'"],
  [
    "people who are named twice",
    actionGroup({
      emailReceivers: [
        { name: "oncall", emailAddress: "oncall@example.com" },
        { name: "OnCall", emailAddress: "ops@example.com" },
      ],
    }),
    "receiver names must be unique, and 'oncall' is not",
  ],
  [
    "people without an address",
    actionGroup({ emailReceivers: [{ name: "oncall", emailAddress: "oncall" }] }),
    "'oncall' is not a valid email address",
  ],
  [
    "logs to nowhere",
    diagnostics(REGISTRY, { workspaceId: undefined }),
    "At least one data sink needs to be specified.",
  ],
  // The audit trail
  [
    "a table without a time",
    logTable({ columns: [{ name: "Line", type: "string" }] }),
    "has no column 'TimeGenerated' of type 'datetime'",
  ],
  [
    "a column that Log Analytics keeps for itself",
    logTable({ columns: [...LINES, { name: "TenantId", type: "string" }] }),
    "The column name 'TenantId' is invalid or reserved.",
  ],
  [
    "a table kept for three and a half years",
    logTable({}, { totalRetentionInDays: 1277 }),
    "'TotalRetentionInDays' of table Own_CL is 1277",
  ],
  ["a rule for a table that is not there", logRule({}), "InvalidOutputTable: Table for output stream", [logEntry]],
  [
    "a rule without its endpoint",
    logRule({}),
    "dataCollectionEndpoints/dce-test' under resource group 'rg-test' was not found",
    [logTable({})],
  ],
  [
    "a transformation whose columns the table does not have",
    logRule({ transformKql: "source | project TimeGenerated, Line, Other = tostring(Line)" }),
    "InvalidTransformOutput: Types of transform output columns do not match",
    [logTable({}), logEntry],
  ],
  [
    "an immutable copy that is locked from the start",
    logCopy({ state: "Locked" }),
    "can only be created in state Disabled or Unlocked",
  ],
  [
    "an export of a table that is not there",
    logExport,
    "The table 'Own_CL' does not exist in workspace log-test.",
    [logCopy({})],
  ],
  [
    "an immutable account without versions",
    azure("storage:BlobServiceProperties", {
      accountName: "staudit",
      blobServicesName: "default",
      isVersioningEnabled: false,
    }),
    "Versioning cannot be disabled on account staudit",
    [logCopy({})],
  ],
  // AKS
  [
    "a cluster without identity",
    cluster({ identity: undefined }),
    "Required parameter servicePrincipalProfile is missing (null).",
  ],
  [
    "a cluster of an old version",
    cluster({ kubernetesVersion: "1.29" }),
    "K8sVersionNotSupported: Managed cluster aks-test is on version 1.29",
  ],
  [
    "a cluster without system pool",
    cluster({ agentPoolProfiles: [{ ...pool, mode: "User" }] }),
    "Must define at least one system agent pool.",
  ],
  [
    "a pool with a hyphen",
    cluster({ agentPoolProfiles: [{ ...pool, name: "system-1" }] }),
    "Agent pool name 'system-1' is invalid",
  ],
  [
    "a pool that scales from 3 to 1",
    cluster({ agentPoolProfiles: [{ ...pool, enableAutoScaling: true, minCount: 3, maxCount: 1 }] }),
    "needs minCount <= maxCount, not 3 and 1",
  ],
  [
    "a system pool with a taint of its own",
    cluster({ agentPoolProfiles: [{ ...pool, nodeTaints: ["dedicated=mcp:NoSchedule"] }] }),
    "takes no hard taint but CriticalAddonsOnly=true:NoSchedule",
  ],
  [
    "nodes in a subnet that nobody made",
    cluster({ agentPoolProfiles: [{ ...pool, vnetSubnetID: `${VNET}/subnets/gone` }] }),
    "ResourceNotFound: The Resource 'Microsoft.Network/virtualNetworks/vnet-test/subnets/gone'",
  ],
  [
    "an ephemeral disk where there is none",
    cluster({ agentPoolProfiles: [{ ...pool, vmSize: "Standard_D4s_v5", osDiskType: "Ephemeral" }] }),
    "has no local disk for an Ephemeral OS disk",
  ],
  [
    "local accounts off without Entra",
    cluster({ disableLocalAccounts: true }),
    "Disabling local accounts is only allowed on Microsoft Entra ID enabled clusters",
  ],
  [
    "workload identity without issuer",
    cluster({ securityProfile: { workloadIdentity: { enabled: true } } }),
    "Workload identity requires OIDC issuer to be enabled",
  ],
  [
    "ranges on a private cluster",
    cluster({ apiServerAccessProfile: { enablePrivateCluster: true, authorizedIPRanges: ["203.0.113.1/32"] } }),
    "API server authorized IP ranges are not supported for a private cluster",
  ],
  [
    "a private cluster that no name leads to",
    cluster({
      apiServerAccessProfile: {
        enablePrivateCluster: true,
        privateDNSZone: "none",
        enablePrivateClusterPublicFQDN: false,
      },
    }),
    "leaves the API server without a name",
  ],
  [
    "Cilium policies on another data plane",
    cluster({ networkProfile: { networkPlugin: "azure", networkPolicy: "cilium" } }),
    "networkPolicy 'cilium' requires networkDataplane 'cilium'",
  ],
  [
    "services over the nodes",
    cluster({
      agentPoolProfiles: [{ ...pool, vnetSubnetID: NODES }],
      networkProfile: { networkPlugin: "azure", serviceCidr: "10.83.0.0/24", dnsServiceIP: "10.83.0.10" },
    }),
    "ServiceCidrOverlapExistingSubnetsCidr: The specified service CIDR 10.83.0.0/24 is conflicted with an existing subnet CIDR 10.83.0.0/20.",
  ],
  [
    "a DNS address outside the services",
    cluster({ networkProfile: { serviceCidr: "172.29.0.0/16", dnsServiceIP: "10.0.0.10" } }),
    "The DNS service IP is not in the service CIDR 172.29.0.0/16",
  ],
  [
    "more nodes than the pods' range holds",
    cluster({
      agentPoolProfiles: [{ ...pool, count: 9 }],
      networkProfile: { networkPlugin: "azure", networkPluginMode: "overlay", podCidr: "172.28.0.0/21" },
    }),
    "is too small for 9 nodes of a /24 each",
  ],
  [
    "an API server in a subnet of nobody's",
    cluster({ apiServerAccessProfile: { enableVnetIntegration: true, subnetId: NODES } }),
    "must be delegated to Microsoft.ContainerService/managedClusters",
  ],
  [
    "an API server in a tiny subnet",
    cluster({ apiServerAccessProfile: { enableVnetIntegration: true, subnetId: `${VNET}/subnets/other` } }),
    "must be at least a /28, and is a /29",
    [
      subnet({
        addressPrefix: "10.83.32.0/29",
        delegations: [{ name: "aks", serviceName: "Microsoft.ContainerService/managedClusters" }],
      }),
    ],
  ],
  [
    "a kubelet identity that the cluster may not assign",
    cluster({
      identity: { type: "UserAssigned", userAssignedIdentities: [IDENTITY] },
      identityProfile: { kubeletidentity: kubelet() },
    }),
    "CustomKubeletIdentityMissingPermissionError: The cluster user assigned identity must be given permission to assign kubelet identity",
  ],
  [
    "a cluster that may not join its nodes' subnet",
    cluster({
      identity: { type: "UserAssigned", userAssignedIdentities: [IDENTITY] },
      agentPoolProfiles: [{ ...pool, vnetSubnetID: NODES }],
    }),
    "LinkedAuthorizationFailed: The cluster user assigned identity",
  ],
  [
    "a window of two hours",
    maintenance({ durationHours: 2, startTime: "02:00" }),
    "2 is not between 4 and 24.",
    [cluster({})],
  ],
  [
    "a window of another name",
    maintenance({ durationHours: 4, startTime: "02:00" }, "weekly"),
    "The maintenance configuration 'weekly' is not one of",
    [cluster({})],
  ],
];

function kubelet(): Properties {
  const { principalId: objectId, clientId } = subscription().read("azure-native:x:y", IDENTITY) ?? {};
  return { resourceId: IDENTITY, clientId, objectId };
}

describe("Azure in memory refuses", () => {
  test.each(REFUSALS.map((refusal) => ({ what: refusal[0], refusal })))(
    "$what",
    ({ refusal: [, request, sentence, before = []] }) => {
      const cloud = subscription();
      for (const earlier of before) cloud.create(earlier);
      expect(() => cloud.create(request)).toThrow(CloudError);
      expect(() => cloud.create(request)).toThrow(sentence);
    },
  );

  test("nothing of what stands already", () => {
    expect(() => subscription()).not.toThrow();
  });
});

describe("names", () => {
  const accepts = (request: CloudRequest) => {
    try {
      subscription().create(request);
      return true;
    } catch (error) {
      if (error instanceof CloudError && /Invalid|invalid/.test(error.code + error.message)) return false;
      throw error;
    }
  };
  const character = fc.constantFrom(..."abzABZ019-_.");
  const names = fc.string({ unit: character, minLength: 1, maxLength: 60 });

  test.each([
    [
      "registries",
      /^[a-zA-Z0-9]{5,50}$/,
      (n: string) => azure("containerregistry:Registry", { registryName: n, sku: { name: "Basic" } }),
    ],
    [
      "storage accounts",
      /^[a-z0-9]{3,24}$/,
      (n: string) =>
        azure("storage:StorageAccount", { accountName: n, kind: "StorageV2", sku: { name: "Standard_LRS" } }),
    ],
    [
      "identities",
      /^[a-zA-Z0-9][a-zA-Z0-9_-]{2,127}$/,
      (n: string) => azure("managedidentity:UserAssignedIdentity", { resourceName: n }),
    ],
  ] as const)("of %s are accepted exactly when they follow Azure's rule", (_, rule, request) => {
    fc.assert(
      fc.property(names, (name) => accepts(request(name)) === rule.test(name)),
      { numRuns: 200 },
    );
  });

  test("of vaults have no doubled hyphens and end in no hyphen", () => {
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(..."aZ0-"), minLength: 1, maxLength: 26 }), (name) => {
        const fine =
          name.length >= 3 &&
          name.length <= 24 &&
          /^[a-zA-Z]/.test(name) &&
          !name.includes("--") &&
          !name.endsWith("-");
        expect(accepts(vault({}, { vaultName: name }))).toBe(fine);
      }),
      { numRuns: 300 },
    );
  });
});

describe("Azure in memory answers", () => {
  test("ids, hosts and issuers in Azure's form", () => {
    const cloud = subscription();
    expect(cloud.read("azure-native:containerregistry:Registry", REGISTRY)?.loginServer).toBe("crtest12345.azurecr.io");
    const kv = cloud.create(vault({})).outputs.properties;
    expect(kv).toMatchObject({ vaultUri: "https://kv-test.vault.azure.net/" });
    const ip = cloud.create(address({ dnsSettings: { domainNameLabel: "mcp-dev" } })).outputs;
    expect(ip.dnsSettings).toMatchObject({ fqdn: "mcp-dev.eastus2.cloudapp.azure.com" });
    expect(ip.ipAddress).toMatch(/^198\.51\.100\.\d+$/);
    const aks = cloud.create(cluster({ oidcIssuerProfile: { enabled: true } })).outputs;
    expect(aks.oidcIssuerProfile).toMatchObject({
      issuerURL: expect.stringMatching(
        /^https:\/\/eastus2\.oic\.prod-aks\.azure\.com\/[0-9a-f-]{36}\/[0-9a-f-]{36}\/$/,
      ),
    });
    expect(cloud.create(grant({})).outputs.createdOn).toMatch(/^2020-/);
  });

  test("the same to the same requests", () => {
    const answers = () => {
      const cloud = subscription();
      return [vault({}), address({}), cluster({}), grant({})].map((request) => cloud.create(request));
    };
    expect(answers()).toEqual(answers());
  });

  test("cluster users with a kubeconfig that asks Entra", () => {
    const cloud = subscription();
    cloud.create(cluster({}));
    const token = "azure-native:containerservice:listManagedClusterUserCredentials";
    const answer = cloud.invoke(token, { resourceGroupName: GROUP, resourceName: "aks-test", format: "exec" });
    const [first] = answer.kubeconfigs as { value: string }[];
    const kubeconfig = Buffer.from(first?.value ?? "", "base64").toString();
    expect(kubeconfig).toContain('"command": "kubelogin"');
    expect(() => cloud.invoke(token, { resourceGroupName: GROUP, resourceName: "gone" })).toThrow("ResourceNotFound");
  });
});

describe("over its life", () => {
  test("a resource is read as it was made, changed in place, and gone after its deletion", () => {
    const cloud = subscription();
    const { id, outputs } = cloud.create(vault({ softDeleteRetentionInDays: 7 }));
    expect(cloud.read("azure-native:keyvault:Vault", id)).toEqual(outputs);
    const updated = cloud.update(id, vault({ softDeleteRetentionInDays: 7, publicNetworkAccess: "Disabled" }));
    expect(updated.id).toBe(id);
    expect(cloud.read("azure-native:keyvault:Vault", id)).toEqual(updated.outputs);
    cloud.delete("azure-native:keyvault:Vault", id);
    expect(cloud.read("azure-native:keyvault:Vault", id)).toBeUndefined();
  });

  test("a deleted vault keeps its name", () => {
    const cloud = subscription();
    const { id } = cloud.create(vault({}));
    cloud.delete("azure-native:keyvault:Vault", id);
    expect(() => cloud.create(vault({}))).toThrow(
      "ConflictError: A vault with the same name already exists in deleted state.",
    );
    expect(() => cloud.create(vault({ createMode: "recover" }))).not.toThrow();
  });

  test("what replaces a resource is refused as an update, and named for a provider's diff", () => {
    const cloud = subscription();
    const first = cluster({ networkProfile: { networkPlugin: "azure", podCidr: "172.28.0.0/16" } });
    const { id } = cloud.create(first);
    const changed = cluster({ networkProfile: { networkPlugin: "azure", podCidr: "172.27.0.0/16" } });
    expect(() => cloud.update(id, changed)).toThrow(
      "PropertyChangeNotAllowed: Changing property 'networkProfile.podCidr'",
    );
    expect(cloud.replacedBy(first.type)).toEqual(
      expect.arrayContaining(["location", "resourceName", "networkProfile.podCidr"]),
    );
  });

  test("a subnet that a cluster's nodes are in cannot go before the cluster", () => {
    const cloud = subscription();
    const own = { type: "UserAssigned", userAssignedIdentities: [IDENTITY] };
    cloud.create(grant({ scope: NODES, roleDefinitionId: role(NETWORK_CONTRIBUTOR) }));
    const { id } = cloud.create(cluster({ identity: own, agentPoolProfiles: [{ ...pool, vnetSubnetID: NODES }] }));
    expect(() => cloud.delete("azure-native:network:Subnet", NODES)).toThrow(
      "InUseSubnetCannotBeDeleted: Subnet nodes is in use by",
    );
    cloud.delete("azure-native:containerservice:ManagedCluster", id);
    expect(() => cloud.delete("azure-native:network:Subnet", NODES)).not.toThrow();
  });

  test("a group takes everything in it along, and a second deletion finds nothing to do", () => {
    const cloud = subscription();
    const id = `${SUBSCRIPTION}/resourceGroups/${GROUP}`;
    cloud.delete("azure-native:resources:ResourceGroup", id);
    expect(cloud.read("azure-native:network:VirtualNetwork", VNET)).toBeUndefined();
    expect(() => cloud.delete("azure-native:resources:ResourceGroup", id)).not.toThrow();
  });
});

describe("a lock", () => {
  test("keeps what it is on, and what that contains, until it is gone itself", () => {
    const cloud = subscription();
    const { id: table } = cloud.create(logTable({}));
    const lock = cloud.create(
      azure("authorization:ManagementLockByScope", { scope: LOGS, lockName: "kept", level: "CanNotDelete" }),
    );
    for (const [type, id] of [
      ["operationalinsights:Table", table],
      ["operationalinsights:Workspace", LOGS],
    ] as const) {
      expect(() => cloud.delete(`azure-native:${type}`, id)).toThrow("ScopeLocked");
    }
    cloud.delete("azure-native:authorization:ManagementLockByScope", lock.id);
    expect(() => cloud.delete("azure-native:operationalinsights:Workspace", LOGS)).not.toThrow();
  });
});

describe("once everything is there", () => {
  test("an export to an account that does not let Azure Monitor in is found", () => {
    const cloud = subscription();
    cloud.create(logTable({}));
    cloud.create(logCopy({}, { networkRuleSet: { defaultAction: "Deny", bypass: "None" } }));
    cloud.create(logExport);
    expect(cloud.verify().map((fault) => fault.message)).toContainEqual(
      expect.stringContaining("admits no Azure services"),
    );
  });

  test("a role on a resource where it permits nothing is found", () => {
    const cloud = subscription();
    cloud.create(grant({ scope: BUS }));
    expect(
      cloud
        .verify()
        .map((fault) => fault.message)
        .join(),
    ).toContain('the role "AcrPull" permits nothing on');
  });

  test("a network that lists its subnets beside Subnet resources is found", () => {
    const cloud = subscription();
    const name = "vnet-mixed";
    const range = { addressSpace: { addressPrefixes: ["10.9.0.0/16"] } };
    cloud.create(
      azure("network:VirtualNetwork", {
        virtualNetworkName: name,
        ...range,
        subnets: [{ name: "a", addressPrefix: "10.9.0.0/24" }],
      }),
    );
    cloud.create(azure("network:Subnet", { virtualNetworkName: name, subnetName: "b", addressPrefix: "10.9.1.0/24" }));
    expect(
      cloud
        .verify()
        .map((fault) => fault.message)
        .join(),
    ).toContain("its next update deletes the subnet b");
  });
});
