import { fileURLToPath } from "node:url";
import {
  Client as ModernClient,
  StreamableHTTPClientTransport as ModernHttp,
  type Transport,
} from "@modelcontextprotocol/client";
import { StdioClientTransport as ModernStdio } from "@modelcontextprotocol/client/stdio";
import { Client as OlderClient } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport as OlderStdio } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport as OlderHttp } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { WebSocketClientTransport as OlderWebSocket } from "@modelcontextprotocol/sdk/client/websocket.js";
import type { Transport as OlderTransport } from "@modelcontextprotocol/sdk/shared/transport.js";
import { describe, expect, onTestFinished, test } from "vitest";
import { z } from "zod";
import { defineTool } from "../../server/tools/define-tool.ts";
import { tools as ownTools } from "../../server/tools/index.ts";
import { listening, messageIn, rpc, temporaryDirectory, testApp } from "./running-app.ts";
import { WebSocketClientTransport, websocketUrl } from "./websocket-client.ts";

const info = { name: "test-client", version: "1.0.0" };
const stdioEntry = fileURLToPath(new URL("../../server/stdio.ts", import.meta.url));

/** What these tests need of a client, whichever library it comes from. */
interface Connection {
  listTools(): Promise<{ tools: { name: string }[] }>;
  callTool(params: { name: string; arguments: Record<string, unknown> }): Promise<Record<string, unknown>>;
  protocolVersion(): string | undefined;
}

const modern =
  (mode: "auto" | "legacy" | { pin: string }) =>
  async (transport: Transport): Promise<Connection> => {
    const client = new ModernClient(info, { versionNegotiation: { mode } });
    await client.connect(transport);
    onTestFinished(() => client.close());
    return {
      listTools: () => client.listTools(),
      callTool: async (params) => ({ ...(await client.callTool(params)) }),
      protocolVersion: () => client.getNegotiatedProtocolVersion(),
    };
  };

const older = async (transport: OlderTransport): Promise<Connection> => {
  const client = new OlderClient(info);
  await client.connect(transport);
  onTestFinished(() => client.close());
  return {
    listTools: () => client.listTools(),
    callTool: async (params) => ({ ...(await client.callTool(params)) }),
    protocolVersion: () => (transport instanceof OlderHttp ? transport.protocolVersion : undefined),
  };
};

const overHttp = async () => listening(await testApp());
const overWebSocket = async () => websocketUrl(await overHttp());
const overStdio = async () => ({
  command: process.execPath,
  args: [stdioEntry],
  env: { WORKSPACE_PATH: await temporaryDirectory() },
  stderr: "ignore" as const,
});

const connections: [string, () => Promise<Connection>, string | undefined][] = [
  ["SDK 2, its own choice, HTTP", async () => modern("auto")(new ModernHttp(await overHttp())), "2026-07-28"],
  [
    "SDK 2, 2026-07-28 only, HTTP",
    async () => modern({ pin: "2026-07-28" })(new ModernHttp(await overHttp())),
    "2026-07-28",
  ],
  ["SDK 2, older protocol, HTTP", async () => modern("legacy")(new ModernHttp(await overHttp())), "2025-11-25"],
  ["SDK 1, HTTP", async () => older(new OlderHttp(await overHttp())), "2025-11-25"],
  ["SDK 2, its own choice, stdio", async () => modern("auto")(new ModernStdio(await overStdio())), "2026-07-28"],
  ["SDK 2, older protocol, stdio", async () => modern("legacy")(new ModernStdio(await overStdio())), "2025-11-25"],
  [
    "SDK 2, its own choice, WebSocket",
    async () => modern("auto")(new WebSocketClientTransport(await overWebSocket())),
    "2026-07-28",
  ],
  [
    "SDK 2, older protocol, WebSocket",
    async () => modern("legacy")(new WebSocketClientTransport(await overWebSocket())),
    "2025-11-25",
  ],
  ["SDK 1, WebSocket", async () => older(new OlderWebSocket(await overWebSocket())), undefined],
  ["SDK 1, stdio", async () => older(new OlderStdio(await overStdio())), undefined],
];

describe.each(connections)("%s", (_name, connect, version) => {
  test("lists the tools, calls them, and is told of failures it can mend", async () => {
    const connection = await connect();
    if (version !== undefined) expect(connection.protocolVersion()).toBe(version);
    const { tools } = await connection.listTools();
    expect(tools.map((tool) => tool.name)).toEqual(ownTools.map(({ name }) => name));

    const file = { path: "notes/hello.txt", content: "Grüße\n" };
    expect(
      await connection.callTool({ name: "file_operation", arguments: { operation: "write", ...file } }),
    ).toMatchObject({
      structuredContent: { created: true, size: 8 },
    });
    const ran = await connection.callTool({
      name: "execute_command",
      arguments: { command: "cat notes/hello.txt; exit 3" },
    });
    expect(ran.isError).toBeFalsy();
    expect(ran.structuredContent).toMatchObject({ exitCode: 3, stdout: "Grüße\n", stderr: "" });
    expect(JSON.parse((ran.content as { text: string }[])[0]?.text ?? "")).toEqual(ran.structuredContent);

    expect(
      await connection.callTool({ name: "file_operation", arguments: { operation: "read", path: "../x" } }),
    ).toMatchObject({
      isError: true,
      content: [{ type: "text", text: expect.stringContaining('"../x" leads outside the workspace') }],
    });
    await expect(connection.callTool({ name: "nonsense", arguments: {} })).rejects.toThrow('Unknown tool "nonsense"');
  });
});

describe("what the 2026-07-28 protocol adds", () => {
  const meta = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": info,
  };

  test("the list of tools says how long it may be kept", async () => {
    const { app } = await testApp();
    const headers = { "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/list" };
    const response = await app.inject(rpc("tools/list", { _meta: meta }, headers));
    expect(messageIn(response.body).result).toMatchObject({
      resultType: "complete",
      ttlMs: 60_000,
      cacheScope: "private",
    });
  });

  test("a header that contradicts the body is refused", async () => {
    const { app } = await testApp();
    const headers = { "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call" };
    const response = await app.inject(rpc("tools/list", { _meta: meta }, headers));
    expect(response.statusCode).toBe(400);
    expect(messageIn(response.body).error?.code).toBe(-32020);
  });

  test("a method that does not exist is HTTP 404", async () => {
    const { app } = await testApp();
    const headers = { "mcp-protocol-version": "2026-07-28", "mcp-method": "no/such" };
    const response = await app.inject(rpc("no/such", { _meta: meta }, headers));
    expect([response.statusCode, messageIn(response.body).error?.code]).toEqual([404, -32601]);
  });
});

describe("a call in progress", () => {
  /** A tool that says when it was started and when it was cancelled. */
  function waiting() {
    const started = Promise.withResolvers<void>();
    const cancelled = Promise.withResolvers<void>();
    const tool = defineTool({
      name: "wait",
      title: "Wait",
      description: "Waits until it is cancelled.",
      input: z.object({}),
      output: z.object({}),
      annotations: { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false },
      role: "reader",
      run(_input, { signal }) {
        started.resolve();
        return new Promise((_resolve, reject) => {
          signal.addEventListener("abort", () => {
            cancelled.resolve();
            reject(signal.reason);
          });
        });
      },
    });
    return { tool, started: started.promise, cancelled: cancelled.promise };
  }

  test.each(["auto", "legacy"] as const)("is cancelled when its client goes away (%s)", async (mode) => {
    const { tool, started, cancelled } = waiting();
    const server = await testApp({}, [tool]);
    const client = new ModernClient(info, { versionNegotiation: { mode } });
    await client.connect(new ModernHttp(await listening(server)));
    const call = client.callTool({ name: "wait", arguments: {} }).catch(() => "gone");
    await started;
    await client.close();
    await cancelled;
    expect(await call).toBe("gone");
    await expect
      .poll(() => server.events())
      .toContainEqual(expect.objectContaining({ event: "tool.called", outcome: "cancelled" }));
    expect((await server.operator.inject("/metrics")).body).toContain(
      'mcp_tool_calls_total{tool="wait",status="cancelled"} 1',
    );
  });

  test("that breaks tells its caller nothing of the inside, and the log everything", async () => {
    const tool = defineTool({
      name: "broken",
      title: "Broken",
      description: "Breaks.",
      input: z.object({}),
      output: z.object({}),
      annotations: { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false },
      role: "reader",
      run() {
        throw new Error("ENOENT /secret/place");
      },
    });
    const { app, events } = await testApp({}, [tool]);
    const { result } = messageIn((await app.inject(rpc("tools/call", { name: "broken" }))).body);
    expect(result).toMatchObject({
      isError: true,
      content: [{ text: "broken failed by a fault of its own; the server's log has the details." }],
    });
    expect(events()).toContainEqual(
      expect.objectContaining({
        level: "error",
        event: "tool.broken",
        err: expect.objectContaining({ message: "ENOENT /secret/place" }),
      }),
    );
  });
});
