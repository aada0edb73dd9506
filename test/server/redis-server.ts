import { type ChildProcess, execFile, type StdioOptions, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

/** Why there is no Redis to test with; undefined when there is one. */
export const noRedis: string | undefined = await promisify(execFile)("redis-server", ["--version"]).then(
  () => undefined,
  () => "redis-server is not on PATH; Debian has it in the package redis-server",
);
if (noRedis !== undefined) console.warn(`SKIPPED: tests against a real Redis, since ${noRedis}.`);

/** A Redis of this test's own on loopback, which keeps nothing and can be ended and begun again. */
export interface RedisServer {
  readonly port: number;
  start(): Promise<void>;
  /** Ends it as a crash does. */
  kill(): Promise<void>;
  /** Has it stop answering, with its connections open, and go on. */
  freeze(): void;
  thaw(): void;
  /** Ends it for good. */
  close(): Promise<void>;
}

/** `more` gives what stands on its command line beside what makes it a test's. */
export async function redisServer(more: (port: number) => readonly string[] = () => []): Promise<RedisServer> {
  const port = await freePort();
  const directory = await mkdtemp(join(tmpdir(), "mcp-redis-test-"));
  let running: ChildProcess | undefined;
  const start = async () => {
    const options = ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    const stdio: StdioOptions = ["ignore", "pipe", "ignore"];
    const child = spawn("redis-server", [...options, "--dir", directory, ...more(port)], { stdio });
    running = child;
    let said = "";
    for await (const chunk of child.stdout ?? []) {
      said += String(chunk);
      if (said.includes("Ready to accept connections")) return;
    }
    throw new Error(`redis-server did not start: ${said}`);
  };
  const kill = async () => {
    if (running === undefined) return;
    const ended = once(running, "exit");
    running.kill("SIGKILL");
    running = undefined;
    await ended;
  };
  await start();
  return {
    port,
    start,
    kill,
    freeze: () => void running?.kill("SIGSTOP"),
    thaw: () => void running?.kill("SIGCONT"),
    async close() {
      await kill();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  if (address === null || typeof address === "string") throw new Error("There is no free port.");
  return address.port;
}
