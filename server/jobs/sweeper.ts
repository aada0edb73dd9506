import type { FastifyBaseLogger } from "fastify";
import { FINAL_STATES } from "../services/jobs/job.ts";
import { type JobBacking, queuedJob } from "../services/jobs/jobs.ts";

/** Between two looks, at random up to half as long again, so that replicas do not look all at once. */
const INTERVAL_MS = 30_000;
/** Whoever submitted the job has had so long to send its message. */
const OWED_MS = 30_000;
/** Between two removals of jobs that ended long ago. */
const REMOVAL_MS = 3_600_000;
const DAY_MS = 86_400_000;

export interface Sweeper {
  start(): void;
  /** Looks once, now: sends what is owed to the queue, and removes what is due. Rejects as queue and store do. */
  sweep(owedForMs?: number): Promise<void>;
  stop(): void;
}

interface SweeperOptions {
  readonly backing: JobBacking;
  readonly retentionDays: number;
  readonly log: FastifyBaseLogger;
}

/** Sends what a process that ended in the middle still owed to the queue, and removes jobs that ended long ago. */
export function createSweeper({ backing: { store, queue }, retentionDays, log }: SweeperOptions): Sweeper {
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;
  let removalDue = 0;

  const sweep = async (owedForMs = OWED_MS) => {
    for await (const ref of store.owed(owedForMs)) {
      const job = (await store.read(ref))?.job;
      if (job !== undefined && !FINAL_STATES.has(job.state)) {
        await queue.send(queuedJob(job, job.version > 1));
        log.warn({ event: "job.message.resent", job: job.id, tool: job.tool });
      }
      await store.sent(ref);
    }
    if (performance.now() < removalDue) return;
    removalDue = performance.now() + REMOVAL_MS;
    const removed = await store.sweep(retentionDays * DAY_MS);
    if (removed > 0) log.info({ event: "jobs.removed", removed, retentionDays });
  };
  const schedule = () => {
    if (stopped) return;
    timer = setTimeout(
      () => {
        sweep()
          .catch((error: unknown) => log.warn({ event: "jobs.sweep.failed", err: error }))
          .finally(schedule);
      },
      INTERVAL_MS * (1 + Math.random() / 2),
    ).unref();
  };

  return {
    start: schedule,
    sweep,
    stop() {
      stopped = true;
      clearTimeout(timer);
    },
  };
}
