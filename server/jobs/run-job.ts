import type { CallToolResult } from "@modelcontextprotocol/server";
import type { FastifyBaseLogger } from "fastify";
import { failure } from "../mcp/outcome.ts";
import type { Metrics } from "../observability/metrics.ts";
import type { Job, JobEvent } from "../services/jobs/job.ts";
import { resultName } from "../services/jobs/jobs.ts";
import { again, expired, type JobRules } from "../services/jobs/next-step.ts";
import type { JobStore, StoredJob } from "../services/jobs/store.ts";
import { Fenced, HeldJob } from "./held-job.ts";
import { createJobChannel } from "./job-channel.ts";
import type { TellOf } from "./job-events.ts";
import type { RunOutcome, RunTool } from "./tool-run.ts";
import { untilAnswered } from "./until-answered.ts";

/** Why a run is ended before its tool has ended by itself. */
type Ending =
  | "cancelled"
  | "deadline"
  /** Another run has begun, or somebody else has ended the job. */
  | "fenced"
  /** Nobody has heard of this run for so long that another may begin. */
  | "lease"
  | "shutdown";

/** The run's worker is told to end. */
export interface RunningJob {
  readonly repeatable: boolean;
  /** Ends the run now: to be run again elsewhere if that may be, set aside if not. */
  stop(): void;
}

interface RunJobOptions {
  readonly store: JobStore;
  readonly rules: JobRules;
  readonly run: RunTool;
  readonly log: FastifyBaseLogger;
  readonly metrics: Pick<Metrics, "jobStopped">;
  readonly tellOf: TellOf;
  /** Aborts when there is no time left to try anything again. */
  readonly giveUp: AbortSignal;
}

/** A job after a run of it has begun; `sentAt`, by `performance.now()`, is before the store's time of it. */
export interface Begun {
  readonly begun: StoredJob;
  readonly sentAt: number;
}

/** Signs of life a lease: two may fail. */
const BEATS = 3;
/** And at least so often, since a sign of life is how a run hears that it was cancelled. */
const LONGEST_BEAT_MS = 3000;
/** How much of its lease a run that may be begun elsewhere uses without a sign of life. The rest is for its end. */
const SAFE_PART = 5 / 6;
/** A tool that has been told to end gets so long; then the job ends without it. */
const LAST_WORDS_MS = 10_000;
/** Until the next try of what did nothing, for want of room. */
const BUSY_MS = 5000;
/** The longest that a timer waits. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

const STOPPED =
  "Its worker had to end while it ran, so what it has done is not known, and it was not submitted as repeatable. " +
  "Look at what it was to change, and submit it again if that is right.";

/** Runs a job that has been begun, keeps its lease, and writes down what came of it, unless it is not this run's to say. */
export async function runJob(
  { store, rules, run, log, metrics, tellOf, giveUp }: RunJobOptions,
  { begun, sentAt }: Begun,
  args: unknown,
  running: (job: RunningJob) => void,
): Promise<void> {
  const { job } = begun;
  const started = performance.now();
  const controller = new AbortController();
  const { signal } = controller;
  let ending: Ending | undefined;
  const end = (why: Ending) => {
    ending ??= why;
    controller.abort();
  };

  let leaseTimer: NodeJS.Timeout | undefined;
  const onWritten = (sentAt: number) => {
    // Nobody begins a job anew that is not repeatable, so its run goes on: the store may answer again before it ends.
    if (!job.repeatable) return;
    clearTimeout(leaseTimer);
    // A process that was stopped may find that it has passed.
    const left = sentAt + rules.leaseMs * SAFE_PART - performance.now();
    leaseTimer = setTimeout(() => end("lease"), Math.max(0, left));
  };
  const held = new HeldJob({
    store,
    begun,
    onCancel: () => end("cancelled"),
    onFenced: () => end("fenced"),
    onWritten,
  });
  const beatMs = Math.min(LONGEST_BEAT_MS, rules.leaseMs / BEATS);
  let beatTimer: NodeJS.Timeout | undefined;
  let over = false;
  const beat = () => {
    // The last one may be answered after the end.
    if (over) return;
    beatTimer = setTimeout(() => {
      held.write().then(beat, (error: unknown) => {
        if (!(error instanceof Fenced)) beat();
      });
    }, beatMs);
  };
  const channel = createJobChannel((progress) =>
    held.write(({ attempts }) => ({ type: "progressed", attempt: attempts, progress, at: nowOf(store) })),
  );
  const left = Date.parse(job.deadline) - store.now();
  const deadlineTimer = setTimeout(() => end("deadline"), Math.max(0, Math.min(LONGEST_TIMER_MS, left)));
  running({ repeatable: job.repeatable, stop: () => end("shutdown") });

  /** False: it took so long to begin that somebody may have given it up for lost, and nobody says that it is not so. */
  const isHeld = async (): Promise<boolean> => {
    if (started - sentAt <= beatMs) return true;
    const answered = untilAnswered(() => held.write(), AbortSignal.any([giveUp, signal]));
    return answered.then(
      () => true,
      () => false,
    );
  };
  const runTool = async (): Promise<RunOutcome> => {
    try {
      return await withinLastWords(run(job, args, { signal, client: channel }), signal);
    } catch (error) {
      log.error({ event: "job.run.broken", job: job.id, tool: job.tool, err: error });
      return { ended: "broken", reason: error instanceof Error ? error.name : "It broke." };
    }
  };

  onWritten(sentAt);
  let outcome: RunOutcome = { ended: "busy", reason: "Its worker could not reach the store before it began." };
  if (await isHeld()) {
    beat();
    outcome = await runTool();
  }
  over = true;
  channel.end();
  clearTimeout(deadlineTimer);
  clearTimeout(leaseTimer);
  clearTimeout(beatTimer);
  metrics.jobStopped(job.tool, (performance.now() - started) / 1000);
  if (ending === "fenced") {
    log.warn({ event: "job.fenced", job: job.id, tool: job.tool, attempt: job.attempts });
    return;
  }

  const { result, eventOf } = conclude(outcome, ending, { store, rules });
  try {
    const ended = await untilAnswered(async () => {
      if (result !== undefined) await store.putContent(job, resultName(job.attempts), JSON.stringify(result));
      let event: JobEvent | undefined;
      const changed = await held.write((current) => {
        event = eventOf(current);
        return event;
      });
      return { changed, event };
    }, giveUp);
    if (ended.event !== undefined) tellOf(ended.changed, ended.event);
  } catch (error) {
    if (!(error instanceof Fenced)) throw error;
    log.warn({ event: "job.fenced", job: job.id, tool: job.tool, attempt: job.attempts });
  }
}

interface Conclusion {
  readonly result?: CallToolResult | undefined;
  readonly eventOf: (job: Job) => JobEvent;
}

/** What a run's outcome makes of the job. What a tool came to by itself counts, whatever was asked of it meanwhile. */
function conclude(
  outcome: RunOutcome,
  ending: Ending | undefined,
  { store, rules }: Pick<RunJobOptions, "store" | "rules">,
): Conclusion {
  switch (outcome.ended) {
    case "succeeded":
      return { result: outcome.result, eventOf: completed(store, "succeeded") };
    case "failed":
      return { result: outcome.result, eventOf: completed(store, "failed", outcome.reason) };
    case "busy":
      return { eventOf: (job) => handedBack(job, store.now(), outcome.reason, BUSY_MS * (1 + Math.random())) };
    case "broken":
      return {
        result: failure(outcome.reason),
        // It is known to have ended, but not what it had done before.
        eventOf: (job) =>
          job.repeatable
            ? again(job, outcome.reason, rules, store.now())
            : completed(store, "failed", outcome.reason)(job),
      };
    case "aborted":
      return { result: outcome.result, eventOf: (job) => aborted(job, ending, { store, rules }) };
  }
}

function aborted(
  job: Job,
  ending: Ending | undefined,
  { store, rules }: Pick<RunJobOptions, "store" | "rules">,
): JobEvent {
  const now = store.now();
  const at = new Date(now).toISOString();
  switch (ending) {
    case "cancelled":
      return { type: "cancelled", at };
    case "deadline": {
      const deadline = Date.parse(job.deadline);
      return expired(job, Math.max(now, deadline)) ?? { type: "cancelled", at };
    }
    case "shutdown":
      return job.repeatable
        ? handedBack(job, now, "Its worker had to end; it is run anew by another.", 0)
        : { type: "dead-lettered", reason: STOPPED, at };
    default:
      return again(job, "Its worker could not reach the store for too long.", rules, now);
  }
}

const nowOf = (store: JobStore) => new Date(store.now()).toISOString();

const completed =
  (store: JobStore, outcome: "succeeded" | "failed", reason?: string) =>
  ({ attempts }: Job): JobEvent => ({
    type: "completed",
    attempt: attempts,
    outcome,
    ...(reason !== undefined && { reason }),
    at: nowOf(store),
  });

function handedBack({ attempts }: Job, now: number, reason: string, afterMs: number): JobEvent {
  const at = new Date(now).toISOString();
  const retryAt = new Date(now + afterMs).toISOString();
  return { type: "retried", attempt: attempts, reason, retryAt, uncounted: true, at };
}

/** What a tool comes to, or that it was told to end and did not. */
async function withinLastWords(outcome: Promise<RunOutcome>, signal: AbortSignal): Promise<RunOutcome> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<RunOutcome>((resolve) => {
    const told = () => {
      timer = setTimeout(() => resolve({ ended: "aborted", result: undefined }), LAST_WORDS_MS);
    };
    if (signal.aborted) told();
    else signal.addEventListener("abort", told, { once: true });
  });
  try {
    return await Promise.race([outcome, late]);
  } finally {
    clearTimeout(timer);
  }
}
