import {
  type LoggingLevel,
  ProtocolError,
  ProtocolErrorCode,
  Server,
  type ServerContext,
} from "@modelcontextprotocol/server";
import type { FastifyBaseLogger } from "fastify";
import { z } from "zod";
import { atLeast } from "../auth/roles.ts";
import type { Role } from "../config.ts";
import { type CallAudit, type CallLimits, createEntrance, type Entered, NAME_CHARACTERS } from "../mcp/call-gate.ts";
import { SEVERITIES, wants } from "../mcp/channel.ts";
import type { Connection } from "../mcp/exchange.ts";
import { failure } from "../mcp/outcome.ts";
import { ANSWER_TIMEOUT_MS, callerOf, type Protocol, traceIdIn } from "../mcp/protocol.ts";
import { remembered } from "../mcp/resource-methods.ts";
import { assertInScope, scopeForRole } from "../mcp/step-up.ts";
import { logBroken, logRefusal } from "../mcp/tool-calls.ts";
import type { Metrics, ToolStatus } from "../observability/metrics.ts";
import { digestOf } from "../services/arguments-digest.ts";
import { type Caller, ToolFailure } from "../tools/define-tool.ts";
import { type CallClient, type Child, ChildEnded, type ServerDescription } from "./child.ts";
import { type Children, NoChild } from "./children.ts";

type JsonObject = Record<string, unknown>;

const SUBSCRIBING = /^resources\/(un)?subscribe$/;
const Subscription = z.object({ uri: z.string() });
const LogMessage = z.looseObject({ level: z.enum(SEVERITIES), data: z.unknown() });

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

/** A child without a call is ended, and what a task of its has brought would go with it. */
const NOT_OFFERED = /^tasks\//;

/** What a client can be asked for; {@link CallClient} says why no more. */
const ASKABLE = { "elicitation/create": "elicitation", "sampling/createMessage": "sampling" } as const;

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
  const levels = new WeakMap<Child, LoggingLevel>();
  const enter = createEntrance({
    // Whoever calls chooses the name, and what is counted is kept for a while.
    limits: { admit: (caller, tool) => limits.admit(caller, tools.has(tool) ? tool : OTHER) },
    audit,
  });

  /** Passes a request to the caller's child, and its answer back. */
  async function pass(method: string, params: JsonObject, { context, caller, client }: Exchange): Promise<Outcome> {
    const { _meta: meta, signal, notify } = context.mcpReq;
    const progressToken = meta?.progressToken;
    const call = () =>
      children.use(
        caller,
        (child) =>
          child.request(method, params, {
            signal,
            client,
            onProgress: (progress) => {
              if (progressToken === undefined) return;
              const notification = { ...(progress as { progress: number }), progressToken };
              void notify({ method: "notifications/progress", params: notification }).catch(() => {});
            },
          }),
        client?.capabilities,
      );
    return outcomeOf(call, signal);
  }

  /** Has the child send log messages of that level, where it sends less by now; each session hears of what it wants. */
  async function setLevel(level: LoggingLevel, { caller, client }: Exchange): Promise<void> {
    await children.use(
      caller,
      async (child) => {
        const before = levels.get(child);
        if (before !== undefined && SEVERITIES.indexOf(before) <= SEVERITIES.indexOf(level)) return;
        await child.request("logging/setLevel", { level });
        levels.set(child, level);
      },
      client?.capabilities,
    );
  }

  /** The same for a call of a tool, which passes what calls of this server's own tools pass. */
  async function callTool(params: JsonObject, exchange: Exchange): Promise<Outcome> {
    const { context, caller } = exchange;
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
      if (!(error instanceof ToolFailure)) throw error;
      return { result: { ...failure(error.message, error.output) }, status: "failed", durationMs };
    }
    const outcome = await pass("tools/call", params, exchange);
    const { error, status, durationMs } = outcome;
    entered.left({ status, durationMs });
    metrics.toolCalled(tool, status, durationMs / 1000);
    // Why there is no child is logged where one should have been started.
    if (status === "broken" && !(error instanceof NoChild)) logBroken(log, caller, tool, error);
    return outcome;
  }

  async function answer(
    { method, params: given }: { method: string; params?: unknown },
    exchange: Exchange,
  ): Promise<JsonObject> {
    const { context, caller, connection } = exchange;
    const params = (given ?? {}) as JsonObject;
    assertMayUse(caller, (reason) => {
      if (method !== "tools/call") return;
      audit.decided({ decision: "denied", reason, caller, tool: toolIn(params), traceId: traceIdIn(context) });
    });
    if (NOT_OFFERED.test(method)) throw new ProtocolError(ProtocolErrorCode.MethodNotFound, "Method not found");
    if (SUBSCRIBING.test(method)) {
      const { uri } = Subscription.parse(params);
      const { subscriptions } = remembered(connection);
      if (method === "resources/subscribe") await subscriptions.add(uri);
      else subscriptions.remove(uri);
      return {};
    }
    const { result, error } = await (method === "tools/call"
      ? callTool(params, exchange)
      : pass(method, params, exchange));
    if (result !== undefined) return withoutEra(result);
    throw forCaller(error);
  }

  return {
    // What the children's tools want in headers is known to them alone, and they get no headers to hold it against.
    parameterHeaders: { faultOf: () => undefined },
    stepUp: (caller) => scopeForRole(caller, ROLE),
    // Any of them may start a child, which is told then what its client can be asked for.
    asks: () => true,
    server({ caller: everyone, connection } = {}) {
      const { info, capabilities, instructions } = description();
      const server = new Server(info, {
        capabilities: offered(capabilities),
        ...(instructions !== undefined && { instructions }),
      });
      const exchangeOf = (context: ServerContext): Exchange => {
        // The caller of the connection, or over HTTP of the request.
        const caller = everyone ?? callerOf(context.http?.authInfo);
        if (caller === undefined) throw new Error("A call without a caller reached the proxy.");
        return { context, caller, connection, client: clientOf(context, server, connection) };
      };
      server.fallbackRequestHandler = (request, context) => answer(request, exchangeOf(context));
      if ("logging" in capabilities) {
        // In place of the SDK's own, which remembers the level in the server object, gone with the exchange.
        server.setRequestHandler("logging/setLevel", async ({ params: { level } }, context) => {
          const exchange = exchangeOf(context);
          assertMayUse(exchange.caller, () => {});
          if (connection !== undefined) connection.logLevel = level;
          await setLevel(level, exchange).catch((error: unknown) => {
            throw forCaller(error);
          });
          return {};
        });
      }
      return server;
    },
    async watch(uri, caller, changed) {
      assertMayUse(caller, () => {});
      return children.watch(caller, uri, changed).catch((error: unknown) => {
        throw forCaller(error);
      });
    },
  };
}

/** One request, and who sends it over what. */
interface Exchange {
  readonly context: ServerContext;
  readonly caller: Caller;
  readonly connection: Connection | undefined;
  readonly client: ReturnType<typeof clientOf>;
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

/** What can be offered of a server's capabilities. That lists change is told to nobody, so it is not promised. */
function offered(capabilities: JsonObject): JsonObject {
  const names = ["tools", "resources", "prompts", "completions", "logging"].filter((name) => name in capabilities);
  const { success: subscribes } = z.object({ subscribe: z.literal(true) }).safeParse(capabilities.resources);
  return Object.fromEntries(names.map((name) => [name, name === "resources" && subscribes ? { subscribe: true } : {}]));
}

/** The client of an exchange, for its child; undefined on the 2026-07-28 protocol, and on older ones without a session. */
function clientOf(
  { mcpReq }: ServerContext,
  server: Server,
  connection: Connection | undefined,
): (CallClient & { readonly capabilities: JsonObject }) | undefined {
  if (connection === undefined || mcpReq.envelope !== undefined) return undefined;
  const { elicitation, sampling } = server.getClientCapabilities() ?? {};
  return {
    session: connection,
    capabilities: { ...(elicitation && { elicitation }), ...(sampling && { sampling }) },
    async ask(method, params, signal) {
      if ((ASKABLE[method] === "elicitation" ? elicitation : sampling) === undefined) {
        throw new ProtocolError(
          ProtocolErrorCode.MethodNotFound,
          `The client of this call does not support ${ASKABLE[method]}.`,
        );
      }
      return mcpReq.send({ method, params }, { signal, timeout: ANSWER_TIMEOUT_MS });
    },
    log(params) {
      const { data } = LogMessage.safeParse(params);
      if (data !== undefined && wants(connection, data.level)) {
        void mcpReq.notify({ method: "notifications/message", params: data }).catch(() => {});
      }
    },
  };
}

/** A result without the word by which the newer era tells kinds of results apart: the SDK's server puts it in anew. */
function withoutEra({ resultType, ...result }: JsonObject): JsonObject {
  return resultType === undefined || resultType === "complete" ? result : { resultType, ...result };
}
