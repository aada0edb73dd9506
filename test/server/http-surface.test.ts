import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import { tools } from "../../server/tools/index.ts";
import { messageIn, rpc, testApp } from "./running-app.ts";

const KEY = "mcp_dev_correct-horse-battery-staple";
const OTHER_KEY = "mcp_dev_second-key";
const hashOf = (key: string) => createHash("sha256").update(key).digest("hex");
const withKeys = { AUTH_MODE: "api-key", API_KEY_HASHES: `sha256:${hashOf(KEY)},sha256:${hashOf(OTHER_KEY)}` };

describe("probes", () => {
  test.each(["/health/live", "/healthz", "/health/ready", "/health", "/readyz"])(
    "%s needs no key and says nothing but the status",
    async (url) => {
      const { app } = await testApp(withKeys);
      const response = await app.inject({ url });
      expect([response.statusCode, response.json()]).toEqual([200, { status: "ok" }]);
    },
  );

  test("readiness fails while draining, liveness does not", async () => {
    const { app, readiness } = await testApp();
    readiness.drain();
    expect((await app.inject("/health/ready")).statusCode).toBe(503);
    expect((await app.inject("/readyz")).json()).toEqual({ status: "unavailable" });
    expect((await app.inject("/health/live")).statusCode).toBe(200);
  });

  test("a draining server still answers calls, and asks for another connection", async () => {
    const { app, readiness } = await testApp();
    readiness.drain();
    const response = await app.inject(rpc("tools/list"));
    expect(response.statusCode).toBe(200);
    expect((await app.inject("/health/live")).headers.connection).toBe("close");
  });
});

test("a server that was slow for a while and has nothing else to do answers", async () => {
  const { app } = await testApp();
  const blocked = new Int32Array(new SharedArrayBuffer(4));
  for (let at = 0; at < 5; at++) {
    Atomics.wait(blocked, 0, 0, 400);
    expect((await app.inject(rpc("tools/list"))).statusCode).toBe(200);
  }
});

test("an overloaded server asks to be left alone for a while, and says that it lives", async () => {
  const { app } = await testApp();
  const working = app.inject(rpc("tools/call", { name: "execute_command", arguments: { command: "sleep 86400" } }));
  working.catch(() => {});
  const blocked = new Int32Array(new SharedArrayBuffer(4));
  let response = await app.inject(rpc("tools/list"));
  expect(response.statusCode).toBe(200);
  for (let at = 0; at < 20 && response.statusCode === 200; at++) {
    Atomics.wait(blocked, 0, 0, 400);
    response = await app.inject(rpc("tools/list"));
  }
  expect(response.statusCode).toBe(503);
  expect(response.headers["retry-after"]).toBe("5");
  expect(messageIn(response.body).error?.message).toContain("overloaded; try again");
  expect((await app.inject("/health/live")).statusCode).toBe(200);
});

describe("the metrics port", () => {
  test("has what the public port has not", async () => {
    const { app, operator } = await testApp();
    for (const url of ["/metrics", "/health/detailed"]) {
      expect((await app.inject(url)).statusCode).toBe(404);
      expect((await operator.inject(url)).statusCode).toBe(200);
    }
  });

  test("tells which backing services are configured, and not where they are", async () => {
    const { operator } = await testApp({
      REDIS_HOST: "redis.internal.example",
      APPLICATIONINSIGHTS_CONNECTION_STRING: "InstrumentationKey=hush",
    });
    const { body } = await operator.inject("/health/detailed");
    expect(JSON.parse(body)).toMatchObject({
      status: "ok",
      authentication: "none",
      backing: { redis: "configured", applicationInsights: "configured", keyVault: "not configured" },
    });
    expect(body).not.toMatch(/redis\.internal|hush/);
  });

  test("counts calls and requests in bounded series", async () => {
    const { app, operator } = await testApp();
    await app.inject(rpc("tools/call", { name: "system_info", arguments: {} }));
    await app.inject(rpc("tools/call", { name: "system_info", arguments: { no: 1 } }));
    for (let at = 0; at < 20; at++) {
      await app.inject(rpc("tools/call", { name: `made_up_${at}` }));
      await app.inject(rpc(`made/up/${at}`));
    }
    const { body } = await operator.inject("/metrics");
    expect(body).toContain('mcp_tool_calls_total{tool="system_info",status="ok"} 1');
    expect(body).toContain('mcp_tool_calls_total{tool="system_info",status="failed"} 1');
    expect(body).toContain('mcp_tool_calls_total{tool="other",status="failed"} 20');
    expect(body).toContain('mcp_requests_total{method="tools/call",status="200"} 22');
    expect(body).toMatch(/mcp_requests_total\{method="other",status="\d+"\} 20/);
    expect(body).toContain('mcp_tool_duration_seconds_count{tool="system_info"} 2');
    expect(body).toContain("mcp_active_connections 0");
    expect(body).toContain("process_resident_memory_bytes");
    expect(body).not.toContain("made_up");
  });

  test("keeps every server's counts apart", async () => {
    const [first, second] = [await testApp(), await testApp()];
    await first.app.inject(rpc("tools/call", { name: "system_info" }));
    expect((await second.operator.inject("/metrics")).body).not.toContain('tool="system_info"');
  });
});

describe("API keys", () => {
  const refusals: [string, Record<string, string>][] = [
    ["no header", {}],
    ["an empty header", { authorization: "" }],
    ["no key", { authorization: "Bearer " }],
    ["another scheme", { authorization: `Basic ${KEY}` }],
    ["the bare key", { authorization: KEY }],
    ["a wrong key", { authorization: "Bearer wrong" }],
    ["a key with more behind", { authorization: `Bearer ${KEY}x` }],
    ["a key cut short", { authorization: `Bearer ${KEY.slice(0, -1)}` }],
    ["two keys", { authorization: `Bearer ${KEY} ${KEY}` }],
    ["the hash for the key", { authorization: `Bearer ${hashOf(KEY)}` }],
    ["a very long key", { authorization: `Bearer ${"k".repeat(10_000)}` }],
    ["the key in another header", { "x-api-key": KEY }],
  ];

  test("every refusal is the same answer", async () => {
    const { app } = await testApp(withKeys);
    const answers = new Set<string>();
    for (const [, headers] of refusals) {
      const response = await app.inject(rpc("tools/list", {}, headers));
      // What RFC 6750 wants, and nothing that tells one wrong key from another.
      expect(response.headers["www-authenticate"]).toBe(
        /^Bearer \S/.test(headers.authorization ?? "")
          ? 'Bearer realm="mcp", error="invalid_token"'
          : 'Bearer realm="mcp"',
      );
      answers.add(`${response.statusCode} ${response.body}`);
    }
    expect([...answers]).toEqual([expect.stringMatching(/^401 .*Authentication required: send a valid key/)]);
  });

  test.each(refusals)("refused: %s", async (_what, headers) => {
    const { app } = await testApp(withKeys);
    expect((await app.inject(rpc("tools/list", {}, headers))).statusCode).toBe(401);
  });

  test("each key opens, whatever the case of the scheme", async () => {
    const { app } = await testApp(withKeys);
    for (const authorization of [`Bearer ${KEY}`, `bearer ${OTHER_KEY}`]) {
      expect((await app.inject(rpc("tools/list", {}, { authorization }))).statusCode).toBe(200);
    }
  });

  test("a call is logged with the key's id, and the key nowhere", async () => {
    const { app, events } = await testApp(withKeys);
    await app.inject(rpc("tools/call", { name: "system_info" }, { authorization: `Bearer ${KEY}` }));
    await app.inject(rpc("tools/list", {}, { authorization: "Bearer wrong-key" }));
    const keyId = hashOf(KEY).slice(0, 8);
    expect(events()).toContainEqual(
      expect.objectContaining({
        event: "tool.called",
        tool: "system_info",
        subject: `key:${keyId}`,
        keyId,
        method: "api-key",
      }),
    );
    expect(events()).toContainEqual(expect.objectContaining({ event: "request.refused", reason: "unauthenticated" }));
    expect(JSON.stringify(events())).not.toMatch(new RegExp(`${KEY}|wrong-key|${hashOf(KEY)}`));
  });

  test("a key is asked for before the body is read", async () => {
    const { app } = await testApp(withKeys);
    const request = { ...rpc("tools/list"), payload: "not json" };
    expect((await app.inject(request)).statusCode).toBe(401);
  });
});

describe("web pages", () => {
  test.each<[string, Record<string, string>, Record<string, string>, number]>([
    ["a foreign origin", {}, { origin: "https://evil.example" }, 403],
    ["an origin that is no URL", {}, { origin: "null" }, 403],
    ["a foreign host on loopback", {}, { host: "evil.example:8080" }, 403],
    ["a host that only begins like ours", {}, { host: "localhost.evil.example" }, 403],
    ["a host that is no name on loopback", {}, { host: "a b" }, 403],
    [
      "an origin that is allowed but for its scheme",
      { ALLOWED_ORIGINS: "https://app.example" },
      { origin: "http://app.example" },
      403,
    ],
    [
      "an origin of another port",
      { ALLOWED_ORIGINS: "https://app.example" },
      { origin: "https://app.example:444" },
      403,
    ],
    [
      "an allowed origin",
      { ALLOWED_ORIGINS: "https://a.example, https://app.example" },
      { origin: "https://app.example" },
      200,
    ],
    [
      "our own origin",
      { PUBLIC_URL: "https://mcp.example/mcp" },
      { origin: "https://mcp.example", host: "mcp.example" },
      200,
    ],
    ["a local page on loopback", {}, { origin: "http://localhost:6274" }, 200],
    ["loopback by name", {}, { host: "localhost:8080" }, 200],
    ["loopback by IPv6", {}, { host: "[::1]:8080" }, 200],
    [
      "a local page beyond loopback",
      { HOST: "0.0.0.0", ALLOW_UNAUTHENTICATED: "true" },
      { origin: "http://localhost:6274" },
      403,
    ],
    [
      "any host beyond loopback",
      { HOST: "0.0.0.0", ALLOW_UNAUTHENTICATED: "true" },
      { host: "mcp.mcp-system.svc" },
      200,
    ],
  ])("%s", async (_what, env, headers, status) => {
    const { app } = await testApp(env);
    expect((await app.inject(rpc("tools/list", {}, headers))).statusCode).toBe(status);
  });
});

describe("what is not the protocol", () => {
  test.each<[string, object, number, string]>([
    ["another path", { url: "/nothing" }, 404, "the MCP endpoint is POST /mcp"],
    ["a path below", { url: "/mcp/../metrics" }, 404, "the MCP endpoint is POST /mcp"],
    ["GET", { url: "/mcp" }, 405, "stateless and takes POST only"],
    ["DELETE", { url: "/mcp", method: "DELETE" }, 405, "stateless and takes POST only"],
    ["text", { payload: "{}", headers: { "content-type": "text/plain", host: "localhost" } }, 415, "application/json"],
    [
      "a form",
      { payload: "a=b", headers: { "content-type": "application/x-www-form-urlencoded", host: "localhost" } },
      415,
      "send application/json",
    ],
    [
      "no JSON",
      { payload: "{", headers: { "content-type": "application/json", host: "localhost" } },
      400,
      "Parse error",
    ],
    [
      "an empty body",
      { payload: "", headers: { "content-type": "application/json", host: "localhost" } },
      400,
      "the body is empty",
    ],
    [
      "too much",
      { payload: `"${"x".repeat(2000)}"`, headers: { "content-type": "application/json", host: "localhost" } },
      413,
      "larger than 1024 bytes",
    ],
    [
      "no acceptable answer",
      { ...rpc("tools/list"), headers: { host: "localhost", "content-type": "application/json", accept: "text/html" } },
      406,
      "Not Acceptable",
    ],
  ])("%s", async (_what, request, status, sentence) => {
    const { app } = await testApp({ REQUEST_BODY_LIMIT_BYTES: "1024" });
    const isPost = "payload" in request;
    const response = await app.inject({
      ...(isPost && { method: "POST", url: "/mcp" }),
      headers: { host: "localhost" },
      ...request,
    });
    expect(response.statusCode).toBe(status);
    expect(response.headers["content-type"]).toMatch(/^application\/json/);
    expect(response.body).toContain(sentence);
    if (status === 405) expect(response.headers.allow).toBe("POST");
  });

  test.each([["null"], ["[]"], ["1"], ['{"jsonrpc":"1.0"}'], ['{"jsonrpc":"2.0","id":1,"method":7}']])(
    "JSON that is no message: %s",
    async (payload) => {
      const { app } = await testApp();
      const response = await app.inject({ ...rpc("x"), payload });
      expect(response.statusCode).toBe(400);
      expect(messageIn(response.body).error?.code).toBeLessThan(0);
    },
  );

  test("answers carry the headers that keep browsers from using them", async () => {
    const { app } = await testApp();
    for (const request of [rpc("tools/list"), { url: "/" }]) {
      const { headers } = await app.inject(request);
      expect(headers).toMatchObject({
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none';frame-ancestors 'none'",
        "referrer-policy": "no-referrer",
      });
    }
  });
});

describe("tools as the protocol shows them", () => {
  test("the list is stable and complete", async () => {
    const { app } = await testApp();
    const { result } = messageIn((await app.inject(rpc("tools/list"))).body);
    const listed = (result?.tools ?? []) as Record<string, Record<string, unknown>>[];
    expect(listed.map(({ name }) => name)).toEqual(tools.map(({ name }) => name));
    expect(listed).toMatchObject([
      { name: "execute_command", annotations: { destructiveHint: true, openWorldHint: true } },
      { name: "file_operation", annotations: { destructiveHint: true, openWorldHint: false } },
      { name: "system_info", annotations: { readOnlyHint: true } },
      ...listed.slice(3),
    ]);
    for (const tool of listed) {
      expect(tool.inputSchema).toMatchObject({ type: "object", additionalProperties: false });
      expect(tool.outputSchema).toMatchObject({ type: "object" });
    }
  });

  test("an unknown tool is a protocol error that names the tools there are", async () => {
    const { app } = await testApp();
    const { error } = messageIn((await app.inject(rpc("tools/call", { name: "rm" }))).body);
    expect(error).toEqual({
      code: -32602,
      message: `Unknown tool "rm"; there are ${tools.map(({ name }) => name).join(", ")}.`,
    });
  });

  test("system_info tells of the server and nothing of its surroundings", async () => {
    const { app, config } = await testApp({ MCP_SERVER_NAME: "mcp-test", REDIS_HOST: "redis.internal.example" });
    const { result } = messageIn((await app.inject(rpc("tools/call", { name: "system_info" }))).body);
    expect(result?.structuredContent).toMatchObject({
      server: { name: "mcp-test", version: "0.1.0" },
      runtime: { node: process.version, platform: process.platform },
      commands: { running: 0, concurrency: 8 },
      limits: { commandTimeoutSeconds: 60 },
    });
    expect(JSON.stringify(result)).not.toContain(config.WORKSPACE_PATH);
    expect(JSON.stringify(result)).not.toContain("redis.internal");
  });
});
