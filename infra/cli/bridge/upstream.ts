import {
  type FetchLike,
  isJSONRPCRequest,
  type JSONRPCMessage,
  StreamableHTTPClientTransport,
  type TransportSendOptions,
} from "@modelcontextprotocol/client";
import { SessionLost } from "./http-fetch.ts";
import { backoff } from "./patience.ts";

/** Longest wait between two attempts to open a stream again. */
const LONGEST_STREAM_WAIT_MS = 30_000;
/** Attempts before a stream that carries an answer is given up: some ten minutes. */
const STREAM_ATTEMPTS = 20;
/** What a server gets to take note that a session is over. */
const GOODBYE_MS = 1500;

export interface UpstreamEvents {
  message(upstream: Upstream, message: JSONRPCMessage): void;
  /** The server has forgotten the session that this upstream had. Said once. */
  lost(upstream: Upstream): void;
  /** What a person who looks for a fault might want to know. */
  trouble(error: Error): void;
}

/** The HTTP side, for the length of one session: from an `initialize` to the next, or to the loss of the session. */
export class Upstream {
  readonly generation: number;
  readonly #transport: StreamableHTTPClientTransport;
  #over = false;

  constructor(generation: number, url: URL, fetch: FetchLike, events: UpstreamEvents) {
    this.generation = generation;
    let lost = false;
    this.#transport = new StreamableHTTPClientTransport(url, {
      fetch: async (target, init) => {
        try {
          return await fetch(target, init);
        } catch (error) {
          if (error instanceof SessionLost && !lost) {
            lost = true;
            queueMicrotask(() => this.#over || events.lost(this));
          }
          throw error;
        }
      },
      reconnectionOptions: {
        initialReconnectionDelay: 1000,
        maxReconnectionDelay: LONGEST_STREAM_WAIT_MS,
        reconnectionDelayGrowFactor: 2,
        maxRetries: STREAM_ATTEMPTS,
      },
      reconnectionScheduler: (reconnect, _delay, attempt) => {
        const timer = setTimeout(reconnect, backoff(attempt + 2, { longestMs: LONGEST_STREAM_WAIT_MS }));
        return () => clearTimeout(timer);
      },
    });
    this.#transport.onmessage = (message: JSONRPCMessage) => events.message(this, message);
    this.#transport.onerror = (error: Error) => this.#over || events.trouble(error);
  }

  start(): Promise<void> {
    return this.#transport.start();
  }

  /** Sends one message. Resolves when its answer has begun, or has come. */
  send(message: JSONRPCMessage, options?: TransportSendOptions): Promise<void> {
    return this.#transport.send(message, options);
  }

  /** The version that an `initialize` has settled on; older servers want it with every request that follows. */
  settleOn(version: string): void {
    this.#transport.setProtocolVersion(version);
  }

  /** Ends it; what is under way is cut off. `goodbye` tells the server that the session is over. */
  async close({ goodbye = false } = {}): Promise<void> {
    this.#over = true;
    if (goodbye && this.#transport.sessionId !== undefined) {
      const timer = new Promise((resolve) => setTimeout(resolve, GOODBYE_MS).unref());
      await Promise.race([this.#transport.terminateSession().catch(() => {}), timer]);
    }
    await this.#transport.close();
  }
}

/** Whether a message opens a session of the older protocol; the newer one has no sessions. */
export function opensSession(message: JSONRPCMessage): boolean {
  return isJSONRPCRequest(message) && message.method === "initialize" && !isModern(message);
}

/** Whether a request says its protocol version itself, as those of 2026-07-28 and later do. */
export function isModern(message: { readonly params?: unknown }): boolean {
  const meta = (message.params as { _meta?: Record<string, unknown> } | undefined)?._meta;
  return typeof meta?.["io.modelcontextprotocol/protocolVersion"] === "string";
}
