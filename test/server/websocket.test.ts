import { createHash } from "node:crypto";
import { once } from "node:events";
import { connect as connectSocket } from "node:net";
import { describe, expect, onTestFinished, test } from "vitest";
import { z } from "zod";
import { defineTool } from "../../server/tools/define-tool.ts";
import { listening, testApp } from "./running-app.ts";
import { websocketUrl } from "./websocket-client.ts";

const KEY = "mcp_dev_correct-horse-battery-staple";
const withKeys = {
  AUTH_MODE: "api-key",
  API_KEY_HASHES: `sha256:${createHash("sha256").update(KEY).digest("hex")}`,
};

interface Frame {
  id?: number | string | null;
  method?: string;
  result?: Record<string, unknown>;
  error?: { code: number; message: string };
}

/** A WebSocket of this test's own, with what came over it. */
async function open(url: URL) {
  const socket = new WebSocket(url, "mcp");
  const frames: Frame[] = [];
  socket.addEventListener("message", ({ data }) => frames.push(JSON.parse(String(data)) as Frame));
  const closed = new Promise<{ code: number }>((resolve) => socket.addEventListener("close", resolve));
  await new Promise((resolve, reject) => {
    socket.addEventListener("open", resolve, { once: true });
    socket.addEventListener("error", () => reject(new Error("refused")), { once: true });
  });
  onTestFinished(() => socket.close());
  const send = (message: object) => socket.send(JSON.stringify({ jsonrpc: "2.0", ...message }));
  return { socket, frames, closed, send };
}

const initialize = {
  id: 0,
  method: "initialize",
  params: { protocolVersion: "2025-11-25", capabilities: {}, clientInfo: { name: "test", version: "1" } },
};

/** The status line and headers that a handshake is answered with. */
async function handshake(url: URL, headers: Record<string, string>, path = url.pathname): Promise<string> {
  const socket = connectSocket(Number(url.port), url.hostname);
  onTestFinished(() => {
    socket.destroy();
  });
  const lines = Object.entries({
    host: url.host,
    connection: "Upgrade",
    upgrade: "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-protocol": "mcp",
    ...headers,
  })
    .filter(([, value]) => value !== "")
    .map(([name, value]) => `${name}: ${value}\r\n`);
  socket.write(`GET ${path} HTTP/1.1\r\n${lines.join("")}\r\n`);
  let answer = "";
  socket.on("data", (chunk: Buffer) => (answer += chunk.toString("latin1")));
  await expect.poll(() => answer).toContain("\r\n\r\n");
  return answer;
}

describe("the WebSocket handshake", () => {
  test.each<[string, Record<string, string>, Record<string, string>, string]>([
    ["nobody's key", withKeys, {}, "401"],
    ["a wrong key", withKeys, { authorization: "Bearer wrong" }, "401"],
    ["a key", withKeys, { authorization: `Bearer ${KEY}` }, "101"],
    ["a foreign origin", {}, { origin: "https://evil.example" }, "403"],
    ["a foreign host", {}, { host: "evil.example" }, "403"],
    ["no sub-protocol", {}, { "sec-websocket-protocol": "" }, "400"],
    ["another sub-protocol", {}, { "sec-websocket-protocol": "graphql-ws" }, "400"],
    ["several sub-protocols", {}, { "sec-websocket-protocol": "other, mcp" }, "101"],
  ])("with %s is answered as it should be", async (_what, env, headers, status) => {
    const url = websocketUrl(await listening(await testApp(env)));
    const answer = await handshake(url, headers);
    expect(answer).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
    if (status === "101") expect(answer).toMatch(/^sec-websocket-protocol: mcp\r$/im);
  });

  test("on a path that takes none leaves nothing open", async () => {
    const server = await testApp();
    const url = websocketUrl(await listening(server));
    expect(await handshake(url, {}, "/mcp")).toMatch(/^HTTP\/1.1 (404|405) /);
    await handshake(url, {}, "/healthz");
    await handshake(url, {}, "/nothing");
    await expect.poll(() => connectionsOf(server)).toBe(0);
  });

  test("is asked for when a request comes that is none", async () => {
    const { app } = await testApp();
    const response = await app.inject({ url: "/mcp/ws", headers: { host: "localhost" } });
    expect(response.statusCode).toBe(426);
    expect(response.headers.upgrade).toBe("websocket");
  });
});

function connectionsOf({ app }: Awaited<ReturnType<typeof testApp>>): Promise<number> {
  return new Promise((resolve, reject) => {
    app.server.getConnections((error, count) => (error ? reject(error) : resolve(count)));
  });
}

describe("a WebSocket connection", () => {
  test("says what is wrong with a frame, and goes on", async () => {
    const { frames, socket, send } = await open(websocketUrl(await listening(await testApp())));
    socket.send("{");
    socket.send("[]");
    socket.send('{"jsonrpc":"1.0"}');
    send(initialize);
    await expect.poll(() => frames.length).toBe(4);
    expect(frames.map(({ id, error }) => [id, error?.code])).toEqual([
      [null, -32700],
      [null, -32600],
      [null, -32600],
      [0, undefined],
    ]);
  });

  test("ends when a frame is binary, or longer than a request may be", async () => {
    const url = websocketUrl(await listening(await testApp({ REQUEST_BODY_LIMIT_BYTES: "1024" })));
    const binary = await open(url);
    binary.socket.send(new Uint8Array([1, 2, 3]));
    expect((await binary.closed).code).toBe(1003);
    const long = await open(url);
    long.socket.send(`"${"x".repeat(2000)}"`);
    expect((await long.closed).code).toBe(1009);
  });

  test("knows who called, counts what was asked, and is counted itself", async () => {
    const server = await testApp(withKeys);
    const url = websocketUrl(await listening(server));
    const options = { protocols: ["mcp"], headers: { authorization: `Bearer ${KEY}` } };
    const socket = new WebSocket(url, options as unknown as string[]);
    await new Promise((resolve) => socket.addEventListener("open", resolve, { once: true }));
    const metrics = async () => (await server.operator.inject("/metrics")).body;
    expect(await metrics()).toContain("mcp_active_connections 1");
    for (const message of [initialize, { id: 1, method: "tools/call", params: { name: "system_info" } }]) {
      socket.send(JSON.stringify({ jsonrpc: "2.0", ...message }));
    }
    await expect
      .poll(() => server.events())
      .toContainEqual(expect.objectContaining({ event: "tool.called", method: "api-key", outcome: "ok" }));
    await expect.poll(metrics).toContain('mcp_requests_total{method="tools/call",status="200"} 1');
    socket.close();
    await expect.poll(metrics).toContain("mcp_active_connections 0");
  });

  test("does not read from a client that does not read, and loses nothing", async () => {
    const large = defineTool({
      name: "large",
      title: "Large",
      description: "Returns much.",
      input: z.object({}),
      output: z.object({ text: z.string() }),
      annotations: { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false },
      role: "reader",
      run: () => ({ text: "x".repeat(400_000) }),
    });
    const server = await testApp({}, [large]);
    const url = websocketUrl(await listening(server));
    // A client by hand: Node's own reads whether anybody listens or not.
    const socket = connectSocket(Number(url.port), url.hostname);
    onTestFinished(() => {
      socket.destroy();
    });
    socket.pause();
    socket.write(
      `GET /mcp/ws HTTP/1.1\r\nhost: ${url.host}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n` +
        "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: mcp\r\n\r\n",
    );
    await once(server.app.server, "upgrade");
    socket.write(frameOf({ jsonrpc: "2.0", ...initialize }));
    const calls = 100;
    for (let id = 1; id <= calls; id++) {
      socket.write(frameOf({ jsonrpc: "2.0", id, method: "tools/call", params: { name: "large" } }));
    }
    // Forty megabytes are asked for twice over; a fraction of them is made while nobody reads.
    await new Promise((resolve) => setTimeout(resolve, 500));
    const made = server.events().filter(({ event }) => event === "tool.called").length;
    expect(made).toBeLessThan(calls / 2);
    let received = "";
    socket.on("data", (chunk: Buffer) => (received += chunk.toString("latin1")));
    socket.resume();
    const answered = () => received.match(/"structuredContent"/g)?.length ?? 0;
    await expect.poll(answered, { timeout: 10_000 }).toBe(calls);
  });

  test("of a server that ends is closed when its calls are done", async () => {
    const gate = Promise.withResolvers<void>();
    const started = Promise.withResolvers<void>();
    const slow = defineTool({
      name: "slow",
      title: "Slow",
      description: "Takes its time.",
      input: z.object({}),
      output: z.object({}),
      annotations: { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false },
      role: "reader",
      async run() {
        started.resolve();
        await gate.promise;
        return {};
      },
    });
    const server = await testApp({}, [slow]);
    const url = websocketUrl(await listening(server));
    const [busy, idle] = [await open(url), await open(url)];
    busy.send(initialize);
    busy.send({ id: 1, method: "tools/call", params: { name: "slow" } });
    await started.promise;
    await server.mcp.endStreams();
    expect((await idle.closed).code).toBe(1001);
    busy.send({ id: 2, method: "tools/list" });
    await expect.poll(() => busy.frames.find(({ id }) => id === 2)?.error?.message).toContain("shutting down");
    expect(await server.mcp.idle(50)).toBe(false);
    gate.resolve();
    expect((await busy.closed).code).toBe(1001);
    expect(busy.frames.find(({ id }) => id === 1)?.result).toMatchObject({ structuredContent: {} });
    expect(await server.mcp.idle(1000)).toBe(true);
  });
});

/** A text frame as clients send them: masked (RFC 6455, section 5.2). */
function frameOf(message: object): Buffer {
  const payload = Buffer.from(JSON.stringify(message));
  const length =
    payload.length < 126
      ? Buffer.from([0x81, 0x80 | payload.length])
      : Buffer.from([0x81, 0x80 | 126, payload.length >> 8, payload.length & 0xff]);
  // A mask of zeros leaves the payload as it is.
  return Buffer.concat([length, Buffer.alloc(4), payload]);
}
