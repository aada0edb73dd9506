import type { FastifyInstance, FastifyReply } from "fastify";
import fastifyPlugin from "fastify-plugin";
import type { Config } from "../config.ts";
import type { Runtime } from "../services/runtime.ts";
import type { Metrics } from "./metrics.ts";

/** Where the process is in its life. It is ready, and gets traffic, between `start` and `drain`. */
export interface Readiness {
  readonly phase: "starting" | "ready" | "draining";
  start(): void;
  /** From here on readiness probes fail; requests are still answered. */
  drain(): void;
}

export function createReadiness(): Readiness {
  let phase: Readiness["phase"] = "starting";
  return {
    get phase() {
      return phase;
    },
    start() {
      phase = "ready";
    },
    drain() {
      phase = "draining";
    },
  };
}

interface ProbeOptions {
  readonly readiness: Readiness;
  /** Whether what this process cannot do without answers. */
  answers?(): Promise<boolean>;
}

/** The probes: open to everyone, so they say whether, and nothing else. */
export const probes = fastifyPlugin(
  async (app: FastifyInstance, { readiness, answers }: ProbeOptions) => {
    const live = async () => ({ status: "ok" });
    const ready = async (_request: unknown, reply: FastifyReply) => {
      const isReady = readiness.phase === "ready" && (answers === undefined || (await answers()));
      if (!isReady) reply.code(503);
      return { status: isReady ? "ok" : "unavailable" };
    };
    app.get("/health/live", live);
    app.get("/healthz", live);
    for (const path of ["/health", "/health/ready", "/readyz"]) app.get(path, ready);
  },
  { name: "probes" },
);

interface OperatorOptions {
  readonly config: Config;
  readonly metrics: Metrics;
  readonly readiness: Readiness;
  readonly runtime: Runtime;
  /** What else there is to say of the work that this server does. */
  details(): Promise<Record<string, unknown>>;
}

/** What operators read, on the metrics port: `/metrics` and `/health/detailed`. */
export const operatorPages = fastifyPlugin(
  async (app: FastifyInstance, { config, metrics, readiness, runtime, details }: OperatorOptions) => {
    app.get("/metrics", async (_request, reply) => {
      reply.header("content-type", metrics.registry.contentType);
      return metrics.registry.metrics();
    });
    app.get("/health/detailed", async () => ({
      status: readiness.phase === "ready" ? "ok" : "unavailable",
      phase: readiness.phase,
      server: { name: runtime.name, version: runtime.version },
      ...runtime.usage(),
      authentication: config.AUTH_MODE,
      ...(await details()),
      // Whether each is configured; addresses are the configuration's to tell.
      backing: {
        keyVault: configured(config.KEY_VAULT_URL),
        serviceBus: configured(config.SERVICE_BUS_NAMESPACE),
        jobsTable: configured(config.JOBS_TABLE_ENDPOINT),
        redis: configured(config.REDIS_HOST),
        applicationInsights: configured(config.APPLICATIONINSIGHTS_CONNECTION_STRING),
      },
    }));
  },
  { name: "operator-pages" },
);

const configured = (value: string | undefined) => (value === undefined ? "not configured" : "configured");
