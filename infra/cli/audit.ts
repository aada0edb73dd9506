import { createReadStream } from "node:fs";
import { Argument, Command } from "commander";
import { type ChainReport, createVerifier, type Verification } from "./audit-verifier.ts";
import { CliError, EXIT } from "./cli-error.ts";
import { recordsIn } from "./log-records.ts";
import type { Terminal } from "./terminal.ts";

interface Options {
  readonly anchors?: string;
  readonly part?: true;
  readonly json?: true;
}

const STANDARD_INPUT = "-";

/** `audit verify FILE...`: whether an audit trail is as it was written. */
export function auditCommand(terminal: Terminal): Command {
  return new Command("audit").summary("check the audit trail").addCommand(
    new Command("verify")
      .summary("check that an audit trail is as it was written")
      .description(
        "Reads the audit trail and checks each process's chain: that no line is missing, changed, out of place or there " +
          "twice, and that the chain begins and ends. Reads the lines as they were written, with or without the log's " +
          "lines between them, and exports of Log Analytics, as JSON lines or as one JSON array, whose column Line has " +
          "them. Chains may be mixed; the lines of each are expected in their order.",
      )
      .addArgument(
        new Argument("<files...>", "files in their order (rotated ones: oldest first), or - for standard input"),
      )
      .option("--anchors <file>", "the ordinary log (its audit.anchored events), kept elsewhere, to check against")
      .option("--part", "what is read is a part: chains may begin before it and go on after it")
      .option("--json", "print one JSON object instead of text")
      .addHelpText(
        "after",
        `
Examples:
  npx mcp-aks audit verify /var/log/mcp/audit.jsonl.1 /var/log/mcp/audit.jsonl
  kubectl logs -n mcp deployment/mcp-server | npx mcp-aks audit verify --part -
  az monitor log-analytics query --workspace ID --timespan P1D --output json --analytics-query \\
    'McpAudit_CL | distinct ChainId, Seq, Line | sort by ChainId asc, Seq asc | project Line' |
    npx mcp-aks audit verify --part --anchors server.log -

The lines of a chain are numbered from 0. Azure may take an upload twice, and gives rows back in no order: hence distinct
and sort. With --anchors a chain that was written anew, or lost its end, does not agree with what the log was told.

Exit codes: 0 every chain is sound, 1 one is not, or there is none, 2 the command line or a file named on it is wrong.`,
      )
      .action((files: string[], options: Options) => verify(files, options, terminal)),
  );
}

async function verify(files: readonly string[], options: Options, terminal: Terminal): Promise<void> {
  if ([...files, options.anchors].filter((file) => file === STANDARD_INPUT).length > 1) {
    throw new CliError("Standard input can be read once; name - once.", EXIT.usage);
  }
  const verifier = createVerifier({ part: options.part === true });
  if (options.anchors !== undefined) {
    for await (const record of recordsOf(options.anchors)) verifier.anchor(record);
  }
  for (const file of files) {
    for await (const record of recordsOf(file)) verifier.read(record);
  }
  const verification = verifier.end();
  if (options.json) terminal.out(`${JSON.stringify(verification, null, 2)}\n`);
  else print(verification, terminal);
  if (!verification.sound) throw new CliError(complaint(verification));
}

async function* recordsOf(file: string) {
  const input = file === STANDARD_INPUT ? process.stdin : createReadStream(file);
  try {
    yield* recordsIn(input.setEncoding("utf8"));
  } catch (error) {
    const code = error instanceof Error && "syscall" in error && "code" in error ? String(error.code) : undefined;
    if (code === undefined) throw error;
    throw new CliError(`${file} cannot be read (${code}); name a file of lines, or - for standard input.`, EXIT.usage);
  }
}

function complaint({ chains, unreadable }: Verification): string {
  if (chains.length === 0 && unreadable === 0) {
    return "There is no line of an audit trail in it; name the audit's file, or an export with the column Line.";
  }
  const broken = chains.filter(({ sound }) => !sound).length;
  const lines =
    unreadable === 0
      ? ""
      : `${unreadable === 1 ? "a line is" : `${unreadable} lines are`} no line of an audit trail any more`;
  const of =
    chains.length === 1
      ? "the chain is broken"
      : `${broken} of ${chains.length} chains ${broken === 1 ? "is" : "are"} broken`;
  return `The audit trail is not as it was written: ${[broken === 0 ? "" : of, lines].filter(Boolean).join(", and ")}.`;
}

function print({ chains, unreadable, others }: Verification, { out, err, colours }: Terminal): void {
  const { green, red, bold, dim } = colours;
  for (const chain of chains) {
    const title = `${bold(chain.replica ?? "unknown replica")} ${dim(chain.id)}`;
    out(`${chain.sound ? green("✔") : red("✖")} ${title}\n  ${extent(chain)}\n`);
    for (const fault of chain.faults) out(`  ${red("-")} ${fault}\n`);
    const more = chain.faultCount - chain.faults.length;
    if (more > 0) out(`  ${red("-")} and ${more} more\n`);
  }
  if (unreadable > 0) out(`${red("✖")} unreadable lines: ${unreadable}\n`);
  if (others > 0) err(dim(`Lines of other logs, passed over: ${others}\n`));
}

function extent({ lines, first, last, from, to, sound, ended }: ChainReport): string {
  const numbers = first === undefined ? "" : `, ${first} to ${last}, ${from} to ${to}`;
  const state = !sound ? "broken" : ended ? "sound" : "sound as far as it goes";
  return `${lines} ${lines === 1 ? "line" : "lines"}${numbers}: ${state}`;
}
