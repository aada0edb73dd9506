import { PassThrough } from "node:stream";
import { fileURLToPath } from "node:url";
import { Client as ModernClient, StreamableHTTPClientTransport as ModernHttp } from "@modelcontextprotocol/client";
import { StdioServerTransport } from "@modelcontextprotocol/server/stdio";
import { pino } from "pino";
import { describe, expect, onTestFinished, test } from "vitest";
import { serveConnection } from "../../server/mcp/connection.ts";
import { mintSession, sessionOf } from "../../server/mcp/session.ts";
import { createSessionMemory } from "../../server/mcp/session-memory.ts";
import { createShares, shareOf } from "../../server/mcp/shares.ts";
import { createMetrics } from "../../server/observability/metrics.ts";
import { createChildren } from "../../server/proxy/children.ts";
import { createProxyProtocol } from "../../server/proxy/proxy-protocol.ts";
import { createFileWatch } from "../../server/services/watch.ts";
import { openWorkspace } from "../../server/services/workspace.ts";
import { workspaceName } from "../../server/services/workspaces.ts";
import { callerKey } from "../../server/tools/define-tool.ts";
import { authenticate, bearer, callerNamed } from "./callers.ts";
import { PipeClientTransport } from "./pipe-client.ts";
import { listening, messageIn, type TestApp, temporaryDirectory, testApp } from "./running-app.ts";

/*
 * Two callers at one server: nothing of the one is the other's to read, to change, to end, to use up or to hear of.
 * They are the same subject in two tenants, two subjects in one, and a person and a key of one name.
 */

const PAIRS = [
  ["one", "two"],
  ["one", "neighbour"],
  ["one", "key"],
] as const;
const ERAS = ["2025-11-25", "2026-07-28"] as const;
type Era = (typeof ERAS)[number];

const META = "io.modelcontextprotocol/";
const NAMED: Readonly<Record<string, string>> = {
  "tools/call": "name",
  "prompts/get": "name",
  "resources/read": "uri",
};

interface Answer {
  readonly result?: Record<string, unknown> & { isError?: boolean; structuredContent?: Record<string, unknown> };
  readonly error?: { code: number; message: string };
}

/** What one caller gets for a request. */
async function ask(
  { app }: TestApp,
  caller: string,
  method: string,
  params: Record<string, unknown> = {},
  { era = "2025-11-25", headers = {}, id = 1 }: { era?: Era; headers?: Record<string, string>; id?: unknown } = {},
): Promise<Answer> {
  const envelope = {
    [`${META}protocolVersion`]: era,
    [`${META}clientCapabilities`]: {},
    [`${META}clientInfo`]: { name: "test", version: "1" },
  };
  const modern = era === "2026-07-28";
  const named = NAMED[method];
  const response = await app.inject({
    method: "POST",
    url: "/mcp",
    headers: {
      host: "127.0.0.1",
      "content-type": "application/json",
      accept: "application/json, text/event-stream",
      "mcp-protocol-version": era,
      ...(modern && { "mcp-method": method, ...(named && { "mcp-name": String(params[named]) }) }),
      ...bearer(caller),
      ...headers,
    },
    payload: JSON.stringify({ jsonrpc: "2.0", id, method, params: modern ? { ...params, _meta: envelope } : params }),
  });
  return messageIn(response.body) as Answer;
}

const call = (server: TestApp, caller: string, name: string, args: object = {}, era?: Era) =>
  ask(server, caller, "tools/call", { name, arguments: args }, era ? { era } : {});
const file = (server: TestApp, caller: string, operation: string, path: string, rest: object = {}, era?: Era) =>
  call(server, caller, "file_operation", { operation, path, ...rest }, era);
const write = async (server: TestApp, caller: string, path: string, content: string) =>
  expect((await file(server, caller, "write", path, { content })).result).not.toHaveProperty("isError");

const serving = (env: Record<string, string> = {}) => testApp(env, undefined, { authenticate });

const SECRET = "nobody-else-reads-this";

test("what tells callers apart differs by tenant, by subject and by method, and not by token", () => {
  const names = ["one", "two", "neighbour", "key"].map(callerNamed);
  expect(new Set(names.map(callerKey)).size).toBe(4);
  expect(new Set(names.map(workspaceName)).size).toBe(4);
  const one = callerNamed("one");
  expect(callerKey({ ...one, client: "another", role: "reader", tenant: one.tenant?.toUpperCase() ?? "" })).toBe(
    callerKey(one),
  );
  // No subject can be written such that it is another's key.
  expect(callerKey({ ...one, subject: `${one.subject}","x` })).not.toBe(callerKey(one));
});

describe.each(PAIRS)("%s and %s", (mine, other) => {
  test.each(ERAS)("have files of their own, by every operation, over %s", async (era) => {
    const server = await serving();
    await write(server, mine, "private/secret.txt", SECRET);
    await write(server, other, "own.txt", "own");
    const root = `${server.config.WORKSPACE_PATH}/${workspaceName(callerNamed(mine))}`;
    const paths = [
      "private/secret.txt",
      `${root}/private/secret.txt`,
      `../${root.split("/").at(-1)}/private/secret.txt`,
    ];
    for (const path of paths) {
      for (const [operation, rest] of [
        ["read", {}],
        ["stat", {}],
        ["append", { content: "x" }],
        ["copy", { destination: "taken" }],
        ["move", { destination: "taken" }],
        ["delete", {}],
      ] as const) {
        // Its own file of that name is what an append makes.
        if (operation === "append" && path === paths[0]) continue;
        const { result } = await file(server, other, operation, path, rest, era);
        expect(result, `${operation} ${path}`).toMatchObject({ isError: true });
        expect(JSON.stringify(result)).toMatch(/does not exist|leads outside/);
      }
    }
    const seen = [
      await file(server, other, "list", ".", { recursive: true }, era),
      await file(server, other, "search", ".", { text: SECRET }, era),
      await call(server, other, "system_info", {}, era),
    ];
    expect(JSON.stringify(seen)).not.toMatch(/secret\.txt|private\//);
    expect(seen[0]?.result?.structuredContent?.entries).toMatchObject([{ path: "own.txt" }]);
    await write(server, other, "private/secret.txt", "mine now?");
    expect((await file(server, mine, "read", "private/secret.txt", {}, era)).result?.structuredContent?.content).toBe(
      SECRET,
    );
  });

  test.each(ERAS)("have resources, prompts and completions of their own, over %s", async (era) => {
    const server = await serving();
    await write(server, mine, "private/secret.txt", SECRET);
    await write(server, other, "own.txt", "own");
    const uri = "workspace:///private/secret.txt";
    const read = await ask(server, other, "resources/read", { uri }, { era });
    expect(read.error?.message).toContain("does not exist");
    const listed = await ask(server, other, "resources/list", {}, { era });
    expect(JSON.stringify(listed)).not.toMatch(/secret\.txt|private\//);
    expect(listed.result?.resources).toMatchObject([{ name: "own.txt" }]);
    for (const ref of [
      { type: "ref/resource", uri: "workspace:///{+path}" },
      { type: "ref/prompt", name: "diagnose_pod_log" },
    ]) {
      const argument = { name: ref.type === "ref/prompt" ? "log" : "path", value: "" };
      const values = async (who: string) =>
        (await ask(server, who, "completion/complete", { ref, argument }, { era })).result?.completion;
      expect(await values(other)).toMatchObject({ values: ["own.txt"] });
      expect(await values(mine)).toMatchObject({ values: ["private/"] });
    }
    const prompt = { name: "diagnose_pod_log", arguments: { log: "private/secret.txt" } };
    expect((await ask(server, other, "prompts/get", prompt, { era })).error?.message).toContain("does not exist");
    expect(JSON.stringify(await ask(server, mine, "prompts/get", prompt, { era }))).toContain(SECRET);
  });

  test("run commands in their own workspaces, each with the limits of its caller", async ({ skip }) => {
    const server = await serving();
    await write(server, mine, "secret.txt", SECRET);
    const root = `${server.config.WORKSPACE_PATH}/${workspaceName(callerNamed(mine))}`;
    const run = async (who: string, command: string) =>
      (await call(server, who, "execute_command", { command })).result?.structuredContent as {
        exitCode: number;
        stdout: string;
        stderr: string;
      };
    expect(await run(mine, "cat secret.txt")).toMatchObject({ stdout: SECRET });
    expect(await run(other, "cat secret.txt")).toMatchObject({ exitCode: 1, stdout: "" });
    expect((await run(other, "pwd; ls -A")).stdout).not.toContain("secret");
    const { facts } = await server.services.commands.isolation;
    if (!facts.namespaces && !facts.landlock) skip();
    const outside = await run(
      other,
      `cat ${root}/secret.txt; ls ${root}; find ${server.config.WORKSPACE_PATH} -name secret.txt`,
    );
    expect(outside.stdout).not.toContain("secret");
  });

  test("do not see or end each other's commands", async ({ skip }) => {
    const server = await serving();
    const { facts } = await server.services.commands.isolation;
    if (!facts.ownProc) skip();
    const marker = "3141.59";
    const sleeping = call(server, mine, "execute_command", { command: `echo up > up; sleep ${marker}`, timeout: 20 });
    await expect
      .poll(async () => (await file(server, mine, "stat", "up")).result?.isError, { timeout: 10_000 })
      .toBeUndefined();
    const script = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done; kill -9 -1 2>/dev/null; exit 0";
    const { result } = await call(server, other, "execute_command", { command: script });
    expect(JSON.stringify(result?.structuredContent?.stdout)).not.toContain(`sleep ${marker}`);
    expect(server.services.commands.running).toBe(1);
    server.services.commands.stopAll();
    expect((await sleeping).result?.isError).toBe(true);
  });

  test("find long results of their own only", async () => {
    const server = await serving({ RESULT_LIMIT_BYTES: "65536" });
    await write(server, mine, "long.txt", SECRET.repeat(4000));
    const kept = (await file(server, mine, "read", "long.txt")).result;
    const link = ((kept?.content ?? []) as { type: string; uri?: string; name?: string }[]).find(
      ({ type }) => type === "resource_link",
    );
    expect(link?.uri).toMatch(/^workspace:\/\/\/\.results\//);
    const uri = link?.uri ?? "";
    expect((await ask(server, mine, "resources/read", { uri })).result).toBeDefined();
    expect((await ask(server, other, "resources/read", { uri })).error?.message).toContain("does not exist");
    expect((await file(server, other, "read", link?.name ?? "")).result?.isError).toBe(true);
    expect((await file(server, other, "list", ".results")).result?.isError).toBe(true);
  });

  test("hear of changes to their own files only, with one session's id for both", async () => {
    const server = await serving();
    const url = await listening(server);
    const session = { "mcp-session-id": mintSession({ protocolVersion: "2025-11-25", capabilities: {} }) };
    const uri = "workspace:///shared-name.txt";
    const streams = [];
    for (const who of [mine, other]) {
      await write(server, who, "shared-name.txt", "1");
      streams.push(await events(url, { accept: "text/event-stream", ...session, ...bearer(who) }));
      expect((await ask(server, who, "resources/subscribe", { uri }, { headers: session })).result).toEqual({});
    }
    const [minesStream, othersStream] = streams;
    // The first look at both files.
    await new Promise((resolve) => setTimeout(resolve, 250));
    await write(server, mine, "shared-name.txt", "2, longer");
    await expect.poll(() => minesStream?.updates()).toEqual([uri]);
    await new Promise((resolve) => setTimeout(resolve, 250));
    expect(othersStream?.updates()).toEqual([]);
    // The stream that the other opened with this id did not end this one, nor does the other's end.
    othersStream?.close();
    await ask(server, other, "resources/unsubscribe", { uri }, { headers: session });
    await write(server, mine, "shared-name.txt", "3, longer still");
    await expect.poll(() => minesStream?.updates()).toEqual([uri, uri]);
  });

  test("hear of changes to their own files only, on the newest protocol", async () => {
    const server = await serving();
    const url = await listening(server);
    const uri = "workspace:///shared-name.txt";
    const heard = new Map<string, string[]>();
    for (const who of [mine, other]) {
      await write(server, who, "shared-name.txt", "1");
      const client = new ModernClient(
        { name: "test", version: "1" },
        { versionNegotiation: { mode: { pin: "2026-07-28" } } },
      );
      const updates: string[] = [];
      heard.set(who, updates);
      client.setNotificationHandler("notifications/resources/updated", ({ params }) => void updates.push(params.uri));
      await client.connect(new ModernHttp(url, { requestInit: { headers: bearer(who) } }));
      onTestFinished(() => client.close());
      await client.listen({ resourceSubscriptions: [uri] });
    }
    await new Promise((resolve) => setTimeout(resolve, 250));
    await write(server, mine, "shared-name.txt", "2, longer");
    await expect.poll(() => heard.get(mine)).toEqual([uri]);
    await new Promise((resolve) => setTimeout(resolve, 250));
    expect(heard.get(other)).toEqual([]);
  });

  test("have log levels of their own in a session whose id the other has taken", async () => {
    const server = await serving();
    const headers = { "mcp-session-id": mintSession({ protocolVersion: "2025-11-25", capabilities: {} }) };
    const memory = createSessionMemory({ watch: async () => () => {} });
    const session = sessionOf(headers["mcp-session-id"]);
    if (session === undefined) throw new Error("The session is none.");
    memory.of(callerNamed(mine), session).logLevel = "error";
    expect(memory.of(callerNamed(other), session).logLevel).toBeUndefined();
    expect(memory.of(callerNamed(mine), session).logLevel).toBe("error");
    // And what the session's id opens is what the taker has anyhow.
    await write(server, mine, "secret.txt", SECRET);
    const taken = await ask(server, other, "resources/read", { uri: "workspace:///secret.txt" }, { headers });
    expect(taken.error?.message).toContain("does not exist");
  });

  test.each([
    ["the replica that asks", 0],
    ["another replica", 1],
  ])("answer questions put to them only, at %s", async (_where, at) => {
    const env = {
      AUTH_MODE: "api-key",
      API_KEY_HASHES: `sha256:${"0".repeat(64)}`,
      WORKSPACE_PATH: await temporaryDirectory(),
    };
    const server = await serving(env);
    const url = await listening(server);
    const answered = [url, await listening(await serving(env))][at] ?? url;
    await write(server, mine, "build/a", "x");
    await write(server, other, "build/a", "x");
    const session = {
      "mcp-session-id": mintSession({ protocolVersion: "2025-11-25", capabilities: { elicitation: {} } }),
      "mcp-protocol-version": "2025-11-25",
    };
    const send = (to: URL, who: string, message: object) =>
      fetch(to, {
        method: "POST",
        headers: {
          "content-type": "application/json",
          accept: "application/json, text/event-stream",
          ...session,
          ...bearer(who),
        },
        body: JSON.stringify({ jsonrpc: "2.0", ...message }),
      });
    const remove = { operation: "delete", path: "build", recursive: true };
    const asked = await send(url, mine, {
      id: 7,
      method: "tools/call",
      params: { name: "file_operation", arguments: remove },
    });
    const reader = messagesOf(asked);
    const question = await reader.next();
    expect(question).toMatchObject({ method: "elicitation/create" });
    const answer = { id: question?.id, result: { action: "accept", content: { confirm: true } } };
    expect((await send(answered, other, answer)).status).toBe(400);
    expect((await file(server, mine, "stat", "build/a")).result).not.toHaveProperty("isError");
    expect((await send(answered, mine, answer)).status).toBe(202);
    expect(await reader.next()).toMatchObject({ id: 7, result: { structuredContent: { operation: "delete" } } });
    expect((await file(server, other, "stat", "build/a")).result).not.toHaveProperty("isError");
  });

  test.each([
    ["a plain call", false, {}],
    ["a call by the SDK's way", false, { unknown: 1 }],
    ["a call in one session", true, {}],
  ])("cancel requests of their own only: %s", async (_what, session, more) => {
    const server = await serving();
    const url = await listening(server);
    const id = "same";
    const headers = session
      ? { "mcp-session-id": mintSession({ protocolVersion: "2025-11-25", capabilities: {} }) }
      : {};
    const send = (who: string, message: object) =>
      fetch(url, {
        method: "POST",
        headers: {
          "content-type": "application/json",
          accept: "application/json, text/event-stream",
          ...headers,
          ...bearer(who),
        },
        body: JSON.stringify({ jsonrpc: "2.0", ...message }),
      });
    const params = { name: "execute_command", arguments: { command: "sleep 30" }, ...more };
    const cancel = { method: "notifications/cancelled", params: { requestId: id } };
    const mines = send(mine, { id, method: "tools/call", params });
    await expect.poll(() => server.services.commands.running).toBe(1);
    // The other has none of that id, then has one, and cancels it: each time its own.
    await send(other, cancel);
    const others = send(other, { id, method: "tools/call", params });
    await expect.poll(() => server.services.commands.running).toBe(2);
    await send(other, cancel);
    await others;
    await expect.poll(() => server.services.commands.running).toBe(1);
    await send(mine, cancel);
    await mines;
    await expect.poll(() => server.services.commands.running).toBe(0);
  });

  test("leave each other room for commands, files and answers", async () => {
    const server = await serving({
      COMMAND_CALLER_CONCURRENCY: "1",
      WORKSPACE_QUOTA_BYTES: String(1024 * 1024),
      WORKSPACE_QUOTA_FILES: "10",
    });
    const sleeping = call(server, mine, "execute_command", { command: "sleep 20" });
    await expect.poll(() => server.services.commands.running).toBe(1);
    const more = await call(server, mine, "execute_command", { command: "true" });
    expect(JSON.stringify(more.result)).toContain("1 commands of yours run already");
    expect((await call(server, other, "execute_command", { command: "true" })).result).toMatchObject({
      structuredContent: { exitCode: 0 },
    });
    server.services.commands.stopAll();
    await sleeping;

    for (let at = 0; at < 10; at++) await file(server, mine, "write", `f${at}`, { content: "x".repeat(100_000) });
    expect((await file(server, mine, "write", "more", { content: "x".repeat(200_000) })).result?.isError).toBe(true);
    await write(server, other, "more", "x".repeat(200_000));
    const info = (await call(server, other, "system_info")).result?.structuredContent?.workspace;
    expect(info).toMatchObject({ usedFiles: 1 });
  });
});

describe("what there is one of for all", () => {
  test("sessions: one caller's are forgotten for its own new ones, and nobody else's", () => {
    const memory = createSessionMemory({ watch: async () => () => {} });
    const mint = () => {
      const session = sessionOf(mintSession({ protocolVersion: "2025-11-25", capabilities: {} }));
      if (session === undefined) throw new Error("The session is none.");
      return session;
    };
    const kept = mint();
    memory.of(callerNamed("two"), kept).logLevel = "error";
    const first = mint();
    memory.of(callerNamed("one"), first).logLevel = "error";
    for (let count = 0; count < 5000; count++) memory.of(callerNamed("one"), mint());
    expect(memory.of(callerNamed("two"), kept).logLevel).toBe("error");
    expect(memory.of(callerNamed("one"), first).logLevel).toBeUndefined();
  });

  test("streams and connections: one caller gets a quarter, given back when they end", () => {
    const shares = createShares(8);
    const [one, two] = [callerNamed("one"), callerNamed("two")];
    const leave = shares.take(one);
    expect(shares.take(one)).toBeDefined();
    expect(shares.take(one)).toBeUndefined();
    expect(shares.take(two)).toBeDefined();
    leave?.();
    leave?.();
    expect(shares.take(one)).toBeDefined();
    expect(shares.take(one)).toBeUndefined();
    // Where there is nobody to tell apart, there is nobody to be fair to.
    expect(shareOf({ subject: "anonymous", method: "none", role: "admin" }, 8)).toBe(8);
  });

  test("watched files: one workspace gets a quarter, given back when they end", async () => {
    const watch = createFileWatch({ limit: 8 });
    const [one, two] = await Promise.all(
      [1, 2].map(async () => openWorkspace(await temporaryDirectory(), { fileSizeLimit: 1024 })),
    );
    if (one === undefined || two === undefined) throw new Error("There are no workspaces.");
    const stop = watch.watch(one, "a", () => {});
    expect(watch.watch(one, "b", () => {})).toBeDefined();
    expect(watch.watch(one, "c", () => {})).toBeUndefined();
    expect(watch.watch(two, "c", () => {})).toBeDefined();
    stop?.();
    stop?.();
    expect(watch.watch(one, "c", () => {})).toBeDefined();
    expect(watch.watch(one, "d", () => {})).toBeUndefined();
  });
});

describe("another server's tools", () => {
  const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));
  const log = pino({ level: "silent" });

  test("run in a process of each caller's own", async () => {
    const command = {
      program: process.execPath,
      args: [here("stdio-servers/older.ts")],
      directory: ".",
      environment: {},
    };
    const observer = { started: () => {}, ended: () => {} };
    const children = createChildren(command, { count: 4, idleMs: 60_000 }, log, observer);
    onTestFinished(() => children.close());
    const pidOf = (name: string) => children.use(callerNamed(name), async ({ pid }) => pid);
    const pids = [await pidOf("one"), await pidOf("two"), await pidOf("key")];
    expect(new Set(pids).size).toBe(3);
    expect(await pidOf("one")).toBe(pids[0]);
  });

  test.each([
    ["reader", { message: expect.stringContaining("for the role operator, and yours is reader") }],
    ["scoped-admin", { code: -32003, data: { error: "insufficient_scope", scope: "Mcp.Operate" } }],
  ])("are not for a %s, since nobody knows what they change", async (name, error) => {
    const children = {
      count: 0,
      running: 0,
      watch: () => Promise.reject(new Error("nothing is watched")),
      use: () => Promise.reject(new Error("A process was asked for.")),
      close: async () => {},
      killAllNow: () => {},
    };
    const info = { name: "proxied", version: "1" };
    const description = () => ({ info, capabilities: { tools: {} }, instructions: undefined });
    const denials: unknown[] = [];
    const protocol = createProxyProtocol({
      children,
      description,
      tools: [],
      limits: { admit: () => ({ release() {} }) },
      audit: { decided: (decision) => void denials.push(decision), begin: () => ({ ended() {} }) },
      metrics: createMetrics([]),
      log,
    });
    const [input, output] = [new PassThrough(), new PassThrough()];
    const transport = new StdioServerTransport(input, output);
    const served = serveConnection({ protocol, transport, caller: callerNamed(name), onerror: () => {} });
    onTestFinished(() => served.close());
    const client = new ModernClient({ name: "test", version: "1" });
    await client.connect(new PipeClientTransport(output, input));
    await expect(client.listTools()).rejects.toMatchObject(error);
    await expect(client.callTool({ name: "anything" })).rejects.toMatchObject(error);
    expect(denials).toEqual([expect.objectContaining({ decision: "denied", tool: "anything" })]);
  });
});

/** The stream of a session, and what came over it. */
async function events(url: URL, headers: Record<string, string>) {
  const controller = new AbortController();
  onTestFinished(() => controller.abort());
  const response = await fetch(url, { headers, signal: controller.signal });
  const seen = new PassThrough({ encoding: "utf8" });
  let text = "";
  seen.on("data", (part: string) => {
    text += part;
  });
  void (async () => {
    for await (const part of response.body ?? []) seen.write(part);
  })().catch(() => {});
  return {
    updates: () =>
      [...text.matchAll(/"method":"notifications\/resources\/updated","params":\{"uri":"([^"]+)"/g)].map(
        ([, uri]) => uri,
      ),
    close: () => controller.abort(),
  };
}

/** The messages of an event stream, one after the other. */
function messagesOf(response: Response) {
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  return {
    async next(): Promise<{ id?: string; [key: string]: unknown } | undefined> {
      for (;;) {
        const found = /data: (\{.*\})\n/.exec(text);
        if (found !== null) {
          text = text.slice(found.index + found[0].length);
          return JSON.parse(found[1] ?? "");
        }
        const part = await reader?.read();
        if (part === undefined || part.done) return undefined;
        text += part.value;
      }
    },
  };
}
