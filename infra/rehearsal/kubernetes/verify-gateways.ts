import type { Fault } from "../cloud-error.ts";
import { at, objectsAt, type Properties, textAt, textsAt } from "../values.ts";
import { Faults } from "./faults.ts";
import type { FakeKubernetes } from "./kubernetes.ts";
import { describe, type KubernetesObject, selects } from "./objects.ts";

/** The way in: classes, Gateways, their certificates and issuers, routes and what they lead to. */
export function verifyGateways(cluster: FakeKubernetes): Fault[] {
  const faults = new Faults();
  for (const gateway of cluster.objects("Gateway")) checkGateway(gateway, cluster, faults);
  for (const route of cluster.objects("HTTPRoute")) checkRoute(route, cluster, faults);
  for (const certificate of cluster.objects("Certificate")) checkCertificate(certificate, cluster, faults);
  for (const policy of [
    ...cluster.objects("BackendTrafficPolicy"),
    ...cluster.objects("ClientTrafficPolicy"),
    ...cluster.objects("SecurityPolicy"),
  ]) {
    checkPolicyTargets(policy, cluster, faults);
  }
  return faults.list;
}

function checkGateway(gateway: KubernetesObject, cluster: FakeKubernetes, faults: Faults): void {
  const className = textAt(gateway.object, "spec.gatewayClassName") ?? "";
  const gatewayClass = cluster.object("GatewayClass", "", className);
  if (!gatewayClass)
    faults.add(gateway, `GatewayClass "${className}" not found: no controller would take this Gateway up`);
  const controller = textAt(gatewayClass?.object, "spec.controllerName");
  const envoy = cluster.releases().some((release) => release.chart === "gateway-helm");
  if (controller === "gateway.envoyproxy.io/gatewayclass-controller" && !envoy) {
    faults.add(gateway, `its class is for ${controller}, and nothing installs Envoy Gateway`);
  }
  const parameters = textAt(gateway.object, "spec.infrastructure.parametersRef.name");
  const kind = textAt(gateway.object, "spec.infrastructure.parametersRef.kind") ?? "";
  if (parameters !== undefined && !cluster.object(kind, gateway.namespace, parameters)) {
    faults.add(gateway, `InvalidParameters: ${kind} ${gateway.namespace}/${parameters} not found`);
  }
  for (const listener of objectsAt(gateway.object, "spec.listeners")) {
    for (const reference of objectsAt(listener, "tls.certificateRefs")) {
      checkListenerSecret(gateway, listener, reference, cluster, faults);
    }
  }
}

function checkListenerSecret(
  gateway: KubernetesObject,
  listener: Properties,
  reference: Properties,
  cluster: FakeKubernetes,
  faults: Faults,
): void {
  const name = String(reference.name);
  const namespace = String(reference.namespace ?? gateway.namespace);
  const where = `listener "${String(listener.name)}"`;
  if (namespace !== gateway.namespace && !granted(cluster, gateway, { group: "", kind: "Secret", namespace, name })) {
    faults.add(
      gateway,
      `RefNotPermitted: ${where}: Secret ${namespace}/${name} is in another namespace, and no ReferenceGrant there allows it`,
    );
  }
  if (cluster.object("Secret", namespace, name)) return;
  const annotated =
    at(gateway.object, "metadata.annotations") !== undefined &&
    annotation(gateway, "cert-manager.io/cluster-issuer") !== undefined;
  const certificate = cluster
    .objects("Certificate")
    .find((c) => c.namespace === namespace && textAt(c.object, "spec.secretName") === name);
  if (!certificate) {
    if (!annotated)
      faults.add(
        gateway,
        `InvalidCertificateRef: ${where}: Secret ${namespace}/${name} does not exist and no Certificate makes it`,
      );
    return;
  }
  const host = textAt(listener, "hostname");
  const names = textsAt(certificate.object, "spec.dnsNames");
  if (host !== undefined && !names.some((dnsName) => covers(dnsName, host))) {
    faults.add(gateway, `${where} serves ${host}, and ${describe(certificate)} is for ${names.join(", ")}`);
  }
}

function annotation({ object }: KubernetesObject, key: string): string | undefined {
  const annotations = at(object, "metadata.annotations");
  const value = typeof annotations === "object" && annotations !== null ? Reflect.get(annotations, key) : undefined;
  return typeof value === "string" ? value : undefined;
}

/** Whether a certificate's or listener's name, perhaps with a wildcard, covers a host. */
function covers(pattern: string, host: string): boolean {
  if (!pattern.startsWith("*.")) return pattern === host;
  return host.endsWith(pattern.slice(1)) && host.length > pattern.length - 1;
}

interface Target {
  readonly group: string;
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
}

function granted(cluster: FakeKubernetes, from: KubernetesObject, to: Target): boolean {
  return cluster
    .objects("ReferenceGrant")
    .some(
      (grant) =>
        grant.namespace === to.namespace &&
        objectsAt(grant.object, "spec.from").some(
          (f) => f.kind === from.kind && f.group === from.group && f.namespace === from.namespace,
        ) &&
        objectsAt(grant.object, "spec.to").some(
          (t) => t.kind === to.kind && t.group === to.group && (t.name === undefined || t.name === to.name),
        ),
    );
}

function checkRoute(route: KubernetesObject, cluster: FakeKubernetes, faults: Faults): void {
  for (const reference of objectsAt(route.object, "spec.parentRefs")) {
    if ((reference.kind ?? "Gateway") !== "Gateway") continue;
    const refusal = refusedByGateway(route.namespace, reference, textsAt(route.object, "spec.hostnames"), cluster);
    if (refusal !== undefined) faults.add(route, refusal);
  }
  for (const rule of objectsAt(route.object, "spec.rules")) {
    for (const backend of objectsAt(rule, "backendRefs")) checkBackend(route, backend, cluster, faults);
  }
}

/**
 * Why a Gateway would not take a route of that namespace.
 *
 * @param reference a `parentRef`: namespace, name, and `sectionName` for one listener.
 */
function refusedByGateway(
  namespace: string,
  reference: Properties,
  hostnames: readonly string[],
  cluster: FakeKubernetes,
): string | undefined {
  const gatewayNamespace = String(reference.namespace ?? namespace);
  const name = String(reference.name);
  const gateway = cluster.object("Gateway", gatewayNamespace, name);
  if (!gateway) return `Gateway ${gatewayNamespace}/${name} not found`;
  const section = reference.sectionName;
  const all = objectsAt(gateway.object, "spec.listeners");
  const listeners = all.filter((listener) => section === undefined || listener.name === section);
  if (listeners.length === 0)
    return `NoMatchingParent: Gateway ${gatewayNamespace}/${name} has no listener "${String(section)}"`;
  const admitting = listeners.filter((listener) => admits(listener, gateway, namespace, cluster));
  if (admitting.length === 0) {
    return `NotAllowedByListeners: ${section === undefined ? "no listener" : `listener "${String(section)}"`} of Gateway ${gatewayNamespace}/${name} takes routes from namespace ${namespace}`;
  }
  const matching = admitting.some((listener) => {
    const host = textAt(listener, "hostname");
    return (
      host === undefined || hostnames.length === 0 || hostnames.some((own) => covers(host, own) || covers(own, host))
    );
  });
  return matching
    ? undefined
    : `NoMatchingListenerHostname: ${hostnames.join(", ")} is not what the listeners of Gateway ${gatewayNamespace}/${name} serve`;
}

function admits(listener: Properties, gateway: KubernetesObject, namespace: string, cluster: FakeKubernetes): boolean {
  const from = textAt(listener, "allowedRoutes.namespaces.from") ?? "Same";
  if (from === "All") return true;
  if (from === "Same") return gateway.namespace === namespace;
  if (from !== "Selector") return false;
  return selects(at(listener, "allowedRoutes.namespaces.selector"), cluster.namespaceLabels(namespace));
}

function checkBackend(route: KubernetesObject, backend: Properties, cluster: FakeKubernetes, faults: Faults): void {
  if ((backend.kind ?? "Service") !== "Service") return;
  const namespace = String(backend.namespace ?? route.namespace);
  const name = String(backend.name);
  const service = cluster.object("Service", namespace, name);
  if (!service) {
    if (!cluster.hasCharts(namespace)) faults.add(route, `BackendNotFound: Service ${namespace}/${name} not found`);
    return;
  }
  if (namespace !== route.namespace && !granted(cluster, route, { group: "", kind: "Service", namespace, name })) {
    faults.add(
      route,
      `RefNotPermitted: Service ${namespace}/${name} is in another namespace, and no ReferenceGrant there allows it`,
    );
  }
  if (!objectsAt(service.object, "spec.ports").some((port) => port.port === backend.port)) {
    faults.add(route, `BackendNotFound: Service ${namespace}/${name} has no port ${String(backend.port)}`);
  }
}

function checkCertificate(certificate: KubernetesObject, cluster: FakeKubernetes, faults: Faults): void {
  const kind = textAt(certificate.object, "spec.issuerRef.kind") ?? "Issuer";
  const name = textAt(certificate.object, "spec.issuerRef.name") ?? "";
  const issuer = cluster.object(kind, kind === "ClusterIssuer" ? "" : certificate.namespace, name);
  if (!issuer) {
    faults.add(
      certificate,
      `Referenced "${kind}" not found: ${kind.toLowerCase()}.cert-manager.io "${name}" not found`,
    );
    return;
  }
  for (const solver of objectsAt(issuer.object, "spec.acme.solvers")) {
    for (const reference of objectsAt(solver, "http01.gatewayHTTPRoute.parentRefs")) {
      // The challenge's route is made in the Certificate's namespace.
      const refusal = refusedByGateway(
        certificate.namespace,
        reference,
        textsAt(certificate.object, "spec.dnsNames"),
        cluster,
      );
      if (refusal !== undefined)
        faults.add(certificate, `its challenges by ${describe(issuer)} would not be served: ${refusal}`);
    }
  }
}

function checkPolicyTargets(policy: KubernetesObject, cluster: FakeKubernetes, faults: Faults): void {
  const single = at(policy.object, "spec.targetRef");
  for (const target of [
    ...objectsAt(policy.object, "spec.targetRefs"),
    ...(single === undefined ? [] : objectsAt({ single: [single] }, "single")),
  ]) {
    const kind = String(target.kind);
    const name = String(target.name);
    const found = cluster.object(kind, policy.namespace, name);
    if (!found) faults.add(policy, `TargetNotFound: ${kind} ${policy.namespace}/${name} not found`);
    const section = target.sectionName;
    const sections = [...objectsAt(found?.object, "spec.listeners"), ...objectsAt(found?.object, "spec.rules")];
    if (found && section !== undefined && !sections.some((s) => s.name === section)) {
      faults.add(policy, `TargetNotFound: ${kind} ${policy.namespace}/${name} has no section "${String(section)}"`);
    }
  }
}
