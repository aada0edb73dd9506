import type { TableClient, TableEntityResult, TransactionAction } from "@azure/data-tables";
import type { ContainerClient } from "@azure/storage-blob";
import { isLoopback } from "../../config.ts";
import { azureCredential } from "../azure-credential.ts";
import { EMULATOR_ACCOUNT } from "./emulator-account.ts";
import { createStorageCalls, isChanged, isGone } from "./store-calls.ts";
import { createServiceClock } from "./store-clock.ts";
import { type KeyRange, keysOf, PARTITIONS } from "./store-rows.ts";

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

export type Row = TableEntityResult<Record<string, unknown>>;
export type NewRow = { readonly partitionKey: string; readonly rowKey: string } & Readonly<Record<string, unknown>>;

export type JobTable = ReturnType<typeof createJobTable>;

/** Of no partition's name: asked for where it is not the row that matters. */
const NO_ROW = ".none";

/** "Query timeout and pagination". */
const PAGE_ROWS = 1000;

/**
 * The table of jobs, and the container beside it, as far as the store needs them: each method is one request, or one a
 * page. The two clients are loaded with the first one.
 */
export function createJobTable(options: AzureStoreOptions) {
  const call = createStorageCalls(options.tryTimeoutMs);
  const clock = createServiceClock();
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

  /** Rows of a partition in the order of their keys, as they come by the page. `also` is OData, made by `odata`. */
  async function* rowsIn(
    partitionKey: string,
    { from, to }: KeyRange,
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

  return {
    clock,
    rowOf,
    rowsIn,

    /** Adds a row; its ETag. Rejects when it is there: see `isThere`. */
    async create(row: NewRow): Promise<string> {
      const { table } = await clients();
      return (await call((abortSignal) => table.createEntity(row, { abortSignal }))).etag ?? "";
    },

    /** Adds the row or takes its place, or its values' place; its ETag. */
    async put(row: NewRow, how: "Merge" | "Replace"): Promise<string> {
      const { table } = await clients();
      return (await call((abortSignal) => table.upsertEntity(row, how, { abortSignal }))).etag ?? "";
    },

    /** Several rows of one partition, or none; the first one's ETag. */
    async submit(actions: TransactionAction[]): Promise<string> {
      const { table } = await clients();
      const { subResponses } = await call((abortSignal) => table.submitTransaction(actions, { abortSignal }));
      return subResponses[0]?.etag ?? "";
    },

    /** `gone` counts as removed by whoever did. */
    async remove(partitionKey: string, rowKey: string, etag = "*"): Promise<"removed" | "changed" | "gone"> {
      const { table } = await clients();
      try {
        await call((abortSignal) => table.deleteEntity(partitionKey, rowKey, { etag, abortSignal }));
        return "removed";
      } catch (error) {
        if (isGone(error)) return "gone";
        if (isChanged(error)) return "changed";
        throw error;
      }
    },

    /** The tenants' partitions. */
    async *partitions(): AsyncGenerator<string> {
      for await (const { rowKey } of rowsIn(PARTITIONS, keysOf(""))) yield rowKey;
    },

    async putBlob(name: string, text: string): Promise<void> {
      const { blobs } = await clients();
      const blobHTTPHeaders = { blobContentType: "text/plain; charset=utf-8" };
      const body = Buffer.from(text);
      await call((abortSignal) =>
        blobs.getBlockBlobClient(name).upload(body, body.length, { blobHTTPHeaders, abortSignal }),
      );
    },

    async blobOf(name: string): Promise<string | undefined> {
      const { blobs } = await clients();
      const read = async (abortSignal: AbortSignal) =>
        (await blobs.getBlockBlobClient(name).downloadToBuffer(0, undefined, { abortSignal })).toString();
      return absent(() => call(read));
    },

    async removeBlob(name: string): Promise<void> {
      const { blobs } = await clients();
      await call((abortSignal) => blobs.getBlockBlobClient(name).deleteIfExists({ abortSignal }));
    },

    /** By the service's clock, and not by what this machine takes for it until it has asked for the first time. */
    async askedTime(): Promise<number> {
      await rowOf(PARTITIONS, NO_ROW);
      return clock.now();
    },

    /** Whether table and container are there, and answer. */
    async check(): Promise<void> {
      const { blobs } = await clients();
      await Promise.all([rowOf(PARTITIONS, NO_ROW), call((abortSignal) => blobs.getProperties({ abortSignal }))]);
    },
  };
}

async function absent<T>(request: () => Promise<T>): Promise<T | undefined> {
  try {
    return await request();
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}
