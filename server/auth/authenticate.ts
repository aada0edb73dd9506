import { hash, timingSafeEqual } from "node:crypto";
import type { Config, Role } from "../config.ts";
import type { Caller } from "../tools/define-tool.ts";

/** Tells who sends a request from its Authorization header; undefined when that proves nobody. */
export type Authenticate = (authorization: string | undefined) => Caller | undefined;

/** What callers may do until something says otherwise of them. */
const DEFAULT_ROLE: Role = "admin";

/** Whoever started this process and talks to it over its own pipes. */
export const LOCAL_CALLER: Caller = Object.freeze({ subject: "local", method: "local", role: DEFAULT_ROLE });

const ANONYMOUS: Caller = Object.freeze({ subject: "anonymous", method: "none", role: DEFAULT_ROLE });

export function createAuthenticate(config: Pick<Config, "AUTH_MODE" | "API_KEY_HASHES">): Authenticate {
  switch (config.AUTH_MODE) {
    case "none":
      return () => ANONYMOUS;
    case "entra":
      return () => undefined;
    case "api-key":
    case "entra,api-key":
      return apiKeys(config.API_KEY_HASHES);
  }
}

/** Longer than any key; more is not worth hashing. */
const KEY_LENGTH_LIMIT = 512;

/**
 * Keys are compared by their SHA-256, so that the server holds nothing that opens it, and against every hash in
 * constant time, so that how long a refusal takes says nothing. A fast hash is right here: keys are random, not chosen.
 */
function apiKeys(hashes: readonly string[]): Authenticate {
  const known = hashes.map((hex) => ({
    digest: Buffer.from(hex, "hex"),
    caller: Object.freeze<Caller>({
      subject: `key:${hex.slice(0, 8)}`,
      method: "api-key",
      role: DEFAULT_ROLE,
      keyId: hex.slice(0, 8),
    }),
  }));
  return (authorization = "") => {
    // RFC 6750 section 2.1; the scheme is case-insensitive (RFC 9110 section 11.1).
    const key = /^Bearer +(\S+)$/i.exec(authorization)?.[1] ?? "";
    const digest = hash("sha256", key.slice(0, KEY_LENGTH_LIMIT), "buffer");
    let found: Caller | undefined;
    for (const { digest: expected, caller } of known) {
      if (timingSafeEqual(digest, expected)) found = caller;
    }
    return key === "" || key.length > KEY_LENGTH_LIMIT ? undefined : found;
  };
}
