import { randomBytes, randomUUID } from "node:crypto";
import type { FastifyBaseLogger } from "fastify";
import type { DeadLetterReason, Metrics } from "../observability/metrics.ts";
import { after, type Job, type JobEvent, type JobRef } from "../services/jobs/job.ts";
import { ARGUMENTS, type JobBacking } from "../services/jobs/jobs.ts";
import { readMessage } from "../services/jobs/messages.ts";
import { type JobRules, nextStep } from "../services/jobs/next-step.ts";
import type { Delivery, Receiving } from "../services/jobs/queue.ts";
import { JobConflict, type StoredJob } from "../services/jobs/store.ts";
import { unlessAborted } from "../services/unless-aborted.ts";
import { isSame } from "./held-job.ts";
import type { TellOf } from "./job-events.ts";
import { type Begun, type RunningJob, runJob } from "./run-job.ts";
import type { RunTool } from "./tool-run.ts";
import { untilAnswered } from "./until-answered.ts";

export interface WorkerOptions {
  readonly backing: JobBacking;
  readonly rules: JobRules;
  /** How long the queue is asked to take note of what became of a message. Milliseconds. */
  readonly settleMs?: number;
  /** Jobs at once. */
  readonly concurrency: number;
  readonly run: RunTool;
  /** Whether there is such a tool here, which may be a job. A newer server may have more. */
  readonly knows: (tool: string) => boolean;
  readonly metrics: Metrics;
  readonly log: FastifyBaseLogger;
  readonly tellOf: TellOf;
}

/** Takes jobs from the queue and runs them. */
export interface Worker {
  /** This process's, for as long as it runs. */
  readonly id: string;
  readonly running: number;
  start(): void;
  /**
   * Takes nothing more, and lets what runs come to its end. What is left is ended: a little before `withinMs` have passed
   * what another worker may run, which is handed back, and then the rest. Never rejects.
   */
  stop(withinMs: number): Promise<void>;
}

/** Until a message comes again whose job cannot be looked at, or whose tool is not known here. */
const LATER_MS = 5000;
/** What comes again after a lease comes when it has run out for certain. */
const AFTER_LEASE_MS = 200;
/** What handing back takes, of the time in which a worker ends: at most so much, and half of it. */
const HAND_BACK_MS = 5000;
/** What those get that are ended in the last moment, to write down that they were. */
const LAST_WORDS_MS = 2000;
/** What settling a message takes at the most, tries and all: longer than the queue's client tries by itself. */
const SETTLE_MS = 20_000;

export function createWorker(options: WorkerOptions): Worker {
  const { backing, rules, concurrency, knows, metrics, log, tellOf, settleMs = SETTLE_MS } = options;
  const { store, queue } = backing;
  const id = randomUUID();
  const handling = new Set<Promise<void>>();
  const running = new Set<RunningJob>();
  const giveUp = new AbortController();
  let runs = 0;
  let receiving: Receiving | undefined;
  let stopping = false;

  async function deadLetter(delivery: Delivery, reason: DeadLetterReason, description: string): Promise<void> {
    await delivery.deadLetter(reason, description);
    metrics.jobDeadLettered(reason);
  }

  /** Another message, since the queue drops one with an id that it has seen. */
  const later = (delivery: Delivery, jobId: string, delayMs: number) =>
    delivery.retry(`${jobId}-${randomBytes(8).toString("hex")}`, Math.ceil(delayMs));

  /** Writes down what has happened to a job that nobody runs; undefined when it is another by now. */
  async function write(stored: StoredJob, event: JobEvent): Promise<StoredJob | undefined> {
    const job = after(stored.job, event, stored.job);
    try {
      const written = await untilAnswered(
        () => store.update(stored, job, [event]),
        AbortSignal.any([giveUp.signal, AbortSignal.timeout(rules.leaseMs / 2)]),
      );
      tellOf(written.job, event);
      return written;
    } catch (error) {
      if (!(error instanceof JobConflict)) throw error;
      const fresh = await store.read(stored.job);
      if (fresh === undefined || !isSame(fresh.job, job)) return undefined;
      // The store did it, and the answer got lost on its way.
      tellOf(fresh.job, event);
      return fresh;
    }
  }

  async function begin(stored: StoredJob): Promise<Begun | undefined> {
    const { attempts } = stored.job;
    // Each run by a name of its own: two messages of one job may be at the same worker.
    const worker = `${id}.${++runs}`;
    const sentAt = performance.now();
    const at = new Date(store.now()).toISOString();
    const begun = await write(stored, { type: "started", attempt: attempts + 1, worker, at });
    return begun && { begun, sentAt };
  }

  async function runHere(begun: Begun, args: unknown): Promise<void> {
    let mine: RunningJob | undefined;
    try {
      await runJob({ ...options, store, giveUp: giveUp.signal }, begun, args, (job) => {
        mine = job;
        running.add(job);
      });
    } finally {
      if (mine !== undefined) running.delete(mine);
    }
  }

  /** Does what is to be done about the job of a message, until the message is settled. */
  async function settle(delivery: Delivery, ref: JobRef): Promise<void> {
    for (;;) {
      const stored = await store.read(ref);
      if (stored === undefined) {
        return deadLetter(
          delivery,
          "unknown-job",
          "There is no such job; it may have been removed long after its end.",
        );
      }
      const { job } = stored;
      const next = nextStep(stored, rules);
      switch (next.step) {
        case "nothing":
          return job.state === "dead" ? setAside(delivery, job) : delivery.complete();
        case "wait":
          return later(delivery, job.id, next.ms + AFTER_LEASE_MS);
        case "note":
          await write(stored, next.event);
          continue;
        case "begin": {
          if (stopping) return delivery.handBack();
          if (!knows(job.tool)) {
            log.warn({ event: "job.postponed", job: job.id, tool: job.tool, reason: "no such tool here" });
            return later(delivery, job.id, LATER_MS);
          }
          const args = await store.content(ref, ARGUMENTS);
          const begun = await begin(stored);
          if (begun !== undefined) await runHere(begun, args === undefined ? undefined : JSON.parse(args));
        }
      }
    }
  }

  const setAside = (delivery: Delivery, { repeatable, reason = "" }: Job) =>
    deadLetter(delivery, repeatable ? "attempts" : "lost", reason);

  /**
   * Settled until the queue has heard it, or has taken the message back: one that is not settled comes again only when its
   * lock has run out, which holds up what is to be tried again, and all that is behind it in its order. But not for ever:
   * the lock is kept for as long, and whoever gets the message next may be heard.
   */
  function untilSettled(delivery: Delivery): Delivery {
    const { id, body, deliveries, orderKey, lost } = delivery;
    let enough: AbortSignal | undefined;
    const settle = async (how: () => Promise<void>) => {
      enough ??= AbortSignal.timeout(settleMs);
      const over = AbortSignal.any([lost, giveUp.signal, enough]);
      const settled = await unlessAborted(
        untilAnswered(how, over).then(() => true),
        over,
      );
      if (settled) return;
      if (enough.aborted) log.warn({ event: "job.message.unsettled", message: id, err: over.reason });
      throw over.reason;
    };
    return {
      ...{ id, body, deliveries, orderKey, lost },
      complete: () => settle(() => delivery.complete()),
      handBack: () => settle(() => delivery.handBack()),
      retry: (again, delayMs) => settle(() => delivery.retry(again, delayMs)),
      deadLetter: (reason, description) => settle(() => delivery.deadLetter(reason, description)),
    };
  }

  async function handle(delivery: Delivery): Promise<void> {
    const message = readMessage(delivery.body);
    const job = message.kind === "job" ? message.ref.id : undefined;
    try {
      switch (message.kind) {
        case "job":
          return await settle(delivery, message.ref);
        case "newer":
          log.warn({ event: "job.postponed", message: delivery.id, reason: `its version is ${message.version}` });
          return await later(delivery, delivery.id, LATER_MS * (1 + Math.random()));
        case "malformed":
          log.error({ event: "job.message.unreadable", message: delivery.id, reason: message.why });
          return await deadLetter(delivery, "unreadable", message.why);
      }
    } catch (error) {
      log.warn({ event: "job.postponed", job, err: error });
      // If that fails as well, its lock runs out, and it comes again by itself.
      await later(delivery, job ?? delivery.id, LATER_MS * (1 + Math.random())).catch(() => {});
    }
  }

  const idle = async (withinMs: number) => {
    const timeout = new AbortController();
    const timer = setTimeout(() => timeout.abort(), Math.max(0, withinMs));
    const over = new Promise<void>((resolve) => timeout.signal.addEventListener("abort", () => resolve()));
    while (handling.size > 0 && !timeout.signal.aborted) await Promise.race([Promise.all(handling), over]);
    clearTimeout(timer);
  };

  let started = false;
  /**
   * Nothing is taken before the store has answered: nobody could look at its job, nor say by which time it is to come
   * again, which is the store's.
   */
  const receive = async () => {
    await untilAnswered(() => store.check(), giveUp.signal);
    if (!stopping) {
      receiving = queue.receive({
        concurrency,
        handle(delivery) {
          const handled = handle(untilSettled(delivery)).finally(() => handling.delete(handled));
          handling.add(handled);
          return handled;
        },
        onError: (error) => log.warn({ event: "jobs.queue.failed", err: error }),
      });
    }
  };

  return {
    id,
    get running() {
      return running.size;
    },
    start() {
      if (started) return;
      started = true;
      receive().catch((error: unknown) => log.warn({ event: "jobs.queue.failed", err: error }));
    },
    async stop(withinMs) {
      stopping = true;
      const until = performance.now() + withinMs;
      const left = () => until - performance.now();
      const stopped = receiving?.stop().catch((error: unknown) => log.warn({ event: "jobs.queue.failed", err: error }));
      await idle(left() - Math.min(HAND_BACK_MS, withinMs / 2));
      for (const job of running) if (job.repeatable) job.stop();
      await idle(left());
      for (const job of running) job.stop();
      await idle(LAST_WORDS_MS);
      giveUp.abort();
      await stopped;
    },
  };
}
