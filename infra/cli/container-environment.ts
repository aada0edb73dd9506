import {
  ConfigMap,
  type Container,
  type Deployment,
  type Manifest,
  objectsOf,
  Secret,
  secretValues,
} from "./kubernetes-objects.ts";

/** A pod that Kubernetes would not start. The message is the one `kubectl describe pod` would show. */
export class ContainerConfigError extends Error {
  override readonly name = "CreateContainerConfigError";
}

/** What `fieldRef` may ask of a pod that runs nowhere. */
export interface PodFields {
  readonly "metadata.name": string;
  readonly "metadata.namespace": string;
  readonly "metadata.uid": string;
  readonly "spec.nodeName": string;
  readonly "spec.serviceAccountName": string;
  readonly "status.hostIP": string;
  readonly "status.podIP": string;
}

/**
 * A container's environment as the kubelet makes it (kubernetes/pkg/kubelet/kubelet_pods.go, makeEnvironmentVariables):
 * `envFrom` first, in order, later sources winning; then `env`, whose `$(NAME)` see what came before them.
 *
 * @throws ContainerConfigError for a reference that leads nowhere and is not optional.
 */
export function containerEnvironment(
  container: Container,
  deployment: Deployment,
  manifests: readonly Manifest[],
): Record<string, string> {
  const namespace = deployment.metadata.namespace ?? "default";
  const valuesOf = (kind: "configmap" | "secret", name: string): Record<string, string> | undefined => {
    const here = ({ metadata }: { metadata: { name: string; namespace?: string | undefined } }) =>
      metadata.name === name && (metadata.namespace ?? "default") === namespace;
    if (kind === "configmap") return objectsOf(ConfigMap, manifests).find(here)?.data;
    const secret = objectsOf(Secret, manifests).find(here);
    return secret && secretValues(secret);
  };

  const environment: Record<string, string> = {};
  for (const { prefix, configMapRef, secretRef } of container.envFrom) {
    for (const [kind, ref] of [["configmap", configMapRef] as const, ["secret", secretRef] as const]) {
      if (!ref) continue;
      const values = valuesOf(kind, ref.name);
      if (!values && !ref.optional) throw new ContainerConfigError(`${kind} "${ref.name}" not found`);
      for (const [key, value] of Object.entries(values ?? {})) environment[prefix + key] = value;
    }
  }
  for (const { name, value, valueFrom } of container.env) {
    if (!valueFrom) {
      environment[name] = expand(value ?? "", environment);
      continue;
    }
    const { configMapKeyRef, secretKeyRef, fieldRef, resourceFieldRef } = valueFrom;
    for (const [kind, ref] of [["configmap", configMapKeyRef] as const, ["secret", secretKeyRef] as const]) {
      if (!ref) continue;
      const found = valuesOf(kind, ref.name);
      const text = found?.[ref.key];
      if (text !== undefined) environment[name] = text;
      else if (!ref.optional) {
        throw new ContainerConfigError(
          found
            ? `couldn't find key ${ref.key} in ${kind === "secret" ? "Secret" : "ConfigMap"} ${namespace}/${ref.name}`
            : `${kind} "${ref.name}" not found`,
        );
      }
    }
    if (fieldRef) environment[name] = podField(fieldRef.fieldPath, deployment);
    if (resourceFieldRef) environment[name] = resourceField(resourceFieldRef, container);
  }
  return environment;
}

/** `$(NAME)` becomes the variable's value, `$$(NAME)` the text `$(NAME)`, and a name that is not there stays. */
export function expand(text: string, environment: Readonly<Record<string, string>>): string {
  return text.replace(/\$\$|\$\(([^()]*)\)/g, (match, name: string | undefined) => {
    if (match === "$$") return "$";
    return name !== undefined && Object.hasOwn(environment, name) ? (environment[name] ?? match) : match;
  });
}

function podField(path: string, deployment: Deployment): string {
  const { metadata, spec } = deployment;
  const fields: PodFields = {
    "metadata.name": `${metadata.name}-6d4cf56db6-x2k9p`,
    "metadata.namespace": metadata.namespace ?? "default",
    "metadata.uid": "00000000-0000-4000-8000-000000000000",
    "spec.nodeName": "aks-system-12345678-vmss000000",
    "spec.serviceAccountName": spec.template.spec.serviceAccountName ?? "default",
    "status.hostIP": "10.0.0.4",
    "status.podIP": "10.244.0.17",
  };
  const known = Object.entries(fields).find(([name]) => name === path);
  if (known) return known[1];
  const [, kind, key] = /^metadata\.(labels|annotations)\['([^']+)'\]$/.exec(path) ?? [];
  if (kind === "labels" || kind === "annotations") return spec.template.metadata[kind]?.[key ?? ""] ?? "";
  throw new ContainerConfigError(`fieldPath "${path}" is not supported in environment variables`);
}

/** CPU in cores and memory in bytes, divided and rounded up, as Kubernetes does. */
function resourceField(
  { resource, divisor }: { resource: string; divisor?: string | undefined },
  container: Container,
): string {
  const [kind = "", name = ""] = resource.split(".");
  const given = kind === "limits" ? container.resources?.limits?.[name] : container.resources?.requests?.[name];
  if (given === undefined) throw new ContainerConfigError(`container ${container.name} sets no ${resource}`);
  return String(Math.ceil(quantity(given) / (divisor === undefined || divisor === "0" ? 1 : quantity(divisor))));
}

const UNITS: Readonly<Record<string, number>> = {
  "": 1,
  m: 1e-3,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
};

function quantity(text: string): number {
  const [, number = "", unit = ""] = /^([\d.]+)([A-Za-z]*)$/.exec(text) ?? [];
  const factor = UNITS[unit];
  if (number === "" || factor === undefined) throw new ContainerConfigError(`"${text}" is not a quantity`);
  return Number(number) * factor;
}
