import type { FastifyReply } from "fastify";
import type { Verdict } from "../limits/limits.ts";

/** JSON-RPC 2.0, section 5.1. */
export const PARSE_ERROR = -32_700;
export const INVALID_REQUEST = -32_600;
export const INTERNAL_ERROR = -32_603;
/** What the SDK's transports answer with, in the range that JSON-RPC leaves to implementations. */
export const TRANSPORT_ERROR = -32_000;
export const SESSION_NOT_FOUND = -32_001;
/** The token has not the scope that the error's data names; in the range that JSON-RPC leaves to implementations. */
export const INSUFFICIENT_SCOPE = -32_003;
/** MCP specification 2026-07-28, Transports, "Server Validation". */
export const HEADER_MISMATCH = -32_020;

/** Which limit is reached, and when to come back. */
export function tooMany({ which, what, retryAfterSeconds }: Verdict): string {
  const wait = `try again in ${retryAfterSeconds} ${retryAfterSeconds === 1 ? "second" : "seconds"}.`;
  if (which === "global") return `Too many requests of all callers together; ${wait}`;
  if (what === "bytes") return `Too many bytes: you have sent and received as much as you may in a minute; ${wait}`;
  return `Too many requests: you have sent as many as you may in a minute; ${wait}`;
}

/** Refuses a request before the protocol has seen it: an HTTP status, and the reason as a JSON-RPC error. */
export function refuse(
  reply: FastifyReply,
  status: number,
  code: number,
  message: string,
  id: string | number | null = null,
): void {
  void reply.code(status).send({ jsonrpc: "2.0", id, error: { code, message } });
}
