import { CliError } from "./cli-error.ts";
import type { LocalIdentity } from "./local-identity.ts";
import type { McpSession } from "./mcp-session.ts";

/* What a rehearsal does with tools: it calls them, counts the calls, and says what is not as it should be. */

/** A server to be driven, and what opens it. */
export interface Driven extends Pick<LocalIdentity, "key" | "tokens"> {
  readonly url: string;
  readonly metricsUrl: string;
  /** Who runs its jobs; absent: it does itself. */
  readonly worker?: { readonly metricsUrl: string };
}

/** Successful calls of each tool, by `mcp_tool_calls_total` in the text format of Prometheus. */
export async function toolCalls(metricsUrl: string): Promise<Map<string, number>> {
  const response = await fetch(metricsUrl, { signal: AbortSignal.timeout(10_000) });
  expect(response.ok, `${metricsUrl} answered ${response.status}.`);
  const text = await response.text();
  return new Map(
    [...text.matchAll(/^mcp_tool_calls_total\{([^}]*)\} (\S+)$/gm)].flatMap(([, labels = "", value]) => {
      const tool = /tool="([^"]*)"/.exec(labels)?.[1];
      return tool !== undefined && labels.includes('status="ok"') ? [[tool, Number(value)] as const] : [];
    }),
  );
}

/** Calls a tool; its structured result, or a failure with what the tool said. */
export async function call(
  session: McpSession,
  name: string,
  args: Record<string, unknown>,
): Promise<Record<string, unknown>> {
  const { isError, structuredContent, content } = await session.callTool(name, args);
  expect(isError !== true, `${name} ${JSON.stringify(args)} failed: ${JSON.stringify(content)}`);
  expect(structuredContent !== undefined, `${name} answered without structured content.`);
  return asRecord(structuredContent);
}

export function asRecord(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null ? { ...value } : {};
}

export function expect(condition: boolean, otherwise: string): asserts condition {
  if (!condition) throw new CliError(otherwise);
}
