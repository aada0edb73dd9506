import { isDeepStrictEqual } from "node:util";
import type { JsonObject, JsonValue } from "../ide-configs.ts";

/** One change of a client's file: a value put at a path, or taken away from it when there is none. */
export interface ConfigEdit {
  /** Keys from the root; an array's item by its index, `-1` behind the last. */
  readonly path: readonly (string | number)[];
  readonly value: JsonValue | undefined;
}

/** A file that a server cannot be merged into. The message says where and what to do; the file is left as it was. */
export class MergeError extends Error {
  override readonly name = "MergeError";
}

/**
 * Keys by which the clients say how a server is reached, and how its user is known. Those that a new entry does not use
 * must go from an old one (a `command` left beside a `url` would win in some clients, a key beside a login in others);
 * every other key of the old entry is its owner's.
 */
const REACHED_BY = ["type", "command", "args", "url", "httpUrl", "serverUrl", "auth", "oauth", "bearer_token_env_var"];

/**
 * What has to change in `existing` for it to hold `content`: servers' entries are merged key by key, a list's items are
 * found by their `id`. Empty when it is all there.
 *
 * @throws MergeError when a place that must be a table or a list holds something else.
 */
export function editsFor(existing: Readonly<Record<string, unknown>>, content: JsonObject): ConfigEdit[] {
  return Object.entries(content).flatMap(([key, wanted]) => {
    const present = ownValue(existing, key);
    if (present === undefined) return [{ path: [key], value: wanted }];
    return isList(wanted)
      ? listEdits(key, present, wanted)
      : Object.entries(asObject(wanted)).flatMap(([name, entry]) => entryEdits(key, present, name, asObject(entry)));
  });
}

function listEdits(key: string, present: unknown, wanted: readonly JsonValue[]): ConfigEdit[] {
  if (!Array.isArray(present))
    throw new MergeError(`"${key}" is ${kindOf(present)} where a list belongs; mend it first`);
  return wanted.flatMap((item): ConfigEdit[] => {
    const index = present.findIndex((other) => isTable(other) && other.id === asObject(item).id);
    if (index === -1) return [{ path: [key, -1], value: item }];
    return isDeepStrictEqual(present[index], item) ? [] : [{ path: [key, index], value: item }];
  });
}

function entryEdits(key: string, present: unknown, name: string, entry: JsonObject): ConfigEdit[] {
  if (!isTable(present)) throw new MergeError(`"${key}" is ${kindOf(present)} where a table belongs; mend it first`);
  const old = ownValue(present, name);
  if (!isTable(old)) return [{ path: [key, name], value: entry }];
  const stale = REACHED_BY.filter((k) => Object.hasOwn(old, k) && !Object.hasOwn(entry, k)).map((k) => [k]);
  return [
    ...[...stale, ...staleKeyHeader(old, entry)].map(
      (path): ConfigEdit => ({ path: [key, name, ...path], value: undefined }),
    ),
    ...Object.entries(entry).flatMap(([k, value]) => valueEdits([key, name, k], ownValue(old, k), value)),
  ];
}

/** Where an old entry sends a key in a header and the new one sends none: the header, or all of them if it is the last. */
function staleKeyHeader(old: Readonly<Record<string, unknown>>, entry: JsonObject): string[][] {
  const headers = ownValue(old, "headers");
  if (!isTable(headers) || Object.hasOwn(entry, "headers")) return [];
  const keys = Object.keys(headers).filter((name) => name.toLowerCase() === "authorization");
  if (keys.length === 0) return [];
  return keys.length === Object.keys(headers).length ? [["headers"]] : keys.map((name) => ["headers", name]);
}

/** A table inside an entry (headers, environment) is merged too; its keys are compared as HTTP compares header names. */
function valueEdits(path: string[], old: unknown, value: JsonValue): ConfigEdit[] {
  if (isDeepStrictEqual(old, value)) return [];
  if (!isTable(old) || isList(value) || typeof value !== "object" || value === null) return [{ path, value }];
  return Object.entries(value).flatMap(([key, inner]): ConfigEdit[] => {
    const twins = Object.keys(old).filter((k) => k !== key && k.toLowerCase() === key.toLowerCase());
    const kept = isDeepStrictEqual(ownValue(old, key), inner);
    return [
      ...twins.map((k): ConfigEdit => ({ path: [...path, k], value: undefined })),
      ...(kept ? [] : [{ path: [...path, key], value: inner }]),
    ];
  });
}

/** `existing` with the edits made: what a file must read as once they are written into it. */
export function edited(
  existing: Readonly<Record<string, unknown>>,
  edits: readonly ConfigEdit[],
): Record<string, unknown> {
  const copy = structuredClone(existing);
  for (const { path, value } of edits) {
    let place: Record<string | number, unknown> = copy;
    for (const key of path.slice(0, -1)) place = place[key] as Record<string | number, unknown>;
    const last = path.at(-1) ?? "";
    if (Array.isArray(place) && last === -1) place.push(value);
    else if (value === undefined) delete place[last];
    else Object.defineProperty(place, last, { value, enumerable: true, configurable: true, writable: true });
  }
  return copy;
}

/** A plain table, as JSON and TOML parsers make them; neither a list nor a date. */
export function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date);
}

function isList(value: JsonValue): value is readonly JsonValue[] {
  return Array.isArray(value);
}

function asObject(value: JsonValue): JsonObject {
  if (typeof value !== "object" || value === null || isList(value)) throw new TypeError("a table was expected");
  return value;
}

function ownValue(object: Readonly<Record<string, unknown>>, key: string): unknown {
  return Object.hasOwn(object, key) ? object[key] : undefined;
}

function kindOf(value: unknown): string {
  if (value === null) return "null";
  return Array.isArray(value) ? "a list" : `a ${typeof value}`;
}
