import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import fc from "fast-check";
import { describe, expect, onTestFinished, test } from "vitest";
import { CLIENT_CALLBACKS, isClientCallback } from "../../server/auth/client-callbacks.ts";
import { APPLICATION, CLIENT, entraEnvironment, TENANT } from "./entra-authority.ts";
import { testApp } from "./running-app.ts";

const ORIGIN = "https://mcp.example.com";
const READ = `api://${APPLICATION}/Mcp.Read`;
const CALLBACK = "http://127.0.0.1:5000/callback";

/** What Entra's token endpoint is sent, and answers. */
async function tokenEndpoint(answer: { status?: number; body: string }) {
  const forms: URLSearchParams[] = [];
  const server = createServer((request, response) => {
    let body = "";
    request.on("data", (chunk: Buffer) => {
      body += chunk.toString();
    });
    request.on("end", () => {
      expect(request.url).toBe(`/${TENANT}/oauth2/v2.0/token`);
      forms.push(new URLSearchParams(body));
      response.writeHead(answer.status ?? 200, { "content-type": "application/json" }).end(answer.body);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => void server.close());
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`, forms };
}

const front = (env: Record<string, string> = {}, url = "https://login.microsoftonline.com/") =>
  testApp(entraEnvironment({ url }, { OAUTH_CLIENT_ID: CLIENT, ...env }));

const asked = (over: Record<string, string | undefined> = {}) => {
  const all: Record<string, string | undefined> = {
    response_type: "code",
    client_id: CLIENT,
    redirect_uri: CALLBACK,
    code_challenge: "challenge",
    code_challenge_method: "S256",
    state: "st&te",
    scope: READ,
    resource: `${ORIGIN}/mcp`,
    ...over,
  };
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(all)) if (value !== undefined) query.set(name, value);
  return `/oauth/authorize?${query}`;
};

describe("metadata", () => {
  test("names this server first where it has a client id to offer, and Entra alone where it has none", async () => {
    const entra = `https://login.microsoftonline.com/${TENANT}/v2.0`;
    for (const [id, servers] of [
      [CLIENT, [ORIGIN, entra]],
      ["", [entra]],
    ] as const) {
      const { app } = await front({ OAUTH_CLIENT_ID: id });
      for (const path of ["", "/mcp"]) {
        const response = await app.inject(`/.well-known/oauth-protected-resource${path}`);
        expect(response.json()).toEqual({
          resource: `${ORIGIN}/mcp`,
          authorization_servers: servers,
          scopes_supported: [READ, `api://${APPLICATION}/Mcp.Operate`, `api://${APPLICATION}/Mcp.Admin`],
          bearer_methods_supported: ["header"],
        });
        expect(response.headers).toMatchObject({
          "access-control-allow-origin": "*",
          "cache-control": "public, max-age=3600",
          "content-type": "application/json; charset=utf-8",
        });
      }
    }
  });

  test("of the authorization server has the issuer that it is fetched from, and this server's endpoints", async () => {
    const { app } = await front();
    const response = await app.inject("/.well-known/oauth-authorization-server");
    expect(response.headers["access-control-allow-origin"]).toBe("*");
    expect(response.json()).toMatchObject({
      issuer: ORIGIN,
      authorization_endpoint: `${ORIGIN}/oauth/authorize`,
      token_endpoint: `${ORIGIN}/oauth/token`,
      registration_endpoint: `${ORIGIN}/oauth/register`,
      code_challenge_methods_supported: ["S256"],
      token_endpoint_auth_methods_supported: ["none"],
    });
  });

  test("is not there where nobody signs in, and takes no other method than GET", async () => {
    const paths = [
      "/.well-known/oauth-protected-resource",
      "/.well-known/oauth-authorization-server",
      "/oauth/authorize",
    ];
    const [without, bare, all] = [await testApp(), await front({ OAUTH_CLIENT_ID: "" }), await front()];
    for (const url of paths) {
      expect((await without.app.inject(url)).statusCode).toBe(404);
      for (const method of ["POST", "PUT", "DELETE"] as const) {
        expect((await all.app.inject({ method, url })).statusCode).toBe(404);
      }
    }
    for (const url of paths.slice(1)) expect((await bare.app.inject(url)).statusCode).toBe(404);
    for (const url of ["/oauth/token", "/oauth/register"]) {
      expect((await bare.app.inject({ method: "POST", url, payload: {} })).statusCode).toBe(404);
    }
  });
});

describe("the way to Entra's sign-in", () => {
  const sentTo = async (url: string, env: Record<string, string> = {}) => {
    const { app } = await front(env);
    const response = await app.inject(url);
    expect(response.statusCode).toBe(302);
    expect(response.headers["cache-control"]).toBe("no-store");
    return new URL(String(response.headers.location));
  };

  test("has what the client sent, but for `resource`, and asks for a refresh token", async () => {
    const at = await sentTo(
      asked({ prompt: "select_account", login_hint: "ada@example.com", nonce: "n", claims: "{}" }),
    );
    expect(`${at.origin}${at.pathname}`).toBe(`https://login.microsoftonline.com/${TENANT}/oauth2/v2.0/authorize`);
    expect(Object.fromEntries(at.searchParams)).toEqual({
      client_id: CLIENT,
      response_type: "code",
      response_mode: "query",
      redirect_uri: CALLBACK,
      code_challenge: "challenge",
      code_challenge_method: "S256",
      scope: `${READ} offline_access`,
      state: "st&te",
      prompt: "select_account",
      login_hint: "ada@example.com",
    });
  });

  test.each([
    [undefined, `${READ} offline_access`],
    ["openid profile email offline_access", `${READ} offline_access`],
    ["Mcp.Read Mcp.Operate", `${READ} api://${APPLICATION}/Mcp.Operate offline_access`],
  ])("asks, for the scopes %j, for %j", async (scope, expected) => {
    expect((await sentTo(asked({ scope }))).searchParams.get("scope")).toBe(expected);
  });

  test("names an application that signs in at itself by its bare id, which Entra wants", async () => {
    const at = await sentTo(asked({ client_id: APPLICATION }), { OAUTH_CLIENT_ID: APPLICATION });
    expect(at.searchParams.get("scope")).toBe(`${APPLICATION}/Mcp.Read offline_access`);
  });

  test("makes nobody consent anew", async () => {
    expect((await sentTo(asked({ prompt: "consent" }))).searchParams.has("prompt")).toBe(false);
  });

  test.each([
    [`${ORIGIN}/mcp`, true],
    [`${ORIGIN}/mcp/`, true],
    [ORIGIN, true],
    [`${ORIGIN}/`, true],
    ["https://other.example.com/mcp", false],
    [`${ORIGIN}.evil.example/mcp`, false],
    ["https://graph.microsoft.com", false],
  ])("is open to the resource %s: %s", async (resource, open) => {
    const at = await sentTo(asked({ resource }));
    expect(at.origin).toBe(open ? "https://login.microsoftonline.com" : "http://127.0.0.1:5000");
    expect(at.searchParams.get("error")).toBe(open ? null : "invalid_target");
  });

  test.each([
    [{ scope: "https://graph.microsoft.com/.default" }, "invalid_scope"],
    [{ scope: `${READ} User.Read` }, "invalid_scope"],
    [{ scope: ".default" }, "invalid_scope"],
    [{ response_type: "token" }, "unsupported_response_type"],
    [{ code_challenge: undefined }, "invalid_request"],
    [{ code_challenge_method: "plain" }, "invalid_request"],
  ])("sends the client back with an error for %j", async (over, error) => {
    const at = await sentTo(asked(over));
    expect(`${at.origin}${at.pathname}`).toBe(CALLBACK);
    expect(Object.fromEntries(at.searchParams)).toMatchObject({ error, state: "st&te" });
  });

  test.each([
    [{ client_id: APPLICATION }, "invalid_client"],
    [{ client_id: undefined }, "invalid_request"],
    [{ redirect_uri: "https://evil.example/callback" }, "invalid_request"],
    [{ redirect_uri: undefined }, "invalid_request"],
    [{ state: "x".repeat(9000) }, "invalid_request"],
  ])("sends nobody anywhere for %j", async (over, error) => {
    const { app } = await front();
    const response = await app.inject(asked(over));
    expect(response.statusCode).toBe(400);
    expect(response.headers.location).toBeUndefined();
    expect(response.json()).toMatchObject({ error });
  });

  test("takes no parameter twice", async () => {
    const { app } = await front();
    expect((await app.inject(`${asked()}&redirect_uri=https%3A%2F%2Fevil.example`)).statusCode).toBe(400);
  });
});

describe("tokens", () => {
  const GRANTED = {
    token_type: "Bearer",
    access_token: "a.b.c",
    expires_in: 3599,
    refresh_token: "r",
    scope: `${READ}`,
    id_token: "i",
  };
  const post = async (app: Awaited<ReturnType<typeof front>>["app"], form: Record<string, string>) =>
    app.inject({
      method: "POST",
      url: "/oauth/token",
      headers: { "content-type": "application/x-www-form-urlencoded", authorization: "Basic eDp5" },
      payload: new URLSearchParams(form).toString(),
    });
  const code = {
    grant_type: "authorization_code",
    client_id: CLIENT,
    code: "the-code",
    code_verifier: "v",
    redirect_uri: CALLBACK,
    resource: `${ORIGIN}/mcp`,
    client_secret: "s",
  };

  test("are fetched from Entra without `resource`, and handed on without an ID token", async () => {
    const { url, forms } = await tokenEndpoint({ body: JSON.stringify(GRANTED) });
    const { app, events } = await front({ LOG_LEVEL: "trace" }, url);
    const response = await post(app, code);
    expect(response.statusCode).toBe(200);
    expect(response.headers["cache-control"]).toBe("no-store");
    const { id_token, ...granted } = GRANTED;
    expect(response.json()).toEqual(granted);
    const { resource, client_secret, ...sent } = code;
    expect(forms.map((form) => Object.fromEntries(form))).toEqual([sent]);
    expect(JSON.stringify(events())).not.toMatch(/the-code|a\.b\.c/);
  });

  test("come under the names that scopes were asked for by", async () => {
    const body = JSON.stringify({ ...GRANTED, scope: `${APPLICATION}/Mcp.Read ${APPLICATION}/Mcp.Admin` });
    const { url, forms } = await tokenEndpoint({ body });
    const { app } = await front({ OAUTH_CLIENT_ID: APPLICATION }, url);
    const form = { grant_type: "refresh_token", client_id: APPLICATION, refresh_token: "r", scope: READ };
    expect((await post(app, form)).json().scope).toBe(`${READ} api://${APPLICATION}/Mcp.Admin`);
    expect(forms[0]?.get("scope")).toBe(`${APPLICATION}/Mcp.Read offline_access`);
  });

  test("that Entra refuses are refused with its reason", async () => {
    const refused = { error: "invalid_grant", error_description: "AADSTS70008: expired", trace_id: "t" };
    const { url } = await tokenEndpoint({ status: 400, body: JSON.stringify(refused) });
    const { app } = await front({}, url);
    const response = await post(app, code);
    expect([response.statusCode, response.json()]).toEqual([
      400,
      { error: "invalid_grant", error_description: "AADSTS70008: expired" },
    ]);
  });

  test.each([
    ["an outage", { status: 502, body: "<html>" }],
    ["too many requests", { status: 429, body: "{}" }],
    ["an answer that is none", { body: "<html>" }],
  ])("have to wait for %s of Entra's", async (_what, answer) => {
    const { url } = await tokenEndpoint(answer);
    const { app } = await front({}, url);
    const response = await post(app, code);
    expect([response.statusCode, response.headers["retry-after"]]).toEqual([503, "5"]);
    expect(response.body).not.toContain("html");
  });

  test.each([
    [{ grant_type: "client_credentials" }, "unsupported_grant_type"],
    [{ grant_type: "urn:ietf:params:oauth:grant-type:jwt-bearer" }, "unsupported_grant_type"],
    [{ client_id: APPLICATION }, "invalid_client"],
    [{ redirect_uri: "https://evil.example" }, "invalid_request"],
    [{ scope: "User.Read" }, "invalid_scope"],
    [{ resource: "https://graph.microsoft.com" }, "invalid_target"],
  ])("are not asked for with %j", async (over, error) => {
    const { url, forms } = await tokenEndpoint({ body: JSON.stringify(GRANTED) });
    const { app } = await front({}, url);
    const response = await post(app, { ...code, ...over });
    expect([response.statusCode, response.json().error]).toEqual([400, error]);
    expect(forms).toEqual([]);
  });

  test("are not asked for by JSON, by too much, or by an address that has failed too often", async () => {
    const { url, forms } = await tokenEndpoint({ body: JSON.stringify(GRANTED) });
    const { app } = await front({}, url);
    const large = await post(app, { ...code, code: "x".repeat(40_000) });
    expect([large.statusCode, large.json()]).toEqual([413, { error: "invalid_request" }]);
    const text = await app.inject({
      method: "POST",
      url: "/oauth/token",
      headers: { "content-type": "text/xml" },
      payload: "<a/>",
    });
    expect(text.statusCode).toBe(415);
    const slowed = await testApp(entraEnvironment({ url }, { OAUTH_CLIENT_ID: CLIENT }), undefined, {
      failures: { mayTry: () => 3, failed: () => {}, succeeded: () => {} },
    });
    expect((await post(slowed.app, code)).headers["retry-after"]).toBe("3");
    expect(forms).toEqual([]);
  });
});

describe("registration", () => {
  const register = async (payload: object) => {
    const { app } = await front();
    return app.inject({ method: "POST", url: "/oauth/register", payload });
  };

  test.each([
    ["VS Code", ["http://127.0.0.1:33418/", "http://localhost/", "https://vscode.dev/redirect"]],
    [
      "Cursor",
      [
        "cursor://anysphere.cursor-mcp/oauth/callback",
        "https://www.cursor.com/agents/mcp/oauth/callback",
        "http://localhost:8787/callback",
      ],
    ],
    ["Claude Code", ["http://localhost:50123/callback"]],
  ])("gives everyone the same client id: %s", async (client_name, redirect_uris) => {
    const response = await register({ client_name, redirect_uris, token_endpoint_auth_method: "client_secret_post" });
    expect(response.statusCode).toBe(201);
    expect(response.json()).toMatchObject({
      client_id: CLIENT,
      client_name,
      redirect_uris,
      token_endpoint_auth_method: "none",
      grant_types: ["authorization_code", "refresh_token"],
    });
    expect(response.json()).not.toHaveProperty("client_secret");
  });

  test.each([
    [["https://evil.example/callback"], "invalid_redirect_uri"],
    [["http://localhost:1/callback", "https://evil.example/callback"], "invalid_redirect_uri"],
    [["javascript:alert(1)"], "invalid_redirect_uri"],
    [[], "invalid_client_metadata"],
    ["http://localhost", "invalid_client_metadata"],
    [undefined, "invalid_client_metadata"],
  ])("is refused for %j", async (redirect_uris, error) => {
    const response = await register({ redirect_uris });
    expect([response.statusCode, response.json().error]).toEqual([400, error]);
  });

  test("knows loopback from what looks like it", () => {
    const evil = [
      "http://localhost.evil.example/callback",
      "http://localhost@evil.example/",
      "http://evil.example/127.0.0.1",
      "http://127.0.0.1.nip.io/",
      "http://user:password@localhost/",
      "http://localhost/#fragment",
      "http://localhost\\@evil.example/",
      "https://localhost/callback",
      "ftp://127.0.0.1/",
      "https://vscode.dev/redirect?to=https://evil.example",
      "https://vscode.dev/redirect/../other",
      "cursor://anysphere.cursor-mcp/oauth/callback/../x",
      "//localhost/callback",
      "",
    ];
    for (const uri of evil) expect([uri, isClientCallback(uri)]).toEqual([uri, false]);
    for (const uri of CLIENT_CALLBACKS) expect(isClientCallback(uri)).toBe(true);
    fc.assert(
      fc.property(
        fc.webUrl({ validSchemes: ["http", "https"], withFragments: true, withQueryParameters: true }),
        (uri) => {
          const { hostname } = new URL(uri);
          expect(isClientCallback(uri) && hostname !== "localhost" && hostname !== "127.0.0.1").toBe(false);
        },
      ),
    );
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 65_535 }), fc.stringMatching(/^[a-z/]{0,20}$/), (port, path) => {
        expect(isClientCallback(`http://127.0.0.1:${port}/${path}`)).toBe(true);
      }),
    );
  });
});
