import { randomUUID } from "node:crypto";
import { readFile, rename, rm, writeFile } from "node:fs/promises";
import type { FastifyBaseLogger } from "fastify";
import { connectJobsTable, type JobsTable } from "../services/jobs-table.ts";
import type { Connector } from "../services/resilience.ts";
import { USE_PARTITION, UseRecord, useFileOf } from "./key-register.ts";

/** Where it is noted when keys were last used. Rejects when it cannot be. */
export type WriteUses = (uses: ReadonlyMap<string, number>) => Promise<void>;

/** When keys were last used, for people who wonder which ones they can do without. */
export interface KeyUse {
  /** Notes a use of the key with that id at `now`, milliseconds since 1970. Costs no call anything, and never throws. */
  noted(id: string, now: number): void;
  /** Writes what is not written yet. */
  close(): Promise<void>;
}

interface KeyUseOptions {
  readonly write: WriteUses;
  readonly log: FastifyBaseLogger;
}

/** A key's use is written no more often. */
const WRITE_INTERVAL_MS = 5 * 60_000;
/** What is used in the same moment is written together. */
const GATHER_MS = 500;

export function createKeyUse({ write, log }: KeyUseOptions): KeyUse {
  const latest = new Map<string, number>();
  const due = new Map<string, number>();
  let unwritten = new Map<string, number>();
  let timer: NodeJS.Timeout | undefined;
  let failing = false;

  const flush = async () => {
    timer = undefined;
    const uses = unwritten;
    unwritten = new Map();
    // The newest time there is, and not the one that made the write due.
    for (const id of uses.keys()) uses.set(id, latest.get(id) ?? 0);
    if (uses.size === 0) return;
    try {
      await write(uses);
      if (failing) log.info({ event: "keys.use.written" });
      failing = false;
    } catch (error) {
      const reason = error instanceof Error ? error.message.split("\n", 1)[0] : String(error);
      if (!failing) log.warn({ event: "keys.use.unwritten", reason });
      failing = true;
    }
  };

  return {
    noted(id, now) {
      latest.set(id, now);
      if (now < (due.get(id) ?? 0)) return;
      due.set(id, now + WRITE_INTERVAL_MS);
      unwritten.set(id, now);
      timer ??= setTimeout(() => void flush(), GATHER_MS).unref();
    },
    close() {
      clearTimeout(timer);
      for (const [id, at] of latest) unwritten.set(id, at);
      return flush();
    },
  };
}

/** Notes uses beside a register in a file. Several servers may share it; each keeps what the others have noted. */
export function useFile(registerFile: string): WriteUses {
  const path = useFileOf(registerFile);
  return async (uses) => {
    const used = await readUses(path);
    for (const [id, at] of uses) {
      const before = Date.parse(used[id] ?? "");
      if (!(before >= at)) used[id] = new Date(at).toISOString();
    }
    const draft = `${path}.${randomUUID()}`;
    try {
      await writeFile(draft, `${JSON.stringify({ version: 1, used }, null, 2)}\n`, { flush: true });
      await rename(draft, path);
    } catch (error) {
      await rm(draft, { force: true }).catch(() => {});
      throw error;
    }
  };
}

async function readUses(path: string): Promise<Record<string, string>> {
  try {
    return UseRecord.parse(JSON.parse(await readFile(path, "utf8"))).used;
  } catch {
    // None yet, or none that can be read: what is known from now on is better than nothing.
    return {};
  }
}

/** Longest that writing one use may take: a server that ends waits for it. */
const ROW_TIMEOUT_MS = 5000;

/**
 * Notes uses in the table of job state, in a partition of their own: the one table that a server's identity may write.
 */
export function useTable(table: JobsTable, connector: Connector): WriteUses {
  let client: ReturnType<typeof connectJobsTable> | undefined;
  return async (uses) => {
    client ??= connectJobsTable(table);
    const rows = await client;
    for (const [id, at] of uses) {
      const row = { partitionKey: USE_PARTITION, rowKey: id, lastUsed: new Date(at) };
      await connector.run((signal) =>
        rows.upsertEntity(row, "Merge", {
          abortSignal: AbortSignal.any([signal, AbortSignal.timeout(ROW_TIMEOUT_MS)]),
        }),
      );
    }
  };
}
