import { ProtocolError, ProtocolErrorCode, Server, type ServerContext } from "@modelcontextprotocol/server";
import type { FastifyBaseLogger } from "fastify";
import { atLeast } from "../auth/roles.ts";
import type { Role } from "../config.ts";
import { callerOf, type Protocol } from "../mcp/protocol.ts";
import { assertInScope, scopeForRole } from "../mcp/step-up.ts";
import type { Metrics, ToolStatus } from "../observability/metrics.ts";
import type { Caller } from "../tools/define-tool.ts";
import { ChildEnded, type ServerDescription } from "./child.ts";
import { type Children, NoChild } from "./children.ts";

type JsonObject = Record<string, unknown>;

export interface ProxyProtocolOptions {
  readonly children: Children;
  /** What the command has last said of itself. */
  description(): ServerDescription;
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

function assertMayUse(caller: Caller): void {
  if (!atLeast(caller.role, ROLE)) {
    const message = `This server is for the role ${ROLE}, and yours is ${caller.role}; ask whoever runs it for more.`;
    throw new ProtocolError(ProtocolErrorCode.InvalidRequest, message);
  }
  assertInScope(caller, "This server", ROLE);
}

/** JSON-RPC's range for a server's own errors; MCP's SDKs take it for a connection that is gone. */
const UNAVAILABLE = -32_000;

/**
 * Serves the protocol, of every era and over every transport, from stdio servers. The SDK's server does each exchange
 * with the client, era and envelope included; what is asked for in it goes to the caller's child, and its answer comes
 * back.
 */
export function createProxyProtocol({ children, description, metrics, log }: ProxyProtocolOptions): Protocol {
  async function pass(
    request: { method: string; params?: unknown },
    context: ServerContext,
    caller: Caller | undefined,
  ): Promise<JsonObject> {
    const { method } = request;
    if (caller === undefined) throw new Error("A call without a caller reached the proxy.");
    assertMayUse(caller);
    if (NEED_A_SESSION.test(method)) throw new ProtocolError(ProtocolErrorCode.MethodNotFound, "Method not found");
    const params = (request.params ?? {}) as JsonObject;
    const progressToken = context.mcpReq._meta?.progressToken;
    const { signal, notify } = context.mcpReq;
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
    const { result, error, durationMs, status } = await outcomeOf(call, signal);
    if (method === "tools/call") {
      const tool = typeof params.name === "string" ? params.name : "";
      metrics.toolCalled(tool, status, durationMs / 1000);
      const { subject } = caller;
      log.info({ event: "tool.called", tool, status, durationMs: Math.round(durationMs * 10) / 10, subject });
    }
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
        pass(request, context, caller ?? callerOf(context.http?.authInfo));
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
