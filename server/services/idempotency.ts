import { createHash } from "node:crypto";

/** Whose call it was, of what, and by which key. */
export interface KeyedRef {
  /** By `ownerOf` of `server/services/jobs/job.ts`: two callers with one key have nothing to do with one another. */
  readonly owner: string;
  readonly tool: string;
  readonly key: string;
}

/** What is known of a call. */
export interface KeyedRecord {
  /** Of the arguments: another call may not have the same key. */
  readonly digest: string;
  /** The one execution that wrote it, by a random name. */
  readonly holder: string;
  /** What was answered, at most {@link ANSWER_BYTES_LIMIT}; absent: the call has begun, and has not ended. */
  readonly answer?: Uint8Array | undefined;
}

export interface KeptRecord extends KeyedRecord {
  /** Changes with every write. */
  readonly version: string;
  /** How long ago it was written, by the store's own clock. Milliseconds. */
  readonly idleMs: number;
}

/**
 * Keeps what became of calls with an idempotency key, for {@link KEEP_MS} from their last write on. In memory for a
 * server by itself, in the jobs' table for replicas; both hold to the same contract, and the same tests. Every operation
 * rejects when the store cannot be reached.
 */
export interface IdempotencyStore {
  readonly kind: "memory" | "azure";
  read(ref: KeyedRef): Promise<KeptRecord | undefined>;
  /**
   * Writes the record in one step if the one that is there has the version `before`, or, where that is undefined, if
   * there is none. Its new version; undefined, and nothing is written, if not.
   */
  write(ref: KeyedRef, before: string | undefined, record: KeyedRecord): Promise<string | undefined>;
  /** Removes the record if it still has that version. */
  remove(ref: KeyedRef, version: string): Promise<void>;
}

/** How long a call is remembered by its key. Longer than anybody tries again, and short enough to be kept at no cost. */
export const KEEP_MS = 24 * 60 * 60_000;

/** Azure Table storage takes 64 KiB in one property and 1 MiB in one row (Microsoft Learn, "Table service data model"). */
export const PROPERTY_BYTES = 64 * 1024;
/** Bytes of an answer: fourteen properties, which leaves room for the rest of the row. */
export const ANSWER_BYTES_LIMIT = 14 * PROPERTY_BYTES;

/** The name of a record's row: tool and key are whatever callers say, and rows' names are not. */
export function rowOf({ tool, key }: KeyedRef): string {
  return createHash("sha256")
    .update(JSON.stringify([tool, key]))
    .digest("hex");
}
