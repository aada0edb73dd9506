import {
  type AuthInfo,
  type CallToolResult,
  type InputRequiredResult,
  ProtocolError,
  ProtocolErrorCode,
  Server,
  type ServerContext,
  type ServerOptions,
} from "@modelcontextprotocol/server";
import type { FastifyBaseLogger } from "fastify";
import { icons } from "../icons.ts";
import { traceIdOf } from "../observability/trace-context.ts";
import type { Prompt } from "../prompts/define-prompt.ts";
import { ResourceFailure, ResourceMissing, type ResourceSource } from "../resources/resource-source.ts";
import { WATCH_INTERVAL_MS } from "../services/watch.ts";
import type { CallContext, Caller, Services, Tool, ToolContext } from "../tools/define-tool.ts";
import type { CallGate } from "./call-gate.ts";
import { completionMethods } from "./completion-methods.ts";
import { type Answering, answering, type Connection, type Exchange } from "./exchange.ts";
import { createParameterHeaders, type ParameterHeaders } from "./parameter-headers.ts";
import { promptMethods } from "./prompt-methods.ts";
import { resourceMethods } from "./resource-methods.ts";
import { createStepUp } from "./step-up.ts";
import type { CarryOut } from "./tool-calls.ts";
import { toolMethods } from "./tool-methods.ts";

export interface ProtocolOptions {
  readonly tools: readonly Tool[];
  /** What stands between callers and the tools. */
  readonly gate: CallGate;
  readonly carryOut: CarryOut;
  readonly prompts: readonly Prompt[];
  readonly sources: readonly ResourceSource[];
  readonly services: Services;
  readonly contextOf: DirectCalls["contextOf"];
}

interface ServerObjectOptions {
  /** Who speaks, on transports that do not carry {@link AuthInfo} with each message. */
  readonly caller?: Caller | undefined;
  readonly connection?: Connection | undefined;
  /** The one method that is going to be asked for, where that is known. */
  readonly method?: string | undefined;
}

/** Tools without the SDK around them. What has no parameters and never changes is the same for all callers of a role. */
export interface DirectCalls {
  /** Whether there is such a tool for the caller. */
  hasTool(caller: Caller, name: string): boolean;
  /** Passes the gate, runs a tool and counts the call, as `tools/call` does. */
  call(tool: string, args: unknown, context: ToolContext): Ran;
  /** What everything that is run for a caller stands on. */
  contextOf(caller: Caller): Promise<Omit<CallContext, "signal" | "traceId">>;
}

/** Everything the server offers, ready to be connected to a transport. */
export interface Protocol {
  /**
   * A server object for one exchange (HTTP) or one connection (stdio, WebSocket). The SDK wants a new one for each, so
   * everything that can be made once is made before and only registered here.
   */
  server(options?: ServerObjectOptions): Server;
  /** The check of arguments against headers, for transports that have some. */
  readonly parameterHeaders: ParameterHeaders;
  /**
   * The scopes that a caller's token lacks for what the body of an HTTP request asks for, as a challenge names them;
   * undefined when it lacks none. Absent where scopes say nothing.
   */
  stepUp?(caller: Caller, body: unknown): string | undefined;
  /** The way past the SDK's dispatch; absent: every request takes the SDK's. */
  readonly direct?: DirectCalls;
  /** Calls `changed` whenever the resource is another than before. Rejects with a {@link ProtocolError} when it cannot. */
  watch(uri: string, caller: Caller, changed: () => void): Promise<() => void>;
}

/**
 * Callers by the SDK's own description of them, which is passed through it untouched: so a tool's caller is one that
 * this server authenticated, and not merely something of that shape.
 */
const callers = new WeakMap<AuthInfo, Caller>();
/** Calls that have run before the SDK was asked. */
const calls = new WeakMap<AuthInfo, Ran>();
/** Trace ids of HTTP requests that had one in their headers; the SDK's context has headers in one era only. */
const traceIds = new WeakMap<AuthInfo, string>();

/** What a call gives, or throws. */
export type Ran = Promise<CallToolResult | InputRequiredResult>;

/**
 * Describes a caller to the SDK. The credential itself goes no further than the check of it. `traceparent` is the header
 * of the request. `ran` is the call that the message asks for, where it has run already: its result is taken in place of
 * another run.
 */
export function authInfoOf(caller: Caller, traceparent?: unknown, ran?: Ran): AuthInfo {
  const info: AuthInfo = { token: "", clientId: caller.subject, scopes: [] };
  callers.set(info, caller);
  if (ran !== undefined) calls.set(info, ran);
  const traceId = traceIdOf(traceparent);
  if (traceId !== undefined) traceIds.set(info, traceId);
  return info;
}

/** Whom {@link authInfoOf} described. */
export function callerOf(info: AuthInfo | undefined): Caller | undefined {
  return info && callers.get(info);
}

/** The trace id of a request: of the HTTP request that it came with, or else its own. */
export function traceIdIn({ http, mcpReq }: ServerContext): string | undefined {
  return (http?.authInfo && traceIds.get(http.authInfo)) ?? traceIdOf(mcpReq._meta?.traceparent);
}

/** Taken once: whoever calls again, as the SDK does with a client's answers, means another run. */
function takeRan(info: AuthInfo | undefined): Ran | undefined {
  const ran = info && calls.get(info);
  if (info !== undefined) calls.delete(info);
  return ran;
}

/** How long clients may keep a list that changes with a deployment only. */
const LIST_TTL_MS = 60_000;
/** How long they may keep files and the list of them: no longer than a subscriber waits to hear of a change. */
const FILES_TTL_MS = WATCH_INTERVAL_MS;

/** People answer questions; a client that shows one may take its time. */
const ANSWER_TIMEOUT_MS = 5 * 60_000;

const INSTRUCTIONS =
  "Tools for working in a workspace on this server: run commands, work with files, look at the server itself. " +
  "Paths are relative to the workspace, which all your calls share; its files are resources too, as workspace:/// and " +
  "the path. No other state is kept between calls. Long results come in parts that name the next one.";

/** Makes what everything that is run for a caller stands on. */
export function createContexts({ workspaces, ...shared }: Services, log: FastifyBaseLogger): DirectCalls["contextOf"] {
  return async (caller) => ({ ...shared, workspace: await workspaces.of(caller), caller, log });
}

/** Serves the protocol's methods, of every era and over every transport, by the SDK's low-level `Server`. */
export function createProtocol(options: ProtocolOptions): Protocol {
  const { tools, gate, carryOut, prompts, sources, services, contextOf } = options;
  const calling = toolMethods({ gate, carryOut });
  const prompting = promptMethods(prompts);
  const reading = resourceMethods(sources);
  const methods: readonly Answering[] = [
    ...calling.methods,
    ...prompting.methods,
    ...reading.methods,
    ...completionMethods(prompts, sources),
    // In place of the SDK's own, which remembers the level in the server object, gone with the exchange.
    answering("logging/setLevel", ({ params }, { connection }) => {
      if (connection !== undefined) connection.logLevel = params.level;
      return {};
    }),
  ];
  const byMethod = new Map<string, Answering>(methods.map((each) => [each.method, each]));
  const { name, version } = services.runtime;
  const info = { name, version, title: "MCP on AKS", icons: icons.server };
  const unchanging = { ttlMs: LIST_TTL_MS, cacheScope: "private" } as const;
  const serverOptions: ServerOptions = {
    // The lists of tools and prompts change with a deployment, and no stream lives through one: nothing to tell.
    capabilities: { tools: {}, prompts: {}, resources: { subscribe: true }, completions: {}, logging: {} },
    instructions: INSTRUCTIONS,
    cacheHints: {
      "tools/list": unchanging,
      "prompts/list": unchanging,
      "resources/templates/list": unchanging,
      "server/discover": unchanging,
      "resources/list": { ttlMs: FILES_TTL_MS, cacheScope: "private" },
      "resources/read": { ttlMs: FILES_TTL_MS, cacheScope: "private" },
    },
    inputRequired: { roundTimeoutMs: ANSWER_TIMEOUT_MS },
  };

  return {
    parameterHeaders: createParameterHeaders(tools, calling.has),
    stepUp: createStepUp(
      new Map([
        ["tools/call", calling.scopeFor],
        ["prompts/get", prompting.scopeFor],
        ["resources/read", reading.scopeFor],
        ["resources/subscribe", reading.scopeFor],
      ]),
    ),
    direct: { hasTool: calling.has, call: calling.call, contextOf },
    server({ caller: everyone, connection, method } = {}) {
      const server = new Server(info, serverOptions);
      const exchangeOf = (context: ServerContext): Exchange => {
        const authInfo = context.http?.authInfo;
        const caller = everyone ?? callerOf(authInfo);
        if (caller === undefined) throw new Error("A request without a caller reached the protocol.");
        const { signal } = context.mcpReq;
        const call = async () => ({ ...(await contextOf(caller)), signal, traceId: traceIdIn(context) });
        const ran = () => takeRan(authInfo);
        return { caller, call, context, server, connection, ran };
      };
      const one = method === undefined ? undefined : byMethod.get(method);
      for (const each of one === undefined ? methods : [one]) each.register(server, exchangeOf);
      return server;
    },
    async watch(uri, caller, changed) {
      try {
        const source = reading.sourceOf(caller, uri);
        if (source?.watch === undefined) throw new ResourceMissing(`There is nothing to watch at ${uri}.`);
        return source.watch(uri, await contextOf(caller), changed);
      } catch (error) {
        if (!(error instanceof ResourceMissing || error instanceof ResourceFailure)) throw error;
        throw new ProtocolError(ProtocolErrorCode.InvalidParams, error.message, { uri });
      }
    },
  };
}
