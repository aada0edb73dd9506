import { readFileSync } from "node:fs";
import { createRequire, findPackageJSON } from "node:module";
import { dirname, join } from "node:path";

/** A kind of object that the cluster serves. */
export interface Kind {
  /** Empty for the core group. */
  readonly group: string;
  readonly version: string;
  readonly kind: string;
  /** Lower-case, as in URLs and messages: `networkpolicies`. */
  readonly plural: string;
  readonly namespaced: boolean;
  /** Compiled from the API's own schema (ajv, standalone). */
  readonly validate: ValidateFunction;
}

export interface ValidateFunction {
  (data: unknown): boolean;
  errors?: readonly SchemaError[] | null;
}

export interface SchemaError {
  readonly instancePath: string;
  readonly keyword: string;
  readonly params: Readonly<Record<string, unknown>>;
  readonly message?: string;
}

/** Packages of schemas by API group; groups of Kubernetes itself are in the first. */
const PACKAGES: Readonly<Record<string, string>> = {
  "cert-manager.io": "@kubernetes-models/cert-manager",
  "acme.cert-manager.io": "@kubernetes-models/cert-manager",
  "gateway.networking.k8s.io": "@kubernetes-models/gateway-api",
  "gateway.envoyproxy.io": "@kubernetes-models/envoy-gateway",
  "keda.sh": "@kubernetes-models/keda",
  "eventing.keda.sh": "@kubernetes-models/keda",
  "monitoring.coreos.com": "@kubernetes-models/prometheus-operator",
  "cilium.io": "@kubernetes-models/cilium",
};
const CORE_PACKAGE = "kubernetes-models";

/** Groups that come with custom resource definitions and not with Kubernetes. */
export function isCustomGroup(group: string): boolean {
  return PACKAGES[group] !== undefined || (group.includes(".") && !group.endsWith(".k8s.io"));
}

const CLUSTER_SCOPED = new Set([
  "APIService",
  "CiliumClusterwideNetworkPolicy",
  "ClusterIssuer",
  "ClusterRole",
  "ClusterRoleBinding",
  "ClusterTriggerAuthentication",
  "CSIDriver",
  "CustomResourceDefinition",
  "GatewayClass",
  "IngressClass",
  "MutatingWebhookConfiguration",
  "Namespace",
  "Node",
  "PersistentVolume",
  "PriorityClass",
  "RuntimeClass",
  "StorageClass",
  "ValidatingAdmissionPolicy",
  "ValidatingAdmissionPolicyBinding",
  "ValidatingWebhookConfiguration",
  "VolumeAttributesClass",
  "VolumeSnapshotClass",
]);

const IRREGULAR_PLURALS: Readonly<Record<string, string>> = { Endpoints: "endpoints", EnvoyProxy: "envoyproxies" };

const require = createRequire(import.meta.url);
const known = new Map<string, Kind | undefined>();

/** The kind behind an object's `apiVersion` and `kind`; undefined where no schema of it is installed. */
export function kindOf(apiVersion: string, kind: string): Kind | undefined {
  const key = `${apiVersion} ${kind}`;
  if (!known.has(key)) known.set(key, load(apiVersion, kind));
  return known.get(key);
}

export function splitApiVersion(apiVersion: string): { group: string; version: string } {
  const slash = apiVersion.indexOf("/");
  return { group: apiVersion.slice(0, Math.max(slash, 0)), version: apiVersion.slice(slash + 1) };
}

/**
 * Schemas are loaded when first asked for, and without waiting: a whole API's would take longer than a plan, and the
 * clouds answer at once. The packages export them to `import` alone, hence the way around by their files.
 */
function load(apiVersion: string, kind: string): Kind | undefined {
  if (!/^[a-z0-9.-]+(\/[a-z0-9]+)?$/.test(apiVersion) || !/^[A-Za-z]+$/.test(kind)) return undefined;
  const { group, version } = splitApiVersion(apiVersion);
  const manifest = findPackageJSON(PACKAGES[group] ?? CORE_PACKAGE, import.meta.url);
  if (manifest === undefined) return undefined;
  const root = dirname(manifest);
  let model: string;
  try {
    model = readFileSync(join(root, apiVersion, `${kind}.js`), "utf8");
  } catch {
    return undefined;
  }
  const schema = /_schemas\/([A-Za-z0-9]+)/.exec(model)?.[1];
  if (schema === undefined) return undefined;
  const { validate } = require(join(root, "_schemas", `${schema}.js`)) as { validate: ValidateFunction };
  return { group, version, kind, plural: plural(kind), namespaced: !CLUSTER_SCOPED.has(kind), validate };
}

function plural(kind: string): string {
  const lower = kind.toLowerCase();
  const irregular = IRREGULAR_PLURALS[kind];
  if (irregular !== undefined) return irregular;
  if (/(s|x|ch)$/.test(lower)) return `${lower}es`;
  return /[^aeiou]y$/.test(lower) ? `${lower.slice(0, -1)}ies` : `${lower}s`;
}
