import websocket from "@fastify/websocket";
import type { FastifyBaseLogger, FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import fastifyPlugin from "fastify-plugin";
import type { Admitted } from "../auth/credentials.ts";
import { TICKET_SECONDS, type Tickets } from "../auth/tickets.ts";
import type { Limits } from "../limits/limits.ts";
import type { Audit } from "../observability/audit.ts";
import type { Metrics } from "../observability/metrics.ts";
import { traceIdOf } from "../observability/trace-context.ts";
import type { Caller } from "../tools/define-tool.ts";
import { serveConnection } from "./connection.ts";
import type { CredentialWatch } from "./credential-watch.ts";
import type { Protocol } from "./protocol.ts";
import { refuse, TRANSPORT_ERROR } from "./refusals.ts";
import { createRepeatedRefusals } from "./repeated-refusals.ts";
import { createShares } from "./shares.ts";
import { WebSocketTransport } from "./websocket-transport.ts";

/** The MCP endpoint over WebSocket, `/mcp/ws`, for every version of the protocol. */
export interface WebSockets {
  /** Has the listener take upgrades; to be registered before any route. */
  readonly upgrades: (app: FastifyInstance) => Promise<void>;
  /** Registers the endpoint, beside `/mcp` and behind the same hooks. */
  route(app: FastifyInstance, admittedOf: (request: FastifyRequest) => Admitted): void;
  /** Whether something is in progress; while draining, any connection that is still open is. */
  readonly busy: boolean;
  /** Ends each connection as soon as nothing is in progress on it; takes no request any more. */
  drain(): void;
  /** Cuts off what is left. */
  terminate(): void;
}

interface WebSocketsOptions {
  readonly protocol: Protocol;
  readonly limits: Limits;
  readonly metrics: Metrics;
  readonly audit?: Pick<Audit, "decided"> | undefined;
  readonly log: FastifyBaseLogger;
  /** Whether what a caller was let in by still holds. */
  readonly stillHolds: (admitted: Admitted) => boolean;
  readonly watch: CredentialWatch;
  readonly tickets: Tickets;
  /** Bytes of one message; a longer one ends its connection with status 1009. */
  readonly messageLimit: number;
  /** Called whenever a connection has nothing in progress any more. */
  readonly onIdle: () => void;
}

const PATH = "/mcp/ws";
const TICKET_PATH = `${PATH}/ticket`;
const SUB_PROTOCOL = "mcp";
/** What a ticket has before it among the sub-protocols that a handshake offers. It is never the one selected. */
const TICKET_PREFIX = "ticket.";
/** Connections at once in one process. */
const LIMIT = 1024;

/**
 * The ticket of a handshake at the endpoint: `Sec-WebSocket-Protocol: mcp, ticket.<ticket>`. A browser's WebSocket takes
 * no headers of the page's, and a URL ends up in logs; the sub-protocols are all that is left. Undefined when there is
 * none; of several, all in one, which is no ticket.
 */
export function ticketIn(request: FastifyRequest): string | undefined {
  if (!request.ws || request.routeOptions.url !== PATH) return undefined;
  const tickets = offeredBy(request).filter((name) => name.startsWith(TICKET_PREFIX));
  return tickets.length === 0 ? undefined : tickets.map((name) => name.slice(TICKET_PREFIX.length)).join();
}

const offeredBy = ({ headers }: FastifyRequest): string[] =>
  headers["sec-websocket-protocol"]?.split(",").map((name) => name.trim()) ?? [];

export function createWebSockets({
  protocol,
  limits,
  metrics,
  audit,
  log,
  stillHolds,
  watch,
  tickets,
  messageLimit,
  onIdle,
}: WebSocketsOptions): WebSockets {
  const open = new Map<WebSocketTransport, { end(): void }>();
  const shares = createShares(LIMIT);
  /** Each of them is a message, and costs its sender next to nothing. */
  const refused = createRepeatedRefusals((refusal) => {
    const { caller, reason } = refusal;
    log.warn({ event: "request.refused", reason: "limit", why: reason, subject: caller.subject });
    audit?.decided(refusal);
  });
  let draining = false;

  const upgrades = fastifyPlugin(async (app: FastifyInstance) => {
    await app.register(websocket, {
      options: {
        maxPayload: messageLimit,
        handleProtocols: (offered) => (offered.has(SUB_PROTOCOL) ? SUB_PROTOCOL : false),
      },
      // Connections end when their calls have; see drain().
      preClose: (done) => done(),
      errorHandler: (error, _socket, request) => {
        request.log.warn({ event: "websocket.error", err: error });
      },
    });
    // The plugin would open a connection on any route, before closing it again.
    app.addHook("onRequest", (request, reply, done) => {
      if (!request.ws || request.routeOptions.url === PATH) return done();
      refuse(reply, 404, TRANSPORT_ERROR, `Nothing here speaks WebSocket; the endpoint is ${PATH}.`);
    });
  });

  const route: WebSockets["route"] = (app, admittedOf) => {
    app.post(TICKET_PATH, async (request, reply) => {
      const ticket = await tickets.issue(admittedOf(request), request.headers.origin);
      return reply.header("cache-control", "no-store").send({ ticket, expiresInSeconds: TICKET_SECONDS });
    });
    app.options(TICKET_PATH, async (_request, reply) => {
      reply.header("allow", "POST");
      refuse(reply, 405, TRANSPORT_ERROR, "Method not allowed: a ticket is asked for by POST.");
      return reply;
    });
    app.route({
      method: "GET",
      url: PATH,
      preValidation: async (request, reply) => {
        const reason = refusal(request) ?? crowding(request, admittedOf(request).caller);
        if (reason === undefined) return;
        reply.header("upgrade", "websocket").header("connection", "upgrade");
        refuse(reply, reason.status, TRANSPORT_ERROR, reason.message);
        return reply;
      },
      handler: (_request: FastifyRequest, _reply: FastifyReply) => {
        throw new Error("A request that is no upgrade passed the check for one.");
      },
      wsHandler: (socket, request) => {
        const admitted = admittedOf(request);
        const { caller } = admitted;
        const allowance = {
          request: () => limits.request(caller),
          moved: (bytes: number) => limits.moved(caller, bytes),
        };
        const transport = new WebSocketTransport(socket, allowance, {
          permitted: () => stillHolds(admitted),
          refused: ({ method, params }, { which, what }) => {
            const traceId = traceIdOf(request.headers.traceparent) ?? traceIdOf(params?._meta?.traceparent);
            const reason = `limit:${which}:${what}`;
            refused({ decision: "refused", reason, caller, address: request.ip, method, path: PATH, traceId });
          },
          answered: (method, seconds) => metrics.requestServed(method, 200, seconds),
          idle: () => {
            if (draining) connection.end();
            onIdle();
          },
          closed: () => {
            unwatch();
            open.delete(transport);
            onIdle();
          },
        });
        const unwatch = watch(admitted, () => transport.expire());
        const served = serveConnection({
          protocol,
          transport,
          caller,
          onerror: (error) => request.log.warn({ event: "websocket.error", err: error }),
        });
        const connection = {
          end: () => {
            served.close().catch((error: unknown) => request.log.warn({ event: "websocket.error", err: error }));
          },
        };
        open.set(transport, connection);
        request.log.info({ event: "websocket.opened", subject: caller.subject });
      },
    });
  };

  function refusal(request: FastifyRequest): { status: number; message: string } | undefined {
    if (!request.ws) {
      return {
        status: 426,
        message: `Upgrade required: this endpoint speaks WebSocket, sub-protocol ${SUB_PROTOCOL}.`,
      };
    }
    if (!offeredBy(request).includes(SUB_PROTOCOL)) {
      return { status: 400, message: `The handshake must offer the sub-protocol ${SUB_PROTOCOL}.` };
    }
    return undefined;
  }

  function crowding(request: FastifyRequest, caller: Caller): { status: number; message: string } | undefined {
    const leave = draining ? undefined : shares.take(caller);
    if (leave === undefined) return { status: 503, message: "This server takes no more connections now; try again." };
    request.raw.socket.once("close", leave);
    return undefined;
  }

  return {
    upgrades,
    route,
    get busy() {
      return open.size > 0 && (draining || [...open.keys()].some((transport) => transport.pending > 0));
    },
    drain() {
      draining = true;
      for (const [transport, { end }] of open) {
        transport.drain();
        if (transport.pending === 0) end();
      }
    },
    terminate() {
      for (const transport of open.keys()) transport.terminate();
    },
  };
}
