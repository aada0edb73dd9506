import { tmpdir } from "node:os";
import { parseArgs } from "node:util";
import { buildListeners, packageVersion } from "./app.ts";
import { childEnvironment } from "./proxy/child-environment.ts";
import { createStdioProxy } from "./proxy/stdio-proxy.ts";
import { run } from "./run.ts";

/*
 * The entry that serves any stdio MCP server over HTTP:
 *   node serve-stdio.ts [--env NAME]... [--max-children N] [--idle-seconds N] [--cwd DIR] -- COMMAND [ARGUMENT]...
 * Everything else comes from the environment, as for the HTTP entry.
 */

const USAGE = "serve-stdio [--env NAME]... [--max-children N] [--idle-seconds N] [--cwd DIR] -- COMMAND [ARGUMENT]...";

const options = readArguments();

await run(async (config, log) => {
  const proxy = await createStdioProxy({ ...options, name: config.MCP_SERVER_NAME, version: packageVersion(), log });
  return {
    listeners: await buildListeners({ config, log }, proxy),
    facts: { command: options.command.program, server: proxy.description().info.name },
  };
});

function readArguments() {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        env: { type: "string", multiple: true, default: [] },
        "max-children": { type: "string", default: "16" },
        "idle-seconds": { type: "string", default: "300" },
        cwd: { type: "string", default: tmpdir() },
      },
    });
    const [program, ...args] = positionals;
    if (program === undefined) throw new Error("the command to serve is missing.");
    return {
      command: { program, args, directory: values.cwd, environment: childEnvironment(values.env, process.env) },
      limits: {
        count: wholeNumber("--max-children", values["max-children"], 1, 1000),
        idleMs: 1000 * wholeNumber("--idle-seconds", values["idle-seconds"], 1, 86_400),
      },
    };
  } catch (error) {
    console.error(`${error instanceof Error ? error.message : String(error)}\nUsage: ${USAGE}`);
    process.exit(2);
  }
}

function wholeNumber(option: string, value: string, min: number, max: number): number {
  if (/^\d{1,9}$/.test(value) && Number(value) >= min && Number(value) <= max) return Number(value);
  throw new Error(`${option} ${JSON.stringify(value)} must be a whole number from ${min} to ${max}.`);
}
