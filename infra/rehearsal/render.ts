import { mkdir, readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { stringify } from "yaml";
import { CloudError } from "./cloud-error.ts";
import { isCustomGroup, kindOf, splitApiVersion } from "./kubernetes/kinds.ts";
import type { Plan, PlannedResource } from "./plan.ts";
import { isProperties, objectAt, type Properties, textAt } from "./values.ts";

const RELEASE = "kubernetes:helm.sh/v3:Release";
const CHART = "kubernetes:helm.sh/v4:Chart";

/** First what others go into or refer to. Kinds that are not here follow in the order of the plan. */
const KINDS_FIRST = [
  "Namespace",
  "StorageClass",
  "PriorityClass",
  "LimitRange",
  "ResourceQuota",
  "PersistentVolume",
  "ServiceAccount",
  "Role",
  "ClusterRole",
  "RoleBinding",
  "ClusterRoleBinding",
  "NetworkPolicy",
  "CiliumNetworkPolicy",
  "PersistentVolumeClaim",
  "ConfigMap",
  "Secret",
];

/**
 * Writes the cluster's objects as YAML, one file each, numbered so that `kubectl apply -f` over the directory applies
 * them in an order that works. Charts become files of values, and `install.sh` has objects and charts in one sequence.
 * Values of Secrets are never written: a comment says which to fill in.
 *
 * @param directory made if missing; files of an earlier rendering in it are replaced, others left alone.
 * @returns the files' names, in order.
 */
export async function renderKubernetes(plan: Plan, directory: string): Promise<string[]> {
  const masked: PlannedResource[] = JSON.parse(JSON.stringify(plan.resources));
  const files = new Map<string, string>();
  const steps: Step[] = [];
  const inOrder = orderOf(masked);
  inOrder.forEach((resource, i) => {
    const number = String(i + 1).padStart(3, "0");
    const step =
      resource.type === RELEASE || resource.type === CHART ? chartStep(resource, number) : objectStep(resource, number);
    steps.push(step);
    files.set(step.file, step.text);
  });
  if (steps.length === 0)
    throw new CloudError("NothingToRender", `the plan of ${plan.stack} has no Kubernetes objects`, 404);
  files.set("install.sh", script(plan.stack, steps));

  await mkdir(directory, { recursive: true });
  for (const old of await readdir(directory)) {
    if (/^\d{3}-[a-z0-9.-]+\.(yaml|values)$/.test(old) || old === "install.sh") await rm(join(directory, old));
  }
  for (const [name, text] of files)
    await writeFile(join(directory, name), text, { mode: name === "install.sh" ? 0o755 : 0o644 });
  return [...files.keys()];
}

interface Step {
  readonly file: string;
  readonly text: string;
  /** The line of install.sh that applies it. */
  readonly command: string;
}

/** Namespaces and what everything refers to, then charts and objects as the plan's dependencies have them. */
function orderOf(resources: readonly PlannedResource[]): PlannedResource[] {
  const own = resources.filter(({ type }) => type.startsWith("kubernetes:"));
  const rank = (resource: PlannedResource) => {
    const position = KINDS_FIRST.indexOf(kindNameOf(resource));
    const custom = isCustomGroup(splitApiVersion(textAt(resource.inputs, "apiVersion") ?? "").group);
    return position >= 0 && !custom ? position : KINDS_FIRST.length;
  };
  // Stable: within a rank the plan's order stands, in which nothing comes before what it needs.
  return [...own].sort((a, b) => rank(a) - rank(b));
}

function kindNameOf({ type, inputs }: PlannedResource): string {
  return textAt(inputs, "kind") ?? type.split(":").at(-1) ?? "";
}

function objectStep(resource: PlannedResource, number: string): Step {
  const kind = kindNameOf(resource);
  const [, versionOfType = ""] = resource.type.split(":");
  const apiVersion = textAt(resource.inputs, "apiVersion") ?? (versionOfType === "core/v1" ? "v1" : versionOfType);
  const metadata = objectAt(resource.inputs, "metadata");
  const object: Properties = {
    apiVersion,
    kind,
    metadata: withoutPulumi({ name: resource.name, ...metadata }),
    ...Object.fromEntries(
      Object.entries(resource.inputs).filter(([key]) => !["apiVersion", "kind", "metadata"].includes(key)),
    ),
  };
  const file = `${number}-${kind.toLowerCase()}-${slug(String(objectAt(object, "metadata").name))}.yaml`;
  const text = kind === "Secret" ? secretYaml(resource, object) : yaml(object);
  const known = kindOf(apiVersion, kind);
  const command =
    kind === "Secret"
      ? `# fill in ${file} first\nkubectl apply --server-side -f ${file}`
      : `kubectl apply --server-side -f ${file}`;
  return { file, text: known ? text : `# The rehearsal has no schema of ${apiVersion} ${kind}.\n${text}`, command };
}

/** Annotations that only Pulumi reads. */
function withoutPulumi(metadata: Properties): Properties {
  if (!isProperties(metadata.annotations)) return metadata;
  const rest = Object.entries(metadata.annotations).filter(([key]) => !key.startsWith("pulumi.com/"));
  const { annotations: _annotations, ...others } = metadata;
  return rest.length === 0 ? others : { ...others, annotations: Object.fromEntries(rest) };
}

/** Keys with nothing in them, and a line saying so. */
function secretYaml({ inputs }: PlannedResource, object: Properties): string {
  const { data: _data, stringData: _stringData, ...rest } = object;
  const names = [...secretKeys(inputs.stringData), ...secretKeys(inputs.data)];
  const values = Object.fromEntries(names.map((name) => [name, ""]));
  const list = names.length > 0 ? names.join(", ") : "its keys";
  return `# Secret values are not rendered. Before applying, fill in: ${list}.\n${yaml({ ...rest, stringData: values })}`;
}

function secretKeys(values: unknown): string[] {
  return isProperties(values) ? Object.keys(values) : [];
}

function chartStep({ name, inputs, type }: PlannedResource, number: string): Step {
  const chart = textAt(inputs, "chart") ?? "";
  const release = textAt(inputs, "name") ?? name;
  const namespace = textAt(inputs, "namespace") ?? "default";
  // YAML by another name: kubectl takes every .yaml of a directory for objects.
  const file = `${number}-${slug(release)}.values`;
  const repository = textAt(inputs, "repositoryOpts.repo");
  const timeout = inputs.timeout === undefined ? [] : [`--timeout ${String(inputs.timeout)}s`];
  const common = [
    `--version ${String(inputs.version)}`,
    ...(repository === undefined ? [] : [`--repo ${repository}`]),
    `--namespace ${namespace}`,
    `--values ${file}`,
  ];
  const command =
    type === RELEASE
      ? ["helm upgrade --install", release, chart, ...common, "--wait", ...timeout].join(" ")
      : // Too large for a release's record: rendered and applied, as the program does.
        `${["helm template", release, chart, ...common, "--include-crds"].join(" ")} | kubectl apply --server-side --force-conflicts -f -`;
  return {
    file,
    text: `# Values of chart ${chart} ${String(inputs.version)}.\n${yaml(objectAt(inputs, "values"))}`,
    command,
  };
}

function script(stack: string, steps: readonly Step[]): string {
  return [
    "#!/bin/sh",
    `# Installs what stack ${stack} runs in its cluster, in an order that works. Azure's side is taken to exist.`,
    "set -eu",
    'cd "$(dirname "$0")"',
    "",
    ...steps.map(({ command }) => command),
    "",
  ].join("\n");
}

function yaml(object: Properties): string {
  return stringify(object, { lineWidth: 0, aliasDuplicateObjects: false });
}

function slug(name: string): string {
  return name.toLowerCase().replace(/[^a-z0-9.-]+/g, "-");
}
