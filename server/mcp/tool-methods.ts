import {
  type CallToolResult,
  type InputRequiredResult,
  inputRequired,
  ProtocolError,
} from "@modelcontextprotocol/server";
import type { FastifyBaseLogger } from "fastify";
import type { Role } from "../config.ts";
import type { Metrics, ToolStatus } from "../observability/metrics.ts";
import { ConnectorUnavailable } from "../services/resilience.ts";
import { InputNeeded } from "../tools/client-channel.ts";
import { type Caller, type Tool, type ToolContext, ToolFailure, type ToolResult } from "../tools/define-tool.ts";
import { type CallGate, CallRefused, type Entered } from "./call-gate.ts";
import { channelOf } from "./channel.ts";
import { type Answering, answering } from "./exchange.ts";
import type { IdempotentCalls } from "./idempotent-calls.ts";
import { lengthOf, linkTo } from "./long-results.ts";
import { pagesOf } from "./pages.ts";
import type { ResultCache } from "./result-cache.ts";
import type { ScopeFor } from "./step-up.ts";

interface ToolMethodsOptions {
  readonly gate: CallGate;
  readonly metrics: Metrics;
  readonly log: FastifyBaseLogger;
  /** Bytes of a result's content; what is longer is kept in the workspace, and the answer is a link to it. */
  readonly resultLimit: number;
  readonly idempotentCalls: IdempotentCalls;
  readonly resultCache: ResultCache;
}

export interface ToolMethods {
  readonly methods: readonly Answering[];
  /** Whether there is such a tool for the caller. */
  has(caller: Caller, name: string): boolean;
  /** For `tools/call`. */
  readonly scopeFor: ScopeFor;
  /** Passes the gate, which puts the call on record, runs a tool, and counts the call. */
  call(name: string, args: unknown, context: ToolContext): Promise<CallToolResult | InputRequiredResult>;
}

/** `tools/list` and `tools/call`: the tools by name, and what happens around each call. */
export function toolMethods(options: ToolMethodsOptions): ToolMethods {
  const { gate, metrics, log, resultLimit, idempotentCalls, resultCache } = options;
  const { shown } = gate;
  const pagesFor = (role: Role) => pagesOf(shown[role].map((tool) => tool.listing));
  const pages = { reader: pagesFor("reader"), operator: pagesFor("operator"), admin: pagesFor("admin") };

  /** What comes of a call that was let in, which need not have it run. */
  const outcome = (tool: Tool, args: unknown, context: ToolContext): Promise<Outcome> => {
    const key = tool.idempotencyKey?.(args);
    if (key === undefined && tool.cacheSeconds === undefined) return outcomeOf(tool, args, context, resultLimit);
    const run = () => outcomeOf(tool, args, context, resultLimit);
    if (key !== undefined) return idempotentCalls.run({ tool, args, key, context }, run);
    return resultCache.run({ tool, args, context }, run);
  };

  const call: ToolMethods["call"] = async (name, args, context) => {
    const { caller, traceId } = context;
    const tool = gate.find(caller, name);
    if (tool === undefined) {
      metrics.toolCalled(name, "failed", 0);
      throw gate.unknown(caller, name, traceId);
    }
    const started = performance.now();
    let entered: Entered;
    try {
      const entering = gate.enter({ tool, args, caller, traceId });
      entered = entering instanceof Promise ? await entering : entering;
    } catch (error) {
      metrics.toolCalled(name, "failed", (performance.now() - started) / 1000);
      logRefusal(log, caller, name, error);
      if (error instanceof ToolFailure) return failure(error.message, error.output);
      throw error;
    }
    const { status, result, error, bytes } = await outcome(tool, args, context);
    const durationMs = performance.now() - started;
    entered.left({ status, durationMs, bytes });
    metrics.toolCalled(name, status, durationMs / 1000);
    if (status === "broken") logBroken(log, caller, name, error);
    // A tool that speaks of the protocol itself is passed on as it is.
    if (result === undefined) throw error;
    return result;
  };

  const methods = [
    answering("tools/list", ({ params }, { caller }) => {
      const { items, ...rest } = pages[caller.role](params?.cursor);
      return { tools: items, ...rest };
    }),
    answering("tools/call", async ({ params }, exchange) => {
      const ran = exchange.ran();
      if (ran !== undefined) return ran;
      return call(params.name, params.arguments, { ...(await exchange.call()), client: channelOf(exchange) });
    }),
  ];
  return {
    methods,
    has: (caller, name) => gate.find(caller, name) !== undefined,
    scopeFor: (caller, { name, arguments: args }) =>
      typeof name === "string" ? gate.scopeFor(caller, name, args) : undefined,
    call,
  };
}

/** What came of a call. */
export interface Outcome {
  readonly status: ToolStatus;
  /** Absent when `error` is the protocol's own, to be thrown. */
  readonly result?: CallToolResult | InputRequiredResult;
  /** What was thrown, if something was. */
  readonly error?: unknown;
  /** Bytes of what the caller gets, or a little less. */
  readonly bytes: number;
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
    if (context.signal.aborted) return ended("cancelled", failure("The call was cancelled."));
    if (error instanceof ToolFailure) return { ...ended("failed", failure(error.message, error.output)), error };
    if (error instanceof ConnectorUnavailable) {
      const { message, retryAfterSeconds } = error;
      return ended("failed", failure(`${tool.name} could not do its work: ${message}`, { retryAfterSeconds }));
    }
    if (error instanceof InputNeeded) return { status: "asked", result: askedFor(error), bytes: 0 };
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
