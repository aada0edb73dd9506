import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { z } from "zod";
import type { Config } from "../config.ts";
import { qualified } from "./challenge.ts";
import { isClientCallback } from "./client-callbacks.ts";
import type { Failures } from "./failures.ts";
import { SCOPES } from "./roles.ts";

/** Everything under /oauth, for whoever routes to this server. */
export const OAUTH_PATHS = {
  authorize: "/oauth/authorize",
  token: "/oauth/token",
  register: "/oauth/register",
} as const;

export type FrontConfig = Pick<
  Config,
  "PUBLIC_URL" | "ENTRA_TENANT_ID" | "ENTRA_CLIENT_ID" | "AZURE_AUTHORITY_HOST" | "OAUTH_CLIENT_ID"
>;

interface FrontOptions {
  readonly config: FrontConfig;
  readonly failures?: Failures | undefined;
}

/** Of a request to these endpoints; codes and refresh tokens of Entra's are some 2 KiB. Bytes. */
const BODY_LIMIT = 32 * 1024;
/** Longer values than any client sends. Characters. */
const VALUE_LIMIT = 8 * 1024;
/** Entra's answers to a token request, at once and in milliseconds each. */
const EXCHANGES_LIMIT = 32;
const EXCHANGE_TIMEOUT_MS = 10_000;
/** Of an answer: some 10 KiB of token, twice. Bytes. */
const ANSWER_LIMIT = 64 * 1024;
const RETRY_AFTER_SECONDS = 5;

/** Asked for beside the server's scopes, by habit. The first is added to every request, the rest buy nothing here. */
const OFFLINE_ACCESS = "offline_access";
const OPENID_SCOPES: ReadonlySet<string> = new Set([OFFLINE_ACCESS, "openid", "profile", "email"]);

const Value = z.string().max(VALUE_LIMIT);
const Authorize = z.object({
  client_id: Value,
  redirect_uri: Value,
  response_type: Value.optional(),
  code_challenge: Value.optional(),
  code_challenge_method: Value.optional(),
  scope: Value.optional(),
  state: Value.optional(),
  resource: Value.optional(),
  prompt: Value.optional(),
  login_hint: Value.optional(),
  domain_hint: Value.optional(),
});
const Token = z.object({
  grant_type: Value,
  client_id: Value,
  code: Value.optional(),
  redirect_uri: Value.optional(),
  code_verifier: Value.optional(),
  refresh_token: Value.optional(),
  scope: Value.optional(),
  resource: Value.optional(),
});
const Registration = z.object({
  redirect_uris: z.array(Value).min(1).max(20),
  client_name: z.string().max(200).optional(),
});
/** An answer of Entra's token endpoint: RFC 6749, sections 5.1 and 5.2. Its ID tokens are left out on purpose. */
const Granted = z.object({
  token_type: z.string(),
  access_token: z.string(),
  expires_in: z.number(),
  refresh_token: z.string().optional(),
  scope: z.string().optional(),
});
const Refused = z.object({ error: z.string(), error_description: z.string().optional() });

/** An error of RFC 6749, section 5.2, RFC 7591, section 3.2.2 or RFC 8707, section 2. */
class OauthFault extends Error {
  readonly code: string;
  readonly status: number;

  constructor(code: string, description: string, status = 400) {
    super(description);
    this.code = code;
    this.status = status;
  }
}

/**
 * A thin authorization server in front of Entra, for clients that have no registration of their own. It keeps nothing,
 * issues nothing and sees no password: people sign in at Entra, which checks the redirect URI against its own
 * registration of OAUTH_CLIENT_ID, and PKCE against the client. So nobody gets a code by registering here.
 *
 * It is there because the MCP specification has clients send RFC 8707's `resource`, which Entra refuses beside the
 * scopes of an application that is not named for this server's URL: AADSTS9010010, enforced since March 2026, at both
 * endpoints. An application may carry such a name only for a domain that its tenant has verified, which the addresses
 * of Azure are not. So `resource` is checked here, where it means something, and left out there. What else Entra lacks
 * is made up for on the way: registration, `offline_access` for refresh tokens, and a forced consent, by which clients
 * want to get one, taken out, since in many tenants people may not consent.
 */
export function registerOauthFront(app: FastifyInstance, { config, failures }: FrontOptions): void {
  const { OAUTH_CLIENT_ID: clientId, ENTRA_CLIENT_ID: application, PUBLIC_URL: published } = config;
  if (clientId === undefined || application === undefined || published === undefined) return;
  const endpoint = new URL(`${config.ENTRA_TENANT_ID}/oauth2/v2.0/`, config.AZURE_AUTHORITY_HOST);
  const resources = new Set([published, `${published}/`, new URL(published).origin, `${new URL(published).origin}/`]);
  // An application that asks for its own scopes has to name itself by its bare id (AADSTS90009).
  const prefix = qualified(application, "");
  const inFront = clientId === application ? `${application}/` : prefix;
  const own: ReadonlySet<string> = new Set(Object.values(SCOPES));

  /** The scopes as Entra takes them, from this application alone. */
  const scopesFrom = (asked: string): string => {
    const names = asked.split(" ").filter((scope) => scope !== "" && !OPENID_SCOPES.has(scope));
    const bare = names.map((scope) => {
      const name = scope.startsWith(qualified(application, ""))
        ? scope.slice(qualified(application, "").length)
        : scope;
      if (!own.has(name)) throw new OauthFault("invalid_scope", "There is no such scope here; see scopes_supported.");
      return name;
    });
    if (bare.length === 0) bare.push(SCOPES.reader);
    return [...bare.map((name) => `${inFront}${name}`), OFFLINE_ACCESS].join(" ");
  };

  const check = ({ client_id, redirect_uri }: { client_id: string; redirect_uri?: string | undefined }) => {
    if (client_id !== clientId) throw new OauthFault("invalid_client", "There is no such client here; register first.");
    if (redirect_uri !== undefined && !isClientCallback(redirect_uri)) {
      throw new OauthFault("invalid_request", "The redirect URI is neither on loopback nor a known client's.");
    }
  };
  const checkResource = (resource: string | undefined) => {
    if (resource !== undefined && !resources.has(resource)) {
      throw new OauthFault("invalid_target", "The resource is not this server.");
    }
  };

  const authorize = (request: FastifyRequest, reply: FastifyReply) => {
    const asked = parsed(Authorize, request.query);
    // Up to here nobody knows where an error could safely be sent; from here on it goes back to the client.
    check(asked);
    const location = new URL(asked.redirect_uri);
    try {
      checkResource(asked.resource);
      if (asked.response_type !== "code") throw new OauthFault("unsupported_response_type", "Only code is supported.");
      if (asked.code_challenge === undefined || asked.code_challenge_method !== "S256") {
        throw new OauthFault("invalid_request", "PKCE with S256 is required.");
      }
      const { state, prompt, login_hint, domain_hint } = asked;
      const url = new URL("authorize", endpoint);
      const values = {
        client_id: clientId,
        response_type: "code",
        response_mode: "query",
        redirect_uri: asked.redirect_uri,
        code_challenge: asked.code_challenge,
        code_challenge_method: "S256",
        scope: scopesFrom(asked.scope ?? ""),
        ...(state !== undefined && { state }),
        ...(prompt !== undefined && prompt !== "consent" && { prompt }),
        ...(login_hint !== undefined && { login_hint }),
        ...(domain_hint !== undefined && { domain_hint }),
      };
      for (const [name, value] of Object.entries(values)) url.searchParams.set(name, value);
      return reply.redirect(url.href, 302);
    } catch (error) {
      if (!(error instanceof OauthFault)) throw error;
      location.searchParams.set("error", error.code);
      location.searchParams.set("error_description", error.message);
      if (asked.state !== undefined) location.searchParams.set("state", asked.state);
      return reply.redirect(location.href, 302);
    }
  };

  let exchanges = 0;
  const token = async (request: FastifyRequest, reply: FastifyReply) => {
    const wait = failures?.mayTry(request.ip) ?? 0;
    if (wait > 0) return tellLater(reply, 429, wait);
    if (exchanges >= EXCHANGES_LIMIT) return tellLater(reply, 503, RETRY_AFTER_SECONDS);
    const { scope, resource, ...asked } = parsed(Token, request.body);
    check(asked);
    checkResource(resource);
    if (asked.grant_type !== "authorization_code" && asked.grant_type !== "refresh_token") {
      throw new OauthFault("unsupported_grant_type", "Only authorization_code and refresh_token are supported.");
    }
    const form = new URLSearchParams(Object.entries(asked));
    if (scope !== undefined) form.set("scope", scopesFrom(scope));
    exchanges++;
    try {
      const answer = await exchange(new URL("token", endpoint), form);
      if (answer === undefined) return tellLater(reply, 503, RETRY_AFTER_SECONDS);
      if ("error" in answer) {
        failures?.failed(request.ip);
        return reply.code(400).send(answer);
      }
      // As it was asked for: clients compare the names.
      const granted = answer.scope?.replaceAll(`${inFront}Mcp.`, `${prefix}Mcp.`);
      return { ...answer, ...(granted !== undefined && { scope: granted }) };
    } finally {
      exchanges--;
    }
  };

  const register = async (request: FastifyRequest, reply: FastifyReply) => {
    const { redirect_uris, client_name } = parsed(Registration, request.body, "invalid_client_metadata");
    if (!redirect_uris.every(isClientCallback)) {
      throw new OauthFault("invalid_redirect_uri", "A redirect URI is neither on loopback nor a known client's.");
    }
    return reply.code(201).send({
      client_id: clientId,
      ...(client_name !== undefined && { client_name }),
      redirect_uris,
      grant_types: ["authorization_code", "refresh_token"],
      response_types: ["code"],
      token_endpoint_auth_method: "none",
      scope: Object.values(SCOPES)
        .map((scope) => qualified(application, scope))
        .join(" "),
    });
  };

  void app.register(async (front: FastifyInstance) => {
    front.addContentTypeParser<string>(
      "application/x-www-form-urlencoded",
      { parseAs: "string", bodyLimit: BODY_LIMIT },
      (_request, body, done) => {
        done(null, onceEach(new URLSearchParams(body)));
      },
    );
    // Anyone may ask from anywhere, a web page too: without a code, a verifier or a refresh token there is nothing to get.
    front.addHook("onRequest", (_request, reply, done) => {
      reply.header("access-control-allow-origin", "*").header("cache-control", "no-store");
      done();
    });
    front.setErrorHandler((error: FastifyError | OauthFault, request, reply) => {
      if (error instanceof OauthFault) {
        return reply.code(error.status).send({ error: error.code, error_description: error.message });
      }
      const status = error.statusCode ?? 500;
      if (status >= 500) request.log.error({ event: "request.failed", err: error });
      return reply.code(status).send({ error: status >= 500 ? "server_error" : "invalid_request" });
    });
    // A registration is JSON, for which a page has to ask.
    for (const url of [OAUTH_PATHS.token, OAUTH_PATHS.register]) {
      front.options(url, (_request, reply) => {
        void reply
          .code(204)
          .header("access-control-allow-methods", "POST")
          .header("access-control-allow-headers", "content-type, mcp-protocol-version")
          .send();
      });
    }
    front.get(OAUTH_PATHS.authorize, { exposeHeadRoute: false }, authorize);
    front.post(OAUTH_PATHS.token, { bodyLimit: BODY_LIMIT }, token);
    front.post(OAUTH_PATHS.register, { bodyLimit: BODY_LIMIT }, register);
  });
}

/** What was sent, checked. A parameter that comes twice is refused, as RFC 6749 section 3.1 has it. */
function parsed<T extends z.ZodType>(schema: T, sent: unknown, code = "invalid_request"): z.output<T> {
  const result = schema.safeParse(sent);
  if (result.success) return result.data;
  const path = result.error.issues[0]?.path.join(".");
  throw new OauthFault(code, path ? `Parameter ${path} is missing or malformed.` : "The request is malformed.");
}

/** A parameter that comes twice becomes a list, which no schema takes. */
function onceEach(form: URLSearchParams): Record<string, string | string[]> {
  const values: Record<string, string | string[]> = {};
  for (const name of new Set(form.keys())) {
    const all = form.getAll(name);
    values[name] = all.length === 1 ? (all[0] ?? "") : all;
  }
  return values;
}

/** Entra's answer; undefined when there is none to be had now. */
async function exchange(
  url: URL,
  form: URLSearchParams,
): Promise<z.output<typeof Granted> | z.output<typeof Refused> | undefined> {
  try {
    const signal = AbortSignal.timeout(EXCHANGE_TIMEOUT_MS);
    const response = await fetch(url, { method: "POST", body: form, redirect: "error", signal });
    const text = await response.text();
    if (response.status >= 500 || response.status === 429 || text.length > ANSWER_LIMIT) return undefined;
    const answer: unknown = JSON.parse(text);
    return response.ok ? Granted.parse(answer) : Refused.parse(answer);
  } catch {
    return undefined;
  }
}

function tellLater(reply: FastifyReply, status: 429 | 503, seconds: number) {
  return reply.code(status).header("retry-after", seconds).send({ error: "temporarily_unavailable" });
}
