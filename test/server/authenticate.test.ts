import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import { type ApiKeys, createKeyRing } from "../../server/auth/api-keys.ts";
import { createAuthenticate } from "../../server/auth/authenticate.ts";
import { createChallenge } from "../../server/auth/challenge.ts";
import type { Authenticated } from "../../server/auth/credentials.ts";
import type { Entra } from "../../server/auth/entra.ts";
import type { Failures } from "../../server/auth/failures.ts";
import type { Caller } from "../../server/tools/define-tool.ts";
import { listening, rpc, testApp } from "./running-app.ts";

const KEY = "mcp_test_first";
const OTHER = "mcp_test_second";
const hashOf = (key: string) => createHash("sha256").update(key).digest("hex");
const keys: ApiKeys = createKeyRing({ deployment: [hashOf(KEY), hashOf(OTHER)] });

/** Lets an address fail twice. */
function patience() {
  const failed = new Map<string, number>();
  const failures: Failures = {
    mayTry: (address) => ((failed.get(address) ?? 0) < 2 ? 0 : 7),
    failed: (address) => failed.set(address, (failed.get(address) ?? 0) + 1),
    succeeded: (address) => failed.delete(address),
  };
  return { failures, failed };
}

const sent = (authorization?: string, address = "192.0.2.1") => ({
  authorization,
  rawHeaders: authorization === undefined ? [] : ["Authorization", authorization],
  address,
});
const statusOf = (outcome: Authenticated | Promise<Authenticated>) => {
  if (outcome instanceof Promise) throw new Error("What is known already is not waited for.");
  return "refusal" in outcome ? outcome.refusal.status : 200;
};

describe("an address that fails again and again", () => {
  test("has to wait with what is not known, and others need not", () => {
    const { failures } = patience();
    const authenticate = createAuthenticate({ mode: "api-key", keys, failures });
    expect(statusOf(authenticate(sent("Bearer mcp_wrong")))).toBe(401);
    expect(statusOf(authenticate(sent("Bearer mcp_wrong")))).toBe(401);
    expect(authenticate(sent("Bearer mcp_wrong"))).toMatchObject({ refusal: { status: 429, retryAfterSeconds: 7 } });
    expect(authenticate(sent("Bearer m\u00e9"))).toMatchObject({ refusal: { status: 429 } });
    expect(statusOf(authenticate(sent("Bearer mcp_wrong", "192.0.2.2")))).toBe(401);
  });

  test("keeps nobody out whose key is good: an office behind one address works on", () => {
    const { failures, failed } = patience();
    const authenticate = createAuthenticate({ mode: "api-key", keys, failures });
    for (let at = 0; at < 3; at++) authenticate(sent("Bearer mcp_wrong"));
    expect(failed.size).toBe(1);
    expect(statusOf(authenticate(sent(`Bearer ${KEY}`)))).toBe(200);
  });

  test("has no tokens looked at while it waits", async () => {
    const { failures } = patience();
    let looked = 0;
    const entra: Entra = {
      known: () => undefined,
      verify: async () => {
        looked++;
        return { refusal: { status: 401, error: "invalid_token", reason: "signature" } };
      },
    };
    const authenticate = createAuthenticate({ mode: "entra", entra, failures });
    for (let at = 0; at < 10; at++) await authenticate(sent("Bearer a.b.c"));
    expect(looked).toBe(2);
  });

  test("has not failed by sending nothing, or what has ended", async () => {
    const { failures, failed } = patience();
    const stale: Authenticated = { refusal: { status: 401, error: "invalid_token", reason: "expired", stale: true } };
    const entra: Entra = { known: () => undefined, verify: async () => stale };
    const authenticate = createAuthenticate({ mode: "entra", entra, failures });
    for (let at = 0; at < 10; at++) {
      await authenticate(sent());
      await authenticate(sent("Bearer a.b.c"));
    }
    expect(failed.size).toBe(0);
  });
});

describe("a ticket", () => {
  const caller: Caller = Object.freeze({ subject: "key:1", method: "api-key", role: "reader" });
  const origin = "https://app.example.com";
  const tickets = {
    redeem: async (ticket: string, from?: string) => (ticket === "good" && from === origin ? { caller } : undefined),
  };
  const authenticate = createAuthenticate({ mode: "api-key", keys, tickets });

  test("opens for whom it was issued, and not beside a key", async () => {
    expect(await authenticate({ ...sent(), origin, ticket: "good" })).toEqual({ caller });
    expect(await authenticate({ ...sent(), ticket: "good" })).toMatchObject({ refusal: { status: 401 } });
    expect(await authenticate({ ...sent(), origin, ticket: "bad" })).toMatchObject({ refusal: { status: 401 } });
    expect(await authenticate({ ...sent(`Bearer ${KEY}`), origin, ticket: "good" })).toMatchObject({
      refusal: { status: 400, error: "invalid_request" },
    });
  });

  test("is nothing where none are issued", async () => {
    const without = createAuthenticate({ mode: "api-key", keys });
    expect(await without({ ...sent(), ticket: "good" })).toMatchObject({ refusal: { status: 401 } });
  });
});

describe("challenges", () => {
  const entra = { AUTH_MODE: "entra", PUBLIC_URL: "https://mcp.example.com/mcp", ENTRA_CLIENT_ID: "id" } as const;

  test("name the metadata, the least scope and, of what was sent, the kind of error", () => {
    const { header } = createChallenge(entra);
    const metadata = 'resource_metadata="https://mcp.example.com/.well-known/oauth-protected-resource/mcp"';
    expect(header({ status: 401, reason: "" })).toBe(`Bearer realm="mcp", ${metadata}, scope="api://id/Mcp.Read"`);
    expect(header({ status: 401, error: "invalid_token", reason: "" })).toBe(
      `Bearer realm="mcp", error="invalid_token", ${metadata}, scope="api://id/Mcp.Read"`,
    );
    expect(header({ status: 403, error: "insufficient_scope", scope: "Mcp.Admin", reason: "" })).toBe(
      `Bearer realm="mcp", error="insufficient_scope", ${metadata}, scope="api://id/Mcp.Admin"`,
    );
  });

  test("name each of several scopes with its application", () => {
    const insufficient = {
      status: 403,
      error: "insufficient_scope",
      scope: "Mcp.Operate Mcp.Admin",
      reason: "",
    } as const;
    expect(createChallenge(entra).header(insufficient)).toContain('scope="api://id/Mcp.Operate api://id/Mcp.Admin"');
  });

  test("are made only where other credentials would help", () => {
    const { header } = createChallenge(entra);
    for (const status of [403, 429, 503] as const) expect(header({ status, reason: "" })).toBeUndefined();
  });
});

describe("the client's address", () => {
  test("is the connection's, whatever headers say, unless proxies in front are trusted", async () => {
    const headers = { "x-forwarded-for": "203.0.113.9, 198.51.100.7" };
    const address = async (env: Record<string, string>) => {
      const seen: (string | undefined)[] = [];
      const keyed = { AUTH_MODE: "api-key", API_KEY_HASHES: `sha256:${hashOf(KEY)}`, ...env };
      const { app } = await testApp(keyed, undefined, {
        audit: { decided: (decision) => seen.push(decision.address) },
      });
      expect((await app.inject(rpc("tools/list", {}, headers))).statusCode).toBe(401);
      return seen;
    };
    expect(await address({})).toEqual(["127.0.0.1"]);
    expect(await address({ TRUSTED_PROXY_HOPS: "1" })).toEqual(["198.51.100.7"]);
    expect(await address({ TRUSTED_PROXY_HOPS: "2" })).toEqual(["203.0.113.9"]);
    expect(await address({ TRUSTED_PROXY_HOPS: "4" })).toEqual(["203.0.113.9"]);
  });
});

test("a slowed address is told when to come back", async () => {
  const app = await testApp({ AUTH_MODE: "api-key", API_KEY_HASHES: `sha256:${hashOf(KEY)}` }, undefined, {
    failures: { mayTry: () => 6.2, failed: () => {}, succeeded: () => {} },
  });
  const response = await fetch(await listening(app), { method: "POST", headers: { authorization: "Bearer mcp_x" } });
  expect(response.status).toBe(429);
  expect(response.headers.get("retry-after")).toBe("7");
  expect(response.headers.get("www-authenticate")).toBeNull();
  expect(await response.text()).toContain("Too many failed attempts; try again in 7 seconds.");
});
