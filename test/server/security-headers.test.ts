import helmet from "@fastify/helmet";
import Fastify from "fastify";
import { expect, test } from "vitest";
import { SECURITY_HEADERS } from "../../server/auth/security-headers.ts";
import { testApp } from "./running-app.ts";

test("every answer has the headers that helmet would set", async () => {
  const reference = Fastify();
  await reference.register(helmet, {
    contentSecurityPolicy: { useDefaults: false, directives: { defaultSrc: ["'none'"], frameAncestors: ["'none'"] } },
  });
  const { headers: expected } = await reference.inject("/");
  for (const name of ["content-type", "content-length", "date", "connection"]) delete expected[name];
  expect(Object.fromEntries(SECURITY_HEADERS)).toEqual(expected);

  const { app, operator } = await testApp({ AUTH_MODE: "api-key", API_KEY_HASHES: `sha256:${"0".repeat(64)}` });
  const host = "127.0.0.1";
  for (const [listener, url] of [
    [app, "/"],
    [app, "/health"],
    [app, "/nothing"],
    [operator, "/metrics"],
  ] as const) {
    expect((await listener.inject({ url, headers: { host } })).headers).toMatchObject(expected);
  }
  expect((await app.inject({ method: "POST", url: "/mcp", headers: { host } })).headers).toMatchObject(expected);
});
