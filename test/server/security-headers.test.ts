import helmet from "@fastify/helmet";
import Fastify from "fastify";
import { expect, test } from "vitest";
import { HSTS, SECURITY_HEADERS } from "../../server/auth/security-headers.ts";
import { testApp } from "./running-app.ts";

const WITH_KEYS = { AUTH_MODE: "api-key", API_KEY_HASHES: `sha256:${"0".repeat(64)}` };

test("every answer has the headers that helmet would set", async () => {
  const reference = Fastify();
  await reference.register(helmet, {
    contentSecurityPolicy: { useDefaults: false, directives: { defaultSrc: ["'none'"], frameAncestors: ["'none'"] } },
  });
  const { headers: expected } = await reference.inject("/");
  for (const name of ["content-type", "content-length", "date", "connection"]) delete expected[name];
  expect(Object.fromEntries([...SECURITY_HEADERS, HSTS])).toEqual(expected);

  const { app } = await testApp({ ...WITH_KEYS, PUBLIC_URL: "https://mcp.example.com/mcp" });
  const host = "127.0.0.1";
  for (const url of ["/", "/health", "/nothing"]) {
    expect((await app.inject({ url, headers: { host } })).headers).toMatchObject(expected);
  }
  expect((await app.inject({ method: "POST", url: "/mcp", headers: { host } })).headers).toMatchObject(expected);
});

test("browsers are bound to HTTPS where clients come by it, and nowhere else", async () => {
  const others = Object.fromEntries(SECURITY_HEADERS);
  const headers = { host: "127.0.0.1" };
  const local: Record<string, string>[] = [{}, { PUBLIC_URL: "http://127.0.0.1:8080/mcp" }];
  for (const env of local) {
    const { app } = await testApp({ ...WITH_KEYS, ...env });
    const answer = await app.inject({ url: "/", headers });
    expect(answer.headers).toMatchObject(others);
    expect(answer.headers).not.toHaveProperty("strict-transport-security");
  }
  // Prometheus comes by HTTP, whatever the public address is.
  const { operator } = await testApp({ ...WITH_KEYS, PUBLIC_URL: "https://mcp.example.com/mcp" });
  const answer = await operator.inject({ url: "/metrics", headers });
  expect(answer.headers).toMatchObject(others);
  expect(answer.headers).not.toHaveProperty("strict-transport-security");
});
