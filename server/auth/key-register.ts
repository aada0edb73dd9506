import { createHash } from "node:crypto";
import { z } from "zod";
import { ROLES } from "../config.ts";

/*
 * The register of API keys: what is kept of each key, and how. The server reads it, `mcp-aks keys` writes it. It holds
 * hashes and no key, so that whoever reads it can call nothing.
 */

/** Name of the Key Vault secret that a deployment's register is in. */
export const REGISTER_SECRET = "mcp-api-keys";

/** Where a deployment's servers note when each key was last used: rows of this partition, one a key id. */
export const USE_PARTITION = "api-keys";

/** Keys in one register: each costs every call a comparison. A Key Vault secret holds some hundred. */
const KEYS_LIMIT = 1000;

const ID = /^[0-9a-f]{8}$/;

/** Names: what a key is for, such as `ci` or `nightly-build.2`. Not of an id's form, so that either says which key is meant. */
const NAME = /^[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?$/;

/** Whether a key may be called so. */
export const isKeyName = (name: string): boolean => NAME.test(name) && !ID.test(name);

export const KEY_NAME_RULE =
  "must be 1 to 63 lower-case letters, digits, dots, dashes or underscores, first and last a letter or a digit, and " +
  "not 8 hex digits, which would be a key's id";

const time = z.iso.datetime({ error: "must be a time in UTC such as 2026-01-31T12:00:00Z" });

const KeyRecord = z
  .strictObject({
    /** First 8 hex digits of the hash. */
    id: z.string().regex(ID, "must be 8 hex digits"),
    /** Whose key it is. A rotated key and its successor have the same name, and are the same caller. */
    name: z.string().refine(isKeyName, KEY_NAME_RULE),
    /** `sha256:` and the SHA-256 of the whole key as 64 hex digits. */
    hash: z.string().regex(/^sha256:[0-9a-f]{64}$/, "must be sha256:<64 hex digits, in lower case>"),
    role: z.enum(ROLES, { error: `must be one of ${ROLES.join(", ")}` }),
    created: time,
    /** From then on it is refused. */
    expires: time,
    /** When it was revoked; it is refused whatever time this is. */
    revoked: time.optional(),
  })
  .readonly();

export type KeyRecord = z.output<typeof KeyRecord>;

const Register = z
  .strictObject({
    version: z.literal(1, { error: "must be 1, the one version there is" }),
    keys: z.array(KeyRecord).max(KEYS_LIMIT, `must be at most ${KEYS_LIMIT}`).readonly(),
  })
  .readonly()
  .superRefine(({ keys }, context) => {
    const ids = new Set<string>();
    keys.forEach(({ id, hash }, at) => {
      const fault = (message: string) => context.addIssue({ code: "custom", path: ["keys", at, "id"], message });
      if (idOf(hash) !== id) fault("must be the first 8 digits of the hash");
      if (ids.has(id)) fault("must be of one key only");
      ids.add(id);
    });
  });

export type Register = z.output<typeof Register>;

export const EMPTY_REGISTER: Register = Object.freeze({ version: 1, keys: [] });

/** A text that is no register. The message names the places and what must be there, and nothing of what is. */
export class RegisterFault extends Error {
  override readonly name = "RegisterFault";
}

/** Faults that a message names; the rest are counted. */
const FAULTS_SHOWN = 5;

/** Reads a register. All of it is right, or none of it is taken: throws {@link RegisterFault}. */
export function parseRegister(text: string): Register {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    // The parser's message quotes the text.
    throw new RegisterFault('The register is not JSON; an empty one is {"version":1,"keys":[]}.');
  }
  const parsed = Register.safeParse(json);
  if (parsed.success) return parsed.data;
  const { issues } = parsed.error;
  const shown = issues
    .slice(0, FAULTS_SHOWN)
    .map(({ path, message }) => `${path.join(".") || "all of it"}: ${message}`);
  const more = issues.length > FAULTS_SHOWN ? `; and ${issues.length - FAULTS_SHOWN} more faults` : "";
  throw new RegisterFault(`The register of keys has faults: ${shown.join("; ")}${more}.`);
}

/** The text of a register, as {@link parseRegister} reads it. */
export const printRegister = (register: Register): string => `${JSON.stringify(register, null, 2)}\n`;

/** `sha256:<64 hex digits>` of a key. A fast hash is right here: keys are random, not chosen. */
export const hashOfKey = (key: string): string => `sha256:${createHash("sha256").update(key).digest("hex")}`;

/** The id of the key with that hash: enough to name it, too little to guess it. */
export const idOf = (hash: string): string => hash.slice("sha256:".length, "sha256:".length + 8);

export type KeyState = "active" | "expired" | "revoked";

/** Whether a key opens anything at that time (milliseconds since 1970), and if not, why. */
export function stateOf({ expires, revoked }: Pick<KeyRecord, "expires" | "revoked">, now: number): KeyState {
  if (revoked !== undefined) return "revoked";
  return Date.parse(expires) <= now ? "expired" : "active";
}

/** What is written beside a register in a file, as `<file>.used`: when each key was last used, by its id. */
export const UseRecord = z.strictObject({ version: z.literal(1), used: z.record(z.string().regex(ID), time) });

/** Of a register in a file, where the last uses are noted. */
export const useFileOf = (registerFile: string): string => `${registerFile}.used`;

/** What a row of {@link USE_PARTITION} holds beside the key's id. */
export const UseRow = z.object({ rowKey: z.string().regex(ID), lastUsed: z.date() });
