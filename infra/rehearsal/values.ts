import { createHash } from "node:crypto";
import { v5 as uuid } from "uuid";

/** Reading untyped properties as they arrive over the wire, and making up identifiers that are the same every time. */

export type Properties = Record<string, unknown>;

export function isProperties(value: unknown): value is Properties {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The value at a dotted path such as `spec.template.metadata`; undefined where the path ends early. */
export function at(value: unknown, path: string): unknown {
  let current = value;
  for (const key of path.split(".")) {
    if (!isProperties(current)) return undefined;
    current = current[key];
  }
  return current;
}

export function textAt(value: unknown, path: string): string | undefined {
  const found = at(value, path);
  return typeof found === "string" ? found : undefined;
}

export function numberAt(value: unknown, path: string): number | undefined {
  const found = at(value, path);
  return typeof found === "number" ? found : undefined;
}

export function objectAt(value: unknown, path: string): Properties {
  const found = at(value, path);
  return isProperties(found) ? found : {};
}

export function listAt(value: unknown, path: string): unknown[] {
  const found = at(value, path);
  return Array.isArray(found) ? found : [];
}

export function objectsAt(value: unknown, path: string): Properties[] {
  return listAt(value, path).filter(isProperties);
}

export function textsAt(value: unknown, path: string): string[] {
  return listAt(value, path).filter((item) => typeof item === "string");
}

/** A map of text to text (labels, annotations, selectors, tags); other values are left out. */
export function textMapAt(value: unknown, path: string): Record<string, string> {
  return Object.fromEntries(
    Object.entries(objectAt(value, path)).filter((entry): entry is [string, string] => typeof entry[1] === "string"),
  );
}

// Any fixed namespace does; this one is used for nothing else.
const REHEARSAL = "3f1c2f0a-6f0e-5c0b-9a53-6a2c7c2d8f11";

/** A GUID that depends on the facts alone. */
export function guidOf(...facts: string[]): string {
  return uuid(facts.join("\n").toLowerCase(), REHEARSAL);
}

/** Hex digits that depend on the facts alone. */
export function hexOf(length: number, ...facts: string[]): string {
  return bytesOf(Math.ceil(length / 2), ...facts)
    .toString("hex")
    .slice(0, length);
}

/** Bytes that depend on the facts alone, as many as asked for. */
export function bytesOf(length: number, ...facts: string[]): Buffer {
  const blocks: Buffer[] = [];
  for (let i = 0; blocks.length * 32 < length; i++) {
    blocks.push(
      createHash("sha256")
        .update(`${i}\n${facts.join("\n")}`)
        .digest(),
    );
  }
  return Buffer.concat(blocks).subarray(0, length);
}
