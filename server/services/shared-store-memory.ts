import type { SharedStore } from "./shared-store.ts";
import { type Bucket, fullAt, type Level, takeFrom, taken, tokensAt } from "./token-bucket.ts";

/** Entries before anything is swept out. */
const SWEEP_ABOVE = 1024;

export interface MemoryStore extends SharedStore {
  takeTokens(key: string, bucket: Bucket, count: number): ReturnType<typeof taken>;
  spendTokens(key: string, bucket: Bucket, count: number): void;
}

/**
 * The store of a server that has one replica, and what stands in for Redis while that is gone. `clock` gives
 * milliseconds that never go back.
 */
export function createMemoryStore(clock: () => number = () => performance.now()): MemoryStore {
  const values = createExpiring<{ value: string; expires: number }>(({ expires }) => expires);
  const levels = createExpiring<Level & { full: number }>(({ full }) => full);

  const levelOf = (key: string, { capacity }: Bucket, now: number) => {
    const known = levels.get(key);
    if (known !== undefined) return known;
    const level = { tokens: capacity, at: now, full: now };
    levels.set(key, level, now);
    return level;
  };

  return {
    kind: "memory",
    healthy: true,
    async put(key, value, ttlSeconds) {
      const now = clock();
      values.set(key, { value, expires: now + ttlSeconds * 1000 }, now);
    },
    async get(key) {
      const kept = values.get(key);
      return kept !== undefined && clock() < kept.expires ? kept.value : undefined;
    },
    async take(key) {
      const kept = values.get(key);
      values.delete(key);
      return kept !== undefined && clock() < kept.expires ? kept.value : undefined;
    },
    takeTokens(key, bucket, count) {
      const now = clock();
      const level = levelOf(key, bucket, now);
      const allowed = takeFrom(level, bucket, count, false, now);
      level.full = fullAt(level, bucket);
      return taken(allowed, tokensAt(level, bucket, now), bucket, count);
    },
    spendTokens(key, bucket, count) {
      const now = clock();
      const level = levelOf(key, bucket, now);
      takeFrom(level, bucket, count, true, now);
      level.full = fullAt(level, bucket);
    },
    async close() {
      values.clear();
      levels.clear();
    },
  };
}

/** A map that forgets what has ended whenever it has doubled since it last did: in all, a constant time for each entry. */
function createExpiring<Entry>(endOf: (entry: Entry) => number) {
  const entries = new Map<string, Entry>();
  let sweepAbove = SWEEP_ABOVE;
  return {
    get: (key: string) => entries.get(key),
    delete: (key: string) => entries.delete(key),
    clear: () => entries.clear(),
    set(key: string, entry: Entry, now: number) {
      if (entries.size >= sweepAbove) {
        for (const [each, kept] of entries) if (endOf(kept) <= now) entries.delete(each);
        sweepAbove = Math.max(SWEEP_ABOVE, entries.size * 2);
      }
      entries.set(key, entry);
    },
  };
}
