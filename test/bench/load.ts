import { spawn, spawnSync } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { benchPackage } from "./packages.ts";
import type { Workload } from "./workloads.ts";

/** What one client saw of one server. */
export interface Load {
  readonly requestsPerSecond: number;
  readonly p99Ms: number;
  readonly failed: number;
}

export interface LoadOptions {
  readonly url: string;
  readonly workload: Workload;
  readonly seconds: number;
  readonly connections: number;
}

/** Sends requests over kept-alive connections, one at a time on each, for that many seconds. */
export type Client = (options: LoadOptions) => Promise<Load>;

interface AutocannonResult {
  requests: { total: number };
  duration: number;
  latency: { p99: number };
  errors: number;
  timeouts: number;
  non2xx: number;
}
type Autocannon = (options: Record<string, unknown>) => Promise<AutocannonResult>;

export function autocannonClient(): Client {
  const autocannon = benchPackage<Autocannon>("autocannon");
  if (autocannon === undefined) throw new Error("autocannon is not installed; run npm ci, or use --client wrk.");
  return async ({ url, workload: { headers, body }, seconds, connections }) => {
    const result = await autocannon({ url, method: "POST", headers, body, duration: seconds, connections });
    return {
      requestsPerSecond: result.requests.total / result.duration,
      p99Ms: result.latency.p99,
      failed: result.errors + result.timeouts + result.non2xx,
    };
  };
}

/** wrk, where it is installed: in C, so it leaves more of a small machine to the server. */
export function wrkClient(): Client {
  if (spawnSync("wrk", ["-v"]).error) throw new Error("wrk is not installed; leave --client out to use autocannon.");
  return async ({ url, workload: { headers, body }, seconds, connections }) => {
    const directory = await mkdtemp(join(tmpdir(), "bench-"));
    try {
      const script = join(directory, "request.lua");
      const lua = [
        'wrk.method = "POST"',
        `wrk.body = [==[${body}]==]`,
        ...Object.entries(headers).map(
          ([name, value]) => `wrk.headers[${JSON.stringify(name)}] = ${JSON.stringify(value)}`,
        ),
        "done = function(summary, latency)",
        "  local e = summary.errors",
        '  io.write(string.format("RESULT %d %d %d %d\\n", summary.requests, summary.duration,',
        "    latency:percentile(99), e.connect + e.read + e.write + e.timeout + e.status))",
        "end",
      ];
      await writeFile(script, lua.join("\n"));
      const output = await outputOf("wrk", ["-t1", `-c${connections}`, `-d${seconds}s`, "-s", script, url]);
      const [, total, micros, p99, failed] = /RESULT (\d+) (\d+) (\d+) (\d+)/.exec(output)?.map(Number) ?? [];
      if (total === undefined || micros === undefined) throw new Error(`wrk gave no result:\n${output}`);
      return { requestsPerSecond: total / (micros / 1e6), p99Ms: (p99 ?? 0) / 1000, failed: failed ?? 0 };
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  };
}

function outputOf(program: string, args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"] });
    let output = "";
    child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
    child.once("error", reject);
    child.once("close", () => resolve(output));
  });
}
