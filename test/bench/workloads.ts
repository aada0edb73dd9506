/* What is asked of every server in the bench: two methods, in the protocol's newest version and in the older ones. */

export interface Workload {
  readonly name: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

export const KEY = "bench-key-0123456789-0123456789-0123456789";

const NEWEST = "2026-07-28";
const OLDER = "2025-11-25";

const common = {
  "content-type": "application/json",
  accept: "application/json, text/event-stream",
  authorization: `Bearer ${KEY}`,
};

const envelope = {
  "io.modelcontextprotocol/protocolVersion": NEWEST,
  "io.modelcontextprotocol/clientCapabilities": {},
  "io.modelcontextprotocol/clientInfo": { name: "bench", version: "1.0.0" },
};

function older(method: string, params: object): Workload {
  return {
    name: `${method}, ${OLDER}`,
    headers: { ...common, "mcp-protocol-version": OLDER },
    body: JSON.stringify({ jsonrpc: "2.0", id: 1, method, params }),
  };
}

function newest(method: string, params: { name?: string; arguments?: object }): Workload {
  return {
    name: `${method}, ${NEWEST}`,
    headers: {
      ...common,
      "mcp-protocol-version": NEWEST,
      "mcp-method": method,
      ...(params.name !== undefined && { "mcp-name": params.name }),
    },
    body: JSON.stringify({ jsonrpc: "2.0", id: 1, method, params: { _meta: envelope, ...params } }),
  };
}

const echo = { name: "echo", arguments: { text: "Say this again." } };

export const workloads: readonly Workload[] = [
  newest("tools/call", echo),
  older("tools/call", echo),
  newest("tools/list", {}),
  older("tools/list", {}),
];

/** A tool of the bench's own that does nothing, for jobs. */
export const JOB_TOOL = "no_work";

export const jobSubmission: Workload = newest("tools/call", { name: "submit_job", arguments: { tool: JOB_TOOL } });
