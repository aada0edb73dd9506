/** What replicas share for a short time: values that one of them puts, and one of them takes. */
export interface SharedStore {
  readonly kind: "memory" | "redis";
  /** Keeps a value for so many seconds. */
  put(key: string, value: string, ttlSeconds: number): Promise<void>;
  /** Gets a value and deletes it, in one step: of two that take the same key, one gets it. */
  take(key: string): Promise<string | undefined>;
  close(): Promise<void>;
}

/** Values kept at once; beyond it, the oldest go first. */
const LIMIT = 10_000;

/** A store for a server of one replica. */
export function createMemoryStore(): SharedStore {
  const values = new Map<string, { readonly value: string; readonly expires: number }>();
  return {
    kind: "memory",
    async put(key, value, ttlSeconds) {
      const now = performance.now();
      for (const [oldest, { expires }] of values) {
        if (expires > now && values.size < LIMIT) break;
        values.delete(oldest);
      }
      values.set(key, { value, expires: now + ttlSeconds * 1000 });
    },
    async take(key) {
      const found = values.get(key);
      values.delete(key);
      return found !== undefined && found.expires > performance.now() ? found.value : undefined;
    },
    async close() {
      values.clear();
    },
  };
}
