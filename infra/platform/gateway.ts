import type { ICertificate } from "@kubernetes-models/cert-manager/cert-manager.io/v1/Certificate";
import type { IClientTrafficPolicy } from "@kubernetes-models/envoy-gateway/gateway.envoyproxy.io/v1alpha1/ClientTrafficPolicy";
import type { IEnvoyProxy } from "@kubernetes-models/envoy-gateway/gateway.envoyproxy.io/v1alpha1/EnvoyProxy";
import type { IGateway } from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/Gateway";
import type { IHTTPRoute } from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute";
import type { CustomResource } from "@pulumi/kubernetes/apiextensions/customResource.js";
import { Namespace } from "@pulumi/kubernetes/core/v1/index.js";
import { NetworkPolicy } from "@pulumi/kubernetes/networking/v1/index.js";
import {
  ComponentResource,
  type ComponentResourceOptions,
  type Input,
  interpolate,
  type Output,
  output,
} from "@pulumi/pulumi";
import type { Network } from "../azure/network.ts";
import type { CertificateIssuer } from "../settings.ts";
import { customResource, waitFor } from "./custom-resource.ts";
import { ENVOY_PROXIES, GATEWAY, GATEWAY_CLASS, LISTENERS } from "./gateway-names.ts";
import { NAMESPACE_NAME_LABEL, peer } from "./network-peer.ts";
import { podSecurity } from "./pod-security.ts";

const CERTIFICATE_SECRET = "mcp-gateway-tls";

/** cert-manager: the port of its HTTP-01 solver pods, and their label. */
const SOLVER_PORT = 8089;
const SOLVER_LABELS = { "acme.cert-manager.io/http01-solver": "true" };

/** The most that Azure's load balancer grants a silent connection; a stream has to ping within it. Minutes. */
const IDLE_MINUTES = 30;

/** One proxy serves thousands of streams; two outlive a node. */
const PROXIES = 2;

export interface GatewayArgs {
  /** The static address, in a resource group that the cluster's identity may join addresses from. */
  readonly publicIp: Network["publicIp"];
  /** Host name of one's own; absent: the address's DNS label. */
  readonly domain?: string;
  readonly issuer: CertificateIssuer;
  /** The one namespace whose routes the HTTPS listener takes. */
  readonly routesFrom: Input<string>;
}

/** Where traffic comes in: the public address, TLS, and the redirect to it. The load balancer is counted elsewhere. */
export class Gateway extends ComponentResource {
  readonly name = GATEWAY.name;
  readonly namespace = GATEWAY.namespace;
  /** What clients call it, and what the certificate says. */
  readonly hostname: Output<string>;
  /** `https://<hostname>` */
  readonly url: Output<string>;
  /** What routes attach to. To depend on this component as a whole would be to wait for the certificate. */
  readonly listeners: CustomResource;

  constructor(name: string, args: GatewayArgs, options: ComponentResourceOptions) {
    super("mcp:platform:Gateway", name, {}, options);
    this.hostname = output(args.domain ?? args.publicIp.fqdn);
    this.url = interpolate`https://${this.hostname}`;
    const namespace = this.#createNamespace();
    const policies = this.#restrictTraffic(namespace);
    const proxies = this.#describeProxies(namespace, args.publicIp);
    this.listeners = this.#createGateway(proxies, args.routesFrom);
    this.#setLimits();
    this.#redirectToHttps();
    this.#requestCertificate(args, policies);
    this.registerOutputs({ hostname: this.hostname, url: this.url });
  }

  #createNamespace(): Namespace {
    return new Namespace(
      GATEWAY.namespace,
      { metadata: { name: GATEWAY.namespace, labels: podSecurity("restricted") } },
      { parent: this },
    );
  }

  /** The only pods here answer challenges; the proxies run in their controller's namespace. */
  #restrictTraffic(namespace: Namespace): NetworkPolicy[] {
    const policy = (name: string, spec: ConstructorParameters<typeof NetworkPolicy>[1]) =>
      new NetworkPolicy(`${GATEWAY.namespace}-${name}`, spec, { parent: this });
    return [
      policy("default-deny", {
        metadata: { name: "default-deny", namespace: namespace.metadata.name },
        spec: { podSelector: {}, policyTypes: ["Ingress", "Egress"] },
      }),
      policy("acme-solver", {
        metadata: { name: "acme-solver", namespace: namespace.metadata.name },
        spec: {
          podSelector: { matchLabels: SOLVER_LABELS },
          policyTypes: ["Ingress"],
          ingress: [{ from: [peer(ENVOY_PROXIES)], ports: [{ protocol: "TCP", port: SOLVER_PORT }] }],
        },
      }),
    ];
  }

  #describeProxies(namespace: Namespace, publicIp: Network["publicIp"]): CustomResource {
    return customResource<IEnvoyProxy>(
      "envoy-proxy",
      {
        apiVersion: "gateway.envoyproxy.io/v1alpha1",
        kind: "EnvoyProxy",
        metadata: { name: GATEWAY.name, namespace: namespace.metadata.name },
        spec: {
          provider: {
            type: "Kubernetes",
            kubernetes: {
              envoyService: {
                type: "LoadBalancer",
                // Keeps the caller's address, and Azure probes each node's own health port. With "Cluster" it would
                // ask for "/" through the proxy and take its 404 for an outage.
                externalTrafficPolicy: "Local",
                annotations: {
                  // The address lies outside the node resource group, so the group has to be named. The DNS label is
                  // the address's own and is not repeated here: Azure deletes it when the annotation is empty.
                  "service.beta.kubernetes.io/azure-pip-name": publicIp.name,
                  "service.beta.kubernetes.io/azure-load-balancer-resource-group": publicIp.resourceGroupName,
                  "service.beta.kubernetes.io/azure-load-balancer-tcp-idle-timeout": String(IDLE_MINUTES),
                },
              },
              envoyDeployment: {
                replicas: PROXIES,
                container: { resources: { requests: { cpu: "100m", memory: "128Mi" }, limits: { memory: "512Mi" } } },
                pod: {
                  topologySpreadConstraints: ["topology.kubernetes.io/zone", "kubernetes.io/hostname"].map(
                    (topologyKey) => ({
                      topologyKey,
                      maxSkew: 1,
                      whenUnsatisfiable: "ScheduleAnyway",
                      labelSelector: { matchLabels: { ...ENVOY_PROXIES.labels } },
                    }),
                  ),
                },
              },
              envoyPDB: { maxUnavailable: 1 },
            },
          },
          // A proxy that goes lets streams end by themselves this long.
          shutdown: { drainTimeout: "60s", minDrainDuration: "10s" },
        },
      },
      { parent: this },
    );
  }

  /**
   * Waits for address and proxy, the first moment that Azure may refuse the public IP. The listeners need no
   * certificate for it: HTTP serves at once, HTTPS as soon as the Secret is there.
   */
  #createGateway(proxies: CustomResource, routesFrom: Input<string>): CustomResource {
    return customResource<IGateway>(
      "gateway",
      {
        apiVersion: "gateway.networking.k8s.io/v1",
        kind: "Gateway",
        metadata: { name: GATEWAY.name, namespace: GATEWAY.namespace, annotations: waitFor("Programmed", 900) },
        spec: {
          gatewayClassName: GATEWAY_CLASS,
          infrastructure: {
            parametersRef: { group: "gateway.envoyproxy.io", kind: "EnvoyProxy", name: GATEWAY.name },
          },
          listeners: [
            {
              name: LISTENERS.http,
              protocol: "HTTP",
              port: 80,
              // Challenge routes and the redirect, both beside the Gateway.
              allowedRoutes: { namespaces: { from: "Same" } },
            },
            {
              name: LISTENERS.https,
              protocol: "HTTPS",
              port: 443,
              hostname: this.hostname,
              tls: { mode: "Terminate", certificateRefs: [{ kind: "Secret", name: CERTIFICATE_SECRET }] },
              allowedRoutes: {
                namespaces: { from: "Selector", selector: { matchLabels: { [NAMESPACE_NAME_LABEL]: routesFrom } } },
              },
            },
          ],
        },
      },
      { parent: this, dependsOn: proxies },
    );
  }

  #setLimits(): void {
    customResource<IClientTrafficPolicy>(
      "gateway-limits",
      {
        apiVersion: "gateway.envoyproxy.io/v1alpha1",
        kind: "ClientTrafficPolicy",
        metadata: { name: GATEWAY.name, namespace: GATEWAY.namespace },
        spec: {
          targetRefs: [{ group: "gateway.networking.k8s.io", kind: "Gateway", name: GATEWAY.name }],
          tls: { minVersion: "1.2" },
          // Clients go by the server's RateLimit headers; those of the proxy's coarser limit would contradict them.
          headers: { disableRateLimitHeaders: true },
          // Bounds how slowly a request may arrive; it ends with the answer's first byte, so streams are not cut.
          timeout: { http: { requestReceivedTimeout: "60s", streamIdleTimeout: "1h" } },
        },
      },
      { parent: this, dependsOn: this.listeners },
    );
  }

  /**
   * Everything but challenges goes to HTTPS. Bound to the HTTP listener by name, or it would redirect HTTPS to itself;
   * and for the same host name as the challenge routes, for Envoy picks the host first: with no host name here, a
   * challenge in progress would make every other path a 404.
   */
  #redirectToHttps(): void {
    customResource<IHTTPRoute>(
      "https-redirect",
      {
        apiVersion: "gateway.networking.k8s.io/v1",
        kind: "HTTPRoute",
        metadata: { name: "https-redirect", namespace: GATEWAY.namespace },
        spec: {
          parentRefs: [{ name: GATEWAY.name, namespace: GATEWAY.namespace, sectionName: LISTENERS.http }],
          hostnames: [this.hostname],
          rules: [
            {
              matches: [{ path: { type: "PathPrefix", value: "/" } }],
              filters: [{ type: "RequestRedirect", requestRedirect: { scheme: "https", statusCode: 301 } }],
            },
          ],
        },
      },
      { parent: this, dependsOn: this.listeners },
    );
  }

  /**
   * A Certificate of our own and no annotation on the Gateway: cert-manager would then replace the issuer's reference
   * to the HTTP listener by one without a listener, and Pulumi would not know the Certificate.
   *
   * On Azure's DNS label the name resolves already, so `pulumi up` waits and ends with an endpoint that works. A name
   * of one's own may still have to be pointed at the address, which the owner first learns from this very run: then
   * cert-manager retries on its own, and nothing waits. Nothing else depends on the certificate either way; when Let's
   * Encrypt is slow or refuses, everything else stands, and the next `pulumi up` only waits again.
   */
  #requestCertificate({ domain, issuer }: GatewayArgs, policies: readonly NetworkPolicy[]): void {
    customResource<ICertificate>(
      "certificate",
      {
        apiVersion: "cert-manager.io/v1",
        kind: "Certificate",
        metadata: {
          name: CERTIFICATE_SECRET,
          namespace: GATEWAY.namespace,
          annotations: domain === undefined ? waitFor("Ready", 600) : {},
        },
        spec: {
          secretName: CERTIFICATE_SECRET,
          dnsNames: [this.hostname],
          issuerRef: { kind: "ClusterIssuer", name: issuer },
          privateKey: { algorithm: "ECDSA", size: 256, rotationPolicy: "Always" },
          usages: ["digital signature", "server auth"],
        },
      },
      { parent: this, dependsOn: [this.listeners, ...policies] },
    );
  }
}
