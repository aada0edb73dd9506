import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import Fastify, {
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyServerOptions,
  LogController,
} from "fastify";
import { z } from "zod";
import type { Authenticate } from "./auth/authenticate.ts";
import { createChallenge } from "./auth/challenge.ts";
import { createCors } from "./auth/cors.ts";
import type { Failures } from "./auth/failures.ts";
import { createIdentity } from "./auth/identity.ts";
import { registerOauthFront } from "./auth/oauth-front.ts";
import { registerOauthMetadata } from "./auth/oauth-metadata.ts";
import { createRefuseForeign } from "./auth/origin.ts";
import { parseAccessPolicy } from "./auth/roles.ts";
import { securityHeaders } from "./auth/security-headers.ts";
import { type CommandLimits, type Config, commandLimits, type Role } from "./config.ts";
import { createJobService, type JobService } from "./jobs/job-service.ts";
import { createToolRun } from "./jobs/tool-run.ts";
import { createLimits, type Limits } from "./limits/limits.ts";
import { createCallGate } from "./mcp/call-gate.ts";
import { createContexts, createProtocol, type Protocol } from "./mcp/protocol.ts";
import { createStreamableHttp, type StreamableHttp } from "./mcp/streamable-http.ts";
import { createToolCalls } from "./mcp/tool-calls.ts";
import { type Audit, createAudit } from "./observability/audit.ts";
import { createReadiness, operatorPages, probes, type Readiness } from "./observability/health.ts";
import type { LineWriter } from "./observability/line-writer.ts";
import { createMetrics, type Metrics } from "./observability/metrics.ts";
import { registerOpenapi } from "./openapi.ts";
import type { Prompt } from "./prompts/define-prompt.ts";
import { prompts as allPrompts } from "./prompts/index.ts";
import { resourceSources } from "./resources/index.ts";
import type { ResourceSource } from "./resources/resource-source.ts";
import { type CommandRunner, createCommandRunner } from "./services/commands.ts";
import { createIsolation, type Isolation } from "./services/isolation.ts";
import type { JobBacking } from "./services/jobs/jobs.ts";
import { createLeftAnswers, type LeftAnswers } from "./services/left-answers.ts";
import { createRuntime, type Runtime } from "./services/runtime.ts";
import type { SharedStore } from "./services/shared-store.ts";
import { createMemoryStore } from "./services/shared-store-memory.ts";
import { createRedisStore } from "./services/shared-store-redis.ts";
import { createFileWatch } from "./services/watch.ts";
import { openWorkspaces, type Workspaces } from "./services/workspaces.ts";
import type { Services, Tool } from "./tools/define-tool.ts";
import { tools as allTools } from "./tools/index.ts";

/** What every entry needs, whatever its transport. */
export interface Core {
  readonly services: Services;
  readonly metrics: Metrics;
  readonly audit: Audit;
  readonly protocol: Protocol;
  readonly shared: Shared;
  readonly jobService: JobService;
}

/** What this process has in common with the server's other replicas. */
export interface Shared {
  readonly store: SharedStore;
  readonly limits: Limits;
}

/** What a server does for its callers outside its own process, and has to end before it ends itself. */
export interface Work {
  readonly running: number;
  /** Lets what runs for nobody who waits come to its end, and begins none of it any more. Takes no longer than that. */
  finish?(withinMs: number): Promise<void>;
  /** Ends what runs; its callers are told. */
  stopAll(): void;
  /** Ends, properly, what is kept ready for callers. */
  close?(): Promise<void>;
  /** Kills what is left, at once. */
  killAllNow(): void;
}

export interface Listeners {
  /** The public listener: the MCP endpoint and the probes. */
  readonly app: FastifyInstance;
  /** The operators' listener: metrics and details. */
  readonly operator: FastifyInstance;
  readonly readiness: Readiness;
  /** Absent where nobody calls. */
  readonly mcp?: StreamableHttp | undefined;
  readonly work: Work;
  /** Ended when nothing more can happen. */
  readonly audit: Audit;
}

export interface App extends Listeners {
  readonly mcp: StreamableHttp;
  readonly services: Services;
}

/** What the listeners stand in front of. */
interface Served {
  readonly protocol: Protocol;
  readonly metrics: Metrics;
  readonly runtime: Runtime;
  readonly shared: Shared;
  readonly work: Work;
  readonly leftAnswers?: LeftAnswers | undefined;
  readonly audit: Audit;
  /** Details for operators. */
  details(): Promise<Record<string, unknown>>;
}

export interface BuildOptions {
  readonly config: Config;
  readonly log: FastifyBaseLogger;
  /** Where decisions against a request are put on record in place of the audit trail, for tests. */
  readonly audit?: Pick<Audit, "decided">;
  /** What slows down addresses that fail again and again. */
  readonly failures?: Failures;
  /** Milliseconds since 1970, by which tokens are judged; the machine's clock by default. */
  readonly now?: () => number;
  /** The standard stream that the log goes to; the audit trail goes there, too. */
  readonly stream?: LineWriter;
  /** Others than the server's own, for tests. */
  readonly tools?: readonly Tool[];
  readonly prompts?: readonly Prompt[];
  readonly sources?: readonly ResourceSource[];
  /** Where jobs are and what brings them to workers, in place of what the configuration names. */
  readonly openJobs?: (config: Config) => Promise<JobBacking>;
  /** Tells who calls in another way than the configuration has it, for tests. */
  readonly authenticate?: Authenticate;
  /** Has the SDK answer every request, for tests. */
  readonly plainOff?: boolean;
}

/** Time that a client may take to send one request, against those that send a byte a minute. */
const REQUEST_TIMEOUT_MS = 30_000;
/** Longer than what stands in front keeps one (60 s, infra/workload/mcp-server.ts): no request meets a closing connection. */
const KEEP_ALIVE_TIMEOUT_MS = 75_000;

export async function buildCore({
  config,
  log,
  stream,
  tools = allTools,
  prompts = allPrompts,
  sources = resourceSources(createFileWatch()),
  openJobs,
}: BuildOptions): Promise<Core> {
  const workspaces = await openConfiguredWorkspaces(config, log);
  const isolation = findIsolation(config, workspaces, log);
  // Finding out takes longer than all else here, and most of what is asked of it can wait for the first command.
  if (mustHold(config)) await isolation;
  const version = packageVersion();
  const runtime = createRuntime(config.MCP_SERVER_NAME, version);
  const metrics = createMetrics(tools.map((tool) => tool.name));
  const audit = createAudit({ config, log, metrics, version, stream });
  const shared = createShared(config, metrics, log);
  const gate = createCallGate({
    tools,
    policy: parseAccessPolicy(config.ACCESS_POLICY),
    facetContext: { shell: config.COMMAND_SHELL },
    limits: shared.limits,
    audit,
  });
  const carryOut = createToolCalls({ gate, metrics, log });
  // Jobs run tools, and tools have jobs run.
  const run = createToolRun({ carryOut, contextOf: (caller) => contextOf(caller) });
  const jobService = createJobService({ config, tools, gate, run, metrics, log, open: openJobs });
  const services: Services = {
    workspaces,
    commands: createCommandRunner({
      limits: withinMemory(commandLimits(config), runtime.usage().memory.limit),
      concurrency: config.COMMAND_CONCURRENCY,
      shell: config.COMMAND_SHELL,
      isolation,
    }),
    runtime,
    jobs: jobService.jobs,
    resultLimit: config.RESULT_LIMIT_BYTES,
  };
  const contextOf = createContexts(services, log);
  const protocol = createProtocol({ tools, gate, carryOut, prompts, sources, services, contextOf });
  return { services, metrics, audit, protocol, shared, jobService };
}

/** The store that replicas share, as far as there may be several, and the limits that are counted in it. */
export function createShared(config: Config, metrics: Metrics, log: FastifyBaseLogger): Shared {
  const { REDIS_HOST: host, REDIS_PORT: port, REDIS_TLS: tls, REDIS_AUTH: auth } = config;
  const onChange = (healthy: boolean, reason: string | undefined) => {
    metrics.limitsStoreHealthy(healthy);
    if (healthy) log.info({ event: "redis.connected", host });
    else log.warn({ event: "redis.lost", host, reason, limits: "each replica counts by itself" });
  };
  // Without Redis this process is all there is, and counts for all. With it, that has to be seen first.
  metrics.limitsStoreHealthy(host === undefined);
  const store = host === undefined ? createMemoryStore() : createRedisStore({ host, port, tls, auth, onChange });
  return { store, limits: createLimits({ config, store, metrics }) };
}

/** Builds the server with its tools, listening on nothing and touching no state of the process. */
export async function buildApp(options: BuildOptions): Promise<App> {
  const { services, jobService, ...core } = await buildCore(options);
  const protocol = options.plainOff ? { ...core.protocol, direct: undefined } : core.protocol;
  const { commands, workspaces, runtime } = services;
  const details = () => detailsOf({ services, shared: core.shared, jobService });
  // Beside the callers' own workspaces, which replicas share; the plain one is somebody's, and has nothing of ours in it.
  const leftAnswers =
    options.config.AUTH_MODE === "none" ? undefined : createLeftAnswers(join(workspaces.root, ".answers"));
  const work = workOf(commands, jobService);
  const listeners = await buildListeners(options, { ...core, protocol, runtime, work, leftAnswers, details });
  listeners.operator.addHook("onClose", () => jobService.close());
  return { ...listeners, services };
}

/** How the process does, for operators. */
export async function detailsOf({
  services: { commands, workspaces },
  shared,
  jobService,
}: Pick<Core, "services" | "shared" | "jobService">): Promise<Record<string, unknown>> {
  return {
    commands: { running: commands.running, concurrency: commands.concurrency },
    jobs: { running: jobService.running },
    isolation: await commands.isolation.then(
      ({ facts }) => facts,
      (error: unknown) => ({ unavailable: error instanceof Error ? error.message : String(error) }),
    ),
    workspace: await workspaces.space().catch(() => "unavailable"),
    sharedStore: { kind: shared.store.kind, healthy: shared.store.healthy },
  };
}

/** What runs for callers, and for those who submitted jobs. */
export function workOf(commands: CommandRunner, jobService: JobService): Work {
  return {
    get running() {
      return commands.running;
    },
    finish: (withinMs) => jobService.finish(withinMs),
    stopAll: () => commands.stopAll(),
    killAllNow: () => commands.killAllNow(),
  };
}

/** Builds both listeners in front of what is served. */
export async function buildListeners(
  options: Pick<BuildOptions, "config" | "log" | "audit" | "failures" | "now" | "authenticate">,
  { protocol, metrics, runtime, shared, work, leftAnswers, audit: trail, details }: Served,
): Promise<Listeners & Pick<App, "mcp">> {
  const { config, log, failures, now, audit = trail } = options;
  const readiness = createReadiness();
  const identity = await createIdentity({ config, log, metrics, store: shared.store, failures, now });
  const mcp = createStreamableHttp({
    protocol,
    authenticate: options.authenticate ?? identity.authenticate,
    stillHolds: identity.stillHolds,
    tickets: identity.tickets,
    challenge: createChallenge(config),
    refuseForeign: createRefuseForeign(config),
    cors: createCors(config),
    audit,
    limits: shared.limits,
    metrics,
    log,
    bodyLimit: config.REQUEST_BODY_LIMIT_BYTES,
    leftAnswers,
  });

  const app = await listener(log, {
    trustProxy: config.TRUSTED_PROXY_HOPS,
    publicUrl: config.PUBLIC_URL,
    audit,
  });
  // While draining, clients are asked to connect anew, which brings them to another replica. Event streams name their
  // own Connection header, so the connection is ended as well, once its answer is out.
  app.addHook("onRequest", (request, reply, done) => {
    if (readiness.phase === "draining") {
      reply.raw.setHeader("connection", "close");
      reply.raw.once("finish", () => request.raw.socket.end());
    }
    done();
  });
  app.addHook("onClose", () => identity.close());
  await app.register(mcp.upgrades);
  if (config.OPENAPI_DOCS) registerOpenapi(app, { config, runtime });
  await app.register(probes, { readiness });
  registerOauthMetadata(app, config);
  registerOauthFront(app, { config, failures: identity.failures });
  await app.register(mcp.plugin);
  app.get("/", async () => ({ name: runtime.name, endpoint: "/mcp", transport: "streamable-http" }));

  const operator = await listener(log);
  // The operators' listener is the last to close.
  operator.addHook("onClose", () => shared.store.close());
  await operator.register(operatorPages, {
    config,
    metrics,
    readiness,
    runtime,
    details: async () => ({ audit: trail.details(), ...(await details()) }),
  });

  return { app, operator, readiness, mcp, work, audit: trail };
}

/** What a caller's own workspace may hold, unless the configuration says otherwise. */
const OWN_QUOTA = { bytes: 1024 ** 3, files: 100_000 };

async function openConfiguredWorkspaces(config: Config, log: FastifyBaseLogger): Promise<Workspaces> {
  const { WORKSPACE_PATH: path, WORKSPACE_QUOTA_BYTES: bytes, WORKSPACE_QUOTA_FILES: files } = config;
  try {
    return await openWorkspaces({
      path,
      fileSizeLimit: config.FILE_SIZE_LIMIT_BYTES,
      quotas: {
        own: { bytes: bytes ?? OWN_QUOTA.bytes, files: files ?? OWN_QUOTA.files },
        plain: { bytes, files },
      },
      // The plain workspace is somebody's own directory; nothing in it was made by this server.
      retentionDays: config.AUTH_MODE === "none" ? 0 : config.WORKSPACE_RETENTION_DAYS,
      onSwept: (workspaces) => {
        if (workspaces.length > 0) log.info({ event: "workspaces.removed", workspaces });
      },
      onSweepFailed: (error) => log.warn({ event: "workspaces.sweep.failed", err: error }),
    });
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new Error(`WORKSPACE_PATH=${path} cannot be used (${why}); name a directory that this user may write.`, {
      cause,
    });
  }
}

/** Finds out what keeps commands apart here, and says so in the log. */
function findIsolation(config: Config, { root }: Workspaces, log: FastifyBaseLogger): Promise<Isolation> {
  // Directories of files that no command may read. Devices are everybody's.
  const ownFiles = [process.env.AZURE_FEDERATED_TOKEN_FILE, config.AUDIT_FILE].flatMap((file) => {
    return file === undefined || file.startsWith("/dev/") ? [] : [dirname(file)];
  });
  const isolation = createIsolation({
    mode: config.COMMAND_ISOLATION,
    network: config.COMMAND_NETWORK,
    workspaces: root,
    hidden: [...config.COMMAND_HIDDEN_PATHS, ...ownFiles],
    programs: config.COMMAND_ALLOWED_PROGRAMS,
  });
  isolation.then(
    ({ facts }) => log.info({ event: "isolation.found", ...facts }),
    (error: unknown) => log.error({ event: "isolation.failed", err: error }),
  );
  return isolation;
}

/** Whether a server that cannot isolate commands as configured must not start. */
function mustHold({ COMMAND_ISOLATION, COMMAND_NETWORK, COMMAND_ALLOWED_PROGRAMS }: Config): boolean {
  return COMMAND_ISOLATION === "required" || !COMMAND_NETWORK || COMMAND_ALLOWED_PROGRAMS !== undefined;
}

/** Memory that the server itself needs. Bytes. */
const SERVER_MEMORY = 256 * 1024 * 1024;
/** A command gets no less, whatever the container has. */
const LEAST_MEMORY = 64 * 1024 * 1024;

/**
 * Limits that one command alone cannot break the container's with: when a container's memory runs out, Kubernetes ends
 * all of it, server included.
 */
function withinMemory(
  limits: Readonly<Record<Role, CommandLimits>>,
  available: number,
): Readonly<Record<Role, CommandLimits>> {
  const most = Math.max(LEAST_MEMORY, available - SERVER_MEMORY);
  const bounded = (each: CommandLimits) => ({ ...each, memoryBytes: Math.min(each.memoryBytes, most) });
  return { reader: bounded(limits.reader), operator: bounded(limits.operator), admin: bounded(limits.admin) };
}

interface ListenerOptions {
  /** Proxies in front whose word on the client's address is taken. */
  readonly trustProxy?: number;
  /** What clients call it by. */
  readonly publicUrl?: string | undefined;
  readonly audit?: Pick<Audit, "decided"> | undefined;
}

export async function listener(
  log: FastifyBaseLogger,
  { trustProxy = 0, publicUrl, audit }: ListenerOptions = {},
): Promise<FastifyInstance> {
  const app = Fastify({
    // Fastify's own lines below a warning are prose about what the server's events say already.
    loggerInstance: log.child({}, { level: ["error", "fatal", "silent"].includes(log.level) ? log.level : "warn" }),
    // A logger for each request would only add a number that nobody outside the process knows.
    childLoggerFactory: (logger) => logger,
    logController: new LogController({ disableRequestLogging: true }),
    schemaController: NO_SCHEMAS,
    requestTimeout: REQUEST_TIMEOUT_MS,
    keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
    // Fastify trusts no proxy for a mere number. Nothing but the proxies can reach the port; the network sees to that.
    trustProxy: trustProxy > 0 && ((_address, hop) => hop < trustProxy),
    clientErrorHandler(error, socket) {
      // A client that went away has asked for nothing.
      if (error.code === "ECONNRESET" || !socket.writable) return socket.destroy();
      const { remoteAddress: address } = socket;
      audit?.decided({ decision: "refused", reason: `no HTTP: ${error.code}`, ...(address && { address }) });
      const status = MALFORMED[error.code] ?? "400 Bad Request";
      socket.end(`HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`);
    },
  });
  app.addHook("onRequest", securityHeaders(publicUrl));
  app.setNotFoundHandler((request, reply) => {
    const { method, ip: address } = request;
    const path = request.url.split("?", 1)[0] ?? "";
    audit?.decided({ decision: "refused", reason: "no such path", address, method, path });
    return reply.code(404).send({ error: "not_found", message: "Nothing is here; the MCP endpoint is POST /mcp." });
  });
  return app;
}

/**
 * What comes in is checked by the protocol and by zod, so no route has a schema. Fastify would load its own compilers for
 * them all the same: a fifth of the modules.
 */
const NO_SCHEMAS: FastifyServerOptions["schemaController"] = {
  compilersFactory: { buildValidator: () => refuseSchema, buildSerializer: () => refuseSchema },
};

function refuseSchema(): never {
  throw new Error("A route has a schema; check what it takes with zod, and describe it in server/openapi.ts.");
}

/** Answers to what Node takes for no request, by its code for it; 400 to all else. */
const MALFORMED: Readonly<Record<string, string>> = {
  ERR_HTTP_REQUEST_TIMEOUT: "408 Request Timeout",
  HPE_HEADER_OVERFLOW: "431 Request Header Fields Too Large",
};

export function packageVersion(): string {
  const manifest: unknown = JSON.parse(readFileSync(new URL("./package.json", import.meta.url), "utf8"));
  return z.object({ version: z.string() }).parse(manifest).version;
}
