import { Client as ModernClient, StreamableHTTPClientTransport as ModernHttp } from "@modelcontextprotocol/client";
import { Client as OlderClient } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport as OlderHttp } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

/** An MCP endpoint as a client's configuration names it. */
export interface Endpoint {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
}

export interface ListedTool {
  readonly name: string;
  /** JSON Schema type of its arguments and of its structured result; absent without a schema. */
  readonly input: string | undefined;
  readonly output: string | undefined;
}

/** What the rehearsal asks of a client, whichever library it comes from. */
export interface McpSession {
  /** The protocol version that client and server have settled on. */
  readonly version: string;
  listTools(): Promise<readonly ListedTool[]>;
  callTool(name: string, args: Readonly<Record<string, unknown>>): Promise<Readonly<Record<string, unknown>>>;
  close(): Promise<void>;
}

/** The two client libraries that IDEs are built on: SDK 2 speaks the newest protocol, SDK 1 the ones before. */
export const SDKS = ["2.x", "1.x"] as const;
export type Sdk = (typeof SDKS)[number];

const INFO = { name: "mcp-aks-rehearsal", version: "1.0.0" };
/** Nothing that the rehearsal asks for takes longer. */
const TIMEOUT_MS = 15_000;

/** Connects a real client. */
export async function openSession(sdk: Sdk, { url, headers }: Endpoint): Promise<McpSession> {
  const options = { requestInit: { headers: { ...headers } } };
  const limits = { timeout: TIMEOUT_MS };
  if (sdk === "2.x") {
    const client = new ModernClient(INFO, { versionNegotiation: { mode: "auto" } });
    await client.connect(new ModernHttp(new URL(url), options), limits);
    return {
      version: client.getNegotiatedProtocolVersion() ?? "unknown",
      listTools: async () => (await client.listTools({}, limits)).tools.map(listed),
      callTool: async (name, args) => ({ ...(await client.callTool({ name, arguments: { ...args } }, limits)) }),
      close: () => client.close(),
    };
  }
  const client = new OlderClient(INFO);
  const transport = new OlderHttp(new URL(url), options);
  await client.connect(transport, limits);
  return {
    version: transport.protocolVersion ?? "unknown",
    listTools: async () => (await client.listTools({}, limits)).tools.map(listed),
    callTool: async (name, args) => ({
      ...(await client.callTool({ name, arguments: { ...args } }, undefined, limits)),
    }),
    close: () => client.close(),
  };
}

function listed(tool: { name: string; inputSchema?: unknown; outputSchema?: unknown }): ListedTool {
  return { name: tool.name, input: schemaType(tool.inputSchema), output: schemaType(tool.outputSchema) };
}

function schemaType(schema: unknown): string | undefined {
  const type = typeof schema === "object" && schema !== null && "type" in schema ? schema.type : undefined;
  return typeof type === "string" ? type : undefined;
}
