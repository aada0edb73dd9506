import type { NodeMcpRequestHandler } from "@modelcontextprotocol/node";
import type { AuthInfo, McpHttpHandler } from "@modelcontextprotocol/server";
import type { FastifyReply, FastifyRequest } from "fastify";

let adapter: Promise<typeof import("@modelcontextprotocol/node")> | undefined;
const adapted = new WeakMap<McpHttpHandler, NodeMcpRequestHandler>();

/**
 * Serves a request by a handler of the SDK's, which speaks fetch's Request and Response, as the caller that `auth`
 * describes. What brings the two together is loaded with the first such request: 10 MiB, and 30 ms, that a server which
 * nobody has asked for anything yet, or for plain things alone, does without.
 */
export async function serveOverNode(
  handler: McpHttpHandler,
  auth: AuthInfo,
  { raw: request, body }: FastifyRequest,
  { raw: response }: FastifyReply,
): Promise<void> {
  adapter ??= import("@modelcontextprotocol/node");
  let serve = adapted.get(handler);
  if (serve === undefined) {
    serve = (await adapter).toNodeHandler(handler);
    adapted.set(handler, serve);
  }
  await serve(Object.assign(request, { auth }), response, body);
}
