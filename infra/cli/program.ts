import { Command, CommanderError } from "commander";
import { auditCommand } from "./audit.ts";
import { bridgeCommand } from "./bridge.ts";
import { CliError, EXIT } from "./cli-error.ts";
import { connectCommand } from "./connect.ts";
import { jobsCommand } from "./jobs.ts";
import { keysCommand } from "./keys.ts";
import { newToolCommand } from "./new-tool.ts";
import { planCommand } from "./plan.ts";
import { rehearseCommand } from "./rehearse.ts";
import { renderCommand } from "./render.ts";
import { serveCommand } from "./serve.ts";
import type { Terminal } from "./terminal.ts";

/** The `mcp-aks` command, with everything that writes going to `terminal`. */
export function buildProgram(terminal: Terminal): Command {
  const program = new Command("mcp-aks")
    .description("A Model Context Protocol server on Azure Kubernetes Service: plan it, rehearse it, connect to it.")
    .option("--verbose", "show stack traces of failures (so does DEBUG=1)")
    .helpCommand(false)
    // `serve` hands on what stands after its command, options included.
    .enablePositionalOptions()
    .showSuggestionAfterError(true)
    .showHelpAfterError("(--help tells what there is)")
    .configureOutput({ writeOut: (text) => terminal.out(text), writeErr: (text) => terminal.err(text) })
    .exitOverride()
    .addHelpText(
      "after",
      `
Examples:
  npm run rehearse                  plan stack dev, start its server here, call its tools, keep serving
  npm run rehearse -- prod --check  the same for prod, ending when all is well
  npm run plan -- staging --json    every resource of stack staging
  npm run render -- dev --out k8s   the Kubernetes objects of stack dev as YAML
  npm run connect -- vscode         the configuration of VS Code
  npx mcp-aks keys list             the API keys of stack dev; create, rotate and revoke change them
  npx mcp-aks jobs list             the jobs of stack dev; dead-letter and replay mend what went wrong
  npm run new:tool -- NAME          the start of a new tool, its test included
  npx mcp-aks bridge URL            a server on HTTP, for a client that only speaks stdio
  npx mcp-aks serve --stdio COMMAND a server on stdio, for clients on HTTP
  npx mcp-aks audit verify FILE     whether an audit trail is as it was written

Exit codes: 0 done, 1 failed (the message says why), 2 the command line asks for something that does not exist.
None of these needs an account; the real thing is: pulumi up -s <stack>`,
    );
  for (const command of [
    rehearseCommand,
    planCommand,
    renderCommand,
    connectCommand,
    keysCommand,
    jobsCommand,
    bridgeCommand,
    serveCommand,
    newToolCommand,
    auditCommand,
  ]) {
    program.addCommand(inherit(command(terminal), program));
  }
  return program;
}

/** Has a command, and those under it, write and fail as the one above does. */
function inherit(command: Command, from: Command): Command {
  command.copyInheritedSettings(from);
  // People type `npm run plan -- --verbose`, so every command takes it.
  if (!command.options.some((option) => option.long === "--verbose")) {
    command.option("--verbose", "show stack traces of failures (so does DEBUG=1)");
  }
  for (const under of command.commands) inherit(under, command);
  return command;
}

/**
 * Runs the command.
 *
 * @param args what follows the program's name: `["plan", "dev"]`.
 * @returns the exit code.
 */
export async function runProgram(args: readonly string[], terminal: Terminal): Promise<number> {
  const program = buildProgram(terminal);
  try {
    if (args.length === 0) {
      program.outputHelp();
      return EXIT.ok;
    }
    await program.parseAsync(args, { from: "user" });
    return EXIT.ok;
  } catch (error) {
    // Commander has said what it had to say.
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage;
    terminal.err(`${terminal.colours.red("error:")} ${messageOf(error)}\n`);
    if (wantsStack(args) && error instanceof Error) terminal.err(`${error.stack}\n`);
    else if (!isForPeople(error)) terminal.err("This was not foreseen; --verbose shows where it happened.\n");
    return error instanceof CliError ? error.exitCode : EXIT.failed;
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Errors that were written to be read: this command's, and those of the stack's settings (Pulumi's RunError). */
function isForPeople(error: unknown): boolean {
  return error instanceof CliError || (error instanceof Error && "faults" in error);
}

function wantsStack(args: readonly string[]): boolean {
  return args.includes("--verbose") || (process.env.DEBUG ?? "") !== "";
}
