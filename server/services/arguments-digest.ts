import { createHash } from "node:crypto";

/** SHA-256, in hex, of the arguments as JSON with sorted keys: the same arguments are told by the same digest. */
export function digestOf(args: unknown): string {
  const json = JSON.stringify(args ?? {}, (_key, value: unknown) => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
    return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
  });
  return createHash("sha256").update(json).digest("hex");
}
