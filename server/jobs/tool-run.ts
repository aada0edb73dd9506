import { type CallToolResult, isCallToolResult, ProtocolError } from "@modelcontextprotocol/server";
import { CallRefused } from "../mcp/call-gate.ts";
import { failure } from "../mcp/outcome.ts";
import type { DirectCalls } from "../mcp/protocol.ts";
import { PROTOCOL_ERROR_META } from "../mcp/task-forms.ts";
import type { CarryOut } from "../mcp/tool-calls.ts";
import { AuditUnavailable } from "../observability/audit.ts";
import type { Job } from "../services/jobs/job.ts";
import { ConnectorUnavailable } from "../services/resilience.ts";
import { type ClientChannel, InputNeeded } from "../tools/client-channel.ts";
import { ToolBusy, ToolFailure } from "../tools/define-tool.ts";

/** What a run of a job's tool came to. */
export type RunOutcome =
  | { readonly ended: "succeeded"; readonly result: CallToolResult }
  /** By what the caller can mend; `reason` for it. */
  | { readonly ended: "failed"; readonly result: CallToolResult; readonly reason: string }
  /** By the signal. The result is what there is of one. */
  | { readonly ended: "aborted"; readonly result: CallToolResult | undefined }
  /** By a fault, which may be another time's or not. */
  | { readonly ended: "broken"; readonly reason: string }
  /** It did nothing, and another time it may. */
  | { readonly ended: "busy"; readonly reason: string };

export type RunTool = (
  job: Job,
  args: unknown,
  parts: { readonly signal: AbortSignal; readonly client: ClientChannel },
) => Promise<RunOutcome>;

interface ToolRunOptions {
  readonly carryOut: CarryOut;
  readonly contextOf: DirectCalls["contextOf"];
}

/** Runs a job's tool as a call of its submitter: through the same gate, on the same record, counted the same. */
export function createToolRun({ carryOut, contextOf }: ToolRunOptions): RunTool {
  return async (job, args, { signal, client }) => {
    const context = {
      // As it was when it submitted the job; what that allows is decided anew, by today's policy.
      ...(await contextOf(job.caller)),
      signal,
      client,
      traceId: job.traceId,
      run: { jobId: job.id, attempt: job.attempts },
    };
    const { status, result, error } = await carryOut(job.tool, args, context);
    switch (status) {
      case "ok":
        return isCallToolResult(result)
          ? { ended: "succeeded", result }
          : { ended: "broken", reason: `${job.tool} gave back what is no result.` };
      case "failed": {
        if (
          error instanceof ToolBusy ||
          (error instanceof CallRefused && error.why === "limit") ||
          error instanceof AuditUnavailable
        ) {
          return { ended: "busy", reason: error.message };
        }
        // Another time it may answer.
        if (error instanceof ConnectorUnavailable) return { ended: "broken", reason: error.message };
        if (error instanceof ProtocolError) {
          const { code, message } = error;
          const result = { ...failure(message), _meta: { [PROTOCOL_ERROR_META]: { code, message } } };
          return { ended: "failed", result, reason: message };
        }
        const reason = error instanceof ToolFailure ? error.message : "It failed.";
        return { ended: "failed", result: isCallToolResult(result) ? result : failure(reason), reason };
      }
      case "cancelled":
        return {
          ended: "aborted",
          // What a command had written by then, say.
          result: error instanceof ToolFailure ? failure(error.message, error.output) : undefined,
        };
      case "asked": {
        const reason = askedInVain(job.tool, error);
        return { ended: "failed", result: failure(reason), reason };
      }
      case "broken":
        return { ended: "broken", reason: `${job.tool} failed by a fault of its own; the log has the details.` };
    }
  };
}

function askedInVain(tool: string, error: unknown): string {
  const requests = error instanceof InputNeeded ? Object.values(error.requests ?? {}) : [];
  const [message] = requests.flatMap(({ params }) =>
    params !== undefined && "message" in params && typeof params.message === "string" ? [params.message] : [],
  );
  return (
    `${tool} asks its user before it goes on, and a job has nobody to ask` +
    `${message === undefined ? "" : ` (${JSON.stringify(message)})`}. Call it without a job, or submit it with ` +
    "arguments that leave nothing to ask."
  );
}
