import { pino } from "pino";
import { onTestFinished } from "vitest";
import { z } from "zod";
import { parseAccessPolicy } from "../../server/auth/roles.ts";
import { createTellOf } from "../../server/jobs/job-events.ts";
import { createJobTools } from "../../server/jobs/job-tools.ts";
import { createSweeper } from "../../server/jobs/sweeper.ts";
import { createToolRun } from "../../server/jobs/tool-run.ts";
import { createWorker, type Worker } from "../../server/jobs/worker.ts";
import { createCallGate } from "../../server/mcp/call-gate.ts";
import { createMetrics } from "../../server/observability/metrics.ts";
import type { Job, LoggedEvent } from "../../server/services/jobs/job.ts";
import { createJobs, type JobRequest, type Submitter } from "../../server/services/jobs/jobs.ts";
import type { JobRules } from "../../server/services/jobs/next-step.ts";
import type { JobQueue } from "../../server/services/jobs/queue.ts";
import { createMemoryQueue } from "../../server/services/jobs/queue-memory.ts";
import type { JobStore } from "../../server/services/jobs/store.ts";
import { createMemoryStore } from "../../server/services/jobs/store-memory.ts";
import { defineTool, type Tool, type ToolContext } from "../../server/tools/define-tool.ts";
import { submitterOf } from "../../server/tools/job-answers.ts";
import type { AtEnd } from "../infra/cli/server-process.ts";
import { callerNamed } from "./callers.ts";
import { contextWith, toolCallsBehind } from "./tool-context.ts";

/** What the tool of a test does when it is run under a name. */
export type Behaviours = Record<string, (context: ToolContext) => Promise<string> | string>;

/** A tool that may be a job, and does as it is told. */
export function taskTool(behaviours: Behaviours): Tool {
  return defineTool({
    name: "task",
    title: "Task",
    description: "Does what the test says.",
    input: z.object({ name: z.string(), note: z.string().optional() }),
    output: z.object({ said: z.string() }),
    annotations: { readOnlyHint: false, destructiveHint: true, idempotentHint: false, openWorldHint: false },
    role: "operator",
    job: true,
    facets: { name: ({ name }) => name },
    async run({ name }, context) {
      return { said: (await behaviours[name]?.(context)) ?? "nothing" };
    },
  });
}

interface PartsOptions {
  readonly store?: JobStore;
  readonly queue?: JobQueue;
  readonly leaseMs?: number;
  readonly attempts?: number;
  readonly tools?: readonly Tool[];
}

const DEADLINE_SECONDS = 600;

export type JobParts = ReturnType<typeof jobParts>;

/** Jobs on memory, and workers to run them: everything but processes. */
export function jobParts(behaviours: Behaviours, options: PartsOptions = {}, atEnd: AtEnd = onTestFinished) {
  const { store = createMemoryStore(), queue = createMemoryQueue(), tools = [taskTool(behaviours)] } = options;
  const rules: JobRules = {
    leaseMs: options.leaseMs ?? 60_000,
    attempts: options.attempts ?? 3,
    retryDelayMs: () => 5,
  };
  const events: Record<string, unknown>[] = [];
  const log = pino({ base: null }, { write: (line) => void events.push(JSON.parse(line)) });
  const metrics = createMetrics(tools.map(({ name }) => name));
  const gate = createCallGate({ tools, policy: parseAccessPolicy(undefined), facetContext: { shell: true } });
  const carryOut = toolCallsBehind(gate, { metrics, log });
  const run = createToolRun({
    carryOut,
    contextOf: async (caller) => contextWith({ caller, workspace: {} as ToolContext["workspace"] }),
  });
  const jobTools = createJobTools(tools, gate);
  const tellOf = createTellOf(log, metrics);
  const jobs = createJobs({
    open: async () => ({ store, queue }),
    tools: jobTools,
    rules,
    deadlineSeconds: DEADLINE_SECONDS,
    observe: { changed: tellOf, unavailable: (err) => log.warn({ event: "jobs.unavailable", err }) },
  });
  const workers: Worker[] = [];
  atEnd(async () => void (await Promise.all(workers.map((worker) => worker.stop(0)))));

  const by = (name: string): Submitter => submitterOf(callerNamed(name));
  return {
    store,
    queue,
    jobs,
    metrics,
    events,
    logger: log,
    rules,
    by,
    sweeper(its: { queue?: JobQueue } = {}) {
      const backing = { store, queue: its.queue ?? queue };
      return createSweeper({ backing, rules, deadlineSeconds: DEADLINE_SECONDS, retentionDays: 7, log, tellOf });
    },
    /** One more worker; `its` is where it differs, in what it has of store and queue say. */
    worker(
      its: {
        store?: JobStore;
        queue?: JobQueue;
        concurrency?: number;
        knows?: (tool: string) => boolean;
        settleMs?: number;
      } = {},
    ) {
      const knows = its.knows ?? ((tool) => jobTools.names.includes(tool));
      const backing = { store: its.store ?? store, queue: its.queue ?? queue };
      const worker = createWorker({
        backing,
        rules,
        concurrency: its.concurrency ?? 4,
        ...(its.settleMs !== undefined && { settleMs: its.settleMs }),
        run,
        knows,
        metrics,
        log,
        tellOf,
      });
      workers.push(worker);
      worker.start();
      return worker;
    },
    /** Submits the task of that name, as the operator unless somebody else is named. */
    async submit(
      name: string,
      { as = "operator", ...request }: Partial<JobRequest> & { as?: string } = {},
    ): Promise<Job> {
      const asked = { tool: "task", args: { name }, ...request };
      return (await jobs.submit(by(as), asked)).job;
    },
    async state(job: Job): Promise<Job> {
      const stored = await store.read(job);
      if (stored === undefined) throw new Error(`Job ${job.id} is gone.`);
      return stored.job;
    },
    async log(job: Job): Promise<string[]> {
      const told: LoggedEvent[] = [];
      for await (const each of store.events({ ref: job })) told.push(each);
      return told.map(({ event }) => event.type);
    },
  };
}

/** Resolved from outside. */
export function gate() {
  let open = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { open, opened };
}

/** Resolves when the signal aborts, as a tool does that listens to it. */
export const untilAborted = (signal: AbortSignal) =>
  new Promise<never>((_resolve, reject) => {
    const end = () => reject(new Error("It was aborted."));
    if (signal.aborted) end();
    else signal.addEventListener("abort", end, { once: true });
  });
