import { hash } from "node:crypto";
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
  /** SHA-256, 64 hex digits. */
  readonly hex: string;
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
      hex,
      caller: Object.freeze<Caller>({ subject: `key:${id}`, method: "api-key", role: DEPLOYMENT_ROLE, keyId: id }),
      expires: Number.POSITIVE_INFINITY,
      registered: false,
    };
  });
  let known: readonly Known[] = own;
  let digests = wordsOf(known);

  return {
    find(key, now = Date.now()) {
      const digest = hash("sha256", key.slice(0, KEY_LENGTH_LIMIT), "buffer");
      const found = known[indexOf(digest, digests)];
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
          hex: hash.slice("sha256:".length),
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
      digests = wordsOf(known);
    },
  };
}

/** 32-bit words of a SHA-256. */
const WORDS = 8;

/** All hashes in one row, as {@link indexOf} looks through them. */
function wordsOf(known: readonly Known[]): Int32Array {
  const words = new Int32Array(known.length * WORDS);
  known.forEach(({ hex }, at) => {
    const digest = Buffer.from(hex, "hex");
    for (let word = 0; word < WORDS; word++) words[at * WORDS + word] = digest.readInt32LE(word * 4);
  });
  return words;
}

/** The words that are looked for; one look is over before the next begins. */
const wanted = new Int32Array(WORDS);

/**
 * Where the last hash that is `digest` stands, or -1. What it does depends on how many hashes there are and on nothing
 * else: no branch, no end before the end. Node's timingSafeEqual does the same for two buffers, at the price of a call
 * out of JavaScript for each; this is in the path of every call, with a hundred keys.
 */
function indexOf(digest: Buffer, digests: Int32Array): number {
  for (let word = 0; word < WORDS; word++) wanted[word] = digest.readInt32LE(word * 4);
  let found = -1;
  for (let at = 0; at < digests.length / WORDS; at++) {
    let differs = 0;
    for (let word = 0; word < WORDS; word++) differs |= (wanted[word] ?? 0) ^ (digests[at * WORDS + word] ?? 0);
    // All ones where nothing differs, else all zeros: the sign of a number or of its negative is set unless it is 0.
    const same = ((differs | -differs) >>> 31) - 1;
    found = (found & ~same) | (at & same);
  }
  return found;
}
