import { type ChildProcess, spawn } from "node:child_process";
import { createHash, randomUUID } from "node:crypto";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { Client as ModernClient } from "@modelcontextprotocol/client";
import { StdioClientTransport as ModernStdio } from "@modelcontextprotocol/client/stdio";
import { toNodeHandler } from "@modelcontextprotocol/node";
import { Client as OlderClient } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport as OlderStdio } from "@modelcontextprotocol/sdk/client/stdio.js";
import { McpServer as OlderServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import {
  ElicitRequestSchema,
  SubscribeRequestSchema,
  ToolListChangedNotificationSchema,
} from "@modelcontextprotocol/sdk/types.js";
import { createMcpHandler, fromJsonSchema, McpServer } from "@modelcontextprotocol/server";
import { describe, type TestContext, test } from "vitest";
import { CHECKOUT } from "../../../infra/cli/checkout.ts";
import { EXIT } from "../../../infra/cli/cli-error.ts";
import { runProgram } from "../../../infra/cli/program.ts";
import { endMarked, isRunning, sleepMark } from "../../server/running-processes.ts";
import { recordingTerminal } from "./recording-terminal.ts";
import { sharedServer, startAgain, startServer, temporaryDirectory } from "./server-process.ts";

const COMMAND = join(CHECKOUT, "infra/cli/mcp-aks.js");
const KEY = "mcp_dev_correct-horse-battery-staple";
const WITH_KEY = {
  AUTH_MODE: "api-key",
  API_KEY_HASHES: `sha256:${createHash("sha256").update(KEY).digest("hex")}`,
};
const INFO = { name: "test-client", version: "1.0.0" };

/** For tests that do not end it: one that lets everybody in, and one that wants a key. */
const open = sharedServer();
const locked = sharedServer(WITH_KEY);

/** What belongs to one test, of which several run at the same time. */
type Its = Pick<TestContext, "expect" | "onTestFinished">;

interface CallResult {
  readonly isError?: boolean | undefined;
  readonly content: unknown;
  readonly structuredContent?: unknown;
}

/** A client that has started a bridge, whichever library it is of. */
interface BridgedClient {
  readonly version: string | undefined;
  readonly pid: number | null;
  listTools(): Promise<readonly string[]>;
  call(
    name: string,
    args?: Record<string, unknown>,
    options?: { signal?: AbortSignal; onprogress?: (progress: { progress: number }) => void },
  ): Promise<CallResult>;
  close(): Promise<void>;
  /** What the bridge has said to people. */
  said(): string;
}

const SDKS = ["1.x", "2.x"] as const;

async function bridged(
  its: Its,
  sdk: (typeof SDKS)[number],
  url: string,
  args: readonly string[] = [],
  env: Record<string, string> = {},
): Promise<BridgedClient> {
  const parameters = {
    command: process.execPath,
    args: [COMMAND, "bridge", url, ...args],
    env: { PATH: process.env.PATH ?? "", ...env },
    stderr: "pipe" as const,
  };
  let said = "";
  const listen = (transport: { stderr: unknown }) => {
    (transport.stderr as NodeJS.ReadableStream | null)?.on("data", (chunk) => {
      said += String(chunk);
    });
  };
  if (sdk === "2.x") {
    const client = new ModernClient(INFO, { versionNegotiation: { mode: "auto" } });
    const transport = new ModernStdio(parameters);
    listen(transport);
    its.onTestFinished(() => client.close());
    await client.connect(transport);
    return {
      version: client.getNegotiatedProtocolVersion(),
      pid: transport.pid,
      listTools: async () => (await client.listTools()).tools.map(({ name }) => name),
      call: (name, args, options) => client.callTool({ name, arguments: args ?? {} }, options),
      close: () => client.close(),
      said: () => said,
    };
  }
  const { client, transport } = await olderClient(its, parameters);
  listen(transport);
  return {
    version: undefined,
    pid: transport.pid,
    listTools: async () => (await client.listTools()).tools.map(({ name }) => name),
    call: async (name, args, options) =>
      (await client.callTool({ name, arguments: args ?? {} }, undefined, options)) as CallResult,
    close: () => client.close(),
    said: () => said,
  };
}

async function olderClient(
  { onTestFinished }: Its,
  parameters: ConstructorParameters<typeof OlderStdio>[0],
  capabilities = {},
) {
  const client = new OlderClient(INFO, { capabilities });
  const transport = new OlderStdio(parameters);
  onTestFinished(() => client.close());
  await client.connect(transport);
  return { client, transport };
}

async function headerFile({ onTestFinished }: Its, ...lines: string[]): Promise<string> {
  const path = join(await temporaryDirectory(onTestFinished), "server.headers");
  await writeFile(path, lines.join("\n"), { mode: 0o600 });
  return path;
}

const stdoutOf = (result: CallResult) => (result.structuredContent as { stdout?: string } | undefined)?.stdout;

// Most of the time is spent waiting for processes to start and to find one another again.
describe.concurrent.each(SDKS)("a stdio client of SDK %s", (sdk) => {
  test("lists and calls the tools of a server that wants a key", async (its) => {
    const { expect } = its;
    const server = locked();
    const file = await headerFile(its, "# the key of dev", "", `Authorization: Bearer ${KEY}`);
    const client = await bridged(its, sdk, server.url, ["--header-file", file]);
    if (sdk === "2.x") expect(client.version).toBe("2026-07-28");
    expect(await client.listTools()).toContain("execute_command");
    const results = await Promise.all(
      ["one", "two", "three"].map((word) => client.call("execute_command", { command: `echo ${word}` })),
    );
    expect(results.map(stdoutOf)).toEqual(["one\n", "two\n", "three\n"]);
    await expect(client.call("no_such_tool")).rejects.toThrow(/Unknown tool "no_such_tool"/);
    expect(client.said()).not.toContain(KEY);
  });

  test("does not notice that the server was killed and started again, but for the call that it died under", async (its) => {
    const { expect } = its;
    const server = await startServer({}, undefined, its.onTestFinished);
    const client = await bridged(its, sdk, server.url);
    const mark = sleepMark();
    // Where a command outlives its server, too.
    its.onTestFinished(() => endMarked(mark));
    const killed = client.call("execute_command", { command: `sleep ${mark}` }).then(String, String);
    await expect.poll(() => isRunning(mark)).toBe(true);
    await server.stop("SIGKILL");
    expect(await killed).toMatch(/broke.*execute_command may have done its work, so it was not called again/);
    const calls = [
      client.listTools(),
      client.call("execute_command", { command: "echo after" }),
      client.call("system_info"),
    ] as const;
    await startAgain(server, its.onTestFinished);
    const [tools, after] = await Promise.all(calls);
    expect(tools).toContain("system_info");
    expect(stdoutOf(after)).toBe("after\n");
    await expect.poll(() => client.said()).toMatch(/; trying again\.[\s\S]*The server answers again/);
  });

  test("cancels a call on the server", async (its) => {
    const { expect } = its;
    const server = open();
    const client = await bridged(its, sdk, server.url);
    const cancel = new AbortController();
    const mark = sleepMark();
    const call = client.call("execute_command", { command: `sleep ${mark}` }, { signal: cancel.signal });
    const outcome = call.then(
      () => "answered",
      () => "cancelled",
    );
    await expect.poll(() => isRunning(mark)).toBe(true);
    cancel.abort();
    expect(await outcome).toBe("cancelled");
    await expect.poll(() => isRunning(mark)).toBe(false);
    expect(stdoutOf(await client.call("execute_command", { command: "echo on" }))).toBe("on\n");
  });

  test("ends its bridge by going away", async (its) => {
    const { expect } = its;
    const server = open();
    const client = await bridged(its, sdk, server.url);
    const { pid } = client;
    await client.close();
    await expect.poll(() => isAlive(pid ?? 0)).toBe(false);
  });

  test("reads in the answer that the key is wrong", async (its) => {
    const { expect } = its;
    const server = locked();
    const file = await headerFile(its, "Authorization: Bearer not-the-key");
    await expect(bridged(its, sdk, server.url, ["--header-file", file])).rejects.toThrow(
      /does not take the key \(HTTP 401\); see to the header Authorization in --header/,
    );
  });
});

/** The bridge as a process, spoken to line by line. */
async function raw(
  { expect, onTestFinished }: Its,
  url: string,
  args: readonly string[] = [],
  env: Record<string, string> = {},
) {
  const child: ChildProcess = spawn(process.execPath, [COMMAND, "bridge", url, ...args], {
    env: { PATH: process.env.PATH, ...env },
    stdio: "pipe",
  });
  onTestFinished(() => {
    child.kill("SIGKILL");
  });
  let out = "";
  let err = "";
  child.stdout?.setEncoding("utf8").on("data", (text: string) => {
    out += text;
  });
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    err += text;
  });
  const exit = once(child, "close").then(([code]) => code as number | null);
  const messages = () =>
    out
      .split("\n")
      .filter(Boolean)
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  return {
    child,
    exit,
    messages,
    said: () => err,
    send: (message: object) => child.stdin?.write(`${JSON.stringify(message)}\n`),
    /** Resolves with the answer to the request of that id. */
    async answer(id: number | string) {
      await expect.poll(() => messages().some((message) => message.id === id)).toBe(true);
      return messages().find((message) => message.id === id) as { result?: object; error?: { message: string } };
    },
  };
}

const META = {
  "io.modelcontextprotocol/protocolVersion": "2026-07-28",
  "io.modelcontextprotocol/clientCapabilities": {},
  "io.modelcontextprotocol/clientInfo": INFO,
};
const modern = (id: number, method: string, params: object = {}) => ({
  jsonrpc: "2.0",
  id,
  method,
  params: { ...params, _meta: META },
});

describe.concurrent("a subscription", () => {
  test("outlives the server, and says after that what it is about may have changed", async (its) => {
    const { expect } = its;
    const server = await startServer({}, undefined, its.onTestFinished);
    const bridge = await raw(its, server.url);
    const uri = "workspace:///notes.txt";
    bridge.send(modern(7, "subscriptions/listen", { notifications: { resourceSubscriptions: [uri] } }));
    const heard = (method: string) => bridge.messages().filter((message) => message.method === method);
    await expect.poll(() => heard("notifications/subscriptions/acknowledged")).toHaveLength(1);
    await server.stop("SIGKILL");
    await startAgain(server, its.onTestFinished);
    await expect
      .poll(() => heard("notifications/resources/updated"))
      .toMatchObject([{ params: { uri, _meta: { "io.modelcontextprotocol/subscriptionId": 7 } } }]);
    expect(heard("notifications/subscriptions/acknowledged")).toHaveLength(1);
    bridge.child.stdin?.end();
    expect(await bridge.exit).toBe(0);
  });
});

/** A server of this test's own on HTTP. */
async function serve(
  { onTestFinished }: Its,
  handle: (request: IncomingMessage, response: ServerResponse) => void,
  port = 0,
) {
  const server = createServer(handle).listen(port, "127.0.0.1");
  await once(server, "listening");
  const stop = async () => {
    server.closeAllConnections();
    if (server.listening) await new Promise((resolve) => server.close(resolve));
  };
  onTestFinished(stop);
  const address = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${address.port}/mcp`, port: address.port, stop };
}

/**
 * A server of the older era with sessions in memory, as most are, which are gone when it starts again. `heard` is the
 * progress that its client has been told of.
 */
function sessionful(seen: string[], heard: readonly number[] = []) {
  const sessions = new Map<string, StreamableHTTPServerTransport>();
  return async (request: IncomingMessage, response: ServerResponse) => {
    const id = request.headers["mcp-session-id"];
    const known = typeof id === "string" ? sessions.get(id) : undefined;
    if (known) return known.handleRequest(request, response);
    if (id !== undefined) return void response.writeHead(404).end();
    const transport = new StreamableHTTPServerTransport({
      sessionIdGenerator: randomUUID,
      onsessioninitialized: (session) => {
        sessions.set(session, transport);
      },
    });
    const server = new OlderServer(
      { name: "sessionful", version: "1" },
      { capabilities: { logging: {}, resources: { subscribe: true } } },
    );
    server.registerTool("ask", { description: "asks back" }, async (extra) => {
      const { content } = await server.server.elicitInput(
        { message: "Name?", requestedSchema: { type: "object", properties: { name: { type: "string" } } } },
        { relatedRequestId: extra.requestId },
      );
      return { content: [{ type: "text", text: `Hello ${content?.name}` }] };
    });
    server.registerTool("count", { description: "reports progress" }, async (extra) => {
      const token = extra._meta?.progressToken;
      for (const progress of [1, 2, 3]) {
        if (token === undefined) break;
        const params = { progressToken: token, progress, total: 3 };
        await extra.sendNotification({ method: "notifications/progress", params });
        // The 1.x client drops progress that comes together with the result.
        while (!heard.includes(progress)) await setTimeout(5);
      }
      return { content: [{ type: "text", text: "counted" }] };
    });
    server.server.setRequestHandler(SubscribeRequestSchema, ({ params }) => {
      seen.push(`subscribe ${params.uri}`);
      return {};
    });
    server.server.oninitialized = () => {
      seen.push("initialized");
      void server.server.sendLoggingMessage({ level: "info", data: "a stream is open" });
    };
    await server.connect(transport);
    await transport.handleRequest(request, response);
  };
}

describe.concurrent("a server of the older era with sessions", () => {
  const capabilities = { elicitation: {} };
  const start = async (its: Its) => {
    const seen: string[] = [];
    const heard: number[] = [];
    const server = await serve(its, sessionful(seen, heard));
    const { client } = await olderClient(
      its,
      { command: process.execPath, args: [COMMAND, "bridge", server.url], stderr: "ignore" },
      capabilities,
    );
    client.setRequestHandler(ElicitRequestSchema, () => ({ action: "accept", content: { name: "Ada" } }));
    return { seen, heard, server, client };
  };
  const hello = { content: [{ type: "text", text: "Hello Ada" }] };

  test("can ask the client back, and report progress", async (its) => {
    const { expect } = its;
    const { client, heard } = await start(its);
    expect(await client.callTool({ name: "ask" })).toMatchObject(hello);
    const onprogress = ({ progress }: { progress: number }) => void heard.push(progress);
    await client.callTool({ name: "count" }, undefined, { onprogress });
    expect(heard).toEqual([1, 2, 3]);
  });

  test("that has forgotten the session gets it anew, with what the client had set up", async (its) => {
    const { expect } = its;
    const { seen, server, client } = await start(its);
    await client.subscribeResource({ uri: "test://one" });
    await client.subscribeResource({ uri: "test://two" });
    await client.unsubscribeResource({ uri: "test://one" }).catch(() => {});
    let changed = 0;
    client.setNotificationHandler(ToolListChangedNotificationSchema, () => {
      changed++;
    });
    expect(seen).toEqual(["initialized", "subscribe test://one", "subscribe test://two"]);
    await server.stop();
    const after: string[] = [];
    await serve(its, sessionful(after), server.port);
    expect(await client.callTool({ name: "ask" })).toMatchObject(hello);
    expect(after).toEqual(["initialized", "subscribe test://one", "subscribe test://two"]);
    expect(changed).toBe(1);
  });
});

const region: object = { type: "string", "x-mcp-header": "Region" };
const placeSchema = {
  type: "object",
  properties: { place: { type: "object", properties: { region } } },
} as const;

describe.concurrent("arguments that a server wants as headers", () => {
  test("are sent as headers, whether the client has listed the tools or not", async (its) => {
    const { expect } = its;
    const handler = toNodeHandler(
      createMcpHandler(() => {
        const server = new McpServer({ name: "regional", version: "1" });
        server.registerTool(
          "where",
          {
            inputSchema: fromJsonSchema<{ place: { region: string } }>(placeSchema),
          },
          async ({ place }) => ({ content: [{ type: "text", text: place.region }] }),
        );
        return server;
      }),
    );
    const headers: unknown[] = [];
    const { url } = await serve(its, (request, response) => {
      headers.push(request.headers["mcp-param-region"]);
      void handler(request, response);
    });
    const bridge = await raw(its, url);
    const call = (id: number, region: string) =>
      bridge.send(modern(id, "tools/call", { name: "where", arguments: { place: { region } } }));
    call(1, "north");
    expect(await bridge.answer(1)).toMatchObject({ result: { content: [{ text: "north" }] } });
    call(2, "Ålesund ");
    expect(await bridge.answer(2)).toMatchObject({ result: { content: [{ text: "Ålesund " }] } });
    expect(headers).toEqual([undefined, undefined, "north", "=?base64?w4VsZXN1bmQg?="]);
  });
});

describe.concurrent("what a server answers", () => {
  const initialize = {
    jsonrpc: "2.0",
    id: 1,
    method: "initialize",
    params: { protocolVersion: "2025-06-18", capabilities: {}, clientInfo: INFO },
  };

  test("that is no answer of the protocol's becomes one to the client", async (its) => {
    const { expect } = its;
    const html = { "content-type": "text/html" };
    const answers: [number, Record<string, string>, string, RegExp][] = [
      [404, html, "<h1>no</h1>", /no MCP endpoint at this URL \(HTTP 404\)/],
      [403, { "content-type": "text/plain" }, "Forbidden zone", /answered HTTP 403: Forbidden zone/],
      [302, { location: "https://login.example.com/" }, "", /Redirect to https:\/\/login\.example\.com\//],
      [
        400,
        { "content-type": "application/json" },
        '{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Not like this"}}',
        /^Not like this$/,
      ],
    ];
    let at = 0;
    const { url } = await serve(its, (_request, response) => {
      const [status, headers, body] = answers[at] ?? [500, {}, ""];
      response.writeHead(status, headers).end(body);
    });
    const bridge = await raw(its, url);
    for (const [, , , message] of answers) {
      bridge.send({ ...initialize, id: at });
      expect((await bridge.answer(at)).error?.message).toMatch(message);
      at++;
    }
  });

  test("that it is overloaded is waited out as long as it asks for", async (its) => {
    const { expect } = its;
    const times: number[] = [];
    const { url } = await serve(its, (_request, response) => {
      times.push(performance.now());
      if (times.length === 1) response.writeHead(503, { "retry-after": "1" }).end();
      else {
        const result = { protocolVersion: "2025-06-18", capabilities: {}, serverInfo: INFO };
        response.writeHead(200, { "content-type": "application/json" });
        response.end(JSON.stringify({ jsonrpc: "2.0", id: 1, result }));
      }
    });
    const bridge = await raw(its, url);
    bridge.send(initialize);
    expect(await bridge.answer(1)).toMatchObject({ result: { protocolVersion: "2025-06-18" } });
    expect((times[1] ?? 0) - (times[0] ?? 0)).toBeGreaterThan(950);
  });

  test("nothing for as long as the patience lasts", async (its) => {
    const { expect } = its;
    const { url, stop } = await serve(its, () => {});
    await stop();
    const bridge = await raw(its, url, ["--patience", "1"]);
    bridge.send(initialize);
    expect((await bridge.answer(1)).error?.message).toMatch(/cannot be reached \(ECONNREFUSED\)/);
  });

  test("that the key is wrong is taken back once the header file has the new key", async (its) => {
    const { expect } = its;
    const server = locked();
    const file = await headerFile(its, "Authorization: Bearer the-old-key");
    const bridge = await raw(its, server.url, ["--header-file", file]);
    bridge.send(initialize);
    expect((await bridge.answer(1)).error?.message).toContain("HTTP 401");
    await writeFile(file, `Authorization: Bearer ${KEY}\n`);
    bridge.send({ ...initialize, id: 2 });
    expect(await bridge.answer(2)).toHaveProperty("result");
    expect(bridge.said()).not.toMatch(new RegExp(`${KEY}|the-old-key`));
  });
});

describe.concurrent("what a client sends", () => {
  test("lines that are no messages are dropped, and ids that are under way refused", async (its) => {
    const { expect } = its;
    const server = open();
    const bridge = await raw(its, server.url);
    bridge.child.stdin?.write("not json\n\n[]\n");
    const call = modern(1, "tools/call", { name: "execute_command", arguments: { command: "sleep 0.5" } });
    bridge.send(call);
    bridge.send(call);
    await expect.poll(bridge.messages).toHaveLength(2);
    expect(bridge.messages()).toMatchObject([
      { id: 1, error: { code: -32600 } },
      { id: 1, result: {} },
    ]);
  });
});

describe.concurrent("the key", () => {
  test.for<[string, string[], Record<string, string>]>([
    ["--key-env", ["--key-env", "DEV_KEY"], { DEV_KEY: KEY }],
    // biome-ignore lint/suspicious/noTemplateCurlyInString: as it stands in a client's configuration
    ["--header with a variable", ["--header", "Authorization:Bearer ${DEV_KEY}"], { DEV_KEY: KEY }],
    ["--header", ["--header", `Authorization: Bearer ${KEY}`], {}],
  ])("comes by %s", async ([, args, env], its) => {
    const { expect } = its;
    const server = locked();
    const bridge = await raw(its, server.url, args, env);
    bridge.send(modern(1, "tools/list"));
    expect(await bridge.answer(1)).toHaveProperty("result.tools");
    expect(bridge.said()).not.toContain(KEY);
  });
});

describe.concurrent("a command line that cannot be", () => {
  const secret = "hush-hush";
  test.for<[string[], RegExp]>([
    [["ftp://mcp.example.com"], /"ftp:\/\/mcp\.example\.com" is no http:\/\/ or https:\/\/ URL/],
    [[`https://me:${secret}@mcp.example.com/mcp`], /The URL has a user or a password in it/],
    [["https://x.example/mcp", "--header", secret], /--header is no header; write it as NAME:VALUE/],
    [["https://x.example/mcp", "--header", `a b:${secret}`], /no name of a header before its colon/],
    [["https://x.example/mcp", "--header", `x-a:${secret}\u0007`], /a value with characters that no header may have/],
    [["https://x.example/mcp", "--header", `Host:${secret}`], /names host, which the bridge sets itself/],
    [["https://x.example/mcp", "--header", `a:${secret}`, "--header", `A:${secret}`], /gives the header a a second/],
    [["https://x.example/mcp", "--key-env", "NO_SUCH"], /--key-env reads the environment variable "NO_SUCH"/],
    [["https://x.example/mcp", "--header-file", "/no/file"], /--header-file \/no\/file cannot be read \(ENOENT\)/],
    [["http://x.example/mcp", "--header", `a:${secret}`], /plain http on another machine.*--allow-http/],
    [["https://x.example/mcp", "--patience", "long"], /give whole seconds/],
    [[], /missing required argument 'url'/],
  ])("%j", async ([args, message], { expect }) => {
    const terminal = recordingTerminal();
    expect(await runProgram(["bridge", ...args], terminal)).toBe(EXIT.usage);
    expect(terminal.text()).toMatch(message);
    expect(terminal.text()).not.toContain(secret);
    expect(terminal.stdout()).toBe("");
  });
});

/** Whether the process runs. */
function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
