import { mkdtemp, realpath, rm } from "node:fs/promises";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { onTestFinished } from "vitest";
import { type App, buildApp } from "../../server/app.ts";
import { type Config, parseEnvironment } from "../../server/config.ts";
import type { LineWatcher, LineWriter } from "../../server/observability/line-writer.ts";
import { createLogger } from "../../server/observability/logging.ts";
import { resourceSources } from "../../server/resources/index.ts";
import { createFileWatch } from "../../server/services/watch.ts";
import type { Tool } from "../../server/tools/define-tool.ts";
import type { AtEnd } from "../infra/cli/server-process.ts";

/** A directory of this test's own, gone when the test has ended. */
export async function temporaryDirectory(atEnd: AtEnd = onTestFinished): Promise<string> {
  const directory = await realpath(await mkdtemp(join(tmpdir(), "mcp-server-test-")));
  atEnd(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

export interface TestApp extends App {
  readonly config: Config;
  /** What the log and the audit trail have told so far, an event a line, in one stream as in a server's. */
  events(): Record<string, unknown>[];
}

/** The server's own resources, whose changes are noticed soon. */
export const quickSources = () => resourceSources(createFileWatch({ intervalMs: 100 }));

/** Builds the server with `env` over the defaults, a workspace of its own, and ports that are free. */
export async function testApp(
  env: Record<string, string> = {},
  tools?: readonly Tool[],
  options: Omit<Parameters<typeof buildApp>[0], "config" | "log"> = {},
  atEnd: AtEnd = onTestFinished,
): Promise<TestApp> {
  const workspace = await temporaryDirectory(atEnd);
  const config = parseEnvironment({ WORKSPACE_PATH: workspace, PORT: "0", METRICS_PORT: "0", ...env });
  const lines: string[] = [];
  const stream = streamTo(lines);
  const built = await buildApp({
    config,
    log: createLogger(config, stream),
    stream,
    sources: quickSources(),
    ...(tools && { tools }),
    ...options,
  });
  built.readiness.start();
  atEnd(async () => {
    built.services.commands.killAllNow();
    built.app.server.closeAllConnections();
    await built.app.close();
    await built.operator.close();
  });
  return Object.assign(built, {
    config,
    events: () => lines.map((line) => JSON.parse(line) as Record<string, unknown>),
  });
}

/** A standard stream that is always read. */
function streamTo(lines: string[]): LineWriter {
  const watchers: LineWatcher[] = [];
  return {
    write(line) {
      lines.push(line.trimEnd());
      for (const watcher of watchers) watcher.written();
      return true;
    },
    flush() {},
    flushSync() {},
    redirect() {},
    failure: undefined,
    watch: (watcher) => void watchers.push(watcher),
  };
}

/** Listens, and returns the URL of the endpoint. */
export async function listening({ app, config }: TestApp): Promise<URL> {
  await app.listen({ host: config.HOST, port: 0 });
  const { port } = app.server.address() as AddressInfo;
  return new URL(`http://127.0.0.1:${port}/mcp`);
}

/** One JSON-RPC request of the older protocol, as `inject` takes it. */
export function rpc(method: string, params: Record<string, unknown> = {}, headers: Record<string, string> = {}) {
  return {
    method: "POST" as const,
    url: "/mcp",
    headers: {
      host: "127.0.0.1",
      "content-type": "application/json",
      accept: "application/json, text/event-stream",
      ...headers,
    },
    payload: JSON.stringify({ jsonrpc: "2.0", id: 1, method, params }),
  };
}

/** The JSON-RPC message of an answer, which may come as JSON or as one server-sent event. */
export function messageIn(body: string): {
  result?: Record<string, unknown>;
  error?: { code: number; message: string };
} {
  const data = body.split("\n").find((line) => line.startsWith("data:"));
  return JSON.parse(data === undefined ? body : data.slice("data:".length));
}
