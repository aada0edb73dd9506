import { hash } from "node:crypto";
import type { FastifyBaseLogger } from "fastify";
import { decodeJwt, errors, type JWTVerifyGetKey, jwtVerify } from "jose";
import { z } from "zod";
import type { Config, Role } from "../config.ts";
import type { Connectors } from "../services/resilience.ts";
import type { Caller } from "../tools/define-tool.ts";
import type { Admitted, Authenticated, Refusal } from "./credentials.ts";
import { createSigningKeys, KeysUnavailable } from "./entra-keys.ts";
import { type AccessPolicy, atLeast, roleOf, SCOPES, scopedRoleOf } from "./roles.ts";

/** Tells whose an Entra access token is. */
export interface Entra {
  /** Whose token it is, and when it ends, for one that was verified a short while ago. */
  known(token: string): Admitted | undefined;
  verify(token: string): Promise<Authenticated>;
}

interface EntraOptions {
  readonly config: EntraConfig;
  readonly policy: AccessPolicy;
  readonly log: Pick<FastifyBaseLogger, "info" | "warn">;
  readonly connectors?: Pick<Connectors, "watched"> | undefined;
  /** Milliseconds since 1970; the machine's clock by default. */
  readonly now?: () => number;
}

/** How far the clocks of Entra and of this machine may be apart. Seconds. */
export const CLOCK_SKEW_SECONDS = 60;
/** Entra signs access tokens with nothing else (Microsoft identity platform, "Access token claims reference"). */
const ALGORITHMS = ["RS256"];
/** A user's token names 200 groups at most, some 10 KiB. */
const TOKEN_LENGTH_LIMIT = 16 * 1024;
/** Longest that a token is taken for good without being looked at again, so that a removed key takes effect. */
const REMEMBERED_MS = 5 * 60_000;
const REMEMBERED_TOKENS = 10_000;
const REMEMBERED_CALLERS = 10_000;
/** Until a key endpoint that failed is asked again. Seconds. */
const RETRY_AFTER_SECONDS = 5;

/**
 * Entra names no groups in a token that would have to name more than 200, and says where to ask for them (Microsoft Learn,
 * "Configure group claims and app roles in tokens"). They are not asked for: that takes a right to read the directory,
 * and a call to Graph that others' logins would wait for.
 */
const OVERAGE =
  "The token has no room for its subject's groups, so none of them gives a role. Assign app roles in place of groups, or " +
  'set groupMembershipClaims of the application to "ApplicationGroup", so that tokens name assigned groups alone.';

const V1_ISSUER = "https://sts.windows.net/";
/** Header, payload and signature of the compact form (RFC 7515, section 3.1). An encrypted token has five parts. */
const COMPACT = /^[\w-]+\.[\w-]+\.[\w-]+$/;

const seconds = z.number().int().positive();

/** The claims that decide something. Wrong types are no tokens of Entra's, whoever signed them. */
const Claims = z.object({
  iss: z.string(),
  // Entra names one audience; of several, the others' servers could send the token on.
  aud: z.string(),
  tid: z.guid(),
  ver: z.enum(["1.0", "2.0"]),
  iat: seconds,
  nbf: seconds,
  exp: seconds,
  sub: z.string().regex(/^[\w-]{1,128}$/),
  oid: z.guid().optional(),
  azp: z.guid().optional(),
  appid: z.guid().optional(),
  idtyp: z.string().optional(),
  scp: z.string().min(1).optional(),
  roles: z.array(z.string()).optional(),
  groups: z.array(z.string()).optional(),
  hasgroups: z.boolean().optional(),
  _claim_names: z.record(z.string(), z.unknown()).optional(),
});
type Claims = z.output<typeof Claims>;

export type EntraConfig = Pick<
  Config,
  "ENTRA_TENANT_ID" | "ENTRA_CLIENT_ID" | "ENTRA_ALLOWED_TENANTS" | "ENTRA_V1_TOKENS" | "AZURE_AUTHORITY_HOST"
>;

/**
 * Validates bearer tokens as RFC 9068 and Microsoft's "Secure applications and APIs by validating claims" have it. What
 * a refusal's reason says is for the audit; callers are told that the token is not valid and nothing more.
 */
export function createEntra({ config, policy, log, connectors, now = Date.now }: EntraOptions): Entra {
  const { ENTRA_CLIENT_ID: clientId = "", ENTRA_ALLOWED_TENANTS: tenants } = config;
  const { AZURE_AUTHORITY_HOST: authority, ENTRA_V1_TOKENS: v1Tokens } = config;
  const audience = [clientId, `api://${clientId}`];
  // A tenant's tokens are judged by that tenant's keys alone.
  const connector = connectors?.watched("entra-keys");
  const keys = new Map<string, JWTVerifyGetKey>(
    tenants.map((tenant) => [
      tenant,
      createSigningKeys(new URL(`${tenant}/discovery/v2.0/keys`, authority), { log, connector, now }),
    ]),
  );
  const remembered = new Recent<{ readonly admitted: Admitted; readonly until: number }>(REMEMBERED_TOKENS);
  const callers = new Recent<Caller>(REMEMBERED_CALLERS);
  const overages = new Recent<true>(REMEMBERED_CALLERS);

  /** The same object for the same caller, whichever token brought it. */
  const callerOf = (caller: Caller): Caller => {
    const key = JSON.stringify([caller.tenant, caller.subject, caller.client, caller.role, caller.scopedRole]);
    const same = callers.get(key);
    if (same !== undefined) return same;
    callers.set(key, Object.freeze(caller));
    return caller;
  };

  const verified = async (token: string): Promise<Claims> => {
    if (token.length > TOKEN_LENGTH_LIMIT) throw new Unacceptable("token: too long");
    if (!COMPACT.test(token)) throw new Unacceptable("token: not a signed JWT");
    // Which keys to judge by; nothing else of it is believed yet.
    const { tid } = decodeJwt(token);
    const tenantKeys = typeof tid === "string" ? keys.get(tid) : undefined;
    if (tenantKeys === undefined) throw new Unacceptable("token: tenant not allowed");
    const { payload } = await jwtVerify(token, tenantKeys, {
      algorithms: ALGORITHMS,
      typ: "JWT",
      audience,
      clockTolerance: CLOCK_SKEW_SECONDS,
      currentDate: new Date(now()),
      requiredClaims: ["iss", "aud", "tid", "ver", "iat", "nbf", "exp", "sub"],
    });
    const parsed = Claims.safeParse(payload);
    if (!parsed.success) throw new Unacceptable(`token: claim ${parsed.error.issues[0]?.path.join(".")} malformed`);
    const claims = parsed.data;
    if (claims.ver === "1.0" && !v1Tokens) throw new Unacceptable("token: version 1.0 not accepted");
    const issuer = claims.ver === "1.0" ? `${V1_ISSUER}${claims.tid}/` : `${authority}${claims.tid}/v2.0`;
    if (claims.iss !== issuer) throw new Unacceptable("token: issuer");
    if (claims.iat > now() / 1000 + CLOCK_SKEW_SECONDS) throw new Unacceptable("token: issued in the future");
    return claims;
  };

  /** Once for each caller, since each of its tokens will be the same. */
  const tellOverage = (who: Pick<Caller, "subject" | "tenant">, role: Role | undefined) => {
    const key = JSON.stringify([who.tenant, who.subject]);
    if (overages.get(key)) return;
    overages.set(key, true);
    log.warn({ event: "entra.groups.overage", ...who, role }, OVERAGE);
  };

  const authorised = (claims: Claims): Authenticated => {
    const client = claims.azp ?? claims.appid;
    // An ID token has this application's id for its audience too, and roles; only access tokens name a client.
    if (client === undefined) throw new Unacceptable("token: names no client, so it is no access token");
    const delegated = claims.scp !== undefined;
    if (delegated ? claims.idtyp === "app" : !isAppOnly(claims)) {
      throw new Unacceptable("token: neither a delegated nor an application's own");
    }
    const overage = claims.hasgroups === true || Object.hasOwn(claims._claim_names ?? {}, "groups");
    const role = roleOf(policy, {
      appRoles: claims.roles ?? [],
      // What the token could not hold counts for nothing, and so does what may be a part of it.
      groups: overage ? [] : (claims.groups ?? []),
    });
    const who = { subject: claims.oid ?? claims.sub, tenant: claims.tid };
    if (overage) tellOverage(who, role);
    if (role === undefined) {
      const reason = `no role${overage ? " (groups overage: group-derived roles do not count)" : ""}`;
      return { refusal: { status: 403, reason } };
    }
    const known: Caller = { ...who, method: "entra", client, role };
    if (!delegated) return { caller: callerOf(known) };
    const scopedRole = scopedRoleOf(claims.scp?.split(" ") ?? []);
    if (scopedRole === undefined) {
      return {
        refusal: { status: 403, error: "insufficient_scope", scope: SCOPES.reader, reason: "no scope of this server" },
      };
    }
    return { caller: callerOf(atLeast(scopedRole, role) ? known : { ...known, scopedRole }) };
  };

  return {
    known(token) {
      if (token.length > TOKEN_LENGTH_LIMIT) return undefined;
      const digest = hash("sha256", token, "base64");
      const found = remembered.get(digest);
      if (found === undefined) return undefined;
      if (found.until > now()) return found.admitted;
      remembered.delete(digest);
      return undefined;
    },
    async verify(token) {
      try {
        const claims = await verified(token);
        const outcome = authorised(claims);
        if ("refusal" in outcome) return outcome;
        // With the leeway that a request with the same token has.
        const admitted = { caller: outcome.caller, expires: (claims.exp + CLOCK_SKEW_SECONDS) * 1000 };
        const until = Math.min(claims.exp * 1000, now() + REMEMBERED_MS);
        remembered.set(hash("sha256", token, "base64"), { admitted, until });
        return admitted;
      } catch (error) {
        return { refusal: refusalOf(error) };
      }
    },
  };
}

/** An application's own token is about its service principal, which is then subject and object alike. */
function isAppOnly({ idtyp = "app", oid, sub }: Claims): boolean {
  return idtyp === "app" && oid === sub;
}

/** A token that is well signed, perhaps, and not for this server. */
class Unacceptable extends Error {
  override readonly name = "Unacceptable";
}

function refusalOf(error: unknown): Refusal {
  if (error instanceof KeysUnavailable) {
    return { status: 503, retryAfterSeconds: RETRY_AFTER_SECONDS, reason: "signing keys unavailable" };
  }
  // What was good once is sent by every client now and then.
  if (error instanceof errors.JWTExpired) {
    return { status: 401, error: "invalid_token", reason: "token: expired", stale: true };
  }
  return { status: 401, error: "invalid_token", reason: reasonOf(error) };
}

function reasonOf(error: unknown): string {
  if (error instanceof Unacceptable) return error.message;
  if (error instanceof errors.JWTClaimValidationFailed) return `token: claim ${error.claim} ${error.reason}`;
  if (error instanceof errors.JWSSignatureVerificationFailed) return "token: signature";
  if (error instanceof errors.JOSEAlgNotAllowed) return "token: algorithm";
  if (error instanceof errors.JWKSNoMatchingKey || error instanceof errors.JWKSMultipleMatchingKeys) {
    return "token: unknown key";
  }
  if (error instanceof errors.JOSEError) return "token: malformed";
  throw error;
}

/** A map that forgets what was put in first. */
class Recent<Value> {
  readonly #entries = new Map<string, Value>();
  readonly #limit: number;

  constructor(limit: number) {
    this.#limit = limit;
  }

  get(key: string): Value | undefined {
    return this.#entries.get(key);
  }

  set(key: string, value: Value): void {
    this.#entries.set(key, value);
    if (this.#entries.size <= this.#limit) return;
    for (const oldest of this.#entries.keys()) {
      this.#entries.delete(oldest);
      return;
    }
  }

  delete(key: string): void {
    this.#entries.delete(key);
  }
}
