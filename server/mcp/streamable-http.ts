import underPressure from "@fastify/under-pressure";
import { toNodeHandler } from "@modelcontextprotocol/node";
import { createMcpHandler } from "@modelcontextprotocol/server";
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { Authenticate } from "../auth/authenticate.ts";
import type { RefuseForeign } from "../auth/origin.ts";
import type { Metrics } from "../observability/metrics.ts";
import type { Caller } from "../tools/define-tool.ts";
import { authInfoOf, type Protocol } from "./protocol.ts";

/** The MCP endpoint: one path, POST alone, since the stateless protocol has no other verb. */
export interface StreamableHttp {
  /** Registers the endpoint at `/mcp`. */
  readonly plugin: (app: FastifyInstance) => Promise<void>;
  /** Ends open subscription streams as the protocol has it, with a last result; new ones are refused. */
  endStreams(): Promise<void>;
  /** Resolves when no exchange is open, or after `ms`; tells which. */
  idle(ms: number): Promise<boolean>;
  /** Aborts what is still open. */
  abort(): Promise<void>;
}

interface StreamableHttpOptions {
  readonly protocol: Protocol;
  readonly authenticate: Authenticate;
  readonly refuseForeign: RefuseForeign;
  readonly metrics: Metrics;
  readonly bodyLimit: number;
}

/**
 * Mean delay of the event loop, over a second, above which a request is better answered by another replica. Memory is
 * no such sign: the collector gives back late what it could give back at once, and an idle process would stay refused.
 */
const EVENT_LOOP_DELAY_LIMIT_MS = 250;
const RETRY_AFTER_SECONDS = 5;

/** JSON-RPC's code for a body that is no JSON, and the SDK's for what the transport refuses. */
const PARSE_ERROR = -32_700;
const TRANSPORT_ERROR = -32_000;

export function createStreamableHttp(options: StreamableHttpOptions): StreamableHttp {
  const { protocol, authenticate, refuseForeign, metrics, bodyLimit } = options;
  const callers = new WeakMap<FastifyRequest, Caller>();
  const open = new Set<FastifyReply>();
  let onIdle: (() => void) | undefined;

  // Subscriptions have a handler of their own, because closing a handler is the one way to end its streams, and it
  // would cut off running calls with them.
  const handlers = { calls: createMcpHandler(protocol.factory()), streams: createMcpHandler(protocol.factory()) };
  const node = { calls: toNodeHandler(handlers.calls), streams: toNodeHandler(handlers.streams) };

  const plugin = async (app: FastifyInstance) => {
    app.addHook("onRequest", async (request, reply) => {
      const started = performance.now();
      metrics.connectionOpened();
      open.add(reply);
      // "close" comes after every end of an answer, a client that went away included.
      reply.raw.once("close", () => {
        metrics.connectionClosed();
        metrics.requestServed(methodOf(request.body), reply.raw.statusCode, (performance.now() - started) / 1000);
        open.delete(reply);
        if (open.size === 0) onIdle?.();
      });
    });

    await app.register(underPressure, {
      maxEventLoopDelay: EVENT_LOOP_DELAY_LIMIT_MS,
      pressureHandler: (_request, reply) => {
        reply.header("retry-after", RETRY_AFTER_SECONDS);
        refuse(reply, 503, TRANSPORT_ERROR, "The server is overloaded; try again in a few seconds.");
      },
    });

    app.addHook("onRequest", async (request, reply) => {
      const foreign = refuseForeign(request.headers);
      if (foreign !== undefined) {
        request.log.warn({ event: "request.refused", reason: "foreign", origin: request.headers.origin });
        return refuse(reply, 403, TRANSPORT_ERROR, foreign);
      }
      const caller = authenticate(request.headers.authorization);
      if (caller === undefined) {
        request.log.warn({ event: "request.refused", reason: "unauthenticated" });
        // The same whatever was wrong: which part of a guess was right is nobody's business.
        reply.header("www-authenticate", 'Bearer realm="mcp"');
        return refuse(
          reply,
          401,
          TRANSPORT_ERROR,
          "Authentication required: send a valid key as Authorization: Bearer <key>.",
        );
      }
      callers.set(request, caller);
    });

    app.route({
      method: "POST",
      url: "/mcp",
      bodyLimit,
      handler: async (request, reply) => {
        const caller = callers.get(request);
        if (caller === undefined) throw new Error("A request without a caller reached the endpoint.");
        reply.hijack();
        const handle = methodOf(request.body) === "subscriptions/listen" ? node.streams : node.calls;
        await handle(Object.assign(request.raw, { auth: authInfoOf(caller) }), reply.raw, request.body);
      },
    });

    app.route({
      method: ["GET", "DELETE", "PUT", "PATCH", "OPTIONS"],
      url: "/mcp",
      handler: (_request, reply) => {
        reply.header("allow", "POST");
        return refuse(
          reply,
          405,
          TRANSPORT_ERROR,
          "Method not allowed: this endpoint is stateless and takes POST only.",
        );
      },
    });

    app.setErrorHandler((error: FastifyError, request, reply) => {
      const status = error.statusCode ?? 500;
      if (status >= 500) {
        request.log.error({ event: "request.failed", err: error });
        return refuse(reply, 500, -32_603, "Internal server error.");
      }
      return refuse(reply, status, status === 400 ? PARSE_ERROR : TRANSPORT_ERROR, bodyFault(error, bodyLimit));
    });
  };

  return {
    plugin,
    endStreams: () => handlers.streams.close(),
    abort: () => handlers.calls.close(),
    idle(ms) {
      if (open.size === 0) return Promise.resolve(true);
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

function refuse(reply: FastifyReply, status: number, code: number, message: string) {
  return reply.code(status).send({ jsonrpc: "2.0", id: null, error: { code, message } });
}

function methodOf(body: unknown): string | undefined {
  if (typeof body !== "object" || body === null || !("method" in body)) return undefined;
  return typeof body.method === "string" ? body.method : undefined;
}
