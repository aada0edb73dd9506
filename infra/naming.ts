import { createHash } from "node:crypto";

/**
 * Azure names: the Cloud Adoption Framework's abbreviation, the workload, the stack; for names that the whole world
 * shares also a suffix. `mcp:name` has at most 6 characters, a stack at most 8, a suffix 5: the longest name that the
 * tightest rule (24 characters: vaults and storage accounts) has to hold.
 */
export interface NameParts {
  /** `mcp:name` */
  readonly name: string;
  readonly stack: string;
}

/** Characters of the random suffix behind names that are unique in all of Azure. */
export const SUFFIX_LENGTH = 5;

/** Abbreviations: Microsoft, "Abbreviation recommendations for Azure resources". */
const ABBREVIATIONS = {
  resourceGroup: "rg",
  nodeResourceGroup: "rg-nodes",
  virtualNetwork: "vnet",
  networkSecurityGroup: "nsg",
  publicIp: "pip",
  cluster: "aks",
  logWorkspace: "log",
  applicationInsights: "appi",
  dataCollectionEndpoint: "dce",
  dataCollectionRule: "dcr",
  metricAlert: "ma",
  actionGroup: "ag",
} as const;

const GLOBAL_ABBREVIATIONS = {
  registry: "cr",
  keyVault: "kv",
  serviceBus: "sbns",
  redis: "amr",
} as const;

export type LocalName = keyof typeof ABBREVIATIONS;
export type GlobalName = keyof typeof GLOBAL_ABBREVIATIONS;

/** A name unique within its subscription or resource group: `aks-mcp-dev`. */
export function localName(kind: LocalName, { name, stack }: NameParts): string {
  return `${ABBREVIATIONS[kind]}-${name}-${stack}`;
}

/** A user-assigned identity's name: `id-mcp-dev-keda`. */
export function identityName(purpose: string, { name, stack }: NameParts): string {
  return `id-${name}-${stack}-${purpose}`;
}

/** An Entra application's name, which people see when they log in: `mcp-dev`, `mcp-dev-ide`. */
export function applicationName({ name, stack }: NameParts, purpose?: string): string {
  return [name, stack, purpose].filter((part) => part !== undefined).join("-");
}

/** A private endpoint's name: `pep-mcp-dev-registry`. */
export function privateEndpointName(target: string, { name, stack }: NameParts): string {
  return `pep-${name}-${stack}-${target}`;
}

/** A name unique in all of Azure: `kv-mcp-dev-x7k2p`; a registry takes no hyphens: `crmcpdevx7k2p`. */
export function globalName(kind: GlobalName, { name, stack }: NameParts, suffix: string): string {
  const separator = kind === "registry" ? "" : "-";
  return [GLOBAL_ABBREVIATIONS[kind], name, stack, suffix].join(separator);
}

/** A storage account's name, lower-case letters and digits only: `stmcpdevjobx7k2p`. */
export function storageName(purpose: "job" | "wsp" | "aud", { name, stack }: NameParts, suffix: string): string {
  return `st${name}${stack}${purpose}${suffix}`;
}

/**
 * A DNS label that is known before anything exists, so that a preview already shows the endpoint, and that two
 * subscriptions do not fight over.
 */
export function defaultDnsLabel({ name, stack }: NameParts, subscriptionId: string): string {
  const digest = createHash("sha256").update(`${subscriptionId}/${name}/${stack}`).digest();
  return `${name}-${stack}-${digest.readUIntBE(0, 6).toString(36).slice(0, SUFFIX_LENGTH)}`;
}

/** Tags of every resource. A stack's own tags may add to them, not replace them. */
export function resourceTags(
  { name, stack }: NameParts,
  own: Readonly<Record<string, string>>,
): Record<string, string> {
  return { ...own, workload: name, environment: stack, "managed-by": "pulumi" };
}
