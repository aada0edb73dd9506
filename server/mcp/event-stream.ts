import type { ServerResponse } from "node:http";
import type { JSONRPCMessage } from "@modelcontextprotocol/server";

/** Proxies drop connections that say nothing for a minute or so. */
const KEEP_ALIVE_MS = 15_000;

/** Server-sent events (WHATWG HTML, section 9.2) over one HTTP answer; its headers go out at once. */
export class EventStream {
  readonly #response: ServerResponse;
  readonly #keepAlive: NodeJS.Timeout;

  constructor(response: ServerResponse) {
    this.#response = response;
    response.writeHead(200, {
      "content-type": "text/event-stream",
      "cache-control": "no-cache, no-transform",
      // Tells proxies that buffer by default, nginx first, not to.
      "x-accel-buffering": "no",
    });
    response.flushHeaders();
    this.#keepAlive = setInterval(() => {
      // A client that does not read is not reminded that it should.
      if (!response.writableNeedDrain) response.write(": keepalive\n\n");
    }, KEEP_ALIVE_MS);
    this.#keepAlive.unref();
    response.once("close", () => clearInterval(this.#keepAlive));
  }

  /** Resolves when there is room for more; rejects when the client is gone. */
  send(message: JSONRPCMessage): Promise<void> {
    return this.#write(`event: message\ndata: ${JSON.stringify(message)}\n\n`);
  }

  /** Tells the client where it is, for its next `Last-Event-ID`. */
  sendId(id: string): Promise<void> {
    return this.#write(`id: ${id}\ndata: \n\n`);
  }

  end(): void {
    clearInterval(this.#keepAlive);
    this.#response.end();
  }

  #write(text: string): Promise<void> {
    const response = this.#response;
    if (response.writableEnded || response.destroyed) return Promise.reject(new Error("The stream has ended."));
    if (response.write(text)) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const drained = () => {
        response.off("close", closed);
        resolve();
      };
      const closed = () => {
        response.off("drain", drained);
        reject(new Error("The client went away."));
      };
      response.once("drain", drained);
      response.once("close", closed);
    });
  }
}
