import { FINAL_STATES, type Job, type JobEvent } from "./job.ts";
import type { StoredJob } from "./store.ts";

/** By which a job that waits, or that a worker may have lost, is judged. */
export interface JobRules {
  /** How long a run is its worker's without a sign of life. */
  readonly leaseMs: number;
  /** Runs that may be lost or break before a job is set aside. */
  readonly attempts: number;
  /** Before the next run, after so many that were lost or broke. */
  retryDelayMs(failures: number): number;
}

/** What is to be done about a job by whoever comes upon it. */
export type NextStep =
  /** It has ended. */
  | { readonly step: "nothing" }
  /** It runs, or is not due yet. */
  | { readonly step: "wait"; readonly ms: number }
  /** Something has happened to it that nobody has written down; then it is to be looked at anew. */
  | { readonly step: "note"; readonly event: JobEvent }
  | { readonly step: "begin" };

/** Why a job whose worker was lost is not begun again. */
export const LOST =
  "Its worker was lost while it ran, so what it has done is not known, and it was not submitted as repeatable. " +
  "Look at what it was to change, and submit it again if that is right.";

/** What time alone makes of a job; by the store's clock, at which it was read. */
export function nextStep({ job, readAt, changedAt }: StoredJob, rules: JobRules): NextStep {
  if (FINAL_STATES.has(job.state)) return { step: "nothing" };
  const at = new Date(readAt).toISOString();
  if (job.state === "running") {
    const left = changedAt + rules.leaseMs - readAt;
    if (left > 0) return { step: "wait", ms: left };
    if (job.cancelRequestedAt !== undefined) return { step: "note", event: { type: "cancelled", at } };
    if (!job.repeatable) return { step: "note", event: { type: "dead-lettered", reason: LOST, at } };
    return {
      step: "note",
      event: expired(job, readAt) ?? again(job, "Its worker was lost while it ran.", rules, readAt),
    };
  }
  if (job.cancelRequestedAt !== undefined) return { step: "note", event: { type: "cancelled", at } };
  const late = expired(job, readAt);
  if (late !== undefined) return { step: "note", event: late };
  const wait = job.retryAt === undefined ? 0 : Date.parse(job.retryAt) - readAt;
  return wait > 0 ? { step: "wait", ms: wait } : { step: "begin" };
}

/** The end of a job whose deadline has passed. `now` is the store's, milliseconds since 1970. */
export function expired(job: Job, now: number): JobEvent | undefined {
  if (Date.parse(job.deadline) > now) return undefined;
  const reason =
    job.state === "running"
      ? "Its deadline passed while it ran; give it more time, or less to do."
      : "Its deadline passed before it could be run; submit it again, with more time.";
  return { type: "expired", reason, at: new Date(now).toISOString() };
}

/**
 * What asking for a job's end makes of it: an end at once where nobody runs it, and a request to whoever does. Nothing
 * where it has ended, or has been asked before.
 */
export function cancelling({ job, readAt, changedAt }: StoredJob, by: string, leaseMs: number): readonly JobEvent[] {
  if (FINAL_STATES.has(job.state)) return [];
  const at = new Date(readAt).toISOString();
  const requested: JobEvent = { type: "cancel-requested", by, at };
  // Whoever runs it is alive, and hears of it within seconds.
  const running = job.state === "running" && changedAt + leaseMs > readAt;
  if (!running) return [requested, { type: "cancelled", at }];
  return job.cancelRequestedAt === undefined ? [requested] : [];
}

/** After a run that was lost or broke: another one, later, or none any more. */
export function again(job: Job, reason: string, rules: JobRules, now: number): JobEvent {
  const at = new Date(now).toISOString();
  const failures = job.failures + 1;
  if (failures >= rules.attempts) {
    const runs = failures === 1 ? "run was" : "runs were";
    return { type: "dead-lettered", reason: `${failures} ${runs} lost or broke. The last: ${reason}`, at };
  }
  // Not later than its deadline, at which it is to be told that it has passed.
  const due = Math.min(now + rules.retryDelayMs(failures), Math.max(now, Date.parse(job.deadline)));
  return { type: "retried", attempt: job.attempts, reason, retryAt: new Date(due).toISOString(), at };
}
