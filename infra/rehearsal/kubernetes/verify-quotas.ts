import type { Fault } from "../cloud-error.ts";
import { at, numberAt, objectAt, objectsAt, type Properties, textAt, textsAt } from "../values.ts";
import { Faults, workloadsOf } from "./faults.ts";
import type { FakeKubernetes } from "./kubernetes.ts";
import { containersOf, type KubernetesObject, type Workload } from "./objects.ts";
import { quantity } from "./quantity.ts";

/** Every cluster has them. */
const BUILT_IN_PRIORITIES = ["system-cluster-critical", "system-node-critical"];

/** What pods are refused for when they are made: priorities, limits of containers, quotas of their namespace. */
export function verifyQuotas(cluster: FakeKubernetes): Fault[] {
  const faults = new Faults();
  for (const workload of workloadsOf(cluster)) {
    checkPriority(workload, cluster, faults);
    const ranges = inNamespace(cluster, "LimitRange", workload.owner.namespace);
    for (const range of ranges) checkLimits(workload, range, faults);
    for (const quota of inNamespace(cluster, "ResourceQuota", workload.owner.namespace)) {
      if (counts(quota, workload)) checkQuota(workload, quota, ranges, cluster, faults);
    }
  }
  for (const quota of cluster.objects("ResourceQuota")) {
    for (const name of prioritiesOf(quota) ?? []) {
      if (!priorityExists(name, cluster))
        faults.add(quota, `counts pods of the PriorityClass "${name}", which does not exist: it bounds nothing`);
    }
  }
  return faults.list;
}

const inNamespace = (cluster: FakeKubernetes, kind: string, namespace: string) =>
  cluster.objects(kind).filter((object) => object.namespace === namespace);

function priorityExists(name: string, cluster: FakeKubernetes): boolean {
  return BUILT_IN_PRIORITIES.includes(name) || cluster.object("PriorityClass", "", name) !== undefined;
}

function checkPriority({ owner, spec }: Workload, cluster: FakeKubernetes, faults: Faults): void {
  const name = textAt(spec, "priorityClassName");
  if (name !== undefined && !priorityExists(name, cluster)) {
    faults.add(owner, `pods are forbidden: no PriorityClass with name ${name} was found`);
  }
}

const containerRanges = (range: KubernetesObject) =>
  objectsAt(range.object, "spec.limits").filter(({ type }) => type === "Container");

function checkLimits({ owner, spec }: Workload, range: KubernetesObject, faults: Faults): void {
  for (const item of containerRanges(range)) {
    for (const [resource, most] of Object.entries(objectAt(item, "max"))) {
      for (const container of containersOf(spec)) {
        const limit = at(container, `resources.limits.${resource}`) ?? at(item, `default.${resource}`);
        if ((quantity(limit) ?? 0) > (quantity(most) ?? 0)) {
          faults.add(
            owner,
            `pods are forbidden: maximum ${resource} usage per Container is ${String(most)}, but limit is ${String(limit)}`,
          );
        }
      }
    }
  }
}

/** The priority classes that a quota counts; undefined: it counts every pod. */
function prioritiesOf(quota: KubernetesObject): string[] | undefined {
  const scope = objectsAt(quota.object, "spec.scopeSelector.matchExpressions").find(
    ({ scopeName, operator }) => scopeName === "PriorityClass" && operator === "In",
  );
  return scope && textsAt(scope, "values");
}

function counts(quota: KubernetesObject, { spec }: Workload): boolean {
  const priorities = prioritiesOf(quota);
  return priorities === undefined || priorities.includes(textAt(spec, "priorityClassName") ?? "");
}

/** Whether as many pods as a scaler may ask for, and one more while a new one takes another's place, are let in. */
function checkQuota(
  { owner, spec }: Workload,
  quota: KubernetesObject,
  ranges: readonly KubernetesObject[],
  cluster: FakeKubernetes,
  faults: Faults,
): void {
  const pods = mostReplicas(owner, cluster) + 1;
  for (const [key, hard] of Object.entries(objectAt(quota.object, "spec.hard"))) {
    const used = key === "pods" ? pods : pods * (podNeeds(key, { owner, spec }, quota, ranges, faults) ?? 0);
    if (used > (quantity(hard) ?? 0)) {
      faults.add(
        owner,
        `pods are forbidden: exceeded quota: ${quota.name}, limited: ${key}=${String(hard)}, and ${pods} pods need more`,
      );
    }
  }
}

/** What one pod takes of `requests.cpu`, `limits.memory` and the like; undefined for other things that quotas count. */
function podNeeds(
  key: string,
  { owner, spec }: Pick<Workload, "owner" | "spec">,
  quota: KubernetesObject,
  ranges: readonly KubernetesObject[],
  faults: Faults,
): number | undefined {
  const [, kind, resource] = /^(requests|limits)\.(cpu|memory|ephemeral-storage)$/.exec(key) ?? [];
  if (kind === undefined || resource === undefined) return undefined;
  const standing = ranges.flatMap(containerRanges);
  const byDefault = standing.map((item) => at(item, `${kind === "limits" ? "default" : "defaultRequest"}.${resource}`));
  let sum = 0;
  for (const container of containersOf(spec)) {
    const given = at(container, `resources.${kind}.${resource}`) ?? byDefault.find((value) => value !== undefined);
    if (given === undefined) {
      faults.add(
        owner,
        `pods are forbidden: failed quota: ${quota.name}: must specify ${key} for: ${String(container.name)}`,
      );
    }
    sum += quantity(given) ?? 0;
  }
  return sum;
}

function mostReplicas(owner: KubernetesObject, cluster: FakeKubernetes): number {
  const target = (scaler: Properties) => textAt(scaler, "spec.scaleTargetRef.name") === owner.name;
  const scaled = inNamespace(cluster, "ScaledObject", owner.namespace).find(({ object }) => target(object));
  return numberAt(scaled?.object, "spec.maxReplicaCount") ?? numberAt(owner.object, "spec.replicas") ?? 1;
}
