import type { PlannedResource } from "./plan.ts";
import { at, numberAt, objectAt, objectsAt, type Properties, textAt, textMapAt, textsAt } from "./values.ts";

type Facts = (inputs: Properties) => readonly (string | false | undefined)[];

/** What matters of a resource in a few words: its size, its SKU, how many, how it is reached. */
export function factsOf({ type, inputs, options }: PlannedResource): string[] {
  const facts = FACTS[type]?.(inputs) ?? (type.startsWith("kubernetes:") ? [objectName(inputs)] : []);
  return [...facts, options?.protect === true && "protected", options?.retainOnDelete === true && "retained"].filter(
    (fact): fact is string => typeof fact === "string" && fact !== "",
  );
}

function objectName(inputs: Properties): string {
  return [textAt(inputs, "metadata.namespace"), textAt(inputs, "metadata.name")].filter(Boolean).join("/");
}

const text = (inputs: Properties, path: string) => {
  const value = at(inputs, path);
  return typeof value === "string" || typeof value === "number" ? String(value) : undefined;
};
const closed = (inputs: Properties) => inputs.publicNetworkAccess === "Disabled" && "no public access";

function nodes(pool: Properties): string {
  const { minCount, maxCount, count } = pool;
  const zones = textsAt(pool, "availabilityZones");
  const howMany = pool.enableAutoScaling === true ? `${String(minCount)}-${String(maxCount)}` : String(count);
  const taint = textsAt(pool, "nodeTaints").length > 0 ? ", tainted" : "";
  return `${howMany} × ${String(pool.vmSize)}${zones.length > 0 ? `, zones ${zones.join(",")}` : ""}${taint}`;
}

/** The last part of an id or a chart's address. */
const last = (id: string | undefined) => id?.split("/").at(-1);

const chart: Facts = (inputs) => [
  `${last(text(inputs, "chart"))} ${text(inputs, "version")}`,
  text(inputs, "namespace"),
];

const FACTS: Readonly<Record<string, Facts>> = {
  "azure-native:resources:ResourceGroup": (i) => [text(i, "resourceGroupName"), text(i, "location")],
  "azure-native:network:VirtualNetwork": (i) => [textsAt(i, "addressSpace.addressPrefixes").join(", ")],
  "azure-native:network:Subnet": (i) => [
    text(i, "addressPrefix") ?? textsAt(i, "addressPrefixes").join(", "),
    objectsAt(i, "delegations")
      .map((d) => `for ${last(String(d.serviceName))}`)
      .join(", "),
    objectsAt(i, "serviceEndpoints")
      .map((e) => String(e.service))
      .join(", "),
  ],
  "azure-native:network:NetworkSecurityGroup": (i) => [plural(objectsAt(i, "securityRules").length, "rule")],
  "azure-native:network:PublicIPAddress": (i) => [
    text(i, "sku.name"),
    text(i, "dnsSettings.domainNameLabel"),
    textsAt(i, "zones").length > 0 && `zones ${textsAt(i, "zones").join(",")}`,
  ],
  "azure-native:network:VirtualNetworkPeering": (i) => [`to ${last(text(i, "remoteVirtualNetwork.id"))}`],
  "azure-native:network:PrivateEndpoint": (i) => [
    objectsAt(i, "privateLinkServiceConnections")
      .map((c) => `${textsAt(c, "groupIds").join(",")} of ${last(text(c, "privateLinkServiceId"))}`)
      .join("; "),
  ],
  "azure-native:privatedns:PrivateZone": (i) => [text(i, "privateZoneName")],
  "azure-native:containerregistry:Registry": (i) => [
    text(i, "registryName"),
    text(i, "sku.name"),
    closed(i),
    ranges(objectsAt(i, "networkRuleSet.ipRules").length),
  ],
  "azure-native:containerservice:ManagedCluster": (i) => [
    text(i, "sku.tier"),
    `Kubernetes ${text(i, "kubernetesVersion")}`,
    [
      text(i, "networkProfile.networkPlugin"),
      text(i, "networkProfile.networkPluginMode"),
      text(i, "networkProfile.networkDataplane"),
    ]
      .filter(Boolean)
      .join("/"),
    ...objectsAt(i, "agentPoolProfiles").map((pool) => `${String(pool.name)} ${nodes(pool)}`),
    at(i, "apiServerAccessProfile.enablePrivateCluster") === true
      ? "private API server"
      : ranges(textsAt(i, "apiServerAccessProfile.authorizedIPRanges").length),
  ],
  "azure-native:containerservice:AgentPool": (i) => [`${text(i, "agentPoolName")} ${nodes(i)}`],
  "azure-native:containerservice:MaintenanceConfiguration": (i) => [
    `${text(i, "maintenanceWindow.schedule.weekly.dayOfWeek")} ${text(i, "maintenanceWindow.startTime")} UTC`,
  ],
  "azure-native:keyvault:Vault": (i) => [
    text(i, "vaultName"),
    `soft delete ${text(i, "properties.softDeleteRetentionInDays")} days`,
    at(i, "properties.enablePurgeProtection") === true && "purge protection",
    at(i, "properties.publicNetworkAccess") === "Disabled" && "no public access",
  ],
  "azure-native:keyvault:Secret": (i) => [text(i, "secretName")],
  "azure-native:servicebus:Namespace": (i) => [text(i, "namespaceName"), text(i, "sku.name"), closed(i)],
  "azure-native:servicebus:Queue": (i) => [
    text(i, "queueName"),
    `lock ${text(i, "lockDuration")}`,
    `${text(i, "maxDeliveryCount")} deliveries`,
    i.requiresSession === true && "in order",
  ],
  "azure-native:storage:StorageAccount": (i) => [
    text(i, "accountName"),
    text(i, "kind"),
    text(i, "sku.name"),
    closed(i),
    at(i, "immutableStorageWithVersioning.enabled") === true &&
      `immutable for ${text(i, "immutableStorageWithVersioning.immutabilityPolicy.immutabilityPeriodSinceCreationInDays")} days`,
  ],
  "azure-native:storage:FileShare": (i) => [text(i, "enabledProtocols"), `${text(i, "shareQuota")} GiB`],
  "azure-native:storage:BlobContainer": (i) => [text(i, "containerName"), i.publicAccess === "None" && "private"],
  "azure-native:storage:ManagementPolicy": (i) =>
    objectsAt(i, "policy.rules").map((rule) => {
      const days = text(rule, "definition.actions.baseBlob.delete.daysAfterModificationGreaterThan");
      return `deletes ${textsAt(rule, "definition.filters.prefixMatch").join(", ")} after ${days} days`;
    }),
  "azure-native:storage:Table": (i) => [text(i, "tableName")],
  "azure-native:redisenterprise:RedisEnterprise": (i) => [
    text(i, "clusterName"),
    text(i, "sku.name"),
    i.highAvailability === "Enabled" ? "highly available" : "one node",
    closed(i),
  ],
  "azure-native:redisenterprise:Database": (i) => [text(i, "clusteringPolicy"), `port ${text(i, "port")}`],
  "azure-native:managedidentity:UserAssignedIdentity": (i) => [text(i, "resourceName")],
  "azure-native:managedidentity:FederatedIdentityCredential": (i) => [text(i, "subject")],
  "azure-native:authorization:RoleAssignment": (i) => [`on ${last(text(i, "scope"))}`],
  "azure-native:authorization:RoleDefinition": (i) => [text(i, "roleName")],
  "azure-native:operationalinsights:Workspace": (i) => [text(i, "sku.name"), `${text(i, "retentionInDays")} days`],
  "azure-native:operationalinsights:Table": (i) => [
    text(i, "tableName"),
    plural(objectsAt(i, "schema.columns").length, "column"),
    `${text(i, "totalRetentionInDays")} days`,
  ],
  "azure-native:operationalinsights:DataExport": (i) => [
    `${textsAt(i, "tableNames").join(", ")} to ${last(text(i, "resourceId"))}`,
  ],
  "azure-native:monitor:MetricAlert": (i) => [
    ...objectsAt(i, "criteria.allOf").map((c) => `${text(c, "metricName")} above ${text(c, "threshold")}`),
    ...objectsAt(i, "actions").map((action) => `tells ${last(text(action, "actionGroupId"))}`),
  ],
  "azure-native:monitor:ActionGroup": (i) => [
    text(i, "actionGroupName"),
    plural(objectsAt(i, "emailReceivers").length, "e-mail"),
  ],
  "azure-native:monitor:DataCollectionRule": (i) => [Object.keys(objectAt(i, "streamDeclarations")).join(", ")],
  "azure-native:authorization:ManagementLockByScope": (i) => [text(i, "level"), `on ${last(text(i, "scope"))}`],
  "azure-native:applicationinsights:Component": (i) => [text(i, "ingestionMode")],
  "azure-native:monitor:DiagnosticSetting": (i) => [
    [...objectsAt(i, "logs"), ...objectsAt(i, "metrics")].map((l) => String(l.category ?? l.categoryGroup)).join(", "),
  ],
  "azuread:index/application:Application": (i) => [
    text(i, "displayName"),
    text(i, "signInAudience"),
    count(objectsAt(i, "api.oauth2PermissionScopes").length, "scope"),
    count(objectsAt(i, "appRoles").length, "app role"),
    count(textsAt(i, "publicClient.redirectUris").length, "redirect URI"),
  ],
  "azuread:index/applicationIdentifierUri:ApplicationIdentifierUri": (i) => [text(i, "identifierUri")],
  "azuread:index/applicationPreAuthorized:ApplicationPreAuthorized": (i) => [text(i, "authorizedClientId")],
  "azuread:index/servicePrincipal:ServicePrincipal": (i) => [
    i.appRoleAssignmentRequired === true && "assignment required",
  ],
  "azuread:index/appRoleAssignment:AppRoleAssignment": (i) => [`to ${text(i, "principalObjectId")}`],
  "docker:index/image:Image": (i) => [text(i, "imageName"), text(i, "build.platform")],
  "random:index/randomString:RandomString": (i) => [`${text(i, "length")} characters`],
  "random:index/randomPassword:RandomPassword": (i) => [`${text(i, "length")} characters`],
  "random:index/randomBytes:RandomBytes": (i) => [`${text(i, "length")} bytes`],
  "kubernetes:helm.sh/v3:Release": chart,
  "kubernetes:helm.sh/v4:Chart": chart,
  "kubernetes:core/v1:Namespace": (i) => {
    const level = textMapAt(i, "metadata.labels")["pod-security.kubernetes.io/enforce"];
    return [objectName(i), level && `Pod Security ${level}`];
  },
  "kubernetes:scheduling.k8s.io/v1:PriorityClass": (i) => [text(i, "metadata.name"), `priority ${text(i, "value")}`],
  "kubernetes:core/v1:ResourceQuota": (i) => [
    objectName(i),
    `${text(i, "spec.hard.pods")} pods`,
    Object.entries(objectAt(i, "spec.hard"))
      .filter(([key]) => key.startsWith("requests."))
      .map(([key, value]) => `${String(value)} ${key.slice("requests.".length)}`)
      .join(", "),
  ],
  "kubernetes:core/v1:Secret": (i) => [objectName(i), "values not shown"],
  "kubernetes:core/v1:ConfigMap": (i) => [objectName(i), plural(Object.keys(objectAt(i, "data")).length, "key")],
  "kubernetes:core/v1:Service": (i) => [
    objectName(i),
    text(i, "spec.type"),
    objectsAt(i, "spec.ports")
      .map((p) => String(p.port))
      .join(","),
  ],
  "kubernetes:core/v1:PersistentVolume": (i) => [
    objectName(i),
    text(i, "spec.capacity.storage"),
    text(i, "spec.csi.driver"),
  ],
  "kubernetes:core/v1:PersistentVolumeClaim": (i) => [objectName(i), text(i, "spec.resources.requests.storage")],
  "kubernetes:apps/v1:Deployment": (i) => {
    const replicas = numberAt(i, "spec.replicas");
    return [
      objectName(i),
      replicas === undefined ? "scaled" : plural(replicas, "replica"),
      ...objectsAt(i, "spec.template.spec.containers").map((c) => String(c.image)),
    ];
  },
  "kubernetes:keda.sh/v1alpha1:ScaledObject": (i) => [
    objectName(i),
    `${text(i, "spec.minReplicaCount") ?? "0"}-${text(i, "spec.maxReplicaCount") ?? "100"} replicas`,
    `by ${objectsAt(i, "spec.triggers")
      .map((t) => String(t.type))
      .join(", ")}`,
  ],
  "kubernetes:gateway.networking.k8s.io/v1:Gateway": (i) => [
    objectName(i),
    objectsAt(i, "spec.listeners")
      .map((l) => `${String(l.name)}:${String(l.port)}`)
      .join(", "),
  ],
  "kubernetes:gateway.networking.k8s.io/v1:HTTPRoute": (i) => [objectName(i), textsAt(i, "spec.hostnames").join(", ")],
  "kubernetes:cert-manager.io/v1:Certificate": (i) => [
    textsAt(i, "spec.dnsNames").join(", "),
    `by ${text(i, "spec.issuerRef.name")}`,
  ],
  "kubernetes:cert-manager.io/v1:ClusterIssuer": (i) => [text(i, "metadata.name"), text(i, "spec.acme.server")],
};

function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

function count(number: number, noun: string): string | undefined {
  return number === 0 ? undefined : plural(number, noun);
}

function ranges(of: number): string | undefined {
  return count(of, "authorised range");
}
