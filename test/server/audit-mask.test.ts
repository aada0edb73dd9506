import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { createMask, maskedAddress, safeText } from "../../server/observability/audit-mask.ts";
import { ADDRESSES, EMAILS, LOOK_ALIKES, SECRETS } from "./audit-corpus.ts";

const everything = createMask(["email", "ip"]);
const secretsOnly = createMask([]);

test("the corpus is as large as it was meant to be, and no case is there twice", () => {
  expect(SECRETS.length + EMAILS.length + ADDRESSES.length).toBeGreaterThanOrEqual(60);
  expect(LOOK_ALIKES.length).toBeGreaterThanOrEqual(30);
  expect(new Set([...SECRETS, ...EMAILS, ...ADDRESSES].map(({ text }) => text)).size).toBe(
    SECRETS.length + EMAILS.length + ADDRESSES.length,
  );
});

describe("secrets", () => {
  test.each(SECRETS)("$name is masked, whatever else is", ({ text, secret }) => {
    for (const mask of [everything, secretsOnly]) {
      expect(mask(text)).not.toContain(secret);
      expect(mask(text)).toContain("[secret]");
    }
  });

  test("are masked wherever they stand in a text", () => {
    const shaped = SECRETS.filter(({ text, secret }) => text === secret);
    expect(shaped.length).toBeGreaterThan(20);
    fc.assert(
      fc.property(
        fc.constantFrom(...shaped),
        fc.string({ maxLength: 40 }),
        fc.string({ maxLength: 40 }),
        (which, before, after) => {
          expect(everything(`${before} ${which.secret} ${after}`)).not.toContain(which.secret);
        },
      ),
      { numRuns: 2000 },
    );
  });

  test("of any value are masked behind a name", () => {
    const value = fc.string({
      minLength: 6,
      maxLength: 40,
      unit: fc.constantFrom(..."abcXYZ019!#$%*+-./<>?@^_~|(){}[]"),
    });
    const form = fc.constantFrom<(secret: string) => string>(
      (secret) => `password=${secret}`,
      (secret) => JSON.stringify({ token: secret }),
      (secret) => `AccountKey=${secret};x=1`,
      (secret) => `api_key: ${secret} and more`,
      (secret) => `--client-secret "${secret}"`,
    );
    fc.assert(
      fc.property(value, form, fc.string({ maxLength: 30 }), (secret, write, before) => {
        // Elsewhere in the text it may stand by chance.
        fc.pre(!before.includes(secret));
        expect(everything(`${before.replace(/["']/g, "")} ${write(secret)}`)).not.toContain(secret);
      }),
      { numRuns: 2000 },
    );
  });

  test("are not left by halves where a text is cut", () => {
    fc.assert(
      fc.property(fc.constantFrom(...SECRETS), fc.integer({ min: 1700, max: 2100 }), (which, length) => {
        // What is masked becomes short, so that what stands at the cut would be shown.
        const shown = safeText(`password="${"x".repeat(length)}" ${which.text} ${"more ".repeat(500)}`, everything);
        expect(shown.length).toBeLessThanOrEqual(512);
        for (const half of [which.secret.slice(0, 12), which.secret.slice(-12)]) expect(shown).not.toContain(half);
      }),
      { numRuns: 500 },
    );
  });
});

describe("personal data", () => {
  test.each(EMAILS)("$name is masked by setting", ({ text, secret }) => {
    expect(createMask(["email"])(text)).toBe("Author: Ada <[email]>, today");
    expect(createMask(["ip"])(text)).toContain(secret);
  });

  test.each(ADDRESSES)("$name is masked by setting", ({ text, secret }) => {
    expect(createMask(["ip"])(text)).toBe("from [ip], again");
    expect(createMask(["email"])(text)).toContain(secret);
  });

  test.each([
    ["203.0.113.77", "203.0.113.0/24"],
    ["::ffff:203.0.113.77", "203.0.113.0/24"],
    ["2001:db8:1:2::3", "2001:db8:1::/48"],
    ["2001:DB8::3", "2001:db8:0::/48"],
    ["::1", "0:0:0::/48"],
    ["fe80::1%eth0", "fe80:0:0::/48"],
  ])("a caller's address %s is its network %s", (address, network) => {
    expect(maskedAddress(address, ["ip"])).toBe(network);
    expect(maskedAddress(address, ["email"])).toBe(address);
  });
});

describe("what only looks like it", () => {
  test.each(LOOK_ALIKES)("%s stays", (text) => {
    expect(everything(text)).toBe(text);
    expect(safeText(text, everything)).toBe(text);
  });
});

describe("time", () => {
  const LENGTH = 100_000;
  const starts = [
    ..."a1-_./+@:= \\\"'",
    ...["eyJ", "sk-", "mcp_a_", "a.", "1.", "::", "a:", "://", "://a:", "-----BEGIN PRIVATE KEY-----", "-----BEGIN "],
    ...[
      "password",
      "password=",
      "token ",
      "--token ",
      "Bearer ",
      "authorization:",
      "cookie=",
      "sig=",
      "-u ",
      "-u a:",
      "a@",
      "a@a.",
    ],
    ...["AKIA", "xoxb-", "gh", "SG.", "basic ", "sha512-", "AzFu", "JQQJ99", "1Q~", "api_", "secret_access_"],
  ];

  test("grows with the length of the text, and no faster, whatever repeats in it", () => {
    const texts = starts.map((start) => start.repeat(Math.ceil(LENGTH / start.length)).slice(0, LENGTH));
    for (const [at, text] of texts.entries()) {
      const started = performance.now();
      everything(text);
      // Some microseconds a kilobyte are usual. What is quadratic takes minutes.
      expect(performance.now() - started, `repeated ${JSON.stringify(starts[at])}`).toBeLessThan(2000);
    }
  });
});
