import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Client as ModernClient, StreamableHTTPClientTransport as ModernHttp } from "@modelcontextprotocol/client";
import { describe, expect, onTestFinished, test } from "vitest";
import { AuditLine } from "../../server/observability/audit-chain.ts";
import { digestOf } from "../../server/services/arguments-digest.ts";
import { authenticate, bearer } from "./callers.ts";
import { listening, messageIn, rpc, temporaryDirectory, testApp } from "./running-app.ts";
import { connect, ways } from "./transports.ts";

/* What the audit trail says of calls and requests, whichever way they come. */

const TRACE = "0af7651916cd43dd8448eb211c80319c";
const OTHER_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736";
const traceparent = (id: string) => `00-${id}-b7ad6b7169203331-01`;

const args = { operation: "list", path: "." };
const call = (meta?: Record<string, unknown>) => ({
  name: "file_operation",
  arguments: args,
  ...(meta && { _meta: meta }),
});
const recorded = (traceId: unknown) =>
  expect.objectContaining({
    event: "tool.called",
    tool: "file_operation",
    outcome: "ok",
    argumentDigest: digestOf(args),
    arguments: args,
    traceId,
  });
const ANY_TRACE = expect.stringMatching(/^[0-9a-f]{32}$/);

describe("a call", () => {
  test.each(ways)("over %s (%s) is on record once, with its caller's trace id", async (transport, era) => {
    const path = join(await temporaryDirectory(), "audit.jsonl");
    const { client } = await connect([transport, era], { env: { AUDIT_FILE: path, AUDIT_STREAM: "false" } });
    await client.callTool(call({ traceparent: traceparent(TRACE) }));
    await client.callTool(call({ traceparent: "00-nonsense" }));
    await client.callTool(call());
    await expect(client.callTool({ name: "no_such", _meta: { traceparent: traceparent(TRACE) } })).rejects.toThrow();
    const lines = async () =>
      (await readFile(path, "utf8"))
        .trim()
        .split("\n")
        .map((line) => AuditLine.parse(JSON.parse(line)));
    await expect.poll(async () => (await lines()).length).toBe(5);
    const [, ...made] = await lines();
    expect(made).toEqual([
      recorded(TRACE),
      recorded(ANY_TRACE),
      recorded(ANY_TRACE),
      expect.objectContaining({ event: "call.denied", reason: "hidden", tool: "no_such", traceId: TRACE }),
    ]);
    expect(new Set(made.slice(0, 3).map((line) => "traceId" in line && line.traceId)).size).toBe(3);
  });

  test.each([
    ["2026-07-28", false],
    ["2026-07-28", true],
    ["2025-11-25", false],
    ["2025-11-25", true],
  ] as const)("over HTTP (%s, past the SDK's dispatch: %j) takes the header's id first", async (era, plainOff) => {
    const server = await testApp({}, undefined, { plainOff });
    const client = new ModernClient(
      { name: "test-client", version: "1.0.0" },
      { versionNegotiation: { mode: era === "2026-07-28" ? { pin: era } : "legacy" } },
    );
    const requestInit = { headers: { traceparent: traceparent(TRACE) } };
    await client.connect(new ModernHttp(await listening(server), { requestInit }));
    onTestFinished(() => client.close());
    await client.callTool(call({ traceparent: traceparent(OTHER_TRACE) }));
    await client.callTool(call());
    expect(server.events().filter(({ event }) => event === "tool.called")).toEqual([recorded(TRACE), recorded(TRACE)]);
  });

  test("in an array of messages has its own trace id", async () => {
    const { app, events } = await testApp();
    const message = (id: number, trace: string) => ({
      ...{ jsonrpc: "2.0", id, method: "tools/call" },
      params: call({ traceparent: traceparent(trace) }),
    });
    await app.inject({ ...rpc(""), payload: JSON.stringify([message(1, TRACE), message(2, OTHER_TRACE)]) });
    const called = events().filter(({ event }) => event === "tool.called");
    expect(called.map(({ traceId }) => traceId).sort()).toEqual([TRACE, OTHER_TRACE].sort());
  });

  test("that is refused or denied is in the audit trail, and not in the log as well", async () => {
    const server = await testApp({ RATE_LIMIT_TOOL_PER_MINUTE: "1" }, undefined, { authenticate });
    const meta = { _meta: { traceparent: traceparent(TRACE) } };
    const ask = (caller: string, name: string, given: object) =>
      server.app.inject(rpc("tools/call", { name, arguments: given, ...meta }, bearer(caller)));
    await ask("reader", "system_info", {});
    const limited = messageIn((await ask("reader", "system_info", {})).body);
    expect(JSON.stringify(limited)).toContain("as many calls of system_info by you");
    await ask("reader", "execute_command", { command: "id" });
    await ask("reader", "file_operation", { operation: "delete", path: "a" });
    expect((await ask("scoped-operator", "execute_command", { command: "id" })).statusCode).toBe(403);
    const told = server.events().filter(({ traceId }) => traceId === TRACE);
    expect(told.map(({ event, reason, tool }) => [event, reason, tool])).toEqual([
      ["tool.called", undefined, "system_info"],
      ["request.refused", "limit:tool:calls", "system_info"],
      ["call.denied", "hidden", "execute_command"],
      ["call.denied", "argument", "file_operation"],
      ["call.denied", "the token's scopes do not reach the tool", undefined],
    ]);
    expect(server.events().filter(({ event }) => event === "tool.refused")).toEqual([]);
  });
});

describe("a request that is refused", () => {
  const traced = { traceparent: traceparent(TRACE) };

  test.each<[string, Record<string, string>, number, string]>([
    ["for want of a caller", {}, 401, "nobody"],
    ["for where it comes from", { origin: "https://evil.example" }, 403, "foreign origin or host"],
  ])("%s is on record with its trace id", async (_why, headers, status, reason) => {
    const { app, events } = await testApp({}, undefined, { authenticate });
    expect((await app.inject(rpc("tools/list", {}, { ...traced, ...headers }))).statusCode).toBe(status);
    expect(events()).toContainEqual(
      expect.objectContaining({ event: "request.refused", stream: "audit", reason, traceId: TRACE }),
    );
  });

  test("for a limit is on record with its trace id", async () => {
    const { app, events } = await testApp({ RATE_LIMIT_PER_MINUTE: "1" }, undefined, { authenticate });
    const ask = () => app.inject(rpc("tools/list", {}, { ...traced, ...bearer("reader") }));
    await ask();
    expect((await ask()).statusCode).toBe(429);
    expect(events()).toContainEqual(
      expect.objectContaining({ stream: "audit", reason: "limit:caller:calls", subject: "the reader", traceId: TRACE }),
    );
  });
});

test("a server that fails closed and cannot write its audit trail runs nothing that changes something", async () => {
  const server = await testApp({ AUDIT_FILE: "/dev/full", AUDIT_FAILURE: "closed" });
  const ask = async (name: string, given: object) =>
    messageIn((await server.app.inject(rpc("tools/call", { name, arguments: given }))).body).result;
  expect(await ask("execute_command", { command: "touch made" })).toMatchObject({
    isError: true,
    content: [{ text: expect.stringMatching(/^execute_command was not run: this server cannot record calls/) }],
  });
  expect(await ask("system_info", {})).not.toHaveProperty("isError");
  expect(await ask("file_operation", args)).toMatchObject({ structuredContent: { entries: [] } });
  expect(server.events()).toContainEqual(
    expect.objectContaining({ level: "error", event: "tool.refused", tool: "execute_command", why: "audit" }),
  );
  expect((await server.operator.inject("/metrics")).body).toContain("mcp_audit_refused_calls_total 1");
});
