import type { Fault } from "../cloud-error.ts";
import type { FakeKubernetes } from "./kubernetes.ts";
import { describe, type KubernetesObject, type Workload, workloadOf } from "./objects.ts";

/** Collects what is wrong with objects. */
export class Faults {
  readonly list: Fault[] = [];

  add(object: Pick<KubernetesObject, "kind" | "namespace" | "name">, message: string): void {
    this.list.push({ name: describe(object), message });
  }
}

/** Everything that makes pods. */
export function workloadsOf(cluster: FakeKubernetes): Workload[] {
  return cluster.objects().flatMap((object) => workloadOf(object) ?? []);
}
