import type { AddressInfo } from "node:net";
import type { FastifyBaseLogger, FastifyInstance } from "fastify";
import type { Logger } from "pino";
import type { Listeners } from "./app.ts";
import { type Config, EnvironmentError, parseEnvironment } from "./config.ts";
import type { LineWriter } from "./observability/line-writer.ts";
import { createLogger, standardStream } from "./observability/logging.ts";
import { closeInheritedDescriptors } from "./services/descriptors.ts";
import { isStray } from "./services/stray-rejection.ts";
import { shutDown } from "./shutdown.ts";

/** What an entry says of itself, beside the address, in the event that tells that it listens. */
type Facts = Readonly<Record<string, unknown>>;

/** What differs between the processes that listen on HTTP. */
export interface Role {
  /** Its events are called by it, and so is it in them. */
  readonly name: "server" | "worker";
  /** What it is beyond its origin, for those who look for it. */
  readonly path: string;
  /** Throws an {@link EnvironmentError}. */
  parse(env: Readonly<Record<string, string | undefined>>): Config;
}

const SERVER: Role = { name: "server", path: "/mcp", parse: parseEnvironment };

/** Runs a process that listens on HTTP, all that an entry does: reads the environment, builds, listens, and ends on SIGTERM or SIGINT. */
export async function run(
  build: (
    config: Config,
    log: Logger,
    stream: LineWriter,
  ) => Promise<{ readonly listeners: Listeners; readonly facts?: Facts }>,
  role: Role = SERVER,
): Promise<void> {
  closeInheritedDescriptors();
  const config = readConfig(role);
  const stream = standardStream(1);
  const log = createLogger(config, stream);
  const fail = (error: unknown): never => {
    log.fatal({ event: `${role.name}.failed`, err: error });
    process.exit(1);
  };
  process.on("uncaughtException", fail);
  process.on("unhandledRejection", (error) => {
    if (!isStray(error)) fail(error);
    log.warn({ event: "rejection.stray", err: error });
  });
  try {
    const { listeners, facts } = await build(config, log, stream);
    // Whatever ends this process, nothing that it has started outlives it.
    process.on("exit", () => listeners.work.killAllNow());
    process.on("exit", () => listeners.audit.push());
    if (config.AUDIT_FILE !== undefined) process.on("SIGHUP", () => listeners.audit.reopen());
    endOnSignal(listeners, config, log, role, fail);

    const metricsUrl = await listen(listeners.operator, config, "METRICS_PORT");
    const url = `${await listen(listeners.app, config, "PORT")}${role.path}`;
    listeners.readiness.start();
    log.info(
      { event: `${role.name}.listening`, url, metricsUrl, authentication: config.AUTH_MODE, ...facts },
      `MCP ${role.name} listening on ${url}`,
    );
  } catch (error) {
    fail(error);
  }
}

function endOnSignal(
  listeners: Listeners,
  config: Config,
  log: FastifyBaseLogger,
  { name }: Role,
  fail: (error: unknown) => never,
) {
  let ending = false;
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => {
      log.info({ event: "signal.received", signal });
      if (ending) process.exit(1);
      ending = true;
      shutDown(listeners, config, log, name).then(() => process.exit(0), fail);
    });
  }
}

function readConfig({ parse }: Role): Config {
  try {
    return parse(process.env);
  } catch (error) {
    if (!(error instanceof EnvironmentError)) throw error;
    console.error(error.message);
    process.exit(1);
  }
}

/** Listens on HOST and the port of that name; returns the URL. */
async function listen(
  app: FastifyInstance,
  { HOST, ...ports }: Config,
  variable: "PORT" | "METRICS_PORT",
): Promise<string> {
  const wanted = ports[variable];
  try {
    await app.listen({ host: HOST, port: wanted });
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : undefined;
    if (code === "EADDRINUSE")
      throw new Error(`${variable}=${wanted} is in use on ${HOST}; free it or choose another port.`);
    if (code === "EACCES")
      throw new Error(`${variable}=${wanted} needs rights that this user lacks; choose a port above 1023.`);
    if (code === "EADDRNOTAVAIL" || code === "ENOTFOUND")
      throw new Error(`HOST=${HOST} is no address of this machine.`);
    throw error;
  }
  const { port } = app.server.address() as AddressInfo;
  return `http://${HOST.includes(":") ? `[${HOST}]` : HOST}:${port}`;
}
