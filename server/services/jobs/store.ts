import type { Job, JobEvent, JobRef, JobState, LoggedEvent } from "./job.ts";

/** A job as the store has it. */
export interface StoredJob {
  readonly job: Job;
  /** Changes whenever the row does. */
  readonly etag: string;
  /** The store's own clock, milliseconds since 1970: when this was read, and when the row last changed. */
  readonly readAt: number;
  readonly changedAt: number;
}

/** Somebody else has changed the row since it was read: read it anew, and decide anew. */
export class JobConflict extends Error {
  override readonly name = "JobConflict";
}

export function conflict({ id, version }: Job): JobConflict {
  return new JobConflict(`Job ${id} is not as it was at version ${version}.`);
}

/** Throws a {@link RangeError} for a job that those events do not make. */
export function assertNext(before: Job, job: Job, events: readonly JobEvent[]): void {
  if (job.version === before.version + events.length) return;
  throw new RangeError(
    `Job ${job.id} is at version ${job.version}, and ${events.length} events after ${before.version} make another.`,
  );
}

/** What is in a job's row is not a job, since somebody changed it by hand. */
export class UnreadableJob extends Error {
  override readonly name = "UnreadableJob";

  constructor({ id }: JobRef, why: string) {
    super(
      `The row of job ${id} is not a job: ${why}. \`mcp-aks jobs replay\` writes it anew from what happened to it.`,
    );
  }
}

/** No room: too much is kept of jobs that have not ended. The message goes to callers. */
export class StoreFull extends Error {
  override readonly name = "StoreFull";
}

/** A cursor that no page of this store had. */
export class InvalidCursor extends Error {
  override readonly name = "InvalidCursor";

  constructor() {
    super("The cursor is none that a page of jobs came with: ask without one for the first page.");
  }
}

/**
 * Where jobs are kept: what they are, what happened to them, what they were given and what they gave. In memory for a
 * server by itself, in Azure Table and Blob storage for a deployed one; both hold to the same contract, and the same
 * tests.
 *
 * Leases are judged by the store's own clock alone (`readAt - changedAt`), so that no worker's clock can be wrong.
 */
export interface JobStore {
  readonly kind: "memory" | "azure";
  /** The store's clock now, as near as is known without asking. Milliseconds since 1970. */
  now(): number;
  /**
   * Adds a job with its first event, in one step, and notes that its message is owed to the queue until {@link sent}.
   * False, and nothing is changed, when there is a job of that id, or one of that owner with that idempotency key.
   */
  insert(job: Job, event: JobEvent): Promise<boolean>;
  /** The owner's job with that idempotency key. */
  find(query: {
    readonly partition: string;
    readonly owner: string;
    readonly idempotencyKey: string;
  }): Promise<JobRef | undefined>;
  /** @throws UnreadableJob */
  read(ref: JobRef): Promise<StoredJob | undefined>;
  /**
   * Changes a job and appends the events that did it, in one step; no events: the row is written as it is, which renews a
   * run's lease. `owed` notes that its message is owed to the queue again.
   *
   * @throws JobConflict when the row is not as `before` has it.
   */
  update(before: StoredJob, job: Job, events: readonly JobEvent[], options?: { owed?: boolean }): Promise<StoredJob>;
  /**
   * The newest first. `cursor` is a page's, and opaque. A row that is no job is left out.
   *
   * @throws InvalidCursor
   */
  list(query: {
    readonly partition: string;
    readonly owner?: string | undefined;
    readonly states?: readonly JobState[] | undefined;
    readonly limit: number;
    readonly cursor?: string | undefined;
  }): Promise<{ readonly jobs: readonly Job[]; readonly cursor?: string | undefined }>;
  /** Whose jobs there are, or were: for operators, who see everybody's. */
  partitions(): AsyncIterable<string>;
  /** The queue has the job's message. */
  sent(ref: JobRef): Promise<void>;
  /**
   * Jobs whose message was owed for longer than that when it was asked, the one that was longest first. Few, or something
   * is wrong.
   */
  owed(olderThanMs: number): AsyncIterable<JobRef>;
  /** Whether the job's message is owed, and that of another of the same order (see `orderOf`) has been for longer. */
  owesEarlier(job: Job): Promise<boolean>;
  /**
   * Jobs that have not ended, and whose deadline passed longer ago than `byMs`, of those submitted within the last
   * `withinMs`. None, or something is wrong.
   */
  overdue(query: { readonly byMs: number; readonly withinMs: number }): AsyncIterable<JobRef>;
  /**
   * The log, each job's events in order. With a ref, of one job; with `since` (ISO 8601), those of every job that has an
   * event at or after it, from its first on, so that what is told is whole. An event that is none, since somebody changed
   * it by hand, is left out.
   */
  events(query: { readonly ref?: JobRef; readonly since?: string }): AsyncIterable<LoggedEvent>;
  /**
   * Keeps what is too large or too private for a job's row: `arguments`, and `result-<attempt>`. In the table while it is
   * short, in a blob beyond. What is there is replaced.
   */
  putContent(ref: JobRef, name: string, text: string): Promise<void>;
  content(ref: JobRef, name: string): Promise<string | undefined>;
  /**
   * Writes a job's row as its log has it, whatever is there, unless that is newer: false, and nothing is changed. The
   * message of a job that has not ended is owed again.
   */
  repair(job: Job): Promise<boolean>;
  /** Removes jobs that have ended, with their logs and contents, `olderThanMs` after they did; how many. */
  sweep(olderThanMs: number): Promise<number>;
  /** Whether it answers. Rejects with why not. */
  check(): Promise<void>;
  close(): Promise<void>;
}
