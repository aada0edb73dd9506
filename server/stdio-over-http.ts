import { buildListeners, packageVersion } from "./app.ts";
import { readArguments, type ServeArguments, UsageError } from "./proxy/arguments.ts";
import { createStdioProxy } from "./proxy/stdio-proxy.ts";
import { run } from "./run.ts";

/* The proxy that serves a stdio MCP server over HTTP, as the command line says. */

const options = readOptions();

await run(async (config, log) => {
  const proxy = await createStdioProxy({ ...options, name: config.MCP_SERVER_NAME, version: packageVersion(), log });
  return {
    listeners: await buildListeners({ config, log }, proxy),
    facts: { command: options.command.program, server: proxy.description().info.name },
  };
});

function readOptions(): ServeArguments {
  try {
    return readArguments(process.argv.slice(2), process.env);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    console.error(error.message);
    process.exit(2);
  }
}
