import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  hashOfKey,
  idOf,
  isKeyName,
  type KeyRecord,
  parseRegister,
  printRegister,
  RegisterFault,
  stateOf,
} from "../../server/auth/key-register.ts";
import { ROLES } from "../../server/config.ts";
import { longAgo, recordOf, registerOf } from "./keys.ts";

const time = fc
  .date({ min: new Date("2000-01-01"), max: new Date("2100-01-01"), noInvalidDate: true })
  .map((date) => date.toISOString());

const record: fc.Arbitrary<KeyRecord> = fc
  .record(
    {
      key: fc.string({ minLength: 1 }),
      name: fc.stringMatching(/^[a-z0-9][a-z0-9._-]{0,20}[a-z0-9]$/).filter(isKeyName),
      role: fc.constantFrom(...ROLES),
      created: time,
      expires: time,
      revoked: time,
    },
    { requiredKeys: ["key", "name", "role", "created", "expires"] },
  )
  .map(({ key, ...more }) => ({ id: idOf(hashOfKey(key)), hash: hashOfKey(key), ...more }));

const register = fc
  .uniqueArray(record, { selector: ({ id }) => id, maxLength: 10 })
  .map((keys) => ({ version: 1 as const, keys }));

/** What {@link parseRegister} says of it. */
function faultOf(text: string): string {
  try {
    parseRegister(text);
  } catch (error) {
    if (error instanceof RegisterFault) return error.message;
    throw error;
  }
  throw new Error("The register was taken.");
}

describe("the register's grammar", () => {
  test("reads what it writes", () => {
    fc.assert(
      fc.property(register, (written) => {
        expect(parseRegister(printRegister(written))).toEqual(written);
      }),
    );
  });

  test("takes all of a text or nothing, and fails by one error alone", () => {
    const texts = fc.oneof(fc.string(), fc.json(), register.map(printRegister).chain(damaged));
    fc.assert(
      fc.property(texts, (text) => {
        try {
          expect(parseRegister(text)).toEqual(JSON.parse(text));
        } catch (error) {
          expect(error).toBeInstanceOf(RegisterFault);
        }
      }),
    );
  });

  test.each<[string, object, string]>([
    ["a role that there is not", { role: "root" }, "keys.0.role: must be one of reader, operator, admin"],
    ["a role of another case", { role: "Admin" }, "keys.0.role"],
    ["no role", { role: undefined }, "keys.0.role"],
    ["an id of another hash", { id: "00000000" }, "keys.0.id: must be the first 8 digits of the hash"],
    ["a hash without its kind", { hash: "ab".repeat(32) }, "keys.0.hash: must be sha256:<64 hex digits"],
    ["a key in place of its hash", { hash: "mcp_dev_secret" }, "keys.0.hash: must be sha256:<64 hex digits"],
    ["a name of an id's form", { name: "deadbeef" }, "keys.0.name: must be 1 to 63"],
    ["a name with what looks like another letter", { name: "сi" }, "keys.0.name"],
    ["a name that leads elsewhere", { name: "../ci" }, "keys.0.name"],
    ["a time in another zone", { expires: "2030-01-01T00:00:00+01:00" }, "keys.0.expires: must be a time in UTC"],
    ["a day that there is not", { expires: "2030-02-30T00:00:00Z" }, "keys.0.expires"],
    ["a time as a number", { expires: 4_000_000_000 }, "keys.0.expires"],
    ["no end", { expires: undefined }, "keys.0.expires"],
    ["revoked as a flag", { revoked: false }, "keys.0.revoked"],
    ["a word that it does not know", { note: "x" }, "keys.0"],
  ])("refuses %s, and shows nothing of it", (_what, change, message) => {
    const fault = faultOf(JSON.stringify({ version: 1, keys: [{ ...recordOf("mcp_dev_a"), ...change }] }));
    expect(fault).toContain(message);
    expect(fault).not.toMatch(/mcp_dev|root|[0-9a-f]{16}/);
  });

  test.each([
    ["an empty text", ""],
    ["another version", '{"version":2,"keys":[]}'],
    ["no version", '{"keys":[]}'],
    ["a list alone", "[]"],
    ["the key itself", "mcp_dev_secret"],
    ["the same key twice", registerOf(recordOf("mcp_dev_a"), recordOf("mcp_dev_a"))],
  ])("refuses %s", (_what, text) => {
    expect(faultOf(text)).not.toContain("mcp_dev");
  });

  test("a key is active until its end, and not at it", () => {
    const one = recordOf("mcp_dev_a");
    const end = Date.parse(one.expires);
    expect([stateOf(one, end - 1), stateOf(one, end)]).toEqual(["active", "expired"]);
    expect(stateOf({ ...one, revoked: longAgo }, end - 1)).toBe("revoked");
    // Revoked is for ever, whenever it says that it was.
    expect(stateOf({ ...one, revoked: "2099-01-01T00:00:00Z" }, end - 1)).toBe("revoked");
  });
});

/** A text with a piece taken out. */
function damaged(text: string): fc.Arbitrary<string> {
  return fc
    .tuple(fc.nat(text.length), fc.nat(20))
    .map(([from, length]) => text.slice(0, from) + text.slice(from + length));
}
