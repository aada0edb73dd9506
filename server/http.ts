import type { AddressInfo } from "node:net";
import type { FastifyInstance } from "fastify";
import { buildApp } from "./app.ts";
import { type Config, EnvironmentError, parseEnvironment } from "./config.ts";
import { createLogger, standardOutput } from "./observability/logging.ts";
import { shutDown } from "./shutdown.ts";

/* The HTTP server: reads the environment, listens, and ends on SIGTERM or SIGINT. */

const config = readConfig();
const log = createLogger(config, standardOutput());

try {
  const built = await buildApp({ config, log });
  // Whatever ends this process, no command outlives it.
  process.on("exit", () => built.services.commands.killAllNow());

  let ending = false;
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => {
      log.info({ event: "signal.received", signal });
      if (ending) process.exit(1);
      ending = true;
      shutDown(built, config, log).then(
        () => process.exit(0),
        (error: unknown) => fail(error),
      );
    });
  }
  process.on("uncaughtException", fail);

  const metricsUrl = await listen(built.operator, config, "METRICS_PORT");
  const url = `${await listen(built.app, config, "PORT")}/mcp`;
  built.readiness.start();
  log.info(
    { event: "server.listening", url, metricsUrl, authentication: config.AUTH_MODE, workspace: config.WORKSPACE_PATH },
    `MCP server listening on ${url}`,
  );
} catch (error) {
  fail(error);
}

function readConfig(): Config {
  try {
    return parseEnvironment(process.env);
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

function fail(error: unknown): never {
  log.fatal({ event: "server.failed", err: error });
  process.exit(1);
}
