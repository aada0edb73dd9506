import type { Caller } from "../tools/define-tool.ts";

/** What a request brings along to say who sends it. */
export interface Credentials {
  readonly authorization: string | undefined;
  /** Names and values in turn, as they came: Node keeps the first of several Authorization headers and drops the rest. */
  readonly rawHeaders: readonly string[];
  /** Of the client, as far as proxies in front are trusted to name it. */
  readonly address: string;
  /** A browser's, at the handshake of a WebSocket. */
  readonly ticket?: string | undefined;
  /** Of the page that sends it. */
  readonly origin?: string | undefined;
}

export interface Refusal {
  readonly status: 400 | 401 | 403 | 429 | 503;
  /** Of RFC 6750, section 3.1; absent when no credentials came. */
  readonly error?: "invalid_request" | "invalid_token" | "insufficient_scope";
  /** The scope that would do. */
  readonly scope?: string;
  readonly retryAfterSeconds?: number;
  /** For audit and log only, never sent: which part of a guess was right is nobody's business. */
  readonly reason: string;
  /** Something that was good once, which every client sends now and then: no sign of guessing. */
  readonly stale?: true;
}

/** Who was let in. */
export interface Admitted {
  readonly caller: Caller;
  /** When what it was let in by ends by itself, in milliseconds since 1970; absent: not, or whoever knows keys knows. */
  readonly expires?: number | undefined;
}

export type Authenticated = Admitted | { readonly refusal: Refusal };
