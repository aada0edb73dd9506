import { createHash, randomBytes } from "node:crypto";
import { z } from "zod";
import { ROLES } from "../../config.ts";

/*
 * What a job is, what may happen to it, and what it is after that. Pure: nothing here reads a clock or a store, so that
 * what happened can be told again, event by event, and comes to the same.
 */

/** `queued` and `running` go on; every other state is final, and only an operator's replay leaves `dead`. */
export const JOB_STATES = ["queued", "running", "succeeded", "failed", "cancelled", "expired", "dead"] as const;
export type JobState = (typeof JOB_STATES)[number];

export const FINAL_STATES: ReadonlySet<JobState> = new Set(["succeeded", "failed", "cancelled", "expired", "dead"]);

/** Who submitted a job, and so who it runs for: see `Caller` in `server/tools/define-tool.ts`. */
export const JobCaller = z.object({
  subject: z.string(),
  method: z.enum(["local", "none", "api-key", "entra"]),
  tenant: z.string().optional(),
  role: z.enum(ROLES),
  scopedRole: z.enum(ROLES).optional(),
  keyId: z.string().optional(),
  client: z.string().optional(),
});
export type JobCaller = z.output<typeof JobCaller>;

export const JobProgress = z.object({
  progress: z.number(),
  total: z.number().optional(),
  message: z.string().optional(),
});
export type JobProgress = z.output<typeof JobProgress>;

/** Times are ISO 8601 in UTC, by the store's clock. */
const time = z.string();

/** What never changes about a job. */
const Submission = z.object({
  tool: z.string(),
  caller: JobCaller,
  /** SHA-256 of the arguments as JSON, in hex; the arguments themselves are content (see {@link JobStore}). */
  argumentsDigest: z.string(),
  submittedAt: time,
  /** After it the job is not begun, and ended if it runs. */
  deadline: time,
  /** Whether it may run again after a worker was lost in the middle, so that nobody knows what it has done. */
  repeatable: z.boolean(),
  /** Jobs of one caller with the same key run one after the other, in order. */
  orderKey: z.string().optional(),
  /** Of one owner, there is one job with the same key, as long as it is kept. */
  idempotencyKey: z.string().optional(),
  /** W3C trace id of the request that submitted it. */
  traceId: z.string().optional(),
});

export const Job = Submission.extend({
  id: z.string(),
  partition: z.string(),
  /** The submitter, by {@link ownerOf}. */
  owner: z.string(),
  /** Events so far: rises by one with each, and tells one state of a job from the next. */
  version: z.number().int(),
  state: z.enum(JOB_STATES),
  /** Runs begun. The number of a run is its fence: what a run says that is no longer the last is not heard. */
  attempts: z.number().int(),
  /** Runs that were lost or broke, since its submission or its last replay. */
  failures: z.number().int(),
  /** While `running`: who runs it. */
  worker: z.string().optional(),
  startedAt: time.optional(),
  endedAt: time.optional(),
  progress: JobProgress.optional(),
  cancelRequestedAt: time.optional(),
  /** While `queued` after a run: when the next one is due. */
  retryAt: time.optional(),
  /** Why it was retried, failed, expired or set aside. A sentence for people; no secret, no path. */
  reason: z.string().optional(),
});
export type Job = Readonly<z.output<typeof Job>>;

/** Where a job is: rows of one partition are one tenant's. */
export interface JobRef {
  readonly partition: string;
  readonly id: string;
}

const at = { at: time };
/** Everything that happens to a job, as it is appended to its log. */
export const JobEvent = z.discriminatedUnion("type", [
  Submission.extend({ type: z.literal("submitted"), owner: z.string(), ...at }),
  z.object({ type: z.literal("started"), attempt: z.number().int(), worker: z.string(), ...at }),
  z.object({ type: z.literal("progressed"), attempt: z.number().int(), progress: JobProgress, ...at }),
  /** Back in the queue: a run was lost or failed by no fault of its caller, or was handed back. */
  z.object({
    type: z.literal("retried"),
    attempt: z.number().int(),
    reason: z.string(),
    retryAt: time,
    /** The run was handed back before it did anything, and does not count. */
    uncounted: z.boolean().optional(),
    ...at,
  }),
  z.object({
    type: z.literal("completed"),
    attempt: z.number().int(),
    outcome: z.enum(["succeeded", "failed"]),
    reason: z.string().optional(),
    ...at,
  }),
  z.object({ type: z.literal("cancel-requested"), by: z.string(), ...at }),
  z.object({ type: z.literal("cancelled"), ...at }),
  z.object({ type: z.literal("expired"), reason: z.string(), ...at }),
  z.object({ type: z.literal("dead-lettered"), reason: z.string(), ...at }),
  /** An operator had a dead job run again, until a new deadline. */
  z.object({ type: z.literal("replayed"), by: z.string(), deadline: time, ...at }),
]);
export type JobEvent = Readonly<z.output<typeof JobEvent>>;

/** An event of the log. `seq` is the job's version after it. */
export interface LoggedEvent extends JobRef {
  readonly seq: number;
  readonly event: JobEvent;
}

/** The event cannot happen to a job in that state: a run that is no longer the last, or a job that has ended. */
export class ImpossibleEvent extends Error {
  override readonly name = "ImpossibleEvent";
}

/**
 * A job after what happened to it; `undefined` is before its submission. The one place that knows what may follow what,
 * for live jobs and for those told again from the log.
 *
 * @throws ImpossibleEvent
 */
export function after(job: Job | undefined, event: JobEvent, ref: JobRef): Job {
  if (event.type === "submitted") {
    if (job !== undefined) throw impossible(job, event);
    const { type: _type, at: _at, ...submission } = event;
    return { ...submission, ...ref, version: 1, state: "queued", attempts: 0, failures: 0 };
  }
  if (job === undefined) throw new ImpossibleEvent(`Job ${ref.id}: ${event.type}, and it was never submitted.`);
  const next = { ...job, version: job.version + 1 };
  const ended = { endedAt: event.at, worker: undefined, retryAt: undefined };
  if (event.type === "replayed") {
    if (job.state !== "dead") throw impossible(job, event);
    const { deadline } = event;
    const afresh = { failures: 0, endedAt: undefined, reason: undefined, cancelRequestedAt: undefined };
    return { ...next, ...afresh, state: "queued", deadline };
  }
  if (FINAL_STATES.has(job.state)) throw impossible(job, event);
  switch (event.type) {
    case "started":
      if (event.attempt !== job.attempts + 1) throw impossible(job, event);
      return {
        ...next,
        state: "running",
        attempts: event.attempt,
        worker: event.worker,
        startedAt: event.at,
        retryAt: undefined,
        progress: undefined,
        reason: undefined,
      };
    case "progressed":
      assertRun(job, event);
      return { ...next, progress: event.progress };
    case "retried": {
      assertRun(job, event);
      const { reason, retryAt, uncounted } = event;
      const failures = job.failures + (uncounted ? 0 : 1);
      return { ...next, state: "queued", worker: undefined, failures, reason, retryAt };
    }
    case "completed":
      assertRun(job, event);
      return { ...next, ...ended, state: event.outcome, reason: event.reason };
    case "cancel-requested":
      return { ...next, cancelRequestedAt: job.cancelRequestedAt ?? event.at };
    case "cancelled":
      return { ...next, ...ended, state: "cancelled" };
    case "expired":
      return { ...next, ...ended, state: "expired", reason: event.reason };
    case "dead-lettered":
      return { ...next, ...ended, state: "dead", reason: event.reason };
  }
}

/** What only the run that is the last may say. */
function assertRun(job: Job, event: JobEvent & { readonly attempt: number }): void {
  if (job.state !== "running" || event.attempt !== job.attempts) throw impossible(job, event);
}

function impossible(job: Job, event: JobEvent): ImpossibleEvent {
  const run = "attempt" in event ? ` by run ${event.attempt}` : "";
  return new ImpossibleEvent(
    `Job ${job.id} is ${job.state} after ${job.attempts} runs; it cannot be ${event.type}${run}.`,
  );
}

/** One tenant's jobs; callers without a tenant share one by the way they prove themselves. */
export function partitionOf({ tenant, method }: Pick<JobCaller, "tenant" | "method">): string {
  return tenant === undefined ? `method-${method}` : `tenant-${tenant.toLowerCase()}`;
}

/** Names a caller in rows and labels without saying who it is. `callerKey` is `server/tools/define-tool.ts`'s. */
export function ownerOf(callerKey: string): string {
  return createHash("sha256").update(callerKey).digest("hex").slice(0, OWNER_DIGITS);
}

const OWNER_DIGITS = 32;

/** Names the jobs that run one after the other: no two callers' wait for one another, whatever their keys. */
export function orderOf({ partition, owner, orderKey }: Pick<Job, "partition" | "owner" | "orderKey">) {
  if (orderKey === undefined) return undefined;
  return createHash("sha256")
    .update(JSON.stringify([partition, owner, orderKey]))
    .digest("hex");
}

/** Crockford's, in the order of their code points. */
const BASE32 = "0123456789abcdefghjkmnpqrstvwxyz";
/** Enough until the year 10889. */
const TIME_DIGITS = 10;
const LAST_TIME = 32 ** TIME_DIGITS - 1;
const RANDOM_BYTES = 16;

/** What an id looks like, for those that come from callers. */
export const JOB_ID = /^[0-9a-hjkmnp-tv-z]{26}$/;

/** A new job's id: nobody can guess it, and a list sorted by ids has the newest first. `now` is milliseconds since 1970. */
export function newJobId(now: number): string {
  return idsUntil(now) + [...randomBytes(RANDOM_BYTES)].map((byte) => BASE32[byte % 32]).join("");
}

/** What ids made until `now` sort after, and later ones before. */
export function idsUntil(now: number): string {
  return encode(LAST_TIME - now, TIME_DIGITS);
}

function encode(value: number, digits: number): string {
  let left = value;
  let text = "";
  for (let digit = 0; digit < digits; digit += 1) {
    text = (BASE32[left % 32] ?? "") + text;
    left = Math.floor(left / 32);
  }
  return text;
}
