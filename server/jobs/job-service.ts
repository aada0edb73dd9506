import type { FastifyBaseLogger } from "fastify";
import type { Config } from "../config.ts";
import type { CallGate } from "../mcp/call-gate.ts";
import type { Metrics } from "../observability/metrics.ts";
import { openBacking } from "../services/jobs/backing.ts";
import { createJobs, type JobBacking, type Jobs } from "../services/jobs/jobs.ts";
import type { JobRules } from "../services/jobs/next-step.ts";
import type { Connectors } from "../services/resilience.ts";
import type { Tool } from "../tools/define-tool.ts";
import { createTellOf } from "./job-events.ts";
import { createJobTools } from "./job-tools.ts";
import { retryDelayMs } from "./retry-delay.ts";
import type { Sweeper } from "./sweeper.ts";
import type { RunTool } from "./tool-run.ts";
import type { Worker } from "./worker.ts";

/** Jobs in one process: taken, and run where it has a worker. */
export interface JobService {
  readonly jobs: Jobs;
  /** Jobs that run in this process now. */
  readonly running: number;
  /** Opens queue and store, and has this process run jobs from now on. */
  work(): Promise<JobBacking>;
  /** Takes no more jobs to run, and lets those that run come to their end: see {@link Worker.stop}. */
  finish(withinMs: number): Promise<void>;
  /** Lets go of queue and store. */
  close(): Promise<void>;
}

interface JobServiceOptions {
  readonly config: Config;
  readonly tools: readonly Tool[];
  readonly gate: CallGate;
  readonly run: RunTool;
  readonly metrics: Metrics;
  readonly log: FastifyBaseLogger;
  readonly connectors: Connectors;
  /** Queue and store in place of the configuration's, for tests. */
  readonly open?: (config: Config, connectors: Connectors) => Promise<JobBacking>;
}

/**
 * When a server that nobody asks for jobs looks for the first time whether some are owed to the queue: well after its
 * start, which loads nothing for it.
 */
const FIRST_LOOK_MS = 60_000;

/**
 * Nothing is opened before the first job, or the first look for one, and what only whoever runs jobs needs is not loaded
 * before. Without a queue that others share, this process runs its jobs itself.
 */
export function createJobService(options: JobServiceOptions): JobService {
  const { config, tools, gate, run, metrics, log, connectors, open: openAll = openBacking } = options;
  const isAlone = config.SERVICE_BUS_NAMESPACE === undefined;
  const rules: JobRules = { leaseMs: config.JOB_LEASE_SECONDS * 1000, attempts: config.JOB_ATTEMPTS, retryDelayMs };
  const tellOf = createTellOf(log, metrics);
  const jobTools = createJobTools(tools, gate);
  let opening: Promise<JobBacking> | undefined;
  let sweeper: Sweeper | undefined;
  let worker: Worker | undefined;
  let closed = false;

  const begin = async (): Promise<JobBacking> => {
    const [backing, { createSweeper }] = await Promise.all([openAll(config, connectors), import("./sweeper.ts")]);
    sweeper = createSweeper({
      ...{ backing, rules, log, tellOf },
      deadlineSeconds: config.JOB_DEADLINE_SECONDS,
      retentionDays: config.JOB_RETENTION_DAYS,
    });
    sweeper.start();
    if (isAlone) await startWorker(backing);
    return backing;
  };
  const open = (): Promise<JobBacking> => {
    if (closed) return Promise.reject(new Error("This process is ending."));
    opening ??= begin().catch((error: unknown) => {
      // Whoever asks next tries again.
      opening = undefined;
      throw error;
    });
    return opening;
  };
  const startWorker = async (backing: JobBacking) => {
    const { createWorker } = await import("./worker.ts");
    if (worker !== undefined || closed) return;
    const knows = (tool: string) => jobTools.names.includes(tool);
    worker = createWorker({ backing, rules, concurrency: config.JOB_CONCURRENCY, run, knows, metrics, log, tellOf });
    worker.start();
    log.info({
      event: "jobs.receiving",
      worker: worker.id,
      queue: backing.queue.kind,
      concurrency: config.JOB_CONCURRENCY,
    });
  };
  const firstLook = isAlone
    ? undefined
    : setTimeout(() => {
        open().catch((error: unknown) => log.warn({ event: "jobs.unavailable", err: error }));
      }, FIRST_LOOK_MS).unref();

  return {
    jobs: createJobs({
      open,
      tools: jobTools,
      rules,
      deadlineSeconds: config.JOB_DEADLINE_SECONDS,
      observe: {
        changed: tellOf,
        unavailable: (error) => log.warn({ event: "jobs.unavailable", err: error }),
      },
    }),
    get running() {
      return worker?.running ?? 0;
    },
    async work() {
      const backing = await open();
      await startWorker(backing);
      return backing;
    },
    async finish(withinMs) {
      await worker?.stop(withinMs);
    },
    async close() {
      closed = true;
      clearTimeout(firstLook);
      sweeper?.stop();
      const backing = await opening?.catch(() => undefined);
      await worker?.stop(0);
      await Promise.allSettled([backing?.queue.close(), backing?.store.close()]);
    },
  };
}
