import { createHash, createHmac, randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { type AddressInfo, connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CompactEncrypt, exportSPKI, generateKeyPair, importJWK, SignJWT, UnsecuredJWT } from "jose";
import { pino } from "pino";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { z } from "zod";
import { type App, buildApp } from "../../server/app.ts";
import { parseEnvironment } from "../../server/config.ts";
import type { Decision } from "../../server/observability/audit.ts";
import { defineTool } from "../../server/tools/define-tool.ts";
import {
  APPLICATION,
  CLIENT,
  type Claims,
  entraAuthority,
  entraEnvironment,
  OTHER_TENANT,
  signingKey,
  TENANT,
  USER,
} from "./entra-authority.ts";

/* Every way in that we know of, tried on one server. None lets a call through, each is on record, and none tells why. */

const KEY = `mcp_test_${"k".repeat(43)}`;
const ORIGIN = "https://mcp.example.com";
const CHALLENGE = `resource_metadata="${ORIGIN}/.well-known/oauth-protected-resource/mcp", scope="api://${APPLICATION}/Mcp.Read"`;
const NO_CREDENTIALS = `Bearer realm="mcp", ${CHALLENGE}`;
const INVALID_TOKEN = `Bearer realm="mcp", error="invalid_token", ${CHALLENGE}`;

type Authority = Awaited<ReturnType<typeof entraAuthority>>;

let authority: Authority;
let directory: string;
const apps: Record<"entra" | "keys" | "both" | "v1", App> = {} as never;
const ran: string[] = [];
const decisions: Decision[] = [];

const recorder = (name: string, role: "reader" | "operator" | "admin") =>
  defineTool({
    name,
    title: name,
    description: "Records that it ran",
    input: z.object({}),
    output: z.object({ role: z.string() }),
    annotations: { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false },
    role,
    run: (_input, { caller }) => {
      ran.push(`${name} for ${caller.subject} as ${caller.role}`);
      return { role: caller.role };
    },
  });

beforeAll(async () => {
  authority = await entraAuthority();
  directory = await mkdtemp(join(tmpdir(), "mcp-attack-table-"));
  const build = (env: Record<string, string>) =>
    buildApp({
      config: parseEnvironment({ WORKSPACE_PATH: directory, PORT: "0", METRICS_PORT: "0", ...env }),
      log: pino({ level: "silent" }),
      audit: { decided: (decision) => decisions.push(decision) },
      // All attacks come from one address, and each is to be looked at.
      failures: { mayTry: () => 0, failed() {}, succeeded() {} },
      tools: [recorder("look", "reader"), recorder("rule", "admin")],
    });
  const keys = { API_KEY_HASHES: `sha256:${createHash("sha256").update(KEY).digest("hex")}` };
  apps.entra = await build(entraEnvironment(authority));
  apps.v1 = await build(entraEnvironment(authority, { ENTRA_V1_TOKENS: "true" }));
  apps.keys = await build({ AUTH_MODE: "api-key", ...keys });
  apps.both = await build(entraEnvironment(authority, { AUTH_MODE: "entra,api-key", ...keys }));
  await apps.entra.app.listen({ host: "127.0.0.1", port: 0 });
});
afterAll(async () => {
  for (const { app, operator } of Object.values(apps)) {
    app.server.closeAllConnections();
    await Promise.all([app.close(), operator.close()]);
  }
  await authority.close();
  await rm(directory, { recursive: true, force: true });
});
beforeEach(() => {
  ran.length = 0;
  decisions.length = 0;
});

const call = (name = "look") =>
  JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/call", params: { name, arguments: {} } });
const BASE = {
  host: "127.0.0.1",
  "content-type": "application/json",
  accept: "application/json, text/event-stream",
};

interface Sent {
  readonly method?: "POST" | "GET" | "PUT" | "OPTIONS";
  readonly url?: string;
  readonly headers?: Record<string, string>;
  readonly body?: string;
}

const inject = (app: keyof typeof apps, { method = "POST", url = "/mcp", headers = {}, body = call() }: Sent) =>
  apps[app].app.inject({ method, url, headers: { ...BASE, ...headers }, ...(method !== "GET" && { payload: body }) });

const bearer = (token: string): Sent => ({ headers: { authorization: `Bearer ${token}` } });
const b64 = (value: unknown) =>
  Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url");

interface Attack {
  readonly what: string;
  readonly on?: keyof typeof apps;
  readonly send: () => Promise<Sent> | Sent;
  readonly status: number;
  readonly reason: RegExp;
  /** Value of WWW-Authenticate; null: there is none. */
  readonly challenge?: string | null;
}

const attack = (
  what: string,
  send: Attack["send"],
  reason: RegExp,
  { status = 401, ...more }: Partial<Attack> = {},
): Attack => ({ what, send, reason, status, ...more });

/** A token that Entra signed, but for a claim. */
const claim = (what: string, over: Claims | ((now: number) => Claims), reason: RegExp, more: Partial<Attack> = {}) =>
  attack(
    what,
    async () => bearer(await authority.mint(typeof over === "function" ? over(Math.floor(Date.now() / 1000)) : over)),
    reason,
    more,
  );

/** What asks for the scope that the tool needs; without any scope of this server's, the least. */
const STEP_UP = (some: boolean) =>
  `Bearer realm="mcp", error="insufficient_scope", ${some ? CHALLENGE.replace("Mcp.Read", "Mcp.Admin") : CHALLENGE}`;
const LONG_ROLE = "http://schemas.microsoft.com/ws/2008/06/identity/claims/role";
const forbidden = { status: 403, challenge: null };
const MALFORMED = /malformed/;

const claims: Attack[] = [
  claim("another tenant's token", { tid: OTHER_TENANT, iss: () => "" }, /tenant/),
  attack(
    "another tenant's token, well issued there",
    async () => bearer(await authority.mint({ tid: OTHER_TENANT, iss: `${authority.url}${OTHER_TENANT}/v2.0` })),
    /tenant/,
  ),
  attack(
    "another tenant's issuer beside this one's tid",
    async () => bearer(await authority.mint({ iss: `${authority.url}${OTHER_TENANT}/v2.0` })),
    /issuer/,
  ),
  claim("an issuer of an attacker's", { iss: `https://login.example.com/${TENANT}/v2.0` }, /issuer/),
  claim("the issuer as a prefix", { iss: "https://login.microsoftonline.com/" }, /issuer/),
  attack(
    "the issuer with a slash too much",
    async () => bearer(await authority.mint({ iss: `${authority.url}${TENANT}/v2.0/` })),
    /issuer/,
  ),
  claim("an issuer in a list", { iss: [`https://sts.windows.net/${TENANT}/`] }, MALFORMED),
  claim("no issuer", { iss: undefined }, /iss missing/),
  claim("the template for a tenant", { tid: "{tenantid}" }, /tenant/),
  claim("the common tenant", { tid: "common" }, /tenant/),
  claim("no tenant", { tid: undefined }, /tenant/),
  claim("a list of tenants", { tid: [TENANT] }, /tenant/),
  claim("a tenant by a name of every object", { tid: "__proto__" }, /tenant/),
  claim("a tenant in capitals", { tid: "ABCDEFAB-1111-4111-8111-111111111111" }, /tenant/),
  claim("another audience", { aud: CLIENT }, /aud/),
  claim("the audience of Microsoft Graph", { aud: "00000003-0000-0000-c000-000000000000" }, /aud/),
  claim("an audience that begins like this one", { aud: `api://${APPLICATION}.example.com` }, /aud/),
  claim("the server's URL for the audience", { aud: `${ORIGIN}/mcp` }, /aud/),
  claim("several audiences, this one among them", { aud: [APPLICATION, CLIENT] }, /aud malformed/),
  claim("an audience that is an object", { aud: { [APPLICATION]: true } }, /aud/),
  claim("no audience", { aud: undefined }, /aud missing/),
  claim("an empty audience", { aud: "" }, /aud/),
  claim("an hour after its end", (now) => ({ exp: now - 3600 }), /expired/),
  claim("an end beyond the skew", (now) => ({ exp: now - 62 }), /expired/),
  claim("no end", { exp: undefined }, /exp missing/),
  claim("an end in words", { exp: "2099-01-01" }, /exp/),
  claim("an end that is null", { exp: null }, /exp/),
  claim("an end before time began", { exp: -1 }, /expired/),
  claim("not yet valid", (now) => ({ nbf: now + 600 }), /nbf/),
  claim("no beginning", { nbf: undefined }, /nbf missing/),
  claim("a beginning in words", { nbf: "now" }, /nbf/),
  claim("issued in the future", (now) => ({ iat: now + 600 }), /future/),
  claim("issued at no time", { iat: undefined }, /iat missing/),
  claim("issued at a time in words", { iat: "yesterday" }, /iat/),
  claim("version 3.0", { ver: "3.0" }, /ver malformed/),
  claim("a version that is a number", { ver: 2 }, /ver malformed/),
  claim("no version", { ver: undefined }, /ver missing/),
  claim("version 1.0, which is off", { ver: "1.0", iss: `https://sts.windows.net/${TENANT}/` }, /version 1.0/),
  claim("version 1.0's issuer under version 2.0", { iss: `https://sts.windows.net/${TENANT}/` }, /issuer/, {
    on: "v1",
  }),
  attack(
    "version 2.0's issuer under version 1.0",
    async () => bearer(await authority.mint({ ver: "1.0", appid: CLIENT, azp: undefined })),
    /issuer/,
    { on: "v1" },
  ),
  claim(
    "version 1.0 from another tenant's issuer",
    { ver: "1.0", iss: `https://sts.windows.net/${OTHER_TENANT}/` },
    /issuer/,
    { on: "v1" },
  ),
  claim("no subject", { sub: undefined }, /sub missing/),
  claim("an empty subject", { sub: "" }, /sub malformed/),
  claim("a subject that is a path", { sub: "../../etc", oid: undefined }, /sub malformed/),
  claim("a subject that is an API key's", { sub: "key:00000000", oid: undefined }, /sub malformed/),
  claim("a subject that is a list", { sub: [USER] }, /sub malformed/),
  claim("an object id that is no GUID", { oid: "anonymous" }, /oid malformed/),
  claim("an ID token, which has roles too", { scp: undefined, azp: undefined, nonce: "n" }, /no client/),
  claim("a user's token without scopes", { scp: undefined }, /neither/),
  claim("a user's token that says it is none", { scp: undefined, idtyp: "app" }, /neither/),
  claim("an application's token with scopes", { idtyp: "app" }, /neither/),
  claim("an application's token of an unknown kind", { scp: undefined, sub: USER, idtyp: "device" }, /neither/),
  claim("a client that is a list", { azp: [CLIENT] }, /azp malformed/),
  claim("scopes in a list", { scp: ["Mcp.Read"] }, /scp malformed/),
  claim("empty scopes", { scp: "" }, /scp malformed/),
  claim("claims that are spread over others", { _claim_names: "groups" }, /_claim_names malformed/),
];

const notEntras: Attack[] = [
  attack("alg none", () => bearer(new UnsecuredJWT(authority.claims()).encode()), /not a signed/),
  ...["none", "None", "NONE", "nOnE"].map((alg) =>
    attack(
      `alg ${alg} with a signature's remains`,
      () => bearer(`${b64({ alg, typ: "JWT", kid: "first" })}.${b64(authority.claims())}.AAAA`),
      /algorithm|malformed/,
    ),
  ),
  attack(
    "HS256 by the public key's PEM",
    async () => {
      const publicKey = await importJWK(authority.key.publicJwk, "RS256", { extractable: true });
      if (publicKey instanceof Uint8Array) throw new Error("An RSA key is expected.");
      const signed = `${b64({ alg: "HS256", typ: "JWT", kid: "first" })}.${b64(authority.claims())}`;
      return bearer(
        `${signed}.${createHmac("sha256", await exportSPKI(publicKey))
          .update(signed)
          .digest("base64url")}`,
      );
    },
    /algorithm/,
  ),
  attack(
    "HS256 by the public key's JWK",
    () => {
      const signed = `${b64({ alg: "HS256", typ: "JWT", kid: "first" })}.${b64(authority.claims())}`;
      const mac = createHmac("sha256", JSON.stringify(authority.key.publicJwk)).update(signed).digest("base64url");
      return bearer(`${signed}.${mac}`);
    },
    /algorithm/,
  ),
  attack(
    "HS256 by an empty key",
    () => {
      const signed = `${b64({ alg: "HS256", typ: "JWT" })}.${b64(authority.claims())}`;
      return bearer(`${signed}.${createHmac("sha256", "").update(signed).digest("base64url")}`);
    },
    /algorithm/,
  ),
  ...["RS384", "RS512", "PS256"].map((alg) =>
    attack(
      `${alg}, by the right key`,
      async () => {
        const { n, e, d, p, q, dp, dq, qi, kty } = await crypto.subtle.exportKey("jwk", authority.key.privateKey);
        const key = await importJWK({ n, e, d, p, q, dp, dq, qi, kty } as never, alg);
        return bearer(await new SignJWT(authority.claims()).setProtectedHeader({ alg, kid: "first" }).sign(key));
      },
      /algorithm/,
    ),
  ),
  ...["ES256", "EdDSA"].map((alg) =>
    attack(
      `${alg}, by a key of the attacker's`,
      async () => {
        const { privateKey } = await generateKeyPair(alg);
        return bearer(await new SignJWT(authority.claims()).setProtectedHeader({ alg, kid: "first" }).sign(privateKey));
      },
      /algorithm/,
    ),
  ),
  ...(["jwk", "jku", "x5u", "x5c"] as const).map((name) =>
    attack(
      `a key of the attacker's, embedded as ${name}`,
      async () => {
        const by = await signingKey("first");
        const value = {
          jwk: by.publicJwk,
          jku: `${authority.url}evil/keys`,
          x5u: `${authority.url}evil/cert`,
          x5c: ["MIIB"],
        }[name];
        return bearer(await authority.mint({}, { by, header: { [name]: value } }));
      },
      /signature/,
    ),
  ),
  attack(
    "an unknown key",
    async () => bearer(await authority.mint({}, { by: await signingKey("second") })),
    /unknown key/,
  ),
  attack(
    "a known key's name, another key",
    async () => bearer(await authority.mint({}, { by: await signingKey("first") })),
    /signature/,
  ),
  ...["../../etc/passwd", "first' OR '1'='1", "http://127.0.0.1/keys", "__proto__", ""].map((kid) =>
    attack(
      `the key ${JSON.stringify(kid)}`,
      async () => bearer(await authority.mint({}, { header: { kid } })),
      /unknown key/,
    ),
  ),
  attack("a key that is a number", async () => bearer(await sealed({ kid: 1 })), /unknown key|malformed/),
  attack("a header that must be understood", async () => bearer(await sealed({ crit: ["exp2"], exp2: 1 })), MALFORMED),
  attack("a payload that is not encoded", async () => bearer(await sealed({ crit: ["b64"], b64: false })), MALFORMED),
  attack("another kind of token, by its type", async () => bearer(await sealed({ typ: "logout+jwt" })), /typ/),
  attack("a token of no type", async () => bearer(await sealed({ typ: undefined })), /typ/),
  attack(
    "an encrypted token",
    async () => {
      const { publicKey } = await generateKeyPair("RSA-OAEP-256");
      const inner = new TextEncoder().encode(await authority.mint());
      const header = { alg: "RSA-OAEP-256", enc: "A256GCM", cty: "JWT" };
      return bearer(await new CompactEncrypt(inner).setProtectedHeader(header).encrypt(publicKey));
    },
    /not a signed JWT/,
  ),
  attack("a token in a token", async () => bearer(await sealed({ cty: "JWT" }, await authority.mint())), /malformed/),
  attack("a signature cut short", async () => bearer((await authority.mint()).slice(0, -4)), /signature/),
  attack(
    "no signature",
    async () => bearer(`${(await authority.mint()).split(".").slice(0, 2).join(".")}.`),
    /not a signed/,
  ),
  attack("two parts", async () => bearer((await authority.mint()).split(".").slice(0, 2).join(".")), /not a signed/),
  attack("four parts", async () => bearer(`${await authority.mint()}.AAAA`), /not a signed/),
  attack(
    "claims changed after the signature",
    async () => {
      const [header, , signature] = (await authority.mint()).split(".");
      return bearer(`${header}.${b64(authority.claims({ roles: ["Mcp.Administrator"] }))}.${signature}`);
    },
    /signature/,
  ),
  attack(
    "one token's signature under another's claims",
    async () => {
      const other = (await authority.mint({ sub: "other" })).split(".")[2];
      return bearer(`${(await authority.mint()).split(".").slice(0, 2).join(".")}.${other}`);
    },
    /signature/,
  ),
  attack("random bytes", () => bearer(`${randomBytes(30).toString("hex")}.e30.AAAA`), /tenant|malformed/),
  attack("claims that are no JSON", () => bearer(`${b64({ alg: "RS256" })}.${b64("{")}.AAAA`), MALFORMED),
  attack("claims that are a list", () => bearer(`${b64({ alg: "RS256" })}.${b64([])}.AAAA`), MALFORMED),
  attack("a header that is no JSON", () => bearer(`${b64("{")}.${b64(authority.claims())}.AAAA`), MALFORMED),
  attack("an oversized token", async () => bearer(await authority.mint({ groups: Array(500).fill(USER) })), /too long/),
  attack("an opaque token", () => bearer("opaque"), /not a signed/),
  attack("an API key where only tokens are taken", () => bearer(KEY), /no such key/),
  attack("a token where only keys are taken", async () => bearer(await authority.mint()), /no such key/, {
    on: "keys",
    challenge: 'Bearer realm="mcp", error="invalid_token"',
  }),
  attack("a token disguised as a key", async () => bearer(`mcp_${await authority.mint()}`), /no such key/, {
    on: "both",
  }),
  attack("a key with its first letter changed", () => bearer(`Mcp_${KEY.slice(4)}`), /not a signed/, { on: "both" }),
  attack("the hash of a key", () => bearer(createHash("sha256").update(KEY).digest("hex")), /not a signed/, {
    on: "both",
  }),
];

/** Signed by Entra's key, with a header that jose's own signer would refuse to make. */
async function sealed(header: Claims, payload: Claims | string = authority.claims()): Promise<string> {
  const signed = `${b64({ alg: "RS256", typ: "JWT", kid: "first", ...header })}.${b64(payload)}`;
  const signature = await crypto.subtle.sign(
    "RSASSA-PKCS1-v1_5",
    authority.key.privateKey,
    new TextEncoder().encode(signed),
  );
  return `${signed}.${Buffer.from(signature).toString("base64url")}`;
}

const headers: Attack[] = [
  attack("no credentials", () => ({}), /no credentials/, { challenge: NO_CREDENTIALS }),
  ...["", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "Negotiate YII=", "DPoP e30.e30.AA", "bearer: x"].map((value) =>
    attack(`Authorization: ${JSON.stringify(value)}`, () => ({ headers: { authorization: value } }), /no credentials/, {
      challenge: NO_CREDENTIALS,
    }),
  ),
  attack("the bare token", async () => ({ headers: { authorization: await authority.mint() } }), /no credentials/, {
    challenge: NO_CREDENTIALS,
  }),
  attack(
    "two tokens in one header",
    async () => bearer(`${await authority.mint()} ${await authority.mint()}`),
    MALFORMED,
  ),
  attack("a token and a comma", async () => bearer(`${await authority.mint()}, x`), MALFORMED),
  attack("a quoted token", async () => bearer(`"${await authority.mint()}"`), MALFORMED),
  attack("a token with a parameter", async () => bearer(`token="${await authority.mint()}"`), MALFORMED),
  attack("a letter of another alphabet", async () => bearer(`${await authority.mint()}\u00e9`), MALFORMED),
  attack("a full-width letter", () => bearer("mcp_\uff4b\uff4b"), MALFORMED),
  attack("a zero-width space", async () => bearer(`\u200b${await authority.mint()}`), MALFORMED),
  attack(
    "a tab for the space",
    async () => ({ headers: { authorization: `Bearer\t${await authority.mint()}` } }),
    /no cred/,
    {
      challenge: NO_CREDENTIALS,
    },
  ),
  attack("a percent-encoded token", async () => bearer((await authority.mint()).replaceAll(".", "%2E")), MALFORMED),
  ...[
    "x-api-key",
    "x-authorization",
    "proxy-authorization",
    "x-ms-token-aad-access-token",
    "x-forwarded-access-token",
    "x-ms-client-principal",
    "mcp-session-id",
  ].map((name) =>
    attack(
      `the token in ${name}`,
      async () => ({ headers: { [name]: `Bearer ${await authority.mint()}` } }),
      /no cred/,
      {
        challenge: NO_CREDENTIALS,
      },
    ),
  ),
  attack(
    "the token in a cookie",
    async () => ({ headers: { cookie: `access_token=${await authority.mint()}` } }),
    /no cred/,
    {
      challenge: NO_CREDENTIALS,
    },
  ),
  attack(
    "the token in the URL",
    async () => ({ url: `/mcp?access_token=${await authority.mint()}` }),
    /no credentials/,
    {
      challenge: NO_CREDENTIALS,
    },
  ),
  attack(
    "the token in the body",
    async () => ({ body: JSON.stringify({ access_token: await authority.mint(), ...JSON.parse(call()) }) }),
    /no credentials/,
    { challenge: NO_CREDENTIALS },
  ),
  attack(
    "the token in a form",
    async () => ({
      headers: { "content-type": "application/x-www-form-urlencoded" },
      body: `access_token=${await authority.mint()}`,
    }),
    /no credentials/,
    { challenge: NO_CREDENTIALS },
  ),
  ...[
    { "x-original-url": "/health" } as Record<string, string>,
    { "x-rewrite-url": "/health" },
    { "x-http-method-override": "GET" },
    { "x-forwarded-for": "127.0.0.1" },
    { "x-forwarded-host": "localhost", "x-forwarded-proto": "https" },
    { "x-real-ip": "127.0.0.1", forwarded: "for=127.0.0.1;host=localhost" },
    { "x-envoy-internal": "true", "x-envoy-external-address": "127.0.0.1" },
    { "x-forwarded-user": "admin", "x-remote-user": "admin", "x-ms-client-principal-id": USER },
    { connection: "close, authorization" },
  ].map((more) =>
    attack(`with ${JSON.stringify(more)}`, () => ({ headers: more }), /no credentials/, { challenge: NO_CREDENTIALS }),
  ),
];

const foreign = { status: 403, challenge: null };
/** With a good token: a browser's user has one. */
const page = (what: string, more: Record<string, string>) =>
  attack(
    what,
    async () => ({ headers: { ...more, authorization: `Bearer ${await authority.mint()}` } }),
    /foreign/,
    foreign,
  );
const pages: Attack[] = [
  page("another site's page", { origin: "https://evil.example" }),
  page("a page without an origin", { origin: "null" }),
  page("a page on a name that ends like ours", { origin: "https://evil-mcp.example.com" }),
  page("a page on a name that begins like ours", { origin: "https://mcp.example.com.evil.example" }),
  page("our name, unencrypted", { origin: "http://mcp.example.com" }),
  page("our name, another port", { origin: "https://mcp.example.com:8443" }),
  page("our name as a user's", { origin: "https://mcp.example.com@evil.example" }),
  page("an origin with a path", { origin: "https://mcp.example.com/mcp" }),
  page("two origins", { origin: "https://mcp.example.com https://evil.example" }),
  page("a file", { origin: "file://" }),
  page("an extension", { origin: "chrome-extension://abcdefgh" }),
  page("a name that points at loopback", { host: "evil.example" }),
  page("such a name with a port", { host: "evil.example:8080" }),
  page("loopback as a part of a name", { host: "127.0.0.1.evil.example" }),
  page("loopback as a user's name", { host: "127.0.0.1@evil.example" }),
  page("every address", { host: "0.0.0.0" }),
];

const roles: Attack[] = [
  claim("no role", { roles: undefined }, /^no role$/, forbidden),
  claim("an empty list of roles", { roles: [] }, /^no role$/, forbidden),
  claim("an unknown role", { roles: ["Mcp.Root"] }, /^no role$/, forbidden),
  claim("a role in small letters", { roles: ["mcp.administrator"] }, /^no role$/, forbidden),
  claim("a role with a space", { roles: ["Mcp.Administrator "] }, /^no role$/, forbidden),
  claim("this server's own name for a role", { roles: ["admin"] }, /^no role$/, forbidden),
  claim("several roles in one", { roles: ["Mcp.Reader,Mcp.Administrator"] }, /^no role$/, forbidden),
  claim("a role that is no list", { roles: "Mcp.Administrator" }, /roles malformed/),
  claim("a role in a list of lists", { roles: [["Mcp.Administrator"]] }, /roles.* malformed/),
  claim("another claim's role", { roles: undefined, role: "Mcp.Administrator" }, /^no role$/, forbidden),
  claim("the long name of the claim", { roles: undefined, [LONG_ROLE]: ["Mcp.Administrator"] }, /^no role$/, forbidden),
  claim(
    "a directory role",
    { roles: undefined, wids: ["62e90394-69f5-4237-9190-012177145e10"] },
    /^no role$/,
    forbidden,
  ),
  claim("groups that no policy names", { roles: undefined, groups: [USER] }, /^no role$/, forbidden),
  claim(
    "groups beyond the token's room",
    { roles: undefined, _claim_names: { groups: "src1" }, groups: [USER] },
    /no role \(groups overage/,
    forbidden,
  ),
  claim("the sign of such groups", { roles: undefined, hasgroups: true }, /groups overage/, forbidden),
  claim("a scope for a role", { roles: undefined, scp: "Mcp.Admin Mcp.Operate Mcp.Read" }, /^no role$/, forbidden),
  claim(
    "an application without a role",
    { scp: undefined, sub: USER, idtyp: "app", roles: undefined },
    /^no role$/,
    forbidden,
  ),
  ...["User.Read", "openid profile", "mcp.read", "Mcp.Read2", "Mcp", ".default", `api://${APPLICATION}/Mcp.Read`].map(
    (scp) =>
      claim(`only the scopes ${scp}`, { scp, roles: ["Mcp.Administrator"] }, /no scope/, {
        status: 403,
        challenge: `Bearer realm="mcp", error="insufficient_scope", ${CHALLENGE}`,
      }),
  ),
  ...[
    "Mcp.Read",
    "Mcp.Read Mcp.Administrator",
    "Mcp.Read\tMcp.Admin",
    "Mcp.Read,Mcp.Admin Mcp.Read",
    "Mcp.Operate",
  ].map((scp) =>
    attack(
      `an administrator's call with the scopes ${JSON.stringify(scp)}`,
      async () => ({ ...bearer(await authority.mint({ scp, roles: ["Mcp.Administrator"] })), body: call("rule") }),
      /scopes? /,
      {
        status: 403,
        challenge: STEP_UP(scp.split(" ").some((each) => each === "Mcp.Read" || each === "Mcp.Operate")),
      },
    ),
  ),
  attack(
    "such a call in a batch",
    async () => ({
      ...bearer(await authority.mint({ roles: ["Mcp.Administrator"] })),
      body: `[${call("look")},${call("rule")}]`,
    }),
    /scopes/,
    { status: 403, challenge: STEP_UP(true) },
  ),
];

const paths: Attack[] = [
  ["/mcp/../metrics", "traversal to the operators' pages"],
  ["/mcp/..%2fmetrics", "encoded traversal"],
  ["/mcp/%2e%2e/metrics", "encoded dots"],
  ["/mcp/%252e%252e/metrics", "dots encoded twice"],
  ["/mcp/..;/metrics", "a matrix parameter"],
  ["/..%5cmetrics", "a backslash"],
  ["//mcp", "two slashes"],
  ["///mcp", "three slashes"],
  ["/mcp/", "a slash behind"],
  ["/mcp//ws", "two slashes inside"],
  ["/MCP", "capitals"],
  ["/Mcp/ws", "a capital"],
  ["/mcp%2fws", "an encoded slash"],
  ["/mcp%00", "a zero byte"],
  ["/mcp%20", "a space behind"],
  ["/mcp.json", "an ending"],
  ["/mcp;jsessionid=1", "a session in the path"],
  ["/metrics", "the operators' pages"],
  ["/health/detailed", "the operators' details"],
  ["/.env", "a file"],
  ["/.well-known/openid-configuration", "what this server is not"],
  ["/.well-known/oauth-protected-resource/metrics", "metadata of something else"],
].map(([url = "", what = ""]) =>
  attack(`${what}: ${url}`, async () => ({ ...bearer(await authority.mint()), url }), /no such path/, {
    status: 404,
    challenge: null,
  }),
);

describe.each([
  ["claims", claims],
  ["tokens that Entra did not sign so", notEntras],
  ["headers and places for tokens", headers],
  ["pages and hosts", pages],
  ["roles and scopes", roles],
  ["paths", paths],
])("%s", (_about, attacks) => {
  test.each(attacks.map((each) => [each.what, each] as const))(
    "%s",
    async (_what, { on = "entra", send, status, reason, challenge = INVALID_TOKEN }) => {
      const response = await inject(on, await send());
      expect(ran).toEqual([]);
      expect(response.statusCode).toBe(status);
      expect(decisions).toEqual([
        expect.objectContaining({
          decision: status === 403 && !/foreign/.test(decisions[0]?.reason ?? "") ? "denied" : "refused",
          reason: expect.stringMatching(reason),
          address: "127.0.0.1",
          path: expect.not.stringContaining("access_token"),
        }),
      ]);
      expect(response.headers["www-authenticate"]).toBe(challenge ?? undefined);
      // Nothing of what was wrong: the answer is one of few, whatever it was.
      expect(response.body).toMatch(ANSWERS[status] ?? /^$/);
    },
  );
});

const ANSWERS: Record<number, RegExp> = {
  401: /^\{"jsonrpc":"2.0","id":null,"error":\{"code":-32000,"message":"Authentication required: send a valid [^"]+"\}\}$/,
  403: /"message":"(No role on this server is assigned|The token's scopes do not reach this far; ask for Mcp\.\w+\.|Origin .* is not allowed|Host .* is not this server's)/,
  404: /^\{"error":"not_found","message":"Nothing is here; the MCP endpoint is POST \/mcp\."\}$/,
};

test("the table has at least a hundred attacks, each with a name of its own", () => {
  const names = [claims, notEntras, headers, pages, roles, paths].flat().map(({ what }) => what);
  expect(new Set(names).size).toBe(names.length);
  expect(names.length).toBeGreaterThan(100);
});

describe("what the table's attacks differ from", () => {
  test.each([
    ["a user's token", "entra", {}, `look for ${USER} as reader`],
    ["the application's URI for the audience", "entra", { aud: `api://${APPLICATION}` }, `look for ${USER} as reader`],
    ["an application's own token", "entra", { scp: undefined, sub: USER, idtyp: "app" }, `look for ${USER} as reader`],
    [
      "a token of version 1.0, where those are taken",
      "v1",
      {
        ver: "1.0",
        iss: `https://sts.windows.net/${TENANT}/`,
        aud: `api://${APPLICATION}`,
        azp: undefined,
        appid: CLIENT,
      },
      `look for ${USER} as reader`,
    ],
    ["unknown roles beside a known one", "entra", { roles: ["Mcp.Root", "Mcp.Reader"] }, `look for ${USER} as reader`],
    ["more groups than fit, beside a role", "entra", { hasgroups: true }, `look for ${USER} as reader`],
  ] as const)("%s opens", async (_what, app, over, record) => {
    expect((await inject(app, bearer(await authority.mint(over)))).statusCode).toBe(200);
    expect(ran).toEqual([record]);
    expect(decisions).toEqual([]);
  });

  test("a key opens where keys are taken, beside tokens too; the scheme's case is nobody's business", async () => {
    for (const app of ["keys", "both"] as const) {
      for (const scheme of ["Bearer", "bearer", "BEARER"]) {
        const { statusCode } = await inject(app, { headers: { authorization: `${scheme} ${KEY}` } });
        expect(statusCode).toBe(200);
      }
    }
    expect(ran).toHaveLength(6);
  });
});

describe("on the wire", () => {
  /** What the server says to these bytes, until it or the time for a next answer ends. */
  const exchange = (bytes: string): Promise<string> =>
    new Promise((resolve, reject) => {
      const { port } = apps.entra.app.server.address() as AddressInfo;
      const socket = connect(port, "127.0.0.1", () => socket.write(bytes, "latin1"));
      let answer = "";
      socket.setEncoding("latin1");
      socket.on("data", (chunk: string) => {
        answer += chunk;
      });
      socket.on("close", () => resolve(answer));
      socket.on("error", reject);
    });
  const request = (lines: readonly string[], body = call(), target = "/mcp") =>
    [
      `POST ${target} HTTP/1.1`,
      "Host: 127.0.0.1",
      "Content-Type: application/json",
      "Accept: application/json, text/event-stream",
      "Connection: close",
      ...lines,
      "",
      body,
    ].join("\r\n");
  const length = `Content-Length: ${call().length}`;

  const wire: [what: string, bytes: (token: string) => string, status: RegExp, reason: RegExp][] = [
    [
      "two Authorization headers, the first one good",
      (token) => request([`Authorization: Bearer ${token}`, "Authorization: Bearer other", length]),
      /^HTTP\/1.1 400 [\s\S]*www-authenticate: Bearer realm="mcp", error="invalid_request"/,
      /several Authorization/,
    ],
    [
      "two Authorization headers, the last one good",
      (token) => request(["authorization: Bearer other", `AUTHORIZATION: Bearer ${token}`, length]),
      /^HTTP\/1.1 400 /,
      /several Authorization/,
    ],
    [
      "the same token twice",
      (token) => request([`Authorization: Bearer ${token}`, `Authorization: Bearer ${token}`, length]),
      /^HTTP\/1.1 400 /,
      /several Authorization/,
    ],
    [
      "a folded header",
      (token) => request([`Authorization: Bearer\r\n ${token}`, length]),
      /^HTTP\/1.1 40[01] /,
      /no HTTP|no credentials|malformed/,
    ],
    [
      "a space before the colon",
      (token) => request([`Authorization : Bearer ${token}`, length]),
      /^HTTP\/1.1 400 /,
      /no HTTP/,
    ],
    [
      "a zero byte in the token",
      (token) => request([`Authorization: Bearer \0${token}`, length]),
      /^HTTP\/1.1 400 /,
      /no HTTP/,
    ],
    [
      "a control character in the token",
      (token) => request([`Authorization: Bearer \x01${token}`, length]),
      /^HTTP\/1.1 40[01] /,
      /no HTTP|malformed/,
    ],
    [
      "a bare carriage return",
      (token) => request([`X: a\rAuthorization: Bearer ${token}`, length]),
      /^HTTP\/1.1 400 /,
      /no HTTP/,
    ],
    [
      "Transfer-Encoding and Content-Length",
      () => request([length, "Transfer-Encoding: chunked"], "0\r\n\r\nPOST /mcp HTTP/1.1\r\nHost: x\r\n\r\n"),
      /^HTTP\/1.1 400 /,
      /no HTTP/,
    ],
    ["two Content-Lengths", () => request([length, "Content-Length: 0"]), /^HTTP\/1.1 400 /, /no HTTP/],
    [
      "a chunked encoding in disguise",
      (token) => request([`Authorization: Bearer ${token}`, "Transfer-Encoding: xchunked"]),
      /^HTTP\/1.1 400 /,
      /no HTTP/,
    ],
    [
      "an empty Host",
      (token) => request([`Authorization: Bearer ${token}`, length]).replace("Host: 127.0.0.1", "Host:"),
      /^HTTP\/1.1 403 /,
      /foreign/,
    ],
    [
      "no Host",
      (token) =>
        request([`Authorization: Bearer ${token}`, length])
          .replace("Host: 127.0.0.1", "X: y")
          .replace("HTTP/1.1", "HTTP/1.0"),
      /^HTTP\/1.1 403 /,
      /foreign/,
    ],
    [
      "headers beyond all measure",
      () => request([`X-Long: ${"x".repeat(40_000)}`, length]),
      /^HTTP\/1.1 431 /,
      /no HTTP/,
    ],
    [
      "another server's name in the target",
      () => request([length], call(), "http://127.0.0.1/metrics"),
      /^HTTP\/1.1 404 /,
      /no such path/,
    ],
    [
      "traversal as it is",
      (token) => request([`Authorization: Bearer ${token}`, length], call(), "/mcp/../metrics"),
      /^HTTP\/1.1 404 /,
      /no such path/,
    ],
    ["no HTTP at all", () => "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", /^HTTP\/1.1 400 /, /no HTTP/],
    ["the preface of HTTP/2", () => "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", /^HTTP\/1.1 400 /, /no HTTP/],
  ];

  test.each(wire)("%s", async (_what, bytes, status, reason) => {
    const answer = await exchange(bytes(await authority.mint()));
    expect(ran).toEqual([]);
    expect(answer).toMatch(status);
    expect(decisions[0]).toMatchObject({
      decision: "refused",
      reason: expect.stringMatching(reason),
      address: "127.0.0.1",
    });
    expect(answer).not.toMatch(/HPE_|several|Parse Error/);
  });
});

test("no attack had the server fetch keys from anywhere but its own tenant, nor often", () => {
  expect(new Set(authority.asked)).toEqual(new Set([`/${TENANT}/discovery/v2.0/keys`]));
  // One for each of the three servers that take tokens, and one more for the first of the unknown keys.
  expect(authority.asked.length).toBeLessThanOrEqual(8);
});
