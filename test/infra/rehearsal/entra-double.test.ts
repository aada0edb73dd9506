import { createRemoteJWKSet, jwtVerify } from "jose";
import { afterAll, beforeAll, expect, test } from "vitest";
import { EntraDouble } from "../../../infra/rehearsal/entra-double.ts";
import { isProperties, textAt } from "../../../infra/rehearsal/values.ts";

const TENANT = "11111111-1111-1111-1111-111111111111";
const CLIENT = "22222222-2222-2222-2222-222222222222";
const BEARER = {
  name: "ada",
  clientId: CLIENT,
  client: "33333333-3333-3333-3333-333333333333",
  roles: ["Mcp.Reader"],
  scopes: ["Mcp.Read", "Mcp.Operate"],
  lifetimeSeconds: 60,
};

let entra: EntraDouble;
let metadata: Record<string, unknown>;
beforeAll(async () => {
  entra = await EntraDouble.start(TENANT);
  const response = await fetch(`${entra.authority}${TENANT}/v2.0/.well-known/openid-configuration`);
  const found: unknown = await response.json();
  metadata = isProperties(found) ? found : {};
});
afterAll(() => entra.close());

const verify = (token: string) =>
  jwtVerify(token, createRemoteJWKSet(new URL(textAt(metadata, "jwks_uri") ?? "")), {
    issuer: textAt(metadata, "issuer") ?? "",
    audience: CLIENT,
  });

test("its tokens are what a server that trusts its metadata takes, with the claims of version 2.0", async () => {
  const { payload, protectedHeader } = await verify(await entra.token(BEARER));
  expect(protectedHeader).toMatchObject({ alg: "RS256", typ: "JWT" });
  expect(payload).toMatchObject({
    ver: "2.0",
    tid: TENANT,
    azp: BEARER.client,
    idtyp: "user",
    scp: "Mcp.Read Mcp.Operate",
    roles: ["Mcp.Reader"],
  });
  expect((payload.exp ?? 0) - (payload.iat ?? 0)).toBe(60);
});

test("a forged one names the same key and does not verify", async () => {
  await expect(verify(await entra.forgedToken(BEARER))).rejects.toThrow(/signature verification failed/);
});

test("the same user is the same object in every token, and another is another", async () => {
  const oid = async (name: string) => (await verify(await entra.token({ ...BEARER, name }))).payload.oid;
  expect(await oid("ada")).toBe(await oid("ada"));
  expect(await oid("ada")).not.toBe(await oid("bob"));
});

test("it knows one tenant, and nothing else", async () => {
  const other = await fetch(`${entra.authority}${CLIENT}/v2.0/.well-known/openid-configuration`);
  expect(other.status).toBe(404);
  expect(entra.authority).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/$/);
});
