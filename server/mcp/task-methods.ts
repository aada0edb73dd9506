import { setTimeout as passing } from "node:timers/promises";
import {
  type CallToolRequestParams,
  type ClientCapabilities,
  ProtocolError,
  ProtocolErrorCode,
  RELATED_TASK_META_KEY,
  type Result,
} from "@modelcontextprotocol/server";
import type { FastifyBaseLogger } from "fastify";
import { z } from "zod";
import type { Metrics } from "../observability/metrics.ts";
import { digestOf } from "../services/arguments-digest.ts";
import type { Job } from "../services/jobs/job.ts";
import { JobRefused, type Jobs, JobsUnavailable, type Submitter } from "../services/jobs/jobs.ts";
import { type Tool, ToolFailure } from "../tools/define-tool.ts";
import { submitterOf } from "../tools/job-answers.ts";
import { type CallGate, CallRefused, type Entered } from "./call-gate.ts";
import { channelOf } from "./channel.ts";
import { type Answering, answeringFor, type Exchange } from "./exchange.ts";
import { lengthOf, linkTo } from "./long-results.ts";
import { failure } from "./outcome.ts";
import { TRANSPORT_ERROR } from "./refusals.ts";
import { isEnded, newerTask, type Outcome, olderStatus, olderTask, outcomeOf, TASKS_EXTENSION } from "./task-forms.ts";
import { missingTasks } from "./task-news.ts";
import { TaskCreated } from "./task-server.ts";
import { logBroken, logRefusal } from "./tool-calls.ts";

interface TaskMethodsOptions {
  readonly jobs: Jobs;
  readonly gate: CallGate;
  readonly metrics: Pick<Metrics, "toolCalled">;
  readonly log: FastifyBaseLogger;
  /** How long a task is kept, from its creation at the least. Milliseconds. */
  readonly keptMs: number;
}

/** Calls that go on without their request: jobs, as clients see them that speak the protocol's tasks. */
export interface TaskMethods {
  readonly methods: readonly Answering[];
  /**
   * Takes a call as a task, if that is what its client wants (2025-11-25) or allows (2026-07-28), and throws
   * {@link TaskCreated}. Resolves to the answer that the call has instead, where it was refused; undefined: it is a call
   * like any other.
   */
  begin(params: CallToolRequestParams, exchange: Exchange): Promise<Result> | undefined;
  /** Sends away who waits for a task's end: it may take longer than this server is there, and any other knows of it. */
  endWaits(): void;
}

/** Tasks in one answer to `tasks/list`. */
const PAGE_SIZE = 50;
/** Between looks at a task that a client waits for. Milliseconds; each is longer than the last. */
const LOOK_MS = { first: 100, growth: 1.5, most: 2000 };

const TaskParams = z.object({ taskId: z.string() });
const ListParams = z.object({ cursor: z.string().optional() });

export function taskMethods({ jobs, gate, metrics, log, keptMs }: TaskMethodsOptions): TaskMethods {
  const ending = new AbortController();

  /** The task of that id, if it is the caller's own: an admin's view of others' jobs is for the tools. */
  async function own(by: Submitter, id: string): Promise<Job> {
    const job = await jobs.get(by, id);
    if (job === undefined || job.owner !== by.owner) throw noTask(id);
    return job;
  }

  /** Waits for a task's end, and tells its client of what happens meanwhile. */
  async function ended(by: Submitter, id: string, exchange: Exchange): Promise<Job> {
    const { mcpReq } = exchange.context;
    const signal = AbortSignal.any([mcpReq.signal, ending.signal]);
    const channel = channelOf(exchange);
    let told: number | undefined;
    let pause = LOOK_MS.first;
    for (;;) {
      const job = await own(by, id);
      if (olderStatus(job) !== "working") return job;
      if (job.version !== told) {
        told = job.version;
        const task = { ...olderTask(job, keptMs, Date.now()) };
        // Who has gone away is told of nothing, and the signal says so.
        await mcpReq.notify({ method: "notifications/tasks/status", params: task }).catch(() => {});
        if (job.progress !== undefined) await channel.progress(definedOnly(job.progress));
      }
      await passing(pause, undefined, { signal }).catch((error: unknown) => {
        if (mcpReq.signal.aborted) throw error;
        throw new ProtocolError(
          TRANSPORT_ERROR,
          "This server is about to end, and the task goes on: ask for it again.",
        );
      });
      pause = Math.min(LOOK_MS.most, pause * LOOK_MS.growth);
    }
  }

  /** What a task's tool gave, as an answer to a call of it would have it: a job's result is kept whole. */
  async function answerOf(job: Job, exchange: Exchange): Promise<Outcome> {
    const result = await jobs.result(job);
    if (result === undefined) return outcomeOf(job, result);
    const context = await exchange.call();
    if (lengthOf(result) <= context.resultLimit) return outcomeOf(job, result);
    const link = await linkTo(result, context.resultLimit, { ...context, client: channelOf(exchange) });
    return outcomeOf(job, link);
  }

  /** Puts a method behind the gate. `take` is called by who speaks tasks in an era that has the method. */
  function method<Params extends object>(
    name: string,
    era: "older" | "newer" | "both",
    schema: z.ZodType<Params>,
    take: (params: Params, by: Submitter, exchange: Exchange) => Promise<Result>,
  ): Answering {
    return answeringFor(name, schema, async (params, exchange) => {
      if (isNewer(exchange)) assertSpoken(exchange);
      else if (era === "newer") throw new ProtocolError(ProtocolErrorCode.MethodNotFound, "Method not found");
      const started = performance.now();
      const entered = await enter(name, params, exchange);
      try {
        const result = await take(params, submitterOf(exchange.caller), exchange);
        entered.left({ status: "ok", durationMs: performance.now() - started });
        return result;
      } catch (error) {
        const { aborted } = exchange.context.mcpReq.signal;
        const told = error instanceof ProtocolError || error instanceof JobsUnavailable || error instanceof JobRefused;
        const status = aborted ? "cancelled" : told ? "failed" : "broken";
        entered.left({ status, durationMs: performance.now() - started });
        if (error instanceof JobsUnavailable) throw new ProtocolError(TRANSPORT_ERROR, error.message);
        if (error instanceof JobRefused) throw new ProtocolError(ProtocolErrorCode.InvalidParams, error.message);
        if (status !== "broken") throw error;
        logBroken(log, exchange.caller, name, error);
        throw new ProtocolError(ProtocolErrorCode.InternalError, `${name} failed by a fault of this server.`);
      }
    });
  }

  async function enter(name: string, params: object, exchange: Exchange): Promise<Entered> {
    const { caller } = exchange;
    const safeArguments: Record<string, string> = {};
    if ("taskId" in params) safeArguments.task = String(params.taskId).slice(0, ID_CHARACTERS);
    try {
      return await gate.enterMethod({ caller, tool: name, traceId: exchange.traceId() }, () => ({
        // A task's end is asked for by its owner, and is on record with the job.
        changes: false,
        argumentDigest: digestOf(params),
        safeArguments,
      }));
    } catch (error) {
      logRefusal(log, caller, name, error);
      throw error instanceof ToolFailure ? asProtocolError(error) : error;
    }
  }

  const methods = [
    method("tasks/get", "both", TaskParams, async ({ taskId }, by, exchange) => {
      const job = await own(by, taskId);
      if (!isNewer(exchange)) return { ...olderTask(job, keptMs, Date.now()) };
      const outcome = isEnded(job) ? await answerOf(job, exchange) : undefined;
      return { ...newerTask(job, outcome, keptMs, Date.now()) };
    }),
    method("tasks/cancel", "both", TaskParams, async ({ taskId }, by, exchange) => {
      const found = await own(by, taskId);
      if (isNewer(exchange)) {
        if (!isEnded(found)) await jobs.cancel(by, taskId);
        return {};
      }
      const refuse = (job: Job) => {
        const message = `Task ${JSON.stringify(taskId)} has ended already: it is ${olderStatus(job)}.`;
        return new ProtocolError(ProtocolErrorCode.InvalidParams, message);
      };
      if (olderStatus(found) !== "working") throw refuse(found);
      const cancelled = (await jobs.cancel(by, taskId)) ?? found;
      // It ended meanwhile.
      if (olderStatus(cancelled) !== "cancelled") throw refuse(cancelled);
      return { ...olderTask(cancelled, keptMs, Date.now()) };
    }),
    method("tasks/update", "newer", TaskParams, async ({ taskId }, by) => {
      // No task of this server asks for anything, and answers that nobody waits for are passed over (SEP-2663).
      await own(by, taskId);
      return {};
    }),
    method("tasks/result", "older", TaskParams, async ({ taskId }, by, exchange) => {
      const job = await ended(by, taskId, exchange);
      const related = { [RELATED_TASK_META_KEY]: { taskId } };
      if (olderStatus(job) === "cancelled") return { ...failure("The call was cancelled."), _meta: related };
      const { result, error } = await answerOf(job, exchange);
      if (error !== undefined) throw new ProtocolError(error.code, error.message);
      return { ...result, _meta: { ...result._meta, ...related } };
    }),
    method("tasks/list", "older", ListParams, async ({ cursor }, by) => {
      const page = await jobs.list(by, { limit: PAGE_SIZE, cursor });
      const tasks = page.jobs.map((job) => olderTask(job, keptMs, Date.now()));
      return { tasks, ...(page.cursor !== undefined && { nextCursor: page.cursor }) };
    }),
  ];

  async function submit(tool: Tool, args: unknown, exchange: Exchange): Promise<Result> {
    const { caller } = exchange;
    const traceId = exchange.traceId();
    const started = performance.now();
    const since = () => performance.now() - started;
    const refused = (error: ToolFailure): Result => {
      // A client that asked for a task takes nothing else for an answer.
      if (!isNewer(exchange)) throw asProtocolError(error);
      return failure(error.message, error.output);
    };
    let entered: Entered;
    try {
      entered = await gate.enter({ tool, args, caller, traceId });
    } catch (error) {
      metrics.toolCalled(tool.name, "failed", since() / 1000);
      logRefusal(log, caller, tool.name, error);
      if (error instanceof ToolFailure) return refused(error);
      throw error;
    }
    const left = (status: "queued" | "failed" | "broken") => {
      entered.left({ status, durationMs: since() });
      metrics.toolCalled(tool.name, status, since() / 1000);
    };
    let job: Job;
    try {
      const idempotencyKey = tool.idempotencyKey?.(args);
      ({ job } = await jobs.submit(submitterOf(caller), { tool: tool.name, args, idempotencyKey, traceId }));
    } catch (error) {
      if (error instanceof JobRefused) {
        left("failed");
        return refused(new CallRefused("argument", error.message));
      }
      if (error instanceof JobsUnavailable) {
        left("failed");
        return refused(new ToolFailure(error.message));
      }
      left("broken");
      logBroken(log, caller, tool.name, error);
      return refused(new ToolFailure(`${tool.name} was not run: no job could be made of it; try again later.`));
    }
    left("queued");
    if (isNewer(exchange)) {
      throw new TaskCreated({ resultType: "task", ...newerTask(job, undefined, keptMs, Date.now()) });
    }
    const task = olderTask(job, keptMs, Date.now());
    throw new TaskCreated({ task, _meta: { [RELATED_TASK_META_KEY]: { taskId: job.id } } });
  }

  return {
    methods,
    endWaits: () => ending.abort(),
    begin({ name, arguments: args, task }, exchange) {
      const tool = gate.find(exchange.caller, name);
      if (tool === undefined) return undefined;
      const { job = false } = tool;
      if (isNewer(exchange)) {
        if (job === "only") assertSpoken(exchange);
        else if (!job || !speaksTasks(channelOf(exchange).capabilities)) return undefined;
        return becomesTask(tool, args) ? submit(tool, args, exchange) : undefined;
      }
      if (task === undefined && job !== "only") return undefined;
      if (task !== undefined && job) return submit(tool, args, exchange);
      const message = job
        ? `${name} takes long, and is called as a task only, or by submit_job.`
        : `${name} cannot be called as a task: call it without one.`;
      throw new ProtocolError(ProtocolErrorCode.MethodNotFound, message);
    },
  };
}

/** Whether a call becomes a task where its client leaves that to the server. */
export function becomesTask(tool: Tool, args: unknown): boolean {
  return tool.job === "only" || (tool.job === true && tool.asTask?.(args) !== false);
}

/** Whether a client of the 2026-07-28 protocol says that it takes a task in place of a result. */
export function speaksTasks(capabilities: ClientCapabilities | undefined): boolean {
  const extensions = capabilities?.extensions;
  return extensions !== undefined && Object.hasOwn(extensions, TASKS_EXTENSION);
}

/** Only the 2026-07-28 protocol has an envelope. */
function isNewer({ context }: Exchange): boolean {
  return context.mcpReq.envelope !== undefined;
}

function assertSpoken(exchange: Exchange): void {
  if (!speaksTasks(channelOf(exchange).capabilities)) throw missingTasks();
}

/** For whoever may not see a task, there is none. */
function noTask(id: string): ProtocolError {
  const message = `You have no task ${JSON.stringify(id.slice(0, ID_CHARACTERS))}, or have one no longer.`;
  return new ProtocolError(ProtocolErrorCode.InvalidParams, message);
}

/** Longest part of an id from the network that a message repeats. */
const ID_CHARACTERS = 64;

function asProtocolError(refusal: ToolFailure): ProtocolError {
  const why = refusal instanceof CallRefused ? refusal.why : "fault";
  const code = why === "argument" ? ProtocolErrorCode.InvalidParams : TRANSPORT_ERROR;
  return new ProtocolError(code, refusal.message, refusal.output);
}

/** What zod leaves undefined is no part of a message. */
function definedOnly({ progress, total, message }: NonNullable<Job["progress"]>) {
  return { progress, ...(total !== undefined && { total }), ...(message !== undefined && { message }) };
}
