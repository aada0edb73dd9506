import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import { entraEnvironment } from "./entra-authority.ts";
import { rpc, testApp } from "./running-app.ts";

const KEY = "mcp_dev_correct-horse-battery-staple";
const PAGE = "https://app.example.com";
const LOCAL = "http://localhost:5173";
const ENV = {
  AUTH_MODE: "api-key",
  API_KEY_HASHES: `sha256:${createHash("sha256").update(KEY).digest("hex")}`,
  ALLOWED_ORIGINS: `${PAGE},${LOCAL}`,
  PUBLIC_URL: "https://mcp.example.com/mcp",
};

const corsOf = (headers: Record<string, unknown>) =>
  Object.fromEntries(Object.entries(headers).filter(([name]) => name.startsWith("access-control-")));

const preflight = (url: string, headers: Record<string, string>) => ({
  method: "OPTIONS" as const,
  url,
  headers: { host: "127.0.0.1", "access-control-request-method": "POST", ...headers },
});

describe("a page that may call", () => {
  test.each(["/mcp", "/mcp/ws/ticket"])("is told so before it sends a request to %s, without a key", async (url) => {
    const { app } = await testApp(ENV);
    const asked = "authorization, content-type, mcp-protocol-version, Mcp-Method, mcp-param-region, x-evil";
    const response = await app.inject(preflight(url, { origin: PAGE, "access-control-request-headers": asked }));
    expect(response.statusCode).toBe(204);
    expect(response.body).toBe("");
    expect(corsOf(response.headers)).toEqual({
      "access-control-allow-origin": PAGE,
      "access-control-allow-methods": "GET, POST, DELETE",
      "access-control-allow-headers": "authorization, content-type, mcp-protocol-version, mcp-method, mcp-param-region",
      "access-control-expose-headers": "Mcp-Session-Id, WWW-Authenticate, RateLimit, RateLimit-Policy, Retry-After",
      "access-control-max-age": "7200",
    });
    expect(response.headers.vary).toContain("Origin");
  });

  test("reads answers, whoever writes them: calls of both eras, refusals, methods that are not", async () => {
    const { app } = await testApp(ENV);
    const authorization = `Bearer ${KEY}`;
    const modern = rpc(
      "tools/list",
      {
        _meta: {
          "io.modelcontextprotocol/protocolVersion": "2026-07-28",
          "io.modelcontextprotocol/clientCapabilities": {},
        },
      },
      { authorization, origin: PAGE, "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/list" },
    );
    const answers = [
      [200, modern],
      [200, rpc("tools/list", {}, { authorization, origin: PAGE })],
      [200, rpc("tools/list", {}, { authorization, origin: PAGE.toUpperCase() })],
      [401, rpc("tools/list", {}, { origin: LOCAL })],
      [405, { method: "GET" as const, url: "/mcp", headers: { host: "127.0.0.1", authorization, origin: PAGE } }],
      [400, { ...rpc("tools/list", {}, { authorization, origin: PAGE }), payload: "no JSON" }],
    ] as const;
    for (const [status, request] of answers) {
      const { statusCode, headers } = await app.inject(request);
      expect(statusCode).toBe(status);
      expect(headers["access-control-allow-origin"]).toBe(new Headers(request.headers).get("origin"));
      expect(headers["access-control-expose-headers"]).toContain("WWW-Authenticate");
      expect(headers.vary).toBe("Origin");
      // Then a browser would send cookies along, and hand out answers to requests with them.
      expect(headers).not.toHaveProperty("access-control-allow-credentials");
    }
  });

  test("needs a key all the same: OPTIONS that is no preflight gets nowhere", async () => {
    const { app } = await testApp(ENV);
    const headers = { host: "127.0.0.1", origin: PAGE };
    expect((await app.inject({ method: "OPTIONS", url: "/mcp", headers })).statusCode).toBe(401);
    const { statusCode } = await app.inject({
      method: "POST",
      url: "/mcp",
      headers: { ...headers, "access-control-request-method": "POST", "content-type": "application/json" },
      payload: "{}",
    });
    expect(statusCode).toBe(401);
  });
});

describe("a page that may not", () => {
  test.each([
    ["another origin", "https://evil.example"],
    ["none at all, as of a file or a sandbox", "null"],
    ["one that begins like ours", `${PAGE}.evil.example`],
    ["one that ends like ours", "https://evil-app.example.com"],
    ["ours by HTTP", "http://app.example.com"],
    ["ours at another port", `${PAGE}:8443`],
    ["a subdomain of ours", "https://x.app.example.com"],
    ["ours with a path", `${PAGE}/`],
    ["ours twice", `${PAGE}, ${PAGE}`],
    ["ours and another", `${PAGE} https://evil.example`],
    ["ours with a user", "https://app.example.com@evil.example"],
    ["a wildcard", "*"],
    ["a line break", `${PAGE}%0d%0aaccess-control-allow-credentials: true`],
  ])("is refused with %s, and told nothing", async (_what, origin) => {
    const { app } = await testApp({ ...ENV, HOST: "0.0.0.0" });
    for (const request of [
      preflight("/mcp", { origin, "access-control-request-headers": "authorization" }),
      preflight("/mcp/ws/ticket", { origin }),
      rpc("tools/list", {}, { authorization: `Bearer ${KEY}`, origin }),
    ]) {
      const response = await app.inject(request);
      expect(response.statusCode).toBe(403);
      expect(corsOf(response.headers)).toEqual({});
    }
  });

  test("is no local one beyond those that are named, on a server on loopback as well", async () => {
    const { app } = await testApp(ENV);
    const response = await app.inject(preflight("/mcp", { origin: "http://localhost:9999" }));
    expect(response.statusCode).toBe(401);
    expect(corsOf(response.headers)).toEqual({});
  });

  test("is every page, where no origins are named", async () => {
    const { app } = await testApp({ ...ENV, ALLOWED_ORIGINS: "" });
    const response = await app.inject(preflight("/mcp", { origin: PAGE }));
    expect(response.statusCode).toBe(403);
    expect(corsOf(response.headers)).toEqual({});
  });
});

test("what is no page gets no such headers", async () => {
  const { app } = await testApp(ENV);
  const { statusCode, headers } = await app.inject(rpc("tools/list", {}, { authorization: `Bearer ${KEY}` }));
  expect(statusCode).toBe(200);
  expect(corsOf(headers)).toEqual({});
});

test("where to log in any page may find out, with the header that clients send along", async () => {
  const { app } = await testApp({
    ...entraEnvironment({ url: "http://127.0.0.1:9/" }, { OAUTH_CLIENT_ID: "44444444-4444-4444-8444-444444444444" }),
  });
  for (const [url, method, header] of [
    ["/.well-known/oauth-protected-resource/mcp", "GET", "mcp-protocol-version"],
    ["/.well-known/oauth-authorization-server", "GET", "mcp-protocol-version"],
    ["/oauth/register", "POST", "content-type"],
    ["/oauth/token", "POST", "content-type"],
  ] as const) {
    const { statusCode, headers } = await app.inject(
      preflight(url, { origin: "https://any.example", "access-control-request-headers": header }),
    );
    expect(statusCode, url).toBe(204);
    expect(headers["access-control-allow-origin"]).toBe("*");
    expect(headers["access-control-allow-methods"]).toBe(method);
    expect(headers["access-control-allow-headers"]).toContain(header);
    expect(headers).not.toHaveProperty("access-control-allow-credentials");
  }
});
