import { ProtocolError, ProtocolErrorCode, Server, type ServerContext } from "@modelcontextprotocol/server";
import type { FastifyBaseLogger } from "fastify";
import { atLeast } from "../auth/roles.ts";
import type { Role } from "../config.ts";
import {
  type CallAudit,
  type CallLimits,
  CallRefused,
  createEntrance,
  type Entered,
  NAME_CHARACTERS,
} from "../mcp/call-gate.ts";
import { callerOf, type Protocol, traceIdIn } from "../mcp/protocol.ts";
import { assertInScope, scopeForRole } from "../mcp/step-up.ts";
import { failure, logBroken, logRefusal } from "../mcp/tool-calls.ts";
import type { Metrics, ToolStatus } from "../observability/metrics.ts";
import { digestOf } from "../services/arguments-digest.ts";
import type { Caller } from "../tools/define-tool.ts";
import { ChildEnded, type ServerDescription } from "./child.ts";
import { type Children, NoChild } from "./children.ts";

type JsonObject = Record<string, unknown>;

export interface ProxyProtocolOptions {
  readonly children: Children;
  /** What the command has last said of itself. */
  description(): ServerDescription;
  /** Names of tools that the command has; calls of all others are counted together. */
  readonly tools: readonly string[];
  readonly limits: CallLimits;
  readonly audit: CallAudit;
  readonly metrics: Metrics;
  readonly log: FastifyBaseLogger;
}

/**
 * Methods that set something up in the command for the rest of a session, or ask for what comes unasked. A child is
 * shared by all that its caller does, over whichever connections, so they are not offered.
 */
const NEED_A_SESSION = /^(logging\/setLevel|resources\/(un)?subscribe|tasks\/.*)$/;

/** Nothing is known of what the command's tools do, so whoever uses them must be one who may change things. */
const ROLE: Role = "operator";

/** Throws what a caller is told who may not use the command; `denied` is told why before. */
function assertMayUse(caller: Caller, denied: (why: string) => void): void {
  if (!atLeast(caller.role, ROLE)) {
    denied("role");
    const message = `This server is for the role ${ROLE}, and yours is ${caller.role}; ask whoever runs it for more.`;
    throw new ProtocolError(ProtocolErrorCode.InvalidRequest, message);
  }
  if (scopeForRole(caller, ROLE) !== undefined) denied("scope");
  assertInScope(caller, "This server", ROLE);
}

/** JSON-RPC's range for a server's own errors; MCP's SDKs take it for a connection that is gone. */
const UNAVAILABLE = -32_000;

/** What calls of tools are counted as that the command has not named. It is no name that a tool may have. */
const OTHER = "";

function toolIn({ name }: JsonObject): string {
  return typeof name === "string" ? name.slice(0, NAME_CHARACTERS) : "";
}

/**
 * Serves the protocol, of every era and over every transport, from stdio servers. The SDK's server does each exchange
 * with the client, era and envelope included; what is asked for in it goes to the caller's child, and its answer comes
 * back.
 */
export function createProxyProtocol(options: ProxyProtocolOptions): Protocol {
  const { children, description, limits, audit, metrics, log } = options;
  const tools = new Set(options.tools);
  const enter = createEntrance({
    // Whoever calls chooses the name, and what is counted is kept for a while.
    limits: { admit: (caller, tool) => limits.admit(caller, tools.has(tool) ? tool : OTHER) },
    audit,
  });

  /** Passes a request to the caller's child, and its answer back. */
  async function pass(
    method: string,
    params: JsonObject,
    { mcpReq: { _meta: meta, signal, notify } }: ServerContext,
    caller: Caller,
  ): Promise<Outcome> {
    const progressToken = meta?.progressToken;
    const call = () =>
      children.use(caller, (child) =>
        child.request(method, params, {
          signal,
          onProgress: (progress) => {
            if (progressToken === undefined) return;
            const notification = { ...(progress as { progress: number }), progressToken };
            void notify({ method: "notifications/progress", params: notification }).catch(() => {});
          },
        }),
      );
    return outcomeOf(call, signal);
  }

  /** The same for a call of a tool, which passes what calls of this server's own tools pass. */
  async function callTool(params: JsonObject, context: ServerContext, caller: Caller): Promise<Outcome> {
    const tool = toolIn(params);
    const started = performance.now();
    let entered: Entered;
    try {
      entered = await enter({ caller, tool, traceId: traceIdIn(context) }, () => ({
        // Nothing is known of what it does, nor of which of its arguments may be shown.
        changes: true,
        argumentDigest: digestOf(params.arguments),
        safeArguments: {},
      }));
    } catch (error) {
      const durationMs = performance.now() - started;
      metrics.toolCalled(tool, "failed", durationMs / 1000);
      logRefusal(log, caller, tool, error);
      if (!(error instanceof CallRefused)) throw error;
      return { result: { ...failure(error.message, error.output) }, status: "failed", durationMs };
    }
    const outcome = await pass("tools/call", params, context, caller);
    const { error, status, durationMs } = outcome;
    // The bytes of the answer are counted by what carries it.
    entered.left({ status, durationMs, bytes: 0 });
    metrics.toolCalled(tool, status, durationMs / 1000);
    // Why there is no child is logged where one should have been started.
    if (status === "broken" && !(error instanceof NoChild)) logBroken(log, caller, tool, error);
    return outcome;
  }

  async function answer(
    { method, params: given }: { method: string; params?: unknown },
    context: ServerContext,
    caller: Caller | undefined,
  ): Promise<JsonObject> {
    if (caller === undefined) throw new Error("A call without a caller reached the proxy.");
    const params = (given ?? {}) as JsonObject;
    assertMayUse(caller, (reason) => {
      if (method !== "tools/call") return;
      audit.decided({ decision: "denied", reason, caller, tool: toolIn(params), traceId: traceIdIn(context) });
    });
    if (NEED_A_SESSION.test(method)) throw new ProtocolError(ProtocolErrorCode.MethodNotFound, "Method not found");
    const { result, error } = await (method === "tools/call"
      ? callTool(params, context, caller)
      : pass(method, params, context, caller));
    if (result !== undefined) return withoutEra(result);
    throw forCaller(error);
  }

  return {
    // What the children's tools want in headers is known to them alone, and they get no headers to hold it against.
    parameterHeaders: { faultOf: () => undefined },
    stepUp: (caller) => scopeForRole(caller, ROLE),
    server({ caller } = {}) {
      const { info, capabilities, instructions } = description();
      const server = new Server(info, {
        capabilities: offered(capabilities),
        ...(instructions !== undefined && { instructions }),
      });
      // The caller of the connection, or over HTTP of the request.
      server.fallbackRequestHandler = (request, context) =>
        answer(request, context, caller ?? callerOf(context.http?.authInfo));
      return server;
    },
    async watch(uri) {
      throw new ProtocolError(ProtocolErrorCode.InvalidParams, `There is nothing to watch at ${uri}.`, { uri });
    },
  };
}

interface Outcome {
  readonly result?: JsonObject;
  readonly error?: unknown;
  readonly status: ToolStatus;
  readonly durationMs: number;
}

async function outcomeOf(call: () => Promise<JsonObject>, signal: AbortSignal): Promise<Outcome> {
  const started = performance.now();
  try {
    const result = await call();
    const status = result.isError === true ? "failed" : "ok";
    return { result, status, durationMs: performance.now() - started };
  } catch (error) {
    const status = signal.aborted ? "cancelled" : error instanceof ProtocolError ? "failed" : "broken";
    return { error, status, durationMs: performance.now() - started };
  }
}

function forCaller(error: unknown): unknown {
  if (error instanceof NoChild) return new ProtocolError(UNAVAILABLE, error.message);
  if (error instanceof ChildEnded) {
    return new ProtocolError(
      UNAVAILABLE,
      `While it worked on this, ${error.message}. It is started again for the next call; look at what this one did ` +
        "before you call again.",
    );
  }
  return error;
}

/** What can be offered of a server's capabilities where no session is kept and nothing comes unasked. */
function offered(capabilities: JsonObject): JsonObject {
  const names = ["tools", "resources", "prompts", "completions"].filter((name) => name in capabilities);
  return Object.fromEntries(names.map((name) => [name, {}]));
}

/** A result without the word by which the newer era tells kinds of results apart: the SDK's server puts it in anew. */
function withoutEra({ resultType, ...result }: JsonObject): JsonObject {
  return resultType === undefined || resultType === "complete" ? result : { resultType, ...result };
}
