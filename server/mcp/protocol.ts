import {
  type AuthInfo,
  type CallToolResult,
  type McpServerFactory,
  ProtocolError,
  ProtocolErrorCode,
  Server,
  type ServerContext,
  type ServerOptions,
} from "@modelcontextprotocol/server";
import type { FastifyBaseLogger } from "fastify";
import type { Metrics, ToolStatus } from "../observability/metrics.ts";
import { type Caller, type Services, type Tool, type ToolContext, ToolFailure } from "../tools/define-tool.ts";

export interface ProtocolOptions {
  readonly tools: readonly Tool[];
  readonly services: Services;
  readonly metrics: Metrics;
  readonly log: FastifyBaseLogger;
}

/** The tools by name, and what happens around each call. */
export interface Protocol {
  /**
   * Makes the server object of one exchange (HTTP) or one connection (stdio). `caller` stands for everyone on
   * transports that do not carry {@link AuthInfo}.
   */
  factory(caller?: Caller): McpServerFactory;
}

/**
 * Callers by the SDK's own description of them, which is passed through it untouched: so a tool's caller is one that
 * this server authenticated, and not merely something of that shape.
 */
const callers = new WeakMap<AuthInfo, Caller>();

/** Describes a caller to the SDK. The credential itself goes no further than the check of it. */
export function authInfoOf(caller: Caller): AuthInfo {
  const info: AuthInfo = { token: "", clientId: caller.subject, scopes: [] };
  callers.set(info, caller);
  return info;
}

/** How long clients may keep the list of tools; it changes with a deployment only. */
const LIST_TTL_MS = 60_000;

const INSTRUCTIONS =
  "Tools for working in a workspace on this server: run commands, work with files, look at the server itself. " +
  "Paths are relative to the workspace, which all your calls share; no other state is kept between calls.";

/**
 * Serves the protocol's methods over the SDK's low-level `Server`. The SDK wants a new one for each stateless request,
 * so everything that can be made once (listings, schemas, handlers) is made here and only registered there.
 */
export function createProtocol({ tools, services, metrics, log }: ProtocolOptions): Protocol {
  const byName = new Map(tools.map((tool) => [tool.name, tool]));
  if (byName.size < tools.length) throw new Error("Two tools have the same name.");
  const listing = { tools: tools.map((tool) => tool.listing) };
  const { name, version } = services.runtime;
  const info = { name, version };
  const options: ServerOptions = {
    capabilities: { tools: { listChanged: true } },
    instructions: INSTRUCTIONS,
    cacheHints: {
      "tools/list": { ttlMs: LIST_TTL_MS, cacheScope: "private" },
      "server/discover": { ttlMs: LIST_TTL_MS, cacheScope: "private" },
    },
  };

  async function callTool(toolName: string, args: unknown, caller: Caller, context: ServerContext) {
    const tool = byName.get(toolName);
    if (tool === undefined) {
      metrics.toolCalled(toolName, "failed", 0);
      const known = tools.map((each) => each.name).join(", ");
      throw new ProtocolError(
        ProtocolErrorCode.InvalidParams,
        `Unknown tool ${JSON.stringify(toolName)}; there are ${known}.`,
      );
    }
    const { signal } = context.mcpReq;
    const started = performance.now();
    const { status, result, error } = await outcomeOf(tool, args, { ...services, caller, signal, log });
    const durationMs = performance.now() - started;
    metrics.toolCalled(toolName, status, durationMs / 1000);
    const event = {
      event: "tool.called",
      tool: toolName,
      status,
      durationMs: Math.round(durationMs * 10) / 10,
      subject: caller.subject,
      method: caller.method,
      keyId: caller.keyId,
    };
    if (status === "broken") log.error({ ...event, err: error });
    else log.info(event);
    return result;
  }

  return {
    factory(everyone) {
      const call = (request: { params: { name: string; arguments?: unknown } }, context: ServerContext) => {
        const authInfo = context.http?.authInfo;
        const caller = everyone ?? (authInfo && callers.get(authInfo));
        if (caller === undefined) throw new Error("A call without a caller reached the tools.");
        return callTool(request.params.name, request.params.arguments, caller, context);
      };
      const list = () => listing;
      return () => {
        const server = new Server(info, options);
        server.setRequestHandler("tools/list", list);
        server.setRequestHandler("tools/call", call);
        return server;
      };
    },
  };
}

interface Outcome {
  readonly status: ToolStatus;
  readonly result: CallToolResult;
  readonly error?: unknown;
}

async function outcomeOf(
  tool: Tool,
  args: unknown,
  { workspaces, ...context }: Services & Pick<ToolContext, "caller" | "signal" | "log">,
): Promise<Outcome> {
  try {
    const workspace = await workspaces.of(context.caller);
    const output = await tool.call(args, { ...context, workspace });
    return {
      status: "ok",
      result: { content: [{ type: "text", text: JSON.stringify(output) }], structuredContent: output },
    };
  } catch (error) {
    if (context.signal.aborted) return { status: "cancelled", result: failure("The call was cancelled.") };
    if (error instanceof ToolFailure) return { status: "failed", result: failure(error.message, error.output) };
    // What broke is for the log; a stack or a path is nothing to tell a caller.
    return {
      status: "broken",
      result: failure(`${tool.name} failed by a fault of its own; the server's log has the details.`),
      error,
    };
  }
}

function failure(sentence: string, output?: Record<string, unknown>): CallToolResult {
  const content: CallToolResult["content"] = [{ type: "text", text: sentence }];
  if (output === undefined) return { content, isError: true };
  content.push({ type: "text", text: JSON.stringify(output) });
  return { content, structuredContent: output, isError: true };
}
