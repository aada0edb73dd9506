import { spawn } from "node:child_process";
import { join } from "node:path";
import { Argument, Command } from "commander";
import { CHECKOUT } from "./checkout.ts";
import { CliError, EXIT } from "./cli-error.ts";
import type { Terminal } from "./terminal.ts";

interface Options {
  readonly stdio?: true;
  readonly env: readonly string[];
  readonly host?: string;
  readonly port?: string;
  readonly metricsPort?: string;
  readonly maxChildren?: string;
  readonly idleSeconds?: string;
  readonly cwd?: string;
}

/** `serve --stdio COMMAND...`: any stdio MCP server behind this server's HTTP listener. */
export function serveCommand(_terminal: Terminal): Command {
  return (
    new Command("serve")
      .summary("serve a stdio MCP server over HTTP")
      .description(
        "Starts any MCP server that speaks stdio, one process a caller, and serves it over Streamable HTTP to clients of " +
          "every version of the protocol, with this server's authentication, metrics and shutdown. Processes are started " +
          "again when they end, and ended when idle. All variables of the server's environment count here, too: " +
          "AUTH_MODE, API_KEY_HASHES, PUBLIC_URL, ...",
      )
      .addArgument(new Argument("<command...>", "the stdio server and its arguments, from here on as they are"))
      // What follows on the command's name is the command's.
      .passThroughOptions()
      .requiredOption("--stdio", "the command speaks stdio (the one way there is, said so that a reader knows)")
      .option("--env <name>", "pass this variable on; the command's environment has PATH and nothing else", collect, [])
      .option("--cwd <dir>", "directory that the command runs in (default: the system's temporary directory)")
      .option("--host <address>", "address to listen on (default: 127.0.0.1)")
      .option("--port <port>", "port of the MCP endpoint (default: 8080)")
      .option("--metrics-port <port>", "port of the metrics (default: 9090)")
      .option("--max-children <n>", "callers with a process of their own at one time (default: 16)")
      .option("--idle-seconds <n>", "how long a process without a call is kept (default: 300)")
      .addHelpText(
        "after",
        `
Examples:
  mcp-aks serve --stdio npx -y @modelcontextprotocol/server-everything
  mcp-aks serve --stdio --port 8081 --metrics-port 9091 --env GITHUB_TOKEN -- github-mcp-server stdio`,
      )
      .action(serve)
  );
}

async function serve(command: readonly string[], options: Options): Promise<void> {
  const entryOptions = {
    "--max-children": options.maxChildren,
    "--idle-seconds": options.idleSeconds,
    "--cwd": options.cwd,
  };
  const environment = { HOST: options.host, PORT: options.port, METRICS_PORT: options.metricsPort };
  const args = [
    join(CHECKOUT, "server/serve-stdio.js"),
    ...options.env.flatMap((name) => ["--env", name]),
    ...given(entryOptions).flat(),
    "--",
    ...command,
  ];
  const child = spawn(process.execPath, args, {
    env: { ...process.env, ...Object.fromEntries(given(environment)) },
    stdio: ["ignore", "inherit", "inherit"],
    // A group of its own: Ctrl-C at the terminal is for this process to pass on, not for both at once.
    detached: process.platform !== "win32",
  });
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => child.kill(signal === "SIGHUP" ? "SIGTERM" : signal));
  }
  process.once("exit", () => child.kill("SIGKILL"));
  const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
  // It has said why.
  if (code !== 0)
    throw new CliError("The server ended; its last lines say why.", code === 2 ? EXIT.usage : EXIT.failed);
}

function given(values: Readonly<Record<string, string | undefined>>): [string, string][] {
  return Object.entries(values).flatMap(([name, value]) => (value === undefined ? [] : [[name, value]]));
}

function collect(value: string, before: readonly string[]): readonly string[] {
  return [...before, value];
}
