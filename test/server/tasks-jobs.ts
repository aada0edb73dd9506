import type { CallToolResult } from "@modelcontextprotocol/server";
import { pino } from "pino";
import { after, FINAL_STATES, type Job, type JobEvent, newJobId, partitionOf } from "../../server/services/jobs/job.ts";
import { JobRefused, type Jobs, type Submitter } from "../../server/services/jobs/jobs.ts";
import { type Tool, ToolFailure } from "../../server/tools/define-tool.ts";
import { SILENT_CLIENT } from "./tool-context.ts";

/** Jobs of one process, run at once. */
export function jobsOf(tools: readonly Tool[]): Jobs {
  const all = new Map<string, Job>();
  const results = new Map<string, CallToolResult>();
  const aborts = new Map<string, AbortController>();
  const at = () => new Date().toISOString();
  const apply = (id: string, event: JobEvent): Job => {
    const job = all.get(id);
    if (job === undefined) throw new Error("gone");
    const next = after(job, event, job);
    all.set(id, next);
    return next;
  };
  async function run(tool: Tool, id: string, args: unknown, by: Submitter) {
    const abort = new AbortController();
    aborts.set(id, abort);
    await new Promise((resolve) => setImmediate(resolve));
    if (all.get(id)?.state !== "queued") return;
    const { attempts: attempt } = apply(id, { type: "started", attempt: 1, worker: "w", at: at() });
    const client = {
      ...SILENT_CLIENT,
      progress: async (progress: object) =>
        void apply(id, { type: "progressed", attempt, progress: progress as never, at: at() }),
    };
    const context = { caller: by.caller, signal: abort.signal, log: pino({ level: "silent" }), client } as never;
    try {
      const result = await tool.respond(args, context);
      results.set(id, result);
      apply(id, { type: "completed", attempt, outcome: "succeeded", at: at() });
    } catch (error) {
      if (abort.signal.aborted) apply(id, { type: "cancelled", at: at() });
      else if (error instanceof ToolFailure) {
        results.set(id, { isError: true, content: [{ type: "text", text: error.message }] });
        apply(id, { type: "completed", attempt, outcome: "failed", reason: error.message, at: at() });
      } else apply(id, { type: "dead-lettered", reason: "broke", at: at() });
    }
  }
  const visible = (by: Submitter, id: string) => {
    const job = all.get(id);
    if (job === undefined || job.partition !== partitionOf(by.caller)) return undefined;
    return job.owner === by.owner || by.caller.role === "admin" ? job : undefined;
  };
  return {
    tools: tools.filter(({ job }) => job).map(({ name }) => name),
    async submit(by, { tool: name, args }) {
      const tool = tools.find((each) => each.name === name);
      if (tool === undefined) throw new JobRefused(`no ${name}`);
      const partition = partitionOf(by.caller);
      const ref = { partition, id: newJobId(Date.now()) };
      const event: JobEvent = {
        type: "submitted",
        at: at(),
        owner: by.owner,
        tool: name,
        caller: by.caller,
        argumentsDigest: "",
        submittedAt: at(),
        deadline: at(),
        repeatable: true,
      };
      const job = after(undefined, event, ref);
      all.set(ref.id, job);
      void run(tool, ref.id, args, by);
      return { job, existing: false };
    },
    get: async (by, id) => visible(by, id),
    result: async ({ id }) => results.get(id),
    async list(by, { limit, cursor }) {
      const mine = [...all.values()].filter((job) => job.owner === by.owner).sort((a, b) => (a.id < b.id ? -1 : 1));
      const from = cursor === undefined ? 0 : Number(cursor);
      const next = from + limit;
      return { jobs: mine.slice(from, next), ...(next < mine.length && { cursor: String(next) }) };
    },
    async cancel(by, id) {
      const job = visible(by, id);
      if (job === undefined || FINAL_STATES.has(job.state)) return job;
      const asked = apply(id, { type: "cancel-requested", by: by.owner, at: at() });
      aborts.get(id)?.abort();
      return asked.state === "queued" ? apply(id, { type: "cancelled", at: at() }) : asked;
    },
  };
}
