import { z } from "zod";
import { icons } from "../icons.ts";
import { CommandLimitReached, CommandNotStarted, type CommandResult } from "../services/commands.ts";
import { defineTool, ToolFailure } from "./define-tool.ts";
import { streamOutput } from "./output-progress.ts";
import { failingClearly } from "./workspace-failures.ts";

/** Linux takes at most this many bytes in one argument of a program (MAX_ARG_STRLEN), its end included. */
const COMMAND_BYTES_LIMIT = 128 * 1024 - 1;

export const executeCommand = defineTool({
  name: "execute_command",
  title: "Execute a command",
  description:
    "Runs a command with /bin/sh in the workspace and returns its exit code, standard output and standard error. " +
    "A non-zero exit code is an ordinary result: look at exitCode. The call fails (isError) only when the command " +
    "could not run to its end: it took too long, wrote far too much, or too many commands run at once. " +
    "There is no input and no terminal, the environment holds PATH, HOME (the workspace) and locale only, nothing " +
    "stays running after the call, and no shell state is kept between calls. Long output keeps its head and its tail.",
  input: z.object({
    command: z
      .string()
      .min(1, "give the command to run")
      .refine((command) => !command.includes("\0"), "it must not contain NUL characters")
      .describe("Command line for /bin/sh -c, such as: grep -rn TODO src | head"),
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
    timedOut: z.boolean(),
    durationMs: z.number().int(),
  }),
  annotations: { readOnlyHint: false, destructiveHint: true, idempotentHint: false, openWorldHint: true },
  icons: icons.terminal,
  role: "operator",
  async run({ command, working_dir, timeout }, { workspace, commands, signal, client }) {
    const { timeoutSeconds, concurrency } = commands.limits;
    if (timeout !== undefined && timeout > timeoutSeconds) {
      throw new ToolFailure(
        `Argument "timeout" is ${timeout}: this server runs commands for at most ${timeoutSeconds} seconds; ` +
          "give less, or leave it out.",
      );
    }
    if (Buffer.byteLength(command) > COMMAND_BYTES_LIMIT) {
      throw new ToolFailure(
        `Argument "command" has ${Buffer.byteLength(command)} bytes, and a command line at most ${COMMAND_BYTES_LIMIT}; ` +
          "write a script with file_operation and run that.",
      );
    }
    const directory = await failingClearly(workspace.directory(working_dir));
    const output = streamOutput(client);
    const result = await commands
      .run({
        command,
        directory,
        home: workspace.root,
        timeoutSeconds: timeout ?? timeoutSeconds,
        signal,
        onOutput: output?.add,
      })
      .finally(() => output?.end())
      .catch((error: unknown) => {
        if (error instanceof CommandLimitReached) {
          throw new ToolFailure(
            `${concurrency} commands run already, the most this server runs at once; try again when one has ended.`,
          );
        }
        if (error instanceof CommandNotStarted) {
          throw new ToolFailure(
            `The command could not be started (${error.code}); try again, or try a simpler command.`,
          );
        }
        throw error;
      });
    const outcome = outputOf(result);
    switch (result.killed) {
      case undefined:
        return outcome;
      case "timeout":
        throw new ToolFailure(
          `The command was killed after ${timeout ?? timeoutSeconds} seconds. What it had written by then is in stdout ` +
            `and stderr; do less in one call, or give a longer timeout (at most ${timeoutSeconds}).`,
          outcome,
        );
      case "output":
        throw new ToolFailure(
          "The command was killed because its output did not end; write it to a file, or less of it.",
          outcome,
        );
      case "shutdown":
        throw new ToolFailure("The command was killed because this server is shutting down; call again.", outcome);
      case "cancelled":
        throw new ToolFailure("The command was killed because the call was cancelled.", outcome);
    }
  },
});

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
