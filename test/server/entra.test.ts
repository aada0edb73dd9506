import fc from "fast-check";
import type { FastifyBaseLogger } from "fastify";
import { describe, expect, onTestFinished, test } from "vitest";
import type { Authenticated } from "../../server/auth/credentials.ts";
import { CLOCK_SKEW_SECONDS, createEntra } from "../../server/auth/entra.ts";
import { parseAccessPolicy } from "../../server/auth/roles.ts";
import { parseEnvironment } from "../../server/config.ts";
import {
  type Claims,
  entraAuthority,
  entraEnvironment,
  OTHER_TENANT,
  signingKey,
  TENANT,
  USER,
} from "./entra-authority.ts";
import { listening, testApp } from "./running-app.ts";
import { websocketUrl } from "./websocket-client.ts";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const GROUP = "66666666-6666-4666-8666-666666666666";

async function setUp(env: Record<string, string> = {}, policy?: object) {
  const authority = await entraAuthority();
  onTestFinished(async () => {
    await authority.close();
  });
  const events: Record<string, unknown>[] = [];
  const write = (event: object, sentence?: string) => void events.push({ ...event, ...(sentence && { sentence }) });
  const start = Date.now();
  const clock = { ms: start };
  const entra = createEntra({
    config: parseEnvironment(entraEnvironment(authority, env)),
    policy: parseAccessPolicy(policy && JSON.stringify(policy)),
    log: { info: write, warn: write } as Pick<FastifyBaseLogger, "info" | "warn">,
    now: () => clock.ms,
  });
  return { ...authority, authority, entra, events, clock };
}

const callerIn = (outcome: Authenticated) => {
  if ("refusal" in outcome) throw new Error(`Refused: ${outcome.refusal.reason}`);
  return outcome.caller;
};
const reasonIn = (outcome: Authenticated) => ("refusal" in outcome ? outcome.refusal.reason : "let in");

describe("signing keys", () => {
  test("are fetched once for many tokens at once", async () => {
    const { entra, mint, asked } = await setUp();
    const tokens = await Promise.all(Array.from({ length: 8 }, (_, at) => mint({ jti: String(at) })));
    for (const outcome of await Promise.all(tokens.map((token) => entra.verify(token)))) callerIn(outcome);
    expect(asked).toEqual([`/${TENANT}/discovery/v2.0/keys`]);
  });

  test("are fetched anew for a key that is not known yet, and the old ones go with the rotation", async () => {
    const { entra, mint, publish, clock, key } = await setUp();
    callerIn(await entra.verify(await mint()));
    const next = await signingKey("next");
    publish([next]);
    clock.ms += MINUTE;
    expect(callerIn(await entra.verify(await mint({}, { by: next }))).subject).toBe(USER);
    expect(reasonIn(await entra.verify(await mint({ jti: "late" }, { by: key })))).toBe("token: unknown key");
  });

  test("are fetched at most every 30 seconds, however many unknown keys are named", async () => {
    const { entra, mint, clock, asked } = await setUp();
    callerIn(await entra.verify(await mint()));
    const by = await signingKey("made-up");
    for (let at = 0; at < 50; at++) {
      clock.ms += 2000;
      expect(reasonIn(await entra.verify(await mint({ jti: String(at) }, { by })))).toBe("token: unknown key");
    }
    expect(asked.length).toBeLessThanOrEqual(1 + 4);
  });

  test("outlast an outage of their endpoint for a day, with few questions asked, and not for ever", async () => {
    const { entra, sign, claims, fail, clock, asked, events } = await setUp();
    callerIn(await entra.verify(await sign(claims())));
    fail(true);
    const at = (ms: number) => sign(claims({}, Math.floor((clock.ms + ms) / 1000)));
    for (let hours = 1; hours <= 23; hours++) {
      const token = await at(HOUR);
      clock.ms += HOUR;
      expect(callerIn(await entra.verify(token)).subject).toBe(USER);
    }
    expect(asked.length).toBeLessThanOrEqual(24);
    expect(events).toContainEqual(expect.objectContaining({ event: "signing-keys.failed" }));
    const late = await at(2 * HOUR);
    clock.ms += 2 * HOUR;
    expect(await entra.verify(late)).toEqual({
      refusal: { status: 503, retryAfterSeconds: 5, reason: "signing keys unavailable" },
    });
    fail(false);
    clock.ms += MINUTE;
    expect(callerIn(await entra.verify(late)).subject).toBe(USER);
  });

  test("that cannot be had at the start are asked for again soon, and once a second at most", async () => {
    const { entra, mint, fail, clock, asked } = await setUp();
    fail(true);
    const token = await mint();
    for (let at = 0; at < 10; at++) expect(await entra.verify(token)).toMatchObject({ refusal: { status: 503 } });
    expect(asked).toHaveLength(1);
    fail(false);
    clock.ms += 1001;
    expect(callerIn(await entra.verify(token)).subject).toBe(USER);
  });

  test("of another allowed tenant are asked for there, and open nothing here", async () => {
    const { entra, mint, publish, url, asked } = await setUp({ ENTRA_ALLOWED_TENANTS: `${TENANT},${OTHER_TENANT}` });
    const by = await signingKey("theirs");
    publish([by], OTHER_TENANT);
    const other = { tid: OTHER_TENANT, iss: `${url}${OTHER_TENANT}/v2.0` };
    expect(callerIn(await entra.verify(await mint(other, { by }))).tenant).toBe(OTHER_TENANT);
    expect(asked).toEqual([`/${OTHER_TENANT}/discovery/v2.0/keys`]);
    expect(reasonIn(await entra.verify(await mint({}, { by })))).toBe("token: unknown key");
    expect(reasonIn(await entra.verify(await mint(other)))).toBe("token: unknown key");
    expect(callerIn(await entra.verify(await mint())).tenant).toBe(TENANT);
  });
});

describe("clocks", () => {
  const second = 1000;
  test.each([
    ["its end", "exp", -CLOCK_SKEW_SECONDS + 1, "let in"],
    ["its end", "exp", -CLOCK_SKEW_SECONDS, "token: expired"],
    ["its beginning", "nbf", CLOCK_SKEW_SECONDS, "let in"],
    ["its beginning", "nbf", CLOCK_SKEW_SECONDS + 1, "token: claim nbf check_failed"],
    ["its issue", "iat", CLOCK_SKEW_SECONDS, "let in"],
    ["its issue", "iat", CLOCK_SKEW_SECONDS + 1, "token: issued in the future"],
  ])("a token with %s (%s) %i seconds from now: %s", async (_what, claim, offset, expected) => {
    const { entra, mint, clock } = await setUp();
    clock.ms = Math.floor(clock.ms / second) * second;
    expect(reasonIn(await entra.verify(await mint({ [claim]: clock.ms / second + offset })))).toBe(expected);
  });

  test("a token that has ended is no sign of an attack", async () => {
    const { entra, mint } = await setUp();
    expect(await entra.verify(await mint({ exp: 1_000_000 }))).toMatchObject({ refusal: { status: 401, stale: true } });
    expect(await entra.verify(await mint({ aud: "x" }))).not.toHaveProperty("refusal.stale");
  });
});

describe("tokens that were verified", () => {
  test("are known at once, by the same object, and by nothing that is not the very same token", async () => {
    const { entra, mint } = await setUp();
    const [token, renewed] = [await mint(), await mint({ jti: "renewed" })];
    expect(entra.known(token)).toBeUndefined();
    const caller = callerIn(await entra.verify(token));
    expect(entra.known(token)?.caller).toBe(caller);
    expect(Object.isFrozen(caller)).toBe(true);
    expect(entra.known(renewed)).toBeUndefined();
    expect(callerIn(await entra.verify(renewed))).toBe(caller);
    expect(entra.known(`${token}A`)).toBeUndefined();
    expect(entra.known(token.slice(0, -1))).toBeUndefined();
  });

  test("are never known beyond their end, nor longer than five minutes", async () => {
    const { entra, mint, clock, authority } = await setUp();
    const start = clock.ms;
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 900 }), fc.integer({ min: 0, max: 1000 }), async (lasts, later) => {
        clock.ms = start;
        const exp = Math.floor(start / 1000) + lasts;
        const token = await authority.mint({ exp, jti: `${lasts} ${later}` });
        callerIn(await entra.verify(token));
        clock.ms = start + later * 1000;
        const known = entra.known(token) !== undefined;
        expect(known).toBe(clock.ms < exp * 1000 && clock.ms < start + 5 * MINUTE);
      }),
      { numRuns: 40 },
    );
    clock.ms = start;
    expect(entra.known(await mint())).toBeUndefined();
  });

  test("are forgotten with the key that signed them, five minutes later", async () => {
    const { entra, mint, publish, clock } = await setUp();
    const token = await mint();
    callerIn(await entra.verify(token));
    publish([await signingKey("next")]);
    clock.ms += 6 * MINUTE;
    expect(entra.known(token)).toBeUndefined();
    // The keys of before are good until they are fetched anew, ten minutes after they were.
    clock.ms += 5 * MINUTE;
    await entra.verify(token);
    await expect.poll(async () => reasonIn(await entra.verify(token))).toBe("token: unknown key");
  });
});

describe("roles", () => {
  const policy = { roles: { admin: { groups: [GROUP] }, operator: { appRoles: ["Mcp.Operator"] } } };
  const cases: [string, Claims, object][] = [
    ["an app role", { roles: ["Mcp.Operator"], scp: "Mcp.Operate" }, { role: "operator" }],
    ["a group", { roles: undefined, groups: [GROUP], scp: "Mcp.Admin" }, { role: "admin" }],
    ["the highest of both", { roles: ["Mcp.Operator"], groups: [GROUP], scp: "Mcp.Admin" }, { role: "admin" }],
    ["a scope below the role", { groups: [GROUP], scp: "openid Mcp.Read" }, { role: "admin", scopedRole: "reader" }],
    ["the highest scope", { groups: [GROUP], scp: "Mcp.Read Mcp.Operate" }, { role: "admin", scopedRole: "operator" }],
  ];
  test.each(cases)("come from %s", async (_what, over, expected) => {
    const { entra, mint } = await setUp({}, policy);
    const { role, scopedRole } = callerIn(await entra.verify(await mint(over)));
    expect({ role, ...(scopedRole && { scopedRole }) }).toEqual(expected);
  });

  test("a scope beyond the role gives nothing", async () => {
    const { entra, mint } = await setUp();
    const caller = callerIn(await entra.verify(await mint({ scp: "Mcp.Admin" })));
    expect(caller).toMatchObject({ role: "reader" });
    expect(caller).not.toHaveProperty("scopedRole");
  });

  test.each([{ hasgroups: true }, { _claim_names: { groups: "src1" }, _claim_sources: { src1: {} } }])(
    "of groups do not count where the token could not hold them all: %j",
    async (overage) => {
      const { entra, mint, events } = await setUp({}, policy);
      const outcome = await entra.verify(
        await mint({ roles: undefined, groups: [GROUP], scp: "Mcp.Admin", ...overage }),
      );
      expect(outcome).toEqual({ refusal: { status: 403, reason: expect.stringContaining("groups overage") } });
      const withRole = { roles: ["Mcp.Operator"], groups: [GROUP], scp: "Mcp.Admin", ...overage };
      expect(callerIn(await entra.verify(await mint(withRole))).role).toBe("operator");
      const other = "77777777-7777-4777-8777-777777777777";
      for (const oid of [other, other]) callerIn(await entra.verify(await mint({ ...withRole, oid })));
      // Once for each of them, and with the mend.
      const told = events.filter(({ event }) => event === "entra.groups.overage");
      expect(told).toMatchObject([{ subject: USER }, { subject: other, role: "operator" }]);
      expect(told[0]?.sentence).toMatch(/none of them gives a role\. Assign app roles .* "ApplicationGroup"/);
    },
  );

  test("an application's own token has roles only", async () => {
    const { entra, mint } = await setUp();
    const own = { scp: undefined, sub: USER, idtyp: "app", roles: ["Mcp.Administrator"] };
    const caller = callerIn(await entra.verify(await mint(own)));
    expect(caller).toEqual({
      subject: USER,
      method: "entra",
      tenant: TENANT,
      role: "admin",
      client: expect.stringMatching(/^4{8}/),
    });
  });
});

describe("a WebSocket that a token opened", () => {
  const PAGE = "https://app.example.com";

  test.each([
    ["itself", (token: string) => [["mcp"], { authorization: `Bearer ${token}` }] as const],
    [
      "by a ticket",
      async (token: string, url: URL) => {
        const headers = { authorization: `Bearer ${token}`, origin: PAGE };
        const response = await fetch(`${url.href}/ws/ticket`, { method: "POST", headers });
        const { ticket } = (await response.json()) as { ticket: string };
        return [["mcp", `ticket.${ticket}`], { origin: PAGE }] as const;
      },
    ],
  ])("%s serves until the token ends, and no longer", async (_how, credentials) => {
    const authority = await entraAuthority();
    onTestFinished(() => void authority.close());
    const clock = { ms: Date.now() };
    const server = await testApp(entraEnvironment(authority, { ALLOWED_ORIGINS: PAGE }), undefined, {
      now: () => clock.ms,
    });
    const url = await listening(server);
    const [protocols, headers] = await credentials(await authority.mint(), url);
    const socket = new WebSocket(websocketUrl(url), { protocols, headers } as unknown as string[]);
    const closed = new Promise<CloseEvent>((resolve) => socket.addEventListener("close", resolve, { once: true }));
    await new Promise((resolve) => socket.addEventListener("open", resolve, { once: true }));
    const ping = async (id: number) => {
      const answer = new Promise((resolve) => socket.addEventListener("message", resolve, { once: true }));
      socket.send(JSON.stringify({ jsonrpc: "2.0", id, method: "ping" }));
      return Promise.race([answer.then(() => "answered"), closed.then(({ code }) => code)]);
    };
    expect(await ping(1)).toBe("answered");
    clock.ms += HOUR;
    expect(await ping(2)).toBe("answered");
    // What a request with the same token has beyond its end, for clocks that differ.
    clock.ms += (CLOCK_SKEW_SECONDS + 1) * 1000;
    expect(await ping(3)).toBe(1008);
  });
});
