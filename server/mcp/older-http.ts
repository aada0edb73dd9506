import {
  isJSONRPCErrorResponse,
  isJSONRPCNotification,
  isJSONRPCRequest,
  isJSONRPCResultResponse,
  type JSONRPCMessage,
  type JSONRPCNotification,
  type JSONRPCRequest,
  type RequestId,
  SUPPORTED_PROTOCOL_VERSIONS,
} from "@modelcontextprotocol/server";
import type { FastifyReply, FastifyRequest } from "fastify";
import { z } from "zod";
import type { Admitted } from "../auth/credentials.ts";
import type { LeftAnswers } from "../services/left-answers.ts";
import { type Caller, callerKey } from "../tools/define-tool.ts";
import { createAwaitedAnswers, type JSONRPCAnswer } from "./awaited-answers.ts";
import type { CredentialWatch } from "./credential-watch.ts";
import { answerToCutOff, eventIdOf } from "./cut-off-calls.ts";
import { EventStream } from "./event-stream.ts";
import type { Connection } from "./exchange.ts";
import { OlderExchange } from "./older-exchange.ts";
import { authInfoOf, type Protocol, type Ran } from "./protocol.ts";
import { INVALID_REQUEST, refuse, SESSION_NOT_FOUND, TRANSPORT_ERROR } from "./refusals.ts";
import { canBeAsked, mintSession, type Session, sessionOf } from "./session.ts";
import { createSessionMemory } from "./session-memory.ts";

/** Streamable HTTP as the protocols from 2024-11-05 to 2025-11-25 have it. */
export interface OlderHttp {
  /** Serves one POST. */
  post(request: FastifyRequest, reply: FastifyReply, caller: Caller, begun?: Begun): Promise<void>;
  /** What is remembered of a session. */
  connectionOf(caller: Caller, session: Session): Connection;
  /** Has a call found by who wants to cancel it, though it is made elsewhere; returns how to end that. */
  cancellable(caller: Caller, session: Session | undefined, id: RequestId, call: Cancellable): () => void;
  /** Serves one GET: the stream of what the server says unasked. It ends with the caller's credential. */
  get(request: FastifyRequest, reply: FastifyReply, admitted: Admitted): void;
  /** Ends what would stay open by itself; calls in progress go on. */
  endStreams(): void;
  /** Cuts off calls in progress. */
  abort(): void;
}

/** A call that was begun elsewhere, to be brought to its end here. */
export interface Begun {
  readonly ran: Ran;
  readonly stream: EventStream | undefined;
}

interface Cancellable {
  cancel(id: RequestId, notification: JSONRPCNotification): void;
}

/** Messages in one JSON array. */
const BATCH_LIMIT = 100;
/** Methods that may need an answer from the client before they have theirs. */
const ASKING: ReadonlySet<string> = new Set(["tools/call", "prompts/get", "resources/read"]);

type Incoming = JSONRPCRequest | JSONRPCNotification | JSONRPCAnswer;

/** `left` is where replicas leave one another answers to questions; absent where they share nothing. */
export function createOlderHttp(protocol: Protocol, watch: CredentialWatch, left?: LeftAnswers): OlderHttp {
  const memory = createSessionMemory(protocol);
  const asks = protocol.asks ?? ((method) => ASKING.has(method));
  const awaited = createAwaitedAnswers(left);
  const exchanges = new Set<OlderExchange>();
  /** Where the answer to a request is being made, for who wants to cancel it. */
  const running = new Map<string, Cancellable>();
  const keyOf = (caller: Caller, session: Session | undefined, id: unknown) =>
    `${callerKey(caller)}\n${session?.name ?? ""}\n${typeof id}\n${String(id)}`;

  const post: OlderHttp["post"] = async (request, reply, caller, begun) => {
    if (!accepts(request, "application/json") || !accepts(request, "text/event-stream")) {
      return refuse(
        reply,
        406,
        TRANSPORT_ERROR,
        "Not Acceptable: the client must accept both application/json and text/event-stream.",
      );
    }
    const batch = Array.isArray(request.body);
    const messages = messagesIn(request.body);
    if (messages === undefined) {
      return refuse(
        reply,
        400,
        INVALID_REQUEST,
        "Invalid Request: the body is no JSON-RPC message, nor an array of some.",
      );
    }
    const handshake = messages.find(isInitialize);
    if (handshake !== undefined && messages.length > 1) {
      return refuse(reply, 400, INVALID_REQUEST, "Invalid Request: initialize comes alone.");
    }
    const place = placeOf(request, reply, handshake);
    if (place === undefined) return;
    const { session } = place;

    const delivered = await Promise.all(messages.filter(isAnswer).map((answer) => awaited.deliver(caller, answer)));
    const requests = messages.filter(isJSONRPCRequest);
    for (const notification of messages.filter(isJSONRPCNotification)) {
      if (notification.method !== "notifications/cancelled") continue;
      const { data } = Cancelled.safeParse(notification.params);
      if (data !== undefined) running.get(keyOf(caller, session, data.requestId))?.cancel(data.requestId, notification);
    }
    if (requests.length === 0) {
      if (delivered.includes(false)) {
        return refuse(
          reply,
          400,
          INVALID_REQUEST,
          "Nobody waits for that answer: the question has ended, or was not yours.",
        );
      }
      return void reply.code(202).send();
    }

    reply.hijack();
    // Gone already: nothing would tell the exchange any more.
    if (reply.raw.destroyed) return;
    if (handshake !== undefined) reply.raw.setHeader("mcp-session-id", mintSession(handshake.params));
    const exchange = new OlderExchange({
      response: reply.raw,
      caller,
      extra: { authInfo: authInfoOf(caller, request.headers.traceparent, begun?.ran) },
      batch,
      awaited,
      stream: begun?.stream,
      eventId: session && resumedBy(requests),
    });
    const server = protocol.server({
      connection: session && memory.of(caller, session),
      method: requests.length === 1 ? requests[0]?.method : undefined,
    });
    exchanges.add(exchange);
    for (const { id } of requests) running.set(keyOf(caller, session, id), exchange);
    server.onclose = () => {
      exchanges.delete(exchange);
      for (const { id } of requests) {
        const key = keyOf(caller, session, id);
        if (running.get(key) === exchange) running.delete(key);
      }
    };
    await server.connect(exchange);
    if (session !== undefined && canBeAsked(session) && requests.some(({ method }) => asks(method))) {
      await exchange.resume(session);
    }
    exchange.receive(requests);
  };

  return {
    post,
    connectionOf: (caller, session) => memory.of(caller, session),
    cancellable(caller, session, id, call) {
      const key = keyOf(caller, session, id);
      running.set(key, call);
      return () => {
        if (running.get(key) === call) running.delete(key);
      };
    },
    get(request, reply, admitted) {
      if (!accepts(request, "text/event-stream")) {
        return refuse(reply, 406, TRANSPORT_ERROR, "Not Acceptable: the client must accept text/event-stream.");
      }
      const place = placeOf(request, reply, undefined);
      if (place?.session === undefined) return;
      reply.hijack();
      const lastEventId = headerOf(request, "last-event-id");
      const answer = answerToCutOff(lastEventId);
      if (answer === undefined) {
        const end = memory.of(admitted.caller, place.session).open(reply.raw, lastEventId);
        reply.raw.once("close", watch(admitted, end));
        return;
      }
      const stream = new EventStream(reply.raw);
      stream.send(answer).catch(() => {});
      stream.end();
    },
    endStreams: () => memory.endStreams(),
    abort() {
      for (const exchange of exchanges) void exchange.close();
    },
  };
}

/** The session and version that a request's headers name; undefined when they were refused. */
function placeOf(
  request: FastifyRequest,
  reply: FastifyReply,
  handshake: Handshake | undefined,
): { session: Session | undefined } | undefined {
  if (handshake !== undefined) return { session: undefined };
  const version = headerOf(request, "mcp-protocol-version");
  if (version !== undefined && !SUPPORTED_PROTOCOL_VERSIONS.includes(version)) {
    const known = SUPPORTED_PROTOCOL_VERSIONS.join(", ");
    refuse(reply, 400, TRANSPORT_ERROR, `Bad Request: unsupported protocol version ${version}; there are ${known}.`);
    return undefined;
  }
  const id = headerOf(request, "mcp-session-id");
  if (id === undefined) return { session: undefined };
  const session = sessionOf(id);
  if (session === undefined) {
    // What makes a client begin anew (MCP specification 2025-11-25, Transports, "Session Management").
    refuse(reply, 404, SESSION_NOT_FOUND, "Session not found: begin a new one with initialize.");
    return undefined;
  }
  return { session };
}

/** By what the client of that POST asks for its stream again, which it can for the one call in it. */
function resumedBy([request, ...others]: readonly JSONRPCRequest[]): string | undefined {
  return request?.method === "tools/call" && others.length === 0 ? eventIdOf(request.id) : undefined;
}

const Cancelled = z.object({ requestId: z.union([z.string(), z.number()]) });

const InitializeParams = z.object({ protocolVersion: z.string(), capabilities: z.unknown() });
type Handshake = JSONRPCRequest & { params: z.output<typeof InitializeParams> };

/** The SDK checks the rest of it; what is no proper handshake gets no session either. */
function isInitialize(message: JSONRPCMessage): message is Handshake {
  return (
    isJSONRPCRequest(message) && message.method === "initialize" && InitializeParams.safeParse(message.params).success
  );
}

function isAnswer(message: JSONRPCMessage): message is JSONRPCAnswer {
  return isJSONRPCResultResponse(message) || isJSONRPCErrorResponse(message);
}

function isIncoming(message: unknown): message is Incoming {
  return (
    isJSONRPCRequest(message) ||
    isJSONRPCNotification(message) ||
    isJSONRPCResultResponse(message) ||
    isJSONRPCErrorResponse(message)
  );
}

function messagesIn(body: unknown): Incoming[] | undefined {
  const items: unknown[] = Array.isArray(body) ? body : [body];
  return items.length > 0 && items.length <= BATCH_LIMIT && items.every(isIncoming) ? items : undefined;
}

/** By name, as the specification wants it: clients list both types, and wildcards stand for neither. */
function accepts(request: FastifyRequest, type: string): boolean {
  return request.headers.accept?.toLowerCase().includes(type) ?? false;
}

function headerOf(request: FastifyRequest, name: string): string | undefined {
  const value = request.headers[name];
  return Array.isArray(value) ? value[0] : value;
}
