import type { Config } from "../config.ts";
import type { Caller } from "../tools/define-tool.ts";
import type { ApiKeys } from "./api-keys.ts";
import type { Entra } from "./entra.ts";

/** What a request brings along to say who sends it. */
export interface Credentials {
  readonly authorization: string | undefined;
  /** Names and values in turn, as they came: Node keeps the first of several Authorization headers and drops the rest. */
  readonly rawHeaders: readonly string[];
  /** Of the client, as far as proxies in front are trusted to name it. */
  readonly address: string;
  /** A browser's, at the handshake of a WebSocket. */
  readonly ticket?: string;
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

export type Authenticated = { readonly caller: Caller } | { readonly refusal: Refusal };

/** Tells who sends a request. Synchronous for what is known already, which is nearly every request. */
export type Authenticate = (credentials: Credentials) => Authenticated | Promise<Authenticated>;

/** Slows down addresses that fail again and again. */
export interface Failures {
  /** Seconds to wait; 0: may try. */
  mayTry(address: string): number;
  failed(address: string): void;
  succeeded(address: string): void;
}

interface AuthenticateOptions {
  readonly mode: Config["AUTH_MODE"];
  /** Where the mode has them. */
  readonly keys?: ApiKeys | undefined;
  /** Where the mode has it. */
  readonly entra?: Entra | undefined;
  readonly tickets?: { redeem(ticket: string): Promise<Caller | undefined> } | undefined;
  readonly failures?: Failures | undefined;
}

/** Whoever started this process and talks to it over its own pipes. */
export const LOCAL_CALLER: Caller = Object.freeze({ subject: "local", method: "local", role: "admin" });

const ANONYMOUS: Authenticated = {
  caller: Object.freeze<Caller>({ subject: "anonymous", method: "none", role: "admin" }),
};

/** What every API key of this project begins with. */
const KEY_PREFIX = "mcp_";

export function createAuthenticate({ mode, keys, entra, tickets, failures }: AuthenticateOptions): Authenticate {
  if (mode === "none") return () => ANONYMOUS;
  const withKeys = mode === "api-key" || mode === "entra,api-key" ? keys : undefined;
  const withEntra = mode === "entra" || mode === "entra,api-key" ? entra : undefined;
  /** Callers that have proved themselves; they are never kept out for what others at their address do. */
  const proven = new WeakSet<Caller>();

  const settle = (outcome: Authenticated, address: string): Authenticated => {
    if ("caller" in outcome) {
      proven.add(outcome.caller);
      failures?.succeeded(address);
    } else if (outcome.refusal.status === 401 && !outcome.refusal.stale) failures?.failed(address);
    return outcome;
  };

  return ({ authorization, rawHeaders, address, ticket }) => {
    const count = authorizationsIn(rawHeaders);
    if (count > 1 || (count === 1 && ticket !== undefined)) {
      const reason = count > 1 ? "several Authorization headers" : "a ticket beside an Authorization header";
      return { refusal: { status: 400, error: "invalid_request", reason } };
    }
    const wait = failures?.mayTry(address) ?? 0;
    const slowed: Authenticated = {
      refusal: { status: 429, retryAfterSeconds: wait, reason: "too many failures from this address" },
    };
    if (ticket !== undefined) {
      if (wait > 0) return slowed;
      if (tickets === undefined) return settle(NO_TICKET, address);
      return tickets.redeem(ticket).then((caller) => settle(caller === undefined ? NO_TICKET : { caller }, address));
    }
    const sent = bearerIn(authorization);
    if (typeof sent !== "string") return settle({ refusal: sent }, address);

    const isKey = withEntra === undefined || sent.startsWith(KEY_PREFIX);
    const caller = isKey ? withKeys?.find(sent) : withEntra.known(sent);
    if (wait > 0 && !(caller !== undefined && proven.has(caller))) return slowed;
    if (caller !== undefined) return settle({ caller }, address);
    if (!isKey) return withEntra.verify(sent).then((outcome) => settle(outcome, address));
    return settle({ refusal: { status: 401, error: "invalid_token", reason: "no such key" } }, address);
  };
}

const NO_TICKET: Authenticated = { refusal: { status: 401, error: "invalid_token", reason: "no such ticket" } };
const NONE: Refusal = { status: 401, reason: "no credentials", stale: true };

/** The scheme's name is case-insensitive (RFC 9110, section 11.1); the rest is b64token of RFC 6750, section 2.1. */
const BEARER = /^Bearer +(?<token>[\w.~+/-]+=*)$/i;

function bearerIn(authorization = ""): string | Refusal {
  if (!/^Bearer +\S/i.test(authorization)) return NONE;
  const token = BEARER.exec(authorization)?.groups?.token;
  return token ?? { status: 401, error: "invalid_token", reason: "malformed credentials" };
}

const AUTHORIZATION = "authorization";

function authorizationsIn(rawHeaders: readonly string[]): number {
  let count = 0;
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const name = rawHeaders[at];
    if (name?.length === AUTHORIZATION.length && name.toLowerCase() === AUTHORIZATION) count++;
  }
  return count;
}
