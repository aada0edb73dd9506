import { execFile } from "node:child_process";
import { randomUUID } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { text } from "node:stream/consumers";
import { promisify } from "node:util";

/** The state of Azure that decides these answers. */
export interface AzureState {
  /** Whether a registry answers at this host, such as `crmcpdevx7k2p.azurecr.io`. */
  hasRegistry(host: string): boolean;
  /** Whether this is an Entra token that somebody was given. */
  knowsToken(token: string): boolean;
}

const ARM = "management.azure.com";

interface Reply {
  readonly status: number;
  readonly body: object;
}

/**
 * What the program asks Azure for by itself, past its providers: the sign-in to a registry, and which resource providers
 * a subscription has registered. The program gets here by the usual variables for an outgoing proxy and for one more
 * certificate authority, so it needs no seam for it. Any other host is unreachable.
 */
export class AzureDouble {
  /** What leads a Node process here instead of to Azure. */
  readonly environment: Readonly<Record<string, string>>;
  /** Refresh tokens that registries gave out. */
  readonly refreshTokens: string[] = [];
  /** Namespaces that the subscription does not have registered yet, as a fresh one lacks Microsoft.Insights. */
  readonly unregistered = new Set(["Microsoft.Insights"]);
  readonly #state: AzureState;
  readonly #folder: string;
  readonly #proxy: Server;

  static async start(state: AzureState): Promise<AzureDouble> {
    const folder = await mkdtemp(join(tmpdir(), "mcp-engine-azure-"));
    const certificate = join(folder, "certificate.pem");
    const key = join(folder, "key.pem");
    await promisify(execFile)("openssl", [
      ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"],
      ...["-subj", `/CN=${ARM}`, "-addext", `subjectAltName=DNS:${ARM},DNS:*.azurecr.io`],
      ...["-keyout", key, "-out", certificate],
    ]);
    const proxy = createServer((_request, response) => response.writeHead(405).end());
    await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
    const double = new AzureDouble(state, folder, proxy);
    const pair = { key: await readFile(key), cert: await readFile(certificate) };
    const tls = createTlsServer(pair, (request, response) => void double.#respond(request, response));
    proxy.on("connect", (request: IncomingMessage, socket: Duplex) => double.#connect(request, socket, tls));
    return double;
  }

  private constructor(state: AzureState, folder: string, proxy: Server) {
    this.#state = state;
    this.#folder = folder;
    this.#proxy = proxy;
    const { port } = proxy.address() as AddressInfo;
    this.environment = {
      NODE_USE_ENV_PROXY: "1",
      HTTPS_PROXY: `http://127.0.0.1:${port}`,
      NO_PROXY: "127.0.0.1,localhost",
      NODE_EXTRA_CA_CERTS: join(folder, "certificate.pem"),
    };
  }

  async close(): Promise<void> {
    this.#proxy.closeAllConnections();
    this.#proxy.close();
    await rm(this.#folder, { recursive: true, force: true });
  }

  #connect({ url = "" }: IncomingMessage, socket: Duplex, tls: ReturnType<typeof createTlsServer>): void {
    const host = url.replace(/:443$/, "");
    socket.on("error", () => socket.destroy());
    if (host === ARM || this.#state.hasRegistry(host)) {
      socket.write("HTTP/1.1 200 Connection established\r\n\r\n");
      tls.emit("connection", socket);
    } else {
      socket.end("HTTP/1.1 502 Bad Gateway\r\n\r\n");
    }
  }

  async #respond(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const answer = request.headers.host === ARM ? this.#providers(request) : await this.#exchange(request);
    response.writeHead(answer.status, { "content-type": "application/json" }).end(JSON.stringify(answer.body));
  }

  /** GET and POST of /subscriptions/{id}/providers/{namespace}. Source: ARM REST, "Providers". */
  #providers({ method, url = "", headers }: IncomingMessage): Reply {
    const token = headers.authorization?.replace(/^Bearer /, "") ?? "";
    if (!this.#state.knowsToken(token)) return refusal(401, "AuthenticationFailed", "The access token is missing.");
    const [, namespace = "", verb] =
      /^\/subscriptions\/[^/]+\/providers\/([\w.]+)(\/register)?\?api-version=/.exec(url) ?? [];
    if (namespace === "" || (method === "POST") !== (verb === "/register")) {
      return refusal(404, "NotFound", `${method} ${url}`);
    }
    if (method === "POST") this.unregistered.delete(namespace);
    const registrationState = this.unregistered.has(namespace) ? "NotRegistered" : "Registered";
    return { status: 200, body: { namespace, registrationState } };
  }

  /** POST /oauth2/exchange. Source: Microsoft, "Azure Container Registry: authentication with OAuth". */
  async #exchange(request: IncomingMessage): Promise<Reply> {
    const form = new URLSearchParams(await text(request));
    const { method, url, headers } = request;
    if (method !== "POST" || url !== "/oauth2/exchange") return refusal(404, "NOT_FOUND", `${method} ${url}`);
    if (form.get("grant_type") !== "access_token" || form.get("service") !== headers.host) {
      return refusal(
        400,
        "UNSUPPORTED",
        `The operation is unsupported: ${form.get("grant_type")} for ${form.get("service")}`,
      );
    }
    if (!this.#state.knowsToken(form.get("access_token") ?? "")) {
      return refusal(401, "UNAUTHORIZED", "authentication required, visit https://aka.ms/acr/authorization");
    }
    const token = `refresh-${randomUUID()}`;
    this.refreshTokens.push(token);
    return { status: 200, body: { refresh_token: token } };
  }
}

function refusal(status: number, code: string, message: string): Reply {
  return { status, body: { error: { code, message }, errors: [{ code, message }] } };
}
