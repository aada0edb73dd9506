/** Azure's built-in roles that this project may grant, by id; source: Microsoft, "Azure built-in roles", 2026. */
export const BUILT_IN_ROLES: Readonly<Record<string, BuiltInRole>> = {
  "7f951dda-4ed3-4680-a7ca-43fe172d538d": { name: "AcrPull", on: ["Microsoft.ContainerRegistry/registries"] },
  "8311e382-0749-4cb8-b61a-304f252e45ec": { name: "AcrPush", on: ["Microsoft.ContainerRegistry/registries"] },
  "4633458b-17de-408a-b874-0445c86b69e6": { name: "Key Vault Secrets User", on: ["Microsoft.KeyVault/vaults"] },
  "b86a8fe4-44ce-4948-aee5-eccb2c155cd7": { name: "Key Vault Secrets Officer", on: ["Microsoft.KeyVault/vaults"] },
  "69a216fc-b8fb-44d8-bc22-1f3c2cd27a39": {
    name: "Azure Service Bus Data Sender",
    on: ["Microsoft.ServiceBus/namespaces"],
  },
  "4f6d3b9b-027b-4f4c-9142-0e5a2a2247e0": {
    name: "Azure Service Bus Data Receiver",
    on: ["Microsoft.ServiceBus/namespaces"],
  },
  "090c5cfd-751d-490a-894a-3ce6f1109419": {
    name: "Azure Service Bus Data Owner",
    on: ["Microsoft.ServiceBus/namespaces"],
  },
  "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3": {
    name: "Storage Table Data Contributor",
    on: ["Microsoft.Storage/storageAccounts"],
  },
  "ba92f5b4-2d11-453d-a403-e96b0029c9fe": {
    name: "Storage Blob Data Contributor",
    on: ["Microsoft.Storage/storageAccounts"],
  },
  "a235d3ee-5935-4cfb-8cc5-a3303ad5995e": {
    name: "Storage File Data SMB MI Admin",
    on: ["Microsoft.Storage/storageAccounts"],
  },
  "4d97b98b-1d4f-4787-a291-c67834d212e7": { name: "Network Contributor", on: ["Microsoft.Network"] },
  "b12aa53e-6015-4669-85d0-8515ebb3ae7f": {
    name: "Private DNS Zone Contributor",
    on: ["Microsoft.Network/privateDnsZones"],
  },
  "f1a07417-d97a-45cb-824c-7a7467783830": {
    name: "Managed Identity Operator",
    on: ["Microsoft.ManagedIdentity/userAssignedIdentities"],
  },
  "3913510d-42f4-4e42-8a64-420c390055eb": { name: "Monitoring Metrics Publisher", on: [] },
  "b1ff04bb-8a4e-4dc4-8eb5-8693973ce19b": {
    name: "Azure Kubernetes Service RBAC Cluster Admin",
    on: ["Microsoft.ContainerService/managedClusters"],
  },
  "4abbcc35-e782-43d8-92c5-2d3f1bd2253f": {
    name: "Azure Kubernetes Service Cluster User Role",
    on: ["Microsoft.ContainerService/managedClusters"],
  },
  "b24988ac-6180-42a0-ab88-20f7382dd24c": { name: "Contributor", on: [] },
  "acdd72a7-3385-48ef-bd42-f606fba81ae7": { name: "Reader", on: [] },
  "7f6c6a51-bcf8-42ba-9220-52d62157d7db": {
    name: "Azure Kubernetes Service RBAC Reader",
    on: ["Microsoft.ContainerService/managedClusters"],
  },
  "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9": { name: "User Access Administrator", on: [] },
  "f58310d9-a9f6-439a-9e8d-f62e7b41a168": { name: "Role Based Access Control Administrator", on: [] },
};

export interface BuiltInRole {
  readonly name: string;
  /** Resource types (or whole providers) below which the role's permissions mean anything; empty: everywhere. */
  readonly on: readonly string[];
}

/** Roles that a check asks for by name. */
export const ROLE = {
  acrPush: "8311e382-0749-4cb8-b61a-304f252e45ec",
  acrPull: "7f951dda-4ed3-4680-a7ca-43fe172d538d",
  networkContributor: "4d97b98b-1d4f-4787-a291-c67834d212e7",
  managedIdentityOperator: "f1a07417-d97a-45cb-824c-7a7467783830",
  privateDnsZoneContributor: "b12aa53e-6015-4669-85d0-8515ebb3ae7f",
  clusterAdmin: "b1ff04bb-8a4e-4dc4-8eb5-8693973ce19b",
  clusterUser: "4abbcc35-e782-43d8-92c5-2d3f1bd2253f",
  keyVaultSecretsOfficer: "b86a8fe4-44ce-4948-aee5-eccb2c155cd7",
} as const;

/** Roles that may read a queue's length: sender, receiver and owner of its data. */
export const QUEUE_READERS: readonly string[] = [
  "69a216fc-b8fb-44d8-bc22-1f3c2cd27a39",
  "4f6d3b9b-027b-4f4c-9142-0e5a2a2247e0",
  "090c5cfd-751d-490a-894a-3ce6f1109419",
];
