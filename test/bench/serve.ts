import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { toNodeHandler } from "@modelcontextprotocol/node";
import { createMcpHandler, McpServer } from "@modelcontextprotocol/server";
import Fastify from "fastify";
import { z } from "zod";
import { buildApp } from "../../server/app.ts";
import { parseEnvironment } from "../../server/config.ts";
import { createLogger, standardStream } from "../../server/observability/logging.ts";
import { defineTool } from "../../server/tools/define-tool.ts";
import { tools } from "../../server/tools/index.ts";
import { environment } from "./environment.ts";
import { benchPackage } from "./packages.ts";
import { tellStarter } from "./processes.ts";

/*
 * One server of the bench, in a process of its own: `node serve.ts <name>`. Tells its port to the process that started
 * it, and, when asked, the CPU time and memory that it has used.
 */

const HOST = "127.0.0.1";
const DESCRIPTION = "Says it again.";
const Input = z.object({ text: z.string() });
const Output = z.object({ text: z.string() });

const servers: Record<string, () => Promise<number>> = {
  /** What a Fastify application costs that does nothing but parse the request and write the same JSON. */
  async fastify() {
    // From the process that started this one: what `this` answered to each of the requests.
    const answers: Record<string, object> = JSON.parse(process.env.BENCH_ANSWERS ?? "{}");
    const app = Fastify();
    app.post<{ Body: { id: number; method: string; params: { _meta?: object } } }>("/mcp", async ({ body }) => {
      const { id, method, params } = body;
      return { ...answers[`${method} ${params._meta !== undefined}`], id };
    });
    await app.listen({ host: HOST, port: 0 });
    return portOf(app.server.address());
  },

  /** The server of this repository as it runs in production, with one tool more. */
  async this() {
    const config = parseEnvironment(environment);
    const echo = defineTool({
      name: "echo",
      title: "Echo",
      description: DESCRIPTION,
      input: Input,
      output: Output,
      annotations: { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false },
      role: "reader",
      run: ({ text }) => ({ text }),
    });
    const stream = standardStream(1);
    const log = createLogger(config, stream);
    const { app, readiness } = await buildApp({ config, log, stream, tools: [...tools, echo] });
    await app.listen({ host: HOST, port: 0 });
    readiness.start();
    return portOf(app.server.address());
  },

  /** The SDK's own handler on Node's own server, with nothing around it. */
  async sdk() {
    const handler = toNodeHandler(
      createMcpHandler(() => {
        const server = new McpServer({ name: "bench", version: "1.0.0" });
        server.registerTool(
          "echo",
          { description: DESCRIPTION, inputSchema: Input, outputSchema: Output },
          ({ text }) => ({
            content: [{ type: "text", text: JSON.stringify({ text }) }],
            structuredContent: { text },
          }),
        );
        return server;
      }),
    );
    const http = createServer((request, response) => void handler(request, response));
    await new Promise<void>((resolve) => http.listen(0, HOST, resolve));
    return portOf(http.address());
  },

  async fastmcp() {
    const fastmcp = benchPackage<{ FastMCP: new (options: object) => FastMCPServer }>("fastmcp");
    if (fastmcp === undefined) throw new Error("fastmcp is not installed.");
    // It takes a port and does not tell which one it was given.
    const port = await freePort();
    const server = new fastmcp.FastMCP({ name: "bench", version: "1.0.0" });
    const execute = async ({ text }: { text: string }) => text;
    server.addTool({ name: "echo", description: DESCRIPTION, parameters: Input, execute });
    await server.start({
      transportType: "httpStream",
      httpStream: { host: HOST, port, stateless: true, enableJsonResponse: true },
    });
    return port;
  },
};

interface FastMCPServer {
  addTool(tool: object): void;
  start(options: object): Promise<void>;
}

async function freePort(): Promise<number> {
  const http = createServer();
  await new Promise<void>((resolve) => http.listen(0, HOST, resolve));
  const port = portOf(http.address());
  await new Promise((resolve) => http.close(resolve));
  return port;
}

function portOf(address: AddressInfo | string | null): number {
  if (address === null || typeof address === "string") throw new Error("The server listens on no port.");
  return address.port;
}

const start = servers[process.argv[2] ?? ""];
if (start === undefined) throw new Error(`There are ${Object.keys(servers).join(", ")}.`);
tellStarter({ port: await start() });
