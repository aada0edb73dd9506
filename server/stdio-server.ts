import { StdioServerTransport } from "@modelcontextprotocol/server/stdio";
import { buildCore } from "./app.ts";
import { LOCAL_CALLER } from "./auth/authenticate.ts";
import { EnvironmentError, parseEnvironment } from "./config.ts";
import { serveConnection } from "./mcp/connection.ts";
import { createLogger, standardStream } from "./observability/logging.ts";
import { closeInheritedDescriptors } from "./services/descriptors.ts";

/*
 * The stdio server: this server's own tools, for whoever started the process. Standard output carries the protocol and
 * nothing else; the log goes to standard error.
 */

try {
  closeInheritedDescriptors();
  const config = parseEnvironment(process.env);
  const stream = standardStream(2);
  const log = createLogger(config, stream);
  const { protocol, services, audit, jobService } = await buildCore({ config, log, stream });
  process.on("exit", () => services.commands.killAllNow());
  process.on("exit", () => audit.push());
  if (config.AUDIT_FILE !== undefined) process.on("SIGHUP", () => audit.reopen());

  const connection = serveConnection({
    protocol,
    transport: new StdioServerTransport(),
    caller: LOCAL_CALLER,
    onerror: (error) => log.warn({ event: "stdio.error", err: error }),
  });
  const end = () => {
    void connection
      .close()
      .finally(() => jobService.close())
      .finally(() => audit.close())
      .finally(() => process.exit(0));
  };
  // The end of input is how a client says goodbye (MCP specification, stdio, "Shutdown").
  process.stdin.once("end", end);
  process.stdin.once("close", end);
  process.once("SIGTERM", end);
  process.once("SIGINT", end);
  log.info({ event: "stdio.serving", workspace: config.WORKSPACE_PATH });
} catch (error) {
  console.error(error instanceof EnvironmentError ? error.message : error);
  process.exit(1);
}
