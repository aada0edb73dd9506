import { setTimeout as delay } from "node:timers/promises";
import { type CallToolResult, isCallToolResult } from "@modelcontextprotocol/server";
import { digestOf } from "../arguments-digest.ts";
import { changeJob } from "./change-job.ts";
import {
  after,
  FINAL_STATES,
  JOB_ID,
  type Job,
  type JobCaller,
  type JobEvent,
  type JobRef,
  type JobState,
  newJobId,
  orderOf,
  partitionOf,
} from "./job.ts";
import { writeMessage } from "./messages.ts";
import { cancelling, type JobRules, nextStep } from "./next-step.ts";
import type { JobQueue } from "./queue.ts";
import { InvalidCursor, JobConflict, type JobStore, type StoredJob, StoreFull } from "./store.ts";
import { unfinishedJobs } from "./unfinished-jobs.ts";

/** Who asks, and under which name jobs are its own: `ownerOf(callerKey(caller))`. */
export interface Submitter {
  readonly caller: JobCaller;
  readonly owner: string;
}

export interface JobRequest {
  readonly tool: string;
  readonly args: unknown;
  /** The same key of the same submitter is the same job, as long as the job is kept. */
  readonly idempotencyKey?: string | undefined;
  /** From now, at most {@link LONGEST_DEADLINE_SECONDS}; default: the configuration's, JOB_DEADLINE_SECONDS. */
  readonly deadlineSeconds?: number | undefined;
  readonly orderKey?: string | undefined;
  /** Default: whether the tool says of itself that it only reads, or may be repeated. */
  readonly repeatable?: boolean | undefined;
  readonly traceId?: string | undefined;
}

/** A job was not taken. The message goes to the caller as it is, and names the value and the mend. */
export class JobRefused extends Error {
  override readonly name = "JobRefused";
}

/** Queue or store did not answer; the message is for the caller, the cause for the log. */
export class JobsUnavailable extends Error {
  override readonly name = "JobsUnavailable";
}

/** Jobs as their submitters see them. Callers see their own; admins all of their tenant's. */
export interface Jobs {
  /** Names of the tools that may be jobs. */
  readonly tools: readonly string[];
  /**
   * Takes a job: when this resolves it is kept, and will be run. `existing`: it was there already, by its idempotency
   * key.
   *
   * @throws JobRefused
   */
  submit(by: Submitter, request: JobRequest): Promise<{ readonly job: Job; readonly existing: boolean }>;
  /** Undefined when there is none that `by` may see: no difference is made. */
  get(by: Submitter, id: string): Promise<Job | undefined>;
  /** What its tool answered; undefined while there is no answer. */
  result(job: Job): Promise<CallToolResult | undefined>;
  list(
    by: Submitter,
    query: {
      readonly states?: readonly JobState[] | undefined;
      readonly limit: number;
      readonly cursor?: string | undefined;
      /** Of the whole tenant, for admins. */
      readonly everyone?: boolean | undefined;
    },
  ): Promise<{ readonly jobs: readonly Job[]; readonly cursor?: string | undefined }>;
  /** Asks for its end, which comes at once while it waits and within seconds while it runs. Undefined as with `get`. */
  cancel(by: Submitter, id: string): Promise<Job | undefined>;
}

/** Where jobs are, and what brings them to workers. */
export interface JobBacking {
  readonly store: JobStore;
  readonly queue: JobQueue;
}

/** The tools that may be jobs. */
export interface JobTools {
  readonly names: readonly string[];
  /**
   * Whether that caller may have that tool run with these arguments, which are the tool's.
   *
   * @throws JobRefused
   */
  examine(caller: JobCaller, tool: string, args: unknown): { readonly repeatable: boolean };
}

export interface JobsOptions {
  /** Opens queue and store, or gives those that are open. */
  readonly open: () => Promise<JobBacking>;
  readonly tools: JobTools;
  readonly rules: JobRules;
  /** The time that a job has when its submitter names none. */
  readonly deadlineSeconds: number;
  /** Hears of what was done to a job by other than a worker, and of what queue or store could not do. */
  readonly observe: {
    changed(job: Job, event: JobEvent): void;
    unavailable(error: unknown): void;
  };
}

/** A week: a day less than a message stays in the queue (infra/azure/service-bus.ts). */
export const LONGEST_DEADLINE_SECONDS = 7 * 86_400;
/** Jobs of one caller that have not ended. One caller's work cannot fill what is everybody's queue. */
export const MOST_UNFINISHED = 2000;
/** How long a count of them is good for. Other replicas may take some meanwhile: the bound is one in kind, not exact. */
const COUNT_MS = 10_000;
/** Counts that are kept, of the callers who submitted last. */
const MOST_COUNTS = 1000;
/** Tries to take a job of a key, of which there may be others that come and go. */
const MOST_TRIES = 50;

/** What an answer is kept as; a run's own, so that no other's is ever taken for it. */
export const resultName = (attempt: number) => `result-${attempt}`;
export const ARGUMENTS = "arguments";

/** What the queue gets of a job. `again`: the queue may have had its first message already. */
export function queuedJob(job: Job, again = false) {
  return {
    // Within its window, the queue drops a message with an id that it has seen.
    id: again ? `${job.id}-${job.version}` : job.id,
    body: writeMessage(job),
    ...(job.orderKey !== undefined && { orderKey: orderOf(job) }),
    ...(job.traceId !== undefined && { traceId: job.traceId }),
  };
}

const isAdmin = ({ role, scopedRole }: JobCaller) => role === "admin" && (scopedRole ?? role) === "admin";

/** Jobs on a queue and a store, which are opened when they are first needed. */
export function createJobs({ open, tools, rules, deadlineSeconds, observe }: JobsOptions): Jobs {
  /** By partition and owner, the newest use last. */
  const counts = new Map<string, { readonly until: number; unfinished: number }>();

  /** What queue and store do, or do not. */
  const reach = async <Result>(work: (backing: JobBacking) => Promise<Result>): Promise<Result> => {
    try {
      return await work(await open());
    } catch (cause) {
      if (cause instanceof JobRefused) throw cause;
      // What who asks can mend.
      if (cause instanceof InvalidCursor || cause instanceof StoreFull) throw new JobRefused(cause.message);
      observe.unavailable(cause);
      throw new JobsUnavailable("Jobs cannot be reached at the moment; try again in a while.", { cause });
    }
  };

  const change = async (
    store: JobStore,
    found: StoredJob,
    decide: (stored: StoredJob) => readonly JobEvent[],
  ): Promise<Job | undefined> => {
    const changed = await changeJob(store, found, decide);
    if (changed === undefined) return undefined;
    const { job, events } = changed;
    for (const event of events) observe.changed(job, event);
    return job;
  };

  /** What is visible to who asks; whatever is not might as well not be. */
  const find = async (store: JobStore, { caller, owner }: Submitter, id: string): Promise<StoredJob | undefined> => {
    if (!JOB_ID.test(id)) return undefined;
    const stored = await store.read({ partition: partitionOf(caller), id });
    return stored !== undefined && (stored.job.owner === owner || isAdmin(caller)) ? stored : undefined;
  };

  const assertRoom = async (store: JobStore, partition: string, owner: string) => {
    const key = `${partition} ${owner}`;
    let count = counts.get(key);
    if (count === undefined || count.until < performance.now() || count.unfinished >= MOST_UNFINISHED) {
      count = { until: performance.now() + COUNT_MS, unfinished: await countUnfinished(store, partition, owner) };
    }
    counts.delete(key);
    counts.set(key, count);
    for (const [oldest] of counts) {
      if (counts.size <= MOST_COUNTS) break;
      counts.delete(oldest);
    }
    if (count.unfinished >= MOST_UNFINISHED) {
      throw new JobRefused(
        `You have ${MOST_UNFINISHED} jobs that have not ended, the most there may be. Wait for some, or cancel what is ` +
          "no longer wanted: list_jobs with the states queued and running names them.",
      );
    }
    count.unfinished++;
  };

  return {
    tools: tools.names,
    async submit({ caller, owner }, request) {
      const { tool, args = {}, idempotencyKey, orderKey, traceId } = request;
      const examined = tools.examine(caller, tool, args);
      const seconds = request.deadlineSeconds ?? deadlineSeconds;
      if (seconds > LONGEST_DEADLINE_SECONDS) {
        throw new JobRefused(
          `Argument "deadline_seconds" is ${seconds}: a job has at most ${LONGEST_DEADLINE_SECONDS} seconds, a week; give less, or leave it out.`,
        );
      }
      const argumentsDigest = digestOf(args);
      const partition = partitionOf(caller);
      return reach(async ({ store, queue }) => {
        /** The job of that key, if it is the one that is asked for. */
        const kept = async () => {
          if (idempotencyKey === undefined) return undefined;
          const ref = await store.find({ partition, owner, idempotencyKey });
          const stored = ref && (await store.read(ref));
          if (stored === undefined) return undefined;
          const { job } = stored;
          if (job.tool === tool && job.argumentsDigest === argumentsDigest) return { job, existing: true };
          throw new JobRefused(
            `Argument "idempotency_key" is ${JSON.stringify(idempotencyKey)}: job ${job.id} has it, with another tool or ` +
              "other arguments. Give another key, or none, for another job.",
          );
        };
        for (let tries = 1; tries <= MOST_TRIES; tries++) {
          const existing = await kept();
          if (existing !== undefined) return existing;
          await assertRoom(store, partition, owner);
          const now = store.now();
          const ref: JobRef = { partition, id: newJobId(now) };
          const submittedAt = new Date(now).toISOString();
          const event: JobEvent = {
            type: "submitted",
            at: submittedAt,
            owner,
            tool,
            caller,
            argumentsDigest,
            submittedAt,
            deadline: new Date(now + seconds * 1000).toISOString(),
            repeatable: request.repeatable ?? examined.repeatable,
            ...(orderKey !== undefined && { orderKey }),
            ...(idempotencyKey !== undefined && { idempotencyKey }),
            ...(traceId !== undefined && { traceId }),
          };
          const job = after(undefined, event, ref);
          await store.putContent(ref, ARGUMENTS, JSON.stringify(args));
          // The same key from elsewhere, at the same time; it may also have been this very job, told twice.
          if (!(await store.insert(job, event)) && (await store.read(ref)) === undefined) continue;
          observe.changed(job, event);
          // It is kept, and its message is owed: if the queue cannot take it now, whoever sweeps sends it later.
          try {
            if (await isItsTurn(store, job)) {
              await queue.send(queuedJob(job));
              await store.sent(ref);
            }
          } catch (error) {
            observe.unavailable(error);
          }
          return { job, existing: false };
        }
        throw new JobConflict(`The job of the key ${JSON.stringify(idempotencyKey)} came and went.`);
      });
    },
    get: (by, id) =>
      reach(async ({ store }) => {
        const found = await find(store, by, id);
        return found && change(store, found, overdue);
      }),
    result: (job) =>
      reach(async ({ store }) => {
        if (!FINAL_STATES.has(job.state) || job.attempts === 0) return undefined;
        const text = await store.content(job, resultName(job.attempts));
        const result: unknown = text === undefined ? undefined : JSON.parse(text);
        return isCallToolResult(result) ? result : undefined;
      }),
    list: async ({ caller, owner }, { everyone, ...query }) => {
      if (everyone && !isAdmin(caller)) {
        throw new JobRefused(
          'Argument "everyone" is true, which needs the role admin; leave it out to see your own jobs.',
        );
      }
      return reach(async ({ store }) =>
        store.list({ ...query, partition: partitionOf(caller), ...(!everyone && { owner }) }),
      );
    },
    cancel: (by, id) =>
      reach(async ({ store }) => {
        const found = await find(store, by, id);
        return found && change(store, found, (stored) => cancelling(stored, by.owner, rules.leaseMs));
      }),
  };

  /** A job that nobody came for until its deadline has ended by that, whether or not its message is still there. */
  function overdue(stored: StoredJob): readonly JobEvent[] {
    const next = nextStep(stored, rules);
    return next.step === "note" && next.event.type === "expired" ? [next.event] : [];
  }
}

/**
 * Whether the queue has all that was taken before it in its order. An earlier one whose message could not be sent is sent
 * by whoever sweeps, and this one after it: one that came to the queue before it would run before it.
 */
async function isItsTurn(store: JobStore, job: Job): Promise<boolean> {
  if (job.orderKey === undefined) return true;
  for (const waitMs of TURN_WAITS_MS) {
    if (!(await store.owesEarlier(job))) return true;
    await delay(waitMs);
  }
  return !(await store.owesEarlier(job));
}

/** The earlier one may be on its way at this moment. */
const TURN_WAITS_MS = [50, 100, 200, 400];

/** Counts an owner's jobs that have not ended, as far as the bound. */
async function countUnfinished(store: JobStore, partition: string, owner: string): Promise<number> {
  let count = 0;
  for await (const _job of unfinishedJobs(store, { partition, owner })) if (++count === MOST_UNFINISHED) break;
  return count;
}
