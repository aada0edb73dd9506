import { readFileSync } from "node:fs";
import Fastify, { type FastifyBaseLogger, type FastifyInstance, LogController } from "fastify";
import { z } from "zod";
import { createAuthenticate } from "./auth/authenticate.ts";
import { createRefuseForeign } from "./auth/origin.ts";
import { setSecurityHeaders } from "./auth/security-headers.ts";
import type { Config } from "./config.ts";
import { createProtocol, type Protocol } from "./mcp/protocol.ts";
import { createStreamableHttp, type StreamableHttp } from "./mcp/streamable-http.ts";
import { createReadiness, operatorPages, probes, type Readiness } from "./observability/health.ts";
import { createMetrics, type Metrics } from "./observability/metrics.ts";
import type { Prompt } from "./prompts/define-prompt.ts";
import { prompts as allPrompts } from "./prompts/index.ts";
import { resourceSources } from "./resources/index.ts";
import type { ResourceSource } from "./resources/resource-source.ts";
import { createCommandRunner } from "./services/commands.ts";
import { createRuntime } from "./services/runtime.ts";
import { createFileWatch } from "./services/watch.ts";
import { openWorkspace, type Workspace } from "./services/workspace.ts";
import type { Services, Tool } from "./tools/define-tool.ts";
import { tools as allTools } from "./tools/index.ts";

/** What every entry needs, whatever its transport. */
export interface Core {
  readonly services: Services;
  readonly metrics: Metrics;
  readonly protocol: Protocol;
}

export interface App {
  /** The public listener: the MCP endpoint and the probes. */
  readonly app: FastifyInstance;
  /** The operators' listener: metrics and details. */
  readonly operator: FastifyInstance;
  readonly readiness: Readiness;
  readonly mcp: StreamableHttp;
  readonly services: Services;
}

interface BuildOptions {
  readonly config: Config;
  readonly log: FastifyBaseLogger;
  /** Others than the server's own, for tests. */
  readonly tools?: readonly Tool[];
  readonly prompts?: readonly Prompt[];
  readonly sources?: readonly ResourceSource[];
  /** Has the SDK answer every request, for tests. */
  readonly plainOff?: boolean;
}

/** Time that a client may take to send one request, against those that send a byte a minute. */
const REQUEST_TIMEOUT_MS = 30_000;
/** Longer than the idle time of what stands in front (Envoy: 60 s), so that no request meets a closing connection. */
const KEEP_ALIVE_TIMEOUT_MS = 75_000;

export async function buildCore({
  config,
  log,
  tools = allTools,
  prompts = allPrompts,
  sources = resourceSources(createFileWatch()),
}: BuildOptions): Promise<Core> {
  const services: Services = {
    workspace: await openConfiguredWorkspace(config),
    commands: createCommandRunner({
      timeoutSeconds: config.COMMAND_TIMEOUT_SECONDS,
      outputBytes: config.COMMAND_OUTPUT_LIMIT_BYTES,
      concurrency: config.COMMAND_CONCURRENCY,
    }),
    runtime: createRuntime(config.MCP_SERVER_NAME, packageVersion()),
  };
  const metrics = createMetrics(tools.map((tool) => tool.name));
  const resultLimit = config.RESULT_LIMIT_BYTES;
  const protocol = createProtocol({ tools, prompts, sources, services, metrics, log, resultLimit });
  return { services, metrics, protocol };
}

/** Builds both listeners, listening on nothing and touching no state of the process. */
export async function buildApp(options: BuildOptions): Promise<App> {
  const { config, log } = options;
  const { services, metrics, protocol } = await buildCore(options);
  const readiness = createReadiness();
  const mcp = createStreamableHttp({
    protocol,
    authenticate: createAuthenticate(config),
    refuseForeign: createRefuseForeign(config),
    metrics,
    log,
    bodyLimit: config.REQUEST_BODY_LIMIT_BYTES,
    plainOff: options.plainOff,
  });

  const app = await listener(log);
  // While draining, clients are asked to connect anew, which brings them to another replica. Event streams name their
  // own Connection header, so the connection is ended as well, once its answer is out.
  app.addHook("onRequest", (request, reply, done) => {
    if (readiness.phase === "draining") {
      reply.raw.setHeader("connection", "close");
      reply.raw.once("finish", () => request.raw.socket.end());
    }
    done();
  });
  await app.register(mcp.upgrades);
  await app.register(probes, { readiness });
  await app.register(mcp.plugin);
  app.get("/", async () => ({ name: services.runtime.name, endpoint: "/mcp", transport: "streamable-http" }));

  const operator = await listener(log);
  await operator.register(operatorPages, { config, metrics, readiness, services });

  return { app, operator, readiness, mcp, services };
}

async function openConfiguredWorkspace({ WORKSPACE_PATH, FILE_SIZE_LIMIT_BYTES }: Config): Promise<Workspace> {
  try {
    return await openWorkspace(WORKSPACE_PATH, { fileSizeLimit: FILE_SIZE_LIMIT_BYTES });
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new Error(
      `WORKSPACE_PATH=${WORKSPACE_PATH} cannot be used (${why}); name a directory that this user may write.`,
      {
        cause,
      },
    );
  }
}

async function listener(log: FastifyBaseLogger): Promise<FastifyInstance> {
  const app = Fastify({
    // Fastify's own lines below a warning are prose about what the server's events say already.
    loggerInstance: log.child({}, { level: ["error", "fatal", "silent"].includes(log.level) ? log.level : "warn" }),
    // A logger for each request would only add a number that nobody outside the process knows.
    childLoggerFactory: (logger) => logger,
    logController: new LogController({ disableRequestLogging: true }),
    requestTimeout: REQUEST_TIMEOUT_MS,
    keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
  });
  app.addHook("onRequest", setSecurityHeaders);
  app.setNotFoundHandler((_request, reply) => {
    return reply.code(404).send({ error: "not_found", message: "Nothing is here; the MCP endpoint is POST /mcp." });
  });
  return app;
}

function packageVersion(): string {
  const manifest: unknown = JSON.parse(readFileSync(new URL("./package.json", import.meta.url), "utf8"));
  return z.object({ version: z.string() }).parse(manifest).version;
}
