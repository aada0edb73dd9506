import { at, isProperties, objectAt, objectsAt, type Properties, textAt, textMapAt, textsAt } from "../values.ts";

/** An object of the cluster as the program gave it. */
export interface KubernetesObject {
  /** Pulumi's id: `namespace/name`, or `name` where the kind has no namespace; with the kind before it. */
  readonly key: string;
  readonly group: string;
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  readonly object: Properties;
}

export interface HelmRelease {
  readonly id: string;
  readonly name: string;
  readonly namespace: string;
  /** Last part of the chart's name. */
  readonly chart: string;
  readonly version: string;
  readonly values: Properties;
}

/** A pod template and who makes pods from it. */
export interface Workload {
  readonly owner: KubernetesObject;
  readonly labels: Readonly<Record<string, string>>;
  readonly spec: Properties;
}

/** The workload behind an object, where it is one. */
export function workloadOf(owner: KubernetesObject): Workload | undefined {
  const path = POD_TEMPLATES[owner.kind];
  if (path === undefined) return undefined;
  const template = path === "" ? owner.object : objectAt(owner.object, path);
  return { owner, labels: textMapAt(template, "metadata.labels"), spec: objectAt(template, "spec") };
}

const POD_TEMPLATES: Readonly<Record<string, string>> = {
  Pod: "",
  Deployment: "spec.template",
  StatefulSet: "spec.template",
  DaemonSet: "spec.template",
  ReplicaSet: "spec.template",
  Job: "spec.template",
  CronJob: "spec.jobTemplate.spec.template",
  ScaledJob: "spec.jobTargetRef.template",
};

export function containersOf(spec: Properties): Properties[] {
  return [...objectsAt(spec, "initContainers"), ...objectsAt(spec, "containers")];
}

/** Whether a label selector (`matchLabels`, `matchExpressions`; empty matches all) selects these labels. */
export function selects(selector: unknown, labels: Readonly<Record<string, string>>): boolean {
  if (!isProperties(selector)) return false;
  for (const [key, value] of Object.entries(textMapAt(selector, "matchLabels"))) {
    if (labels[key] !== value) return false;
  }
  return objectsAt(selector, "matchExpressions").every((expression) => {
    const key = textAt(expression, "key") ?? "";
    const values = textsAt(expression, "values");
    const value = labels[key];
    switch (expression.operator) {
      case "In":
        return value !== undefined && values.includes(value);
      case "NotIn":
        return value === undefined || !values.includes(value);
      case "Exists":
        return value !== undefined;
      case "DoesNotExist":
        return value === undefined;
      default:
        return false;
    }
  });
}

/** Whether a plain map of labels, as Services have it, selects these labels. */
export function selectsByMap(
  selector: Readonly<Record<string, string>>,
  labels: Readonly<Record<string, string>>,
): boolean {
  return Object.entries(selector).every(([key, value]) => labels[key] === value);
}

export function isEmptySelector(selector: unknown): boolean {
  return (
    isProperties(selector) &&
    at(selector, "matchLabels") === undefined &&
    at(selector, "matchExpressions") === undefined
  );
}

export function describe({ kind, namespace, name }: Pick<KubernetesObject, "kind" | "namespace" | "name">): string {
  return `${kind} ${namespace === "" ? name : `${namespace}/${name}`}`;
}
