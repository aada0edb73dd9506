import { randomUUID } from "node:crypto";
import type { TableClient, TableEntityResult, TransactionAction } from "@azure/data-tables";
import type { ContainerClient } from "@azure/storage-blob";
import { isLoopback } from "../../config.ts";
import { azureCredential } from "../azure-credential.ts";
import { EMULATOR_ACCOUNT } from "./emulator-account.ts";
import { FINAL_STATES, idsUntil, JOB_ID, type Job, type JobRef, type LoggedEvent } from "./job.ts";
import { InvalidCursor, JobConflict, type JobStore, type StoredJob } from "./store.ts";
import { createStorageCalls, refusalOf } from "./store-calls.ts";
import { createServiceClock } from "./store-clock.ts";
import * as rows from "./store-rows.ts";

export interface AzureStoreOptions {
  /** Such as https://name.table.core.windows.net. */
  readonly tableEndpoint: string;
  readonly table: string;
  /** Such as https://name.blob.core.windows.net. */
  readonly blobEndpoint: string;
  readonly container: string;
  /** `emulator` is for endpoints on loopback. */
  readonly auth: "entra" | "emulator";
  /** Longest that one try of a request may take. Default 10 s. */
  readonly tryTimeoutMs?: number;
}

/**
 * Content of more UTF-16 code units is a blob. A property holds 64 KiB, "about 32 K characters or less" ("Understanding
 * the Table service data model").
 */
const ROW_CONTENT_LENGTH = 30_000;
/** "Performing entity group transactions". */
const TRANSACTION_ROWS = 100;
/** "Query timeout and pagination". */
const PAGE_ROWS = 1000;
/** A debt without a job is of a submission that came to nothing, once it is older than any call may take. */
const ORPHAN_MS = 10 * 60_000;
/** Debts known by their ETag; beyond it the oldest are looked up again. */
const KNOWN_DEBTS = 10_000;
/** Requests of one sweep at once. */
const SWEEP_CONCURRENCY = 8;

type Row = TableEntityResult<Record<string, unknown>>;

/**
 * Jobs in Azure Table storage, and what is too long for a row in Blob storage: see `store-rows.ts` for the rows.
 *
 * A job's row and the rows of what happened to it change in one transaction, under the condition that the job's row is
 * as it was read. Who loses an answer, and repeats a change that was made, would take it for somebody else's: so each
 * change carries a name of its own, and whoever is refused looks whose is there.
 *
 * The two clients are loaded with the first request.
 */
export function createAzureStore(options: AzureStoreOptions): JobStore {
  const call = createStorageCalls(options.tryTimeoutMs);
  const clock = createServiceClock();
  const registered = new Set<string>();
  const debts = new Map<string, string>();
  let connected: ReturnType<typeof connect> | undefined;

  const connect = async (): Promise<{ readonly table: TableClient; readonly blobs: ContainerClient }> => {
    const [{ AzureNamedKeyCredential, TableClient }, { ContainerClient, StorageSharedKeyCredential }] =
      await Promise.all([import("@azure/data-tables"), import("@azure/storage-blob")]);
    const { tableEndpoint, blobEndpoint, auth } = options;
    const { name, key } = EMULATOR_ACCOUNT;
    // `call` retries.
    const tableOptions = {
      retryOptions: { maxRetries: 0 },
      allowInsecureConnection: auth === "emulator" && isLoopback(new URL(tableEndpoint).hostname),
    };
    const blobOptions = { retryOptions: { maxTries: 1 } };
    const containerUrl = `${blobEndpoint.replace(/\/$/, "")}/${options.container}`;
    const table =
      auth === "emulator"
        ? new TableClient(tableEndpoint, options.table, new AzureNamedKeyCredential(name, key), tableOptions)
        : new TableClient(tableEndpoint, options.table, await azureCredential(), tableOptions);
    const blobs =
      auth === "emulator"
        ? new ContainerClient(containerUrl, new StorageSharedKeyCredential(name, key), blobOptions)
        : new ContainerClient(containerUrl, await azureCredential(), blobOptions);
    table.pipeline.addPolicy(
      {
        name: "serviceClock",
        async sendRequest(request, next) {
          const sentAt = performance.now();
          const response = await next(request);
          // A proxy's date is not the service's.
          if (response.headers.has("x-ms-request-id")) {
            clock.answered(response.headers.get("date"), sentAt, performance.now());
          }
          return response;
        },
      },
      { phase: "Retry" },
    );
    return { table, blobs };
  };
  const clients = () => {
    connected ??= connect().catch((error: unknown) => {
      // Such as a credential that is not there yet.
      connected = undefined;
      throw error;
    });
    return connected;
  };

  /** The row of that key; undefined when there is none. */
  const rowOf = async (partitionKey: string, rowKey: string): Promise<Row | undefined> => {
    const { table } = await clients();
    return absent(() => call((abortSignal) => table.getEntity(partitionKey, rowKey, { abortSignal })));
  };
  /** Rows of a partition in the order of their keys, as they come by the page. */
  async function* rowsIn(
    partitionKey: string,
    { from, to }: rows.KeyRange,
    { also = "", select, atOnce = PAGE_ROWS }: { also?: string; select?: string[]; atOnce?: number } = {},
  ): AsyncGenerator<Row & { readonly rowKey: string }> {
    const { table } = await clients();
    const { odata } = await import("@azure/data-tables");
    const filter = odata`PartitionKey eq ${partitionKey} and RowKey gt ${from} and RowKey lt ${to}` + also;
    const queryOptions = { filter, ...(select && { select }) };
    let continuationToken: string | undefined;
    do {
      const page = { maxPageSize: Math.min(atOnce, PAGE_ROWS), ...(continuationToken && { continuationToken }) };
      const { value } = await call((abortSignal) =>
        table.listEntities<Record<string, unknown>>({ queryOptions, abortSignal }).byPage(page).next(),
      );
      for (const row of value ?? []) yield { ...row, rowKey: row.rowKey ?? "" };
      continuationToken = value?.continuationToken;
    } while (continuationToken !== undefined);
  }
  async function* partitions(): AsyncGenerator<string> {
    for await (const { rowKey } of rowsIn(rows.PARTITIONS, rows.keysOf(""))) yield rowKey;
  }

  const stored = (row: Row, job: Job): StoredJob => {
    const changedAt = Date.parse(row.timestamp ?? "");
    clock.isAfter(changedAt);
    return { job, etag: row.etag, changedAt, readAt: Math.max(clock.now(), changedAt) };
  };
  const submit = async (actions: TransactionAction[]): Promise<string> => {
    const { table } = await clients();
    const { subResponses } = await call((abortSignal) => table.submitTransaction(actions, { abortSignal }));
    return subResponses[0]?.etag ?? "";
  };
  /** Whether that event was written by that change. */
  const wrote = async ({ partition, id }: JobRef, seq: number, write: string) =>
    (await rowOf(partition, rows.eventKey(id, seq)))?.write === write;

  const keepDebt = (ref: JobRef, etag: string) => {
    const name = rows.owedKey(ref).rowKey;
    debts.delete(name);
    debts.set(name, etag);
    for (const oldest of debts.keys()) {
      if (debts.size <= KNOWN_DEBTS) break;
      debts.delete(oldest);
    }
  };
  /** Removes the debt as it was known, and not one that was noted since. */
  const forgive = async (ref: JobRef, etag: string) => {
    const { table } = await clients();
    const { partitionKey, rowKey } = rows.owedKey(ref);
    if (debts.get(rowKey) === etag) debts.delete(rowKey);
    try {
      await call((abortSignal) => table.deleteEntity(partitionKey, rowKey, { etag, abortSignal }));
    } catch (error) {
      if (!isGone(error) && !isChanged(error)) throw error;
    }
  };
  /**
   * Notes first that the message is owed, then changes the job: a crash in between leaves a debt without a job, which
   * `owed` drops, and never a job that nobody runs. `change` says whether it was made.
   */
  const withDebt = async <T>(ref: JobRef, change: () => Promise<T | undefined>): Promise<T | undefined> => {
    const { table } = await clients();
    const row = { ...rows.owedKey(ref), partition: ref.partition, id: ref.id };
    let made = true;
    const { etag = "" } = await call((abortSignal) => table.createEntity(row, { abortSignal })).catch((error) => {
      if (!isThere(error)) throw error;
      made = false;
      // Written anew, so that who has noted it before and finds that the job is another's leaves it.
      return call((abortSignal) => table.upsertEntity(row, "Replace", { abortSignal }));
    });
    keepDebt(ref, etag);
    const undo = () => (made ? forgive(ref, etag) : undefined);
    try {
      const changed = await change();
      if (changed === undefined) await undo();
      return changed;
    } catch (error) {
      // Of any other failure nobody knows whether the change was made.
      if (error instanceof JobConflict) await undo();
      throw error;
    }
  };
  /** Sees to it that whoever looks at all partitions finds this one. */
  const register = async (partition: string) => {
    if (registered.has(partition)) return;
    const { table } = await clients();
    const row = { partitionKey: rows.PARTITIONS, rowKey: partition };
    await call((abortSignal) => table.upsertEntity(row, "Merge", { abortSignal }));
    registered.add(partition);
  };

  async function* eventsOf({ partition, id }: JobRef): AsyncGenerator<LoggedEvent> {
    for await (const row of rowsIn(partition, rows.keysOf(rows.eventKeys(id)))) {
      const told = rows.EventRow.safeParse(row).data;
      // What is none is missing in the log: the next one's number tells.
      if (told !== undefined) yield { partition, id, seq: told.seq, event: told.event };
    }
  }

  /** Removes what is left of jobs that are not there: of those with ids after `ids`, written until `before`. */
  const clear = async (partition: string, ids: string, before: number, kept: ReadonlySet<string>) => {
    const { table, blobs } = await clients();
    const batch: { readonly rowKey: string; readonly blob: unknown }[] = [];
    const flush = async () => {
      const gone = batch.splice(0);
      if (gone.length === 0) return;
      // Blobs first: only the row knows of its blob.
      await inParallel(gone, async ({ blob }) => {
        if (typeof blob !== "string") return;
        await call((abortSignal) => blobs.getBlockBlobClient(blob).deleteIfExists({ abortSignal }));
      });
      try {
        await submit(gone.map(({ rowKey }) => ["delete", { partitionKey: partition, rowKey }]));
      } catch (error) {
        if (!isGone(error)) throw error;
        // Somebody else sweeps, too: a transaction with a row that is gone does nothing.
        await inParallel(gone, async ({ rowKey }) => {
          await absent(() => call((abortSignal) => table.deleteEntity(partition, rowKey, { abortSignal })));
        });
      }
    };
    for (const kind of [rows.EVENTS, rows.CONTENTS]) {
      const select = ["RowKey", "Timestamp", "blob"];
      for await (const { rowKey, timestamp, blob } of rowsIn(partition, rows.keysOf(kind, ids), { select })) {
        const id = rowKey.slice(kind.length).split("-", 1)[0] ?? "";
        if (kept.has(id) || Date.parse(timestamp ?? "") > before) continue;
        batch.push({ rowKey, blob });
        if (batch.length === TRANSACTION_ROWS) await flush();
      }
    }
    await flush();
  };

  const check = async () => {
    const { blobs } = await clients();
    await Promise.all([rowOf(rows.PARTITIONS, ".check"), call((abortSignal) => blobs.getProperties({ abortSignal }))]);
  };

  return {
    kind: "azure",
    partitions,
    now: () => clock.now(),

    async insert(job, event) {
      rows.assertRef(job);
      const write = randomUUID();
      const keyRow = rows.keyRow(job);
      const change = async () => {
        try {
          await submit([
            ["create", rows.jobRow(job, write)],
            ["create", rows.ownerRow(job, write)],
            ...(keyRow === undefined ? [] : [["create", keyRow] satisfies TransactionAction]),
            ["create", rows.eventRow(job, job.version, event, write)],
          ]);
          return true;
        } catch (error) {
          if (await wrote(job, job.version, write).catch(() => false)) return true;
          if (isThere(error)) return undefined;
          throw error;
        }
      };
      await register(job.partition);
      return (await withDebt(job, change)) ?? false;
    },

    async find({ partition, owner, idempotencyKey }) {
      const row = await rowOf(partition, rows.idempotencyKey(owner, idempotencyKey));
      return row === undefined ? undefined : { partition, id: rows.KeyRow.parse(row).id };
    },

    async read(ref) {
      if (!rows.isRef(ref)) return undefined;
      const row = await rowOf(ref.partition, rows.jobKey(ref.id));
      return row === undefined ? undefined : stored(row, rows.jobOf(row, ref));
    },

    async update(before, job, events, { owed = false } = {}) {
      rows.assertRef(job);
      if (job.version !== before.job.version + events.length) {
        throw new RangeError(
          `Job ${job.id} is at version ${job.version} after ${events.length} events on ${before.job.version}.`,
        );
      }
      const write = randomUUID();
      const changed = (etag: string): StoredJob => ({ job, etag, changedAt: clock.now(), readAt: clock.now() });
      const change = async () => {
        try {
          const row: TransactionAction = ["update", rows.jobRow(job, write), "Replace", { etag: before.etag }];
          const log = events.map((event, at): TransactionAction => {
            return ["create", rows.eventRow(job, before.job.version + at + 1, event, write)];
          });
          // A renewal changes nothing that is listed.
          const listed: TransactionAction[] =
            events.length === 0 ? [] : [["upsert", rows.ownerRow(job, write), "Replace"]];
          return changed(await submit([row, ...listed, ...log]));
        } catch (error) {
          const now = await rowOf(job.partition, rows.jobKey(job.id)).catch(() => undefined);
          if (now?.write === write) return changed(now.etag);
          // It was made, and somebody else has gone on from it: what was returned can be changed no more.
          if (events.length > 0 && (await wrote(job, job.version, write).catch(() => false))) {
            return changed(before.etag);
          }
          if (isChanged(error) || isThere(error) || isGone(error)) {
            throw new JobConflict(`Job ${job.id} is not as it was at version ${before.job.version}.`);
          }
          throw error;
        }
      };
      const after = owed ? await withDebt(job, change) : await change();
      if (after === undefined) throw new JobConflict(`Job ${job.id} is not there.`);
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
      for await (const row of rowsIn(partition, range, { also, atOnce: limit + 1 })) {
        if (jobs.length === limit) return { jobs, cursor: jobs.at(-1)?.id };
        const job = rows.jobIn(row);
        if (job !== undefined) jobs.push(job);
      }
      return { jobs };
    },

    async sent(ref) {
      const { partitionKey, rowKey } = rows.owedKey(ref);
      const etag = debts.get(rowKey) ?? (await rowOf(partitionKey, rowKey))?.etag;
      if (etag !== undefined) await forgive(ref, etag);
    },

    async *owed(olderThanMs) {
      for (const partitionKey of rows.OWED) {
        for await (const row of rowsIn(partitionKey, rows.keysOf(""))) {
          const age = clock.now() - Date.parse(row.timestamp ?? "");
          const ref = rows.OwedRow.parse(row);
          if (age <= olderThanMs) continue;
          keepDebt(ref, row.etag);
          if ((await rowOf(ref.partition, rows.jobKey(ref.id))) !== undefined) yield ref;
          else if (age > ORPHAN_MS) await forgive(ref, row.etag);
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
      for await (const partition of partitions()) {
        let last: string | undefined;
        for await (const row of rowsIn(partition, rows.keysOf(rows.EVENTS), { also, select: ["RowKey"] })) {
          const id = row.rowKey.slice(rows.EVENTS.length).split("-", 1)[0] ?? "";
          if (id === last) continue;
          last = id;
          yield* eventsOf({ partition, id });
        }
      }
    },

    async putContent(ref, name, text) {
      rows.assertRef(ref);
      rows.assertContentName(name);
      const { table, blobs } = await clients();
      const short = text.length <= ROW_CONTENT_LENGTH;
      const blob = rows.blobName(ref, name);
      if (!short) {
        const blobHTTPHeaders = { blobContentType: "text/plain; charset=utf-8" };
        const body = Buffer.from(text);
        await call((abortSignal) =>
          blobs.getBlockBlobClient(blob).upload(body, body.length, { blobHTTPHeaders, abortSignal }),
        );
      }
      const row = { partitionKey: ref.partition, rowKey: rows.contentKey(ref.id, name), short };
      // Merged, so that short content in place of long does not make anybody forget the blob before it is swept.
      const kept = short ? { text } : { text: "", blob };
      await call((abortSignal) => table.upsertEntity({ ...row, ...kept }, "Merge", { abortSignal }));
    },

    async content(ref, name) {
      if (!rows.isRef(ref) || !rows.isContentName(name)) return undefined;
      const row = await rowOf(ref.partition, rows.contentKey(ref.id, name));
      if (row === undefined) return undefined;
      const { short, text, blob } = rows.ContentRow.parse(row);
      if (short || blob === undefined) return text;
      const { blobs } = await clients();
      return absent(() =>
        call(async (abortSignal) =>
          (await blobs.getBlockBlobClient(blob).downloadToBuffer(0, undefined, { abortSignal })).toString(),
        ),
      );
    },

    async repair(job) {
      rows.assertRef(job);
      const { partition, id } = job;
      const write = randomUUID();
      await register(partition);
      const change = async () => {
        const row = await rowOf(partition, rows.jobKey(id));
        if (row !== undefined && rows.RowVersion.parse(row).version > job.version) return undefined;
        const listed: TransactionAction = ["upsert", rows.ownerRow(job, write), "Replace"];
        try {
          await submit([
            row === undefined
              ? ["create", rows.jobRow(job, write)]
              : ["update", rows.jobRow(job, write), "Replace", { etag: row.etag }],
            listed,
          ]);
          return true;
        } catch (error) {
          const now = await rowOf(partition, rows.jobKey(id)).catch(() => undefined);
          if (now?.write === write) return true;
          // Somebody has changed it meanwhile, and so it is newer.
          if (isChanged(error) || isThere(error) || isGone(error)) return undefined;
          throw error;
        }
      };
      const changed = FINAL_STATES.has(job.state) ? await change() : await withDebt(job, change);
      return changed ?? false;
    },

    async sweep(olderThanMs) {
      // The service's time, and not what this machine takes for it.
      await check();
      const { table } = await clients();
      const before = clock.now() - olderThanMs;
      const ids = idsUntil(before);
      let swept = 0;
      for await (const partition of partitions()) {
        const kept = new Set<string>();
        const ended: { readonly job: Job; readonly etag: string }[] = [];
        const flush = () =>
          inParallel(ended.splice(0), async ({ job, etag }) => {
            // The list first: if this is as far as it gets, the job is found here again.
            const pointers = [rows.keyRow(job)?.rowKey, rows.ownerKey(job.owner, job.id)];
            for (const pointer of pointers) {
              if (pointer === undefined) continue;
              await absent(() => call((abortSignal) => table.deleteEntity(partition, pointer, { abortSignal })));
            }
            try {
              await call((abortSignal) => table.deleteEntity(partition, rows.jobKey(job.id), { etag, abortSignal }));
              swept += 1;
            } catch (error) {
              // Replayed since; or another sweeps it.
              if (isChanged(error)) kept.add(job.id);
              else if (!isGone(error)) throw error;
            }
          });
        for await (const row of rowsIn(partition, rows.keysOf(rows.JOBS, ids))) {
          const job = rows.jobIn(row);
          const over = job !== undefined && FINAL_STATES.has(job.state) && Date.parse(job.endedAt ?? "") <= before;
          if (over) ended.push({ job, etag: row.etag });
          else kept.add(row.rowKey.slice(rows.JOBS.length));
          if (ended.length === TRANSACTION_ROWS) await flush();
        }
        await flush();
        await clear(partition, ids, before, kept);
      }
      return swept;
    },

    check,

    async close() {
      connected = undefined;
    },
  };
}

/** A row or blob is not there; a table or container that is not there is another matter. */
const isGone = (error: unknown) => {
  const { status, code } = refusalOf(error);
  return status === 404 && code !== "TableNotFound" && code !== "ContainerNotFound";
};
const isThere = (error: unknown) => refusalOf(error).code === "EntityAlreadyExists";
const isChanged = (error: unknown) => refusalOf(error).status === 412;

async function absent<T>(request: () => Promise<T>): Promise<T | undefined> {
  try {
    return await request();
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}

async function inParallel<T>(items: readonly T[], each: (item: T) => Promise<void>): Promise<void> {
  const left = items.values();
  const work = async () => {
    for (const item of left) await each(item);
  };
  await Promise.all(Array.from({ length: SWEEP_CONCURRENCY }, work));
}
