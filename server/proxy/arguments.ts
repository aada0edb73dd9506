import { tmpdir } from "node:os";
import { parseArgs } from "node:util";
import type { ChildCommand } from "./child.ts";
import { childEnvironment } from "./child-environment.ts";
import type { ChildLimits } from "./children.ts";

/** What a command line asks to be served, and how. */
export interface ServeArguments {
  readonly command: ChildCommand;
  readonly limits: ChildLimits;
}

/** A command line that cannot be; the message says what is wrong with it, and how it goes. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

const USAGE = "serve-stdio [--env NAME]... [--max-children N] [--idle-seconds N] [--cwd DIR] -- COMMAND [ARGUMENT]...";

/**
 * Reads the arguments of the entry that serves a stdio server.
 *
 * @throws UsageError
 */
export function readArguments(args: string[], environment: NodeJS.ProcessEnv): ServeArguments {
  try {
    const { values, positionals } = parseArgs({
      args,
      allowPositionals: true,
      options: {
        env: { type: "string", multiple: true, default: [] },
        "max-children": { type: "string", default: "16" },
        "idle-seconds": { type: "string", default: "300" },
        cwd: { type: "string", default: tmpdir() },
      },
    });
    const [program, ...rest] = positionals;
    if (program === undefined) throw new Error("the command to serve is missing.");
    return {
      command: {
        program,
        args: rest,
        directory: values.cwd,
        environment: childEnvironment(values.env, environment),
      },
      limits: {
        count: wholeNumber("--max-children", values["max-children"], 1, 1000),
        idleMs: 1000 * wholeNumber("--idle-seconds", values["idle-seconds"], 1, 86_400),
      },
    };
  } catch (error) {
    throw new UsageError(`${error instanceof Error ? error.message : String(error)}\nUsage: ${USAGE}`, {
      cause: error,
    });
  }
}

function wholeNumber(option: string, value: string, min: number, max: number): number {
  if (/^\d{1,9}$/.test(value) && Number(value) >= min && Number(value) <= max) return Number(value);
  throw new Error(`${option} ${JSON.stringify(value)} must be a whole number from ${min} to ${max}.`);
}
