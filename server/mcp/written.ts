import type { ServerResponse } from "node:http";

/** Writes, and resolves when there is room for more; rejects when the client is gone. */
export function written(response: ServerResponse, text: string): Promise<void> {
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
