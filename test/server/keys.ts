import { hashOfKey, idOf, type KeyRecord } from "../../server/auth/key-register.ts";
import type { Role } from "../../server/config.ts";

const DAY_MS = 24 * 60 * 60_000;

/** A key's record; by default it was made just now, and ends in 90 days. */
export function recordOf(
  key: string,
  { name = "ci", role = "reader", ...more }: Partial<KeyRecord> & { readonly role?: Role } = {},
): KeyRecord {
  const hash = hashOfKey(key);
  const now = Date.now();
  return {
    id: idOf(hash),
    name,
    hash,
    role,
    created: new Date(now).toISOString(),
    expires: new Date(now + 90 * DAY_MS).toISOString(),
    ...more,
  };
}

export const registerOf = (...keys: readonly KeyRecord[]): string => JSON.stringify({ version: 1, keys });

export const longAgo = new Date(Date.now() - DAY_MS).toISOString();
