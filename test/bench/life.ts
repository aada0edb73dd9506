import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { Agent } from "node:http";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { environment } from "./environment.ts";
import { post } from "./post.ts";
import { type Workload, workloads } from "./workloads.ts";

/*
 * `npm run bench:life`: how long the server takes from its start to being ready, and how much memory it holds, at rest
 * and after 200,000 calls.
 */

const STARTS = 7;
const CALLS = 200_000;
const ROUNDS = 4;
const CONNECTIONS = 64;
/** The collector gives memory back while nothing happens. */
const REST_MS = 2000;

const starts: number[] = [];
for (let turn = 0; turn < STARTS; turn++) {
  const server = await start();
  starts.push(server.milliseconds);
  await server.stop();
}
starts.sort((a, b) => a - b);
console.log(
  `start to ready: median ${starts[STARTS >> 1]?.toFixed(0)} ms, of ${STARTS}: ${starts.map(Math.round).join(", ")}`,
);

const server = await start();
await rest();
console.log(`resident at rest: ${await residentMiB(server.pid)} MiB`);
const calls = workloads.filter(({ name }) => name.startsWith("tools/call")).map(asSystemInfo);
for (let round = 1; round <= ROUNDS; round++) {
  await send(server.port, calls, CALLS / ROUNDS);
  await rest();
  console.log(`resident after ${(CALLS / ROUNDS) * round} calls: ${await residentMiB(server.pid)} MiB`);
}
await server.stop();

/** A tool that every server has. */
function asSystemInfo(workload: Workload): Workload {
  const message = JSON.parse(workload.body);
  message.params.name = "system_info";
  message.params.arguments = {};
  const headers = { ...workload.headers, ...(workload.headers["mcp-name"] && { "mcp-name": "system_info" }) };
  return { ...workload, headers, body: JSON.stringify(message) };
}

async function start() {
  const began = performance.now();
  const child = spawn(process.execPath, [fileURLToPath(new URL("../../server/main.js", import.meta.url))], {
    stdio: ["ignore", "pipe", "inherit"],
    env: {
      ...process.env,
      ...environment,
      NODE_ENV: "production",
      PORT: "0",
      METRICS_PORT: "0",
    },
  });
  // Whatever ends the bench, it leaves no server behind.
  process.once("exit", () => child.kill());
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const lines = createInterface(child.stdout);
  const port = await new Promise<string>((resolve, reject) => {
    lines.on("line", (line) => {
      const { event, url } = JSON.parse(line);
      if (event === "server.listening") resolve(new URL(url).port);
    });
    child.once("exit", (code) => reject(new Error(`The server ended with code ${code}.`)));
  });
  return {
    port,
    pid: child.pid ?? 0,
    milliseconds: performance.now() - began,
    stop: () => {
      child.kill("SIGTERM");
      return ended;
    },
  };
}

async function send(port: string, messages: readonly Workload[], count: number): Promise<void> {
  const agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS });
  let left = count;
  const sender = async () => {
    while (left-- > 0) {
      const message = messages[left % messages.length];
      if (message !== undefined) await post(agent, `http://127.0.0.1:${port}/mcp`, message);
    }
  };
  await Promise.all(Array.from({ length: CONNECTIONS }, sender));
  agent.destroy();
}

function rest(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, REST_MS));
}

/** As the kernel counts it; only Linux tells it in this place. */
async function residentMiB(pid: number): Promise<string> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return (Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) / 1024).toFixed(0);
}
