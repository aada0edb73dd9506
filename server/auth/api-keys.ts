import { hash, timingSafeEqual } from "node:crypto";
import type { Caller } from "../tools/define-tool.ts";

export interface ApiKeys {
  /** Whose key it is; undefined when it is nobody's. Takes as long whatever was wrong. */
  find(key: string, now?: number): Caller | undefined;
}

/** Longer than any key; more is not worth hashing. */
const KEY_LENGTH_LIMIT = 512;

/**
 * Keys are compared by their SHA-256, so that the server holds nothing that opens it, and against every hash in
 * constant time, so that how long a refusal takes says nothing. A fast hash is right here: keys are random, not chosen.
 */
export function createApiKeys(hashes: readonly string[]): ApiKeys {
  const known = hashes.map((hex) => ({
    digest: Buffer.from(hex, "hex"),
    caller: Object.freeze<Caller>({
      subject: `key:${hex.slice(0, 8)}`,
      method: "api-key",
      role: "admin",
      keyId: hex.slice(0, 8),
    }),
  }));
  return {
    find(key) {
      const digest = hash("sha256", key.slice(0, KEY_LENGTH_LIMIT), "buffer");
      let found: Caller | undefined;
      for (const { digest: expected, caller } of known) {
        if (timingSafeEqual(digest, expected)) found = caller;
      }
      return key === "" || key.length > KEY_LENGTH_LIMIT ? undefined : found;
    },
  };
}
