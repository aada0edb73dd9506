/** What the command ended with; scripts may rely on it. */
export const EXIT = {
  /** Everything asked for was done. */
  ok: 0,
  /** What was asked for failed: a plan with faults, a server that does not answer, a file that cannot be merged. */
  failed: 1,
  /** The command line asks for something that does not exist. */
  usage: 2,
} as const;

/** A failure whose message is for the person at the terminal: what is wrong, and what to do. Shown without a stack. */
export class CliError extends Error {
  override readonly name = "CliError";
  readonly exitCode: number;

  constructor(message: string, exitCode: number = EXIT.failed, options?: ErrorOptions) {
    super(message, options);
    this.exitCode = exitCode;
  }
}
