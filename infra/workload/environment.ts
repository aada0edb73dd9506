import { createHash } from "node:crypto";
import { ConfigMap, Secret } from "@pulumi/kubernetes/core/v1/index.js";
import { type ComponentResource, type Input, type Output, output, unsecret } from "@pulumi/pulumi";
import { SECRET_VARIABLES, type ServerEnvironment, type WorkerEnvironment } from "../../server/config.ts";
import type { AuditTrail } from "../azure/audit-trail.ts";
import type { Cache } from "../azure/cache.ts";
import type { ServiceBus } from "../azure/service-bus.ts";
import type { Storage } from "../azure/storage.ts";
import type { Telemetry } from "../azure/telemetry.ts";
import type { Settings } from "../settings.ts";
import { PORTS, WORKSPACE_PATH } from "./container.ts";
import type { WorkloadNamespace } from "./namespace.ts";

/** What the tools of server and workers stand on. */
export interface Backing {
  readonly storage: Pick<Storage, "tableEndpoint" | "tableName" | "blobEndpoint" | "containerName">;
  /** Absent: cache and rate limits are kept in memory. */
  readonly cache?: Pick<Cache, "host" | "port"> | undefined;
  readonly telemetry: Pick<Telemetry, "connectionString">;
  readonly auditTrail: Pick<AuditTrail, "endpoint" | "ruleId">;
}

/** What brings jobs from the server to the workers. */
export type JobQueues = Pick<ServiceBus, "host" | "queueName" | "orderedQueueName">;

/** What callers' tools may do, wherever they run. */
export interface ToolRules {
  readonly settings: Pick<Settings, "server" | "jobs">;
  /** ACCESS_POLICY. */
  readonly accessPolicy?: string | undefined;
}

/** A container's variables. The type is the contract: one that the server does not know does not compile. */
export type Variables = ServerEnvironment<Input<string>> | WorkerEnvironment<Input<string>>;

/** What a tool finds the same, whether it is called or run as a job. */
export function toolVariables({ settings, accessPolicy }: ToolRules, backing: Backing) {
  const { isolation, network, programs } = settings.server.commands;
  const { storage, cache, telemetry, auditTrail } = backing;
  return {
    HOST: "0.0.0.0",
    PORT: String(PORTS.http),
    METRICS_PORT: String(PORTS.metrics),
    LOG_LEVEL: "info",
    WORKSPACE_PATH,
    COMMAND_ISOLATION: isolation,
    COMMAND_NETWORK: String(network),
    ...(programs &&
      ({ COMMAND_SHELL: "false", COMMAND_ALLOWED_PROGRAMS: programs.join(",") } satisfies Partial<Variables>)),
    ...(accessPolicy !== undefined && ({ ACCESS_POLICY: accessPolicy } satisfies Partial<Variables>)),
    JOBS_TABLE_ENDPOINT: storage.tableEndpoint,
    JOBS_TABLE_NAME: storage.tableName,
    JOBS_BLOB_ENDPOINT: storage.blobEndpoint,
    JOBS_BLOB_CONTAINER: storage.containerName,
    JOB_RETENTION_DAYS: String(settings.jobs.retentionDays),
    APPLICATIONINSIGHTS_CONNECTION_STRING: telemetry.connectionString,
    AUDIT_INGESTION_ENDPOINT: auditTrail.endpoint,
    AUDIT_INGESTION_RULE: auditTrail.ruleId,
    AUDIT_FAILURE: settings.server.auditFailure,
    ...(cache && ({ REDIS_HOST: cache.host, REDIS_PORT: String(cache.port) } satisfies Partial<Variables>)),
  } satisfies Partial<Variables>;
}

/** Where jobs are sent and taken. */
export function queueVariables({ host, queueName, orderedQueueName }: JobQueues) {
  return {
    SERVICE_BUS_NAMESPACE: host,
    SERVICE_BUS_QUEUE: queueName,
    SERVICE_BUS_ORDERED_QUEUE: orderedQueueName,
  } satisfies Partial<Variables>;
}

/** A container's variables in the cluster. */
export interface Environment {
  readonly configMap: ConfigMap;
  readonly secret: Secret;
  /** Another one for other variables. Pods read theirs once: a changed environment has to make new pods. */
  readonly checksum: Output<string>;
}

export interface EnvironmentArgs {
  readonly namespace: WorkloadNamespace;
  readonly labels: Readonly<Record<string, string>>;
  readonly variables: Variables;
}

/** One ConfigMap and one Secret of that name: together exactly what server/config.ts reads. */
export function createEnvironment(name: string, args: EnvironmentArgs, parent: ComponentResource): Environment {
  const variables = Object.entries(args.variables);
  const data = Object.fromEntries(variables.filter(([variable]) => !SECRET_VARIABLES.has(variable)));
  const stringData = Object.fromEntries(variables.filter(([variable]) => SECRET_VARIABLES.has(variable)));
  const metadata = { name, namespace: args.namespace.name, labels: args.labels };
  return {
    configMap: new ConfigMap(name, { metadata, data }, { parent }),
    secret: new Secret(name, { metadata, stringData }, { parent }),
    // No way back from a hash of what nobody can guess: it may stand in a plan.
    checksum: unsecret(output({ ...data, ...stringData }).apply(checksum)),
  };
}

/** The same for the same variables, in whatever order. */
function checksum(variables: Readonly<Record<string, string>>): string {
  const sorted = Object.entries(variables).sort(([a], [b]) => (a < b ? -1 : 1));
  return createHash("sha256").update(JSON.stringify(sorted)).digest("hex");
}
