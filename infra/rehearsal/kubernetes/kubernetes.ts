import type { FakeAzure } from "../azure/azure.ts";
import { CLUSTER } from "../azure/containers.ts";
import { DEPLOYER } from "../azure/deployer.ts";
import { ROLE } from "../azure/roles.ts";
import { kubernetesError } from "../cloud-error.ts";
import type { CloudRequest, Created } from "../cloud-request.ts";
import { at, bytesOf, guidOf, hexOf, isProperties, objectAt, type Properties, textAt, textMapAt } from "../values.ts";
import { KIND_OF_GROUP, knowledgeOf, notPlainData } from "./charts.ts";
import { isCustomGroup, type Kind, kindOf, splitApiVersion } from "./kinds.ts";
import { type HelmRelease, type KubernetesObject, workloadOf } from "./objects.ts";
import { restrictedViolations } from "./pod-security.ts";
import { checkSchema, invalid } from "./schemas.ts";
import { checkSemantics } from "./semantics.ts";

const RELEASE = "kubernetes:helm.sh/v3:Release";
const CHART = "kubernetes:helm.sh/v4:Chart";

// What every AKS cluster starts with.
const NAMESPACES = ["default", "kube-system", "kube-public", "kube-node-lease"];
const STORAGE_CLASSES = [
  "default",
  "managed",
  "managed-csi",
  "managed-csi-premium",
  "managed-premium",
  "azurefile",
  "azurefile-csi",
  "azurefile-csi-premium",
  "azurefile-premium",
];

/** The API server of the stack's cluster, with the admission that it does, and Helm. */
export class FakeKubernetes {
  readonly #azure: FakeAzure;
  readonly #objects = new Map<string, KubernetesObject>();
  readonly #releases = new Map<string, HelmRelease>();
  #uses = new Set<string>();

  constructor(azure: FakeAzure) {
    this.#azure = azure;
  }

  create(request: CloudRequest): Created {
    this.#uses = new Set();
    this.#checkAccess(request);
    if (request.type === RELEASE || request.type === CHART) return this.#install(request);
    const { kind, object } = this.#admit(request);
    const stored = asStored(kind, object);
    if (this.#objects.has(stored.key)) {
      throw kubernetesError("AlreadyExists", `${qualified(kind)} "${stored.name}" already exists`);
    }
    this.#objects.set(stored.key, stored);
    return { id: idOf(stored), outputs: answer(stored), key: stored.key, uses: [...this.#uses] };
  }

  update(id: string, request: CloudRequest): Created {
    this.#uses = new Set();
    this.#checkAccess(request);
    if (request.type === RELEASE || request.type === CHART) {
      this.#releases.delete(id);
      return this.#install(request);
    }
    const { kind, object } = this.#admit(request);
    const stored = asStored(kind, object);
    const before = this.#objects.get(stored.key);
    if (!before) throw kubernetesError("NotFound", `${qualified(kind)} "${stored.name}" not found`);
    for (const path of IMMUTABLE[kind.kind] ?? []) {
      const old = at(before.object, path);
      if (old !== undefined && JSON.stringify(old) !== JSON.stringify(at(object, path))) {
        throw invalid(
          kind,
          stored.name,
          `${path}: Invalid value: ${JSON.stringify(at(object, path) ?? null)}: field is immutable`,
        );
      }
    }
    this.#objects.set(stored.key, stored);
    return { id: idOf(stored), outputs: answer(stored), key: stored.key, uses: [...this.#uses] };
  }

  read(type: string, id: string): Properties | undefined {
    const release = this.#releases.get(id);
    if (release && (type === RELEASE || type === CHART)) return { name: release.name, namespace: release.namespace };
    const found = this.#objects.get(keyOf(type, id));
    return found && answer(found);
  }

  delete(type: string, id: string): void {
    if (type === RELEASE || type === CHART) {
      this.#releases.delete(id);
      return;
    }
    const gone = this.#objects.get(keyOf(type, id));
    if (!gone) return;
    this.#objects.delete(gone.key);
    if (gone.kind !== "Namespace") return;
    for (const [key, other] of this.#objects) if (other.namespace === gone.name) this.#objects.delete(key);
    for (const [key, other] of this.#releases) if (other.namespace === gone.name) this.#releases.delete(key);
  }

  /** Every object, in the order of creation. */
  objects(kind?: string): KubernetesObject[] {
    const all = [...this.#objects.values()];
    return kind === undefined ? all : all.filter((object) => object.kind === kind);
  }

  /** One object; `namespace` is empty for kinds without. */
  object(kind: string, namespace: string, name: string): KubernetesObject | undefined {
    return this.objects(kind).find((object) => object.namespace === namespace && object.name === name);
  }

  releases(): HelmRelease[] {
    return [...this.#releases.values()];
  }

  /** Whether a chart puts objects into that namespace that the rehearsal does not see. */
  hasCharts(namespace: string): boolean {
    return this.releases().some((release) => release.namespace === namespace);
  }

  namespaceExists(name: string): boolean {
    return NAMESPACES.includes(name) || this.object("Namespace", "", name) !== undefined;
  }

  storageClassExists(name: string): boolean {
    return STORAGE_CLASSES.includes(name) || this.object("StorageClass", "", name) !== undefined;
  }

  /** Labels of a namespace, among them the one that the API server adds. */
  namespaceLabels(name: string): Record<string, string> {
    const labels = textMapAt(this.object("Namespace", "", name)?.object, "metadata.labels");
    return { ...labels, "kubernetes.io/metadata.name": name };
  }

  /** Local accounts are off and Azure RBAC decides: without the role the API server refuses its own creator. */
  #checkAccess(request: CloudRequest): void {
    const clusters = this.#azure
      .all(CLUSTER)
      .filter((cluster) => at(cluster.inputs, "aadProfile.enableAzureRBAC") === true);
    this.#azure.takeUses();
    for (const cluster of clusters) {
      if (!this.#azure.hasRole(undefined, ROLE.clusterAdmin, cluster.id)) {
        const kind = textAt(request.inputs, "kind") ?? request.type.split(":").at(-1) ?? "";
        throw kubernetesError(
          "Forbidden",
          `${kind.toLowerCase()}s is forbidden: User "${DEPLOYER.objectId}" cannot create resource "${kind.toLowerCase()}s" at the cluster scope: User does not have access to the resource in Azure. Update role assignment to allow access.`,
        );
      }
      for (const id of this.#azure.takeUses()) this.#uses.add(id);
    }
  }

  /** Everything that the API server checks before it stores an object. */
  #admit(request: CloudRequest): { kind: Kind; object: Properties } {
    const apiVersion = textAt(request.inputs, "apiVersion");
    const kindName = textAt(request.inputs, "kind");
    const [, versionOfType = "", kindOfType = ""] = request.type.split(":");
    const version = apiVersion ?? (versionOfType === "core/v1" ? "v1" : versionOfType);
    const kind = kindOf(version, kindName ?? kindOfType);
    const { group } = splitApiVersion(version);
    if (!kind) {
      throw kubernetesError("NotFound", `no matches for kind "${kindName ?? kindOfType}" in version "${version}"`);
    }
    this.#needGroup(group, `no matches for kind "${kind.kind}" in version "${version}"`);

    const metadata = objectAt(request.inputs, "metadata");
    const name = textAt(metadata, "name") ?? `${request.name}-${hexOf(8, request.type, request.name)}`;
    const namespace = kind.namespaced ? (textAt(metadata, "namespace") ?? "default") : undefined;
    const object: Properties = {
      ...request.inputs,
      apiVersion: version,
      kind: kind.kind,
      metadata: { ...metadata, name, ...(namespace !== undefined && { namespace }) },
    };
    checkSchema(kind, object);
    checkSemantics(kind, object);
    if (namespace !== undefined) this.#needNamespace(namespace);
    this.#checkPodSecurity(asStored(kind, object));
    return { kind, object };
  }

  /** Custom kinds exist once whatever brings them is there. */
  #needGroup(group: string, sentence: string): void {
    if (!isCustomGroup(group)) return;
    if (group === "cilium.io") {
      const cilium = this.#azure
        .all(CLUSTER)
        .some((cluster) => at(cluster.inputs, "networkProfile.networkDataplane") === "cilium");
      if (cilium) return;
    }
    const bringer = this.releases().find((release) => knowledgeOf(release.chart).kinds(release.values).includes(group));
    if (!bringer) throw kubernetesError("NotFound", sentence);
    this.#uses.add(keyOfRelease(bringer));
  }

  #needNamespace(name: string): void {
    if (NAMESPACES.includes(name)) return;
    const namespace = this.object("Namespace", "", name);
    if (!namespace) throw kubernetesError("NotFound", `namespaces "${name}" not found`);
    this.#uses.add(namespace.key);
  }

  #checkPodSecurity(stored: KubernetesObject): void {
    const workload = workloadOf(stored);
    if (!workload || this.namespaceLabels(stored.namespace)["pod-security.kubernetes.io/enforce"] !== "restricted")
      return;
    const violations = restrictedViolations(workload.spec);
    if (violations.length === 0) return;
    const version = this.namespaceLabels(stored.namespace)["pod-security.kubernetes.io/enforce-version"] ?? "latest";
    const pod =
      stored.kind === "Pod" ? stored.name : `${stored.name}-${hexOf(9, stored.key)}-${hexOf(5, stored.key, "pod")}`;
    throw kubernetesError(
      "Forbidden",
      `pods "${pod}" is forbidden: violates PodSecurity "restricted:${version}": ${violations.join(", ")}`,
    );
  }

  #install(request: CloudRequest): Created {
    const { inputs } = request;
    const reference = textAt(inputs, "chart") ?? "";
    const chart = reference.split("/").at(-1) ?? "";
    const helm = (sentence: string) => kubernetesError("BadRequest", sentence);
    const name =
      textAt(inputs, "name") ??
      (request.type === CHART ? request.name : `${request.name}-${hexOf(8, request.type, request.name)}`);
    if (!/^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/.test(name)) {
      throw helm(
        `release name is invalid: ${name}: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'`,
      );
    }
    if (name.length > 53) throw helm(`release name ${JSON.stringify(name)} exceeds max length of 53`);
    const version = textAt(inputs, "version") ?? "";
    if (!/^v?\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$/.test(version)) {
      throw helm(
        `chart "${chart}" is not pinned: version ${JSON.stringify(version)} is not an exact version such as "1.2.3"`,
      );
    }
    const repository = textAt(inputs, "repositoryOpts.repo");
    if (!reference.startsWith("oci://") && repository === undefined) {
      throw helm(
        `failed to download "${reference}" at version "${version}": no repository given (repositoryOpts.repo) and not an oci:// address`,
      );
    }
    if (reference.startsWith("oci://") && repository !== undefined) {
      throw helm(
        `chart "${reference}" is an OCI address, to which repositoryOpts.repo ${JSON.stringify(repository)} does not apply`,
      );
    }
    const values = inputs.values ?? {};
    const fault = notPlainData(values);
    if (fault !== undefined || !isProperties(values))
      throw helm(`values of ${name} are not plain data: ${fault ?? "no map"}`);
    const namespace = textAt(inputs, "namespace") ?? "default";
    if (inputs.createNamespace !== true) this.#needNamespaceForHelm(namespace);
    const id = `${namespace}/${name}`;
    if (this.#releases.has(id)) throw helm("cannot re-use a name that is still in use");
    for (const group of knowledgeOf(chart).needs(values)) {
      const { kind, version: v } = KIND_OF_GROUP[group] ?? { kind: group, version: "v1" };
      this.#needGroup(
        group,
        `unable to build kubernetes objects from release manifest: resource mapping not found for name: "${name}" namespace: "${namespace}" from "": no matches for kind "${kind}" in version "${group}/${v}"\nensure CRDs are installed first`,
      );
    }
    this.#releases.set(id, { id, name, namespace, chart, version, values });
    const status = { name, namespace, chart, version, revision: 1, status: "deployed", appVersion: version };
    const outputs =
      request.type === CHART
        ? { resources: [] }
        : { ...inputs, name, namespace, status, resourceNames: {}, manifest: {} };
    return { id, outputs, key: keyOfRelease({ id }), uses: [...this.#uses] };
  }

  #needNamespaceForHelm(namespace: string): void {
    try {
      this.#needNamespace(namespace);
    } catch {
      throw kubernetesError("NotFound", `create: failed to create: namespaces "${namespace}" not found`);
    }
  }
}

/** Fields that the API server refuses to change. */
const IMMUTABLE: Readonly<Record<string, readonly string[]>> = {
  Deployment: ["spec.selector"],
  StatefulSet: ["spec.selector", "spec.serviceName", "spec.volumeClaimTemplates"],
  DaemonSet: ["spec.selector"],
  Job: ["spec.selector", "spec.template"],
  PersistentVolume: ["spec.csi"],
  PersistentVolumeClaim: ["spec.accessModes", "spec.volumeName", "spec.storageClassName"],
  PriorityClass: ["value", "preemptionPolicy"],
  Service: ["spec.clusterIP"],
  StorageClass: ["provisioner", "parameters"],
};

function qualified({ group, plural }: Kind): string {
  return group === "" ? plural : `${plural}.${group}`;
}

function asStored(kind: Kind, object: Properties): KubernetesObject {
  const name = textAt(object, "metadata.name") ?? "";
  const namespace = textAt(object, "metadata.namespace") ?? "";
  return {
    key: `${kind.group}/${kind.kind} ${namespace === "" ? name : `${namespace}/${name}`}`,
    group: kind.group,
    kind: kind.kind,
    namespace,
    name,
    object,
  };
}

function keyOfRelease({ id }: Pick<HelmRelease, "id">): string {
  return `helm ${id}`;
}

function idOf({ namespace, name }: KubernetesObject): string {
  return namespace === "" ? name : `${namespace}/${name}`;
}

function keyOf(type: string, id: string): string {
  const [, version = "", kind = ""] = type.split(":");
  const { group } = splitApiVersion(version === "core/v1" ? "v1" : version);
  return `${group}/${kind} ${id}`;
}

/** What the API server gives back: the object with what it fills in. */
function answer({ object, key, kind }: KubernetesObject): Properties {
  const metadata = {
    ...objectAt(object, "metadata"),
    uid: guidOf("object", key),
    resourceVersion: "1",
    generation: 1,
    creationTimestamp: "2020-01-01T00:00:00Z",
  };
  if (kind !== "Service") return { ...object, metadata };
  const spec = objectAt(object, "spec");
  const [a = 0, b = 0] = bytesOf(2, "cluster ip", key);
  return { ...object, metadata, spec: { ...spec, clusterIP: spec.clusterIP ?? `172.29.${a}.${Math.max(b, 11)}` } };
}
