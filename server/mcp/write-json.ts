import type { ServerResponse } from "node:http";
import { jsonPieces } from "./json-pieces.ts";
import { written } from "./written.ts";

/** Sends a body that is JSON already: one write, with its length, so that nothing is chunked. */
export function writeText(response: ServerResponse, json: string): void {
  response.writeHead(200, { "content-type": "application/json", "content-length": Buffer.byteLength(json) });
  response.end(json);
}

/** Sends `body` as JSON: in one write, or piece by piece, when it is long. */
export function writeJson(response: ServerResponse, body: unknown): void {
  const pieces = jsonPieces(body);
  const first = pieces.next().value ?? "";
  const second = pieces.next();
  if (second.done) {
    writeText(response, first);
    return;
  }
  response.writeHead(200, { "content-type": "application/json" });
  const rest = async () => {
    await written(response, first + second.value);
    for (const piece of pieces) await written(response, piece);
    response.end();
  };
  // The client went away, and nobody is left to tell.
  rest().catch(() => response.destroy());
}
