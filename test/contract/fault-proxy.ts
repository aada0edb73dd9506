import { once } from "node:events";
import { Agent, createServer, type IncomingMessage, request, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** What becomes of a request instead of its answer. */
export type Fault =
  /** Refused with that status, before the service hears of it. */
  | { readonly status: number; readonly retryAfterSeconds?: number }
  /** The connection is cut before the service hears of it. */
  | "cut"
  /** The service does it, and the connection is cut before its answer. */
  | "lose"
  /** The service does it, and answers when this resolves. */
  | Promise<unknown>;

export interface ProxiedRequest {
  readonly method: string;
  /** With its query. */
  readonly path: string;
  readonly body: string;
}

/** A network that fails when a test says so, in front of an HTTP service. */
export interface FaultProxy {
  /** Leads to the service; the same path below it. */
  readonly url: string;
  /** Every request so far, those that failed included. */
  readonly requests: readonly ProxiedRequest[];
  /** Asked for each request; undefined lets it pass. */
  fault: ((request: ProxiedRequest) => Fault | undefined) | undefined;
  close(): Promise<void>;
}

export async function startFaultProxy(target: string): Promise<FaultProxy> {
  const service = new URL(target);
  const agent = new Agent({ keepAlive: true });
  const requests: ProxiedRequest[] = [];

  const forward = (incoming: IncomingMessage, body: Buffer) =>
    new Promise<{ readonly answer: IncomingMessage; readonly body: Buffer }>((resolve, reject) => {
      const { method, headers, url } = incoming;
      const outgoing = request(new URL(url ?? "/", service), { method, headers, agent }, (answer) => {
        answer.toArray().then((chunks) => resolve({ answer, body: Buffer.concat(chunks) }), reject);
      });
      outgoing.once("error", reject).end(body);
    });

  const respond = async (incoming: IncomingMessage, response: ServerResponse) => {
    const body = Buffer.concat(await incoming.toArray());
    const seen = { method: incoming.method ?? "", path: incoming.url ?? "", body: body.toString() };
    requests.push(seen);
    const fault = proxy.fault?.(seen);
    if (fault === "cut") return void incoming.socket.destroy();
    if (typeof fault === "object" && "status" in fault) {
      const { status, retryAfterSeconds } = fault;
      if (retryAfterSeconds !== undefined) response.setHeader("retry-after", retryAfterSeconds);
      return void response.writeHead(status).end();
    }
    const done = await forward(incoming, body);
    if (fault === "lose") return void incoming.socket.destroy();
    await fault;
    response.writeHead(done.answer.statusCode ?? 502, done.answer.rawHeaders);
    response.end(done.body);
  };

  const server = createServer((incoming, response) => {
    respond(incoming, response).catch(() => incoming.socket.destroy());
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const { port } = server.address() as AddressInfo;
  const proxy: FaultProxy = {
    url: `http://127.0.0.1:${port}${service.pathname}`,
    requests,
    fault: undefined,
    async close() {
      agent.destroy();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return proxy;
}
