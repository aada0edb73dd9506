import { runtime } from "@pulumi/pulumi";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { asSecret, decode, SECRET, Secrets, textsIn } from "../../../infra/rehearsal/masking.ts";

// Alphanumeric: whatever else is in a secret is covered by its encodings.
const secretText = fc.string({ unit: fc.constantFrom(..."abcdefghjkXYZ0123456789"), minLength: 8, maxLength: 40 });
const json = fc.letrec((tie) => ({
  value: fc.oneof(
    { depthSize: "small" },
    fc.string(),
    fc.integer(),
    fc.boolean(),
    fc.constant(null),
    fc.array(tie("value"), { maxLength: 3 }),
    fc.dictionary(fc.string(), tie("value"), { maxKeys: 3 }),
  ),
})).value;

describe("masking", () => {
  test("leaves no trace of a secret, however it is spelled and wherever it stands", () => {
    const spell = fc.constantFrom(
      (text: string) => text,
      (text: string) => `before ${text} after`,
      (text: string) => Buffer.from(text).toString("base64"),
      (text: string) => Buffer.from(text).toString("base64url"),
      (text: string) => Buffer.from(text).toString("hex"),
      (text: string) => `https://x/?key=${encodeURIComponent(text)}`,
    );
    fc.assert(
      fc.property(secretText, spell, json, (text, spelled, around) => {
        const secrets = new Secrets();
        secrets.add([text]);
        const masked = JSON.stringify(secrets.mask({ around, list: [{ [spelled(text)]: 1, deep: spelled(text) }] }));
        expect(masked).not.toContain(spelled(text));
        expect(masked).not.toContain(text);
        expect(masked).toContain(SECRET);
      }),
    );
  });

  test("changes nothing where there is no secret", () => {
    fc.assert(
      fc.property(json, (value) => {
        expect(new Secrets().mask(value)).toEqual(value);
      }),
    );
  });

  test("keeps short words, host names and names of resources readable", () => {
    const secrets = new Secrets();
    secrets.add(["admin", "true", "crmcpdev.azurecr.io", "mcp-server", "long-enough-secret"]);
    secrets.allow(["mcp-server"]);
    const plan = { user: "admin", on: "true", image: "crmcpdev.azurecr.io/mcp-server", name: "mcp-server" };
    expect(secrets.mask(plan)).toEqual(plan);
    expect(secrets.mask("x long-enough-secret")).toBe(SECRET);
  });
});

describe("taking values off the wire apart", () => {
  test("unwraps secrets, masks them where they stand, and collects their text", () => {
    fc.assert(
      fc.property(json, json, (open, hidden) => {
        const { value, masked, secrets, hasUnknown } = decode({ open, hidden: asSecret(hidden) });
        expect(value).toEqual({ open, hidden });
        expect(Reflect.get(Object(masked), "open")).toEqual(open);
        expect(secrets).toEqual(textsIn(hidden));
        expect(hasUnknown).toBe(false);
      }),
    );
  });

  test("sees unknown values and references to resources", () => {
    expect(decode({ a: [runtime.unknownValue] }).hasUnknown).toBe(true);
    const reference = (id?: string) => ({
      [runtime.specialSigKey]: runtime.specialResourceSig,
      urn: "urn:x",
      ...(id && { id }),
    });
    expect(decode([reference("/id"), reference()]).value).toEqual(["/id", "urn:x"]);
  });
});
