import type { TableClient } from "@azure/data-tables";
import {
  ANSWER_BYTES_LIMIT,
  type IdempotencyStore,
  KEEP_MS,
  type KeyedRecord,
  type KeyedRef,
  PROPERTY_BYTES,
  rowOf,
} from "./idempotency.ts";
import type { Connector } from "./resilience.ts";

/**
 * Rows of one caller are one partition. Nothing else in the table begins so: jobs are in `tenant-...` and `method-...`,
 * what the queue is owed in `owed...`, uses of API keys in `api-keys`.
 */
const PARTITIONS = "idempotency-";
/** The first name after all of them. */
const AFTER_PARTITIONS = "idempotency.";

/** Longest that one request may take, retries included: a call waits for it. */
const REQUEST_TIMEOUT_MS = 10_000;
/** Between two looks at what is old enough to go. */
const SWEEP_INTERVAL_MS = 60 * 60_000;

interface TableOptions {
  /** Makes the client, at the first call with a key. */
  readonly connect: () => Promise<TableClient>;
  readonly connector: Connector;
  /** Told why what is old was not removed. */
  readonly onSweepFailed: (error: unknown) => void;
  /** How long a record is kept; {@link KEEP_MS} but in tests. */
  readonly keepMs?: number;
}

/**
 * The store in Azure Table storage. The service sets each row's time, and says its own with each answer: how old a record
 * is depends on no replica's clock.
 */
export function createTableIdempotency(options: TableOptions): IdempotencyStore {
  const { connect, connector, onSweepFailed, keepMs = KEEP_MS } = options;
  let client: Promise<TableClient> | undefined;
  /** By this process's clock. */
  let sweepAt = 0;

  const ask = <Result>(operation: (table: TableClient, abortSignal: AbortSignal) => Promise<Result>) =>
    connector.run(async (signal) => {
      client ??= connect().catch((error: unknown) => {
        client = undefined;
        throw error;
      });
      return operation(await client, AbortSignal.any([signal, AbortSignal.timeout(REQUEST_TIMEOUT_MS)]));
    });

  /** Removes what is old, of all callers, beside the calls. `now` is the table's. */
  const sweep = async (now: number) => {
    const filter =
      `PartitionKey ge '${PARTITIONS}' and PartitionKey lt '${AFTER_PARTITIONS}' ` +
      `and Timestamp lt datetime'${new Date(now - keepMs).toISOString()}'`;
    const queryOptions = { filter, select: ["PartitionKey", "RowKey"] };
    const table = await ask(async (table) => table);
    for await (const page of table.listEntities({ queryOptions }).byPage()) {
      for (const { partitionKey = "", rowKey = "", etag = "" } of page) {
        await ask((table, abortSignal) => table.deleteEntity(partitionKey, rowKey, { etag, abortSignal })).catch(
          unless(GONE, CHANGED),
        );
      }
    }
  };
  const sweepSometimes = (date: string | undefined) => {
    if (performance.now() < sweepAt) return;
    sweepAt = performance.now() + Math.min(SWEEP_INTERVAL_MS, keepMs);
    sweep(timeOf(date)).catch(onSweepFailed);
  };

  const store: IdempotencyStore = {
    kind: "azure",
    async read(ref) {
      let date: string | undefined;
      const onResponse: OnResponse = ({ headers }) => {
        date = headers.get("date");
      };
      const entity = await ask((table, abortSignal) =>
        table.getEntity(partitionOf(ref), rowOf(ref), { abortSignal, onResponse }),
      ).catch(unless(GONE));
      if (entity === undefined) return undefined;
      // The date has whole seconds, so this is up to a second less than it is.
      const idleMs = Math.max(0, timeOf(date) - Date.parse(entity.timestamp ?? ""));
      if (idleMs >= keepMs) {
        await store.remove(ref, entity.etag);
        return undefined;
      }
      return { ...recordOf(entity), version: entity.etag, idleMs };
    },
    async write(ref, before, record) {
      const entity = { partitionKey: partitionOf(ref), rowKey: rowOf(ref), ...propertiesOf(record) };
      const { etag, date } =
        (await ask<{ etag?: string | undefined; date?: Date | undefined }>((table, abortSignal) =>
          before === undefined
            ? table.createEntity(entity, { abortSignal })
            : table.updateEntity(entity, "Replace", { etag: before, abortSignal }),
        ).catch(unless(THERE, GONE, CHANGED))) ?? {};
      if (date !== undefined) sweepSometimes(date.toISOString());
      return etag;
    },
    async remove(ref, version) {
      await ask((table, abortSignal) =>
        table.deleteEntity(partitionOf(ref), rowOf(ref), { etag: version, abortSignal }),
      ).catch(unless(GONE, CHANGED));
    },
  };
  return store;
}

type OnResponse = (response: { readonly headers: { get(name: string): string | undefined } }) => void;

const GONE = 404;
const THERE = 409;
const CHANGED = 412;

/** Takes the service's answers of these kinds for nothing, and no failure. */
function unless(...statuses: readonly number[]): (error: unknown) => undefined {
  return (error) => {
    if (error instanceof Error && "statusCode" in error && statuses.some((status) => status === error.statusCode)) {
      return undefined;
    }
    throw error;
  };
}

const partitionOf = ({ owner }: KeyedRef) => PARTITIONS + owner;

/** An HTTP date; this process's where the service did not say. */
function timeOf(date: string | undefined): number {
  const time = Date.parse(date ?? "");
  return Number.isNaN(time) ? Date.now() : time;
}

type Properties = Record<string, string | number | Uint8Array>;

const answerName = (part: number) => `answer${part}`;

function propertiesOf({ digest, holder, answer }: KeyedRecord): Properties {
  const properties: Properties = { digest, holder };
  if (answer === undefined) return properties;
  if (answer.byteLength > ANSWER_BYTES_LIMIT) {
    throw new RangeError(`An answer of ${answer.byteLength} bytes is too long for a row.`);
  }
  const parts = Math.ceil(answer.byteLength / PROPERTY_BYTES);
  for (let part = 0; part < parts; part += 1) {
    properties[answerName(part)] = answer.subarray(part * PROPERTY_BYTES, (part + 1) * PROPERTY_BYTES);
  }
  return { ...properties, parts };
}

function recordOf(entity: Readonly<Record<string, unknown>>): KeyedRecord {
  const { digest, holder, parts } = entity;
  const record = { digest: String(digest), holder: String(holder) };
  if (typeof parts !== "number") return record;
  const pieces = Array.from({ length: parts }, (_, part) => entity[answerName(part)]);
  return { ...record, answer: Buffer.concat(pieces.filter((piece) => piece instanceof Uint8Array)) };
}
