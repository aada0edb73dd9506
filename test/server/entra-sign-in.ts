import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import Provider, { type Configuration, errors } from "oidc-provider";
import { APPLICATION, CLIENT, TENANT, USER } from "./entra-authority.ts";

const RESOURCE = `api://${APPLICATION}`;

/**
 * An authorization server that does what Entra does where it matters to MCP clients: a tenant's issuer, tokens of
 * version 2.0 with the tenant and the object in them, scopes that name their application, openid-configuration and no
 * RFC 8414 metadata, no registration, no `iss` in the response, AADSTS9010010 for a `resource`, AADSTS900144 without a
 * scope. Everyone who comes is USER, who has signed in and consented.
 */
export async function entraSignIn(redirectUri: string) {
  const state = { roles: ["Mcp.Operator"], accessSeconds: 3600, requests: [] as URLSearchParams[] };
  const listener = createServer();
  await new Promise<void>((resolve) => listener.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(listener.address() as AddressInfo).port}/`;
  const issuer = `${url}${TENANT}/v2.0`;

  const configuration: Configuration = {
    clients: [
      {
        client_id: CLIENT,
        application_type: "native",
        token_endpoint_auth_method: "none",
        redirect_uris: [redirectUri],
        grant_types: ["authorization_code", "refresh_token"],
        response_types: ["code"],
      },
    ],
    routes: {
      authorization: "/oauth2/v2.0/authorize",
      token: "/oauth2/v2.0/token",
      jwks: "/discovery/v2.0/keys",
    },
    scopes: ["openid", "offline_access"],
    findAccount: (_context, accountId) => ({ accountId, claims: () => ({ sub: accountId }) }),
    interactions: { url: (_context, { uid }) => `/${TENANT}/interaction/${uid}` },
    pkce: { required: () => true },
    rotateRefreshToken: false,
    ttl: {
      AccessToken: () => state.accessSeconds,
      Grant: 86_400,
      Session: 86_400,
      Interaction: 600,
      RefreshToken: 86_400,
    },
    cookies: { keys: ["test"], long: { signed: false }, short: { signed: false } },
    issueRefreshToken: async () => state.requests.at(-1)?.get("scope")?.includes("offline_access") ?? false,
    features: {
      devInteractions: { enabled: false },
      registration: { enabled: false },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => RESOURCE,
        useGrantedResource: () => true,
        getResourceServerInfo: (_context, indicator) => {
          if (indicator !== RESOURCE) {
            throw new errors.InvalidTarget(
              "AADSTS9010010: The resource parameter doesn't match with the requested scopes.",
            );
          }
          return {
            scope: ["Mcp.Read", "Mcp.Operate", "Mcp.Admin"].map((scope) => `${RESOURCE}/${scope}`).join(" "),
            audience: APPLICATION,
            accessTokenFormat: "jwt",
            jwt: { sign: { alg: "RS256" } },
          };
        },
      },
    },
    formats: {
      customizers: {
        jwt: (_context, token, jwt) => {
          const { exp, iat } = jwt.payload;
          Object.assign(jwt, { header: { ...jwt.header, typ: "JWT" } });
          jwt.payload = {
            iss: issuer,
            aud: APPLICATION,
            exp,
            iat,
            nbf: iat,
            tid: TENANT,
            oid: USER,
            sub: "AAAAAAAAAAAAAAAAAAAAAPairwiseSubject",
            azp: CLIENT,
            ver: "2.0",
            roles: state.roles,
            // Without the application in front, as Entra has it.
            scp: [...token.scopes].map((scope) => scope.slice(RESOURCE.length + 1)).join(" "),
          };
        },
      },
    },
  };
  // What Entra's own says, as far as clients look at it: neither PKCE nor RFC 9207 is spoken of.
  const document = {
    issuer,
    authorization_endpoint: `${url}${TENANT}/oauth2/v2.0/authorize`,
    token_endpoint: `${url}${TENANT}/oauth2/v2.0/token`,
    jwks_uri: `${url}${TENANT}/discovery/v2.0/keys`,
    token_endpoint_auth_methods_supported: ["client_secret_post", "private_key_jwt", "client_secret_basic"],
    response_modes_supported: ["query", "fragment", "form_post"],
    subject_types_supported: ["pairwise"],
    id_token_signing_alg_values_supported: ["RS256"],
    response_types_supported: ["code", "id_token", "code id_token", "id_token token"],
    scopes_supported: ["openid", "profile", "email", "offline_access"],
  };
  const provider = new Provider(issuer, configuration);
  const answer = provider.callback();

  listener.on("request", async (request: IncomingMessage & { originalUrl?: string }, response) => {
    const asked = new URL(request.url ?? "", url);
    const prefix = `/${TENANT}`;
    if (!asked.pathname.startsWith(`${prefix}/`)) return response.writeHead(404).end();
    if (asked.pathname === `${prefix}/v2.0/.well-known/openid-configuration`) {
      response.setHeader("content-type", "application/json");
      return response.end(JSON.stringify(document));
    }
    if (asked.pathname.endsWith("/authorize")) {
      state.requests.push(asked.searchParams);
      if (!asked.searchParams.has("scope")) return response.writeHead(400).end("AADSTS900144: scope is missing.");
    }
    if (asked.pathname.startsWith(`${prefix}/interaction/`)) {
      const { params } = await provider.interactionDetails(request, response);
      const grant = await granted(provider, USER, String(params.scope));
      return provider.interactionFinished(request, response, {
        login: { accountId: USER },
        consent: { grantId: grant },
      });
    }
    request.originalUrl = request.url ?? "";
    // Where the library sends the browser on, it has the issuer's path in front.
    request.url = asked.pathname.replace(/^\/[^/]+(\/v2\.0(?=\/oauth2))?/, "") + asked.search;
    return answer(request, response);
  });

  const cookies = new Map<string, string>();
  return {
    url,
    issuer,
    state,
    /** Goes where a browser would go from there, and returns what the client's callback is called with. */
    async signIn(from: URL): Promise<URLSearchParams> {
      let at = from;
      for (let hops = 0; hops < 10; hops++) {
        const headers = { cookie: [...cookies].map(([name, value]) => `${name}=${value}`).join("; ") };
        const response = await fetch(at, { redirect: "manual", headers });
        for (const cookie of response.headers.getSetCookie()) {
          const [, name = "", value = ""] = /^([^=]+)=([^;]*)/.exec(cookie) ?? [];
          cookies.set(name, value);
        }
        const location = response.headers.get("location");
        if (location === null) throw new Error(`${response.status} at ${at.href}: ${await response.text()}`);
        at = new URL(location, at);
        if (at.href.startsWith(redirectUri)) {
          at.searchParams.delete("iss");
          return at.searchParams;
        }
      }
      throw new Error(`Sent round and round, last to ${at.href}.`);
    },
    close: () => new Promise((resolve) => listener.close(resolve)),
  };
}

/** The id of a grant of all that was asked for. */
function granted(provider: Provider, accountId: string, scope: string): Promise<string> {
  const grant = new provider.Grant({ clientId: CLIENT, accountId });
  grant.addResourceScope(RESOURCE, scope);
  grant.addOIDCScope("openid offline_access");
  return grant.save();
}
