import { once } from "node:events";
import { chmod, mkdir, writeFile } from "node:fs/promises";
import { createServer as createProxy, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer } from "node:https";
import { type AddressInfo, connect, type Socket } from "node:net";
import { delimiter, join } from "node:path";
import { getCACertificates, setDefaultCACertificates } from "node:tls";
import { selfSigned } from "./certificate.ts";

/*
 * Entra, Key Vault and Table storage as far as Azure's own clients use them here, over HTTPS under their real names: a
 * proxy, as a company's network has one, leads those names to this process. So the clients run as they are, the check
 * that a vault's challenge is of the vault's own domain included.
 */

const TENANT = "11111111-1111-4111-8111-111111111111";
const VAULT = "kv-mcp-dev-x7k2p.vault.azure.net";
const TABLES = "stmcpdevx7k2p.table.core.windows.net";

/** What Kubernetes gives a pod to show Entra. */
const FEDERATED_TOKEN = "header.claims.signature";

/** Who may do what, by the token that Entra gives out: a pod's identity reads secrets, a person changes them. */
const TOKENS = { "token-of-the-pod": ["get"], "token-of-a-person": ["get", "list", "set"] } as const;

export interface SecretVersion {
  readonly version: string;
  readonly value: string;
  readonly attributes: Readonly<Record<string, unknown>>;
}

export interface AzureServices {
  readonly vaultUrl: string;
  readonly tableEndpoint: string;
  /** Environment of a process that finds these services, as a pod with workload identity. */
  readonly podEnv: Readonly<Record<string, string>>;
  /** Environment of a process that finds them, run by a person who has logged in by `az`. */
  personEnv(): Promise<Record<string, string>>;
  /** Versions of each secret, the oldest first. */
  readonly secrets: Map<string, SecretVersion[]>;
  /** Sets a secret, as somebody else might. */
  set(name: string, value: string): void;
  /** Rows of table `jobs`, by partition and row key. */
  readonly rows: Map<string, Record<string, unknown>>;
  /** Method and path of each request that a service has answered, after authentication. */
  readonly requests: readonly string[];
  /** Called before a request is answered; what it returns is the status of a refusal. */
  onRequest: ((request: string) => number | undefined) | undefined;
  /** Whether the network leads anywhere. */
  reachable: boolean;
  /** Lets Azure's clients in this process trust the services. */
  trustHere(): void;
  close(): Promise<void>;
}

export async function startAzureServices(directory: string): Promise<AzureServices> {
  const { key, cert } = selfSigned(["login.microsoftonline.com", "*.vault.azure.net", "*.table.core.windows.net"]);
  const certificate = join(directory, "ca.pem");
  const federated = join(directory, "federated-token");
  await writeFile(certificate, cert);
  await writeFile(federated, FEDERATED_TOKEN);

  const secrets = new Map<string, SecretVersion[]>();
  const rows = new Map<string, Record<string, unknown>>();
  const requests: string[] = [];
  let versions = 0;
  const set = (name: string, value: string, attributes: Record<string, unknown> = {}): SecretVersion => {
    const created = Math.floor(Date.now() / 1000);
    const made = {
      version: (++versions).toString(16).padStart(32, "0"),
      value,
      attributes: { enabled: true, created, updated: created, ...attributes },
    };
    secrets.set(name, [...(secrets.get(name) ?? []), made]);
    return made;
  };

  const server = createServer({ key, cert }, (request, response) => {
    answer(request, response).catch((error: unknown) => response.destroy(error instanceof Error ? error : undefined));
  });
  const answer = async (request: IncomingMessage, response: ServerResponse) => {
    const url = new URL(request.url ?? "/", `https://${request.headers.host}`);
    const body = Buffer.concat(await request.toArray()).toString();
    const send = (status: number, value?: unknown, headers: Record<string, string> = {}) => {
      response.writeHead(status, { "content-type": "application/json", ...headers });
      response.end(value === undefined ? undefined : JSON.stringify(value));
    };
    if (url.hostname === "login.microsoftonline.com") return entra(url, body, send);
    const token = /^Bearer (.+)$/.exec(request.headers.authorization ?? "")?.[1] ?? "";
    const rights: readonly string[] | undefined = Object.entries(TOKENS).find(([known]) => known === token)?.[1];
    if (rights === undefined) {
      const challenge = `Bearer authorization="https://login.microsoftonline.com/${TENANT}", resource="https://vault.azure.net"`;
      return send(401, { error: { code: "Unauthorized" } }, { "www-authenticate": challenge });
    }
    const line = `${request.method} ${url.pathname}`;
    requests.push(line);
    const refusal = services.onRequest?.(line);
    if (refusal !== undefined) return send(refusal, { error: { code: "Refused", message: "The test says so." } });
    return url.hostname === TABLES
      ? tables(request.method ?? "", url, body, send)
      : vault(request.method ?? "", url, body, rights, send);
  };

  const vault = (method: string, url: URL, body: string, rights: readonly string[], send: Send) => {
    const [, collection, name = "", which = ""] = url.pathname.split("/");
    const needed = method === "PUT" ? "set" : which === "versions" ? "list" : "get";
    if (collection !== "secrets" || name === "") return send(404, { error: { code: "NotFound" } });
    if (!rights.includes(needed)) return send(403, { error: { code: "Forbidden", message: `No right to ${needed}.` } });
    const all = secrets.get(name) ?? [];
    const bundle = ({ version, value, attributes }: SecretVersion) => ({
      value,
      id: `https://${VAULT}/secrets/${name}/${version}`,
      attributes,
    });
    if (method === "PUT") {
      const { value, attributes } = JSON.parse(body) as { value: string; attributes?: Record<string, unknown> };
      return send(200, bundle(set(name, value, attributes)));
    }
    if (which === "versions") {
      // Two a page, so that whoever stops at the first misses some.
      const from = Number(url.searchParams.get("from") ?? 0);
      const page = all.slice(from, from + 2).map((each) => ({ ...bundle(each), value: undefined }));
      const next = new URL(url);
      next.searchParams.set("from", String(from + 2));
      return send(200, { value: page, nextLink: from + 2 < all.length ? next.href : null });
    }
    const found = which === "" ? all.at(-1) : all.find(({ version }) => version === which);
    if (found !== undefined) return send(200, bundle(found));
    send(404, { error: { code: "SecretNotFound", message: `A secret with (name/id) ${name} was not found.` } });
  };

  const tables = (method: string, url: URL, body: string, send: Send) => {
    const path = decodeURIComponent(url.pathname);
    const [, partition, row] = /^\/jobs\(PartitionKey='([^']*)',RowKey='([^']*)'\)$/.exec(path) ?? [];
    if (method === "PATCH" && partition !== undefined) {
      const merged = { ...rows.get(`${partition}/${row}`), ...(JSON.parse(body) as object) };
      rows.set(`${partition}/${row}`, { ...merged, PartitionKey: partition, RowKey: row });
      return send(204, undefined, { etag: "W/\"datetime'now'\"" });
    }
    if (method === "GET" && path === "/jobs()") {
      const wanted = /^PartitionKey eq '([^']*)'$/.exec(url.searchParams.get("$filter") ?? "")?.[1];
      return send(200, { value: [...rows.values()].filter(({ PartitionKey }) => PartitionKey === wanted) });
    }
    send(404, { "odata.error": { code: "TableNotFound", message: { value: "The table specified does not exist." } } });
  };

  const proxy = createProxy((_request, response) => void response.writeHead(400).end());
  const sockets = new Set<Socket>();
  proxy.on("connect", (request: IncomingMessage, socket: Socket) => {
    const host = request.url?.split(":")[0] ?? "";
    const known = ["login.microsoftonline.com", VAULT, TABLES].includes(host);
    if (!services.reachable || !known) return void socket.end("HTTP/1.1 502 Bad Gateway\r\n\r\n");
    const upstream = connect((server.address() as AddressInfo).port, "127.0.0.1", () => {
      socket.write("HTTP/1.1 200 Connection established\r\n\r\n");
      socket.pipe(upstream).pipe(socket);
    });
    for (const each of [socket, upstream]) {
      sockets.add(each);
      each.on("error", () => {}).once("close", () => sockets.delete(each));
    }
  });
  for (const each of [server, proxy]) await once(each.listen(0, "127.0.0.1"), "listening");

  const network = {
    HTTPS_PROXY: `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`,
    NODE_EXTRA_CA_CERTS: certificate,
  };
  let reachable = true;
  const services: AzureServices = {
    vaultUrl: `https://${VAULT}/`,
    tableEndpoint: `https://${TABLES}`,
    podEnv: {
      ...network,
      AZURE_TENANT_ID: TENANT,
      AZURE_CLIENT_ID: "22222222-2222-4222-8222-222222222222",
      AZURE_FEDERATED_TOKEN_FILE: federated,
      AZURE_AUTHORITY_HOST: "https://login.microsoftonline.com/",
    },
    async personEnv() {
      const bin = join(directory, "az-bin");
      await mkdir(bin, { recursive: true });
      const expires = Math.floor(Date.now() / 1000) + 3600;
      const said = JSON.stringify({ accessToken: "token-of-a-person", expires_on: expires, tokenType: "Bearer" });
      await writeFile(join(bin, "az"), `#!/bin/sh\necho '${said}'\n`);
      await chmod(join(bin, "az"), 0o755);
      return { ...network, PATH: bin + delimiter + process.env.PATH };
    },
    secrets,
    set: (name, value) => void set(name, value),
    rows,
    requests,
    onRequest: undefined,
    get reachable() {
      return reachable;
    },
    set reachable(now) {
      reachable = now;
      // What is kept open would lead on.
      if (!now) for (const socket of sockets) socket.destroy();
    },
    trustHere: () => setDefaultCACertificates([...getCACertificates(), cert]),
    async close() {
      for (const socket of sockets) socket.destroy();
      server.closeAllConnections();
      proxy.closeAllConnections();
      await Promise.all([server, proxy].map((each) => new Promise((resolve) => each.close(resolve))));
    },
  };
  return services;
}

type Send = (status: number, value?: unknown, headers?: Record<string, string>) => void;

/** The token endpoint, and what a client looks up before it asks there. */
function entra(url: URL, body: string, send: Send): void {
  const authority = `https://login.microsoftonline.com/${TENANT}`;
  const assertion = new URLSearchParams(body).get("client_assertion");
  if (url.pathname.endsWith("/discovery/instance")) {
    send(200, {
      tenant_discovery_endpoint: `${authority}/v2.0/.well-known/openid-configuration`,
      metadata: [{ preferred_network: url.hostname, preferred_cache: url.hostname, aliases: [url.hostname] }],
    });
  } else if (url.pathname.endsWith("/openid-configuration")) {
    send(200, {
      issuer: `${authority}/v2.0`,
      authorization_endpoint: `${authority}/oauth2/v2.0/authorize`,
      token_endpoint: `${authority}/oauth2/v2.0/token`,
      jwks_uri: `${authority}/discovery/v2.0/keys`,
    });
  } else if (assertion === FEDERATED_TOKEN) {
    send(200, { token_type: "Bearer", expires_in: 3600, ext_expires_in: 3600, access_token: "token-of-the-pod" });
  } else {
    send(400, { error: "invalid_client" });
  }
}
