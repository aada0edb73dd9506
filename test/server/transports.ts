import { PassThrough } from "node:stream";
import {
  Client as ModernClient,
  StreamableHTTPClientTransport as ModernHttp,
  type Transport,
} from "@modelcontextprotocol/client";
import { StdioServerTransport } from "@modelcontextprotocol/server/stdio";
import { pino } from "pino";
import { onTestFinished } from "vitest";
import { buildCore } from "../../server/app.ts";
import { LOCAL_CALLER } from "../../server/auth/authenticate.ts";
import { parseEnvironment } from "../../server/config.ts";
import { serveConnection } from "../../server/mcp/connection.ts";
import type { AtEnd } from "../infra/cli/server-process.ts";
import { PipeClientTransport } from "./pipe-client.ts";
import { listening, quickSources, temporaryDirectory, testApp } from "./running-app.ts";
import { WebSocketClientTransport, websocketUrl } from "./websocket-client.ts";

/** A server of this test's own, its workspace, and a way to it. */
export interface Reachable {
  readonly transport: Transport;
  readonly workspace: string;
}

type Env = Record<string, string>;

/** What the server has in place of its own. */
type Parts = Pick<Parameters<typeof buildCore>[0], "tools">;

async function overHttp(env: Env = {}, atEnd: AtEnd = onTestFinished, parts: Parts = {}): Promise<Reachable> {
  const server = await testApp(env, undefined, parts, atEnd);
  return { transport: new ModernHttp(await listening(server)), workspace: server.config.WORKSPACE_PATH };
}

async function overWebSocket(env: Env = {}, atEnd: AtEnd = onTestFinished, parts: Parts = {}): Promise<Reachable> {
  const server = await testApp(env, undefined, parts, atEnd);
  const transport = new WebSocketClientTransport(websocketUrl(await listening(server)));
  return { transport, workspace: server.config.WORKSPACE_PATH };
}

/** The stdio transport over pipes of this process; the entry itself is tested as a process, in process.test.ts. */
async function overStdio(env: Env = {}, atEnd: AtEnd = onTestFinished, parts: Parts = {}): Promise<Reachable> {
  const workspace = await temporaryDirectory(atEnd);
  const config = parseEnvironment({ WORKSPACE_PATH: workspace, ...env });
  const { protocol, services } = await buildCore({
    config,
    log: pino({ level: "silent" }),
    sources: quickSources(),
    ...parts,
  });
  const [input, output] = [new PassThrough(), new PassThrough()];
  const served = serveConnection({
    protocol,
    transport: new StdioServerTransport(input, output),
    caller: LOCAL_CALLER,
    onerror: () => {},
  });
  atEnd(async () => {
    services.commands.killAllNow();
    await served.close();
  });
  return { transport: new PipeClientTransport(output, input), workspace };
}

export const transports: Readonly<Record<string, (env?: Env, atEnd?: AtEnd, parts?: Parts) => Promise<Reachable>>> = {
  HTTP: overHttp,
  stdio: overStdio,
  WebSocket: overWebSocket,
};

export type Era = "2026-07-28" | "2025-11-25";

/** Every transport in every era. */
export const ways: readonly (readonly [transport: string, era: Era])[] = Object.keys(transports).flatMap((name) => [
  [name, "2026-07-28"] as const,
  [name, "2025-11-25"] as const,
]);

export interface ConnectedClient {
  readonly client: ModernClient;
  readonly workspace: string;
}

/** A connected client that speaks that version. `prepare` may give it handlers before it says what it can do. */
export async function connect(
  [transport, era]: readonly [string, Era],
  { env = {}, capabilities = {}, prepare, atEnd = onTestFinished }: ConnectOptions = {},
): Promise<ConnectedClient> {
  const reach = transports[transport];
  if (reach === undefined) throw new Error(`There is no transport ${transport}.`);
  const { transport: way, workspace } = await reach(env, atEnd);
  const client = new ModernClient(
    { name: "test-client", version: "1.0.0" },
    { versionNegotiation: { mode: era === "2026-07-28" ? { pin: era } : "legacy" }, capabilities },
  );
  prepare?.(client);
  await client.connect(way);
  atEnd(() => client.close());
  return { client, workspace };
}

interface ConnectOptions {
  env?: Env;
  capabilities?: NonNullable<ConstructorParameters<typeof ModernClient>[1]>["capabilities"] & object;
  prepare?: (client: ModernClient) => void;
  atEnd?: AtEnd;
}
