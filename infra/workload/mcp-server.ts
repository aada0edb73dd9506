import { createHash } from "node:crypto";
import type { IBackendTrafficPolicy } from "@kubernetes-models/envoy-gateway/gateway.envoyproxy.io/v1alpha1/BackendTrafficPolicy";
import type { IHTTPRoute } from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute";
import type { IScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";
import type { IServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";
import type { CustomResource } from "@pulumi/kubernetes/apiextensions/customResource.js";
import { Deployment } from "@pulumi/kubernetes/apps/v1/index.js";
import { ConfigMap, Secret, Service } from "@pulumi/kubernetes/core/v1/index.js";
import { PodDisruptionBudget } from "@pulumi/kubernetes/policy/v1/index.js";
import type { core } from "@pulumi/kubernetes/types/input.js";
import {
  ComponentResource,
  type ComponentResourceOptions,
  type Input,
  interpolate,
  type Output,
  output,
  unsecret,
} from "@pulumi/pulumi";
import { REGISTER_SECRET } from "../../server/auth/key-register.ts";
import { SECRET_VARIABLES, type ServerEnvironment } from "../../server/config.ts";
import type { AuditTrail } from "../azure/audit-trail.ts";
import type { Cache } from "../azure/cache.ts";
import type { EntraApp } from "../azure/entra-app.ts";
import type { KeyVault } from "../azure/key-vault.ts";
import type { ServiceBus } from "../azure/service-bus.ts";
import type { Storage } from "../azure/storage.ts";
import type { Telemetry } from "../azure/telemetry.ts";
import { customResource } from "../platform/custom-resource.ts";
import type { Gateway } from "../platform/gateway.ts";
import { LISTENERS } from "../platform/gateway-names.ts";
import { PROMETHEUS_URL } from "../platform/monitoring.ts";
import type { Settings } from "../settings.ts";
import type { ApiKey } from "./api-key.ts";
import type { ServerImage } from "./image.ts";
import { CONTAINER_USER, MCP_SERVER, SERVER_LABELS, type WorkloadNamespace } from "./namespace.ts";
import type { Workspace } from "./workspace.ts";

const NAME = MCP_SERVER.name;

/** A Deployment's selector can never be changed, so it is no more than the name. */
const SELECTOR = { "app.kubernetes.io/name": NAME };

/** Container ports: the first is the Gateway's, the second Prometheus's alone. NetworkPolicies need the numbers. */
export const SERVER_PORTS = { http: 8080, metrics: 9090 } as const;

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

const WORKSPACE_PATH = "/workspace";

/** Seconds: answering as before while proxies take notice, then until running commands are killed. */
const DRAIN = 10;
const GRACE = 30;
/** What the kubelet waits beyond that before it kills the process: closing connections and flushing telemetry. */
const MARGIN = 10;

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
  readonly settings: Settings["server"];
  readonly namespace: WorkloadNamespace;
  readonly image: ServerImage;
  readonly workspace: Workspace;
  readonly gateway: Gateway;
  readonly callers: Callers;
  /** What the server's tools stand on. */
  readonly backing: {
    readonly vault: Pick<KeyVault, "uri">;
    readonly jobs: Pick<ServiceBus, "host" | "queueName">;
    readonly storage: Pick<Storage, "tableEndpoint" | "tableName">;
    /** Absent: the server keeps cache and rate limits in memory. */
    readonly cache?: Pick<Cache, "host" | "port">;
    readonly telemetry: Pick<Telemetry, "connectionString">;
    readonly auditTrail: Pick<AuditTrail, "endpoint" | "ruleId">;
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

  /** One ConfigMap, one Secret: together exactly what server/config.ts reads. */
  #createEnvironment(args: McpServerArgs): Environment {
    const variables = Object.entries(this.#variables(args));
    const data = Object.fromEntries(variables.filter(([variable]) => !SECRET_VARIABLES.has(variable)));
    const stringData = Object.fromEntries(variables.filter(([variable]) => SECRET_VARIABLES.has(variable)));
    const metadata = { name: NAME, namespace: args.namespace.name, labels: SERVER_LABELS };
    return {
      configMap: new ConfigMap(NAME, { metadata, data }, { parent: this }),
      secret: new Secret(NAME, { metadata, stringData }, { parent: this }),
      // No way back from a hash of what nobody can guess: it may stand in a plan.
      checksum: unsecret(output({ ...data, ...stringData }).apply(checksum)),
    };
  }

  /** The type is the contract: a variable that the server does not know does not compile. */
  #variables({ settings, callers, backing }: McpServerArgs) {
    const { vault, jobs, storage, cache, telemetry, auditTrail } = backing;
    const { isolation, network, programs } = settings.commands;
    return {
      HOST: "0.0.0.0",
      PORT: String(SERVER_PORTS.http),
      METRICS_PORT: String(SERVER_PORTS.metrics),
      LOG_LEVEL: "info",
      MCP_SERVER_NAME: "mcp-on-aks",
      WORKSPACE_PATH,
      ...identityVariables(callers),
      TRUSTED_PROXY_HOPS: String(PROXY_HOPS),
      PUBLIC_URL: this.endpoint,
      SHUTDOWN_GRACE_SECONDS: String(GRACE),
      SHUTDOWN_DRAIN_SECONDS: String(DRAIN),
      COMMAND_ISOLATION: isolation,
      COMMAND_NETWORK: String(network),
      ...(programs &&
        ({ COMMAND_SHELL: "false", COMMAND_ALLOWED_PROGRAMS: programs.join(",") } satisfies Partial<Variables>)),
      KEY_VAULT_URL: vault.uri,
      SERVICE_BUS_NAMESPACE: jobs.host,
      SERVICE_BUS_QUEUE: jobs.queueName,
      JOBS_TABLE_ENDPOINT: storage.tableEndpoint,
      JOBS_TABLE_NAME: storage.tableName,
      APPLICATIONINSIGHTS_CONNECTION_STRING: telemetry.connectionString,
      AUDIT_INGESTION_ENDPOINT: auditTrail.endpoint,
      AUDIT_INGESTION_RULE: auditTrail.ruleId,
      AUDIT_FAILURE: settings.auditFailure,
      ...(cache && ({ REDIS_HOST: cache.host, REDIS_PORT: String(cache.port) } satisfies Partial<Variables>)),
    } satisfies Variables;
  }

  #createDeployment(args: McpServerArgs, environment: Environment): Deployment {
    const { min, max } = args.settings.replicas;
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
          template: {
            metadata: {
              labels: { ...SERVER_LABELS, "azure.workload.identity/use": "true" },
              // Pods read their environment once: a changed one has to make new pods.
              annotations: { "mcp-on-aks/environment": environment.checksum },
            },
            spec: podSpec(args, environment),
          },
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
            { name: "http", port: SERVER_PORTS.http, targetPort: "http", protocol: "TCP", appProtocol: "http" },
            { name: "metrics", port: SERVER_PORTS.metrics, targetPort: "metrics", protocol: "TCP" },
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
  #scale({ settings: { replicas }, namespace }: McpServerArgs, deployment: Deployment): void {
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
              backendRefs: [{ kind: "Service", name: service.metadata.name, port: SERVER_PORTS.http }],
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
function identityVariables({ entra, apiKey, accessPolicy, origins }: Callers) {
  const either = {
    ...(accessPolicy !== undefined && ({ ACCESS_POLICY: accessPolicy } satisfies Partial<Variables>)),
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

interface Environment {
  readonly configMap: ConfigMap;
  readonly secret: Secret;
  readonly checksum: Output<string>;
}

function podSpec({ namespace, image, workspace }: McpServerArgs, { configMap, secret }: Environment): core.v1.PodSpec {
  return {
    serviceAccountName: namespace.serverAccount,
    // The server never calls the Kubernetes API; the token for Entra is a volume of its own.
    automountServiceAccountToken: false,
    // The environment is the server's contract, not a list of the namespace's Services.
    enableServiceLinks: false,
    terminationGracePeriodSeconds: GRACE + MARGIN,
    securityContext: {
      runAsNonRoot: true,
      runAsUser: CONTAINER_USER,
      runAsGroup: CONTAINER_USER,
      // Makes the workspace's files the group's.
      fsGroup: CONTAINER_USER,
      fsGroupChangePolicy: "OnRootMismatch",
      seccompProfile: { type: "RuntimeDefault" },
    },
    topologySpreadConstraints: ["topology.kubernetes.io/zone", "kubernetes.io/hostname"].map((topologyKey) => ({
      topologyKey,
      maxSkew: 1,
      // Better two replicas on one node than one replica and a pending one.
      whenUnsatisfiable: "ScheduleAnyway",
      // Nodes that the pods cannot run on are not places to spread to.
      nodeTaintsPolicy: "Honor",
      labelSelector: { matchLabels: SERVER_LABELS },
      matchLabelKeys: ["pod-template-hash"],
    })),
    containers: [
      {
        name: NAME,
        image: image.reference,
        // Arguments and no command: the image's entry point stays process 1 and reaps what tools' commands leave behind,
        // which Node would keep as zombies.
        args: ["node", "main.js"],
        envFrom: [{ configMapRef: { name: configMap.metadata.name } }, { secretRef: { name: secret.metadata.name } }],
        ports: [
          { name: "http", containerPort: SERVER_PORTS.http, protocol: "TCP" },
          { name: "metrics", containerPort: SERVER_PORTS.metrics, protocol: "TCP" },
        ],
        // Two minutes for a cold start; after it, only a server that no longer answers at all is restarted.
        startupProbe: probe("/health/live", { periodSeconds: 2, failureThreshold: 60 }),
        livenessProbe: probe("/health/live", { periodSeconds: 10, failureThreshold: 6 }),
        readinessProbe: probe("/health/ready", { periodSeconds: 5, failureThreshold: 2 }),
        resources: {
          requests: { cpu: "250m", memory: "512Mi", "ephemeral-storage": "256Mi" },
          // Commands of tools run in here: the limits keep them from their neighbours.
          limits: { cpu: "2", memory: "2Gi", "ephemeral-storage": "12Gi" },
        },
        securityContext: {
          allowPrivilegeEscalation: false,
          privileged: false,
          readOnlyRootFilesystem: true,
          runAsNonRoot: true,
          capabilities: { drop: ["ALL"] },
          seccompProfile: { type: "RuntimeDefault" },
        },
        volumeMounts: [
          { name: workspace.volumeName, mountPath: WORKSPACE_PATH },
          { name: "tmp", mountPath: "/tmp" },
        ],
      },
    ],
    volumes: [workspace.volume, { name: "tmp", emptyDir: { sizeLimit: "1Gi" } }],
  };
}

function probe(path: string, { periodSeconds, failureThreshold }: { periodSeconds: number; failureThreshold: number }) {
  return { httpGet: { path, port: "http" }, timeoutSeconds: 3, periodSeconds, failureThreshold };
}

/** The same for the same variables, in whatever order. */
function checksum(variables: Readonly<Record<string, string>>): string {
  const sorted = Object.entries(variables).sort(([a], [b]) => (a < b ? -1 : 1));
  return createHash("sha256").update(JSON.stringify(sorted)).digest("hex");
}
