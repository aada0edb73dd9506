import { spawn } from "node:child_process";
import { createHash, randomUUID } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Client as ModernClient, StreamableHTTPClientTransport as ModernHttp } from "@modelcontextprotocol/client";
import { Client as OlderClient } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport as OlderHttp } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { describe, expect, onTestFinished, type TestContext, test } from "vitest";
import { readArguments, UsageError } from "../../server/proxy/arguments.ts";
import { childEnvironment } from "../../server/proxy/child-environment.ts";
import { digestOf } from "../../server/services/arguments-digest.ts";
import { type ServerProcess, sharedServer, startServer, temporaryDirectory } from "../infra/cli/server-process.ts";
import { WebSocketClientTransport, websocketUrl } from "./websocket-client.ts";

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));
const ENTRY = here("../../server/serve-stdio.ts");
const OLDER = [process.execPath, here("stdio-servers/older.ts")];
const NEWER = [process.execPath, here("stdio-servers/newer.ts")];
const KEYS = ["key-of-ada", "key-of-bob", "key-of-eve"] as const;
const hashOf = (key: string) => createHash("sha256").update(key).digest("hex");
const WITH_KEYS = { AUTH_MODE: "api-key", API_KEY_HASHES: KEYS.map((key) => `sha256:${hashOf(key)}`).join() };

/** What belongs to one test, of which several may run at the same time. */
type Its = Pick<TestContext, "onTestFinished">;

const serving = (
  { onTestFinished }: Its,
  command: readonly string[],
  options: readonly string[] = [],
  env: Record<string, string> = {},
) => startServer(env, [ENTRY, ...options, "--", ...command], onTestFinished);

/** For tests that leave them as they were: each is one child, since nobody needs a key. */
const older = sharedServer({}, [ENTRY, "--", ...OLDER]);
const newer = sharedServer({}, [ENTRY, "--", ...NEWER]);

const SDKS = ["1.x", "2.x"] as const;
type Sdk = (typeof SDKS)[number];

interface Connected {
  readonly server: { name: string; version: string } | undefined;
  readonly instructions: string | undefined;
  readonly capabilities: object | undefined;
  tools(): Promise<string[]>;
  /** The text of a call's result. */
  call(name: string, args?: Record<string, unknown>, options?: CallOptions): Promise<string>;
  structured(name: string): Promise<unknown>;
  readonly raw: ModernClient | OlderClient;
}
interface CallOptions {
  signal?: AbortSignal;
  onprogress?: (progress: { progress: number; message?: string | undefined }) => void;
}

const textOf = (result: object) =>
  ((result as { content: unknown }).content as { text: string }[]).map((part) => part.text).join("");

async function connect(
  sdk: Sdk,
  { url }: { url: string },
  key?: string,
  { onTestFinished: atEnd }: Its = { onTestFinished },
): Promise<Connected> {
  const options = { requestInit: { headers: key === undefined ? {} : { authorization: `Bearer ${key}` } } };
  const info = { name: "test-client", version: "1.0.0" };
  if (sdk === "2.x") {
    const client = new ModernClient(info, { versionNegotiation: { mode: "auto" } });
    await client.connect(new ModernHttp(new URL(url), options));
    atEnd(() => client.close());
    expect(client.getNegotiatedProtocolVersion()).toBe("2026-07-28");
    return {
      server: client.getServerVersion(),
      instructions: client.getInstructions(),
      capabilities: client.getServerCapabilities(),
      tools: async () => (await client.listTools()).tools.map(({ name }) => name),
      call: async (name, args, more) => textOf(await client.callTool({ name, arguments: args ?? {} }, more)),
      structured: async (name) => (await client.callTool({ name, arguments: {} })).structuredContent,
      raw: client,
    };
  }
  const client = new OlderClient(info);
  await client.connect(new OlderHttp(new URL(url), options));
  atEnd(() => client.close());
  return {
    server: client.getServerVersion(),
    instructions: client.getInstructions(),
    capabilities: client.getServerCapabilities(),
    tools: async () => (await client.listTools()).tools.map(({ name }) => name),
    call: async (name, args, more) => textOf(await client.callTool({ name, arguments: args ?? {} }, undefined, more)),
    structured: async (name) => (await client.callTool({ name, arguments: {} })).structuredContent,
    raw: client,
  };
}

async function metric(server: ServerProcess, name: string): Promise<string | undefined> {
  const text = await (await fetch(new URL("/metrics", server.metricsUrl))).text();
  return text
    .split("\n")
    .find((line) => line.startsWith(`${name} `))
    ?.slice(name.length + 1);
}

/** Whether the process runs. One that has ended and waits to be reaped does not. */
function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return process.platform !== "linux" || !readFileSync(`/proc/${pid}/stat`, "latin1").includes(") Z ");
  } catch {
    return false;
  }
}

describe.each(SDKS)("to a client of SDK %s", (sdk) => {
  test("an older server is as if it spoke HTTP itself", async () => {
    const server = older();
    const client = await connect(sdk, server);
    expect(client.server).toMatchObject({ name: "older", version: "1.2.3" });
    expect(client.instructions).toBe("Be kind.");
    expect(client.capabilities).toEqual({ tools: {}, resources: {}, prompts: {}, completions: undefined });
    expect(await client.tools()).toContain("echo");
    const counted = async (status: string) =>
      Number((await metric(server, `mcp_tool_calls_total{tool="echo",status="${status}"}`)) ?? 0);
    const before = [await counted("ok"), await counted("failed")] as const;
    expect(await client.call("echo", { word: "Ålesund\u2028" })).toBe("Ålesund\u2028");
    expect(await client.structured("structured")).toEqual({ n: 1 });
    expect(await client.call("echo", {})).toContain("Invalid arguments for tool echo");
    expect(await client.raw.readResource({ uri: "note://one" })).toMatchObject({ contents: [{ text: "noted" }] });
    expect(await client.raw.getPrompt({ name: "greet", arguments: { name: "Ada" } })).toMatchObject({
      messages: [{ content: { text: "Hello Ada" } }],
    });
    await expect(client.raw.readResource({ uri: "note://none" })).rejects.toThrow(/note:\/\/none not found/);
    expect([await counted("ok"), await counted("failed")]).toEqual([before[0] + 1, before[1] + 1]);
  });

  test("a server of the newest era is, too", async () => {
    const server = newer();
    const client = await connect(sdk, server);
    expect(client.server).toMatchObject({ name: "newer" });
    expect(await client.tools()).toEqual(["pid"]);
    expect(Number(await client.call("pid"))).toBeGreaterThan(1);
  });

  test("progress and cancellation go through, and calls at the same time keep apart", async () => {
    const server = older();
    const client = await connect(sdk, server);
    const other = await connect(sdk, server);
    const before = Number(await other.call("cancelled"));
    const cancel = new AbortController();
    const waiting = client.call("wait", {}, { signal: cancel.signal }).then(
      () => "answered",
      () => "cancelled",
    );
    await expect.poll(() => other.call("waiting")).toBe("1");
    const steps: string[] = [];
    const run = randomUUID();
    const onprogress = ({ progress, message }: { progress: number; message?: string | undefined }) => {
      steps.push(`${progress} ${message}`);
      void other.call("heard", { run, step: progress });
    };
    const words = Array.from({ length: 20 }, (_, at) => `word ${at}`);
    const [done, ...said] = await Promise.all([
      client.call("steps", { run }, { onprogress }),
      ...words.map((word) => client.call("echo", { word })),
    ]);
    expect(done).toBe("done");
    expect(said).toEqual(words);
    expect(steps).toEqual(["1 step 1", "2 step 2", "3 step 3"]);
    cancel.abort();
    expect(await waiting).toBe("cancelled");
    await expect.poll(() => other.call("cancelled")).toBe(String(before + 1));
  });

  test("a process that dies is a failed call, and the next call has another", async () => {
    const server = older();
    const client = await connect(sdk, server);
    const pid = await client.call("pid");
    await expect(client.call("die")).rejects.toThrow(/the server process ended with exit code 7.*started again/);
    expect(await client.call("farewell")).toBe("farewell");
    await expect.poll(() => metric(server, "mcp_children")).toBe("0");
    const next = await client.call("pid");
    expect(next).not.toBe(pid);
    process.kill(Number(next), "SIGKILL");
    await expect.poll(() => metric(server, "mcp_children")).toBe("0");
    expect(isAlive(Number(next))).toBe(false);
    expect(await client.call("echo", { word: "on" })).toBe("on");
    await expect.poll(() => metric(server, "mcp_children")).toBe("1");
  });
});

test.each(["auto", "legacy"] as const)("over WebSocket, too (%s version)", async (mode) => {
  const client = new ModernClient({ name: "test-client", version: "1.0.0" }, { versionNegotiation: { mode } });
  await client.connect(new WebSocketClientTransport(websocketUrl(new URL(older().url))));
  onTestFinished(() => client.close());
  expect(client.getNegotiatedProtocolVersion()).toBe(mode === "auto" ? "2026-07-28" : "2025-11-25");
  expect(client.getServerVersion()).toMatchObject({ name: "older" });
  const reports: number[] = [];
  const run = randomUUID();
  const onprogress = ({ progress }: { progress: number }) => {
    reports.push(progress);
    void client.callTool({ name: "heard", arguments: { run, step: progress } });
  };
  expect(await client.callTool({ name: "steps", arguments: { run } }, { onprogress })).toMatchObject({
    content: [{ text: "done" }],
  });
  expect(reports).toEqual([1, 2, 3]);
  const cancel = new AbortController();
  const count = async (name: string) => Number(textOf(await client.callTool({ name, arguments: {} })));
  const before = await count("cancelled");
  const call = client.callTool({ name: "wait", arguments: {} }, { signal: cancel.signal });
  const outcome = call.then(
    () => "answered",
    () => "cancelled",
  );
  await expect.poll(() => count("waiting")).toBe(1);
  cancel.abort();
  expect(await outcome).toBe("cancelled");
  await expect.poll(() => count("cancelled")).toBe(before + 1);
});

test("what would need the command's own session is not offered, and refused", async () => {
  const { raw } = await connect("1.x", older());
  const client = raw as OlderClient;
  await expect(client.subscribeResource({ uri: "note://one" })).rejects.toThrow(/not found|not support/);
  await expect(client.setLoggingLevel("debug")).rejects.toThrow(/not found|not support/);
});

// Each has a server of its own, or leaves the shared one to others, and waits for processes most of the time.
describe.concurrent("callers", () => {
  test("are let in by their keys, and have a process each", async (its) => {
    const { expect } = its;
    const server = await serving(its, OLDER, [], WITH_KEYS);
    await expect(connect("1.x", server, "wrong", its)).rejects.toThrow(/Authentication required/);
    const [ada, bob] = [await connect("1.x", server, KEYS[0], its), await connect("2.x", server, KEYS[1], its)];
    const again = await connect("2.x", server, KEYS[0], its);
    const [first, second, third] = await Promise.all([ada.call("pid"), bob.call("pid"), again.call("pid")]);
    expect(second).not.toBe(first);
    expect(third).toBe(first);
    expect([await ada.call("count"), await again.call("count"), await bob.call("count")]).toEqual(["1", "2", "1"]);
    expect(await metric(server, "mcp_children")).toBe("2");
    const subject = `key:${hashOf(KEYS[0]).slice(0, 8)}`;
    const counted = expect.objectContaining({ event: "tool.called", tool: "count", outcome: "ok", subject });
    await expect.poll(() => server.events).toContainEqual(counted);
    expect(JSON.stringify(server.events)).not.toMatch(/key-of-/);
  });

  test("have limits, each tool that the command names by itself, and a record of each call with its trace id", async (its) => {
    const { expect } = its;
    const server = await serving(its, OLDER, [], { ...WITH_KEYS, RATE_LIMIT_TOOL_PER_MINUTE: "1" });
    const TRACE = "0af7651916cd43dd8448eb211c80319c";
    const _meta = { traceparent: `00-${TRACE}-b7ad6b7169203331-01` };
    const words = { word: "a secret" };
    for (const [at, sdk] of (["2.x", "1.x"] as const).entries()) {
      const { raw } = await connect(sdk, server, KEYS[at], its);
      const call = (name: string) => (raw as ModernClient).callTool({ name, arguments: words, _meta });
      expect(await call("echo")).toMatchObject({ content: [{ text: "a secret" }] });
      expect(await call("echo")).toMatchObject({
        isError: true,
        structuredContent: { limit: "tool", what: "calls" },
        content: [
          { text: expect.stringMatching(/^echo was not run: as many calls of echo by you.* Try again in/) },
          {},
        ],
      });
      expect(await call("count")).not.toHaveProperty("isError");
      await call("no_such_1").catch(() => {});
      expect(await call("no_such_2")).toMatchObject({ structuredContent: { limit: "tool" } });
    }
    const told = () => server.events.filter(({ traceId }) => traceId === TRACE);
    await expect.poll(() => told().length).toBe(10);
    for (const [at, key] of [KEYS[0], KEYS[1]].entries()) {
      const mine = told().slice(5 * at, 5 * at + 5);
      expect(mine.map(({ event, tool, reason, outcome }) => [event, tool, reason ?? outcome])).toEqual([
        ["tool.called", "echo", "ok"],
        ["request.refused", "echo", "limit:tool:calls"],
        ["tool.called", "count", "ok"],
        ["tool.called", "no_such_1", "failed"],
        ["request.refused", "no_such_2", "limit:tool:calls"],
      ]);
      const subject = `key:${hashOf(key).slice(0, 8)}`;
      expect(mine).toEqual(Array(5).fill(expect.objectContaining({ stream: "audit", subject })));
      expect(mine[0]).toMatchObject({ argumentDigest: digestOf(words), arguments: {} });
    }
    expect(JSON.stringify(server.events)).not.toContain("a secret");
  });

  test("have none of their calls run without a record, where the server fails closed", async (its) => {
    const { expect } = its;
    const server = await serving(its, OLDER, [], { AUDIT_FILE: "/dev/full", AUDIT_FAILURE: "closed" });
    const client = await connect("2.x", server, undefined, its);
    expect(await client.tools()).toContain("count");
    expect(await client.call("count")).toMatch(/^count was not run: this server cannot record calls/);
    const refused = expect.objectContaining({ event: "tool.refused", tool: "count", why: "audit" });
    await expect.poll(() => server.events).toContainEqual(refused);
    expect(server.events).not.toContainEqual(expect.objectContaining({ event: "tool.called" }));
  });

  test("beyond the limit get the process of one who is idle, or are told to wait", async (its) => {
    const { expect } = its;
    const server = await serving(its, OLDER, ["--max-children", "1"], WITH_KEYS);
    const [ada, bob] = [await connect("1.x", server, KEYS[0], its), await connect("2.x", server, KEYS[1], its)];
    const first = Number(await ada.call("pid"));
    expect(Number(await bob.call("pid"))).not.toBe(first);
    await expect.poll(() => isAlive(first)).toBe(false);
    const cancel = new AbortController();
    const waiting = bob.call("wait", {}, { signal: cancel.signal }).catch(() => "cancelled");
    await expect.poll(() => metric(server, "mcp_active_connections")).not.toBe("0");
    await expect
      .poll(() => ada.call("pid").catch(String))
      .toMatch(/1 callers are served at this moment.*try again later/);
    cancel.abort();
    expect(await waiting).toBe("cancelled");
    await expect.poll(() => ada.call("echo", { word: "in" }).catch(String)).toBe("in");
  });
});

describe.concurrent("a process", () => {
  test("has an environment of PATH and what is named", async (its) => {
    const { expect } = its;
    const server = await serving(its, OLDER, ["--env", "TOKEN", "--env", "MODE=fast"], { ...WITH_KEYS, TOKEN: "hush" });
    const client = await connect("1.x", server, KEYS[0], its);
    const environment = JSON.parse(await client.call("env")) as Record<string, string>;
    expect(environment).toEqual({ PATH: process.env.PATH, TOKEN: "hush", MODE: "fast" });
    expect(JSON.stringify(server.events)).not.toContain("hush");
  });

  test("without a call is ended, and started for the next one", async (its) => {
    const { expect } = its;
    const server = await serving(its, OLDER, ["--idle-seconds", "1"]);
    const client = await connect("2.x", server, undefined, its);
    const pid = Number(await client.call("pid"));
    await expect.poll(() => isAlive(pid)).toBe(false);
    await expect.poll(() => metric(server, "mcp_children")).toBe("0");
    expect(Number(await client.call("pid"))).not.toBe(pid);
    expect(server.events).toContainEqual(expect.objectContaining({ event: "child.reaped" }));
    expect(server.events).not.toContainEqual(expect.objectContaining({ level: "warn" }));
  });

  test("may write what is no message, and asks nobody back", async (its) => {
    const { expect } = its;
    const server = older();
    const client = await connect("2.x", server, undefined, its);
    expect(await client.call("noise")).toBe("quiet again");
    expect(await client.call("ask")).toMatch(/does not support/);
    const said = expect.objectContaining({ event: "child.said", stream: "stderr", line: "a line for the log" });
    await expect.poll(() => server.events).toContainEqual(said);
  });

  test("that does not start again is tried less and less often, and callers are told", async (its) => {
    const { expect } = its;
    const marker = join(await temporaryDirectory(its.onTestFinished), "marker");
    const server = await serving(its, [...OLDER, "once", marker]);
    const client = await connect("1.x", server, undefined, its);
    const answers: string[] = [];
    for (let at = 0; at < 3; at++) answers.push(await client.call("pid").catch(String));
    expect(answers.join("\n")).toMatch(/could not be started; the log has the details/);
    // The log is written a turn later than the answer.
    const failures = () => server.events.filter(({ event }) => event === "child.not-started");
    await expect.poll(() => failures().map((each) => each.failures)).toEqual([1, 2, 3]);
    const times = failures().map(({ time }) => Date.parse(String(time)));
    expect((times[2] ?? 0) - (times[1] ?? 0)).toBeGreaterThan(450);
  });

  test("goes with the server, after its calls have been answered", async (its) => {
    const { expect } = its;
    const server = await serving(its, OLDER);
    const client = await connect("2.x", server, undefined, its);
    const pid = Number(await client.call("pid"));
    const call = client.call("slow");
    await expect.poll(() => metric(server, "mcp_active_connections")).not.toBe("0");
    const ended = server.stop();
    expect(await call).toBe("done");
    expect(await ended).toBe(0);
    expect(isAlive(pid)).toBe(false);
  });

  test("that outlasts the grace is killed, and its caller told", async (its) => {
    const { expect } = its;
    const server = await serving(its, OLDER, [], { SHUTDOWN_GRACE_SECONDS: "0" });
    const client = await connect("2.x", server, undefined, its);
    const pid = Number(await client.call("pid"));
    const call = client.call("wait").catch(String);
    await expect.poll(() => client.call("waiting")).toBe("1");
    expect(await server.stop()).toBe(0);
    expect(await call).toMatch(/the server process was ended by SIGKILL/);
    expect(isAlive(pid)).toBe(false);
  });
});

describe.concurrent("a command that cannot be served", () => {
  const outcome = async (...args: string[]) => {
    const env = { PATH: process.env.PATH, PORT: "0", METRICS_PORT: "0" };
    const child = spawn(process.execPath, [ENTRY, ...args], { env, stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => (output += String(chunk)));
    const [code] = await once(child, "close");
    return { code, output };
  };

  test.each<[string[], RegExp]>([
    [["--env", "NO_SUCH", "--", "x"], /--env NO_SUCH is not set in this environment/],
    [["--env", "a b=secret", "--", "x"], /^--env "a b" is no variable's name/],
    [["--max-children", "0", "--", "x"], /--max-children "0" must be a whole number from 1 to 1000/],
    [["--idle-seconds", "1.5", "--", "x"], /--idle-seconds "1\.5" must be a whole number from 1 to 86400/],
    [["--unheard-of", "--", "x"], /Unknown option '--unheard-of'/],
  ])("%j", (args, message) => {
    const read = () => readArguments(args, {});
    expect(read).toThrow(UsageError);
    expect(read).toThrow(message);
    expect(read).not.toThrow(/secret/);
  });

  test.for<[string[], number, RegExp]>([
    [[], 2, /the command to serve is missing\.\nUsage: serve-stdio/],
    [["--", "no-such-command-anywhere"], 1, /could not be started \(ENOENT\).*Run it by hand/],
    [["--", "false"], 1, /can be served: the server process ended with exit code 1/],
  ])("%j ends the process", async ([args, code, message], { expect }) => {
    const result = await outcome(...args);
    expect(result.output).toMatch(message);
    expect(result.code).toBe(code);
  });
});

test("an environment is built from nothing", () => {
  expect(childEnvironment([], { PATH: "/bin", SECRET: "x" })).toEqual({ PATH: "/bin" });
  expect(childEnvironment(["A", "B=", "C=d=e"], { A: "a", B: "b" })).toMatchObject({ A: "a", B: "", C: "d=e" });
  for (const entry of ["", "=x", "1A", "A-B"])
    expect(() => childEnvironment([entry], {})).toThrow(/is no variable's name/);
});
