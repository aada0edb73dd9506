import type { IBackendTrafficPolicy } from "@kubernetes-models/envoy-gateway/gateway.envoyproxy.io/v1alpha1/BackendTrafficPolicy";
import type { IHTTPRoute } from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute";
import type { IScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";
import type { IServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";
import type { CustomResource } from "@pulumi/kubernetes/apiextensions/customResource.js";
import { Deployment } from "@pulumi/kubernetes/apps/v1/index.js";
import { Service } from "@pulumi/kubernetes/core/v1/index.js";
import { PodDisruptionBudget } from "@pulumi/kubernetes/policy/v1/index.js";
import { ComponentResource, type ComponentResourceOptions, type Input, interpolate, type Output } from "@pulumi/pulumi";
import { REGISTER_SECRET } from "../../server/auth/key-register.ts";
import type { ServerEnvironment } from "../../server/config.ts";
import type { EntraApp } from "../azure/entra-app.ts";
import type { KeyVault } from "../azure/key-vault.ts";
import { customResource } from "../platform/custom-resource.ts";
import type { Gateway } from "../platform/gateway.ts";
import { LISTENERS } from "../platform/gateway-names.ts";
import { PROMETHEUS_URL } from "../platform/monitoring.ts";
import type { Settings } from "../settings.ts";
import type { ApiKey } from "./api-key.ts";
import { PORTS } from "./container.ts";
import {
  type Backing,
  createEnvironment,
  type Environment,
  type JobQueues,
  queueVariables,
  toolVariables,
} from "./environment.ts";
import type { ServerImage } from "./image.ts";
import { MCP_SERVER, SERVER_LABELS, type WorkloadNamespace } from "./namespace.ts";
import { podTemplate } from "./pod.ts";
import type { Quotas } from "./quotas.ts";
import { SERVER_RESOURCES } from "./sizes.ts";
import type { Workspace } from "./workspace.ts";

const NAME = MCP_SERVER.name;

/** A Deployment's selector can never be changed, so it is no more than the name. */
const SELECTOR = { "app.kubernetes.io/name": NAME };

/** What the endpoint's path is, and what else the Gateway lets through: probes without detail. */
const ENDPOINT_PATH = "/mcp";
const HEALTH_PATH = "/health";

/**
 * Where clients find out how to log in (RFC 9728, RFC 8414; the endpoint's path may follow), and the server's way to
 * Entra's own endpoints.
 */
const LOGIN_PATHS = ["/.well-known/oauth-protected-resource", "/.well-known/oauth-authorization-server", "/oauth"];

/**
 * Proxies that append to X-Forwarded-For before the server: the Gateway's. It trusts none before itself, and the load
 * balancer keeps the caller's address, so the last entry is the caller whatever the caller wrote before it.
 */
const PROXY_HOPS = 1;

/** Seconds: answering as before while proxies take notice, then until running commands are killed. */
const DRAIN = 10;
const GRACE = 30;

/** A pod may have to wait for the autoscaler's next node. */
const FIRST_POD = { create: "15m", update: "15m" };

/** Which replicas are too few: percent of the requested CPU, and open connections, each an average over replicas. */
const TARGET_CPU = 70;
const TARGET_CONNECTIONS = 50;

/**
 * How long one proxy keeps a connection that nothing uses. Less than the server does (75 s, server/app.ts): whoever closes
 * first must be the one who sends, or a request meets a connection that is just being closed.
 */
const IDLE = "60s";

/** Streams that one proxy keeps open at a time: Envoy's own limit, 1024, would answer the next with 503. */
const STREAMS = 8192;

/**
 * Requests a minute from one address to one proxy: twice what the server grants a caller (RATE_LIMIT_PER_MINUTE), since
 * an office has one address. The address is the caller's own; the public address is IPv4.
 */
const ADDRESS_LIMIT = 1200;

export interface McpServerArgs {
  readonly settings: Pick<Settings, "server" | "jobs">;
  readonly namespace: WorkloadNamespace;
  readonly quotas: Pick<Quotas, "serverPriority">;
  readonly image: ServerImage;
  readonly workspace: Workspace;
  readonly gateway: Gateway;
  readonly callers: Callers;
  /** What the server's tools stand on. */
  readonly backing: Backing & {
    readonly vault: Pick<KeyVault, "uri">;
    /** Absent: jobs run in the server, and end with it. */
    readonly jobs?: JobQueues | undefined;
  };
}

/** Who may call. Without Entra and without keys there is nobody. */
export interface Callers {
  /** Absent: tokens are not accepted. */
  readonly entra?: Pick<EntraApp, "tenantId" | "clientId" | "ideClientId" | "allowedTenants">;
  /** The key whose hash the server accepts beside those of the register; absent: keys are not accepted. */
  readonly apiKey?: Pick<ApiKey, "hash">;
  /** ACCESS_POLICY. */
  readonly accessPolicy?: string;
  /** Web origins whose pages may call. */
  readonly origins: readonly string[];
}

/** The MCP server behind the Gateway. A replica asks for a quarter vCPU and half a GiB of the nodes. */
export class McpServer extends ComponentResource {
  /** What an IDE is given: `https://<host>/mcp`. */
  readonly endpoint: Output<string>;
  /** Answers 200 while the server can serve. */
  readonly healthUrl: Output<string>;

  constructor(name: string, args: McpServerArgs, options: ComponentResourceOptions) {
    super("mcp:workload:McpServer", name, {}, options);
    this.endpoint = interpolate`${args.gateway.url}${ENDPOINT_PATH}`;
    this.healthUrl = interpolate`${args.gateway.url}${HEALTH_PATH}`;
    const environment = this.#createEnvironment(args);
    const deployment = this.#createDeployment(args, environment);
    const service = this.#createService(args);
    this.#scrape(args, service);
    this.#scale(args, deployment);
    const route = this.#createRoute(args, service);
    this.#governTraffic(args, route);
    this.registerOutputs({ endpoint: this.endpoint, healthUrl: this.healthUrl });
  }

  #createEnvironment(args: McpServerArgs): Environment {
    const { namespace } = args;
    return createEnvironment(NAME, { namespace, labels: SERVER_LABELS, variables: this.#variables(args) }, this);
  }

  #variables({ settings, callers, backing }: McpServerArgs): Variables {
    return {
      ...toolVariables({ settings, accessPolicy: callers.accessPolicy }, backing),
      ...(backing.jobs && queueVariables(backing.jobs)),
      ...identityVariables(callers),
      MCP_SERVER_NAME: "mcp-on-aks",
      TRUSTED_PROXY_HOPS: String(PROXY_HOPS),
      PUBLIC_URL: this.endpoint,
      SHUTDOWN_GRACE_SECONDS: String(GRACE),
      SHUTDOWN_DRAIN_SECONDS: String(DRAIN),
      KEY_VAULT_URL: backing.vault.uri,
    };
  }

  #createDeployment(args: McpServerArgs, environment: Environment): Deployment {
    const { min, max } = args.settings.server.replicas;
    return new Deployment(
      NAME,
      {
        metadata: { name: NAME, namespace: args.namespace.name, labels: SERVER_LABELS },
        spec: {
          // Where a scaler decides, Pulumi must not: every `pulumi up` would set its number back.
          ...(min === max && { replicas: min }),
          revisionHistoryLimit: 5,
          selector: { matchLabels: SELECTOR },
          // A new replica serves before an old one goes, with one replica as well.
          strategy: { type: "RollingUpdate", rollingUpdate: { maxUnavailable: 0, maxSurge: 1 } },
          template: podTemplate({
            name: NAME,
            labels: SERVER_LABELS,
            serviceAccount: args.namespace.serverAccount,
            priorityClass: args.quotas.serverPriority,
            image: args.image,
            program: "main.js",
            environment,
            workspace: args.workspace,
            resources: SERVER_RESOURCES,
            graceSeconds: GRACE,
          }),
        },
      },
      { parent: this, customTimeouts: FIRST_POD },
    );
  }

  #createService({ namespace }: McpServerArgs): Service {
    return new Service(
      NAME,
      {
        metadata: { name: NAME, namespace: namespace.name, labels: SERVER_LABELS },
        spec: {
          type: "ClusterIP",
          selector: SELECTOR,
          ports: [
            { name: "http", port: PORTS.http, targetPort: "http", protocol: "TCP", appProtocol: "http" },
            { name: "metrics", port: PORTS.metrics, targetPort: "metrics", protocol: "TCP" },
          ],
        },
      },
      // Pulumi takes a Service for ready once it has a pod to send to.
      { parent: this, customTimeouts: FIRST_POD },
    );
  }

  #scrape({ namespace }: McpServerArgs, service: Service): void {
    customResource<IServiceMonitor>(
      `${NAME}-metrics`,
      {
        apiVersion: "monitoring.coreos.com/v1",
        kind: "ServiceMonitor",
        metadata: { name: NAME, namespace: namespace.name, labels: SERVER_LABELS },
        spec: {
          selector: { matchLabels: SERVER_LABELS },
          endpoints: [{ port: "metrics", path: "/metrics", interval: "30s" }],
        },
      },
      { parent: this, dependsOn: service },
    );
  }

  /** Replicas by load, and a budget for drained nodes. One replica has neither: it could only block the drain. */
  #scale({ settings, namespace }: McpServerArgs, deployment: Deployment): void {
    const { replicas } = settings.server;
    if (replicas.max === 1) return;
    new PodDisruptionBudget(
      NAME,
      {
        metadata: { name: NAME, namespace: namespace.name, labels: SERVER_LABELS },
        spec: {
          maxUnavailable: 1,
          selector: { matchLabels: SELECTOR },
          // A replica that cannot start must not keep its node from being drained.
          unhealthyPodEvictionPolicy: "AlwaysAllow",
        },
      },
      { parent: this },
    );
    if (replicas.min === replicas.max) return;
    customResource<IScaledObject>(
      `${NAME}-scaling`,
      {
        apiVersion: "keda.sh/v1alpha1",
        kind: "ScaledObject",
        metadata: { name: NAME, namespace: namespace.name, labels: SERVER_LABELS },
        spec: {
          scaleTargetRef: { apiVersion: "apps/v1", kind: "Deployment", name: deployment.metadata.name },
          minReplicaCount: replicas.min,
          maxReplicaCount: replicas.max,
          pollingInterval: 30,
          advanced: {
            horizontalPodAutoscalerConfig: {
              behavior: {
                // Streams end with their replica: wait until the load has really gone, then go one at a time.
                scaleDown: {
                  stabilizationWindowSeconds: 300,
                  policies: [{ type: "Pods", value: 1, periodSeconds: 60 }],
                },
              },
            },
          },
          triggers: [
            { type: "cpu", metricType: "Utilization", metadata: { value: String(TARGET_CPU) } },
            {
              type: "prometheus",
              metadata: {
                serverAddress: PROMETHEUS_URL,
                query: `sum(mcp_active_connections{namespace="${MCP_SERVER.namespace}",service="${NAME}"})`,
                threshold: String(TARGET_CONNECTIONS),
                // Without Prometheus the number is unknown, and not zero: the autoscaler then only scales up.
                ignoreNullValues: "false",
              },
            },
          ],
        },
      },
      { parent: this, dependsOn: deployment },
    );
  }

  #createRoute({ namespace, gateway, callers }: McpServerArgs, service: Service): CustomResource {
    return customResource<IHTTPRoute>(
      `${NAME}-route`,
      {
        apiVersion: "gateway.networking.k8s.io/v1",
        kind: "HTTPRoute",
        metadata: { name: NAME, namespace: namespace.name, labels: SERVER_LABELS },
        spec: {
          parentRefs: [{ name: gateway.name, namespace: gateway.namespace, sectionName: LISTENERS.https }],
          hostnames: [gateway.hostname],
          rules: [
            {
              matches: [
                { path: { type: "PathPrefix", value: ENDPOINT_PATH } },
                { path: { type: "Exact", value: HEALTH_PATH } },
                ...(callers.entra
                  ? LOGIN_PATHS.map((value) => ({ path: { type: "PathPrefix" as const, value } }))
                  : []),
              ],
              backendRefs: [{ kind: "Service", name: service.metadata.name, port: PORTS.http }],
            },
          ],
        },
      },
      { parent: this, dependsOn: gateway.listeners },
    );
  }

  /** Envoy ends a request after 15 seconds unless told otherwise, and with it a tool at work or a stream of events. */
  #governTraffic({ namespace }: McpServerArgs, route: CustomResource): void {
    customResource<IBackendTrafficPolicy>(
      `${NAME}-streams`,
      {
        apiVersion: "gateway.envoyproxy.io/v1alpha1",
        kind: "BackendTrafficPolicy",
        metadata: { name: NAME, namespace: namespace.name, labels: SERVER_LABELS },
        spec: {
          targetRefs: [{ group: "gateway.networking.k8s.io", kind: "HTTPRoute", name: NAME }],
          timeout: { http: { requestTimeout: "0s", maxStreamDuration: "0s", connectionIdleTimeout: IDLE } },
          // A replica that has just died refuses connections until its endpoint is gone. Nothing was sent then, so the
          // next one may be asked; whatever was sent is sent once.
          retry: { numRetries: 2, retryOn: { triggers: ["connect-failure"] } },
          // In the older era a subscription belongs to where the session's stream is, and a cancellation to where its
          // call runs. The newer era has no sessions: without the header any replica will do.
          loadBalancer: {
            type: "ConsistentHash",
            consistentHash: { type: "Headers", headers: [{ name: "Mcp-Session-Id" }] },
          },
          // Before the server's own limits, which are by caller and in agreement between replicas: this one costs no replica
          // anything. Each proxy counts by itself, each of the route's paths apart.
          rateLimit: {
            type: "Local",
            local: {
              rules: [
                {
                  clientSelectors: [{ sourceCIDR: { type: "Distinct", value: "0.0.0.0/0" } }],
                  limit: { requests: ADDRESS_LIMIT, unit: "Minute" },
                },
              ],
            },
          },
          circuitBreaker: { maxConnections: STREAMS, maxParallelRequests: STREAMS },
        },
      },
      { parent: this, dependsOn: route },
    );
  }
}

type Variables = ServerEnvironment<Input<string>>;

/** Who may call, in the server's words. */
function identityVariables({ entra, apiKey, origins }: Callers) {
  const either = {
    ...(origins.length > 0 && ({ ALLOWED_ORIGINS: origins.join(",") } satisfies Partial<Variables>)),
  };
  const keys = apiKey && { ...either, API_KEY_HASHES: apiKey.hash, API_KEYS_SECRET: REGISTER_SECRET };
  if (!entra) {
    if (keys) return { ...keys, AUTH_MODE: "api-key" as const };
    throw new Error("a server that nobody may call: give it Entra, or a key");
  }
  const tokens = {
    ...either,
    ENTRA_TENANT_ID: entra.tenantId,
    ENTRA_CLIENT_ID: entra.clientId,
    ENTRA_ALLOWED_TENANTS: entra.allowedTenants.join(","),
    OAUTH_CLIENT_ID: entra.ideClientId,
  };
  return keys
    ? { ...keys, ...tokens, AUTH_MODE: "entra,api-key" as const }
    : { ...tokens, AUTH_MODE: "entra" as const };
}
