import { userInfo } from "node:os";
import { Argument, Command, InvalidArgumentError, Option } from "commander";
import { parseEnvironment } from "../../server/config.ts";
import {
  JOB_ID,
  JOB_STATES,
  type Job,
  type JobEvent,
  type JobRef,
  type JobState,
  type LoggedEvent,
} from "../../server/services/jobs/job.ts";
import type { Difference } from "../../server/services/jobs/replay.ts";
import { CliError, EXIT } from "./cli-error.ts";
import { duration } from "./duration.ts";
import type { Cancelled } from "./jobs/cancel.ts";
import type { SetAside, Settled } from "./jobs/dead-letters.ts";
import { type OpenJobs, type PlaceOptions, withJobs } from "./jobs/open-jobs.ts";
import { confirm, type Terminal, table } from "./terminal.ts";

interface Options extends PlaceOptions {
  readonly json?: true;
}

interface ListOptions extends Options {
  readonly state?: readonly JobState[];
  readonly limit: number;
}

interface ChangeOptions extends Options {
  readonly all?: true;
  readonly yes?: true;
}

interface ReplayLettersOptions extends ChangeOptions {
  readonly deadline: number;
}

interface CancelOptions extends Options {
  readonly submitter?: string;
  readonly yes?: true;
}

interface ReplayOptions extends Options {
  readonly since: string;
  readonly dryRun?: true;
  readonly yes?: true;
}

const LIMIT = 50;
/** More was set aside than anybody looks at one by one. */
const MOST_SET_ASIDE = 1000;
/** How long a replayed job has when nothing else is said: as long as a submitted one. */
const DEADLINE_MS = parseEnvironment({}).JOB_DEADLINE_SECONDS * 1000;
const HOUR_MS = 60 * 60_000;

/** `jobs list|show|cancel|dead-letter|replay`: the jobs of a stack, for whoever operates it. */
export function jobsCommand(terminal: Terminal): Command {
  const withPlace = (command: Command) =>
    command
      .option("-s, --stack <stack>", "the stack whose jobs they are (default: dev)")
      .option("--deployed", "the deployed stack's, even while a rehearsal of it runs on this machine")
      .option("--tenant <id>", "of this tenant alone; default: all")
      .option("--json", "print one JSON object instead of text");
  const which = () => new Argument("[which...]", "sequence numbers, or ids of dead jobs, as dead-letter list has them");

  const list = withPlace(new Command("list"))
    .summary("show the jobs, the newest first")
    .addOption(new Option("--state <states...>", "only those").choices(JOB_STATES))
    .addOption(
      new Option("--limit <number>", "at most so many of each tenant").argParser(limitOf).default(LIMIT, String(LIMIT)),
    )
    .action((options: ListOptions) => listJobs(options, terminal));
  const show = withPlace(new Command("show"))
    .summary("show one job and everything that happened to it")
    .description("Shows a job and its events. What it was given and what it gave are its submitter's, and not shown.")
    .addArgument(new Argument("<id>", "the job"))
    .action((id: string, options: Options) => showJob(id, options, terminal));
  const cancelThem = withPlace(new Command("cancel"))
    .summary("end jobs, whoever submitted them")
    .description(
      "Ends jobs: at once while they wait, within seconds while they run. With --submitter all of one caller's that have " +
        "not ended, as when its key has leaked: what it submitted would still be run.",
    )
    .addArgument(new Argument("[ids...]", "the jobs"))
    .option("--submitter <name>", "all of this caller's, as the column SUBMITTER of list has it")
    .option("-y, --yes", "do not ask")
    .action((ids: string[], options: CancelOptions) => cancelJobs(ids, options, terminal));
  const letters = withPlace(new Command("list"))
    .summary("show what was set aside, and why")
    .description(
      "Shows the queue's dead letters with the jobs they are of, and dead jobs of which the queue has no letter. Looks " +
        "at them and takes none.",
    )
    .action((options: Options) => listLetters(options, terminal));
  const replayLetters = withPlace(new Command("replay"))
    .summary("have them run again")
    .description(
      "Has dead jobs run again, with a new deadline. A job that was lost while it ran does again whatever it had done by " +
        "then. Can be repeated, whatever ended the command before.",
    )
    .addArgument(which())
    .option("--all", "everything that was set aside")
    .addOption(
      new Option("--deadline <duration>", "how long they have, such as 2h")
        .argParser((text: string) => duration(text))
        .default(DEADLINE_MS, `${DEADLINE_MS / HOUR_MS}h`),
    )
    .option("-y, --yes", "do not ask")
    .action((names: string[], options: ReplayLettersOptions) => replayDead(names, options, terminal));
  const dropLetters = withPlace(new Command("drop"))
    .summary("take messages out of the dead letters for good")
    .description("Takes messages out for good. Their jobs stay dead, and are removed when their time has come.")
    .addArgument(which())
    .option("--all", "everything that was set aside")
    .option("-y, --yes", "do not ask")
    .action((names: string[], options: ChangeOptions) => dropDead(names, options, terminal));
  const deadLetter = new Command("dead-letter").summary("list, replay and drop what was set aside").helpCommand(false);
  for (const command of [letters, replayLetters, dropLetters]) deadLetter.addCommand(command);
  const replayEvents = withPlace(new Command("replay"))
    .summary("rebuild the state of jobs from their events")
    .description(
      "Tells the events of jobs again, compares what comes of it with what the store has, and mends the difference. Runs " +
        "no tool: what jobs have done is not done again.",
    )
    .requiredOption("--since <time>", "of jobs with events since then: ISO 8601, or so long ago, such as 2h", sinceOf)
    .option("--dry-run", "show the differences, and mend nothing")
    .option("-y, --yes", "do not ask")
    .action((options: ReplayOptions) => replayLog(options, terminal));

  const jobs = new Command("jobs")
    .summary("see and cancel jobs; replay or drop what was set aside")
    .description(
      "The jobs that callers have submitted. Those of the rehearsal while one runs on this machine; else the deployed " +
        "stack's, with your own rights (az login), which mcp:admins have: see docs/jobs-command.md.",
    )
    .helpCommand(false)
    .addHelpText(
      "after",
      `
Examples:
  mcp-aks jobs list --stack prod --state running queued
  mcp-aks jobs show 7zw3kq0v9m2n4p6r8t0v2x4y6z --stack prod
  mcp-aks jobs cancel --submitter key:ci --stack prod
  mcp-aks jobs dead-letter list --stack prod
  mcp-aks jobs dead-letter replay 41 42 --stack prod --deadline 2h
  mcp-aks jobs dead-letter drop 43 --stack prod --yes
  mcp-aks jobs replay --since 2h --dry-run --stack prod

Exit codes: 0 done, 1 failed, or not all of it could be done, or replay --dry-run has found differences, 2 the command
line asks for something that does not exist.`,
    );
  for (const command of [list, show, cancelThem, deadLetter, replayEvents]) jobs.addCommand(command);
  return jobs;
}

/** Loaded when it is asked for: it brings the server's part of jobs, which no other command needs. */
const setAside = () => import("./jobs/dead-letters.ts");

async function listJobs(options: ListOptions, terminal: Terminal): Promise<void> {
  await withJobs(options, async ({ place, partitions, store }) => {
    const found: Job[] = [];
    let more = false;
    for (const partition of partitions) {
      let cursor: string | undefined;
      let left = options.limit;
      do {
        const page = await store.list({ partition, states: options.state, limit: left, cursor });
        found.push(...page.jobs);
        left -= page.jobs.length;
        cursor = page.cursor;
      } while (cursor !== undefined && left > 0);
      more ||= cursor !== undefined;
    }
    // Ids are so made that the newest comes first.
    const jobs = found.toSorted((one, other) => (one.id < other.id ? -1 : 1));
    if (options.json) return json(terminal, { place, partitions, jobs, more });
    const { bold, dim, red } = terminal.colours;
    terminal.err(dim(`Jobs of ${place}, in ${partitions.join(", ")}\n`));
    if (jobs.length === 0) return terminal.err("There are none.\n");
    const [title = "", ...lines] = table(
      ["ID", "TOOL", "STATE", "RUNS", "SUBMITTED", "ENDED", "SUBMITTER"],
      jobs.map((job) => [
        job.id,
        job.tool,
        job.state,
        String(job.attempts),
        timeOf(job.submittedAt),
        job.endedAt === undefined ? "-" : timeOf(job.endedAt),
        job.caller.subject,
      ]),
    );
    terminal.out(`${bold(title)}\n`);
    jobs.forEach((job, at) => {
      const line = lines[at] ?? "";
      terminal.out(`${job.state === "dead" ? red(line) : line}\n`);
    });
    if (more) terminal.err(dim(`There are more; --limit ${options.limit * 10} shows them.\n`));
  });
}

async function showJob(id: string, options: Options, terminal: Terminal): Promise<void> {
  if (!JOB_ID.test(id)) throw new CliError(`"${id}" is no job's id; mcp-aks jobs list has them.`, EXIT.usage);
  await withJobs(options, async ({ place, partitions, store }) => {
    for (const partition of partitions) {
      const ref = { partition, id };
      const stored = await store.read(ref);
      if (stored === undefined) continue;
      const { job } = stored;
      const events: LoggedEvent[] = [];
      for await (const event of store.events({ ref })) events.push(event);
      if (options.json) return json(terminal, { place, job, events });
      const { bold, dim } = terminal.colours;
      const lines: [what: string, value: string | undefined][] = [
        ["tool", job.tool],
        ["state", job.state],
        ["why", job.reason],
        ["submitter", `${job.caller.subject} (${job.caller.role}), ${partition}`],
        ["submitted", timeOf(job.submittedAt)],
        ["deadline", timeOf(job.deadline)],
        ["ended", job.endedAt && timeOf(job.endedAt)],
        ["next run", job.retryAt && timeOf(job.retryAt)],
        ["runs", `${job.attempts}, of which lost or broken: ${job.failures}`],
        ["repeatable", job.repeatable ? "yes" : "no: what a lost run has done is not known"],
        ["in order by", job.orderKey],
        ["trace", job.traceId],
      ];
      terminal.out(`${bold(job.id)}\n`);
      for (const [what, value] of lines) if (value !== undefined) terminal.out(`  ${what.padEnd(12)}${value}\n`);
      terminal.out("\n");
      for (const { seq, event } of events) {
        terminal.out(`  ${String(seq).padStart(3)}  ${dim(event.at)}  ${event.type}${detailOf(event)}\n`);
      }
      return;
    }
    throw new CliError(
      `There is no job ${id} in ${partitions.join(", ")} of ${place}: it may be another tenant's (--tenant), or have ` +
        "been removed after its time.",
    );
  });
}

async function cancelJobs(ids: readonly string[], options: CancelOptions, terminal: Terminal): Promise<void> {
  const { submitter } = options;
  if (ids.length > 0 === (submitter !== undefined)) {
    throw new CliError("Say which, by id, or whose by --submitter, and not both.", EXIT.usage);
  }
  for (const id of ids) {
    if (!JOB_ID.test(id)) throw new CliError(`"${id}" is no job's id; mcp-aks jobs list has them.`, EXIT.usage);
  }
  await withJobs(options, async ({ place, partitions, store }) => {
    const { cancel, unfinishedOf } = await import("./jobs/cancel.ts");
    const meant: JobRef[] = [];
    if (submitter !== undefined) meant.push(...(await unfinishedOf(store, { partitions, submitter })));
    for (const id of ids) {
      const found = await Promise.all(partitions.map((partition) => store.read({ partition, id })));
      const job = found.find((each) => each !== undefined)?.job;
      if (job === undefined) throw new CliError(`There is no job ${id} in ${partitions.join(", ")} of ${place}.`);
      meant.push(job);
    }
    if (meant.length > 0 && !options.yes) {
      await confirm(terminal, {
        would: `end ${countOf(meant)}`,
        question: `End ${countOf(meant)}?`,
        otherwise: "Nothing was cancelled.",
      });
    }
    const by = userInfo().username;
    const done: { readonly id: string; readonly outcome: Cancelled }[] = [];
    for (const ref of meant) {
      const outcome = await cancel(store, ref, by);
      done.push({ id: ref.id, outcome });
      if (!options.json) terminal.err(`${outcome === "kept" ? "✖" : "✔"} ${ref.id}: ${CANCELLED[outcome]}\n`);
    }
    if (options.json) json(terminal, { cancelled: done });
    else if (meant.length === 0) terminal.err(`${submitter} has no jobs that have not ended, in ${place}.\n`);
    const kept = done.filter(({ outcome }) => outcome === "kept").length;
    if (kept > 0) throw new CliError(`${kept} of ${done.length} could not be cancelled; try again.`);
  });
}

const CANCELLED: Readonly<Record<Cancelled, string>> = {
  cancelled: "cancelled.",
  asked: "it runs, and is told to end.",
  ended: "it had ended.",
  kept: "others keep changing it.",
};

/** What an event says beside its name. */
function detailOf(event: JobEvent): string {
  switch (event.type) {
    case "submitted":
      return `: ${event.tool}, until ${event.deadline}`;
    case "started":
      return `: run ${event.attempt} by ${event.worker}`;
    case "progressed": {
      const { progress, total, message } = event.progress;
      return `: ${progress}${total === undefined ? "" : ` of ${total}`}${message === undefined ? "" : `, ${message}`}`;
    }
    case "retried":
      return `: run ${event.attempt}, due ${event.retryAt}: ${event.reason}`;
    case "completed":
      return `: ${event.outcome}${event.reason === undefined ? "" : `: ${event.reason}`}`;
    case "cancel-requested":
      return ` by ${event.by}`;
    case "cancelled":
      return "";
    case "expired":
    case "dead-lettered":
      return `: ${event.reason}`;
    case "replayed":
      return ` by ${event.by}, until ${event.deadline}`;
  }
}

async function listLetters(options: Options, terminal: Terminal): Promise<void> {
  await withJobs(options, async (jobs) => {
    const { listSetAside } = await setAside();
    const found = await listSetAside(jobs, { partitions: jobs.partitions, limit: MOST_SET_ASIDE });
    if (options.json) return json(terminal, { place: jobs.place, setAside: found.map(reportOf) });
    const { bold, dim } = terminal.colours;
    terminal.err(dim(`Set aside in ${jobs.place}\n`));
    if (found.length === 0) return terminal.err("Nothing was set aside.\n");
    const [title = "", ...lines] = table(
      ["SEQUENCE", "JOB", "TOOL", "STATE", "SINCE", "REASON"],
      found.map(({ letter, ref, job }) => [
        letter?.sequence ?? "-",
        ref?.id ?? "-",
        job?.tool ?? "-",
        job?.state ?? "-",
        timeOf(job?.endedAt ?? letter?.enqueuedAt ?? ""),
        letter?.reason ?? "-",
      ]),
    );
    terminal.out(`${bold(title)}\n`);
    found.forEach((each, at) => {
      terminal.out(`${lines[at]}\n`);
      const why = each.job?.reason ?? each.letter?.description;
      if (why !== undefined && why !== "") terminal.out(dim(`  ${why}\n`));
    });
    terminal.err(dim("mcp-aks jobs dead-letter replay runs them again, by SEQUENCE, or by JOB where there is none.\n"));
  });
}

/** A thing that was set aside as `--json` has it: nothing of the message itself. */
function reportOf({ letter, ref, job }: SetAside) {
  const { body: _, ...shown } = letter ?? { body: "" };
  return {
    ...(letter && { letter: shown }),
    ...(ref && { job: ref.id, partition: ref.partition }),
    state: job?.state,
    ...(job && { tool: job.tool, reason: job.reason }),
  };
}

async function replayDead(names: readonly string[], options: ReplayLettersOptions, terminal: Terminal): Promise<void> {
  await withJobs(options, async (jobs) => {
    const meant = await setAsideMeant(jobs, names, options);
    const unknown = meant.filter(({ job }) => job?.state === "dead" && !job.repeatable).length;
    if (meant.length > 0 && !options.yes) {
      const warning =
        unknown === 0 ? "" : ` Of ${unknown} it is not known what they did before; they may do it a second time.`;
      await confirm(terminal, {
        would: `have ${countOf(meant)} run again`,
        question: `Have ${countOf(meant)} run again?${warning}`,
        otherwise: "Nothing was replayed.",
      });
    }
    const by = userInfo().username;
    const { replay } = await setAside();
    await settleEach(meant, (each) => replay(jobs, each, { by, deadlineMs: options.deadline }), options, terminal);
  });
}

async function dropDead(names: readonly string[], options: ChangeOptions, terminal: Terminal): Promise<void> {
  await withJobs(options, async (jobs) => {
    // What has no letter has nothing to be dropped.
    const meant = await setAsideMeant(jobs, names, options, ({ letter }) => letter !== undefined);
    if (meant.length > 0 && !options.yes) {
      await confirm(terminal, {
        would: `drop ${countOf(meant)} for good`,
        question: `Drop ${countOf(meant)} for good?`,
        otherwise: "Nothing was dropped.",
      });
    }
    const { drop } = await setAside();
    await settleEach(meant, (each) => drop(jobs, each), options, terminal);
  });
}

/** What was set aside and is meant by the command line. */
async function setAsideMeant(
  jobs: OpenJobs,
  names: readonly string[],
  { all }: ChangeOptions,
  among: (each: SetAside) => boolean = () => true,
): Promise<readonly SetAside[]> {
  if (names.length > 0 === (all === true)) {
    throw new CliError("Say which, by what mcp-aks jobs dead-letter list shows, or --all, and not both.", EXIT.usage);
  }
  const { listSetAside } = await setAside();
  const found = await listSetAside(jobs, { partitions: jobs.partitions, limit: MOST_SET_ASIDE });
  if (all) return found.filter(among);
  return [...new Set(names)].map((name) => {
    const meant = found.find((each) => each.name === name || each.ref?.id === name);
    if (meant) return meant;
    throw new CliError(
      `Nothing was set aside as ${name} in ${jobs.place}; mcp-aks jobs dead-letter list shows what was.`,
    );
  });
}

/** One after the other, each told as it is done: what ends the command in between is seen where it did. */
async function settleEach(
  meant: readonly SetAside[],
  settle: (each: SetAside) => Promise<Settled>,
  options: Options,
  terminal: Terminal,
): Promise<void> {
  const { green, red } = terminal.colours;
  const settled: Settled[] = [];
  for (const each of meant) {
    const done = await settle(each);
    settled.push(done);
    if (options.json) continue;
    const { name, job, outcome, because } = done;
    const mark = outcome === "kept" ? red("✖") : green("✔");
    terminal.err(
      `${mark} ${name}${job === undefined || job === name ? "" : ` (job ${job})`}: ${outcome}.${because === undefined ? "" : ` ${because}`}\n`,
    );
  }
  if (options.json) json(terminal, { settled });
  else if (meant.length === 0) terminal.err("Nothing was set aside.\n");
  const kept = settled.filter(({ outcome }) => outcome === "kept").length;
  if (kept > 0) throw new CliError(`${kept} of ${settled.length} could not be done.`);
}

async function replayLog({ since, dryRun, yes, ...options }: ReplayOptions, terminal: Terminal): Promise<void> {
  await withJobs(options, async ({ place, store }) => {
    const { compare, rebuild } = await import("../../server/services/jobs/replay.ts");
    let jobs = 0;
    const told = async function* () {
      for await (const each of rebuild(store.events({ since }))) {
        jobs += 1;
        yield each;
      }
    };
    const differences: Difference[] = [];
    for await (const difference of compare(told(), store)) {
      differences.push(difference);
      if (!options.json) showDifference(difference, terminal);
    }
    const mendable = differences.flatMap(({ repair }) => repair ?? []);
    let mended: string[] = [];
    if (!dryRun && mendable.length > 0) {
      if (!yes) {
        await confirm(terminal, {
          would: `write ${countOf(mendable)} anew from the events`,
          question: `Write ${countOf(mendable)} anew from the events?`,
          otherwise: "Nothing was mended.",
        });
      }
      for (const job of mendable) if (await store.repair(job)) mended = [...mended, job.id];
    }
    if (options.json) {
      const shown = differences.map(({ repair, ...rest }) => ({ ...rest, ...(repair && { state: repair.state }) }));
      json(terminal, { place, since, jobs, differences: shown, mended });
    } else {
      const of = `${jobs === 1 ? "one job" : `${jobs} jobs`} with events since ${since} in ${place}`;
      if (differences.length === 0)
        terminal.err(`${terminal.colours.green("✔")} ${of}: all are as their events say.\n`);
      else if (!dryRun) terminal.err(`${terminal.colours.green("✔")} ${of}: mended ${mended.length}.\n`);
    }
    const left = differences.length - mended.length;
    if (left === 0) return;
    const as = left === 1 ? "One job is" : `${left} jobs are`;
    throw new CliError(`${as} not as the events say.${dryRun ? " Without --dry-run, what can be mended is." : ""}`);
  });
}

function showDifference({ ref, kind, detail, repair }: Difference, { out, colours }: Terminal): void {
  const mend = repair ? `by its events it is ${repair.state}` : "nothing to mend it by";
  out(`${colours.red("✖")} ${ref.id} ${kind}: ${detail} ${colours.dim(`(${ref.partition}; ${mend})`)}\n`);
}

const json = (terminal: Terminal, value: unknown): void => terminal.out(`${JSON.stringify(value, null, 2)}\n`);
const countOf = ({ length }: readonly unknown[]): string => (length === 1 ? "one job" : `${length} jobs`);
/** To the second, in UTC. */
const timeOf = (time: string): string => (time === "" ? "-" : `${time.slice(0, 10)} ${time.slice(11, 19)}`);

function limitOf(text: string): number {
  const limit = Number(text);
  if (/^\d{1,6}$/.test(text) && limit > 0) return limit;
  throw new InvalidArgumentError("give a number from 1 to 999999.");
}

/** ISO 8601 of a time that is given so, or as so long ago. */
function sinceOf(text: string): string {
  if (/^\d+[a-z]$/.test(text)) return new Date(Date.now() - duration(text)).toISOString();
  const time = /^\d{4}-\d{2}-\d{2}(T.*)?$/.test(text) ? Date.parse(text) : Number.NaN;
  if (!Number.isNaN(time)) return new Date(time).toISOString();
  throw new InvalidArgumentError("give a time such as 2026-01-31T12:00:00Z, or so long ago such as 2h, 3d or 1w.");
}
