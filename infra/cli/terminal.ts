import pico from "picocolors";
import { CliError, EXIT } from "./cli-error.ts";

/** Where a command writes: results to `out`, what happens meanwhile to `err`, so that `--json` can be piped. */
export interface Terminal {
  out(text: string): void;
  err(text: string): void;
  /** Whether a person watches, so that a line may be rewritten. */
  readonly live: boolean;
  readonly colours: Colours;
  /** Asks the person and returns the answer. Absent where nobody watches. */
  readonly ask?: (question: string) => Promise<string>;
}

export type Colours = Pick<ReturnType<typeof pico.createColors>, "bold" | "dim" | "green" | "red" | "yellow" | "cyan">;

export function processTerminal(): Terminal {
  return {
    out: (text) => process.stdout.write(text),
    err: (text) => process.stderr.write(text),
    live: process.stdout.isTTY === true && process.env.CI === undefined,
    // picocolors knows NO_COLOR, FORCE_COLOR and whether there is a terminal.
    colours: pico.createColors(),
    ...(process.stdin.isTTY === true && process.stderr.isTTY === true && { ask }),
  };
}

/** On standard error, so that what a command gives can still be piped. */
async function ask(question: string): Promise<string> {
  const { createInterface } = await import("node:readline/promises");
  const lines = createInterface({ input: process.stdin, output: process.stderr });
  // Ctrl-D gives no answer.
  const ended = new Promise<string>((resolve) => lines.once("close", () => resolve("")));
  try {
    return await Promise.race([lines.question(question), ended]);
  } finally {
    lines.close();
  }
}

/**
 * Has a person agree to what cannot be taken back.
 *
 * @param asked.would what is about to be done, as in `This would revoke ci.`
 * @param asked.otherwise said when the answer is no.
 * @throws CliError when the answer is no, or when there is nobody to ask.
 */
export async function confirm(
  { ask }: Terminal,
  asked: { readonly would: string; readonly question: string; readonly otherwise: string },
): Promise<void> {
  if (ask === undefined) {
    throw new CliError(`This would ${asked.would}. There is nobody here to ask; say --yes.`, EXIT.usage);
  }
  const answer = await ask(`${asked.question} [y/N] `);
  if (!/^y(es)?$/i.test(answer.trim())) throw new CliError(asked.otherwise);
}

/** Lines of a table, heads first, each column as wide as what is in it. */
export function table(heads: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const lines = [heads, ...rows];
  const widths = heads.map((_, at) => Math.max(...lines.map((line) => (line[at] ?? "").length)));
  return lines.map((line) =>
    line
      .map((cell, at) => cell.padEnd(widths[at] ?? 0))
      .join("  ")
      .trimEnd(),
  );
}

/** A line each for what a command does, in its order: done, or where it failed. */
export class Steps {
  readonly #terminal: Terminal;

  constructor(terminal: Terminal) {
    this.#terminal = terminal;
  }

  /**
   * Does one thing and says so.
   *
   * @param run returns what is worth adding to the line, if anything.
   */
  async step<T extends { readonly note?: string } | undefined>(title: string, run: () => Promise<T>): Promise<T> {
    const { out, live, colours } = this.#terminal;
    const started = performance.now();
    if (live) out(`${colours.dim("…")} ${title}`);
    const line = (mark: string, note: string) => out(`${live ? "\r\u001B[2K" : ""}${mark} ${title}${note}\n`);
    try {
      const result = await run();
      const took = performance.now() - started;
      const notes = [result?.note, took >= 1000 && `${(took / 1000).toFixed(1)} s`].filter(Boolean).join(", ");
      line(colours.green("✔"), notes && colours.dim(` (${notes})`));
      return result;
    } catch (error) {
      line(colours.red("✖"), "");
      throw error;
    }
  }
}
