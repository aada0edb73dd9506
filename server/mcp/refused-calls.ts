import { type CallToolResult, ProtocolError } from "@modelcontextprotocol/server";
import type { FastifyBaseLogger } from "fastify";
import type { Caller } from "../tools/define-tool.ts";
import { CallRefused } from "./call-gate.ts";

/** Logs that a call was not let in, where the audit trail does not tell: it failed, or something else did. */
export function logRefusal(log: FastifyBaseLogger, caller: Caller, tool: string, error: unknown): void {
  // A denial.
  if (error instanceof ProtocolError) return;
  const why = error instanceof CallRefused ? error.why : "fault";
  if (why === "argument" || why === "limit") return;
  const { subject, method, keyId } = caller;
  log.error({ event: "tool.refused", tool, why, subject, method, keyId, err: error });
}

/** Logs a fault, of which the audit trail tells no more than that there was one. */
export function logBroken(log: FastifyBaseLogger, caller: Caller, tool: string, error: unknown): void {
  const { subject, method, keyId } = caller;
  log.error({ event: "tool.broken", tool, subject, method, keyId, err: error });
}

export function failure(sentence: string, output?: Record<string, unknown>): CallToolResult {
  const content: CallToolResult["content"] = [{ type: "text", text: sentence }];
  if (output === undefined) return { content, isError: true };
  content.push({ type: "text", text: JSON.stringify(output) });
  return { content, structuredContent: output, isError: true };
}
