import {
  type CallToolResult,
  type ClientCapabilities,
  type InputRequiredResult,
  inputRequired,
  ProtocolError,
} from "@modelcontextprotocol/server";
import type { FastifyBaseLogger } from "fastify";
import type { Role } from "../config.ts";
import type { Metrics, ToolStatus } from "../observability/metrics.ts";
import { InputNeeded } from "../tools/client-channel.ts";
import { type Caller, type Tool, type ToolContext, ToolFailure, type ToolResult } from "../tools/define-tool.ts";
import type { CallGate, Entered } from "./call-gate.ts";
import { channelOf } from "./channel.ts";
import { type Answering, answering } from "./exchange.ts";
import { lengthOf, linkTo } from "./long-results.ts";
import { pagesOf } from "./pages.ts";
import { failure, logBroken, logRefusal } from "./refused-calls.ts";
import type { ScopeFor } from "./step-up.ts";
import { becomesTask, speaksTasks, type TaskMethods } from "./task-methods.ts";

interface ToolMethodsOptions {
  readonly gate: CallGate;
  readonly metrics: Metrics;
  readonly log: FastifyBaseLogger;
  /** Bytes of a result's content; what is longer is kept in the workspace, and the answer is a link to it. */
  readonly resultLimit: number;
  /** Absent: no call becomes a task. */
  readonly tasks?: TaskMethods | undefined;
}

export interface ToolMethods {
  readonly methods: readonly Answering[];
  /** Whether there is such a tool for the caller. */
  has(caller: Caller, name: string): boolean;
  /** Whether a call that asks for no task is run at once: there is such a tool for the caller, and it becomes no task. */
  isPlain(caller: Caller, name: string, args: unknown, capabilities: ClientCapabilities | undefined): boolean;
  /** For `tools/call`. */
  readonly scopeFor: ScopeFor;
  /** Passes the gate, which puts the call on record, runs a tool, and counts the call. */
  call(name: string, args: unknown, context: ToolContext): Promise<CallToolResult | InputRequiredResult>;
}

/** `tools/list` and `tools/call`: the tools by name, and what happens around each call. */
export function toolMethods({ gate, metrics, log, resultLimit, tasks }: ToolMethodsOptions): ToolMethods {
  const { shown } = gate;
  // For clients of the 2025-11-25 protocol; the SDK leaves it out for newer ones.
  const listed = ({ listing, job }: Tool) => {
    if (tasks === undefined || !job) return listing;
    return { ...listing, execution: { taskSupport: job === "only" ? ("required" as const) : ("optional" as const) } };
  };
  const pagesFor = (role: Role) => pagesOf(shown[role].map(listed));
  const pages = { reader: pagesFor("reader"), operator: pagesFor("operator"), admin: pagesFor("admin") };

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
    const { status, result, error, bytes } = await outcomeOf(tool, args, context, resultLimit);
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
      const begun = tasks?.begin(params, exchange);
      // Refused, which is a result like any other.
      if (begun !== undefined) return (await begun) as CallToolResult;
      return call(params.name, params.arguments, { ...(await exchange.call()), client: channelOf(exchange) });
    }),
  ];
  return {
    methods,
    has: (caller, name) => gate.find(caller, name) !== undefined,
    isPlain(caller, name, args, capabilities) {
      const tool = gate.find(caller, name);
      if (tool === undefined || tool.job === "only") return false;
      return tasks === undefined || !speaksTasks(capabilities) || !becomesTask(tool, args);
    },
    scopeFor: (caller, { name, arguments: args }) =>
      typeof name === "string" ? gate.scopeFor(caller, name, args) : undefined,
    call,
  };
}

interface Outcome {
  readonly status: ToolStatus;
  /** Absent when `error` is the protocol's own, to be thrown. */
  readonly result?: CallToolResult | InputRequiredResult;
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
    if (error instanceof ToolFailure) return ended("failed", failure(error.message, error.output));
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
