import { CLIENT_CAPABILITIES_META_KEY, type ClientCapabilities, type LoggingLevel } from "@modelcontextprotocol/server";
import type { ClientChannel } from "../tools/client-channel.ts";
import type { Connection, Exchange } from "./exchange.ts";

/** RFC 5424's, from the least severe. */
export const SEVERITIES = [
  "debug",
  "info",
  "notice",
  "warning",
  "error",
  "critical",
  "alert",
  "emergency",
] as const satisfies readonly LoggingLevel[];

/** Whether a client of the older protocols is to be told of something that severe. */
export function wants(connection: Connection | undefined, level: LoggingLevel): boolean {
  const least = connection?.logLevel;
  return least === undefined || SEVERITIES.indexOf(level) >= SEVERITIES.indexOf(least);
}

/** The client of one exchange, as tools and prompts speak to it. */
export function channelOf({ context, server, connection }: Exchange): ClientChannel {
  const { mcpReq } = context;
  const progressToken = mcpReq._meta?.progressToken;
  let last = Number.NEGATIVE_INFINITY;
  return {
    wantsProgress: progressToken !== undefined,
    async progress(report) {
      // The value must rise with each notification (MCP specification, Progress), and nobody must hear of a call that
      // was cancelled.
      if (progressToken === undefined || report.progress <= last || mcpReq.signal.aborted) return;
      last = report.progress;
      await mcpReq
        .notify({ method: "notifications/progress", params: { progressToken, ...report } })
        // A client that went away is told of nothing, and the call's own signal says that it did.
        .catch(() => {});
    },
    async log(level, data) {
      if (!wants(connection, level)) return;
      // On the 2026-07-28 protocol the SDK goes by the level that the request itself names.
      await mcpReq.log(level, data).catch(() => {});
    },
    get capabilities() {
      // Said with the request on the 2026-07-28 protocol, and once, in the handshake, on older ones.
      return saidWith(mcpReq.envelope) ?? server.getClientCapabilities() ?? {};
    },
    answers: mcpReq.inputResponses ?? {},
    get state() {
      return mcpReq.requestState();
    },
  };
}

/** The SDK has checked the envelope, whose type leaves its keys open. */
function saidWith(envelope: Readonly<Record<string, unknown>> | undefined): ClientCapabilities | undefined {
  return envelope?.[CLIENT_CAPABILITIES_META_KEY] as ClientCapabilities | undefined;
}
