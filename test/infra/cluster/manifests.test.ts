import { Certificate } from "@kubernetes-models/cert-manager/cert-manager.io/v1/Certificate";
import { ClusterIssuer } from "@kubernetes-models/cert-manager/cert-manager.io/v1/ClusterIssuer";
import { CiliumNetworkPolicy } from "@kubernetes-models/cilium/cilium.io/v2/CiliumNetworkPolicy";
import { BackendTrafficPolicy } from "@kubernetes-models/envoy-gateway/gateway.envoyproxy.io/v1alpha1/BackendTrafficPolicy";
import { ClientTrafficPolicy } from "@kubernetes-models/envoy-gateway/gateway.envoyproxy.io/v1alpha1/ClientTrafficPolicy";
import { EnvoyProxy } from "@kubernetes-models/envoy-gateway/gateway.envoyproxy.io/v1alpha1/EnvoyProxy";
import { Gateway } from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/Gateway";
import { GatewayClass } from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/GatewayClass";
import { HTTPRoute } from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute";
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";
import { TriggerAuthentication } from "@kubernetes-models/keda/keda.sh/v1alpha1/TriggerAuthentication";
import { PodMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor";
import { PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule";
import { ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";
import { Deployment } from "kubernetes-models/apps/v1";
import { NetworkPolicy } from "kubernetes-models/networking.k8s.io/v1";
import { PodDisruptionBudget } from "kubernetes-models/policy/v1";
import { PriorityClass } from "kubernetes-models/scheduling.k8s.io/v1";
import {
  ConfigMap,
  LimitRange,
  Namespace,
  PersistentVolume,
  PersistentVolumeClaim,
  ResourceQuota,
  Secret,
  Service,
  ServiceAccount,
} from "kubernetes-models/v1";
import { beforeAll, describe, expect, it } from "vitest";
import { comesAfter, find, objects, type PlannedCluster, planCluster } from "./planned-cluster.ts";

interface Model {
  validate(): void;
}

/** Classes that carry the schema of the API server, or of the chart's custom kinds. */
const KINDS: readonly { apiVersion: string; kind: string; new (data: never): Model }[] = [
  BackendTrafficPolicy,
  Certificate,
  CiliumNetworkPolicy,
  ClientTrafficPolicy,
  ClusterIssuer,
  ConfigMap,
  Deployment,
  EnvoyProxy,
  Gateway,
  GatewayClass,
  HTTPRoute,
  LimitRange,
  Namespace,
  NetworkPolicy,
  PersistentVolume,
  PersistentVolumeClaim,
  PodDisruptionBudget,
  PodMonitor,
  PriorityClass,
  PrometheusRule,
  ResourceQuota,
  ScaledObject,
  Secret,
  Service,
  ServiceAccount,
  ServiceMonitor,
  TriggerAuthentication,
];

describe.each(["dev", "staging", "prod"])("the objects of %s", (stack) => {
  let plan: PlannedCluster;
  beforeAll(async () => {
    plan = await planCluster(stack);
  });

  it("are what the API server's schemas ask for", () => {
    for (const { name, inputs } of objects(plan)) {
      const kind = KINDS.find((k) => k.apiVersion === inputs.apiVersion && k.kind === inputs.kind);
      expect(kind, `no schema for ${inputs.apiVersion} ${inputs.kind}`).toBeDefined();
      expect(() => kind && new kind(inputs as never).validate(), `${inputs.kind} ${name}`).not.toThrow();
    }
  });

  it("have names of their own, each in a namespace that the plan makes", () => {
    const namespaces = new Set(
      objects(plan)
        .filter(({ inputs }) => inputs.kind === "Namespace")
        .map(({ inputs }) => (inputs.metadata as { name: string }).name),
    );
    const identities = objects(plan).map(({ inputs }) => {
      const { namespace, name } = inputs.metadata as { namespace?: string; name: string };
      expect(name).toMatch(/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/);
      if (namespace !== undefined) expect(namespaces).toContain(namespace);
      return `${inputs.apiVersion} ${inputs.kind} ${namespace ?? ""}/${name}`;
    });
    expect(new Set(identities).size).toBe(identities.length);
  });

  it("lie in namespaces that hold pods to a Pod Security Standard", () => {
    for (const { inputs } of objects(plan).filter((o) => o.inputs.kind === "Namespace")) {
      const { name, labels } = inputs.metadata as { name: string; labels: Record<string, string> };
      // node-exporter alone reads its host, in a namespace of its own.
      const level = name === "monitoring-nodes" ? "privileged" : "restricted";
      expect(labels["pod-security.kubernetes.io/enforce"], name).toBe(level);
    }
  });

  it("are taken down before the controllers that their deletion needs, and the load balancer before its address", () => {
    const release = (name: string) => find(plan, "kubernetes:helm.sh/v3:Release", name).urn;
    const controllers: Record<string, readonly string[]> = {
      "cert-manager.io/v1": [release("cert-manager"), release("envoy-gateway")],
      "gateway.networking.k8s.io/v1": [release("envoy-gateway")],
      "gateway.envoyproxy.io/v1alpha1": [release("envoy-gateway")],
      "keda.sh/v1alpha1": [release("keda")],
      "monitoring.coreos.com/v1": [release("kube-prometheus-stack")],
    };
    for (const object of objects(plan)) {
      const before = comesAfter(plan, object);
      for (const controller of controllers[String(object.inputs.apiVersion)] ?? []) {
        expect(before, `${object.inputs.kind} ${object.name}`).toContain(controller);
      }
    }
    const address = find(plan, "azure-native:network:PublicIPAddress").urn;
    const proxies = find(plan, "kubernetes:core/v1:Namespace", "envoy-gateway-system");
    expect(comesAfter(plan, proxies)).toContain(address);
    expect(comesAfter(plan, find(plan, "kubernetes:gateway.networking.k8s.io/v1:Gateway"))).toContain(proxies.urn);
  });

  it("are all reached through the cluster's own provider, never through whatever kubectl points at", () => {
    for (const { type, name, provider } of plan.resources) {
      if (type.startsWith("kubernetes:")) expect(provider, `${type} ${name}`).toMatch(/::cluster::/);
    }
  });
});
