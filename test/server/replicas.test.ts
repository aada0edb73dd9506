import { AsyncLocalStorage } from "node:async_hooks";
import { createHash } from "node:crypto";
import { mkdtemp, realpath, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { inspect } from "node:util";
import { Client as ModernClient, StreamableHTTPClientTransport as ModernHttp } from "@modelcontextprotocol/client";
import { Client as FirstClient } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport as FirstHttp } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import type { Transport as FirstTransport } from "@modelcontextprotocol/sdk/shared/transport.js";
import { afterAll, beforeAll, expect, test } from "vitest";
import { commandsRunning, type ServerProcess, startServer } from "../infra/cli/server-process.ts";
import { type ServiceProxy, startServiceProxy } from "./service-proxy.ts";
import { WebSocketClientTransport, websocketUrl } from "./websocket-client.ts";

/*
 * Replicas behind what Kubernetes puts in front of them, and clients of each era that call all the while: what a client
 * notices when a replica is killed, and when all of them are replaced.
 */

const KEY = "mcp_test_replicas";
const headers = { authorization: `Bearer ${KEY}` };
const info = { name: "test-client", version: "1.0.0" };
/** The SDKs wait a second before they open a stream anew; the order of things is the same. */
const reconnectionOptions = {
  initialReconnectionDelay: 100,
  maxReconnectionDelay: 1000,
  reconnectionDelayGrowFactor: 1.5,
  maxRetries: 5,
};

type Answer = { content?: unknown; structuredContent?: unknown; isError?: unknown };

/** A client as these tests use it, whichever library it comes from. */
interface Caller {
  readonly name: string;
  call(tool: string, args: Record<string, unknown>, onProgress?: () => void): Promise<Answer>;
}

/** A client over HTTP; a test can have its requests land on a certain replica, where the proxy would send them anywhere. */
interface HttpCaller extends Caller {
  at<Result>(replica: ServerProcess, send: () => Promise<Result>): Promise<Result>;
}

let workspaces = "";
let proxy: ServiceProxy;
let replicas: [ServerProcess, ServerProcess];
const ends: (() => Promise<void>)[] = [];
const closing: (() => Promise<void> | undefined)[] = [];

async function startReplica(): Promise<ServerProcess> {
  const env = {
    WORKSPACE_PATH: workspaces,
    AUTH_MODE: "api-key",
    API_KEY_HASHES: `sha256:${createHash("sha256").update(KEY).digest("hex")}`,
    SHUTDOWN_DRAIN_SECONDS: "1",
    COMMAND_CONCURRENCY: "16",
    COMMAND_CALLER_CONCURRENCY: "16",
    // They are one caller's, and call without a pause.
    RATE_LIMIT_PER_MINUTE: "0",
    RATE_LIMIT_TOOL_PER_MINUTE: "0",
    RATE_LIMIT_GLOBAL_PER_MINUTE: "0",
    SHUTDOWN_GRACE_SECONDS: "25",
  };
  const server = await startServer(env, undefined, (end) => ends.push(end));
  await proxy.add(new URL(server.url));
  return server;
}

function wayOf() {
  // What else the same client sends meanwhile goes by way of the proxy.
  const places = new AsyncLocalStorage<{ replica?: URL }>();
  const stream = Promise.withResolvers<void>();
  return {
    options: {
      requestInit: { headers },
      reconnectionOptions,
      async fetch(url: string | URL, init?: RequestInit) {
        const response = await fetch(places.getStore()?.replica ?? url, init);
        if (init?.method === "GET" && response.ok) stream.resolve();
        return response;
      },
    },
    /** Resolves when a session's own stream is open. */
    streaming: stream.promise,
    async at<Result>({ url }: ServerProcess, send: () => Promise<Result>): Promise<Result> {
      const place: { replica?: URL } = { replica: new URL(url) };
      try {
        return await places.run(place, send);
      } finally {
        // Streams that were opened in it are opened anew elsewhere.
        delete place.replica;
      }
    },
  };
}

async function connectModern(): Promise<HttpCaller & { client: ModernClient }> {
  const { options, at } = wayOf();
  const client = new ModernClient(info, { versionNegotiation: { mode: { pin: "2026-07-28" } } });
  await client.connect(new ModernHttp(proxy.url, options));
  closing.push(() => client.close());
  // The SDK tells of a call's stream that broke off and leaves the call waiting (typescript-sdk, pull request 2830).
  const streamed = new Set<(error: Error) => void>();
  client.onerror = (error) => {
    if (error.message.startsWith("SSE stream disconnected")) for (const reject of streamed) reject(error);
  };
  const call: Caller["call"] = (name, args, onProgress) => {
    const called = callTool(client, name, args, onProgress);
    if (onProgress === undefined) return called;
    return new Promise((resolve, reject) => {
      streamed.add(reject);
      called.then(resolve, reject).finally(() => streamed.delete(reject));
    });
  };
  return { name: "newer", client, at, call };
}

/** With a session, its stream, which is open at `replica`, and a user who can be asked. */
async function connectOlder(replica: ServerProcess) {
  const { options, at, streaming } = wayOf();
  const client = new ModernClient(info, { versionNegotiation: { mode: "legacy" }, capabilities: { elicitation: {} } });
  const updated: string[] = [];
  const user = { asked: Promise.withResolvers<void>(), agrees: Promise.withResolvers<void>() };
  client.setRequestHandler("elicitation/create", async () => {
    user.asked.resolve();
    await user.agrees.promise;
    return { action: "accept", content: { confirm: true } };
  });
  client.setNotificationHandler("notifications/resources/updated", ({ params }) => {
    updated.push(params.uri);
  });
  const transport = new ModernHttp(proxy.url, options);
  await at(replica, async () => {
    await client.connect(transport);
    await streaming;
  });
  closing.push(() => client.close());
  const caller: HttpCaller = { name: "older", at, call: (...args) => callTool(client, ...args) };
  return { ...caller, client, transport, updated, user };
}

async function connectFirst(): Promise<HttpCaller> {
  const { options, at } = wayOf();
  const client = new FirstClient(info);
  await client.connect(new FirstHttp(proxy.url, options) as FirstTransport);
  closing.push(() => client.close());
  return {
    name: "first",
    at,
    async call(name, args, onprogress) {
      const { isError, ...result } = await client.callTool(
        { name, arguments: args },
        undefined,
        onprogress && { onprogress },
      );
      return { ...result, isError };
    },
  };
}

/** A connection ends with its replica, and its client connects anew with its next call. */
function connectWebSocket(): Caller & { lost(): boolean } {
  let client: ModernClient | undefined;
  let code: number | undefined;
  closing.push(() => client?.close());
  return {
    name: "socket",
    async call(...args) {
      if (client === undefined) {
        const transport = new WebSocketClientTransport(websocketUrl(proxy.url), headers);
        transport.socket.addEventListener("close", (event) => {
          code = event.code;
          client = undefined;
        });
        const connecting = new ModernClient(info, { versionNegotiation: { mode: { pin: "2026-07-28" } } });
        await connecting.connect(transport);
        client = connecting;
      }
      code = undefined;
      return callTool(client, ...args);
    },
    /** A server that ends answers what it has begun: what it closes on without an answer, it has not begun. */
    lost: () => code === GOING_AWAY,
  };
}

/** RFC 6455, section 7.4.1. */
const GOING_AWAY = 1001;

async function callTool(
  client: ModernClient,
  ...[name, args, onprogress]: Parameters<Caller["call"]>
): Promise<Answer> {
  return client.callTool({ name, arguments: args }, onprogress && { onprogress });
}

/** Calls one after the other, each leaving its number in a file, until it is told to end. */
class Steady {
  readonly caller: Caller & { lost?(): boolean };
  made = 0;
  readonly failed: { number: number; why: unknown }[] = [];
  readonly #done: Promise<void>;
  #ending = false;

  constructor(caller: Caller & { lost?(): boolean }) {
    this.caller = caller;
    this.#done = this.#run();
  }

  async end(): Promise<void> {
    this.#ending = true;
    await this.#done;
  }

  /** Resolves when so many more calls were answered. */
  async more(calls: number): Promise<void> {
    const wanted = this.made + calls;
    await expect.poll(() => this.made).toBeGreaterThanOrEqual(wanted);
  }

  /** Every call was carried out once; of a failed one nobody knows. */
  async expectEachOnce(): Promise<void> {
    const { structuredContent } = await this.caller.call("file_operation", { operation: "read", path: this.#path });
    const written = (structuredContent as { content: string }).content.trim().split("\n").map(Number);
    const lost = new Set(this.failed.map(({ number }) => number));
    const all = Array.from({ length: this.made + this.failed.length }, (_, at) => at);
    expect(written.filter((number) => !lost.has(number))).toEqual(all.filter((number) => !lost.has(number)));
  }

  get #path(): string {
    return `${this.caller.name}.txt`;
  }

  /** Repeats a call that was not begun, as its client may: nobody took it, or a server refused it as too busy just then. */
  async #begun(call: () => Promise<Answer>): Promise<Answer> {
    try {
      return await call();
    } catch (error) {
      if (!this.caller.lost?.() && !String(error).includes("overloaded; try again")) throw error;
      await setTimeout(PACE_MS);
      return this.#begun(call);
    }
  }

  async #run(): Promise<void> {
    for (let number = 0; !this.#ending; number++) {
      const content = `${number}\n`;
      const append = () => this.caller.call("file_operation", { operation: "append", path: this.#path, content });
      try {
        const answer = await this.#begun(append);
        if (answer.isError) throw new Error(JSON.stringify(answer.content));
        this.made++;
      } catch (why) {
        this.failed.push({ number, why });
      }
      await setTimeout(PACE_MS);
    }
  }
}

/** Leaves some of the processor to the others. */
const PACE_MS = 10;

/** Calls that run on `replica` until there is a file of that name: with progress, whose answer is a stream, and without. */
async function hold(callers: readonly HttpCaller[], replica: ServerProcess, file: string): Promise<Promise<Answer>[]> {
  const command = `echo started; until [ -e ${file} ]; do sleep 0.05; done; echo finished`;
  const held: Promise<Answer>[] = [];
  const before = await commandsRunning(replica);
  for (const caller of callers) {
    await caller.at(replica, async () => {
      held.push(caller.call("execute_command", { command }));
      await new Promise<void>((resolve) => held.push(caller.call("execute_command", { command }, resolve)));
    });
  }
  for (const call of held) call.catch(() => {});
  await expect.poll(() => commandsRunning(replica)).toBe(before + held.length);
  return held;
}

let newer: Awaited<ReturnType<typeof connectModern>>;
let older: Awaited<ReturnType<typeof connectOlder>>;
let first: HttpCaller;
let steady: readonly Steady[];

beforeAll(async () => {
  workspaces = await realpath(await mkdtemp(join(tmpdir(), "mcp-replicas-test-")));
  proxy = await startServiceProxy();
  replicas = await Promise.all([startReplica(), startReplica()]);
  [newer, older, first] = await Promise.all([connectModern(), connectOlder(replicas[0]), connectFirst()]);
  await newer.call("file_operation", { operation: "write", path: WATCHED, content: "0" });
  steady = [newer, older, first, connectWebSocket()].map((caller) => new Steady(caller));
});

afterAll(async () => {
  await Promise.allSettled(steady.map((each) => each.end()));
  await Promise.allSettled(closing.map((close) => close()));
  proxy.close();
  await Promise.all(ends.map((end) => end()));
  await rm(workspaces, { recursive: true, force: true });
});

const WATCHED = "watched.txt";
let version = 0;
/** Resolves when the older client hears of a change that is made now. */
async function hearsOfChange(): Promise<void> {
  older.updated.length = 0;
  await newer.call("file_operation", { operation: "write", path: WATCHED, content: "x".repeat(++version) });
  await expect.poll(() => older.updated).toContain(`workspace:///${WATCHED}`);
}

/** Far less than the minute after which clients give up by themselves. */
const SOON_MS = 5000;

test("a replica that is killed takes along the calls in flight on it, which fail at once, and nothing else", async () => {
  const [killed] = replicas;
  const session = older.transport.sessionId;
  // Where the gateway sends what is of one session, until the replicas are others.
  await older.at(killed, () => older.client.subscribeResource({ uri: `workspace:///${WATCHED}` }));
  const held = await hold([newer, older, first], killed, "never");
  void killed.stop("SIGKILL");
  const outcomes = await Promise.race([
    Promise.all(
      held.map((call) =>
        call.then(
          ({ isError }) => (isError ? "failed" : "fine"),
          () => "failed",
        ),
      ),
    ),
    setTimeout(SOON_MS, "hanging"),
  ]);
  expect(outcomes).toEqual(held.map(() => "failed"));
  replicas = [await startReplica(), replicas[1]];
  // The stream goes on at another replica, which cannot know what was missed meanwhile.
  await expect.poll(() => older.updated).not.toEqual([]);
  await hearsOfChange();
  await Promise.all(steady.map((each) => each.more(20)));

  expect(older.transport.sessionId).toBe(session);
  // Each has one call in flight, at most; over HTTP the proxy knows which were the killed one's.
  for (const { failed } of steady) expect(failed.length).toBeLessThanOrEqual(1);
  const overHttp = steady.filter(({ caller }) => caller.name !== "socket").flatMap(({ failed }) => failed);
  const reasons = overHttp.map(({ why }) => inspect(why));
  expect(reasons, reasons.join("\n")).toHaveLength(proxy.posts(new URL(killed.url)).cutOff);
});

test("replicas that are replaced one after the other lose no call, not even a long one", async () => {
  const made = steady.map((each) => each.failed.length);
  const callers = [newer, older, first];
  const listening = newer.at(replicas[0], () =>
    newer.client.listen({ resourceSubscriptions: [`workspace:///${WATCHED}`] }),
  );
  for (const [at, replica] of replicas.entries()) {
    const held = await hold(callers, replica, `go-${at}`);
    if (at === 0) await ask(replica);
    await startReplica();
    void replica.stop();
    await proxy.out(new URL(replica.url));
    // The user answers while the replica that asked takes no request any more: another one takes the answer.
    older.user.agrees.resolve();
    await newer.call("file_operation", { operation: "write", path: `go-${at}`, content: "" });
    for (const call of held) expect((await call).structuredContent).toMatchObject({ stdout: "started\nfinished\n" });
    expect((await asked)?.structuredContent).toMatchObject({ operation: "delete" });
    expect(await replica.exited).toEqual({ code: 0, signal: null });
  }
  expect(await (await listening).closed).toBe("graceful");
  await hearsOfChange();
  await Promise.all(steady.map((each) => each.more(20)));
  await Promise.all(steady.map((each) => each.end()));
  expect(steady.flatMap((each, at) => each.failed.slice(made[at]))).toEqual([]);
  for (const each of steady) await each.expectEachOnce();
});

let asked: Promise<Answer> | undefined;

/** Has the older client's user asked by that replica, whose question stays open. */
async function ask(replica: ServerProcess): Promise<void> {
  await newer.call("file_operation", { operation: "write", path: "build/a", content: "" });
  await older.at(replica, async () => {
    asked = older.call("file_operation", { operation: "delete", path: "build", recursive: true });
    await older.user.asked.promise;
  });
}
