import type { ServerResponse } from "node:http";
import type { JSONRPCMessage } from "@modelcontextprotocol/server";
import { jsonPieces } from "./json-pieces.ts";
import { written } from "./written.ts";

/** Proxies drop connections that say nothing for a minute or so. */
const KEEP_ALIVE_MS = 15_000;

/** Server-sent events (WHATWG HTML, section 9.2) over one HTTP answer; its headers go out at once. */
export class EventStream {
  readonly #response: ServerResponse;
  readonly #keepAlive: NodeJS.Timeout;
  /** Settles when what was last given to the stream is written. */
  #last: Promise<void> = Promise.resolve();

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
      if (!response.writableNeedDrain) {
        this.#inTurn(() => written(response, ": keepalive\n\n")).catch(() => {});
      }
    }, KEEP_ALIVE_MS);
    this.#keepAlive.unref();
    response.once("close", () => clearInterval(this.#keepAlive));
  }

  /** Resolves when there is room for more; rejects when the client is gone. `id` is for the client's `Last-Event-ID`. */
  send(message: JSONRPCMessage, id?: string): Promise<void> {
    return this.#inTurn(async () => {
      let before = `event: message\n${id === undefined ? "" : `id: ${id}\n`}data: `;
      for (const piece of jsonPieces(message)) {
        await written(this.#response, before + piece);
        before = "";
      }
      await written(this.#response, "\n\n");
    });
  }

  /** Tells the client where it is, for its next `Last-Event-ID`. */
  sendId(id: string): Promise<void> {
    return this.#inTurn(() => written(this.#response, `id: ${id}\ndata: \n\n`));
  }

  /** Ends the stream once what was given to it is sent. */
  end(): void {
    clearInterval(this.#keepAlive);
    this.#inTurn(async () => {
      this.#response.end();
    }).catch(() => {});
  }

  /** One event after the other, since a long one is written in pieces. */
  #inTurn(write: () => Promise<void>): Promise<void> {
    const turn = this.#last.then(write);
    this.#last = turn.catch(() => {});
    return turn;
  }
}
