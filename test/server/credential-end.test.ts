import { describe, test } from "vitest";
import { z } from "zod";
import { CLOCK_SKEW_SECONDS } from "../../server/auth/entra.ts";
import { createCredentialWatch } from "../../server/mcp/credential-watch.ts";
import { defineTool } from "../../server/tools/define-tool.ts";
import type { AtEnd } from "../infra/cli/server-process.ts";
import { callerNamed } from "./callers.ts";
import { entraAuthority, entraEnvironment } from "./entra-authority.ts";
import { listening, rpc, testApp } from "./running-app.ts";
import { websocketUrl } from "./websocket-client.ts";

/* What becomes of what is open when the token or key ends that it was opened by. */

const LIFETIME_MS = 3_600_000 + (CLOCK_SKEW_SECONDS + 1) * 1000;

/** A server with a call that ends when it is told to. */
async function setUp(onTestFinished: AtEnd) {
  const authority = await entraAuthority();
  onTestFinished(async () => void authority.close());
  const clock = { ms: Date.now() };
  const [begun, gate] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const slow = defineTool({
    name: "slow",
    title: "Slow",
    description: "Takes its time, and says so.",
    input: z.object({}),
    output: z.object({ done: z.boolean() }),
    annotations: { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false },
    role: "reader",
    async run(_input, { client, signal }) {
      await client.progress({ progress: 1 });
      begun.resolve();
      await gate.promise;
      return { done: !signal.aborted };
    },
  });
  const server = await testApp(entraEnvironment(authority), [slow], { now: () => clock.ms }, onTestFinished);
  const url = await listening(server);
  const headers = {
    authorization: `Bearer ${await authority.mint()}`,
    "content-type": "application/json",
    accept: "application/json, text/event-stream",
  };
  const pass = (ms: number) => (clock.ms += ms);
  return { server, url, headers, pass, begun: begun.promise, finish: gate.resolve };
}

const hello = { protocolVersion: "2025-11-25", capabilities: {}, clientInfo: { name: "test", version: "1" } };
const call = { name: "slow", arguments: {}, _meta: { progressToken: 1 } };
const envelope = {
  "io.modelcontextprotocol/protocolVersion": "2026-07-28",
  "io.modelcontextprotocol/clientCapabilities": {},
  "io.modelcontextprotocol/clientInfo": { name: "test", version: "1" },
};

/** The text of an answer that has begun, when it has ended, and whether it has. */
function textOf(response: Response) {
  const state = { ended: false, text: "" };
  const read = async () => {
    for await (const part of response.body?.pipeThrough(new TextDecoderStream()) ?? []) state.text += part;
    state.ended = true;
  };
  return Object.assign(state, { end: read() });
}

describe.concurrent("an event stream", () => {
  test("of the older protocols ends with the token, and its client is asked to sign in", async ({
    expect,
    onTestFinished,
  }) => {
    const { url, headers, pass } = await setUp(onTestFinished);
    const began = await fetch(url, { ...rpc("initialize", hello), headers, body: rpc("initialize", hello).payload });
    const session = { ...headers, "mcp-session-id": began.headers.get("mcp-session-id") ?? "" };
    const stream = textOf(await fetch(url, { headers: session }));
    pass(LIFETIME_MS - 2000);
    await new Promise((resolve) => setTimeout(resolve, 1200));
    expect(stream.ended).toBe(false);
    pass(2000);
    await stream.end;
    const again = await fetch(url, { headers: session });
    expect(again.status).toBe(401);
    expect(again.headers.get("www-authenticate")).toMatch(/^Bearer .*error="invalid_token"/);
  });

  test("of the newer protocol ends with the token, as the protocol ends it", async ({ expect, onTestFinished }) => {
    const { server, url, headers, pass } = await setUp(onTestFinished);
    const uri = "workspace:///a.txt";
    const params = { _meta: envelope, notifications: { resourceSubscriptions: [uri] } };
    const response = await fetch(url, {
      method: "POST",
      headers: { ...headers, "mcp-protocol-version": "2026-07-28", "mcp-method": "subscriptions/listen" },
      body: JSON.stringify({ jsonrpc: "2.0", id: 7, method: "subscriptions/listen", params }),
    });
    expect(response.status).toBe(200);
    const stream = textOf(response);
    await expect.poll(() => stream.text).toContain("notifications/subscriptions/acknowledged");
    pass(LIFETIME_MS);
    await stream.end;
    expect(stream.text).toMatch(/"result":/);
    await expect.poll(() => server.events()).toContainEqual(expect.objectContaining({ event: "credential.ended" }));
  });

  test("that answers a call goes on to its result", async ({ expect, onTestFinished }) => {
    const { url, headers, pass, begun, finish, server } = await setUp(onTestFinished);
    const began = await fetch(url, { ...rpc("initialize", hello), headers, body: rpc("initialize", hello).payload });
    const session = { ...headers, "mcp-session-id": began.headers.get("mcp-session-id") ?? "" };
    // Tells, by its own end, when the server has noticed.
    const idle = textOf(await fetch(url, { headers: session }));
    const answer = textOf(
      await fetch(url, { method: "POST", headers: session, body: rpc("tools/call", call).payload }),
    );
    await begun;
    pass(LIFETIME_MS);
    await idle.end;
    expect(answer.ended).toBe(false);
    finish();
    await answer.end;
    expect(answer.text).toContain('"structuredContent":{"done":true}');
    expect(server.events()).toContainEqual(expect.objectContaining({ event: "tool.called", outcome: "ok" }));
  });
});

describe.concurrent("a WebSocket", () => {
  async function open(onTestFinished: AtEnd, url: URL, headers: Record<string, string>) {
    const socket = new WebSocket(websocketUrl(url), { protocols: ["mcp"], headers } as unknown as string[]);
    onTestFinished(async () => socket.close());
    const frames: { id?: number; result?: object; error?: { message: string } }[] = [];
    socket.addEventListener("message", ({ data }) => frames.push(JSON.parse(String(data))));
    const closed = new Promise<number>((resolve) => socket.addEventListener("close", ({ code }) => resolve(code)));
    await new Promise((resolve) => socket.addEventListener("open", resolve, { once: true }));
    const send = (message: object) => socket.send(JSON.stringify({ jsonrpc: "2.0", ...message }));
    return { frames, closed, send };
  }

  test("that says nothing is closed when its token ends", async ({ expect, onTestFinished }) => {
    const { url, headers, pass } = await setUp(onTestFinished);
    const { closed } = await open(onTestFinished, url, { authorization: headers.authorization });
    pass(LIFETIME_MS);
    expect(await closed).toBe(1008);
  });

  test("with a call takes nothing more, and is closed when that is answered", async ({ expect, onTestFinished }) => {
    const { url, headers, pass, begun, finish } = await setUp(onTestFinished);
    const { frames, closed, send } = await open(onTestFinished, url, { authorization: headers.authorization });
    send({ id: 0, method: "initialize", params: hello });
    send({ id: 1, method: "tools/call", params: call });
    await begun;
    pass(LIFETIME_MS);
    send({ id: 2, method: "tools/list" });
    await expect
      .poll(() => frames.find(({ id }) => id === 2)?.error?.message)
      .toMatch(/credential of this connection has ended/);
    finish();
    expect(await closed).toBe(1008);
    expect(frames.find(({ id }) => id === 1)?.result).toMatchObject({ structuredContent: { done: true } });
  });
});

test.concurrent("what stays open is told once, of its own credential alone, and not after it has left", async ({
  expect,
  onTestFinished,
}) => {
  const ended = new Set<string>();
  const told: string[] = [];
  const watch = createCredentialWatch(({ caller }) => ended.has(caller.subject) === false);
  const [one, two, key] = ["reader", "operator", "key"].map((name) => ({ caller: callerNamed(name) }));
  if (one === undefined || two === undefined || key === undefined) throw new Error("There are three callers.");
  watch(one, () => told.push("one"));
  const leave = watch(one, () => told.push("left"));
  const end = watch(two, () => told.push("two"));
  onTestFinished(async () => end());
  leave();
  ended.add(one.caller.subject);
  await expect.poll(() => told).toEqual(["one"]);
  ended.delete(one.caller.subject);
  // The watch goes on for what comes when nothing was left.
  end();
  watch(key, () => told.push("key"));
  ended.add(key.caller.subject);
  ended.add(two.caller.subject);
  await expect.poll(() => told).toEqual(["one", "key"]);
});
