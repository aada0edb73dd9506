import { once } from "node:events";
import {
  createServer,
  get,
  type IncomingHttpHeaders,
  type IncomingMessage,
  request,
  type ServerResponse,
} from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import { setTimeout } from "node:timers/promises";

/**
 * What stands in front of replicas, and no cleverer: requests go round those whose readiness probe succeeds, whoever
 * sends them. A refused connection is tried at the next replica, since nothing was sent; whatever was sent is sent once.
 */
export interface ServiceProxy {
  readonly url: URL;
  /** Has the replica probed from now on; resolves when it is taken in. */
  add(replica: URL): Promise<void>;
  /** Resolves when no request goes to that replica any more. */
  out(replica: URL): Promise<void>;
  /** POST requests that were sent to that replica and not answered to their end, and those answered. */
  posts(replica: URL): Readonly<Posts>;
  close(): void;
}

interface Posts {
  cutOff: number;
  answered: number;
}

interface Endpoint {
  readonly replica: URL;
  ready: boolean;
  readonly posts: Posts;
}

/** Kubernetes asks every few seconds; the order of things is the same. */
const PROBE_MS = 50;

/** Headers that are of one connection (RFC 9110, section 7.6.1). */
const HOP_BY_HOP: ReadonlySet<string> = new Set(["connection", "keep-alive", "transfer-encoding"]);

export async function startServiceProxy(): Promise<ServiceProxy> {
  const endpoints = new Map<string, Endpoint>();
  const sockets = new Set<Duplex>();
  const stopped = new AbortController();
  let turn = 0;

  const probe = async (endpoint: Endpoint) => {
    while (!stopped.signal.aborted) {
      endpoint.ready = await isReady(endpoint.replica);
      await setTimeout(PROBE_MS);
    }
  };
  const until = async (condition: () => boolean) => {
    while (!condition()) await setTimeout(PROBE_MS / 5, undefined, { signal: stopped.signal });
  };
  const endpointOf = (replica: URL): Endpoint => {
    const found = endpoints.get(replica.host);
    if (found === undefined) throw new Error(`${replica} was never added.`);
    return found;
  };
  /** The replica whose turn it is; undefined when none is ready. */
  const next = (): Endpoint | undefined => {
    const ready = [...endpoints.values()].filter((endpoint) => endpoint.ready);
    return ready[turn++ % ready.length];
  };

  const forward = (incoming: IncomingMessage, body: Buffer, response: ServerResponse): void => {
    const endpoint = next();
    if (endpoint === undefined) {
      response.writeHead(503).end("No replica is ready.");
      return;
    }
    let sent = false;
    const outgoing = request(new URL(incoming.url ?? "/", endpoint.replica), {
      method: incoming.method ?? "GET",
      headers: endToEnd(incoming.headers),
      // A connection for each request, so that a refused one is known to be refused.
      agent: false,
    });
    const count = (what: keyof Posts) => {
      if (incoming.method === "POST") endpoint.posts[what]++;
    };
    outgoing.once("socket", (socket) => socket.once("connect", () => (sent = true)));
    outgoing.once("error", () => {
      if (!sent) {
        endpoint.ready = false;
        forward(incoming, body, response);
      } else if (!response.headersSent && !response.destroyed) {
        count("cutOff");
        response.writeHead(503).end("The replica ended the connection.");
      }
    });
    outgoing.once("response", (answer) => {
      response.writeHead(answer.statusCode ?? 502, endToEnd(answer.headers));
      response.flushHeaders();
      answer.pipe(response);
      answer.once("end", () => count("answered"));
      answer.once("error", () => {
        if (!response.destroyed) count("cutOff");
        response.destroy();
      });
    });
    response.once("close", () => outgoing.destroy());
    outgoing.end(body);
  };

  const server = createServer((incoming, response) => {
    const chunks: Buffer[] = [];
    incoming.on("data", (chunk: Buffer) => chunks.push(chunk));
    incoming.once("end", () => forward(incoming, Buffer.concat(chunks), response));
  });
  server.on("connection", (socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
  });
  server.on("upgrade", (incoming: IncomingMessage, client: Duplex, head: Buffer) => {
    const tunnel = () => {
      const endpoint = next();
      if (endpoint === undefined) {
        client.end("HTTP/1.1 503 Service Unavailable\r\n\r\n");
        return;
      }
      const upstream: Socket = connect(Number(endpoint.replica.port), endpoint.replica.hostname);
      upstream.once("connect", () => {
        const lines = [`GET ${incoming.url} HTTP/1.1`];
        for (let at = 0; at < incoming.rawHeaders.length; at += 2)
          lines.push(`${incoming.rawHeaders[at]}: ${incoming.rawHeaders[at + 1]}`);
        upstream.write(`${lines.join("\r\n")}\r\n\r\n`);
        upstream.write(head);
        upstream.pipe(client).pipe(upstream);
      });
      upstream.on("error", () => {
        if (!upstream.connecting && upstream.bytesWritten > 0) return client.destroy();
        endpoint.ready = false;
        tunnel();
      });
      upstream.once("close", () => {
        if (upstream.bytesWritten > 0) client.end();
      });
      client.on("error", () => upstream.destroy());
      client.once("close", () => upstream.destroy());
    };
    tunnel();
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");

  return {
    url: new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}/mcp`),
    async add(replica) {
      const endpoint: Endpoint = { replica, ready: false, posts: { cutOff: 0, answered: 0 } };
      endpoints.set(replica.host, endpoint);
      void probe(endpoint);
      await until(() => endpoint.ready);
    },
    out: (replica) => until(() => !endpointOf(replica).ready),
    posts: (replica) => endpointOf(replica).posts,
    close() {
      stopped.abort();
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

function isReady(replica: URL): Promise<boolean> {
  return new Promise((resolve) => {
    const asked = get(new URL("/health/ready", replica), { agent: false }, (response) => {
      resolve(response.statusCode === 200);
      response.resume();
    });
    asked.once("error", () => resolve(false));
  });
}

function endToEnd(headers: IncomingHttpHeaders): IncomingHttpHeaders {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !HOP_BY_HOP.has(name)));
}
