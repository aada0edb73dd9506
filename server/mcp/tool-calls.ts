import { ProtocolError } from "@modelcontextprotocol/server";
import type { FastifyBaseLogger } from "fastify";
import { AuditUnavailable } from "../observability/audit.ts";
import type { Metrics } from "../observability/metrics.ts";
import { ConnectorUnavailable } from "../services/resilience.ts";
import { InputNeeded } from "../tools/client-channel.ts";
import { type Caller, type Tool, type ToolContext, ToolFailure } from "../tools/define-tool.ts";
import { type CallGate, CallRefused, type Entered } from "./call-gate.ts";
import type { IdempotentCalls } from "./idempotent-calls.ts";
import { lengthOf, linkTo } from "./long-results.ts";
import { askedFor, failure, type Outcome } from "./outcome.ts";
import type { ResultCache } from "./result-cache.ts";

export interface ToolCallsOptions {
  readonly gate: CallGate;
  readonly metrics: Metrics;
  readonly log: FastifyBaseLogger;
  readonly idempotentCalls: IdempotentCalls;
  readonly resultCache: ResultCache;
}

/** Passes the gate, which puts the call on record, runs a tool, and counts the call: for requests and jobs alike. */
export type CarryOut = (name: string, args: unknown, context: ToolContext) => Promise<Outcome>;

/** Bytes of a job's result. It is kept whole, and cut to an answer's length when somebody asks for it. */
const JOB_RESULT_BYTES = 16 * 1024 * 1024;

export function createToolCalls(options: ToolCallsOptions): CarryOut {
  const { gate, metrics, log, idempotentCalls, resultCache } = options;
  /** What comes of a call that was let in, which need not have it run. */
  const comeOf = (tool: Tool, args: unknown, context: ToolContext): Promise<Outcome> => {
    // A job has its own key, and its own fence.
    if (context.run !== undefined) return outcomeOf(tool, args, context, JOB_RESULT_BYTES);
    const { resultLimit } = context;
    const key = tool.idempotencyKey?.(args);
    if (key === undefined && tool.cacheSeconds === undefined) return outcomeOf(tool, args, context, resultLimit);
    const run = () => outcomeOf(tool, args, context, resultLimit);
    if (key !== undefined) return idempotentCalls.run({ tool, args, key, context }, run);
    return resultCache.run({ tool, args, context }, run);
  };

  return async (name, args, context) => {
    const { caller, traceId, run } = context;
    const tool = gate.find(caller, name);
    if (tool === undefined) {
      metrics.toolCalled(name, "failed", 0);
      return { status: "failed", error: gate.unknown(caller, name, traceId) };
    }
    const started = performance.now();
    let entered: Entered;
    try {
      const entering = gate.enter({ tool, args, caller, traceId, ...(run && { run }) });
      entered = entering instanceof Promise ? await entering : entering;
    } catch (error) {
      metrics.toolCalled(name, "failed", (performance.now() - started) / 1000);
      logRefusal(log, caller, name, error);
      if (error instanceof ToolFailure) {
        return { status: "failed", result: failure(error.message, error.output), error };
      }
      return { status: "failed", error };
    }
    const outcome = await comeOf(tool, args, context);
    const { status, error } = outcome;
    const durationMs = performance.now() - started;
    entered.left({ status, durationMs });
    metrics.toolCalled(name, status, durationMs / 1000);
    if (status === "broken") logBroken(log, caller, name, error);
    return outcome;
  };
}

async function outcomeOf(tool: Tool, args: unknown, context: ToolContext, resultLimit: number): Promise<Outcome> {
  try {
    const result = await tool.respond(args, context);
    // What is malformed has no length, and is the SDK's to refuse.
    const isLong = lengthOf(result) > resultLimit;
    return { status: "ok", result: isLong ? await linkTo(result, resultLimit, context) : result };
  } catch (error) {
    if (context.signal.aborted) return { status: "cancelled", result: failure("The call was cancelled."), error };
    if (error instanceof ToolFailure) return { status: "failed", result: failure(error.message, error.output), error };
    if (error instanceof ConnectorUnavailable) {
      const { message, retryAfterSeconds } = error;
      const said = failure(`${tool.name} could not do its work: ${message}`, { retryAfterSeconds });
      return { status: "failed", result: said, error };
    }
    if (error instanceof InputNeeded) return { status: "asked", result: askedFor(error), error };
    if (error instanceof ProtocolError) return { status: "failed", error };
    // What broke is for the log; a stack or a path is nothing to tell a caller.
    const said = failure(`${tool.name} failed by a fault of its own; the server's log has the details.`);
    return { status: "broken", result: said, error };
  }
}

/** Logs that a call was not let in, where the audit trail does not tell: it failed, or something else did. */
export function logRefusal(log: FastifyBaseLogger, caller: Caller, tool: string, error: unknown): void {
  // A denial.
  if (error instanceof ProtocolError) return;
  // One by a rule or a limit.
  if (error instanceof CallRefused) return;
  const why = error instanceof AuditUnavailable ? "audit" : "fault";
  const { subject, method, keyId } = caller;
  log.error({ event: "tool.refused", tool, why, subject, method, keyId, err: error });
}

/** Logs a fault, of which the audit trail tells no more than that there was one. */
export function logBroken(log: FastifyBaseLogger, caller: Caller, tool: string, error: unknown): void {
  const { subject, method, keyId } = caller;
  log.error({ event: "tool.broken", tool, subject, method, keyId, err: error });
}
