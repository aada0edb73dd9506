import type { Config } from "../config.ts";
import type { Caller } from "../tools/define-tool.ts";
import type { ApiKeys } from "./api-keys.ts";
import type { Admitted, Authenticated, Credentials } from "./credentials.ts";
import type { Entra } from "./entra.ts";
import type { Failures } from "./failures.ts";
import type { Tickets } from "./tickets.ts";

/** Tells who sends a request. Synchronous for what is known already, which is nearly every request. */
export type Authenticate = (credentials: Credentials) => Authenticated | Promise<Authenticated>;

interface AuthenticateOptions {
  readonly mode: Config["AUTH_MODE"];
  /** Where the mode has them. */
  readonly keys?: ApiKeys | undefined;
  /** Where the mode has it. */
  readonly entra?: Entra | undefined;
  readonly tickets?: Pick<Tickets, "redeem"> | undefined;
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
  const settle = (outcome: Authenticated, address: string): Authenticated => {
    if ("caller" in outcome) {
      failures?.succeeded(address);
    } else if (outcome.refusal.status === 401 && !outcome.refusal.stale) failures?.failed(address);
    return outcome;
  };

  return ({ authorization, rawHeaders, address, ticket, origin }) => {
    const count = authorizationsIn(rawHeaders);
    if (count > 1 || (count === 1 && ticket !== undefined)) {
      const reason = count > 1 ? "several Authorization headers" : "a ticket beside an Authorization header";
      return { refusal: { status: 400, error: "invalid_request", reason } };
    }
    if (ticket !== undefined) {
      const wait = failures?.mayTry(address) ?? 0;
      if (wait > 0) return slowed(wait);
      if (tickets === undefined) return settle(NO_TICKET, address);
      const redeemed = tickets.redeem(ticket, origin);
      return redeemed.then((admitted) => settle(admitted ?? NO_TICKET, address));
    }
    const sent = bearerIn(authorization);
    if (sent === undefined) return NO_CREDENTIALS;

    const isKey = withEntra === undefined || sent.startsWith(KEY_PREFIX);
    const known = isKey ? admittedBy(withKeys?.find(sent)) : withEntra.known(sent);
    if (known !== undefined) return settle(known, address);
    const wait = failures?.mayTry(address) ?? 0;
    if (wait > 0) return slowed(wait);
    if (!WELL_FORMED.test(sent)) return settle(MALFORMED, address);
    if (!isKey) return withEntra.verify(sent).then((outcome) => settle(outcome, address));
    return settle(NO_KEY, address);
  };
}

const admittedBy = (caller: Caller | undefined): Admitted | undefined => caller && { caller };

const slowed = (wait: number): Authenticated => ({
  refusal: { status: 429, retryAfterSeconds: wait, reason: "too many failures from this address" },
});
const invalid = (reason: string): Authenticated => ({ refusal: { status: 401, error: "invalid_token", reason } });
const NO_TICKET = invalid("no such ticket");
const NO_KEY = invalid("no such key");
const MALFORMED = invalid("malformed credentials");
const NO_CREDENTIALS: Authenticated = { refusal: { status: 401, reason: "no credentials" } };

/** What stands behind the scheme, whose name is case-insensitive (RFC 9110, section 11.1). */
const BEARER = /^Bearer +(\S.*)$/i;
/** b64token of RFC 6750, section 2.1: what keys and tokens are made of. */
const WELL_FORMED = /^[\w.~+/-]+=*$/;

const bearerIn = (authorization = ""): string | undefined => BEARER.exec(authorization)?.[1];

const AUTHORIZATION = "authorization";

function authorizationsIn(rawHeaders: readonly string[]): number {
  let count = 0;
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const name = rawHeaders[at];
    if (name?.length === AUTHORIZATION.length && name.toLowerCase() === AUTHORIZATION) count++;
  }
  return count;
}
