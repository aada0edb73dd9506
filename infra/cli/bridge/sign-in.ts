import { spawn } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { chmod, mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import {
  auth,
  type OAuthClientProvider,
  type OAuthDiscoveryState,
  type OAuthTokens,
} from "@modelcontextprotocol/client";
import { z } from "zod";
import type { HeaderValues } from "./headers.ts";
import { createHttpFetch } from "./http-fetch.ts";

/** A person's login at a server, made in the browser and kept in a file. */
export interface SignIn {
  /** The token as a header; none before the first sign-in. */
  headers(): HeaderValues;
  /**
   * Gets another token, after the server has refused this one: of another bridge of the same person's, by the refresh
   * token, or by a sign-in in the browser. Tells whether there is one.
   */
  refresh(): Promise<boolean>;
}

interface SignInOptions {
  readonly url: URL;
  /** Where the login is kept. */
  readonly file: string;
  /** Tells the person. */
  readonly say: (line: string) => void;
  /** Shows the person a page. */
  readonly open?: (page: URL) => void;
}

/** Longest that is waited for the person. */
const PATIENCE_MS = 5 * 60_000;
/** After a sign-in that came to nothing, so that a client that tries again does not open page after page. */
const PAUSE_MS = 60_000;
/** One of LOOPBACK_CALLBACK_PATHS of server/auth/client-callbacks.ts; Entra compares the path and takes any port. */
const CALLBACK_PATH = "/callback";

/** What the file holds. Whoever can read it can call as its owner, so nobody else may. */
const Kept = z.object({
  client: z.looseObject({ client_id: z.string() }).optional(),
  tokens: z.looseObject({ access_token: z.string(), token_type: z.string() }).optional(),
});
type Kept = z.output<typeof Kept>;

/** The file for a server's login, in the user's own directory. */
export function loginFile({ href, hostname }: URL, home = homedir()): string {
  const digest = createHash("sha256").update(href).digest("hex").slice(0, 12);
  return join(home, ".mcp-on-aks", `${hostname.replace(/[^\w.-]/g, "")}-${digest}.login`);
}

/**
 * OAuth 2.1 for a public client (MCP specification, Authorization), by the SDK: where to sign in and as which client the
 * server tells; PKCE; the answer comes to a port on loopback (RFC 8252, section 7.3).
 */
export async function createSignIn({ url, file, say, open = openBrowser }: SignInOptions): Promise<SignIn> {
  let kept = await read(file);
  let running: Promise<boolean> | undefined;
  let notBefore = 0;

  const keep = async (change: Kept) => {
    kept = { ...kept, ...change };
    await write(file, kept);
  };
  const bare = createHttpFetch({ headers: () => ({}), refreshHeaders: async () => false });
  const fetchFn: typeof bare = Object.assign(
    (target: string | URL, init?: RequestInit) =>
      bare(target, { ...init, ...(init?.body instanceof URLSearchParams && { body: init.body.toString() }) }),
    { close: bare.close },
  );

  const signIn = async () => {
    const state = randomBytes(24).toString("base64url");
    const callback = await listen(state);
    let verifier = "";
    let discovered: OAuthDiscoveryState | undefined;
    const provider: OAuthClientProvider = {
      redirectUrl: callback.url,
      clientMetadata: {
        client_name: "mcp-aks bridge",
        redirect_uris: [callback.url],
        grant_types: ["authorization_code", "refresh_token"],
        token_endpoint_auth_method: "none",
      },
      state: () => state,
      clientInformation: () => kept.client,
      saveClientInformation: (client) => keep({ client: { ...client } }),
      tokens: () => kept.tokens as OAuthTokens | undefined,
      saveTokens: (tokens) => keep({ tokens: { ...tokens } }),
      redirectToAuthorization(page) {
        // The server names it, and what is opened must be a page.
        if (!["https:", "http:"].includes(page.protocol)) throw new Error(`${page.protocol} is no page to sign in at`);
        say(`sign in to ${url.host}, in the browser that opens or at ${page.href}`);
        open(page);
      },
      saveCodeVerifier: (made) => {
        verifier = made;
      },
      codeVerifier: () => verifier,
      saveDiscoveryState: (state) => {
        discovered = state;
      },
      discoveryState: () => discovered,
      invalidateCredentials: (what) =>
        keep({
          ...((what === "all" || what === "tokens") && { tokens: undefined }),
          ...((what === "all" || what === "client") && { client: undefined }),
        }),
    };
    try {
      if ((await auth(provider, { serverUrl: url, fetchFn })) === "AUTHORIZED") return;
      const answer = await callback.answer;
      const iss = answer.get("iss");
      await auth(provider, {
        serverUrl: url,
        fetchFn,
        authorizationCode: answer.get("code") ?? "",
        ...(iss !== null && { iss }),
      });
      say("signed in");
    } finally {
      callback.close();
    }
  };

  const again = async () => {
    const refused = kept.tokens?.access_token;
    kept = await read(file);
    if (kept.tokens !== undefined && kept.tokens.access_token !== refused) return true;
    if (Date.now() < notBefore) return false;
    try {
      await signIn();
      return true;
    } catch (error) {
      notBefore = Date.now() + PAUSE_MS;
      const why = error instanceof Error ? error.message : String(error);
      say(`could not sign in (${why}); what the client asks for next, a minute from now or later, tries again`);
      return false;
    }
  };

  return {
    headers: (): HeaderValues => {
      const token = kept.tokens?.access_token;
      return token === undefined ? {} : { authorization: `Bearer ${token}` };
    },
    refresh() {
      // One page for all requests that are refused meanwhile.
      running ??= again().finally(() => {
        running = undefined;
      });
      return running;
    },
  };
}

/** Waits on loopback for where the browser is sent in the end. */
async function listen(state: string) {
  const { promise: answer, resolve, reject } = Promise.withResolvers<URLSearchParams>();
  const server = createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url ?? "/", "http://127.0.0.1");
    // Any page can send a browser here; what does not know the state is no answer.
    const isAnswer = pathname === CALLBACK_PATH && searchParams.get("state") === state;
    const error = searchParams.get("error");
    const text = !isAnswer
      ? "Nothing is here."
      : error === null
        ? "You are signed in, and may close this page."
        : "You are not signed in; the client's log says why.";
    response.writeHead(isAnswer ? 200 : 404, { "content-type": "text/plain; charset=utf-8", connection: "close" });
    response.end(`${text}\n`);
    if (!isAnswer) return;
    if (error === null) resolve(searchParams);
    else reject(new Error(searchParams.get("error_description") ?? error));
  });
  await new Promise<void>((done, failed) => server.once("error", failed).listen(0, "127.0.0.1", done));
  const timer = setTimeout(() => reject(new Error(`nobody did within ${PATIENCE_MS / 60_000} minutes`)), PATIENCE_MS);
  // Whoever waits for it hears of it; it may be that nobody has to.
  answer.catch(() => {});
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}${CALLBACK_PATH}`,
    answer,
    close() {
      clearTimeout(timer);
      server.close();
    },
  };
}

async function read(file: string): Promise<Kept> {
  try {
    return Kept.parse(JSON.parse(await readFile(file, "utf8")));
  } catch {
    // None yet, or none that can be used: a sign-in makes another.
    return {};
  }
}

/** In one step, for other bridges read it at any time. */
async function write(file: string, kept: Kept): Promise<void> {
  await mkdir(dirname(file), { recursive: true, mode: 0o700 });
  const fresh = `${file}.${process.pid}`;
  await writeFile(fresh, `${JSON.stringify(kept, null, 2)}\n`, { mode: 0o600 });
  // One that an earlier process left there keeps its mode.
  await chmod(fresh, 0o600);
  await rename(fresh, file);
}

/** Where there is no browser to open, the person has the address. */
function openBrowser({ href }: URL): void {
  const [program, ...args] = {
    darwin: ["open"],
    win32: ["rundll32", "url.dll,FileProtocolHandler"],
  }[process.platform as string] ?? [process.env.BROWSER ?? "xdg-open"];
  spawn(program ?? "xdg-open", [...args, href], { stdio: "ignore", detached: true })
    .once("error", () => {})
    .unref();
}
