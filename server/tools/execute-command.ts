import { posix } from "node:path";
import { z } from "zod";
import { icons } from "../icons.ts";
import { CommandLineError, splitWords } from "../services/command-line.ts";
import {
  type CapturedStream,
  CommandLimitReached,
  CommandNotStarted,
  type CommandResult,
  type CommandRunner,
} from "../services/commands.ts";
import { findProgram } from "../services/isolation.ts";
import { type Workspace, WorkspaceError } from "../services/workspace.ts";
import { callerKey, defineTool, effectiveRole, type Facet, ToolBusy, ToolFailure } from "./define-tool.ts";
import { keepResult } from "./kept-results.ts";
import { streamOutput } from "./output-progress.ts";
import { failingClearly } from "./workspace-failures.ts";

/** Linux takes at most this many bytes in one argument of a program (MAX_ARG_STRLEN), its end included. */
const ARGUMENT_BYTES_LIMIT = 128 * 1024 - 1;
/** And far more of them than this, environment included (ARG_MAX), but what wraps a command needs room as well. */
const ARGUMENTS_BYTES_LIMIT = 1024 * 1024;
const ARGUMENTS_LIMIT = 4096;

const withoutNul = (value: string) => !value.includes("\0");

export const executeCommand = defineTool({
  name: "execute_command",
  title: "Execute a command",
  description:
    "Runs a command in the workspace and returns its exit code, standard output and standard error. The command line " +
    "is read by /bin/sh; on servers without a shell (see commands.shell of system_info) it is one program and its " +
    "arguments, where quotes work but pipes, redirections, variables and patterns are refused. With args, command is " +
    "a program's name and nothing is parsed. A non-zero exit code is an ordinary result: look at exitCode. The call " +
    "fails (isError) only when the command was refused or could not run to its end: it took too long, used or wrote " +
    "far too much, or too many commands run at once. There is no input and no terminal, the environment holds PATH, " +
    "HOME (the workspace) and locale only, nothing stays running after the call, and no shell state is kept between " +
    "calls. Of long output come its head and its tail, and a link to all of it.",
  input: z.object({
    command: z
      .string()
      .min(1, "give the command to run")
      .refine(withoutNul, "it must not contain NUL characters")
      .describe("Command line, such as: grep -rn TODO src. With args, the program's name alone."),
    args: z
      .array(z.string().refine(withoutNul, "it must not contain NUL characters"))
      .max(ARGUMENTS_LIMIT, `at most ${ARGUMENTS_LIMIT} arguments`)
      .optional()
      .describe("Arguments of the program that command names, passed on exactly as they are."),
    working_dir: z
      .string()
      .default(".")
      .describe("Directory to run in, relative to the workspace. Default: the workspace."),
    timeout: z
      .number()
      .positive("it must be more than 0 seconds")
      .optional()
      .describe("Seconds after which the command is killed. Default and maximum are set by the server."),
  }),
  output: z.object({
    exitCode: z.number().int().nullable().describe("null when a signal ended the command"),
    signal: z.string().nullable().describe("Signal that ended the command, or null"),
    stdout: z.string(),
    stderr: z.string(),
    truncated: z.boolean().describe("Whether bytes were left out of the middle of stdout or stderr"),
    stdoutDroppedBytes: z.number().int(),
    stderrDroppedBytes: z.number().int(),
    stdoutResource: z.string().optional().describe("All of stdout, where bytes were left out and it could be kept"),
    stderrResource: z.string().optional().describe("All of stderr, likewise"),
    timedOut: z.boolean(),
    durationMs: z.number().int(),
  }),
  annotations: { readOnlyHint: false, destructiveHint: true, idempotentHint: false, openWorldHint: true },
  icons: icons.terminal,
  role: "operator",
  job: true,
  facets: { program: ({ command, args }, { shell }) => programIn(command, args, shell) },
  links: ({ stdoutResource, stderrResource }) => [
    ...(stdoutResource === undefined ? [] : [linkTo(stdoutResource, "All of stdout")]),
    ...(stderrResource === undefined ? [] : [linkTo(stderrResource, "All of stderr")]),
  ],
  async run({ command, args, working_dir, timeout }, { workspace, commands, caller, signal, client }) {
    const role = effectiveRole(caller);
    const limits = commands.limits[role];
    const { timeoutSeconds } = limits;
    if (timeout !== undefined && timeout > timeoutSeconds) {
      throw new ToolFailure(
        `Argument "timeout" is ${timeout}: this server runs commands for at most ${timeoutSeconds} seconds; ` +
          "give less, or leave it out.",
      );
    }
    const words = await wordsOf(command, args, commands);
    const directory = await failingClearly(workspace.directory(working_dir));
    const fileBytes = await workspace.quota.remainingBytes();
    const progress = streamOutput(client);
    const request = { words, directory, workspace: workspace.root, fileBytes, timeoutSeconds: timeout, signal };
    const wholeBytes = workspace.fileSizeLimit;
    const result = await commands
      .run({ ...request, wholeBytes, caller: callerKey(caller), role, onOutput: progress?.add })
      .finally(() => progress?.end())
      .catch((error: unknown) => {
        throw notRun(error) ?? error;
      })
      // What it wrote past the workspace's own methods is not counted yet.
      .finally(() => workspace.quota.changed());
    const output = { ...outputOf(result), ...(await keepWhole(result, { workspace, signal })) };
    const failed = killedBecause(result, timeout ?? timeoutSeconds, limits);
    if (failed !== undefined) throw new ToolFailure(failed, output);
    return output;
  },
});

/**
 * The program that a command starts, as far as its words say: what it starts in turn is its own. A relative path always
 * begins with `./`, so that no file of the workspace passes for a program of that name.
 */
function programIn(command: string, args: readonly string[] | undefined, shell: boolean): Facet {
  if (args === undefined && shell) {
    return {
      unknown:
        "the shell that reads command lines on this server may start any program; " +
        "give the program's name as command, and its arguments as args",
    };
  }
  let program = command;
  try {
    if (args === undefined) program = splitWords(command)[0] ?? "";
  } catch (error) {
    if (!(error instanceof CommandLineError)) throw error;
    return { unknown: `the command line is none that this server runs: ${error.message}` };
  }
  if (!program.includes("/")) return program;
  const path = posix.normalize(program);
  return path.startsWith("/") ? path : `./${path}`;
}

/** Keeps output that is longer than its limit as files, as far as the workspace takes them. */
async function keepWhole(
  { stdout, stderr }: CommandResult,
  context: { readonly workspace: Workspace; readonly signal: AbortSignal },
): Promise<{ stdoutResource?: string; stderrResource?: string }> {
  const keep = async ({ whole }: CapturedStream, ending: string) => {
    if (whole === undefined || context.signal.aborted) return undefined;
    try {
      return (await keepResult(whole, ending, context)).uri;
    } catch (error) {
      // What was left out is counted; a full workspace makes no failure of a command that did its work.
      if (error instanceof WorkspaceError) return undefined;
      throw error;
    }
  };
  const stdoutResource = await keep(stdout, "-stdout.txt");
  const stderrResource = await keep(stderr, "-stderr.txt");
  return { ...(stdoutResource && { stdoutResource }), ...(stderrResource && { stderrResource }) };
}

const linkTo = (uri: string, description: string) => ({
  type: "resource_link" as const,
  uri,
  name: uri.slice(uri.lastIndexOf("/") + 1),
  description,
  mimeType: "text/plain",
});

/** Program and arguments of a command; a failure where the server does not allow them. */
async function wordsOf(
  command: string,
  args: readonly string[] | undefined,
  { shell, isolation }: CommandRunner,
): Promise<[string, ...string[]]> {
  const [program, ...rest] = args === undefined ? lineToWords(command, shell) : [command, ...args];
  if (program === undefined || program === "") {
    throw new ToolFailure('Argument "command" names no program; give its name first.');
  }
  for (const word of [program, ...rest]) {
    if (Buffer.byteLength(word) > ARGUMENT_BYTES_LIMIT) {
      throw new ToolFailure(
        `Argument "command" has ${Buffer.byteLength(word)} bytes in one piece, and a program takes at most ` +
          `${ARGUMENT_BYTES_LIMIT}; write a file with file_operation and name that.`,
      );
    }
  }
  if (rest.reduce((bytes, word) => bytes + Buffer.byteLength(word), 0) > ARGUMENTS_BYTES_LIMIT) {
    throw new ToolFailure(`The arguments have more than ${ARGUMENTS_BYTES_LIMIT} bytes together; pass fewer.`);
  }
  const { programs } = await isolation;
  if (programs !== undefined) {
    const allowed = programs.get(program);
    if (allowed !== undefined) return [allowed, ...rest];
    const names = [...programs.keys()].join(", ");
    throw new ToolFailure(`${brief(program)} is not a program that this server runs; it runs ${names}.`);
  }
  if (!program.includes("/") && (await findProgram(program)) === undefined) {
    throw new ToolFailure(`There is no program ${brief(program)} on this server; check its name.`);
  }
  return [program, ...rest];
}

function lineToWords(command: string, shell: boolean): string[] {
  if (shell) return ["/bin/sh", "-c", command];
  try {
    return splitWords(command);
  } catch (error) {
    if (!(error instanceof CommandLineError)) throw error;
    throw new ToolFailure(`Argument "command" is ${brief(command)}: ${error.message}, or pass words as args.`);
  }
}

function notRun(error: unknown): ToolFailure | undefined {
  if (error instanceof CommandLimitReached) {
    const whose =
      error.scope === "caller"
        ? "of yours run already, the most one caller may run"
        : "run already, the most this server runs";
    return new ToolBusy(`${error.limit} commands ${whose} at once; try again when one has ended.`);
  }
  if (error instanceof CommandNotStarted) {
    return new ToolFailure(`The command could not be started (${error.code}); try again, or try a simpler command.`);
  }
  return undefined;
}

/** Why the command did not run to its end, in a sentence with the mend; undefined when it did. */
function killedBecause(
  { killed }: CommandResult,
  seconds: number,
  { timeoutSeconds, cpuSeconds, memoryBytes, processes }: CommandRunner["limits"]["admin"],
): string | undefined {
  switch (killed) {
    case undefined:
      return undefined;
    case "timeout":
      return (
        `The command was killed after ${seconds} seconds. What it had written by then is in stdout ` +
        `and stderr; do less in one call, or give a longer timeout (at most ${timeoutSeconds}).`
      );
    case "output":
      return "The command was killed because its output did not end; write it to a file, or less of it.";
    case "cpu":
      return `The command was killed because it used ${cpuSeconds} seconds of CPU time, the most a command gets; do less in one call.`;
    case "memory":
      return `The command was killed because it used more than ${memoryBytes} bytes of memory; work on less at once.`;
    case "processes":
      return `The command was killed because it had more than ${processes} processes and threads; start fewer at once.`;
    case "shutdown":
      return "The command was killed because this server is shutting down; call again.";
    case "cancelled":
      return "The command was killed because the call was cancelled.";
  }
}

const brief = (text: string) => JSON.stringify(text.length > 80 ? `${text.slice(0, 77)}...` : text);

function outputOf({ exitCode, signal, stdout, stderr, killed, durationMs }: CommandResult) {
  return {
    exitCode,
    signal,
    stdout: stdout.text,
    stderr: stderr.text,
    truncated: stdout.droppedBytes + stderr.droppedBytes > 0,
    stdoutDroppedBytes: stdout.droppedBytes,
    stderrDroppedBytes: stderr.droppedBytes,
    timedOut: killed === "timeout",
    durationMs,
  };
}
