import { Agent } from "node:http";
import { z } from "zod";
import { type Doubles, type JobEnd, now } from "./job-end.ts";
import { post } from "./post.ts";
import { type ScriptProcess, startScript } from "./processes.ts";
import { jobSubmission } from "./workloads.ts";

/*
 * Jobs that do nothing, from the request that submits one to its end. By Service Bus and Table storage: a server, one
 * worker, and the doubles in processes of their own. In memory: a server that runs its jobs itself.
 */

const BACKINGS = ["Service Bus", "memory"] as const;
type Backing = (typeof BACKINGS)[number];

export interface JobRow {
  readonly workload: string;
  /** Each submits its next job when its last one has ended. */
  readonly submitters: number;
  /** Jobs that the worker runs at once. */
  readonly concurrency: number;
  readonly jobsPerSecond: number;
  /** From the request that submits a job. */
  readonly startP50Ms: number;
  readonly startP99Ms: number;
  readonly doneP50Ms: number;
  readonly doneP99Ms: number;
  /** CPU time for one job. */
  readonly cpuMicros: {
    readonly server: number;
    readonly worker: number | undefined;
    readonly doubles: number | undefined;
  };
}

export interface JobBenchOptions {
  readonly seconds: number;
  readonly warmUpSeconds: number;
  readonly rounds: number;
  /** At saturation; at rest, there is one. */
  readonly submitters: number;
  readonly concurrency: number;
  /** Only those whose name contains it. */
  readonly only: string;
  readonly tell: (line: string) => void;
}

/** What to measure, and the one of its rounds in the middle. */
export async function benchJobs({ rounds, submitters, only, tell, ...options }: JobBenchOptions): Promise<JobRow[]> {
  const rows: JobRow[] = [];
  for (const backing of BACKINGS) {
    for (const each of [submitters, 1]) {
      const workload = `jobs, ${backing}`;
      if (!workload.includes(only)) continue;
      const measured: JobRow[] = [];
      for (let round = 0; round < rounds; round++) {
        const row = await measure(workload, backing, each, options);
        measured.push(row);
        tell(`${workload}: ${each} at once ${Math.round(row.jobsPerSecond)}/s`);
      }
      const middle = measured.toSorted((a, b) => a.jobsPerSecond - b.jobsPerSecond)[rounds >> 1];
      if (middle !== undefined) rows.push(middle);
    }
  }
  return rows;
}

async function measure(
  workload: string,
  backing: Backing,
  submitters: number,
  { seconds, warmUpSeconds, concurrency }: Pick<JobBenchOptions, "seconds" | "warmUpSeconds" | "concurrency">,
): Promise<JobRow> {
  const started: ScriptProcess<unknown>[] = [];
  const start = async <Ready>(role: string, env: Readonly<Record<string, string>>) => {
    const process = await startScript<Ready>("serve-jobs.ts", [role], env);
    started.push(process);
    return process;
  };
  try {
    const doubles = backing === "memory" ? undefined : await start<Doubles>("doubles", {});
    const env = { ...doubles?.ready.env, JOB_CONCURRENCY: String(concurrency) };
    const server = await start<{ readonly port: number }>("server", env);
    const worker = doubles && (await start("worker", env));
    const processes = { server, worker, doubles };
    const ends = new Ends(worker ?? server);
    const load = { url: `http://127.0.0.1:${server.ready.port}/mcp`, submitters, ends };
    await submitFor({ ...load, seconds: warmUpSeconds });
    const before = await usageOf(processes);
    const began = now();
    const done = await submitFor({ ...load, seconds });
    const lasted = (now() - began) / 1000;
    const after = await usageOf(processes);
    const toStart = quantiles(done.map(({ startMs }) => startMs));
    const toEnd = quantiles(done.map(({ doneMs }) => doneMs));
    const cpu = (name: keyof typeof processes) => {
      const [first, last] = [before[name], after[name]];
      return first === undefined || last === undefined ? undefined : (last - first) / done.length;
    };
    return {
      workload,
      submitters,
      concurrency,
      jobsPerSecond: done.length / lasted,
      startP50Ms: toStart(0.5),
      startP99Ms: toStart(0.99),
      doneP50Ms: toEnd(0.5),
      doneP99Ms: toEnd(0.99),
      cpuMicros: { server: cpu("server") ?? 0, worker: cpu("worker"), doubles: cpu("doubles") },
    };
  } finally {
    for (const each of started.reverse()) each.stop();
  }
}

interface Done {
  readonly startMs: number;
  readonly doneMs: number;
}

/** Submits for so long, and waits for the end of all that was submitted. */
async function submitFor({
  url,
  submitters,
  seconds,
  ends,
}: {
  readonly url: string;
  readonly submitters: number;
  readonly seconds: number;
  readonly ends: Ends;
}): Promise<Done[]> {
  const agent = new Agent({ keepAlive: true, maxSockets: submitters });
  const until = now() + seconds * 1000;
  const done: Done[] = [];
  const submitter = async () => {
    while (now() < until) {
      const submittedAt = now();
      const answer = await post(agent, url, jobSubmission);
      const submitted = Submitted.safeParse(JSON.parse(answer));
      if (!submitted.success) throw new Error(`No job was submitted: ${answer}`);
      const { startedAt, endedAt } = await ends.of(submitted.data.result.structuredContent.id);
      done.push({ startMs: startedAt - submittedAt, doneMs: endedAt - submittedAt });
    }
  };
  try {
    await Promise.all(Array.from({ length: submitters }, submitter));
  } finally {
    agent.destroy();
  }
  return done;
}

const Submitted = z.object({ result: z.object({ structuredContent: z.object({ id: z.string() }) }) });

/** A job that has not ended by then is lost. */
const PATIENCE_MS = 30_000;

/** The ends of jobs, which may be told before whoever submitted one knows its id. */
class Ends {
  readonly #untold = new Map<string, JobEnd>();
  readonly #waiting = new Map<string, (end: JobEnd) => void>();

  constructor(runner: ScriptProcess<unknown>) {
    runner.onMessage((message) => {
      if (!(message instanceof Object && "job" in message)) return;
      const end = message as JobEnd;
      const waiting = this.#waiting.get(end.job);
      if (waiting === undefined) this.#untold.set(end.job, end);
      else waiting(end);
      this.#waiting.delete(end.job);
    });
  }

  async of(job: string): Promise<JobEnd> {
    const end = this.#untold.get(job) ?? (await this.#told(job));
    this.#untold.delete(job);
    if (end.outcome !== "succeeded") throw new Error(`Job ${job} of the bench ended as ${end.outcome}.`);
    return end;
  }

  #told(job: string): Promise<JobEnd> {
    return new Promise((resolve, reject) => {
      const late = new Error(`Job ${job} of the bench has not ended in ${PATIENCE_MS / 1000} s.`);
      const timer = setTimeout(() => reject(late), PATIENCE_MS);
      this.#waiting.set(job, (end) => {
        clearTimeout(timer);
        resolve(end);
      });
    });
  }
}

/** CPU time so far, by name. Microseconds. */
async function usageOf<Name extends string>(
  processes: Readonly<Record<Name, ScriptProcess<unknown> | undefined>>,
): Promise<Partial<Record<Name, number>>> {
  const used: Partial<Record<Name, number>> = {};
  for (const name in processes) used[name] = (await processes[name]?.usage())?.cpuMicros;
  return used;
}

/** The smallest value that so much of all are no greater than. */
function quantiles(values: readonly number[]): (share: number) => number {
  const sorted = values.toSorted((a, b) => a - b);
  return (share) => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
}
