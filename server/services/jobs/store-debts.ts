import { type Job, type JobRef, orderOf } from "./job.ts";
import { JobConflict } from "./store.ts";
import { isThere } from "./store-calls.ts";
import { jobKey, type KeyRange, keysOf, OWED, OwedRow, owedKey, owedOf } from "./store-rows.ts";
import type { JobTable } from "./store-table.ts";

/** Messages that are owed to the queue, so that a crash between a change of a job and its message loses nothing. */
export interface Debts {
  /** Makes a change of the job, whose message is owed if it was made; undefined says that it was not. */
  around<T>(job: Job, change: () => Promise<T | undefined>): Promise<T | undefined>;
  /** See {@link JobStore}. */
  sent(ref: JobRef): Promise<void>;
  owed(olderThanMs: number): AsyncGenerator<JobRef>;
  owesEarlier(job: Job): Promise<boolean>;
}

/** A debt without a job is of a submission that came to nothing, once it is older than any call may take. */
const ORPHAN_MS = 10 * 60_000;
/** Debts known by their ETag; beyond it the oldest are looked up again. */
const MOST_KNOWN = 10_000;

/**
 * Debts are rows in partitions of their own, so that they are found without looking at jobs: see `store-rows.ts`. Each is
 * removed as it was known, by its ETag, and not one that somebody has noted since.
 */
export function createDebts(table: JobTable): Debts {
  const known = new Map<string, string>();

  const keep = (ref: JobRef, etag: string) => {
    const { rowKey } = owedKey(ref);
    known.delete(rowKey);
    known.set(rowKey, etag);
    for (const oldest of known.keys()) {
      if (known.size <= MOST_KNOWN) break;
      known.delete(oldest);
    }
  };
  const forgive = async (ref: JobRef, etag: string) => {
    const { partitionKey, rowKey } = owedKey(ref);
    if (known.get(rowKey) === etag) known.delete(rowKey);
    await table.remove(partitionKey, rowKey, etag);
  };
  /** `first`: there was none before. */
  const note = async (job: Job): Promise<{ readonly etag: string; readonly first: boolean }> => {
    const { partition, id } = job;
    const order = orderOf(job);
    const row = { ...owedKey(job), partition, id, ...(order !== undefined && { order }) };
    try {
      return { etag: await table.create(row), first: true };
    } catch (error) {
      if (!isThere(error)) throw error;
      // Written anew: who has noted it before, and then finds that the job is another's, leaves it.
      return { etag: await table.put(row, "Replace"), first: false };
    }
  };
  /** `since` is when each was noted, by the service: who compares submissions of several servers needs one clock. */
  const listed = async (range: KeyRange, also = "") => {
    const inOne = async (partitionKey: string) => {
      const debts: { readonly ref: JobRef; readonly since: number; readonly etag: string }[] = [];
      for await (const row of table.rowsIn(partitionKey, range, { also })) {
        const ref = OwedRow.safeParse(row).data;
        if (ref !== undefined) debts.push({ ref, since: Date.parse(row.timestamp ?? ""), etag: row.etag });
      }
      return debts;
    };
    return (await Promise.all(OWED.map(inOne))).flat();
  };

  return {
    async around(job, change) {
      // First the debt: a crash leaves one without a job, which is dropped below, and never a job that nobody runs.
      const { etag, first } = await note(job);
      keep(job, etag);
      const undo = () => (first ? forgive(job, etag) : undefined);
      try {
        const changed = await change();
        if (changed === undefined) await undo();
        return changed;
      } catch (error) {
        // Of any other failure nobody knows whether the change was made.
        if (error instanceof JobConflict) await undo();
        throw error;
      }
    },

    async sent(ref) {
      const { partitionKey, rowKey } = owedKey(ref);
      const etag = known.get(rowKey) ?? (await table.rowOf(partitionKey, rowKey))?.etag;
      if (etag !== undefined) await forgive(ref, etag);
    },

    async owesEarlier(job) {
      const order = orderOf(job);
      if (order === undefined) return false;
      const { odata } = await import("@azure/data-tables");
      const debts = await listed(owedOf(job), odata` and order eq ${order}`);
      const own = debts.find(({ ref }) => ref.id === job.id);
      return own !== undefined && debts.some(({ since }) => since < own.since);
    },

    async *owed(olderThanMs) {
      // Of one moment: while the rows are read more may come, and none must be found without one that came before it.
      const now = await table.askedTime();
      const debts = (await listed(keysOf(""))).filter(({ since }) => now - since > olderThanMs);
      for (const { ref, since, etag } of debts.toSorted((a, b) => a.since - b.since)) {
        keep(ref, etag);
        if ((await table.rowOf(ref.partition, jobKey(ref.id))) !== undefined) yield ref;
        else if (now - since > ORPHAN_MS) await forgive(ref, etag);
      }
    },
  };
}
