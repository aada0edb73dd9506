import type { FastifyInstance, FastifyReply } from "fastify";
import { type Config, ROLES } from "../config.ts";
import { qualified, RESOURCE_METADATA_PATH } from "./challenge.ts";
import { OAUTH_PATHS } from "./oauth-front.ts";
import { SCOPES } from "./roles.ts";

export type MetadataConfig = Pick<
  Config,
  "PUBLIC_URL" | "ENTRA_TENANT_ID" | "ENTRA_CLIENT_ID" | "AZURE_AUTHORITY_HOST" | "OAUTH_CLIENT_ID"
>;

const AUTHORIZATION_SERVER_METADATA_PATH = "/.well-known/oauth-authorization-server";

/** The documents say what the configuration says, which lasts as long as the process. */
const CACHE_CONTROL = "public, max-age=3600";

/**
 * Serves what clients find out from where to sign in: the protected resource's metadata (RFC 9728), and where there is
 * a client id to offer, authorization-server metadata (RFC 8414).
 *
 * Which authorization server comes first matters, since clients take the first. With a client id to offer it is this
 * server, whose endpoints lead to Entra's: Entra knows no registration, has no RFC 8414 metadata, and refuses the
 * `resource` that the protocol has clients send (see oauth-front.ts). Its issuer is the origin, as RFC 8414 section 3.3
 * wants of metadata that is fetched there. There is no openid-configuration here: clients ask for it only when the
 * other is missing, and ID tokens would name another issuer. Clients with a registration of their own find Entra second.
 */
export function registerOauthMetadata(app: FastifyInstance, config: MetadataConfig): void {
  const { ENTRA_CLIENT_ID: clientId, PUBLIC_URL: resource } = config;
  if (clientId === undefined || resource === undefined) return;
  const { origin, pathname } = new URL(resource);
  const scopes = ROLES.map((role) => qualified(clientId, SCOPES[role]));
  const entra = `${config.AZURE_AUTHORITY_HOST}${config.ENTRA_TENANT_ID}/v2.0`;

  const serve = (url: string, document: object) => {
    const body = JSON.stringify(document);
    app.get(url, (_request, reply: FastifyReply) => {
      void reply
        .header("access-control-allow-origin", "*")
        .header("cache-control", CACHE_CONTROL)
        .header("cross-origin-resource-policy", "cross-origin")
        .type("application/json")
        .send(body);
    });
    // Clients send their protocol's version along, which a page has to ask for.
    app.options(url, (_request, reply: FastifyReply) => {
      void reply
        .code(204)
        .header("access-control-allow-origin", "*")
        .header("access-control-allow-methods", "GET")
        .header("access-control-allow-headers", "mcp-protocol-version")
        .send();
    });
  };

  const resourceMetadata = {
    resource,
    authorization_servers: config.OAUTH_CLIENT_ID === undefined ? [entra] : [origin, entra],
    scopes_supported: scopes,
    bearer_methods_supported: ["header"],
  };
  for (const path of new Set(["", pathname === "/" ? "" : pathname])) {
    serve(`${RESOURCE_METADATA_PATH}${path}`, resourceMetadata);
  }
  if (config.OAUTH_CLIENT_ID === undefined) return;
  serve(AUTHORIZATION_SERVER_METADATA_PATH, {
    issuer: origin,
    authorization_endpoint: `${origin}${OAUTH_PATHS.authorize}`,
    token_endpoint: `${origin}${OAUTH_PATHS.token}`,
    registration_endpoint: `${origin}${OAUTH_PATHS.register}`,
    // Without offline_access, for which clients would have every user consent at every sign-in; it is added anyway.
    scopes_supported: scopes,
    response_types_supported: ["code"],
    response_modes_supported: ["query"],
    grant_types_supported: ["authorization_code", "refresh_token"],
    token_endpoint_auth_methods_supported: ["none"],
    code_challenge_methods_supported: ["S256"],
  });
}
