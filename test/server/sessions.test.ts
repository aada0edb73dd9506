import { createHash } from "node:crypto";
import { mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, onTestFinished, test } from "vitest";
import { z } from "zod";
import { mintSession, readSession } from "../../server/mcp/session.ts";
import { defineTool } from "../../server/tools/define-tool.ts";
import { listening, messageIn, rpc, temporaryDirectory, testApp } from "./running-app.ts";

/* What the older protocols call a session, on a server that keeps none: requests may go to any replica. */

const KEYS = ["mcp_dev_first-key", "mcp_dev_second-key"] as const;
const withKeys = {
  AUTH_MODE: "api-key",
  API_KEY_HASHES: KEYS.map((key) => `sha256:${createHash("sha256").update(key).digest("hex")}`).join(),
};
const bearer = (key: string) => ({ authorization: `Bearer ${key}` });

const hello = (capabilities: object = {}) => ({
  protocolVersion: "2025-11-25",
  capabilities,
  clientInfo: { name: "test", version: "1" },
});

type Server = Awaited<ReturnType<typeof testApp>>;

async function sessionOf({ app }: Server, capabilities: object = {}, headers: Record<string, string> = {}) {
  const response = await app.inject(rpc("initialize", hello(capabilities), headers));
  return { "mcp-session-id": String(response.headers["mcp-session-id"]), ...headers };
}

/** Two servers on one workspace, as replicas are. */
async function replicas(env: Record<string, string> = {}): Promise<[Server, Server, string]> {
  const WORKSPACE_PATH = await temporaryDirectory();
  return [await testApp({ WORKSPACE_PATH, ...env }), await testApp({ WORKSPACE_PATH, ...env }), WORKSPACE_PATH];
}

interface Event {
  id?: string;
  message?: { id?: string | number; method?: string; params?: Record<string, unknown>; result?: unknown };
}

/** Sends one request over the network and gives its answer's events as they come. */
async function stream(url: URL, init: RequestInit) {
  const response = await fetch(url, init);
  const events: Event[] = [];
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  if (reader === undefined) throw new Error("The answer has no body.");
  onTestFinished(() => void reader.cancel().catch(() => {}));
  const read = async () => {
    let text = "";
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      text += part.value;
      const blocks = text.split("\n\n");
      text = blocks.pop() ?? "";
      for (const block of blocks) {
        const field = (name: string) => new RegExp(`^${name}: ?(.*)$`, "m").exec(block)?.[1];
        const [id, data] = [field("id"), field("data")];
        events.push({ ...(id !== undefined && { id }), ...(data && { message: JSON.parse(data) as object }) });
      }
    }
  };
  const ended = read().catch(() => {});
  return { response, events, ended };
}

const post = (message: object, headers: Record<string, string>): RequestInit => ({
  method: "POST",
  headers: { "content-type": "application/json", accept: "application/json, text/event-stream", ...headers },
  body: JSON.stringify({ jsonrpc: "2.0", ...message }),
});

describe("a session's id", () => {
  test("holds what the client can do, and survives nothing being kept", () => {
    const kinds = fc.record(
      {
        elicitation: fc.constantFrom({}, { form: {} }, { form: {}, url: {} }),
        sampling: fc.constant({}),
        roots: fc.constant({}),
      },
      { requiredKeys: [] },
    );
    const version = fc.constantFrom("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25");
    fc.assert(
      fc.property(
        kinds,
        version,
        fc.dictionary(fc.string(), fc.jsonValue()),
        (capabilities, protocolVersion, other) => {
          const id = mintSession({ protocolVersion, capabilities: { ...other, ...capabilities } });
          // Visible ASCII, as the specification wants it, and short enough for any proxy.
          expect(id).toMatch(/^[\x21-\x7e]{1,400}$/);
          expect(readSession(id)).toMatchObject({ protocolVersion, capabilities });
        },
      ),
    );
  });

  test("is none of ours whatever else it is, and never breaks the server", () => {
    const forged = fc.oneof(
      fc.string(),
      fc.jsonValue().map((value) => `1.${Buffer.from(JSON.stringify(value)).toString("base64url")}`),
      fc.string({ maxLength: 5000 }).map((text) => `1.${text}`),
    );
    fc.assert(fc.property(forged, (id) => readSession(id) === undefined));
  });

  test("that is none of ours is 404, so that its client begins anew", async () => {
    const { app } = await testApp();
    const response = await app.inject(rpc("tools/list", {}, { "mcp-session-id": "0ld-session" }));
    expect(response.statusCode).toBe(404);
    expect(messageIn(response.body).error).toMatchObject({
      code: -32001,
      message: expect.stringContaining("initialize"),
    });
  });

  test("is not needed, nor can it be ended", async () => {
    const server = await testApp();
    expect((await server.app.inject(rpc("tools/list"))).statusCode).toBe(200);
    const headers = { host: "localhost", ...(await sessionOf(server)) };
    const response = await server.app.inject({ method: "DELETE", url: "/mcp", headers });
    expect([response.statusCode, response.headers.allow]).toEqual([405, "GET, POST"]);
  });
});

describe("a question to the user", () => {
  const remove = { name: "file_operation", arguments: { operation: "delete", path: "build", recursive: true } };

  async function asked(env: Record<string, string> = {}, headers: Record<string, string> = {}) {
    const [first, second] = await replicas(env);
    const session = await sessionOf(first, { elicitation: {} }, headers);
    // By the caller itself, whose workspace may be one of its own.
    for (const file of [
      { operation: "mkdir", path: "build" },
      { operation: "write", path: "build/a", content: "" },
    ]) {
      const made = await first.app.inject(rpc("tools/call", { name: "file_operation", arguments: file }, session));
      expect(messageIn(made.body).result).not.toHaveProperty("isError", true);
    }
    const url = await listening(second);
    const call = await stream(url, post({ id: 7, method: "tools/call", params: remove }, session));
    await expect.poll(() => call.events.length).toBe(1);
    const question = call.events[0]?.message;
    expect(question).toMatchObject({
      method: "elicitation/create",
      params: { message: expect.stringContaining("build") },
    });
    const answer = { id: question?.id, result: { action: "accept", content: { confirm: true } } };
    return { first, second, url, session, call, answer };
  }

  test("is asked by a replica that never saw the handshake, and answered there", async () => {
    const { url, session, call, answer } = await asked();
    expect(call.response.headers.get("content-type")).toBe("text/event-stream");
    expect(call.response.headers.get("x-accel-buffering")).toBe("no");
    expect((await fetch(url, post(answer, session))).status).toBe(202);
    await call.ended;
    expect(call.events.at(-1)?.message).toMatchObject({
      id: 7,
      result: { structuredContent: { operation: "delete" } },
    });
  });

  test("is answered by way of another replica, by whom it was put to and nobody else, and once", async () => {
    const { first, session, call, answer } = await asked(withKeys, bearer(KEYS[0]));
    const answered = (headers: Record<string, string>) =>
      first.app.inject({
        method: "POST",
        url: "/mcp",
        headers: { host: "localhost", accept: "application/json, text/event-stream", ...headers },
        payload: { jsonrpc: "2.0", ...answer },
      });
    const foreign = await answered({ ...session, ...bearer(KEYS[1]) });
    expect(foreign.statusCode).toBe(400);
    expect(messageIn(foreign.body).error?.message).toContain("Nobody waits for that answer");
    expect((await answered(session)).statusCode).toBe(202);
    expect((await answered(session)).statusCode).toBe(400);
    await call.ended;
    expect(call.events.at(-1)?.message).toMatchObject({
      id: 7,
      result: { structuredContent: { operation: "delete" } },
    });
    // Nothing is left of it where the replicas share their files.
    await expect.poll(() => readdir(join(first.config.WORKSPACE_PATH, ".answers"))).toEqual([]);
  });

  test("is not taken for answered by another caller, or twice", async () => {
    const { url, session, call, answer } = await asked(withKeys, bearer(KEYS[0]));
    const statusOf = async (answering: Record<string, string>) => (await fetch(url, post(answer, answering))).status;
    expect(await statusOf({ ...session, ...bearer(KEYS[1]) })).toBe(400);
    expect(await statusOf(session)).toBe(202);
    await call.ended;
    expect(await statusOf(session)).toBe(400);
  });

  test("is not asked of a client that did not say that it can be", async () => {
    const [server, , workspace] = await replicas();
    await mkdir(join(workspace, "build"));
    await writeFile(join(workspace, "build/a"), "");
    const { body } = await server.app.inject(rpc("tools/call", remove, await sessionOf(server)));
    expect(messageIn(body).result).toMatchObject({ structuredContent: { operation: "delete" } });
  });
});

describe("the stream of a session", () => {
  const get = (headers: Record<string, string>): RequestInit => ({
    headers: { accept: "text/event-stream", ...headers },
  });

  test("belongs to a session, and is an event stream or nothing", async () => {
    const server = await testApp();
    const session = await sessionOf(server);
    const status = async (headers: Record<string, string>) =>
      (await server.app.inject({ url: "/mcp", headers: { host: "localhost", ...headers } })).statusCode;
    expect(await status({ accept: "text/event-stream" })).toBe(405);
    expect(await status({ accept: "application/json", ...session })).toBe(406);
    expect(await status({ accept: "text/event-stream", "mcp-session-id": "x" })).toBe(404);
    expect(await status({ accept: "text/event-stream", ...session, "mcp-protocol-version": "1999-01-01" })).toBe(400);
  });

  test("goes on at another replica, with what the session subscribed to", async () => {
    const [first, second, workspace] = await replicas();
    const session = await sessionOf(first);
    await writeFile(join(workspace, "a.txt"), "1");
    const url = await listening(first);
    const before = await stream(url, get(session));
    const uri = "workspace:///a.txt";
    expect((await fetch(url, post({ id: 1, method: "resources/subscribe", params: { uri } }, session))).status).toBe(
      200,
    );
    await expect.poll(() => before.events.length).toBe(2);
    const lastEventId = before.events.at(-1)?.id ?? "";
    await first.mcp.endStreams();
    await before.ended;

    const after = await stream(await listening(second), get({ ...session, "last-event-id": lastEventId }));
    await new Promise((resolve) => setTimeout(resolve, 150));
    await writeFile(join(workspace, "a.txt"), "22");
    await expect
      .poll(() => after.events.map(({ message }) => message))
      .toContainEqual({ jsonrpc: "2.0", method: "notifications/resources/updated", params: { uri } });
  });

  test("that answered a call and broke off ends that call, at any replica, and no other stream", async () => {
    const [first, second] = await replicas();
    const session = await sessionOf(first);
    const [calling, url] = [await listening(first), await listening(second)];
    const own = await stream(url, get(session));
    const ids = ["7", 7, 'x"\n'];
    for (const id of ids) {
      const params = { name: "execute_command", arguments: { command: "echo; sleep 60" }, _meta: { progressToken: 1 } };
      const call = await stream(calling, post({ id, method: "tools/call", params }, session));
      await expect.poll(() => call.events.length).toBe(1);
      const { events, ended } = await stream(url, get({ ...session, "last-event-id": call.events[0]?.id ?? "" }));
      await ended;
      expect(events).toMatchObject([
        { message: { id, result: { isError: true, content: [{ text: expect.stringContaining("cut off") }] } } },
      ]);
    }
    expect(own.events.filter(({ message }) => message !== undefined)).toEqual([]);
  });

  test("ends when its client opens another, and survives any Last-Event-ID", async () => {
    const server = await testApp();
    const url = await listening(server);
    const session = await sessionOf(server);
    const first = await stream(url, get(session));
    for (const id of ["", "nonsense", "x".repeat(8000), Buffer.from('["file:///etc/passwd"]').toString("base64url")]) {
      const next = await stream(url, get({ ...session, "last-event-id": id }));
      expect(next.response.status).toBe(200);
    }
    await first.ended;
  });
});

test("a session's log level is remembered, for itself alone", async () => {
  const tool = defineTool({
    name: "speak",
    title: "Speak",
    description: "Logs.",
    input: z.object({}),
    output: z.object({}),
    annotations: { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false },
    role: "reader",
    async run(_input, { client }) {
      for (const level of ["debug", "warning", "error"] as const) await client.log(level, level);
      return {};
    },
  });
  const server = await testApp({}, [tool]);
  const [quiet, loud] = [await sessionOf(server), await sessionOf(server)];
  await server.app.inject(rpc("logging/setLevel", { level: "warning" }, quiet));
  const heard = async (session: Record<string, string>) => {
    const { body } = await server.app.inject(rpc("tools/call", { name: "speak" }, session));
    return [...body.matchAll(/"level":"(\w+)"/g)].map((match) => match[1]);
  };
  expect(await heard(quiet)).toEqual(["warning", "error"]);
  expect(await heard(loud)).toEqual(["debug", "warning", "error"]);
});

describe("answers of the older protocols", () => {
  test("are one JSON body with its length when nothing comes before them", async () => {
    const { app } = await testApp();
    const response = await app.inject(rpc("tools/call", { name: "system_info" }));
    expect(response.headers["content-type"]).toBe("application/json");
    expect(response.headers["content-length"]).toBe(String(Buffer.byteLength(response.body)));
  });

  test("to an array of requests come as one", async () => {
    const { app } = await testApp();
    const batch = [
      { jsonrpc: "2.0", id: "a", method: "tools/list" },
      { jsonrpc: "2.0", method: "notifications/initialized" },
      { jsonrpc: "2.0", id: 2, method: "nonsense" },
      { jsonrpc: "2.0", id: 3, method: "ping" },
    ];
    const response = await app.inject({ ...rpc("x"), payload: JSON.stringify(batch) });
    const answers = (response.json() as { id: unknown }[]).map(({ id }) => id);
    expect(answers.sort()).toEqual([2, 3, "a"]);
    const many = Array.from({ length: 101 }, (_, id) => ({ jsonrpc: "2.0", id, method: "ping" }));
    expect((await app.inject({ ...rpc("x"), payload: JSON.stringify(many) })).statusCode).toBe(400);
    const mixed = [{ jsonrpc: "2.0", id: 1, method: "initialize", params: hello() }, ...batch];
    expect((await app.inject({ ...rpc("x"), payload: JSON.stringify(mixed) })).statusCode).toBe(400);
  });

  test("to notifications are 202 and nothing", async () => {
    const { app } = await testApp();
    const payload = JSON.stringify({ jsonrpc: "2.0", method: "notifications/initialized" });
    const response = await app.inject({ ...rpc("x"), payload });
    expect([response.statusCode, response.body]).toEqual([202, ""]);
  });

  test("to a cancelled call are a stream in which nothing comes", async () => {
    const server = await testApp();
    const url = await listening(server);
    const session = await sessionOf(server);
    const params = { name: "execute_command", arguments: { command: "sleep 60" } };
    const call = stream(url, post({ id: "c", method: "tools/call", params }, session));
    await expect.poll(() => server.services.commands.running).toBe(1);
    const cancel = (headers: Record<string, string>) =>
      fetch(url, post({ method: "notifications/cancelled", params: { requestId: "c" } }, headers));
    // Nobody else's call of the same id.
    await cancel(await sessionOf(server));
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(server.services.commands.running).toBe(1);
    await cancel(session);
    const { events, ended } = await call;
    await ended;
    expect(events).toEqual([]);
    await expect.poll(() => server.services.commands.running).toBe(0);
  });
});
