import { describe, expect, test } from "vitest";
import { messageIn, testApp } from "./running-app.ts";

/* How the 2026-07-28 protocol has headers repeat what is in the body, and what it wants when they do not. */

const VERSION = "2026-07-28";
const meta = {
  "io.modelcontextprotocol/protocolVersion": VERSION,
  "io.modelcontextprotocol/clientCapabilities": {},
};
const call = { method: "tools/call", params: { name: "system_info", arguments: {}, _meta: meta } };
const list = { method: "tools/list", params: { _meta: meta } };
const read = { method: "resources/read", params: { uri: "workspace:///a.txt", _meta: meta } };
const base64 = (text: string) => `=?base64?${Buffer.from(text).toString("base64")}?=`;

interface Message {
  method: string;
  params: Record<string, unknown>;
}

type Headers = Record<string, string>;
type Refusal = [status: number, code: number];

const OK = 200;
const MISMATCH: Refusal = [400, -32020];
const INVALID: Refusal = [400, -32602];

describe("a request whose headers", () => {
  test.each<[string, Message, Headers, typeof OK | Refusal]>([
    ["agree", call, { "mcp-method": "tools/call", "mcp-name": "system_info" }, OK],
    ["agree in capitals", list, { "MCP-METHOD": "tools/list" }, OK],
    ["have spaces around them", call, { "mcp-method": " tools/call ", "mcp-name": "  system_info " }, OK],
    ["name it in Base64", call, { "mcp-method": "tools/call", "mcp-name": base64("system_info") }, OK],
    ["lack the method", list, {}, MISMATCH],
    ["have another method", list, { "mcp-method": "prompts/list" }, MISMATCH],
    ["have the method in capitals", list, { "mcp-method": "TOOLS/LIST" }, MISMATCH],
    ["lack the tool", call, { "mcp-method": "tools/call" }, MISMATCH],
    ["have another tool", call, { "mcp-method": "tools/call", "mcp-name": "file_operation" }, MISMATCH],
    ["have broken Base64", call, { "mcp-method": "tools/call", "mcp-name": "=?base64?c3lz!?=" }, MISMATCH],
    ["lack the resource", read, { "mcp-method": "resources/read" }, MISMATCH],
    ["have another resource", read, { "mcp-method": "resources/read", "mcp-name": "workspace:///b.txt" }, MISMATCH],
    ["lack the version", list, { "mcp-method": "tools/list", "mcp-protocol-version": "" }, MISMATCH],
    ["have another version", list, { "mcp-method": "tools/list", "mcp-protocol-version": "2025-11-25" }, MISMATCH],
  ])("%s", async (_what, message, headers, expected) => {
    const { app } = await testApp();
    const response = await app.inject(request(message, headers));
    const { error } = messageIn(response.body);
    if (expected === OK) expect([response.statusCode, error]).toEqual([200, undefined]);
    else expect([response.statusCode, error?.code]).toEqual(expected);
    expect(JSON.parse(response.body).id).toBe(5);
  });

  test.each<[string, Message, Headers, Refusal]>([
    ["no envelope", { method: "tools/list", params: {} }, {}, INVALID],
    [
      "half an envelope",
      { method: "tools/list", params: { _meta: { "io.modelcontextprotocol/protocolVersion": VERSION } } },
      {},
      INVALID,
    ],
    [
      "a version that does not exist",
      {
        method: "tools/list",
        params: { _meta: { ...meta, "io.modelcontextprotocol/protocolVersion": "2099-01-01" } },
      },
      { "mcp-protocol-version": "2099-01-01" },
      [400, -32022],
    ],
    [
      "a method of older protocols",
      { method: "ping", params: { _meta: meta } },
      { "mcp-method": "ping" },
      [404, -32601],
    ],
    [
      "a subscription as older protocols have it",
      { method: "resources/subscribe", params: { uri: "workspace:///a", _meta: meta } },
      { "mcp-method": "resources/subscribe" },
      [404, -32601],
    ],
  ])("come with %s are refused", async (_what, message, headers, expected) => {
    const { app } = await testApp();
    const response = await app.inject(request(message, { "mcp-method": message.method, ...headers }));
    expect([response.statusCode, messageIn(response.body).error?.code]).toEqual(expected);
  });

  test("are those of a GET get nothing: there is no stream but the one that is asked for", async () => {
    const { app } = await testApp();
    const headers = { host: "localhost", accept: "text/event-stream", "mcp-protocol-version": VERSION };
    expect((await app.inject({ url: "/mcp", headers })).statusCode).toBe(405);
  });

  test("are right is answered with how long the answer keeps, and for whom", async () => {
    const { app } = await testApp();
    const hints = async (method: string, params: Record<string, unknown> = {}) => {
      const name: Headers = typeof params.uri === "string" ? { "mcp-name": params.uri } : {};
      const message = { method, params: { ...params, _meta: meta } };
      const { body } = await app.inject(request(message, { "mcp-method": method, ...name }));
      const { ttlMs, cacheScope } = messageIn(body).result ?? {};
      return [ttlMs, cacheScope];
    };
    await app.inject(
      request(
        {
          method: "tools/call",
          params: { name: "file_operation", arguments: { operation: "write", path: "a", content: "" }, _meta: meta },
        },
        { "mcp-method": "tools/call", "mcp-name": "file_operation" },
      ),
    );
    for (const method of ["tools/list", "prompts/list", "resources/templates/list", "server/discover"]) {
      expect(await hints(method)).toEqual([60_000, "private"]);
    }
    expect(await hints("resources/list")).toEqual([2000, "private"]);
    expect(await hints("resources/read", { uri: "workspace:///a" })).toEqual([2000, "private"]);
  });
});

function request(message: Message, headers: Headers) {
  const sent = Object.entries({ "mcp-protocol-version": VERSION, ...headers }).filter(([, value]) => value !== "");
  return {
    method: "POST" as const,
    url: "/mcp",
    headers: {
      host: "localhost",
      "content-type": "application/json",
      accept: "application/json, text/event-stream",
      ...Object.fromEntries(sent),
    },
    payload: JSON.stringify({ jsonrpc: "2.0", id: 5, ...message }),
  };
}
