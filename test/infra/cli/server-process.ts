import { spawn } from "node:child_process";
import { EventEmitter, once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { afterAll, beforeAll, onTestFinished } from "vitest";
import { CHECKOUT } from "../../../infra/cli/checkout.ts";

/** The bundled server, or another entry of its, in a process of its own. */
export interface ServerProcess {
  readonly url: string;
  readonly metricsUrl: string;
  readonly pid: number;
  /** What it has logged, one event an item. */
  readonly events: readonly Record<string, unknown>[];
  /** Resolves with the first event of that name, past or to come. */
  event(name: string): Promise<Record<string, unknown>>;
  /** Resolves when it has ended. */
  readonly exited: Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null }>;
  /** Tells it to end, and resolves when it has ended. */
  stop(signal?: NodeJS.Signals): Promise<number | null>;
}

/**
 * Has `end` called when what was made is needed no more. Tests that run at the same time as others give the
 * `onTestFinished` of their own context: Vitest's global one cannot tell them apart.
 */
export type AtEnd = (end: () => Promise<void>) => void;

/** A directory of this test's own, gone when the test has ended. */
export async function temporaryDirectory(atEnd: AtEnd = onTestFinished): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "mcp-kit-test-"));
  atEnd(() => rm(directory, { recursive: true, force: true, maxRetries: 3 }));
  return directory;
}

/** Starts `entry` and waits until it listens; `left` descriptors beside the standard ones stay open in it. */
export async function startServer(
  env: Record<string, string> = {},
  entry: readonly string[] = [join(CHECKOUT, "server/main.js")],
  atEnd: AtEnd = onTestFinished,
  left = 0,
): Promise<ServerProcess> {
  const child = spawn(process.execPath, entry, {
    env: {
      PATH: process.env.PATH,
      WORKSPACE_PATH: env.WORKSPACE_PATH ?? (await temporaryDirectory(atEnd)),
      PORT: "0",
      METRICS_PORT: "0",
      SHUTDOWN_GRACE_SECONDS: "2",
      ...env,
    },
    stdio: ["ignore", "pipe", "pipe", ...Array.from({ length: left }, () => "pipe" as const)],
  });
  let text = "";
  child.stderr?.setEncoding("utf8").on("data", (chunk: string) => {
    text += chunk;
  });
  const exited = once(child, "close").then(([code, signal]: (number | NodeJS.Signals | null)[]) => ({
    code: typeof code === "number" ? code : null,
    signal: typeof signal === "string" ? signal : null,
  }));
  atEnd(async () => {
    child.kill("SIGKILL");
    await exited;
  });
  const events: Record<string, unknown>[] = [];
  const told = new EventEmitter();
  if (child.stdout === null) throw new Error("The server has no output.");
  createInterface({ input: child.stdout }).on("line", (line) => {
    text += `${line}\n`;
    if (!line.startsWith("{")) return;
    const event = JSON.parse(line) as Record<string, unknown>;
    events.push(event);
    told.emit(String(event.event), event);
  });
  const eventNamed = async (name: string) => {
    const past = events.find(({ event }) => event === name);
    return past ?? ((await once(told, name)) as Record<string, unknown>[])[0] ?? {};
  };
  const listening = await Promise.race([
    eventNamed("server.listening"),
    eventNamed("worker.listening"),
    exited.then(({ code }) => {
      throw new Error(`The server ended with ${code}: ${text}`);
    }),
  ]);
  return {
    url: String(listening.url),
    metricsUrl: String(listening.metricsUrl),
    pid: child.pid ?? 0,
    events,
    event: eventNamed,
    exited,
    stop(signal = "SIGTERM") {
      child.kill(signal);
      return exited.then(({ code }) => code);
    },
  };
}

/** Starts the server again where one was. */
export function startAgain(server: ServerProcess, atEnd?: AtEnd): Promise<ServerProcess> {
  const ports = { PORT: new URL(server.url).port, METRICS_PORT: new URL(server.metricsUrl).port };
  return startServer(ports, undefined, atEnd);
}

/** One server for all tests of a file that leave it as it was. */
export function sharedServer(...[env, entry]: Parameters<typeof startServer>): () => ServerProcess {
  const ends: (() => Promise<void>)[] = [];
  let server: ServerProcess | undefined;
  beforeAll(async () => {
    server = await startServer(env, entry, (end) => ends.push(end));
  });
  // What was made last goes first.
  afterAll(async () => {
    for (const end of ends.reverse()) await end();
  });
  return () => {
    if (server === undefined) throw new Error("The server that is shared has not started.");
    return server;
  };
}

/** Commands that run on that server now. */
export async function commandsRunning({ metricsUrl }: Pick<ServerProcess, "metricsUrl">): Promise<number> {
  const response = await fetch(new URL("/health/detailed", metricsUrl));
  return ((await response.json()) as { commands: { running: number } }).commands.running;
}

/** Status of the answer that a server gives to a request with that key. */
export async function statusOf(url: string | URL, key: string): Promise<number> {
  const headers = {
    authorization: `Bearer ${key}`,
    "content-type": "application/json",
    accept: "application/json, text/event-stream",
  };
  const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/list", params: {} });
  return (await fetch(url, { method: "POST", headers, body })).status;
}
