import { randomUUID } from "node:crypto";
import type { TransactionAction } from "@azure/data-tables";
import { FINAL_STATES, JOB_ID, type Job, type JobRef, type LoggedEvent } from "./job.ts";
import { assertNext, conflict, InvalidCursor, type JobStore, type StoredJob } from "./store.ts";
import { isChanged, isGone, isThere } from "./store-calls.ts";
import { createDebts } from "./store-debts.ts";
import * as rows from "./store-rows.ts";
import { sweepJobs } from "./store-sweep.ts";
import { type AzureStoreOptions, createJobTable, type Row } from "./store-table.ts";

/**
 * Jobs in Azure Table storage, and what is too long for a row in Blob storage: see `store-rows.ts` for the rows.
 *
 * A job's row and the rows of what happened to it change in one transaction, under the condition that the job's row is
 * as it was read. Who loses an answer, and repeats a change that was made, would take it for somebody else's: so each
 * change carries a name of its own, `write`, and whoever is refused looks whose is there.
 */
export function createAzureStore(options: AzureStoreOptions): JobStore {
  const table = createJobTable(options);
  const { clock } = table;
  const debts = createDebts(table);
  const registered = new Set<string>();

  /** Sees to it that whoever looks at all partitions finds this one. */
  const register = async (partition: string) => {
    if (registered.has(partition)) return;
    await table.put({ partitionKey: rows.PARTITIONS, rowKey: partition }, "Merge");
    registered.add(partition);
  };
  const jobRowOf = ({ partition, id }: JobRef) => table.rowOf(partition, rows.jobKey(id));
  const eventRowOf = ({ partition, id }: JobRef, seq: number) => table.rowOf(partition, rows.eventKey(id, seq));
  /**
   * The row, if it is what that change wrote. If nobody answers: what the change itself said, unless that was a refusal,
   * of which nobody knows then whether it was of the change or of its repetition.
   */
  const written = async (asked: Promise<Row | undefined>, write: string, said: unknown): Promise<Row | undefined> => {
    const row = await asked.catch((error: unknown) => {
      if (isRefusal(said)) throw error;
      return undefined;
    });
    return row?.write === write ? row : undefined;
  };

  async function* eventsOf({ partition, id }: JobRef): AsyncGenerator<LoggedEvent> {
    for await (const row of table.rowsIn(partition, rows.keysOf(rows.eventKeys(id)))) {
      const told = rows.EventRow.safeParse(row).data;
      // What is none is missing in the log: the next one's number tells.
      if (told !== undefined) yield { partition, id, seq: told.seq, event: told.event };
    }
  }

  return {
    kind: "azure",
    partitions: () => table.partitions(),
    now: () => clock.now(),

    async insert(job, event) {
      rows.assertRef(job);
      const write = randomUUID();
      const keyRow = rows.keyRow(job);
      const actions: TransactionAction[] = [
        ["create", rows.jobRow(job, write)],
        ["create", rows.ownerRow(job, write)],
        ...(keyRow === undefined ? [] : [["create", keyRow] satisfies TransactionAction]),
        ["create", rows.eventRow(job, job.version, event, write)],
      ];
      await register(job.partition);
      const made = await debts.around(job, async () => {
        try {
          await table.submit(actions);
          return true;
        } catch (error) {
          if (await written(eventRowOf(job, job.version), write, error)) return true;
          if (isThere(error)) return undefined;
          throw error;
        }
      });
      return made ?? false;
    },

    async find({ partition, owner, idempotencyKey }) {
      const row = await table.rowOf(partition, rows.idempotencyKey(owner, idempotencyKey));
      return row === undefined ? undefined : { partition, id: rows.KeyRow.parse(row).id };
    },

    async read(ref) {
      if (!rows.isRef(ref)) return undefined;
      const row = await jobRowOf(ref);
      if (row === undefined) return undefined;
      const changedAt = Date.parse(row.timestamp ?? "");
      clock.isAfter(changedAt);
      return { job: rows.jobOf(row, ref), etag: row.etag, changedAt, readAt: Math.max(clock.now(), changedAt) };
    },

    async update(before, job, events, { owed = false } = {}) {
      rows.assertRef(job);
      assertNext(before.job, job, events);
      const write = randomUUID();
      const actions: TransactionAction[] = [
        ["update", rows.jobRow(job, write), "Replace", { etag: before.etag }],
        ...events.map((event, at): TransactionAction => {
          return ["create", rows.eventRow(job, before.job.version + at + 1, event, write)];
        }),
      ];
      // A renewal changes nothing that is listed.
      if (events.length > 0) actions.push(["upsert", rows.ownerRow(job, write), "Replace"]);
      const changed = (etag: string): StoredJob => ({ job, etag, changedAt: clock.now(), readAt: clock.now() });
      const change = async () => {
        try {
          return changed(await table.submit(actions));
        } catch (error) {
          const mine = await written(jobRowOf(job), write, error);
          if (mine !== undefined) return changed(mine.etag);
          // It was made, and somebody else has gone on from it: by this ETag nothing can be changed any more.
          if (await written(eventRowOf(job, job.version), write, error)) return changed(before.etag);
          if (isRefusal(error)) throw conflict(before.job);
          throw error;
        }
      };
      const after = owed ? await debts.around(job, change) : await change();
      if (after === undefined) throw conflict(before.job);
      return after;
    },

    async list({ partition, owner, states, limit, cursor }) {
      if (cursor !== undefined && !JOB_ID.test(cursor)) throw new InvalidCursor();
      if (!rows.isPartition(partition) || states?.length === 0) return { jobs: [] };
      const { odata } = await import("@azure/data-tables");
      const also = states === undefined ? "" : ` and (${states.map((state) => odata`state eq ${state}`).join(" or ")})`;
      const range = rows.keysOf(owner === undefined ? rows.JOBS : rows.ownerKeys(owner), cursor);
      const jobs: Job[] = [];
      // One more than asked for tells whether there is another page.
      for await (const row of table.rowsIn(partition, range, { also, atOnce: limit + 1 })) {
        if (jobs.length === limit) return { jobs, cursor: jobs.at(-1)?.id };
        const job = rows.jobIn(row);
        if (job !== undefined) jobs.push(job);
      }
      return { jobs };
    },

    sent: (ref) => debts.sent(ref),
    owed: (olderThanMs) => debts.owed(olderThanMs),
    owesEarlier: (job) => debts.owesEarlier(job),

    async *overdue({ byMs, withinMs }) {
      const { odata } = await import("@azure/data-tables");
      const passed = new Date(clock.now() - byMs).toISOString();
      const also = odata` and (state eq ${"queued"} or state eq ${"running"}) and deadline lt ${passed}`;
      const range = rows.jobsSince(clock.now() - withinMs);
      for await (const partition of table.partitions()) {
        for await (const { rowKey } of table.rowsIn(partition, range, { also, select: ["RowKey"] })) {
          yield { partition, id: rows.idIn(rows.JOBS, rowKey) };
        }
      }
    },

    async *events({ ref, since }) {
      if (ref !== undefined) {
        if (rows.isRef(ref)) yield* eventsOf(ref);
        return;
      }
      const { odata } = await import("@azure/data-tables");
      const also = since === undefined ? "" : odata` and at ge ${since}`;
      for await (const partition of table.partitions()) {
        let last: string | undefined;
        for await (const row of table.rowsIn(partition, rows.keysOf(rows.EVENTS), { also, select: ["RowKey"] })) {
          const id = rows.idIn(rows.EVENTS, row.rowKey);
          if (id === last) continue;
          last = id;
          yield* eventsOf({ partition, id });
        }
      }
    },

    async putContent(ref, name, text) {
      rows.assertRef(ref);
      rows.assertContentName(name);
      const short = text.length <= rows.PROPERTY_LENGTH;
      const blob = rows.blobName(ref, name);
      if (!short) await table.putBlob(blob, text);
      const row = { partitionKey: ref.partition, rowKey: rows.contentKey(ref.id, name), short };
      // Merged, so that short content in place of long does not make anybody forget the blob before it is swept.
      await table.put(short ? { ...row, text } : { ...row, text: "", blob }, "Merge");
    },

    async content(ref, name) {
      if (!rows.isRef(ref) || !rows.isContentName(name)) return undefined;
      const row = await table.rowOf(ref.partition, rows.contentKey(ref.id, name));
      if (row === undefined) return undefined;
      const { short, text, blob } = rows.ContentRow.parse(row);
      return short || blob === undefined ? text : table.blobOf(blob);
    },

    async repair(job) {
      rows.assertRef(job);
      const write = randomUUID();
      const keyRow = rows.keyRow(job);
      const pointers: TransactionAction[] = [
        ["upsert", rows.ownerRow(job, write), "Replace"],
        ...(keyRow === undefined ? [] : [["upsert", keyRow, "Replace"] satisfies TransactionAction]),
      ];
      await register(job.partition);
      const change = async () => {
        const row = await jobRowOf(job);
        if (row !== undefined && rows.versionIn(row) > job.version) return undefined;
        const action: TransactionAction =
          row === undefined
            ? ["create", rows.jobRow(job, write)]
            : ["update", rows.jobRow(job, write), "Replace", { etag: row.etag }];
        try {
          await table.submit([action, ...pointers]);
          return true;
        } catch (error) {
          if (await written(jobRowOf(job), write, error)) return true;
          // Somebody has changed it meanwhile, and so it is newer.
          if (isRefusal(error)) return undefined;
          throw error;
        }
      };
      const changed = FINAL_STATES.has(job.state) ? await change() : await debts.around(job, change);
      return changed ?? false;
    },

    sweep: (olderThanMs) => sweepJobs(table, olderThanMs),
    check: () => table.check(),
    async close() {},
  };
}

/** The rows were not as the change has them: it was made, or somebody else's. */
function isRefusal(error: unknown): boolean {
  return isChanged(error) || isThere(error) || isGone(error);
}
