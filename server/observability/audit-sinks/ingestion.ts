import { setTimeout as sleep } from "node:timers/promises";
import type { LogsIngestionClient } from "@azure/monitor-ingestion";
import type { WatchedConnector } from "../../services/resilience.ts";
import { type Entry, joined, type Loss, type Sink, type SinkReports } from "./sink.ts";

/** The stream of the data collection rule, with the columns of {@link Row}. */
export const INGESTION_STREAM = "Custom-McpAudit";

/**
 * What is sent of a line. The rule's transformation takes the table's other columns out of `Line`, so that none of them
 * can say anything else than the text that the hash covers.
 */
export interface Row extends Record<string, unknown> {
  readonly TimeGenerated: string;
  readonly Line: string;
}

/** Lines of one upload, and the longest that the first of them waits. */
const BATCH_LINES = 500;
const BATCH_MS = 1000;
/**
 * Characters of the lines of one upload. The service takes 1 MB a call, which the client would split into calls that fail
 * one by one; a character is at most three bytes, escaped or not, but for control characters, which no line has many of.
 */
const BATCH_LENGTH = 300_000;
/** Lines that wait at most, and their characters: an hour or a flood of them must not take the server's memory. */
const MOST_LINES = 10_000;
const MOST_LENGTH = 16 * 1024 * 1024;
/** Before an upload that failed is tried again; it doubles up to the longest. Milliseconds. */
const FIRST_RETRY_MS = 1000;
const LONGEST_RETRY_MS = 60_000;
/** Failures in a row after which the sink counts as failing: one is a hiccup that Azure asks clients to bear. */
const FAILURES = 2;
/** For one upload. Milliseconds. */
const UPLOAD_MS = 30_000;

export type Uploads = Pick<LogsIngestionClient, "upload">;

export interface IngestionOptions {
  /** Makes the client, at the first line. */
  readonly connect: () => Promise<Uploads>;
  /** Immutable id of the data collection rule: `dcr-` and 32 hex digits. */
  readonly rule: string;
  readonly retryMs?: number;
  /**
   * Told of each upload. Time-out, retries and the pauses between them are the sink's own, and one upload at a time is its
   * bulkhead: lines wait in its queue, and nobody for them.
   */
  readonly connector?: WatchedConnector | undefined;
}

/** The Logs Ingestion API with this pod's workload identity, or what else DefaultAzureCredential finds. */
export async function connectIngestion(endpoint: string): Promise<Uploads> {
  const [{ LogsIngestionClient }, { DefaultAzureCredential }] = await Promise.all([
    import("@azure/monitor-ingestion"),
    import("@azure/identity"),
  ]);
  // What is tried again, and when, is decided here, where it is known what waits.
  return new LogsIngestionClient(endpoint, new DefaultAzureCredential(), { retryOptions: { maxRetries: 0 } });
}

/**
 * Sends lines to Log Analytics, in their order, a batch at a time. Failed uploads are tried again for as long as the
 * process lives; what comes when {@link MOST_LINES} wait already is lost. An upload that the service took while its
 * answer was lost is sent twice: queries for verification make lines distinct.
 *
 * Source: "Logs Ingestion API in Azure Monitor" and its service limits (1 MB a call, 429 with Retry-After).
 */
export function createIngestionSink(
  { connect, rule, retryMs = FIRST_RETRY_MS, connector }: IngestionOptions,
  reports: SinkReports,
): Sink {
  const queue: Entry[] = [];
  let length = 0;
  let batchLines = BATCH_LINES;
  let failures = 0;
  let client: Promise<Uploads> | undefined;
  let due: NodeJS.Timeout | undefined;
  let sending: Promise<void> | undefined;
  /** Ends the pause before a try. */
  let pause = new AbortController();
  /** Whether somebody waits for the end of the queue. */
  let flushing = false;
  let closed = false;

  const send = async () => {
    while (queue.length > 0 && !closed) {
      const batch = nextBatch();
      const fault = await upload(batch);
      if (fault === undefined) {
        taken(batch.length);
        failures = 0;
        batchLines = BATCH_LINES;
        reports.written(batch.length);
        reports.working();
        if (queue.length < BATCH_LINES && !flushing) break;
      } else if (isTooLarge(fault) && batch.length > 1) {
        batchLines = Math.ceil(batch.length / 2);
      } else {
        if (isTooLarge(fault)) {
          taken(1);
          reports.lost(lossOf(batch));
        }
        failures += 1;
        if (failures >= FAILURES) reports.failing(reasonOf(fault));
        const ms = Math.max(retryAfterMs(fault), Math.min(retryMs * 2 ** (failures - 1), LONGEST_RETRY_MS));
        await sleep(ms, undefined, { ref: flushing, signal: pause.signal }).catch(() => {});
      }
    }
    sending = undefined;
    if (queue.length > 0 && !closed) schedule();
  };

  const nextBatch = () => {
    let lines = 0;
    let characters = 0;
    while (lines < Math.min(batchLines, queue.length)) {
      characters += queue[lines]?.text.length ?? 0;
      if (lines > 0 && characters > BATCH_LENGTH) break;
      lines += 1;
    }
    return queue.slice(0, lines);
  };

  /** Undefined when the service has all of it, else why not. */
  const upload = async (batch: readonly Entry[]): Promise<unknown> => {
    connector?.requested();
    try {
      client ??= connect().catch((error) => {
        client = undefined;
        throw error;
      });
      const rows: Row[] = batch.map(({ time, text }) => ({ TimeGenerated: time, Line: text }));
      await (await client).upload(rule, INGESTION_STREAM, rows, { abortSignal: AbortSignal.timeout(UPLOAD_MS) });
      connector?.answered();
      return undefined;
    } catch (error) {
      connector?.failed(reasonOf(error));
      return error ?? new Error("unknown");
    }
  };

  const taken = (lines: number) => {
    for (const { text } of queue.splice(0, lines)) length -= text.length;
  };

  const start = () => {
    clearTimeout(due);
    due = undefined;
    sending ??= send();
  };

  const schedule = () => {
    if (sending !== undefined) return;
    if (queue.length >= BATCH_LINES) start();
    else due ??= setTimeout(start, BATCH_MS).unref();
  };

  const flush = async (withinMs: number) => {
    const patience = AbortSignal.timeout(Math.ceil(withinMs));
    flushing = true;
    // Whatever it waits for, the time is short now.
    failures = 0;
    pause.abort();
    pause = new AbortController();
    while (queue.length > 0 && !patience.aborted) {
      start();
      await Promise.race([sending, sleep(withinMs, undefined, { signal: patience }).catch(() => {})]);
    }
    flushing = false;
  };

  return {
    name: "ingestion",
    get waiting() {
      return queue.length;
    },
    write(entry) {
      if (closed || queue.length >= MOST_LINES || length + entry.text.length > MOST_LENGTH) {
        reports.lost(lossOf([entry]));
        reports.failing(new Error(`${queue.length} lines wait for Log Analytics, and no more can.`));
        return;
      }
      queue.push(entry);
      length += entry.text.length;
      schedule();
    },
    // What waits for somebody else cannot be passed on at once.
    push() {},
    flush,
    async close(withinMs) {
      await flush(withinMs);
      closed = true;
      pause.abort();
      clearTimeout(due);
      if (queue.length > 0) {
        const left = lossOf(queue.splice(0));
        reports.lost(left);
        reports.failing(new Error(`${left.lines} lines still waited for Log Analytics at the end.`));
      }
    },
  };
}

function lossOf(entries: readonly Entry[]): Loss {
  return entries.map(({ seq }) => ({ from: seq, to: seq, lines: 1 })).reduce(joined);
}

/** The faults of an upload's parts, as the client has them (`AggregateLogsUploadError`), or the one fault before them. */
function causesOf(error: unknown): unknown[] {
  const parts = typeof error === "object" && error !== null ? Reflect.get(error, "errors") : undefined;
  if (!Array.isArray(parts)) return [error];
  return parts.map((part: unknown) => (typeof part === "object" && part !== null ? Reflect.get(part, "cause") : part));
}

const statusOf = (error: unknown): unknown =>
  typeof error === "object" && error !== null ? Number(Reflect.get(error, "statusCode")) : undefined;

function isTooLarge(error: unknown): boolean {
  return causesOf(error).some((cause) => statusOf(cause) === 413);
}

/** What the service asks for in `Retry-After`, in seconds; no date, which Azure Monitor does not send. */
function retryAfterMs(error: unknown): number {
  const waits = causesOf(error).map((cause) => {
    const response = typeof cause === "object" && cause !== null ? Reflect.get(cause, "response") : undefined;
    const headers: unknown =
      typeof response === "object" && response !== null ? Reflect.get(response, "headers") : undefined;
    const value =
      headers instanceof Object && "get" in headers && typeof headers.get === "function"
        ? headers.get("retry-after")
        : "";
    return /^\d{1,4}$/.test(String(value)) ? Number(value) * 1000 : 0;
  });
  return Math.min(Math.max(...waits), LONGEST_RETRY_MS);
}

function reasonOf(error: unknown): Error {
  const [cause] = causesOf(error);
  return cause instanceof Error ? cause : new Error(String(cause));
}
