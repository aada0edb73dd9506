import { describe, expect, test } from "vitest";
import { z } from "zod";
import { listening, testApp } from "./running-app.ts";

const Document = z.object({
  openapi: z.string(),
  info: z.object({ title: z.string(), version: z.string() }),
  servers: z.array(z.object({ url: z.string() })).optional(),
  paths: z.record(
    z.string(),
    z.record(
      z.string(),
      z.object({
        summary: z.string(),
        tags: z.array(z.string()),
        security: z.array(z.unknown()).optional(),
        responses: z.record(z.string(), z.object({ description: z.string() })),
      }),
    ),
  ),
  components: z.object({ schemas: z.record(z.string(), z.unknown()), securitySchemes: z.unknown().optional() }),
});

async function documentOf(env: Record<string, string> = {}) {
  const { app } = await testApp({ OPENAPI_DOCS: "true", ...env });
  const response = await app.inject("/docs/json");
  expect(response.statusCode).toBe(200);
  return { document: Document.parse(response.json()), text: response.body, app };
}

const BEYOND = { HOST: "0.0.0.0", ALLOW_UNAUTHENTICATED: "true" };
const WITH_KEY = { AUTH_MODE: "api-key", API_KEY_HASHES: `sha256:${"a".repeat(64)}` };

describe("the OpenAPI document", () => {
  test("describes every operation of the public listener, and none of the operators'", async () => {
    const { document, text } = await documentOf();
    expect(document.openapi).toBe("3.1.0");
    expect(Object.keys(document.paths)).toEqual(
      expect.arrayContaining([
        "/mcp",
        "/mcp/ws",
        "/",
        "/health",
        "/health/live",
        "/health/ready",
        "/healthz",
        "/readyz",
      ]),
    );
    expect(Object.keys(document.paths["/mcp"] ?? {}).toSorted()).toEqual(["get", "post"]);
    expect(Object.keys(document.paths["/mcp/ws"] ?? {})).toEqual(["get"]);
    expect(text).not.toMatch(/\/metrics|\/health\/detailed|"\/docs/);
  });

  test("has a schema for every reference", async () => {
    const { document, text } = await documentOf();
    const references = new Set([...text.matchAll(/"#\/components\/schemas\/([^"]+)"/g)].map(([, name]) => name));
    expect([...references].toSorted()).toEqual(Object.keys(document.components.schemas).toSorted());
  });

  test("says that a key is needed where one is, and where the server is when that is known", async () => {
    const open = (await documentOf()).document;
    expect(open.paths["/mcp"]?.post?.security).toBeUndefined();
    const { document, text } = await documentOf({ ...WITH_KEY, PUBLIC_URL: "https://mcp.example.com/mcp" });
    for (const each of [document.paths["/mcp"]?.post, document.paths["/mcp"]?.get, document.paths["/mcp/ws"]?.get])
      expect(each?.security).toEqual([{ key: [] }]);
    expect(document.paths["/healthz"]?.get?.security).toBeUndefined();
    expect(document.components.securitySchemes).toEqual({ key: { type: "http", scheme: "bearer" } });
    expect(document.servers).toEqual([{ url: "https://mcp.example.com" }]);
    expect(text).not.toContain("aaaa");
  });

  test("describes the sign-in where there is one", async () => {
    const { document } = await documentOf({
      AUTH_MODE: "entra",
      ENTRA_TENANT_ID: "11111111-1111-4111-8111-111111111111",
      ENTRA_CLIENT_ID: "33333333-3333-4333-8333-333333333333",
      OAUTH_CLIENT_ID: "44444444-4444-4444-8444-444444444444",
      PUBLIC_URL: "https://mcp.example.com/mcp",
    });
    const { paths, components } = document;
    const signIn = Object.keys(paths).filter((path) => /^\/(\.well-known|oauth)\//.test(path));
    expect(signIn.toSorted()).toEqual([
      "/.well-known/oauth-authorization-server",
      "/.well-known/oauth-protected-resource",
      "/.well-known/oauth-protected-resource/mcp",
      "/oauth/authorize",
      "/oauth/register",
      "/oauth/token",
    ]);
    for (const path of signIn) {
      for (const { security } of Object.values(paths[path] ?? {})) expect(security).toBeUndefined();
    }
    expect(paths["/mcp"]?.post?.security).toEqual([{ token: [] }]);
    expect(components.securitySchemes).toEqual({ token: { type: "http", scheme: "bearer", bearerFormat: "JWT" } });
  });

  test("has examples that the server answers", async () => {
    const { app, text } = await documentOf();
    const { examples } = JSON.parse(text).paths["/mcp"].post.requestBody.content["application/json"];
    for (const [name, { value }] of Object.entries<{ value: { method: string; params: { name?: string } } }>(
      examples,
    )) {
      const newer = name === "newer" && {
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": value.method,
        "mcp-name": value.params.name ?? "",
      };
      const headers = { host: "127.0.0.1", accept: "application/json, text/event-stream", ...newer };
      const response = await app.inject({ method: "POST", url: "/mcp", headers, payload: value });
      expect([name, response.statusCode]).toEqual([name, 200]);
      expect(response.body).toContain('"result"');
    }
  });
});

describe("the page at /docs", () => {
  test("comes with all that it loads, under a policy that lets it load that and nothing else", async () => {
    const built = await testApp();
    const url = await listening(built);
    const page = await fetch(new URL("/docs/", url));
    const html = await page.text();
    const policy = page.headers.get("content-security-policy") ?? "";
    expect(policy).toMatch(/^default-src 'none'; script-src 'self'; style-src 'self';/);
    expect(policy).toContain("frame-ancestors 'none'");
    expect(policy).not.toMatch(/unsafe|https:|\*/);
    expect(page.headers.get("x-content-type-options")).toBe("nosniff");
    const links = [...html.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, link]) => link ?? "");
    expect(links.length).toBeGreaterThan(4);
    for (const link of links) expect((await fetch(new URL(link, page.url))).status, link).toBe(200);
    // Inline scripts and styles are what the policy forbids.
    expect(html).not.toMatch(/<script>|<style|\son\w+=|\sstyle=/);
  });

  test("leaves the policy of everything else as it was", async () => {
    const { app } = await testApp();
    const { headers } = await app.inject("/");
    expect(headers["content-security-policy"]).toBe("default-src 'none';frame-ancestors 'none'");
  });

  test("is not there beyond loopback, unless asked for", async () => {
    const hidden = await testApp(BEYOND);
    for (const url of ["/docs", "/docs/", "/docs/json", "/docs/static/index.css"]) {
      expect((await hidden.app.inject(url)).statusCode).toBe(404);
    }
    expect((await (await testApp()).app.inject("/docs/nothing")).statusCode).toBe(404);
    const shown = await testApp({ ...BEYOND, OPENAPI_DOCS: "true" });
    expect((await shown.app.inject("/docs/json")).statusCode).toBe(200);
  });
});
