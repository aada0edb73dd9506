import { parseArgs } from "node:util";
import { benchJobs, type JobRow } from "./jobs.ts";
import { autocannonClient, type Client, wrkClient } from "./load.ts";
import { benchPackage } from "./packages.ts";
import { startScript, type Usage } from "./processes.ts";
import { type Workload, workloads } from "./workloads.ts";

/* `npm run bench`: how fast this server is, beside others on the same machine, asked by the same client. */

const USAGE = `npm run bench -- [options]

Measures a bare Fastify route, this server with everything on, the SDK's own handler and fastmcp, one after the other:
as one process, and as two behind a proxy that hands out connections in turns. Then jobs that do nothing, from the
request that submits one to its end: brought by the doubles of Service Bus and Table storage to one worker, and in the
memory of a server by itself; as many at once as there are connections, and one after the other.

  --seconds N       time for each measurement (3)
  --rounds N        measurements of each, in turns; the one in the middle counts (3)
  --connections N   kept-alive connections (64)
  --client NAME     autocannon or wrk (autocannon)
  --only TEXT       only requests whose name contains TEXT, such as "tools/call", 2026 or jobs
  --servers LIST    which servers, comma-separated (fastify,this,sdk,fastmcp)
  --processes LIST  as how many processes, comma-separated (1,2); more than one are behind the proxy
  --job-concurrency N  jobs that the worker runs at once (4, which is the server's default)
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
    "job-concurrency": { type: "string", default: "4" },
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
  const answers = chosen.length === 0 ? "{}" : await answersTo(chosen);
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
  const jobs = !names.includes("this")
    ? []
    : await benchJobs({
        seconds,
        warmUpSeconds: WARM_UP_SECONDS,
        rounds: Number(values.rounds),
        submitters: connections,
        concurrency: Number(values["job-concurrency"]),
        only: values.only,
        tell: (line) => {
          if (!values.json) console.error(line);
        },
      });
  if (values.json) console.log(JSON.stringify({ node: process.version, seconds, connections, rows, jobs }, null, 2));
  else {
    const tables = [rows.length > 0 && table(rows), jobs.length > 0 && jobTable(jobs)];
    console.log(tables.filter(Boolean).join("\n\n"));
  }
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
    url: urlOf(proxy.ready),
    async usage() {
      const used = await Promise.all(each.map((one) => one.usage()));
      return { cpuMicros: used.reduce((sum, { cpuMicros }) => sum + cpuMicros, 0) };
    },
    stop() {
      for (const one of [proxy, ...each]) one.stop();
    },
  };
}

async function start(server: string, answers = "{}"): Promise<Started> {
  const process = await startScript("serve.ts", [server], { BENCH_ANSWERS: answers });
  return { url: urlOf(process.ready), usage: process.usage, stop: process.stop };
}

function urlOf({ port }: { readonly port: number }): string {
  return `http://127.0.0.1:${port}/mcp`;
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

function number(value: number | undefined, digits: number): string {
  return value === undefined ? "" : value.toFixed(digits);
}

function table(rows: readonly Row[]): string {
  const head = ["request", "processes", "server", "requests/s", "p99 ms", "ratio", "CPU µs", "CPU ratio"];
  const lines = rows.map((row) => [
    row.workload,
    row.processes === 1 ? "1" : `${row.processes}, proxy`,
    TITLES[row.server] ?? row.server,
    number(row.requestsPerSecond, 0) + (row.failed === 0 ? "" : `, ${row.failed} failed`),
    number(row.p99Ms, 1),
    number(row.ratio ?? 1, 2),
    number(row.cpuMicros, 0),
    number(row.cpuRatio ?? 1, 2),
  ]);
  return markdown(head, lines);
}

function jobTable(rows: readonly JobRow[]): string {
  const times = ["start p50 ms", "start p99 ms", "done p50 ms", "done p99 ms"];
  const head = ["by", "at once", "run at once", "jobs/s", ...times, "CPU µs: server", "worker", "doubles"];
  const lines = rows.map((row) => [
    row.workload,
    String(row.submitters),
    String(row.concurrency),
    number(row.jobsPerSecond, 0),
    ...[row.startP50Ms, row.startP99Ms, row.doneP50Ms, row.doneP99Ms].map((time) => number(time, 1)),
    ...[row.cpuMicros.server, row.cpuMicros.worker, row.cpuMicros.doubles].map((micros) => number(micros, 0)),
  ]);
  return markdown(head, lines);
}

function markdown(head: readonly string[], lines: readonly (readonly string[])[]): string {
  const widths = head.map((title, column) =>
    Math.max(...[head, ...lines].map((line) => (line[column] ?? title).length)),
  );
  const shown = (line: readonly string[]) => `| ${line.map((cell, at) => cell.padEnd(widths[at] ?? 0)).join(" | ")} |`;
  return [shown(head), shown(widths.map((width) => "-".repeat(width))), ...lines.map(shown)].join("\n");
}
