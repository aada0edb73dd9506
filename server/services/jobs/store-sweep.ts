import { FINAL_STATES, idsUntil, type Job } from "./job.ts";
import { isGone } from "./store-calls.ts";
import { CONTENTS, EVENTS, idIn, JOBS, jobIn, jobKey, keyRow, keysOf, ownerKey } from "./store-rows.ts";
import type { JobTable } from "./store-table.ts";

/** "Performing entity group transactions". */
const TRANSACTION_ROWS = 100;
/** Requests of one sweep at once. */
const CONCURRENCY = 8;

/**
 * Removes jobs that ended more than `olderThanMs` ago, and then what there is of jobs that are not there; how many jobs.
 * Only rows of jobs submitted before that time are looked at, since ids sort by it. Several may sweep at once, and be
 * interrupted: the next one finds what is left.
 */
export async function sweepJobs(table: JobTable, olderThanMs: number): Promise<number> {
  const before = (await table.askedTime()) - olderThanMs;
  let swept = 0;
  for await (const partition of table.partitions()) {
    const { removed, kept } = await removeEnded(table, partition, before);
    await removeRest(table, partition, before, kept);
    swept += removed;
  }
  return swept;
}

/** `kept` are the ids of those that stay, of all that were submitted before that time. */
async function removeEnded(
  table: JobTable,
  partition: string,
  before: number,
): Promise<{ readonly removed: number; readonly kept: ReadonlySet<string> }> {
  const kept = new Set<string>();
  const ended: { readonly job: Job; readonly etag: string }[] = [];
  let removed = 0;
  const flush = () =>
    inParallel(ended.splice(0), async ({ job, etag }) => {
      // The list first: if this is as far as it gets, the job is found here again.
      await table.remove(partition, ownerKey(job.owner, job.id));
      const key = keyRow(job)?.rowKey;
      if (key !== undefined) await table.remove(partition, key);
      const result = await table.remove(partition, jobKey(job.id), etag);
      if (result === "removed") removed += 1;
      // An operator has it run again.
      if (result === "changed") kept.add(job.id);
    });
  for await (const row of table.rowsIn(partition, keysOf(JOBS, idsUntil(before)))) {
    const job = jobIn(row);
    const over = job !== undefined && FINAL_STATES.has(job.state) && Date.parse(job.endedAt ?? "") <= before;
    if (over) ended.push({ job, etag: row.etag });
    else kept.add(idIn(JOBS, row.rowKey));
    if (ended.length === TRANSACTION_ROWS) await flush();
  }
  await flush();
  return { removed, kept };
}

/** Events and contents whose job was removed, by this sweep or by one that was interrupted, or was never submitted. */
async function removeRest(
  table: JobTable,
  partition: string,
  before: number,
  kept: ReadonlySet<string>,
): Promise<void> {
  const batch: { readonly rowKey: string; readonly blob: unknown }[] = [];
  const flush = async () => {
    const gone = batch.splice(0);
    if (gone.length === 0) return;
    // Blobs first: only the row knows of its blob.
    await inParallel(gone, async ({ blob }) => {
      if (typeof blob === "string") await table.removeBlob(blob);
    });
    try {
      await table.submit(gone.map(({ rowKey }) => ["delete", { partitionKey: partition, rowKey }]));
    } catch (error) {
      if (!isGone(error)) throw error;
      // Somebody else sweeps, too: a transaction with a row that is gone does nothing.
      await inParallel(gone, async ({ rowKey }) => void (await table.remove(partition, rowKey)));
    }
  };
  const select = ["RowKey", "Timestamp", "blob"];
  for (const kind of [EVENTS, CONTENTS]) {
    for await (const row of table.rowsIn(partition, keysOf(kind, idsUntil(before)), { select })) {
      if (kept.has(idIn(kind, row.rowKey)) || Date.parse(row.timestamp ?? "") > before) continue;
      batch.push({ rowKey: row.rowKey, blob: row.blob });
      if (batch.length === TRANSACTION_ROWS) await flush();
    }
  }
  await flush();
}

async function inParallel<T>(items: readonly T[], each: (item: T) => Promise<void>): Promise<void> {
  const left = items.values();
  const work = async () => {
    for (const item of left) await each(item);
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, work));
}
