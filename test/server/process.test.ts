import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { describe, type TestContext, test } from "vitest";
import { commandsRunning, type ServerProcess, startServer as startProcess } from "../infra/cli/server-process.ts";
import { temporaryDirectory } from "./running-app.ts";
import { endMarked, isRunning, sleepMark } from "./running-processes.ts";

/** What belongs to one test, of which several run at the same time. */
type Its = Pick<TestContext, "expect" | "onTestFinished">;

const entry = (name: string) => fileURLToPath(new URL(`../../server/${name}`, import.meta.url));

/** Ended with its test. */
function start({ onTestFinished }: Its, name: string, env: Record<string, string>): ChildProcess {
  const child = spawn(process.execPath, [entry(name)], { env, stdio: "pipe" });
  onTestFinished(() => {
    child.kill("SIGKILL");
  });
  return child;
}

async function startServer(its: Its, env: Record<string, string> = {}, left = 0) {
  const workspace = await temporaryDirectory(its.onTestFinished);
  // As long as it takes: what ends sooner by a shorter grace says so.
  const all = { WORKSPACE_PATH: workspace, SHUTDOWN_GRACE_SECONDS: "25", ...env };
  const server = await startProcess(all, [entry("main.js")], its.onTestFinished, left);
  return { ...server, workspace };
}

async function connected({ onTestFinished }: Its, url: string, mode: "auto" | "legacy" = "auto"): Promise<Client> {
  const client = new Client({ name: "test-client", version: "1.0.0" }, { versionNegotiation: { mode } });
  await client.connect(new StreamableHTTPClientTransport(new URL(url)));
  onTestFinished(() => client.close());
  return client;
}

const execute = (client: Client, command: string) =>
  client.callTool({ name: "execute_command", arguments: { command } });

/** Resolves when a command runs on that server. */
const commandRuns = ({ expect }: Its, server: ServerProcess) => expect.poll(() => commandsRunning(server)).toBe(1);

// Most of the time is spent waiting for processes to start and to end.
describe.concurrent("a server that is told to end", () => {
  test.for(["auto", "legacy"] as const)("finishes the calls in progress (%s)", async (mode, its) => {
    const { expect } = its;
    const server = await startServer(its);
    const client = await connected(its, server.url, mode);
    const call = execute(client, "until [ -e go ]; do sleep 0.02; done; echo finished");
    await commandRuns(its, server);
    void server.stop("SIGTERM");
    await server.event("server.draining");
    await writeFile(join(server.workspace, "go"), "");
    expect((await call).structuredContent).toMatchObject({ exitCode: 0, stdout: "finished\n" });
    expect(await server.exited).toEqual({ code: 0, signal: null });
  });

  test("is not ready, and still answers, while it drains", async (its) => {
    const { expect } = its;
    const server = await startServer(its, { SHUTDOWN_DRAIN_SECONDS: "1", SHUTDOWN_GRACE_SECONDS: "5" });
    const client = await connected(its, server.url);
    void server.stop("SIGTERM");
    await server.event("server.draining");
    expect((await fetch(new URL("/health/ready", server.url))).status).toBe(503);
    expect((await fetch(new URL("/health/live", server.url))).status).toBe(200);
    expect((await execute(client, "echo hi")).structuredContent).toMatchObject({ stdout: "hi\n" });
    expect(await server.exited).toEqual({ code: 0, signal: null });
  });

  test("ends open streams with a last word", async (its) => {
    const { expect } = its;
    const server = await startServer(its);
    const client = await connected(its, server.url);
    const subscription = await client.listen({ resourceSubscriptions: ["workspace:///a"] });
    void server.stop("SIGTERM");
    expect(await subscription.closed).toBe("graceful");
    expect(await server.exited).toEqual({ code: 0, signal: null });
  });

  test("kills what outlasts the grace, and tells its caller", async (its) => {
    const { expect } = its;
    const server = await startServer(its, { SHUTDOWN_GRACE_SECONDS: "1" });
    const client = await connected(its, server.url);
    const call = execute(client, "sleep 86400");
    await commandRuns(its, server);
    void server.stop("SIGTERM");
    expect(await call).toMatchObject({
      isError: true,
      content: [{ text: expect.stringContaining("shutting down") }, {}],
    });
    expect(await server.event("server.grace.exceeded")).toMatchObject({ commands: 1 });
    expect(await server.exited).toEqual({ code: 0, signal: null });
  });

  test("ends at once when told twice, and leaves no command behind", async (its) => {
    const { expect } = its;
    const server = await startServer(its);
    const client = await connected(its, server.url);
    const mark = sleepMark();
    const call = execute(client, `setsid sleep ${mark} & sleep ${mark}`).catch(() => "cut off");
    await expect.poll(() => isRunning(mark)).toBe(true);
    void server.stop("SIGINT");
    await server.event("server.draining");
    void server.stop("SIGINT");
    expect(await server.exited).toEqual({ code: 1, signal: null });
    expect(await call).toBe("cut off");
    await expect.poll(() => isRunning(mark)).toBe(false);
  });

  test("takes its commands with it even when it is killed", async (its) => {
    const { expect } = its;
    const server = await startServer(its);
    const client = await connected(its, server.url);
    const { structuredContent } = await client.callTool({ name: "system_info", arguments: {} });
    const { isolation } = (structuredContent as { commands: { isolation: { namespaces: boolean } } }).commands;
    const mark = sleepMark();
    const call = execute(client, `setsid sleep ${mark} & sleep ${mark}`).catch(() => "cut off");
    await expect.poll(() => isRunning(mark)).toBe(true);
    void server.stop("SIGKILL");
    expect(await call).toBe("cut off");
    // Elsewhere the end of the container takes them.
    if (isolation.namespaces) await expect.poll(() => isRunning(mark)).toBe(false);
    else await endMarked(mark);
  });

  test("gives its commands none of the files that its own parent left open", async (its) => {
    const { expect } = its;
    const server = await startServer(its, {}, 3);
    const client = await connected(its, server.url);
    const { structuredContent } = await execute(client, "ls /proc/self/fd");
    // The fourth is the directory that ls reads.
    expect((structuredContent as { stdout: string }).stdout).toBe("0\n1\n2\n3\n");
  });
});

describe.concurrent("a server that cannot start", () => {
  const outcome = async (its: Its, env: Record<string, string>) => {
    const child = start(its, "main.js", env);
    let output = "";
    for (const stream of [child.stdout, child.stderr])
      stream?.on("data", (chunk: Buffer) => (output += chunk.toString()));
    const [code] = await once(child, "close");
    return { code, output };
  };

  test("says every fault of its environment", async (its) => {
    const { expect } = its;
    const { code, output } = await outcome(its, { PORT: "http", AUTH_MODE: "api-key" });
    expect(code).toBe(1);
    expect(output).toBe(
      "The environment has 2 faults:\n" +
        '  PORT="http" must be a whole number from 0 to 65535\n' +
        "  API_KEY_HASHES must be set when AUTH_MODE has api-key; give sha256:<64 hex digits> of each key, " +
        "or a register of keys by API_KEYS_FILE or API_KEYS_SECRET\n",
    );
  });

  test("names the port that is taken", async (its) => {
    const { expect } = its;
    const blocker = createServer().listen(0, "127.0.0.1");
    await once(blocker, "listening");
    its.onTestFinished(() => {
      blocker.close();
    });
    const { port } = blocker.address() as AddressInfo;
    const { code, output } = await outcome(its, {
      WORKSPACE_PATH: await temporaryDirectory(its.onTestFinished),
      PORT: String(port),
      METRICS_PORT: "0",
    });
    expect(code).toBe(1);
    expect(output).toContain(`PORT=${port} is in use on 127.0.0.1; free it or choose another port.`);
  });

  test("names the workspace it cannot use", async (its) => {
    const { expect } = its;
    const { code, output } = await outcome(its, { WORKSPACE_PATH: "/dev/null/workspace" });
    expect(code).toBe(1);
    expect(output).toContain("WORKSPACE_PATH=/dev/null/workspace");
  });
});

/** What a stdio server of that entry, whose client says goodbye at once, has loaded of Node's own. */
async function nodesOwn(its: Its, name: string): Promise<string[]> {
  const tell = "data:text/javascript,process.on('exit',()=>console.error(JSON.stringify(process.moduleLoadList)))";
  const env = { WORKSPACE_PATH: await temporaryDirectory(its.onTestFinished), LOG_LEVEL: "silent" };
  const child = spawn(process.execPath, ["--import", tell, entry(name)], { env, stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  child.stderr.on("data", (chunk: Buffer) => (said += chunk.toString()));
  await once(child, "close");
  return JSON.parse(said.split("\n").find((line) => line.startsWith("[")) ?? "");
}

test("a server whose code is compiled does without Node's TypeScript parser, for what that would hold of memory", async (its) => {
  // Compiles it, if nobody has.
  await nodesOwn(its, "stdio.js");
  const loaded = await nodesOwn(its, "stdio.js");
  its.expect(loaded).toContain("NativeModule crypto");
  its.expect(loaded.filter((name) => name.includes("amaro"))).toEqual([]);
});

describe.concurrent("stdio", () => {
  const TRACE = "0af7651916cd43dd8448eb211c80319c";
  const initialize = {
    jsonrpc: "2.0",
    id: 1,
    method: "initialize",
    params: { protocolVersion: "2025-06-18", capabilities: {}, clientInfo: { name: "test", version: "1" } },
  };

  test("has nothing but the protocol on standard output, and ends with its input", async (its) => {
    const { expect } = its;
    const child = start(its, "stdio.js", {
      WORKSPACE_PATH: await temporaryDirectory(its.onTestFinished),
      LOG_LEVEL: "trace",
    });
    let out = "";
    let log = "";
    child.stdout?.on("data", (chunk: Buffer) => (out += chunk.toString()));
    child.stderr?.on("data", (chunk: Buffer) => (log += chunk.toString()));
    child.stdin?.write(`${JSON.stringify(initialize)}\n`);
    await expect.poll(() => out).toContain("\n");
    const _meta = { traceparent: `00-${TRACE}-b7ad6b7169203331-01` };
    const call = { jsonrpc: "2.0", id: 2, method: "tools/call", params: { name: "system_info", _meta } };
    child.stdin?.write(`${JSON.stringify(call)}\n`);
    await expect.poll(() => out.split("\n").length).toBe(3);
    child.stdin?.end();
    expect(await once(child, "exit")).toEqual([0, null]);
    for (const line of out.trim().split("\n")) expect(JSON.parse(line)).toMatchObject({ jsonrpc: "2.0" });
    const called = log.split("\n").filter((line) => line.includes('"event":"tool.called"'));
    expect(called.map((line) => JSON.parse(line))).toEqual([
      expect.objectContaining({ stream: "audit", subject: "local", tool: "system_info", traceId: TRACE }),
    ]);
  });

  test("takes its commands with it", async (its) => {
    const { expect } = its;
    const workspace = await temporaryDirectory(its.onTestFinished);
    const child = start(its, "stdio.js", { WORKSPACE_PATH: workspace });
    const mark = sleepMark();
    const params = { name: "execute_command", arguments: { command: `setsid sleep ${mark} & sleep ${mark}` } };
    child.stdin?.write(`${JSON.stringify(initialize)}\n`);
    child.stdin?.write(`${JSON.stringify({ jsonrpc: "2.0", id: 2, method: "tools/call", params })}\n`);
    await expect.poll(() => isRunning(mark)).toBe(true);
    child.stdin?.end();
    await once(child, "exit");
    await expect.poll(() => isRunning(mark)).toBe(false);
  });
});
