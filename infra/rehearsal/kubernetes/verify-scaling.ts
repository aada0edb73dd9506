import type { Fault } from "../cloud-error.ts";
import { at, objectsAt, textAt } from "../values.ts";
import { Faults } from "./faults.ts";
import type { FakeKubernetes } from "./kubernetes.ts";
import { containersOf, describe, type KubernetesObject, workloadOf } from "./objects.ts";

/** Autoscalers: their targets, their authentication, and that nobody else sets the same number. */
export function verifyScaling(cluster: FakeKubernetes): Fault[] {
  const faults = new Faults();
  const scaled = new Map<string, KubernetesObject>();
  for (const scaler of [...cluster.objects("ScaledObject"), ...cluster.objects("HorizontalPodAutoscaler")]) {
    const target = targetOf(scaler, cluster, faults);
    if (!target) continue;
    const other = scaled.get(target.key);
    if (other)
      faults.add(
        scaler,
        `scales ${describe(target)}, which ${describe(other)} scales as well: the two overwrite each other`,
      );
    scaled.set(target.key, scaler);
    if (at(target.object, "spec.replicas") !== undefined) {
      faults.add(
        target,
        `sets spec.replicas, which ${describe(scaler)} decides: every update would set the number back`,
      );
    }
    checkCpu(scaler, target, faults);
  }
  for (const scaler of [...cluster.objects("ScaledObject"), ...cluster.objects("ScaledJob")])
    checkAuthentication(scaler, cluster, faults);
  return faults.list;
}

function targetOf(scaler: KubernetesObject, cluster: FakeKubernetes, faults: Faults): KubernetesObject | undefined {
  const kind = textAt(scaler.object, "spec.scaleTargetRef.kind") ?? "Deployment";
  const name = textAt(scaler.object, "spec.scaleTargetRef.name") ?? "";
  const target = cluster.object(kind, scaler.namespace, name);
  if (!target) faults.add(scaler, `${kind.toLowerCase()}s.apps "${name}" not found: the scaler has no target`);
  return target;
}

/** Utilization is a share of the request: without one there is nothing to measure against. */
function checkCpu(scaler: KubernetesObject, target: KubernetesObject, faults: Faults): void {
  const keda = objectsAt(scaler.object, "spec.triggers").filter((t) => t.type === "cpu" || t.type === "memory");
  const metrics = objectsAt(scaler.object, "spec.metrics").filter((m) => m.type === "Resource");
  const resources = [...keda.map((t) => String(t.type)), ...metrics.map((m) => String(at(m, "resource.name")))];
  for (const resource of resources) {
    const without = containersOf(workloadOf(target)?.spec ?? {}).find(
      (c) => at(c, `resources.requests.${resource}`) === undefined,
    );
    if (without) {
      faults.add(
        scaler,
        `has a ${resource} trigger but the container ${String(without.name)} doesn't have the ${resource} request defined`,
      );
    }
  }
}

function checkAuthentication(scaler: KubernetesObject, cluster: FakeKubernetes, faults: Faults): void {
  for (const trigger of objectsAt(scaler.object, "spec.triggers")) {
    const name = textAt(trigger, "authenticationRef.name");
    if (name === undefined) continue;
    const kind = textAt(trigger, "authenticationRef.kind") ?? "TriggerAuthentication";
    const namespace = kind === "ClusterTriggerAuthentication" ? "" : scaler.namespace;
    if (!cluster.object(kind, namespace, name)) faults.add(scaler, `${kind}.keda.sh "${name}" not found`);
  }
}
