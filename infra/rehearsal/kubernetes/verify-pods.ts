import type { Fault } from "../cloud-error.ts";
import { at, isProperties, objectAt, objectsAt, type Properties, textAt, textMapAt } from "../values.ts";
import { Faults, workloadsOf } from "./faults.ts";
import type { FakeKubernetes } from "./kubernetes.ts";
import { containersOf, describe, type KubernetesObject, type Workload } from "./objects.ts";
import { quantity } from "./quantity.ts";

/** What pods refer to: configuration, secrets, accounts, volumes, their own ports. */
export function verifyPods(cluster: FakeKubernetes): Fault[] {
  const faults = new Faults();
  for (const workload of workloadsOf(cluster)) {
    checkAccount(workload, cluster, faults);
    for (const container of containersOf(workload.spec)) {
      checkEnvironment(workload, container, cluster, faults);
      checkProbes(workload, container, faults);
    }
    checkVolumes(workload, cluster, faults);
  }
  for (const claim of cluster.objects("PersistentVolumeClaim")) checkClaim(claim, cluster, faults);
  for (const binding of [...cluster.objects("RoleBinding"), ...cluster.objects("ClusterRoleBinding")])
    checkBinding(binding, cluster, faults);
  return faults.list;
}

function checkAccount({ owner, spec }: Workload, cluster: FakeKubernetes, faults: Faults): void {
  const account = textAt(spec, "serviceAccountName") ?? "default";
  if (account === "default" || cluster.hasCharts(owner.namespace)) return;
  if (!cluster.object("ServiceAccount", owner.namespace, account)) {
    faults.add(
      owner,
      `error looking up service account ${owner.namespace}/${account}: serviceaccount "${account}" not found`,
    );
  }
}

/** Keys of a ConfigMap or Secret; undefined when there is no such object, `unknown` when someone else fills it. */
function keysOf(
  kind: "ConfigMap" | "Secret",
  namespace: string,
  name: string,
  cluster: FakeKubernetes,
): string[] | "unknown" | undefined {
  const found = cluster.object(kind, namespace, name);
  if (found) {
    return ["data", "stringData", "binaryData"].flatMap((part) => Object.keys(objectAt(found.object, part)));
  }
  const certificate = cluster
    .objects("Certificate")
    .some((c) => c.namespace === namespace && textAt(c.object, "spec.secretName") === name);
  if (kind === "Secret" && certificate) return ["tls.crt", "tls.key", "ca.crt"];
  return cluster.hasCharts(namespace) ? "unknown" : undefined;
}

function checkEnvironment({ owner }: Workload, container: Properties, cluster: FakeKubernetes, faults: Faults): void {
  const needKey = (kind: "ConfigMap" | "Secret", reference: Properties) => {
    if (reference.optional === true) return;
    const name = String(reference.name);
    const keys = keysOf(kind, owner.namespace, name, cluster);
    const word = kind.toLowerCase();
    if (keys === undefined)
      faults.add(owner, `Error: ${word} "${name}" not found (container "${String(container.name)}")`);
    else if (keys !== "unknown" && reference.key !== undefined && !keys.includes(String(reference.key))) {
      faults.add(
        owner,
        `Error: couldn't find key ${String(reference.key)} in ${kind} ${owner.namespace}/${name} (container "${String(container.name)}")`,
      );
    }
  };
  const names = new Set<unknown>();
  for (const variable of objectsAt(container, "env")) {
    if (names.has(variable.name))
      faults.add(owner, `container "${String(container.name)}" sets ${String(variable.name)} twice; the last one wins`);
    names.add(variable.name);
    const configMap = at(variable, "valueFrom.configMapKeyRef");
    const secret = at(variable, "valueFrom.secretKeyRef");
    if (isProperties(configMap)) needKey("ConfigMap", configMap);
    if (isProperties(secret)) needKey("Secret", secret);
  }
  for (const source of objectsAt(container, "envFrom")) {
    if (isProperties(source.configMapRef)) needKey("ConfigMap", source.configMapRef);
    if (isProperties(source.secretRef)) needKey("Secret", source.secretRef);
  }
}

/** `http` by name or number among the container's ports. */
export function hasPort(container: Properties, port: unknown): boolean {
  return objectsAt(container, "ports").some(
    (p) => p.name === port || p.containerPort === port || String(p.containerPort) === port,
  );
}

function checkProbes({ owner }: Workload, container: Properties, faults: Faults): void {
  const places = ["startupProbe", "livenessProbe", "readinessProbe", "lifecycle.preStop", "lifecycle.postStart"];
  for (const place of places) {
    for (const action of ["httpGet", "tcpSocket", "grpc"]) {
      const port = at(container, `${place}.${action}.port`);
      if (port === undefined || hasPort(container, port)) continue;
      faults.add(
        owner,
        `container "${String(container.name)}": ${place} asks port ${JSON.stringify(port)}, and the container has none of that name or number`,
      );
    }
  }
}

function checkVolumes({ owner, spec }: Workload, cluster: FakeKubernetes, faults: Faults): void {
  for (const volume of objectsAt(spec, "volumes")) {
    const missing = (what: string) =>
      faults.add(owner, `MountVolume.SetUp failed for volume "${String(volume.name)}": ${what}`);
    const need = (kind: "ConfigMap" | "Secret", source: unknown, nameKey: string) => {
      if (!isProperties(source) || source.optional === true) return;
      const name = String(source[nameKey]);
      const keys = keysOf(kind, owner.namespace, name, cluster);
      if (keys === undefined) {
        missing(`${kind.toLowerCase()} "${name}" not found`);
        return;
      }
      if (keys === "unknown") return;
      for (const item of objectsAt(source, "items")) {
        if (!keys.includes(String(item.key)))
          missing(`references non-existent ${kind.toLowerCase()} key: ${String(item.key)}`);
      }
    };
    need("ConfigMap", volume.configMap, "name");
    need("Secret", volume.secret, "secretName");
    for (const source of objectsAt(volume, "projected.sources")) {
      need("ConfigMap", source.configMap, "name");
      need("Secret", source.secret, "name");
    }
    const claim = textAt(volume, "persistentVolumeClaim.claimName");
    if (
      claim !== undefined &&
      !cluster.object("PersistentVolumeClaim", owner.namespace, claim) &&
      !cluster.hasCharts(owner.namespace)
    ) {
      faults.add(owner, `persistentvolumeclaim "${claim}" not found`);
    }
  }
}

function checkClaim(claim: KubernetesObject, cluster: FakeKubernetes, faults: Faults): void {
  const { object } = claim;
  const storageClass = textAt(object, "spec.storageClassName");
  const volumeName = textAt(object, "spec.volumeName");
  if (volumeName === undefined) {
    if (storageClass !== undefined && storageClass !== "" && !cluster.storageClassExists(storageClass)) {
      faults.add(claim, `storageclass.storage.k8s.io "${storageClass}" not found`);
    }
    return;
  }
  const volume = cluster.object("PersistentVolume", "", volumeName);
  if (!volume) {
    faults.add(claim, `volume "${volumeName}" not found: the claim stays Pending`);
    return;
  }
  const mismatch = (why: string) => faults.add(claim, `Cannot bind to requested volume "${volumeName}": ${why}`);
  if ((storageClass ?? "") !== (textAt(volume.object, "spec.storageClassName") ?? ""))
    mismatch("storageClassName does not match");
  const has = quantity(at(volume.object, "spec.capacity.storage"));
  const wants = quantity(at(object, "spec.resources.requests.storage"));
  if (has !== undefined && wants !== undefined && wants > has) mismatch("requested PV is too small");
  const modes = at(volume.object, "spec.accessModes");
  const asked = at(object, "spec.accessModes");
  if (Array.isArray(modes) && Array.isArray(asked) && asked.some((mode) => !modes.includes(mode)))
    mismatch("incompatible accessMode");
  const reference = objectAt(volume.object, "spec.claimRef");
  if (reference.name !== undefined && (reference.name !== claim.name || reference.namespace !== claim.namespace)) {
    mismatch(`volume is reserved for claim ${String(reference.namespace)}/${String(reference.name)}`);
  }
}

function checkBinding(binding: KubernetesObject, cluster: FakeKubernetes, faults: Faults): void {
  const kind = textAt(binding.object, "roleRef.kind") ?? "";
  const name = textAt(binding.object, "roleRef.name") ?? "";
  const builtIn = kind === "ClusterRole" && /^(admin|edit|view|cluster-admin|system:.*)$/.test(name);
  if (!builtIn && !cluster.object(kind, kind === "Role" ? binding.namespace : "", name)) {
    faults.add(binding, `${kind.toLowerCase()}.rbac.authorization.k8s.io "${name}" not found`);
  }
  for (const subject of objectsAt(binding.object, "subjects")) {
    const namespace = String(subject.namespace ?? binding.namespace);
    if (subject.kind !== "ServiceAccount" || cluster.hasCharts(namespace)) continue;
    if (!cluster.object("ServiceAccount", namespace, String(subject.name))) {
      faults.add(
        binding,
        `gives its role to ${describe({ kind: "ServiceAccount", namespace, name: String(subject.name) })}, which does not exist`,
      );
    }
  }
}

/** Annotations of the account that a workload's pods run as. */
export function accountAnnotations({ owner, spec }: Workload, cluster: FakeKubernetes): Record<string, string> {
  const account = cluster.object("ServiceAccount", owner.namespace, textAt(spec, "serviceAccountName") ?? "default");
  return textMapAt(account?.object, "metadata.annotations");
}
