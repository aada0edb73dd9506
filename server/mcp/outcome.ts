import { type CallToolResult, type InputRequiredResult, inputRequired } from "@modelcontextprotocol/server";
import type { ToolStatus } from "../observability/metrics.ts";
import type { InputNeeded } from "../tools/client-channel.ts";

/** How a call ended, or that it did not begin. */
export interface Outcome {
  readonly status: ToolStatus;
  /** Absent when `error` is the protocol's own, to be thrown. */
  readonly result?: CallToolResult | InputRequiredResult;
  /** What was thrown, if something was: by the gate a `CallRefused`, an `AuditUnavailable` or a `ProtocolError`; or by the tool. */
  readonly error?: unknown;
}

/** A result that says what went wrong, in one or two sentences for the caller; `output` for programs. */
export function failure(sentence: string, output?: Record<string, unknown>): CallToolResult {
  const content: CallToolResult["content"] = [{ type: "text", text: sentence }];
  if (output === undefined) return { content, isError: true };
  content.push({ type: "text", text: JSON.stringify(output) });
  return { content, structuredContent: output, isError: true };
}

/** What a tool that needs an answer first becomes in the protocol. */
export function askedFor({ requests, state }: InputNeeded): InputRequiredResult {
  return inputRequired({
    ...(requests !== undefined && { inputRequests: requests }),
    ...(state !== undefined && { requestState: state }),
  });
}
