import type { FastifyBaseLogger } from "fastify";
import { changeJob } from "../services/jobs/change-job.ts";
import { FINAL_STATES, type JobRef } from "../services/jobs/job.ts";
import { type JobBacking, LONGEST_DEADLINE_SECONDS, queuedJob } from "../services/jobs/jobs.ts";
import { type JobRules, nextStep } from "../services/jobs/next-step.ts";
import { UnreadableJob } from "../services/jobs/store.ts";
import type { TellOf } from "./job-events.ts";

/** Between two looks, at random up to half as long again, so that replicas do not look all at once. */
const INTERVAL_MS = 30_000;
/** Whoever submitted the job has had so long to send its message. */
const OWED_MS = 30_000;
/** Between two looks for jobs that nobody came for. */
const OVERDUE_INTERVAL_MS = 5 * 60_000;
/** Whoever runs a job has had so long to end it by its deadline. */
const OVERDUE_MS = 60_000;
/** How long all who sweep may have been away, since rows of jobs submitted longer ago are not looked at. */
const AWAY_MS = 6 * 3_600_000;
/** Between two removals of jobs that ended long ago. */
const REMOVAL_MS = 3_600_000;
const DAY_MS = 86_400_000;

export interface Sweeper {
  start(): void;
  /**
   * Looks once, now: sends what is owed to the queue, ends what nobody came for, and removes what is due. Rejects as queue
   * and store do.
   */
  sweep(owedForMs?: number): Promise<void>;
  stop(): void;
}

interface SweeperOptions {
  readonly backing: JobBacking;
  readonly rules: JobRules;
  /** The time that a job has when its submitter names none. */
  readonly deadlineSeconds: number;
  readonly retentionDays: number;
  readonly log: FastifyBaseLogger;
  readonly tellOf: TellOf;
}

/**
 * Sends what a process that ended in the middle still owed to the queue; ends jobs after their deadline whose message is
 * gone, such as one that the broker has set aside, so that no worker will; and removes jobs that ended long ago.
 */
export function createSweeper(options: SweeperOptions): Sweeper {
  const { backing, rules, deadlineSeconds, retentionDays, log, tellOf } = options;
  const { store, queue } = backing;
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;
  let overdueDue = 0;
  let removalDue = 0;

  /** What is in its row; undefined as well when that is no job, which keeps nobody from the next. */
  const look = async (ref: JobRef) => {
    try {
      return await store.read(ref);
    } catch (error) {
      if (!(error instanceof UnreadableJob)) throw error;
      log.warn({ event: "job.unreadable", job: ref.id, err: error });
      return undefined;
    }
  };

  const sendOwed = async (forMs: number) => {
    // The earliest first, and none after one that could not be sent: some are to run in the order they were taken.
    for await (const ref of store.owed(forMs)) {
      const job = (await look(ref))?.job;
      if (job !== undefined && !FINAL_STATES.has(job.state)) {
        await queue.send(queuedJob(job, job.version > 1));
        log.warn({ event: "job.message.resent", job: job.id, tool: job.tool });
      }
      // Of one that cannot be read, a message would come to nothing; who writes it anew notes that it is owed again.
      await store.sent(ref);
    }
  };

  /** Looks at the rows of jobs that may be overdue by that deadline, and at none that were submitted longer ago. */
  const endOverdue = async (seconds: number) => {
    const withinMs = seconds * 1000 + OVERDUE_MS + AWAY_MS;
    for await (const ref of store.overdue({ byMs: OVERDUE_MS, withinMs })) {
      const stored = await look(ref);
      if (stored === undefined) continue;
      // Nothing, if somebody came for it after all.
      const changed = await changeJob(store, stored, (found) => {
        const next = nextStep(found, rules);
        return next.step === "note" ? [next.event] : [];
      });
      if (changed === undefined) continue;
      for (const event of changed.events) tellOf(changed.job, event);
    }
  };

  const sweep = async (owedForMs = OWED_MS) => {
    await sendOwed(owedForMs);
    const removes = performance.now() >= removalDue;
    if (removes || performance.now() >= overdueDue) {
      overdueDue = performance.now() + OVERDUE_INTERVAL_MS;
      // Jobs with a longer deadline than most are a week's rows to look through: not each time.
      await endOverdue(removes ? LONGEST_DEADLINE_SECONDS : deadlineSeconds);
    }
    if (!removes) return;
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
