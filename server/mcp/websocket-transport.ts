import type { WebSocket } from "@fastify/websocket";
import {
  isJSONRPCErrorResponse,
  isJSONRPCNotification,
  isJSONRPCRequest,
  isJSONRPCResultResponse,
  type JSONRPCMessage,
  type JSONRPCRequest,
  type MessageExtraInfo,
  type RequestId,
  type Transport,
} from "@modelcontextprotocol/server";
import type { Verdict } from "../limits/limits.ts";
import { INVALID_REQUEST, PARSE_ERROR, TRANSPORT_ERROR, tooMany } from "./refusals.ts";

/** RFC 6455, section 7.4.1. */
const GOING_AWAY = 1001;
const UNSUPPORTED_DATA = 1003;
const POLICY_VIOLATION = 1008;

/** Bytes that may wait to be sent before no more is read from a client that does not read. */
const HIGH_WATER_BYTES = 1024 * 1024;
/** Requests of one client that are worked on at once; more wait for their turn. */
const CONCURRENCY = 32;
/** Requests of one client that are not answered yet, waiting ones included. */
const PENDING_LIMIT = 256;
/** Requests refused by a limit, one after the other, until a client that will not wait is shown the door. */
const REFUSALS_LIMIT = 100;
/** Bytes that go to and fro before they are counted, so that not every message is counted by itself. */
const COUNTED_AT_BYTES = 16 * 1024;
const PING_INTERVAL_MS = 30_000;
/** What a client gets to read what is on its way, and to close from its side. */
const CLOSING_MS = 3000;
/** At most 123 bytes, as the reason of a close (RFC 6455, section 5.5). */
const EXPIRED = "The credential of this connection has ended; connect anew with a valid one.";

const CANCELLED = "notifications/cancelled";

interface Asked {
  readonly method: string;
  readonly started: number;
}

/** What the client may still send. */
export interface Allowance {
  request(): Verdict | Promise<Verdict>;
  moved(bytes: number): void;
}

/** What the transport tells of itself. */
export interface WebSocketEvents {
  /** Whether the client may still be here: asked for each message. Whoever knows earlier that it may not expires it. */
  permitted(): boolean;
  /** A limit refused a request. */
  refused(request: JSONRPCRequest, verdict: Verdict): void;
  /** A request was answered, or its client cancelled it. */
  answered(method: string, seconds: number): void;
  /** Nothing is in progress any more. */
  idle(): void;
  closed(): void;
}

/**
 * MCP over a WebSocket: one JSON-RPC message a text frame, both ways. The specification has no such transport but
 * allows others that keep its messages and their order; the sub-protocol `mcp` is the SDKs' own.
 */
export class WebSocketTransport implements Transport {
  onclose?: () => void;
  onerror?: (error: Error) => void;
  onmessage?: <T extends JSONRPCMessage>(message: T, extra?: MessageExtraInfo) => void;

  readonly #socket: WebSocket;
  readonly #allowance: Allowance;
  readonly #events: WebSocketEvents;
  readonly #pending = new Map<RequestId, Asked>();
  readonly #waiting: JSONRPCRequest[] = [];
  #ping: NodeJS.Timeout | undefined;
  #alive = true;
  #draining = false;
  #expired = false;
  #refusals = 0;
  #uncounted = 0;

  constructor(socket: WebSocket, allowance: Allowance, events: WebSocketEvents) {
    this.#socket = socket;
    this.#allowance = allowance;
    this.#events = events;
  }

  /** Requests in progress; a stream that stays open is none. */
  get pending(): number {
    return this.#pending.size;
  }

  async start(): Promise<void> {
    const socket = this.#socket;
    socket.on("message", (data, isBinary) => this.#receive(data.toString(), isBinary));
    socket.on("pong", () => {
      this.#alive = true;
    });
    socket.once("close", () => {
      clearInterval(this.#ping);
      this.#pending.clear();
      this.#waiting.length = 0;
      this.#allowance.moved(this.#uncounted);
      this.#events.closed();
      this.onclose?.();
    });
    this.#ping = setInterval(() => {
      // Not even the answer to a ping since the last one: the client is gone, and TCP has not noticed.
      if (!this.#alive) socket.terminate();
      else socket.ping();
      this.#alive = false;
    }, PING_INTERVAL_MS);
    this.#ping.unref();
  }

  /** From now on requests are refused; those in progress go on. */
  drain(): void {
    this.#draining = true;
  }

  /**
   * What the client was let in by holds no more: nothing of it is taken any more, and the connection ends once the calls
   * that were begun before are answered, as over HTTP. What waits for its turn was not begun.
   */
  expire(): void {
    if (this.#expired) return;
    this.#expired = true;
    for (const { id } of this.#waiting.splice(0)) {
      this.#pending.delete(id);
      this.#turnAway(id, EXPIRED);
    }
    this.#endIfExpired();
  }

  send(message: JSONRPCMessage): Promise<void> {
    return new Promise((resolve, reject) => {
      const socket = this.#socket;
      if (socket.readyState !== socket.OPEN) {
        reject(new Error("The connection is closed."));
        return;
      }
      // Calls back when the kernel has it, so whoever waits for that waits for a slow client.
      const text = JSON.stringify(message);
      this.#count(text);
      socket.send(text, (error) => {
        this.#proceed();
        if (error) reject(error);
        else resolve();
      });
      if (socket.bufferedAmount >= HIGH_WATER_BYTES) socket.pause();
      if (isJSONRPCResultResponse(message) || isJSONRPCErrorResponse(message)) this.#settle(message.id);
    });
  }

  async close(): Promise<void> {
    this.#end(GOING_AWAY, "The server ends this connection.");
  }

  terminate(): void {
    this.#socket.terminate();
  }

  #end(code: number, reason: string): void {
    const socket = this.#socket;
    socket.close(code, reason);
    const timer = setTimeout(() => socket.terminate(), CLOSING_MS);
    socket.once("close", () => clearTimeout(timer));
  }

  #receive(text: string, isBinary: boolean): void {
    // Sent before the client has heard that the connection ends.
    if (this.#socket.readyState !== this.#socket.OPEN) return;
    if (!this.#events.permitted()) this.expire();
    this.#count(text);
    if (isBinary) {
      this.#socket.close(UNSUPPORTED_DATA, "Messages are JSON in text frames.");
      return;
    }
    let message: unknown;
    try {
      message = JSON.parse(text);
    } catch {
      this.#refuse(null, PARSE_ERROR, "Parse error: the frame is not JSON.");
      return;
    }
    if (isJSONRPCRequest(message)) {
      this.#admit(message);
      return;
    }
    // An answer could agree to something, so it is not taken either. To end a call is nothing that is kept from anyone.
    if (this.#expired && !(isJSONRPCNotification(message) && message.method === CANCELLED)) return;
    if (isJSONRPCNotification(message)) {
      if (message.method === CANCELLED) this.#cancel(cancelledIn(message.params));
    } else if (!isJSONRPCResultResponse(message) && !isJSONRPCErrorResponse(message)) {
      this.#refuse(null, INVALID_REQUEST, "Invalid Request: the frame is not one JSON-RPC message.");
      return;
    }
    this.onmessage?.(message);
  }

  #admit(request: JSONRPCRequest): void {
    const { id, method } = request;
    if (this.#expired) {
      this.#turnAway(id, EXPIRED);
    } else if (this.#draining) {
      this.#refuse(id, TRANSPORT_ERROR, "This server is shutting down; connect anew.");
    } else if (this.#pending.size >= PENDING_LIMIT) {
      this.#refuse(id, TRANSPORT_ERROR, `${PENDING_LIMIT} requests are in progress; wait for one to end.`);
    } else {
      const asked: Asked = { method, started: performance.now() };
      this.#pending.set(id, asked);
      const verdict = this.#allowance.request();
      if (verdict instanceof Promise) verdict.then((known) => this.#judged(request, asked, known), this.onerror);
      else this.#judged(request, asked, verdict);
    }
  }

  #judged(request: JSONRPCRequest, asked: Asked, verdict: Verdict): void {
    const { id, method } = request;
    // Cancelled meanwhile, or the client is gone.
    if (this.#pending.get(id) !== asked) return;
    if (this.#expired) {
      this.#turnAway(id, EXPIRED);
      this.#forget(id);
      return;
    }
    if (verdict.allowed) this.#refusals = 0;
    if (verdict.allowed && method !== "subscriptions/listen") {
      this.#waiting.push(request);
      this.#proceed();
      return;
    }
    this.#forget(id);
    // Answered when the stream ends, which is up to its client, so it is not waited for.
    if (verdict.allowed) {
      this.onmessage?.(request);
      return;
    }
    this.#events.refused(request, verdict);
    this.#turnAway(id, tooMany(verdict), { retryAfterSeconds: verdict.retryAfterSeconds });
  }

  /** Refuses what may be worth another try, later or elsewhere; a client that does not listen has to go. */
  #turnAway(id: RequestId, message: string, data?: Record<string, unknown>): void {
    this.#refusals++;
    if (this.#refusals > REFUSALS_LIMIT) {
      this.#end(POLICY_VIOLATION, "Too many requests, again and again.");
      return;
    }
    this.#refuse(id, TRANSPORT_ERROR, message, data);
  }

  #count(text: string): void {
    this.#uncounted += Buffer.byteLength(text);
    if (this.#uncounted < COUNTED_AT_BYTES) return;
    this.#allowance.moved(this.#uncounted);
    this.#uncounted = 0;
  }

  /** Works on what waits, as far as there is room for its answers. */
  #proceed(): void {
    const socket = this.#socket;
    const isRoom = () => socket.bufferedAmount < HIGH_WATER_BYTES;
    if (socket.isPaused && isRoom()) socket.resume();
    while (this.#pending.size - this.#waiting.length < CONCURRENCY && isRoom()) {
      const next = this.#waiting.shift();
      if (next === undefined) return;
      this.onmessage?.(next);
    }
  }

  #cancel(id: RequestId | undefined): void {
    const at = this.#waiting.findIndex((request) => request.id === id);
    if (at !== -1) this.#waiting.splice(at, 1);
    this.#settle(id);
  }

  #settle(id: RequestId | undefined): void {
    const request = id === undefined ? undefined : this.#pending.get(id);
    if (id === undefined || request === undefined) return;
    this.#events.answered(request.method, (performance.now() - request.started) / 1000);
    this.#forget(id);
  }

  #forget(id: RequestId): void {
    this.#pending.delete(id);
    if (this.#pending.size === 0) this.#events.idle();
    else this.#proceed();
    this.#endIfExpired();
  }

  #endIfExpired(): void {
    if (this.#expired && this.#pending.size === 0) this.#end(POLICY_VIOLATION, EXPIRED);
  }

  #refuse(id: RequestId | null, code: number, message: string, data?: Record<string, unknown>): void {
    this.#socket.send(JSON.stringify({ jsonrpc: "2.0", id, error: { code, message, ...(data && { data }) } }));
  }
}

function cancelledIn(params: unknown): RequestId | undefined {
  if (typeof params !== "object" || params === null || !("requestId" in params)) return undefined;
  const { requestId } = params;
  return typeof requestId === "string" || typeof requestId === "number" ? requestId : undefined;
}
