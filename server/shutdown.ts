import type { FastifyBaseLogger } from "fastify";
import type { Listeners } from "./app.ts";
import type { Config } from "./config.ts";

type Grace = Pick<Config, "SHUTDOWN_GRACE_SECONDS" | "SHUTDOWN_DRAIN_SECONDS">;

/** What killed commands get to report their end in, and their answers to be written. */
const LAST_WORDS_MS = 3000;

/** What the audit trail gets to reach its sinks, even when calls took all of the grace. */
const LEAST_AUDIT_MS = 1500;

/**
 * Ends the server without cutting anybody off: readiness fails; for the drain time new requests are answered as
 * before, since load balancers still send them; then nothing new is taken, streams end, running calls get the rest of
 * the grace, and what runs after that is killed, its caller told so.
 */
export async function shutDown(
  { app, operator, readiness, mcp, work, audit }: Listeners,
  { SHUTDOWN_GRACE_SECONDS, SHUTDOWN_DRAIN_SECONDS }: Grace,
  log: FastifyBaseLogger,
  name: "server" | "worker" = "server",
): Promise<void> {
  const deadline = performance.now() + SHUTDOWN_GRACE_SECONDS * 1000;
  const finished = work.finish?.(SHUTDOWN_GRACE_SECONDS * 1000);
  readiness.drain();
  log.info({ event: `${name}.draining`, drainSeconds: SHUTDOWN_DRAIN_SECONDS, graceSeconds: SHUTDOWN_GRACE_SECONDS });
  await new Promise((resolve) => setTimeout(resolve, SHUTDOWN_DRAIN_SECONDS * 1000));

  const closed = app.close();
  await mcp?.endStreams();
  if (mcp !== undefined && !(await mcp.idle(Math.max(0, deadline - performance.now())))) {
    log.warn({ event: `${name}.grace.exceeded`, commands: work.running });
    work.stopAll();
    if (!(await mcp.idle(LAST_WORDS_MS))) await mcp.abort();
  }
  await finished;
  await work.close?.();
  work.killAllNow();
  // Kept-alive connections of clients that have their answers.
  app.server.closeAllConnections();
  await closed;
  await audit.close(Math.max(LEAST_AUDIT_MS, deadline - performance.now()));
  // Last, so that the metrics of the end can still be read.
  operator.server.closeAllConnections();
  await operator.close();
  log.info({ event: `${name}.stopped` });
}
