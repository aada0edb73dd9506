import underPressure from "@fastify/under-pressure";
import { classifyInboundRequest, createMcpHandler } from "@modelcontextprotocol/server";
import type { FastifyBaseLogger, FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { Authenticate } from "../auth/authenticate.ts";
import type { Challenge } from "../auth/challenge.ts";
import type { Cors } from "../auth/cors.ts";
import type { Admitted, Authenticated, Credentials, Refusal } from "../auth/credentials.ts";
import type { RefuseForeign } from "../auth/origin.ts";
import type { Tickets } from "../auth/tickets.ts";
import type { Limits, Verdict } from "../limits/limits.ts";
import type { Audit, Decision } from "../observability/audit.ts";
import type { Metrics } from "../observability/metrics.ts";
import { traceIdOf } from "../observability/trace-context.ts";
import type { LeftAnswers } from "../services/left-answers.ts";
import { StoreUnavailable } from "../services/shared-store.ts";
import type { Caller } from "../tools/define-tool.ts";
import { type CredentialWatch, createCredentialWatch } from "./credential-watch.ts";
import { createListenStreams } from "./listen-streams.ts";
import { createOlderHttp } from "./older-http.ts";
import { serveOverNode } from "./over-node.ts";
import { createPlainHttp } from "./plain-http.ts";
import { authInfoOf, type Protocol } from "./protocol.ts";
import { HEADER_MISMATCH, INTERNAL_ERROR, PARSE_ERROR, refuse, TRANSPORT_ERROR, tooMany } from "./refusals.ts";
import { createWebSockets, ticketIn } from "./websockets.ts";

/** The MCP endpoint: Streamable HTTP at `/mcp` and WebSocket at `/mcp/ws`, for every version of the protocol. */
export interface StreamableHttp {
  /** Has the listener take WebSocket upgrades; to be registered before any route. */
  readonly upgrades: (app: FastifyInstance) => Promise<void>;
  /** Registers the endpoint at `/mcp`, and what stands under it. */
  readonly plugin: (app: FastifyInstance) => Promise<void>;
  /**
   * Ends open streams as the protocol has it, and WebSocket connections when they have nothing in progress. New ones
   * are refused by whoever closes the listener.
   */
  endStreams(): Promise<void>;
  /** Resolves when nothing is in progress, or after `ms`; tells which. */
  idle(ms: number): Promise<boolean>;
  /** Aborts what is still open. */
  abort(): Promise<void>;
}

interface StreamableHttpOptions {
  readonly protocol: Protocol;
  readonly authenticate: Authenticate;
  readonly challenge: Challenge;
  /** Whether what a caller was let in by still holds; asked of connections that stay open. */
  readonly stillHolds: (admitted: Admitted) => boolean;
  readonly tickets: Tickets;
  readonly refuseForeign: RefuseForeign;
  readonly cors: Cors;
  readonly audit?: Pick<Audit, "decided"> | undefined;
  readonly limits: Limits;
  readonly metrics: Metrics;
  readonly log: FastifyBaseLogger;
  readonly bodyLimit: number;
  /** Where replicas leave one another what is not for them; absent where they share nothing. */
  readonly leftAnswers?: LeftAnswers | undefined;
}

/**
 * Mean delay of the event loop, over a second, above which a request is better answered by another replica. Memory is
 * no such sign: the collector gives back late what it could give back at once, and an idle process would stay refused.
 */
const EVENT_LOOP_DELAY_LIMIT_MS = 250;
const RETRY_AFTER_SECONDS = 5;
const NO_TICKETS: Refusal = { status: 503, retryAfterSeconds: RETRY_AFTER_SECONDS, reason: "tickets unavailable" };

export function createStreamableHttp(options: StreamableHttpOptions): StreamableHttp {
  const { protocol, log, authenticate, stillHolds, tickets, challenge, refuseForeign, cors } = options;
  const { audit, limits, metrics, bodyLimit, leftAnswers } = options;
  const admitted = new WeakMap<FastifyRequest, Admitted>();
  const open = new Set<FastifyReply>();
  let onIdle: (() => void) | undefined;

  const calls = createMcpHandler(
    // The header is required, and the SDK has found it to name the body's method by then.
    ({ requestInfo }) => protocol.server({ method: requestInfo?.headers.get("mcp-method") ?? undefined, newer: true }),
    { legacy: "reject" },
  );
  const whileHolds = createCredentialWatch(stillHolds);
  const watch: CredentialWatch = (admitted, ended) =>
    whileHolds(admitted, () => {
      log.info({ event: "credential.ended", subject: admitted.caller.subject });
      ended();
    });
  const streams = createListenStreams(protocol, watch);
  const older = createOlderHttp(protocol, watch, leftAnswers);
  const plain =
    protocol.direct &&
    createPlainHttp({
      protocol,
      direct: protocol.direct,
      log,
      connectionOf: older.connectionOf,
      cancellable: older.cancellable,
      async goOn(request, reply, caller, { modern, ...begun }) {
        if (!modern) return older.post(request, reply, caller, begun);
        const auth = authInfoOf(caller, request.headers.traceparent, begun.ran);
        await serveOverNode(calls, auth, request, reply);
      },
    });
  const isIdle = () => open.size === 0 && !sockets.busy;
  const tellIdle = () => {
    if (isIdle()) onIdle?.();
  };
  const sockets = createWebSockets({
    protocol,
    limits,
    metrics,
    audit,
    log,
    stillHolds,
    watch,
    tickets,
    messageLimit: bodyLimit,
    onIdle: tellIdle,
  });

  const admittedOf = (request: FastifyRequest): Admitted => {
    const found = admitted.get(request);
    if (found === undefined) throw new Error("A request without a caller reached the endpoint.");
    return found;
  };
  const callerOf = (request: FastifyRequest): Caller => admittedOf(request).caller;

  /** Puts on record what became of a request that goes no further. */
  const record = (request: FastifyRequest, decision: Pick<Decision, "decision" | "reason" | "caller">) => {
    const { ip: address, method } = request;
    audit?.decided({ ...decision, address, method, path: pathOf(request), traceId: traceIdIn(request) });
  };

  /** Refuses, says how to do better, and puts it on record. */
  const turnAway = (request: FastifyRequest, reply: FastifyReply, refusal: Refusal, caller?: Caller) => {
    const { status, reason, retryAfterSeconds } = refusal;
    request.log.warn({
      event: "request.refused",
      reason: status === 503 ? "unavailable" : status === 403 ? "unauthorized" : "unauthenticated",
      why: reason,
    });
    record(request, { decision: status === 403 ? "denied" : "refused", reason, ...(caller && { caller }) });
    const header = challenge.header(refusal);
    if (header !== undefined) reply.header("www-authenticate", header);
    if (retryAfterSeconds !== undefined) reply.header("retry-after", Math.ceil(retryAfterSeconds));
    refuse(reply, status, TRANSPORT_ERROR, challenge.message(refusal));
  };

  /** Tells of the limit, and refuses what exceeds it; gives whether the request may go on. */
  const withinLimits = (verdict: Verdict, caller: Caller, request: FastifyRequest, reply: FastifyReply): boolean => {
    for (const name in verdict.headers) reply.raw.setHeader(name, verdict.headers[name] ?? "");
    if (verdict.allowed) return true;
    const { which, what } = verdict;
    request.log.warn({ event: "request.refused", reason: "limit", limit: what, scope: which, subject: caller.subject });
    record(request, { decision: "refused", reason: `limit:${which}:${what}`, caller });
    refuse(reply, 429, TRANSPORT_ERROR, tooMany(verdict));
    return false;
  };

  const post = async (request: FastifyRequest, reply: FastifyReply) => {
    const caller = callerOf(request);
    const { body } = request;
    // An array of messages is as many requests as it has messages; it was counted as one when it came.
    if (Array.isArray(body) && body.length > 1) {
      const verdict = await limits.request(caller, body.length - 1);
      if (!withinLimits(verdict, caller, request, reply)) return;
    }
    // Which version a request speaks is for the SDK to tell; it is asked the same once more where it serves one.
    const { kind } = classifyInboundRequest({ httpMethod: "POST", ...protocolHeaders(request), body });
    if (kind === "legacy") return older.post(request, reply, caller);
    if (methodOf(body) === "subscriptions/listen" && kind === "modern")
      return streams.open(request, reply, admittedOf(request));
    const fault = protocol.parameterHeaders.faultOf(body, request.headers, caller);
    if (fault !== undefined) {
      return refuse(reply, 400, HEADER_MISMATCH, `Header mismatch: ${fault.reason}.`, fault.id);
    }
    reply.hijack();
    await serveOverNode(calls, authInfoOf(caller, request.headers.traceparent), request, reply);
  };

  const plugin = async (app: FastifyInstance) => {
    // Fastify reads plain text too; the protocol has no other type than JSON.
    app.removeContentTypeParser("text/plain");

    // These hooks call back: each promise would cost as much as what it waits for.
    app.addHook("onRequest", (request, reply, done) => {
      const started = performance.now();
      const { socket } = request.raw;
      const { bytesRead, bytesWritten } = socket;
      metrics.connectionOpened();
      // First of all: a page may read refusals, too.
      cors.admit(request, reply);
      // A WebSocket stays open for as long as its client likes; what is in progress on it is counted there.
      if (!request.ws) open.add(reply);
      // "close" comes after every end of an answer, a client that went away included.
      reply.raw.once("close", () => {
        metrics.connectionClosed();
        // What goes over a WebSocket is counted there.
        if (request.ws && reply.raw.statusCode === 200) return;
        const caller = admitted.get(request)?.caller;
        if (caller !== undefined) {
          // The socket has read most bodies with their headers, before anything is known of them; so what the request
          // says of its length counts, where it says something.
          const sent = Number(request.headers["content-length"] ?? socket.bytesRead - bytesRead);
          limits.moved(caller, sent + socket.bytesWritten - bytesWritten);
        }
        // The stream of the older protocols is no call, and stays open as long as its client likes.
        const isStream = request.method === "GET" && reply.raw.statusCode === 200;
        const method = isStream ? "subscriptions/listen" : methodOf(request.body);
        metrics.requestServed(method, reply.raw.statusCode, (performance.now() - started) / 1000);
        open.delete(reply);
        tellIdle();
      });
      done();
    });

    await app.register(underPressure, {
      maxEventLoopDelay: EVENT_LOOP_DELAY_LIMIT_MS,
      pressureHandler: (_request, reply) => {
        // What makes a server slow that has nothing else to do is its own start, or the machine: refusing helps nobody.
        if (!sockets.busy && open.size <= (open.has(reply) ? 1 : 0)) return;
        reply.header("retry-after", RETRY_AFTER_SECONDS);
        refuse(reply, 503, TRANSPORT_ERROR, "The server is overloaded; try again in a few seconds.");
      },
    });

    app.addHook("onRequest", (request, reply, done) => {
      const foreign = refuseForeign(request.headers);
      if (foreign !== undefined) {
        request.log.warn({ event: "request.refused", reason: "foreign", origin: request.headers.origin });
        record(request, { decision: "refused", reason: "foreign origin or host" });
        refuse(reply, 403, TRANSPORT_ERROR, foreign);
        return;
      }
      if (cors.answered(request, reply)) return;
      const settle = (outcome: Authenticated) => {
        if ("refusal" in outcome) return turnAway(request, reply, outcome.refusal);
        admitted.set(request, outcome);
        done();
      };
      const outcome = authenticate(credentialsOf(request));
      if (outcome instanceof Promise) outcome.then(settle, done);
      else settle(outcome);
    });

    app.addHook("onRequest", (request, reply, done) => {
      const caller = admitted.get(request)?.caller;
      // What needs no caller is not counted.
      if (caller === undefined) return done();
      const verdict = limits.request(caller);
      if (verdict instanceof Promise) {
        verdict.then((known) => {
          if (withinLimits(known, caller, request, reply)) done();
        }, done);
      } else if (withinLimits(verdict, caller, request, reply)) {
        done();
      }
    });

    app.route({
      method: "POST",
      url: "/mcp",
      bodyLimit,
      handler: (request, reply) => {
        const caller = callerOf(request);
        const scope = caller.scopedRole === undefined ? undefined : protocol.stepUp?.(caller, request.body);
        if (scope !== undefined) {
          const reason = "the token's scopes do not reach the tool";
          turnAway(request, reply, { status: 403, error: "insufficient_scope", scope, reason }, caller);
          return reply;
        }
        if (plain?.take(request, reply, caller)) return undefined;
        return post(request, reply).then(() => reply);
      },
    });

    app.route({
      method: ["GET", "DELETE", "PUT", "PATCH", "OPTIONS"],
      url: "/mcp",
      handler: async (request, reply) => {
        // Only a session of an older protocol has a stream to GET. None can be ended by DELETE, since nothing of it is
        // kept; the specification has 405 for that (2025-11-25, Transports, "Session Management").
        if (request.method === "GET" && request.headers["mcp-session-id"] !== undefined) {
          older.get(request, reply, admittedOf(request));
          return reply;
        }
        reply.header("allow", request.headers["mcp-session-id"] === undefined ? "POST" : "GET, POST");
        refuse(reply, 405, TRANSPORT_ERROR, "Method not allowed: this endpoint is stateless and takes POST only.");
        return reply;
      },
    });

    sockets.route(app, admittedOf);

    app.setErrorHandler((error: FastifyError, request, reply) => {
      // Without the store that replicas share, there are no tickets; nothing else needs it.
      if (error instanceof StoreUnavailable) return turnAway(request, reply, NO_TICKETS, admitted.get(request)?.caller);
      const status = error.statusCode ?? 500;
      if (status >= 500) {
        request.log.error({ event: "request.failed", err: error });
        return refuse(reply, 500, INTERNAL_ERROR, "Internal server error.");
      }
      return refuse(reply, status, status === 400 ? PARSE_ERROR : TRANSPORT_ERROR, bodyFault(error, bodyLimit));
    });
  };

  return {
    upgrades: sockets.upgrades,
    plugin,
    async endStreams() {
      protocol.endWaits?.();
      sockets.drain();
      older.endStreams();
      await streams.endAll();
    },
    async abort() {
      plain?.abort();
      older.abort();
      sockets.terminate();
      await calls.close();
    },
    idle(ms) {
      if (isIdle()) return Promise.resolve(true);
      return new Promise((resolve) => {
        const timer = setTimeout(() => resolve(false), ms);
        onIdle = () => {
          clearTimeout(timer);
          resolve(true);
        };
      });
    },
  };
}

function credentialsOf(request: FastifyRequest): Credentials {
  const { authorization, origin } = request.headers;
  const { rawHeaders } = request.raw;
  return { authorization, rawHeaders, address: request.ip, ticket: ticketIn(request), origin };
}

/** Without the query, in which careless clients put secrets. */
const pathOf = ({ url }: FastifyRequest): string => url.split("?", 1)[0] ?? "";

/** The trace id of what is refused: of the header, or else of the message, where that was read. */
function traceIdIn({ headers, body }: FastifyRequest): string | undefined {
  return traceIdOf(headers.traceparent) ?? traceIdOf(member(member(member(body, "params"), "_meta"), "traceparent"));
}

/** The headers by which the 2026-07-28 protocol repeats what is in the body. */
function protocolHeaders({ headers }: FastifyRequest) {
  return {
    protocolVersionHeader: one(headers["mcp-protocol-version"]),
    mcpMethodHeader: one(headers["mcp-method"]),
    mcpNameHeader: one(headers["mcp-name"]),
  };
}

const one = (value: string | string[] | undefined): string | undefined =>
  Array.isArray(value) ? value.join(", ") : value;

/** What Fastify says of a body it did not take, in words for whoever sent it. */
function bodyFault(error: FastifyError, bodyLimit: number): string {
  switch (error.code) {
    case "FST_ERR_CTP_BODY_TOO_LARGE":
      return `The request body is larger than ${bodyLimit} bytes, the most this server takes; send less at once.`;
    case "FST_ERR_CTP_INVALID_MEDIA_TYPE":
      return "Unsupported media type: send application/json.";
    case "FST_ERR_CTP_EMPTY_JSON_BODY":
      return "Parse error: the body is empty; send one JSON-RPC message.";
    default:
      return `Parse error: ${error.message}`;
  }
}

function methodOf(body: unknown): string | undefined {
  const method = member(body, "method");
  return typeof method === "string" ? method : undefined;
}

const member = (value: unknown, name: string): unknown =>
  typeof value === "object" && value !== null ? Reflect.get(value, name) : undefined;
