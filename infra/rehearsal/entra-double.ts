import { createServer, type Server } from "node:http";
import { type CryptoKey, exportJWK, generateKeyPair, SignJWT } from "jose";
import { guidOf } from "./values.ts";

/** Who a token of the double is about, and what it may do. */
export interface Bearer {
  /** Part of the user's ids. */
  readonly name: string;
  /** The application that the token is made out to. */
  readonly clientId: string;
  /** The application that asked for it. */
  readonly client: string;
  /** Values of app roles. */
  readonly roles: readonly string[];
  /** Values of scopes. */
  readonly scopes: readonly string[];
  readonly lifetimeSeconds: number;
}

/**
 * Entra ID on this machine, as far as a server looks at it that validates tokens: the metadata of one tenant, its
 * signing keys, and tokens of version 2.0 for whoever holds the double. Nobody logs in to it.
 */
export class EntraDouble {
  /** What AZURE_AUTHORITY_HOST says: `http://127.0.0.1:<port>/`. */
  readonly authority: string;
  readonly #tenantId: string;
  readonly #server: Server;
  readonly #key: CryptoKey;
  readonly #keyId: string;

  static async start(tenantId: string): Promise<EntraDouble> {
    const { privateKey, publicKey } = await generateKeyPair("RS256");
    const keyId = guidOf("signing key", String(performance.now()));
    const jwk = { ...(await exportJWK(publicKey)), kid: keyId, use: "sig" };
    const server = createServer((request, response) => {
      const authority = `http://${request.headers.host}/`;
      const documents: Readonly<Record<string, object>> = {
        [`/${tenantId}/v2.0/.well-known/openid-configuration`]: metadata(authority, tenantId),
        [`/${tenantId}/discovery/v2.0/keys`]: { keys: [jwk] },
      };
      const path = request.url?.split("?")[0] ?? "";
      const found = request.method === "GET" && Object.hasOwn(documents, path) ? documents[path] : undefined;
      response
        .writeHead(found ? 200 : 404, { "content-type": "application/json" })
        .end(JSON.stringify(found ?? { error: "invalid_request", error_description: `nothing at ${path}` }));
    });
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(0, "127.0.0.1", resolve);
    });
    // The process ends without being asked to.
    server.unref();
    return new EntraDouble(tenantId, server, privateKey, keyId);
  }

  private constructor(tenantId: string, server: Server, key: CryptoKey, keyId: string) {
    this.#tenantId = tenantId;
    this.#server = server;
    this.#key = key;
    this.#keyId = keyId;
    const address = server.address();
    this.authority = `http://127.0.0.1:${typeof address === "object" && address ? address.port : 0}/`;
  }

  /** A user's access token. Claims: Microsoft identity platform, "Access token claims reference", version 2.0. */
  token(bearer: Bearer): Promise<string> {
    return this.#sign(bearer, this.#key);
  }

  /** The same, signed by somebody else under the same key's name. */
  async forgedToken(bearer: Bearer): Promise<string> {
    const { privateKey } = await generateKeyPair("RS256");
    return this.#sign(bearer, privateKey);
  }

  close(): Promise<void> {
    this.#server.closeAllConnections();
    return new Promise((resolve) => this.#server.close(() => resolve()));
  }

  #sign({ name, clientId, client, roles, scopes, lifetimeSeconds }: Bearer, key: CryptoKey): Promise<string> {
    const now = Math.floor(Date.now() / 1000);
    const claims = {
      ver: "2.0",
      tid: this.#tenantId,
      oid: guidOf("user", name),
      name,
      preferred_username: `${name}@rehearsal.example.com`,
      azp: client,
      // A public client: it proves nothing of itself.
      azpacr: "0",
      idtyp: "user",
      scp: scopes.join(" "),
      roles,
    };
    return new SignJWT(claims)
      .setProtectedHeader({ typ: "JWT", alg: "RS256", kid: this.#keyId })
      .setIssuer(`${this.authority}${this.#tenantId}/v2.0`)
      .setAudience(clientId)
      .setSubject(guidOf("subject", name, clientId).replaceAll("-", ""))
      .setIssuedAt(now)
      .setNotBefore(now)
      .setExpirationTime(now + lifetimeSeconds)
      .sign(key);
  }
}

/** OpenID Connect Discovery, with what a validating server reads of it. */
function metadata(authority: string, tenantId: string): object {
  return {
    issuer: `${authority}${tenantId}/v2.0`,
    authorization_endpoint: `${authority}${tenantId}/oauth2/v2.0/authorize`,
    token_endpoint: `${authority}${tenantId}/oauth2/v2.0/token`,
    jwks_uri: `${authority}${tenantId}/discovery/v2.0/keys`,
    response_types_supported: ["code", "id_token", "code id_token", "id_token token"],
    subject_types_supported: ["pairwise"],
    id_token_signing_alg_values_supported: ["RS256"],
  };
}
