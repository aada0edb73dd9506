import { hash, timingSafeEqual } from "node:crypto";
import type { Role } from "../config.ts";
import type { Caller } from "../tools/define-tool.ts";
import { idOf, type Register } from "./key-register.ts";

/** Who holds which API key. */
export interface ApiKeys {
  /**
   * The holder of a key that is neither expired nor revoked at `now` (milliseconds since 1970, default: now). The
   * same frozen object each time, for as long as the key's name and role stay.
   */
  find(key: string, now?: number): Caller | undefined;
  /**
   * Whether a caller's key still is one, for connections that outlive the check of it. True for those who came by
   * other means.
   */
  holds(caller: Caller, now?: number): boolean;
}

/** Keys whose register may be replaced at any time. */
export interface KeyRing extends ApiKeys {
  /** Takes a register in place of the one before. */
  replace(register: Register): void;
}

interface KeyRingOptions {
  /** SHA-256 of each of the deployment's own keys, 64 hex digits. They are an admin's, and do not expire. */
  readonly deployment: readonly string[];
  /** Told of every key of the register that was found, by its id. */
  readonly onFound?: (id: string, now: number) => void;
}

interface Known {
  readonly digest: Buffer;
  readonly caller: Caller;
  /** Milliseconds since 1970. */
  readonly expires: number;
  readonly registered: boolean;
}

/** What the holder of the key that was made with the deployment may do. */
const DEPLOYMENT_ROLE: Role = "admin";

/** Longer than any key; more is not worth hashing. */
const KEY_LENGTH_LIMIT = 512;

/**
 * Keys are compared by their SHA-256, so that the server holds nothing that opens it, and against every hash in
 * constant time, so that how long a refusal takes says nothing. A fast hash is right here: keys are random, not chosen.
 */
export function createKeyRing({ deployment, onFound }: KeyRingOptions): KeyRing {
  const own = deployment.map((hex): Known => {
    const id = hex.slice(0, 8);
    return {
      digest: Buffer.from(hex, "hex"),
      caller: Object.freeze<Caller>({ subject: `key:${id}`, method: "api-key", role: DEPLOYMENT_ROLE, keyId: id }),
      expires: Number.POSITIVE_INFINITY,
      registered: false,
    };
  });
  let known: readonly Known[] = own;

  return {
    find(key, now = Date.now()) {
      const digest = hash("sha256", key.slice(0, KEY_LENGTH_LIMIT), "buffer");
      let found: Known | undefined;
      for (const each of known) {
        if (timingSafeEqual(digest, each.digest)) found = each;
      }
      if (found === undefined || key === "" || key.length > KEY_LENGTH_LIMIT || found.expires <= now) return undefined;
      if (found.registered) onFound?.(found.caller.keyId ?? "", now);
      return found.caller;
    },
    holds({ method, keyId, subject }, now = Date.now()) {
      if (method !== "api-key") return true;
      const key = known.findLast(({ caller }) => caller.keyId === keyId);
      return key !== undefined && key.caller.subject === subject && key.expires > now;
    },
    replace({ keys }) {
      const before = new Map(known.filter(({ registered }) => registered).map(({ caller }) => [caller.keyId, caller]));
      const registered = keys.map(({ id, name, hash, role, expires, revoked }): Known => {
        const same = before.get(id);
        // The name and not the id: who rotates a key stays the same caller, with the same workspace and limits.
        const subject = `key:${name}`;
        return {
          digest: Buffer.from(hash.slice("sha256:".length), "hex"),
          caller:
            same !== undefined && same.subject === subject && same.role === role
              ? same
              : Object.freeze<Caller>({ subject, method: "api-key", role, keyId: idOf(hash) }),
          // The comparison stays, so that a revoked key costs what an unknown one does.
          expires: revoked === undefined ? Date.parse(expires) : Number.NEGATIVE_INFINITY,
          registered: true,
        };
      });
      // The register has the last word, on a key of the deployment as well.
      known = [...own, ...registered];
    },
  };
}
