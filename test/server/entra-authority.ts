import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { exportJWK, type GenerateKeyPairResult, generateKeyPair, type JWK, SignJWT } from "jose";

export const TENANT = "11111111-1111-4111-8111-111111111111";
export const OTHER_TENANT = "22222222-2222-4222-8222-222222222222";
export const APPLICATION = "33333333-3333-4333-8333-333333333333";
export const CLIENT = "44444444-4444-4444-8444-444444444444";
export const USER = "55555555-5555-4555-8555-555555555555";

export type Claims = Record<string, unknown>;

export interface SigningKey {
  readonly kid: string;
  readonly privateKey: GenerateKeyPairResult["privateKey"];
  readonly publicJwk: JWK;
}

export async function signingKey(kid: string): Promise<SigningKey> {
  const { privateKey, publicKey } = await generateKeyPair("RS256", { extractable: true });
  return { kid, privateKey, publicJwk: { ...(await exportJWK(publicKey)), kid, use: "sig" } };
}

/** Making one takes a third of a second. */
let first: Promise<SigningKey> | undefined;

/** An authority on loopback whose key endpoint is Entra's, for every tenant. */
export async function entraAuthority() {
  first ??= signingKey("first");
  const key = await first;
  const published = new Map<string, readonly SigningKey[]>();
  let down = false;
  const asked: string[] = [];
  const server = createServer((request, response) => {
    asked.push(request.url ?? "");
    if (down || !request.url?.endsWith("/discovery/v2.0/keys")) return response.writeHead(503).end();
    response.setHeader("content-type", "application/json");
    const keys = published.get(request.url.split("/")[1] ?? "") ?? [key];
    return response.end(JSON.stringify({ keys: keys.map(({ publicJwk }) => publicJwk) }));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;

  /** What Entra says of a user who signed in through CLIENT; `undefined` leaves a claim out. */
  const claims = (over: Claims = {}, seconds = Math.floor(Date.now() / 1000)): Claims => ({
    iss: `${url}${TENANT}/v2.0`,
    aud: APPLICATION,
    tid: TENANT,
    ver: "2.0",
    iat: seconds - 10,
    nbf: seconds - 10,
    exp: seconds + 3600,
    sub: "AAAAAAAAAAAAAAAAAAAAAPairwiseSubject",
    oid: USER,
    azp: CLIENT,
    azpacr: "0",
    scp: "Mcp.Read",
    roles: ["Mcp.Reader"],
    ...over,
  });
  const sign = (payload: Claims, { header = {}, by = key }: { header?: Claims; by?: SigningKey } = {}) =>
    new SignJWT(JSON.parse(JSON.stringify(payload)))
      .setProtectedHeader({ alg: "RS256", typ: "JWT", kid: by.kid, ...header })
      .sign(by.privateKey);

  return {
    url,
    key,
    asked: asked as readonly string[],
    claims,
    sign,
    /** A token of Entra's, but for what `over` says. */
    mint: (over: Claims = {}, options: Parameters<typeof sign>[1] = {}) => sign(claims(over), options),
    publish(keys: readonly SigningKey[], tenant = TENANT) {
      published.set(tenant, keys);
    },
    fail(fails: boolean) {
      down = fails;
    },
    close: () => new Promise((resolve) => server.close(resolve)),
  };
}

/** The server's environment with that authority. */
export const entraEnvironment = (authority: { readonly url: string }, more: Record<string, string> = {}) => ({
  AUTH_MODE: "entra",
  ENTRA_TENANT_ID: TENANT,
  ENTRA_CLIENT_ID: APPLICATION,
  AZURE_AUTHORITY_HOST: authority.url,
  PUBLIC_URL: "https://mcp.example.com/mcp",
  ...more,
});
