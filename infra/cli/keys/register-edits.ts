import { randomInt } from "node:crypto";
import {
  hashOfKey,
  idOf,
  type KeyRecord,
  parseRegister,
  type Register,
  RegisterFault,
  stateOf,
} from "../../../server/auth/key-register.ts";
import type { Role } from "../../../server/config.ts";
import { CliError, EXIT } from "../cli-error.ts";

/*
 * What may be done to a register. Each edit only adds a key, brings its end nearer, or revokes it, so that edits made
 * at the same time by different people can be put together: see merge().
 */

/** Of 62 letters and digits, 43 are 256 bits; safe in a header, a URL and a shell. */
const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const KEY_LENGTH = 43;

const DAY_MS = 24 * 60 * 60_000;

/** Keys that ended longer ago are dropped: long enough to look into what one of them did. */
const KEPT_MS = 90 * DAY_MS;

export interface NewKey {
  /** `mcp_<stack>_<43 letters and digits>`: shown once, kept nowhere. */
  readonly key: string;
  readonly record: KeyRecord;
}

interface KeyWanted {
  readonly stack: string;
  readonly name: string;
  readonly role: Role;
  /** Milliseconds since 1970. */
  readonly now: number;
  /** Milliseconds. */
  readonly lifetime: number;
}

export function newKey({ stack, name, role, now, lifetime }: KeyWanted): NewKey {
  const random = Array.from({ length: KEY_LENGTH }, () => ALPHABET[randomInt(ALPHABET.length)]).join("");
  const key = `mcp_${stack}_${random}`;
  const hash = hashOfKey(key);
  const record = { id: idOf(hash), name, hash, role, created: timeText(now), expires: timeText(now + lifetime) };
  return { key, record };
}

/** Adds a key. Two keys of a name are one caller, so that is for {@link rotated} to do. */
export function withKey(register: Register, { record }: NewKey, now: number): Register {
  const other = register.keys.find((each) => each.name === record.name && stateOf(each, now) === "active");
  if (other !== undefined) {
    throw new CliError(
      `There is an active key named ${record.name} already (${other.id}). Give it a successor by ` +
        `mcp-aks keys rotate ${record.name}, or choose another name.`,
    );
  }
  return { ...register, keys: [...register.keys, record] };
}

/** Adds the successor of a key, which itself ends after `overlap` milliseconds, or when it would have anyway. */
export function rotated(register: Register, id: string, successor: NewKey, end: number): Register {
  const keys = register.keys.map((each) =>
    each.id === id && Date.parse(each.expires) > end ? { ...each, expires: timeText(end) } : each,
  );
  return { ...register, keys: [...keys, successor.record] };
}

export function revoked(register: Register, ids: ReadonlySet<string>, now: number): Register {
  const keys = register.keys.map((each) =>
    ids.has(each.id) && each.revoked === undefined ? { ...each, revoked: timeText(now) } : each,
  );
  return { ...register, keys };
}

/** Both registers' keys, each with the sooner end that one of them gives it, in an order that all agree on. */
export function merge(one: Register, other: Register): Register {
  const byId = new Map(one.keys.map((record) => [record.id, record]));
  for (const record of other.keys) {
    const known = byId.get(record.id);
    const revoked = earlier(known?.revoked, record.revoked);
    const expires = earlier(known?.expires, record.expires) ?? record.expires;
    byId.set(record.id, { ...record, expires, ...(revoked !== undefined && { revoked }) });
  }
  const inOrder = (a: KeyRecord, b: KeyRecord) =>
    Date.parse(a.created) - Date.parse(b.created) || (a.id < b.id ? -1 : 1);
  return { version: 1, keys: [...byId.values()].toSorted(inOrder) };
}

/** The register without keys that ended long ago. */
export function pruned(register: Register, now: number): Register {
  const endOf = ({ expires, revoked }: KeyRecord) => Date.parse(earlier(expires, revoked) ?? expires);
  return { ...register, keys: register.keys.filter((record) => endOf(record) > now - KEPT_MS) };
}

/** The register, if the servers will take it. They refuse all of it for one fault, such as two keys of one id. */
export function sound(register: Register): Register {
  try {
    return parseRegister(JSON.stringify(register));
  } catch (error) {
    if (!(error instanceof RegisterFault)) throw error;
    throw new CliError(`Nothing was changed, for what would come of it is wrong. ${error.message} Try again.`);
  }
}

/**
 * The keys that an id or a name means, the newest first. An id means one; a name all that have not been revoked, since
 * a rotated key and its successor share it.
 */
export function keysMeant(register: Register, idOrName: string): readonly KeyRecord[] {
  const found = register.keys.filter(({ id, name }) => id === idOrName || name === idOrName);
  if (found.length === 0) {
    const known = register.keys.map(({ id, name }) => `${name} (${id})`).join(", ");
    throw new CliError(
      `There is no key ${JSON.stringify(idOrName)}; ${known === "" ? "the register has none" : `there are ${known}`}.`,
      EXIT.usage,
    );
  }
  return found
    .filter(({ id, revoked }) => id === idOrName || revoked === undefined)
    .toSorted((a, b) => Date.parse(b.created) - Date.parse(a.created));
}

function earlier(one: string | undefined, other: string | undefined): string | undefined {
  if (one === undefined || other === undefined) return one ?? other;
  return Date.parse(one) <= Date.parse(other) ? one : other;
}

const timeText = (at: number): string => new Date(at).toISOString();
