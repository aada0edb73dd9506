import { McpServer } from "@modelcontextprotocol/server";
import { serveStdio } from "@modelcontextprotocol/server/stdio";

/* A stdio server that speaks the newest version of the protocol and no other. */

serveStdio(
  () => {
    const server = new McpServer({ name: "newer", version: "2.0.0" });
    server.registerTool("pid", { description: "who answers" }, () => ({
      content: [{ type: "text", text: String(process.pid) }],
    }));
    return server;
  },
  { legacy: "reject" },
);
process.stdin.once("end", () => process.exit(0));
