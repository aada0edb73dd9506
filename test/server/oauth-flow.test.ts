import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  Client,
  type OAuthClientInformationMixed,
  type OAuthClientProvider,
  type OAuthDiscoveryState,
  type OAuthTokens,
  StreamableHTTPClientTransport,
  UnauthorizedError,
} from "@modelcontextprotocol/client";
import { pino } from "pino";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { z } from "zod";
import { type App, buildApp } from "../../server/app.ts";
import { parseEnvironment } from "../../server/config.ts";
import type { Decision } from "../../server/observability/audit.ts";
import { defineTool } from "../../server/tools/define-tool.ts";
import { APPLICATION, CLIENT, entraEnvironment, USER } from "./entra-authority.ts";
import { entraSignIn } from "./entra-sign-in.ts";

/* The client library's own OAuth support, against this server and an authorization server that behaves as Entra does. */

const CALLBACK = "http://127.0.0.1:33418/callback";
const READ = `api://${APPLICATION}/Mcp.Read`;
const OPERATE = `api://${APPLICATION}/Mcp.Operate`;

let entra: Awaited<ReturnType<typeof entraSignIn>>;
let directory: string;
/** One offers its client id, the other leaves clients to bring theirs. */
const servers: { url: URL; app: App }[] = [];
const decisions: Decision[] = [];
let ahead = 0;

const echo = (name: string, role: "reader" | "operator" | "admin") =>
  defineTool({
    name,
    title: name,
    description: "Tells who calls",
    input: z.object({}),
    output: z.object({ subject: z.string(), role: z.string() }),
    annotations: { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false },
    role,
    run: (_input, { caller }) => ({ subject: caller.subject, role: caller.scopedRole ?? caller.role }),
  });

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

beforeAll(async () => {
  entra = await entraSignIn(CALLBACK);
  directory = await mkdtemp(join(tmpdir(), "mcp-oauth-flow-"));
  for (const OAUTH_CLIENT_ID of [CLIENT, ""]) {
    const port = await freePort();
    const url = new URL(`http://127.0.0.1:${port}/mcp`);
    const app = await buildApp({
      config: parseEnvironment({
        WORKSPACE_PATH: directory,
        METRICS_PORT: "0",
        ...entraEnvironment(entra, { PUBLIC_URL: url.href, OAUTH_CLIENT_ID }),
      }),
      log: pino({ level: "silent" }),
      audit: { decided: (decision) => decisions.push(decision) },
      tools: [echo("look", "reader"), echo("act", "operator"), echo("rule", "admin")],
      now: () => Date.now() + ahead,
    });
    await app.app.listen({ host: "127.0.0.1", port });
    app.readiness.start();
    servers.push({ url, app });
  }
});
afterAll(async () => {
  for (const { app, operator } of servers.map((server) => server.app)) {
    app.server.closeAllConnections();
    await Promise.all([app.close(), operator.close()]);
  }
  await entra.close();
  await rm(directory, { recursive: true, force: true });
});
beforeEach(() => {
  ahead = 0;
  entra.state.accessSeconds = 3600;
  entra.state.requests.length = 0;
  decisions.length = 0;
});

/** What an IDE keeps of a server. */
class Account implements OAuthClientProvider {
  readonly redirectUrl = CALLBACK;
  readonly clientMetadata = {
    client_name: "A test",
    redirect_uris: [CALLBACK],
    grant_types: ["authorization_code", "refresh_token"],
  };
  information: OAuthClientInformationMixed | undefined;
  saved: OAuthTokens | undefined;
  asked: URL | undefined;
  #verifier = "";
  #discovery: OAuthDiscoveryState | undefined;

  constructor(information?: OAuthClientInformationMixed) {
    this.information = information;
  }
  clientInformation() {
    return this.information;
  }
  saveClientInformation(information: OAuthClientInformationMixed) {
    this.information = information;
  }
  tokens() {
    return this.saved;
  }
  saveTokens(tokens: OAuthTokens) {
    this.saved = tokens;
  }
  redirectToAuthorization(url: URL) {
    this.asked = url;
  }
  saveCodeVerifier(verifier: string) {
    this.#verifier = verifier;
  }
  codeVerifier() {
    return this.#verifier;
  }
  saveDiscoveryState(state: OAuthDiscoveryState) {
    this.#discovery = state;
  }
  discoveryState() {
    return this.#discovery;
  }
}

/** An account that does as clients do that were told to leave `resource` out. */
class AccountWithoutResource extends Account {
  async validateResourceURL() {
    return undefined;
  }
}

async function connect(url: URL, account: Account) {
  const transport = new StreamableHTTPClientTransport(url, { authProvider: account });
  const client = new Client({ name: "test", version: "1" });
  await client.connect(transport);
  return { client, transport };
}

/** Connects for the first time: is turned away, has the user sign in, and connects. */
async function signedIn(url: URL, account: Account) {
  const first = new StreamableHTTPClientTransport(url, { authProvider: account });
  await expect(new Client({ name: "test", version: "1" }).connect(first)).rejects.toThrow(UnauthorizedError);
  await first.finishAuth(await entra.signIn(asked(account)));
  return connect(url, account);
}

function asked(account: Account): URL {
  if (account.asked === undefined) throw new Error("The client did not ask the user to sign in.");
  return account.asked;
}

const called = async (client: Client, name: string) =>
  (await client.callTool({ name, arguments: {} })).structuredContent;

const accounts: [string, number, () => Account][] = [
  ["a client that insists on registration", 0, () => new Account()],
  ["a client that was given the client id", 0, () => new Account({ client_id: CLIENT })],
  [
    "a client that brings a client id, and leaves `resource` out, straight at Entra",
    1,
    () => new AccountWithoutResource({ client_id: CLIENT }),
  ],
];

describe.each(accounts)("%s", (_who, which, account) => {
  const at = () => servers[which]?.url ?? new URL("http://unreachable.invalid");

  test("finds out where to sign in, signs in with PKCE for the least scope, and calls", async () => {
    const own = account();
    const { client } = await signedIn(at(), own);
    expect(await called(client, "look")).toEqual({ subject: USER, role: "reader" });
    expect((own.information as { client_id: string }).client_id).toBe(CLIENT);
    const [request] = entra.state.requests;
    expect(request?.get("scope")?.split(" ")).toContain(READ);
    expect(request?.get("scope")).not.toContain(OPERATE);
    expect(request?.get("code_challenge_method")).toBe("S256");
    expect(request?.has("resource")).toBe(false);
    // Where this server is in between, nobody is made to consent for the sake of a refresh token.
    expect(request?.get("prompt")).toBe(which === 0 ? null : "consent");
    await client.close();
  });

  test("gets a new token by its refresh token when the first has ended, and asks nobody", async () => {
    const own = account();
    const { client } = await signedIn(at(), own);
    const before = own.saved?.access_token;
    expect(own.saved?.refresh_token).toBeDefined();
    own.asked = undefined;
    ahead = 2 * 3_600_000;
    entra.state.accessSeconds = 3 * 3600;
    expect(await called(client, "look")).toEqual({ subject: USER, role: "reader" });
    expect(own.saved?.access_token).not.toBe(before);
    expect(own.asked).toBeUndefined();
    expect(decisions.at(-1)).toMatchObject({ decision: "refused", reason: "token: expired" });
    await client.close();
  });

  test("is asked for a further scope by the tool that needs it, gets it, and calls", async () => {
    const own = account();
    const { client, transport } = await signedIn(at(), own);
    await expect(called(client, "act")).rejects.toThrow(UnauthorizedError);
    expect(decisions.at(-1)).toMatchObject({ decision: "denied", caller: { subject: USER, scopedRole: "reader" } });
    const scopes = asked(own).searchParams.get("scope")?.split(" ");
    expect(scopes).toEqual(expect.arrayContaining([READ, OPERATE]));
    await transport.finishAuth(await entra.signIn(asked(own)));
    expect(await called(client, "act")).toEqual({ subject: USER, role: "operator" });
    await client.close();
  });
});

test("a client that sends `resource` to Entra itself is refused there, which is why this server stands in front", async () => {
  const account = new Account({ client_id: CLIENT });
  const [, direct] = servers;
  if (direct === undefined) throw new Error("There is no such server.");
  const transport = new StreamableHTTPClientTransport(direct.url, { authProvider: account });
  await expect(new Client({ name: "test", version: "1" }).connect(transport)).rejects.toThrow(UnauthorizedError);
  const answer = await entra.signIn(asked(account));
  expect(answer.get("error_description")).toContain("AADSTS9010010");
});
