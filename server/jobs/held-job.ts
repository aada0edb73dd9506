import { isDeepStrictEqual } from "node:util";
import { after, type Job, type JobEvent } from "../services/jobs/job.ts";
import { JobConflict, type JobStore, type StoredJob } from "../services/jobs/store.ts";

/** Another run has begun, or the job has ended: what this one says is not heard any more. */
export class Fenced extends Error {
  override readonly name = "Fenced";
}

interface HeldJobOptions {
  readonly store: JobStore;
  /** As it was after this run began. */
  readonly begun: StoredJob;
  /** Its submitter wants it to end. May be told more than once. */
  readonly onCancel: () => void;
  /** The run is fenced off. */
  readonly onFenced: () => void;
  /** The row was written; `sentAt`, by `performance.now()`, is before the store's time of it. */
  readonly onWritten: (sentAt: number) => void;
}

/** A job while a worker runs it: what the run writes, one after the other, each a sign of life. */
export class HeldJob {
  readonly #options: HeldJobOptions;
  readonly #attempt: number;
  readonly #worker: string | undefined;
  #stored: StoredJob;
  #last: Promise<unknown> = Promise.resolve();
  #fenced = false;

  constructor(options: HeldJobOptions) {
    this.#options = options;
    this.#stored = options.begun;
    this.#attempt = options.begun.job.attempts;
    this.#worker = options.begun.job.worker;
  }

  get job(): Job {
    return this.#stored.job;
  }

  /**
   * Writes down what has happened, or nothing but that the run is alive.
   *
   * @throws Fenced when it is not this run's any more to write; whatever the store throws otherwise.
   */
  write(eventOf?: (job: Job) => JobEvent): Promise<Job> {
    const written = this.#last.then(() => this.#write(eventOf));
    this.#last = written.catch(() => {});
    return written;
  }

  async #write(eventOf: ((job: Job) => JobEvent) | undefined): Promise<Job> {
    const { store, onCancel, onWritten } = this.#options;
    for (;;) {
      if (this.#fenced) throw new Fenced();
      const before = this.#stored;
      const event = eventOf?.(before.job);
      const job = event === undefined ? before.job : after(before.job, event, before.job);
      const sentAt = performance.now();
      try {
        this.#stored = await store.update(before, job, event === undefined ? [] : [event]);
      } catch (error) {
        if (!(error instanceof JobConflict)) throw error;
        const fresh = await store.read(before.job);
        if (fresh !== undefined && event !== undefined && isSame(fresh.job, job)) {
          // The store did it, and the answer got lost on its way.
          this.#stored = fresh;
          onWritten(sentAt);
          return fresh.job;
        }
        if (fresh === undefined || !this.#isMine(fresh.job)) this.#fence();
        else this.#stored = fresh;
        if (this.#stored.job.cancelRequestedAt !== undefined) onCancel();
        continue;
      }
      onWritten(sentAt);
      return this.#stored.job;
    }
  }

  #isMine({ state, attempts, worker }: Job): boolean {
    return state === "running" && attempts === this.#attempt && worker === this.#worker;
  }

  #fence(): void {
    this.#fenced = true;
    this.#options.onFenced();
  }
}

/** Whether it is what an event was to make of it, and no other's: another event may have made the same version. */
export function isSame(found: Job, wanted: Job): boolean {
  return isDeepStrictEqual(plain(found), plain(wanted));
}

/** As it comes out of a store: without what is undefined. */
const plain = (job: Job): unknown => JSON.parse(JSON.stringify(job));
