import { type IdempotencyStore, KEEP_MS, type KeptRecord, type KeyedRef, rowOf } from "./idempotency.ts";

/** Bytes of all records: those of a day, in a process that others share. */
const MOST_BYTES = 64 * 1024 * 1024;
/** What a record takes beside its answer, about. */
const RECORD_BYTES = 512;

interface Entry extends Omit<KeptRecord, "idleMs"> {
  readonly writtenAt: number;
}

/** The store of a server that has one replica. `clock` gives milliseconds that never go back. */
export function createMemoryIdempotency(
  clock: () => number = () => performance.now(),
  mostBytes = MOST_BYTES,
): IdempotencyStore {
  /** In the order in which they were written. */
  const entries = new Map<string, Entry>();
  let bytes = 0;
  let versions = 0;

  const nameOf = (ref: KeyedRef) => `${ref.owner} ${rowOf(ref)}`;
  const sizeOf = ({ answer }: Entry) => RECORD_BYTES + (answer?.byteLength ?? 0);
  const drop = (name: string, entry: Entry) => {
    entries.delete(name);
    bytes -= sizeOf(entry);
  };
  const find = (name: string): Entry | undefined => {
    const entry = entries.get(name);
    if (entry === undefined || clock() - entry.writtenAt < KEEP_MS) return entry;
    drop(name, entry);
    return undefined;
  };

  return {
    kind: "memory",
    async read(ref) {
      const entry = find(nameOf(ref));
      if (entry === undefined) return undefined;
      const { writtenAt, ...record } = entry;
      return { ...record, idleMs: clock() - writtenAt };
    },
    async write(ref, before, { digest, holder, answer }) {
      const name = nameOf(ref);
      const known = find(name);
      if (known?.version !== before) return undefined;
      for (const [each, entry] of entries) {
        if (clock() - entry.writtenAt < KEEP_MS) break;
        drop(each, entry);
      }
      // What is promised to be remembered is not dropped for what comes later.
      if (before === undefined && bytes >= mostBytes) {
        throw new Error("This server remembers as many idempotency keys as it has room for.");
      }
      if (known !== undefined) drop(name, known);
      const entry: Entry = { digest, holder, answer, version: String(++versions), writtenAt: clock() };
      entries.set(name, entry);
      bytes += sizeOf(entry);
      return entry.version;
    },
    async remove(ref, version) {
      const name = nameOf(ref);
      const entry = entries.get(name);
      if (entry?.version === version) drop(name, entry);
    },
  };
}
