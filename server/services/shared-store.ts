import type { Bucket, Taken } from "./token-bucket.ts";

/**
 * What replicas of the server have in common, for a short time: values, some of them for one time, and token buckets. In memory for a
 * server of one replica, in Redis for more; both hold to the same contract, and the same tests.
 */
export interface SharedStore {
  readonly kind: "memory" | "redis";
  /** Whether it answers. While it does not, every operation rejects at once with {@link StoreUnavailable}. */
  readonly healthy: boolean;
  /** Keeps `value` under `key` for so many seconds, in place of what was there. */
  put(key: string, value: string, ttlSeconds: number): Promise<void>;
  get(key: string): Promise<string | undefined>;
  /** Gets the value and removes it, in one step: of all who ask for a key, one gets what is there. */
  take(key: string): Promise<string | undefined>;
  /** Takes `count` tokens if there are as many, in one step. At once in memory, where every request passes. */
  takeTokens(key: string, bucket: Bucket, count: number): Taken | Promise<Taken>;
  /**
   * Takes `count` tokens whether they are there or not, for what is known only afterwards; a negative count gives some
   * back. The debt is never more than a full bucket.
   */
  spendTokens(key: string, bucket: Bucket, count: number): void | Promise<void>;
  close(): Promise<void>;
}

/** The store does not answer. Whoever can do without it should; the rest is for its caller to try again. */
export class StoreUnavailable extends Error {
  override readonly name = "StoreUnavailable";

  constructor(why: string, options?: ErrorOptions) {
    super(`The shared store is not available (${why}); try again in a moment.`, options);
  }
}
