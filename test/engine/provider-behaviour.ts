import { replacingProperties } from "../../infra/rehearsal/azure/azure.ts";
import { entraReplacedBy } from "../../infra/rehearsal/entra/entra.ts";
import { isProperties, type Properties } from "../../infra/rehearsal/values.ts";
import { setWithin, UNKNOWN } from "./property-values.ts";

/** What sets one provider apart from another, seen from the engine: its word on changes, and its previews. */
export interface ProviderBehaviour {
  readonly name: string;
  /** npm package whose version the provider must have, or the engine refuses it. */
  readonly sdk: string;
  /** Whether a change of the input at `path` (`spec.selector`) makes a new resource of it. */
  replaces(type: string, path: string): boolean;
  /** Whether a change at `path` is none. */
  ignores?(type: string, path: string): boolean;
  /** Whether somebody else's addition inside of an input, such as a tag, counts as a change of it. */
  readonly additionsAreDrift: boolean;
  /** Properties inside of inputs that only Azure or the cluster can fill in, by path. */
  computedWithin?(type: string): readonly string[];
}

/**
 * What a preview can say of a resource's outputs: its inputs. Everything else is unknown; at the top level the SDK
 * concludes that by itself, inside of an object the provider has to say so.
 */
export function previewOutputs(behaviour: ProviderBehaviour, type: string, inputs: Properties): Properties {
  const outputs = structuredClone(inputs);
  for (const path of behaviour.computedWithin?.(type) ?? []) setWithin(outputs, path, UNKNOWN);
  return outputs;
}

/** Paths at which two property bags differ; a list counts as one value. */
export function changedPaths(before: unknown, after: unknown, path = ""): string[] {
  if (isProperties(before) && isProperties(after)) {
    return [...new Set([...Object.keys(before), ...Object.keys(after)])].flatMap((key) =>
      changedPaths(before[key], after[key], path === "" ? key : `${path}.${key}`),
    );
  }
  if (Array.isArray(before) && Array.isArray(after) && before.length === after.length) {
    return before.some((item, i) => changedPaths(item, after[i], path).length > 0) ? [path] : [];
  }
  return Object.is(before, after) ? [] : [path];
}

const AZURE_COMPUTED_WITHIN: Readonly<Record<string, readonly string[]>> = {
  "azure-native:containerservice:ManagedCluster": ["oidcIssuerProfile.issuerURL"],
  "azure-native:keyvault:Vault": ["properties.vaultUri"],
  "azure-native:keyvault:Secret": ["properties.secretUri", "properties.secretUriWithVersion"],
  "azure-native:network:PublicIPAddress": ["dnsSettings.fqdn"],
};

function under(path: string, roots: readonly string[]): boolean {
  return roots.some((root) => path === root || path.startsWith(`${root}.`));
}

const azureNative: ProviderBehaviour = {
  name: "azure-native",
  sdk: "@pulumi/azure-native",
  additionsAreDrift: true,
  replaces: (type, path) => under(path, replacingProperties(type)),
  computedWithin: (type) => AZURE_COMPUTED_WITHIN[type] ?? [],
};

const azuread: ProviderBehaviour = {
  name: "azuread",
  sdk: "@pulumi/azuread",
  additionsAreDrift: true,
  replaces: (type, path) => under(path, entraReplacedBy(type)),
};

// Source: pulumi-kubernetes, provider/pkg/provider/diff.go; the API's own immutable fields.
const KUBERNETES_REPLACED: Readonly<Record<string, readonly string[]>> = {
  "kubernetes:apps/v1:Deployment": ["spec.selector"],
  "kubernetes:core/v1:PersistentVolume": ["spec.csi"],
  "kubernetes:core/v1:PersistentVolumeClaim": ["spec.accessModes", "spec.storageClassName", "spec.volumeName"],
  "kubernetes:core/v1:Secret": ["type"],
  "kubernetes:helm.sh/v3:Release": ["name", "namespace"],
};

const kubernetes: ProviderBehaviour = {
  name: "kubernetes",
  sdk: "@pulumi/kubernetes",
  // Server-side apply: fields belong to whoever set them, and Pulumi looks at its own.
  additionsAreDrift: false,
  replaces: (type, path) =>
    ["apiVersion", "kind", "metadata.name", "metadata.namespace"].includes(path) ||
    under(path, KUBERNETES_REPLACED[type] ?? []),
};

const docker: ProviderBehaviour = {
  name: "docker",
  sdk: "@pulumi/docker",
  additionsAreDrift: false,
  replaces: () => false,
  // Credentials are new with every run and change nothing of the image; pulumi-docker compares the server alone.
  ignores: (_type, path) => ["registry.password", "registry.username"].includes(path),
};

const random: ProviderBehaviour = {
  name: "random",
  sdk: "@pulumi/random",
  additionsAreDrift: false,
  // Another alphabet or length is another value.
  replaces: () => true,
};

/** The providers that the program uses. */
export const PROVIDERS: readonly ProviderBehaviour[] = [azureNative, azuread, kubernetes, docker, random];
