import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { autocannonClient, type Client, wrkClient } from "./load.ts";
import { benchPackage } from "./packages.ts";
import { type Workload, workloads } from "./workloads.ts";

/* `npm run bench`: how fast this server is, beside others on the same machine, asked by the same client. */

const USAGE = `npm run bench -- [options]

Measures a bare Fastify route, this server with everything on, the SDK's own handler and fastmcp, one after the other:
as one process, and as two behind a proxy that hands out connections in turns.

  --seconds N       time for each measurement (3)
  --rounds N        measurements of each, in turns; the one in the middle counts (3)
  --connections N   kept-alive connections (64)
  --client NAME     autocannon or wrk (autocannon)
  --only TEXT       only requests whose name contains TEXT, such as "tools/call" or 2026
  --servers LIST    which servers, comma-separated (fastify,this,sdk,fastmcp)
  --processes LIST  as how many processes, comma-separated (1,2); more than one are behind the proxy
  --json            the result as JSON
  --help            this text`;

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "3" },
    rounds: { type: "string", default: "3" },
    connections: { type: "string", default: "64" },
    client: { type: "string", default: "autocannon" },
    only: { type: "string", default: "" },
    servers: { type: "string", default: "fastify,this,sdk,fastmcp" },
    processes: { type: "string", default: "1,2" },
    json: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});

interface Row {
  readonly workload: string;
  readonly server: string;
  /** More than one are behind the proxy. */
  readonly processes: number;
  readonly requestsPerSecond: number;
  readonly p99Ms: number;
  readonly failed: number;
  /** CPU time of the server's processes for one request, without the proxy's: says the same on a machine that others use as well. */
  readonly cpuMicros: number;
  /** To bare Fastify as as many processes, in the same run. */
  readonly ratio: number | undefined;
  readonly cpuRatio: number | undefined;
}

const WARM_UP_SECONDS = 2;

const TITLES: Readonly<Record<string, string>> = {
  fastify: "bare Fastify route",
  this: "this server, everything on",
  sdk: "SDK's handler, nothing on",
  fastmcp: "fastmcp",
};

if (values.help) console.log(USAGE);
else await bench();

async function bench(): Promise<void> {
  const seconds = Number(values.seconds);
  const connections = Number(values.connections);
  const client = values.client === "wrk" ? wrkClient() : autocannonClient();
  const names = values.servers.split(",").filter((name) => {
    if (name !== "fastmcp" || benchPackage("fastmcp") !== undefined) return true;
    console.error("fastmcp is not installed and is left out.");
    return false;
  });
  const chosen = workloads.filter(({ name }) => name.includes(values.only));
  const answers = await answersTo(chosen);
  const rows: Row[] = [];
  const cases = values.processes
    .split(",")
    .flatMap((processes) => chosen.map((workload) => ({ processes: Number(processes), workload })));
  for (const { processes, workload } of cases) {
    let base: Row | undefined;
    const rounds = new Map<string, Measured[]>();
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const server of names) {
        if (cannot(server, workload)) continue;
        const measured = await measure(server, workload, { client, seconds, connections, answers, processes });
        rounds.set(server, [...(rounds.get(server) ?? []), measured]);
        if (!values.json)
          console.error(`${workload.name}: ${processes} x ${server} ${Math.round(measured.requestsPerSecond)}/s`);
      }
    }
    for (const server of names) {
      if (cannot(server, workload)) continue;
      const measured = middle(rounds.get(server) ?? []);
      const row: Row = {
        ...measured,
        ratio: base && measured.requestsPerSecond / base.requestsPerSecond,
        cpuRatio: base && base.cpuMicros / measured.cpuMicros,
      };
      if (server === "fastify") base = row;
      rows.push(row);
    }
  }
  console.log(
    values.json ? JSON.stringify({ node: process.version, seconds, connections, rows }, null, 2) : table(rows),
  );
  if (rows.some(({ failed }) => failed > 0)) process.exitCode = 1;
}

type Measured = Awaited<ReturnType<typeof measure>>;

/** By CPU time, which says more than requests a second where others use the machine as well. */
function middle(measured: readonly Measured[]): Measured {
  const sorted = measured.toSorted((a, b) => a.cpuMicros - b.cpuMicros);
  const found = sorted[sorted.length >> 1];
  if (found === undefined) throw new Error("--rounds must be at least 1.");
  return found;
}

/** fastmcp does not speak the newest version. */
function cannot(server: string, workload: Workload): boolean {
  return server === "fastmcp" && workload.name.includes("2026");
}

interface Settings {
  readonly client: Client;
  readonly seconds: number;
  readonly connections: number;
  readonly answers: string;
  readonly processes: number;
}

async function measure(
  server: string,
  workload: Workload,
  { client, seconds, connections, answers, processes }: Settings,
) {
  const started = processes === 1 ? await start(server, answers) : await startBehindProxy(server, answers, processes);
  try {
    const load = { url: started.url, workload, connections };
    await client({ ...load, seconds: WARM_UP_SECONDS });
    const before = await started.usage();
    const result = await client({ ...load, seconds });
    const after = await started.usage();
    const requests = result.requestsPerSecond * seconds;
    const cpuMicros = (after.cpuMicros - before.cpuMicros) / requests;
    return { workload: workload.name, server, processes, ...result, cpuMicros };
  } finally {
    started.stop();
  }
}

interface Usage {
  readonly cpuMicros: number;
}

/** What requests are sent to. */
interface Started {
  readonly url: string;
  usage(): Promise<Usage>;
  stop(): void;
}

/** The proxy does the same for each of the servers, and its CPU time is nobody's. */
async function startBehindProxy(server: string, answers: string, processes: number): Promise<Started> {
  const each = await Promise.all(Array.from({ length: processes }, () => start(server, answers)));
  const proxy = await startScript(
    "round-robin.ts",
    each.map(({ url }) => new URL(url).port),
  );
  return {
    url: proxy.url,
    async usage() {
      const used = await Promise.all(each.map((one) => one.usage()));
      return { cpuMicros: used.reduce((sum, { cpuMicros }) => sum + cpuMicros, 0) };
    },
    stop() {
      for (const one of [proxy, ...each]) one.stop();
    },
  };
}

function start(server: string, answers?: string): Promise<Started> {
  return startScript("serve.ts", [server], answers);
}

async function startScript(script: string, args: readonly string[], answers = "{}"): Promise<Started> {
  const child = fork(fileURLToPath(new URL(script, import.meta.url)), args, {
    stdio: ["ignore", "ignore", "inherit", "ipc"],
    env: { ...process.env, NODE_ENV: "production", BENCH_ANSWERS: answers },
  });
  const told = <T>() =>
    new Promise<T>((resolve, reject) => {
      child.once("message", (message) => resolve(message as T));
      child.once("exit", (code) => reject(new Error(`${script} ${args.join(" ")} ended with code ${code}.`)));
    });
  const { port } = await told<{ port: number }>();
  return {
    url: `http://127.0.0.1:${port}/mcp`,
    usage: () => {
      const usage = told<Usage>();
      child.send("usage");
      return usage;
    },
    stop: () => child.disconnect(),
  };
}

/** What this server answers, which the bare route then answers as well. */
async function answersTo(asked: readonly Workload[]): Promise<string> {
  const server = await start("this");
  try {
    const answers: Record<string, unknown> = {};
    for (const { name, headers, body } of asked) {
      const response = await fetch(server.url, { method: "POST", headers, body });
      if (!response.ok) throw new Error(`${name}: status ${response.status}: ${await response.text()}`);
      const { method, params } = JSON.parse(body);
      answers[`${method} ${params._meta !== undefined}`] = await response.json();
    }
    return JSON.stringify(answers);
  } finally {
    server.stop();
  }
}

function table(rows: readonly Row[]): string {
  const number = (value: number | undefined, digits: number) => (value === undefined ? "" : value.toFixed(digits));
  const lines = rows.map((row) => [
    row.workload,
    row.processes === 1 ? "1" : `${row.processes}, proxy`,
    TITLES[row.server] ?? row.server,
    number(row.requestsPerSecond, 0),
    number(row.p99Ms, 1),
    number(row.ratio ?? 1, 2),
    number(row.cpuMicros, 0),
    number(row.cpuRatio ?? 1, 2),
    row.failed === 0 ? "" : `${row.failed} failed`,
  ]);
  const head = ["request", "processes", "server", "requests/s", "p99 ms", "ratio", "CPU µs", "CPU ratio", ""];
  const widths = head.map((title, column) =>
    Math.max(...[head, ...lines].map((line) => (line[column] ?? title).length)),
  );
  const shown = (line: readonly string[]) => `| ${line.map((cell, at) => cell.padEnd(widths[at] ?? 0)).join(" | ")} |`;
  return [shown(head), shown(widths.map((width) => "-".repeat(width))), ...lines.map(shown)].join("\n");
}
