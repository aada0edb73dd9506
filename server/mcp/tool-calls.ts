import {
  type CallToolResult,
  type InputRequiredResult,
  inputRequired,
  ProtocolError,
} from "@modelcontextprotocol/server";
import type { FastifyBaseLogger } from "fastify";
import type { Metrics, ToolStatus } from "../observability/metrics.ts";
import { InputNeeded } from "../tools/client-channel.ts";
import { type Caller, type Tool, type ToolContext, ToolFailure, type ToolResult } from "../tools/define-tool.ts";
import { type CallGate, CallRefused, type Entered } from "./call-gate.ts";
import { lengthOf, linkTo } from "./long-results.ts";

export interface ToolCallsOptions {
  readonly gate: CallGate;
  readonly metrics: Metrics;
  readonly log: FastifyBaseLogger;
}

/** How a call ended, or that it did not begin. */
export interface Outcome {
  readonly status: ToolStatus;
  /** Absent when `error` is the protocol's own, to be thrown. */
  readonly result?: CallToolResult | InputRequiredResult;
  /** What was thrown, if something was: by the gate a {@link CallRefused} or a {@link ProtocolError}, or by the tool. */
  readonly error?: unknown;
  /** Bytes of what the caller gets, or a little less. */
  readonly bytes: number;
}

/** Passes the gate, which puts the call on record, runs a tool, and counts the call: for requests and jobs alike. */
export type CarryOut = (name: string, args: unknown, context: ToolContext) => Promise<Outcome>;

/** Bytes of a job's result. It is kept whole, and cut to an answer's length when somebody asks for it. */
const JOB_RESULT_BYTES = 16 * 1024 * 1024;

export function createToolCalls({ gate, metrics, log }: ToolCallsOptions): CarryOut {
  return async (name, args, context) => {
    const { caller, traceId, run } = context;
    const tool = gate.find(caller, name);
    if (tool === undefined) {
      metrics.toolCalled(name, "failed", 0);
      return { status: "failed", error: gate.unknown(caller, name, traceId), bytes: 0 };
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
        return { status: "failed", result: failure(error.message, error.output), error, bytes: 0 };
      }
      return { status: "failed", error, bytes: 0 };
    }
    const outcome = await outcomeOf(tool, args, context, run === undefined ? context.resultLimit : JOB_RESULT_BYTES);
    const { status, error, bytes } = outcome;
    const durationMs = performance.now() - started;
    entered.left({ status, durationMs, bytes });
    metrics.toolCalled(name, status, durationMs / 1000);
    if (status === "broken") logBroken(log, caller, name, error);
    return outcome;
  };
}

async function outcomeOf(tool: Tool, args: unknown, context: ToolContext, resultLimit: number): Promise<Outcome> {
  // What is malformed has no length, and is the SDK's to refuse.
  const ended = (status: ToolStatus, result: ToolResult, length = lengthOf(result)) => {
    return { status, result, bytes: length || 0 };
  };
  try {
    const result = await tool.respond(args, context);
    const length = lengthOf(result);
    if (length > resultLimit) return ended("ok", await linkTo(result, resultLimit, context));
    return ended("ok", result, length);
  } catch (error) {
    if (context.signal.aborted) return { ...ended("cancelled", failure("The call was cancelled.")), error };
    if (error instanceof ToolFailure) return { ...ended("failed", failure(error.message, error.output)), error };
    if (error instanceof InputNeeded) return { status: "asked", result: askedFor(error), error, bytes: 0 };
    if (error instanceof ProtocolError) return { status: "failed", error, bytes: 0 };
    // What broke is for the log; a stack or a path is nothing to tell a caller.
    const said = failure(`${tool.name} failed by a fault of its own; the server's log has the details.`);
    return { ...ended("broken", said), error };
  }
}

export function askedFor({ requests, state }: InputNeeded): InputRequiredResult {
  return inputRequired({
    ...(requests !== undefined && { inputRequests: requests }),
    ...(state !== undefined && { requestState: state }),
  });
}

/** Logs that a call was not let in, where the audit trail does not tell: it failed, or something else did. */
export function logRefusal(log: FastifyBaseLogger, caller: Caller, tool: string, error: unknown): void {
  // A denial.
  if (error instanceof ProtocolError) return;
  const why = error instanceof CallRefused ? error.why : "fault";
  if (why === "argument" || why === "limit") return;
  const { subject, method, keyId } = caller;
  log.error({ event: "tool.refused", tool, why, subject, method, keyId, err: error });
}

/** Logs a fault, of which the audit trail tells no more than that there was one. */
export function logBroken(log: FastifyBaseLogger, caller: Caller, tool: string, error: unknown): void {
  const { subject, method, keyId } = caller;
  log.error({ event: "tool.broken", tool, subject, method, keyId, err: error });
}

export function failure(sentence: string, output?: Record<string, unknown>): CallToolResult {
  const content: CallToolResult["content"] = [{ type: "text", text: sentence }];
  if (output === undefined) return { content, isError: true };
  content.push({ type: "text", text: JSON.stringify(output) });
  return { content, structuredContent: output, isError: true };
}
