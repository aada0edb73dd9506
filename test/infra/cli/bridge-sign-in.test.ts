import { readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createSignIn, loginFile } from "../../../infra/cli/bridge/sign-in.ts";
import { APPLICATION, CLIENT, entraEnvironment } from "../../server/entra-authority.ts";
import { entraSignIn } from "../../server/entra-sign-in.ts";
import { freePort } from "../../server/redis-server.ts";
import { rpc, type TestApp, temporaryDirectory, testApp } from "../../server/running-app.ts";

/* The bridge's login, against the server and an authorization server that behaves as Entra does. */

let entra: Awaited<ReturnType<typeof entraSignIn>>;
let server: TestApp;
let url: URL;
let ahead = 0;
const ends: (() => Promise<void>)[] = [];

beforeAll(async () => {
  entra = await entraSignIn("http://127.0.0.1/callback");
  // Its own URL is in what it tells clients.
  const port = await freePort();
  url = new URL(`http://127.0.0.1:${port}/mcp`);
  const env = entraEnvironment(entra, { PUBLIC_URL: url.href, OAUTH_CLIENT_ID: CLIENT });
  const now = () => Date.now() + ahead;
  server = await testApp(env, undefined, { now }, (end) => void ends.push(end));
  await server.app.listen({ host: "127.0.0.1", port });
});
afterAll(async () => {
  for (const end of ends.reverse()) await end();
  await entra.close();
});

/** Does as a browser does: goes where it is sent, with cookies, to the end. */
async function browse(page: URL): Promise<string> {
  const cookies = new Map<string, string>();
  for (let at = page, hops = 0; hops < 10; hops++) {
    const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join("; ");
    const response = await fetch(at, { redirect: "manual", headers: { cookie } });
    for (const each of response.headers.getSetCookie()) {
      const [, name = "", value = ""] = /^([^=]+)=([^;]*)/.exec(each) ?? [];
      cookies.set(name, value);
    }
    const location = response.headers.get("location");
    if (location === null) return response.text();
    at = new URL(location, at);
    // The library's; Entra sends none.
    if (at.pathname === "/callback") at.searchParams.delete("iss");
  }
  throw new Error("Sent round and round.");
}

/** A bridge's login in a file of its own, whose user signs in; with what was said, and where the browser was. */
async function person(file: string, visit: (page: URL) => Promise<unknown> = browse) {
  const said: string[] = [];
  const pages: URL[] = [];
  const signIn = await createSignIn({
    url,
    file,
    say: (line) => said.push(line),
    open(page) {
      pages.push(page);
      void visit(page);
    },
  });
  const status = async () => {
    const { method, headers, payload } = rpc("tools/list", {}, { ...signIn.headers() });
    const response = await fetch(url, { method, headers, body: payload });
    await response.text();
    return response.status;
  };
  return { ...signIn, said, pages, status };
}

const newFile = async () => loginFile(url, await temporaryDirectory());

describe("the bridge's login", () => {
  test("is made in the browser, kept for its owner alone, and there for the next bridge", async () => {
    const file = await newFile();
    const first = await person(file);
    expect(await first.status()).toBe(401);
    // Two requests are refused at once: there is one page.
    expect(await Promise.all([first.refresh(), first.refresh()])).toEqual([true, true]);
    expect(first.pages).toHaveLength(1);
    const asked = first.pages[0]?.searchParams;
    expect(asked?.get("code_challenge_method")).toBe("S256");
    expect(asked?.get("redirect_uri")).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/callback$/);
    // Everything at once: roles decide, and a bridge cannot step up in the middle of a call.
    expect(asked?.get("scope")).toContain(`api://${APPLICATION}/Mcp.Admin`);
    expect(await first.status()).toBe(200);
    if (process.platform !== "win32") expect((await stat(file)).mode & 0o777).toBe(0o600);
    expect(first.said.join("\n")).not.toContain(first.headers().authorization?.slice("Bearer ".length));

    const second = await person(file);
    expect(await second.status()).toBe(200);
    expect(second.pages).toEqual([]);
  });

  test("is renewed without anybody when its token has ended, and taken from another bridge that was first", async () => {
    const file = await newFile();
    const [one, other] = [await person(file), await person(file)];
    await one.refresh();
    ahead = 2 * 3_600_000;
    entra.state.accessSeconds = 3 * 3600;
    expect(await one.status()).toBe(401);
    expect(await one.refresh()).toBe(true);
    expect([await one.status(), one.pages.length]).toEqual([200, 1]);
    expect(await other.refresh()).toBe(true);
    expect(other.headers()).toEqual(one.headers());
    expect(other.pages).toEqual([]);
    ahead = 0;
    entra.state.accessSeconds = 3600;
  });

  test("that a file of nonsense holds is made anew", async () => {
    const file = join(await temporaryDirectory(), "login");
    await writeFile(file, "{");
    const again = await person(file);
    expect(again.headers()).toEqual({});
    expect(await again.refresh()).toBe(true);
    expect(await again.status()).toBe(200);
    expect(JSON.parse(await readFile(file, "utf8"))).toHaveProperty("tokens.access_token");
  });

  test("that is refused is said, once a minute at most, and no page that guesses makes one", async () => {
    const refused = await person(await newFile(), async (page) => {
      const callback = new URL(page.searchParams.get("redirect_uri") ?? "");
      expect((await fetch(`${callback}?code=stolen&state=guess`)).status).toBe(404);
      expect((await fetch(new URL("/", callback))).status).toBe(404);
      const state = page.searchParams.get("state") ?? "";
      await fetch(`${callback}?${new URLSearchParams({ error: "access_denied", error_description: "No.", state })}`);
    });
    expect(await refused.refresh()).toBe(false);
    expect(refused.said.at(-1)).toMatch(/^could not sign in \(No\.\)/);
    expect(await refused.refresh()).toBe(false);
    expect(refused.pages).toHaveLength(1);
  });
});
