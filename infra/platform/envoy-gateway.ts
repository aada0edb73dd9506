import type { IGatewayClass } from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/GatewayClass";
import type { IPodMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor";
import { Namespace } from "@pulumi/kubernetes/core/v1/index.js";
import type { Release } from "@pulumi/kubernetes/helm/v3/index.js";
import { Chart } from "@pulumi/kubernetes/helm/v4/index.js";
import { ComponentResource, type ComponentResourceOptions } from "@pulumi/pulumi";
import type { Network } from "../azure/network.ts";
import { installChart } from "./chart-release.ts";
import { CHARTS, chartSource } from "./charts.ts";
import { customResource, waitFor } from "./custom-resource.ts";
import { ENVOY_NAMESPACE, ENVOY_PROXIES, GATEWAY_CLASS } from "./gateway-names.ts";
import { resources } from "./monitoring.ts";
import { podSecurity } from "./pod-security.ts";

export interface EnvoyGatewayArgs {
  /** The address that a load balancer in this namespace will hold. */
  readonly publicIp: Network["publicIp"];
}

/**
 * The Gateway API and the controller that turns Gateways into Envoy proxies. Its load balancer is Azure's and costs
 * about 18 USD a month with the first rules.
 */
export class EnvoyGateway extends ComponentResource {
  constructor(name: string, args: EnvoyGatewayArgs, options: ComponentResourceOptions) {
    super("mcp:platform:EnvoyGateway", name, {}, options);
    const namespace = this.#createNamespace(args.publicIp);
    const kinds = this.#installKinds(namespace);
    const controller = this.#installController(namespace, kinds);
    this.#createClass(controller);
    this.#scrape(namespace);
    this.registerOutputs({});
  }

  /**
   * Names the public IP, and so comes after it and goes before it: the proxies' Service, which the controller makes
   * and Pulumi does not know, holds the address through its load balancer until the namespace is gone.
   */
  #createNamespace(publicIp: Network["publicIp"]): Namespace {
    return new Namespace(
      ENVOY_NAMESPACE,
      {
        metadata: {
          name: ENVOY_NAMESPACE,
          labels: podSecurity("restricted"),
          annotations: { "mcp-on-aks/public-ip": publicIp.id },
        },
      },
      // Deletion waits for Azure to take the load balancer's rules down.
      { parent: this, customTimeouts: { delete: "20m" } },
    );
  }

  /**
   * Custom kinds apart from the controller, so that an upgrade brings the new ones (Helm never updates what a chart
   * keeps in crds/), and of the standard channel. Rendered and not released: together they exceed what fits into
   * Helm's record of a release, a Secret of 1 MiB.
   */
  #installKinds(namespace: Namespace): Chart {
    return new Chart(
      "gateway-crds",
      {
        ...chartSource(CHARTS.gatewayCrds),
        namespace: namespace.metadata.name,
        values: {
          crds: { gatewayAPI: { enabled: true, channel: "standard" }, envoyGateway: { enabled: true } },
        },
      },
      { parent: this },
    );
  }

  #installController(namespace: Namespace, kinds: Chart): Release {
    return installChart(
      "envoy-gateway",
      {
        chart: CHARTS.envoyGateway,
        namespace: namespace.metadata.name,
        values: {
          crds: { enabled: false },
          deployment: { replicas: 1, envoyGateway: { resources: resources("100m", "256Mi", "1Gi") } },
          certgen: { job: { resources: resources("10m", "64Mi", "256Mi") } },
          // Its webhook sits in the path of every pod of the namespace and outlives the release; it only serves
          // zone-aware routing, which nothing here uses.
          topologyInjector: { enabled: false },
        },
      },
      { parent: this, dependsOn: kinds },
    );
  }

  /** Deleted while the controller still runs: only that takes the finalizer off. */
  #createClass(controller: Release): void {
    customResource<IGatewayClass>(
      "gateway-class",
      {
        apiVersion: "gateway.networking.k8s.io/v1",
        kind: "GatewayClass",
        metadata: { name: GATEWAY_CLASS, annotations: waitFor("Accepted", 300) },
        spec: { controllerName: "gateway.envoyproxy.io/gatewayclass-controller" },
      },
      { parent: this, dependsOn: controller },
    );
  }

  #scrape(namespace: Namespace): void {
    const monitor = (name: string, matchLabels: Record<string, string>, path: string) =>
      customResource<IPodMonitor>(
        name,
        {
          apiVersion: "monitoring.coreos.com/v1",
          kind: "PodMonitor",
          metadata: { name, namespace: namespace.metadata.name },
          spec: { selector: { matchLabels }, podMetricsEndpoints: [{ port: "metrics", path, interval: "30s" }] },
        },
        { parent: this },
      );
    monitor("envoy-proxies", { ...ENVOY_PROXIES.labels }, "/stats/prometheus");
    monitor("envoy-gateway-controller", { "control-plane": "envoy-gateway" }, "/metrics");
  }
}
