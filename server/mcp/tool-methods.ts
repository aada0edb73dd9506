import {
  type CallToolResult,
  type InputRequiredResult,
  inputRequired,
  ProtocolError,
  ProtocolErrorCode,
} from "@modelcontextprotocol/server";
import type { FastifyBaseLogger } from "fastify";
import type { Metrics, ToolStatus } from "../observability/metrics.ts";
import { InputNeeded } from "../tools/client-channel.ts";
import { type Tool, type ToolContext, ToolFailure } from "../tools/define-tool.ts";
import { channelOf } from "./channel.ts";
import { type Answering, answering } from "./exchange.ts";
import { lengthOf, linkTo } from "./long-results.ts";
import { pagesOf } from "./pages.ts";

interface ToolMethodsOptions {
  readonly tools: readonly Tool[];
  readonly metrics: Metrics;
  readonly log: FastifyBaseLogger;
  /** Bytes of a result's content; what is longer is kept in the workspace, and the answer is a link to it. */
  readonly resultLimit: number;
}

export interface ToolMethods {
  readonly methods: readonly Answering[];
  has(name: string): boolean;
  /** Runs a tool, counts the call and logs it. */
  call(name: string, args: unknown, context: ToolContext): Promise<CallToolResult | InputRequiredResult>;
}

/** `tools/list` and `tools/call`: the tools by name, and what happens around each call. */
export function toolMethods({ tools, metrics, log, resultLimit }: ToolMethodsOptions): ToolMethods {
  const byName = new Map(tools.map((tool) => [tool.name, tool]));
  if (byName.size < tools.length) throw new Error("Two tools have the same name.");
  // Redaction looks through every event for names of secrets. This one has none but the fields below.
  const calls = log.child({}, { redact: [] });
  const pages = pagesOf(tools.map((tool) => tool.listing));

  const call: ToolMethods["call"] = async (name, args, context) => {
    const tool = byName.get(name);
    if (tool === undefined) {
      metrics.toolCalled(name, "failed", 0);
      const known = tools.map((each) => each.name).join(", ");
      throw new ProtocolError(
        ProtocolErrorCode.InvalidParams,
        `Unknown tool ${JSON.stringify(name)}; there are ${known}.`,
      );
    }
    const started = performance.now();
    const { status, result, error } = await outcomeOf(tool, args, context, resultLimit);
    const durationMs = performance.now() - started;
    metrics.toolCalled(name, status, durationMs / 1000);
    const { caller } = context;
    const event = {
      event: "tool.called",
      tool: name,
      status,
      durationMs: Math.round(durationMs * 10) / 10,
      subject: caller.subject,
      method: caller.method,
      keyId: caller.keyId,
    };
    if (status === "broken") log.error({ ...event, err: error });
    else calls.info(event);
    return result;
  };

  const methods = [
    answering("tools/list", ({ params }) => {
      const { items, ...rest } = pages(params?.cursor);
      return { tools: items, ...rest };
    }),
    answering("tools/call", async ({ params }, exchange) => {
      const ran = exchange.ran();
      if (ran !== undefined) return ran;
      return call(params.name, params.arguments, { ...(await exchange.call()), client: channelOf(exchange) });
    }),
  ];
  return { methods, has: (name) => byName.has(name), call };
}

interface Outcome {
  readonly status: ToolStatus;
  readonly result: CallToolResult | InputRequiredResult;
  readonly error?: unknown;
}

async function outcomeOf(tool: Tool, args: unknown, context: ToolContext, resultLimit: number): Promise<Outcome> {
  try {
    const result = await tool.respond(args, context);
    if (lengthOf(result) > resultLimit) return { status: "ok", result: await linkTo(result, resultLimit, context) };
    return { status: "ok", result };
  } catch (error) {
    if (context.signal.aborted) return { status: "cancelled", result: failure("The call was cancelled.") };
    if (error instanceof ToolFailure) return { status: "failed", result: failure(error.message, error.output) };
    if (error instanceof InputNeeded) return { status: "asked", result: askedFor(error) };
    // A tool that speaks of the protocol itself is passed on as it is.
    if (error instanceof ProtocolError) throw error;
    // What broke is for the log; a stack or a path is nothing to tell a caller.
    return {
      status: "broken",
      result: failure(`${tool.name} failed by a fault of its own; the server's log has the details.`),
      error,
    };
  }
}

export function askedFor({ requests, state }: InputNeeded): InputRequiredResult {
  return inputRequired({
    ...(requests !== undefined && { inputRequests: requests }),
    ...(state !== undefined && { requestState: state }),
  });
}

function failure(sentence: string, output?: Record<string, unknown>): CallToolResult {
  const content: CallToolResult["content"] = [{ type: "text", text: sentence }];
  if (output === undefined) return { content, isError: true };
  content.push({ type: "text", text: JSON.stringify(output) });
  return { content, structuredContent: output, isError: true };
}
