import { type ChildProcess, spawn } from "node:child_process";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import type { CommandLimits, Role } from "../config.ts";
import {
  killLeftovers,
  proportionalBytes,
  releaseTag,
  type Tag,
  taggedProcesses,
  takeTag,
  usageOf,
} from "./command-processes.ts";
import { type Isolation, KILLED_INSIDE } from "./isolation.ts";
import { removeTree } from "./remove-tree.ts";
import { wholeCharactersFromStart, wholeCharactersToEnd } from "./utf8.ts";

export interface CommandRequest {
  /** Program and arguments; a shell's are `/bin/sh`, `-c` and the command line. */
  readonly words: readonly [string, ...string[]];
  /** Root of the caller's workspace, absolute; the command's home. */
  readonly workspace: string;
  /** Absolute, existing, already checked to be inside the workspace. */
  readonly directory: string;
  /** Whom the command counts for. */
  readonly caller: string;
  /** Whose limits hold. */
  readonly role: Role;
  /** At most the role's limit, which is the default. */
  readonly timeoutSeconds?: number | undefined;
  /** Bytes of the largest file it may write, where that is less than the role's limit. */
  readonly fileBytes?: number | undefined;
  readonly signal: AbortSignal;
  /** Bytes of each output stream up to which all of it is kept, where that is more than the role's limit. */
  readonly wholeBytes?: number | undefined;
  /** Hears of output as it comes, before any of it is dropped. Must neither throw nor take long. */
  readonly onOutput?: ((stream: "stdout" | "stderr", chunk: Buffer) => void) | undefined;
}

/** One output stream: its head and its tail when it was longer than the limit. */
export interface CapturedStream {
  readonly text: string;
  /** Bytes left out of the middle. */
  readonly droppedBytes: number;
  /** All of it, where bytes were left out and it was no longer than was asked for. */
  readonly whole?: Buffer;
}

export interface CommandResult {
  /** Null when a signal ended the command. */
  readonly exitCode: number | null;
  readonly signal: string | null;
  readonly stdout: CapturedStream;
  readonly stderr: CapturedStream;
  /** Why the command was killed, when it was. */
  readonly killed: "timeout" | "cancelled" | "output" | "cpu" | "memory" | "processes" | "shutdown" | undefined;
  readonly durationMs: number;
}

export type Kill = NonNullable<CommandResult["killed"]>;

/** Too many commands run already, of this caller or of all. */
export class CommandLimitReached extends Error {
  override readonly name = "CommandLimitReached";
  readonly scope: "caller" | "server";
  readonly limit: number;

  constructor(scope: "caller" | "server", limit: number) {
    super(`${limit} commands of this ${scope} run already`);
    this.scope = scope;
    this.limit = limit;
  }
}

/** The operating system would not start the command. `code` is its error code, such as `EAGAIN`. */
export class CommandNotStarted extends Error {
  override readonly name = "CommandNotStarted";
  readonly code: string;

  constructor(cause: Error) {
    super(cause.message, { cause });
    this.code = "code" in cause ? String(cause.code) : "UNKNOWN";
  }
}

export interface CommandRunner {
  readonly limits: Readonly<Record<Role, CommandLimits>>;
  /** Commands at once, whoever called them. */
  readonly concurrency: number;
  /** Whether command lines are a shell's. */
  readonly shell: boolean;
  /** Commands running now. */
  readonly running: number;
  /** What keeps commands apart; found out once, after the start. */
  readonly isolation: Promise<Isolation>;
  /** Runs one command to its end. Throws {@link CommandLimitReached} or {@link CommandNotStarted}. */
  run(request: CommandRequest): Promise<CommandResult>;
  /** Kills what runs, with SIGTERM first; the calls end with `killed: "shutdown"`. */
  stopAll(): void;
  /** Kills what runs and removes what isolation keeps on disk, at once and without waiting: for the last act of a process. */
  killAllNow(): void;
}

export interface CommandRunnerOptions {
  readonly limits: Readonly<Record<Role, CommandLimits>>;
  /** Commands at once, whoever called them. */
  readonly concurrency: number;
  /** Whether command lines are a shell's; otherwise they are one program and its arguments. */
  readonly shell: boolean;
  readonly isolation: Promise<Isolation>;
}

/** Time from SIGTERM to SIGKILL. */
const TERM_GRACE_MS = 2000;
/** How long the pipes may stay open after the command and its group are dead, before they are closed from here. */
const PIPE_GRACE_MS = 500;
/** A command that writes this many times its output limit is a flood: reading it only to drop it starves others. */
const FLOOD_FACTOR = 1024;
/** How often a command's processes are added up. Shorter commands are held by the kernel's limits of each alone. */
const WATCH_MS = 250;

/** How long the hunt for what a command left behind may take; what is left then is killed when the next one ends. */
const HUNT_MS = 2000;
/** Rounds of it when there is no more waiting. */
const LAST_ROUNDS = 5;

/** One command that runs. */
interface Run {
  readonly child: ChildProcess;
  readonly tag: Tag;
  readonly limits: CommandLimits;
  stop(why: Kill, how?: "term" | "kill"): void;
}

/**
 * Runs commands: each in its own process group and in whatever isolation the kernel allows, with an environment built
 * from nothing, no input, and bounds on time, memory, processes, output and number. When a command ends, whatever it
 * left behind ends with it.
 */
export function createCommandRunner({ limits, concurrency, shell, isolation }: CommandRunnerOptions): CommandRunner {
  const running = new Set<Run>();
  // From the moment that a command is let in; starting it takes a while.
  const admitted = new Map<string, number>();
  let admittedInAll = 0;
  let watch: NodeJS.Timeout | undefined;
  let isolated: Isolation | undefined;
  let ended = false;
  isolation.then(
    (found) => {
      isolated = found;
      if (ended) found.close();
    },
    // For whoever awaits it.
    () => {},
  );

  function admit(caller: string, most: number): () => void {
    const own = admitted.get(caller) ?? 0;
    if (admittedInAll >= concurrency) throw new CommandLimitReached("server", concurrency);
    if (own >= most) throw new CommandLimitReached("caller", most);
    admitted.set(caller, own + 1);
    admittedInAll++;
    return () => {
      admittedInAll--;
      const left = (admitted.get(caller) ?? 1) - 1;
      if (left === 0) admitted.delete(caller);
      else admitted.set(caller, left);
    };
  }

  /** The kernel's limits are each process's own; their sum is looked at from here. */
  function watchAll(): void {
    const processes = taggedProcesses();
    for (const run of running) enforceTotals(run, processes.get(run.tag) ?? []);
  }

  async function runAdmitted(request: CommandRequest, most: CommandLimits): Promise<CommandResult> {
    const ready = await isolation;
    const { needsTemporary, endsAll } = ready;
    request.signal.throwIfAborted();
    const started = performance.now();
    const tag = takeTag();
    const timeoutSeconds = request.timeoutSeconds ?? most.timeoutSeconds;
    const temporary = needsTemporary ? await makeTemporary() : undefined;
    const stdout = captureOf(most.outputBytes, request.wholeBytes);
    const stderr = captureOf(most.outputBytes, request.wholeBytes);
    let killed: Kill | undefined;
    let hardKill: NodeJS.Timeout | undefined;
    let timeout: NodeJS.Timeout | undefined;
    let run: Run | undefined;
    const onAbort = () => run?.stop("cancelled");
    try {
      const child = start(request, { ...most, tag, temporary }, ready);
      const stop = (why: Kill, how: "term" | "kill" = "term") => {
        if (killed !== undefined) return;
        killed = why;
        if (how === "kill") return signalGroup(child, "SIGKILL");
        signalGroup(child, "SIGTERM");
        hardKill = setTimeout(() => signalGroup(child, "SIGKILL"), TERM_GRACE_MS);
      };
      run = { child, tag, limits: most, stop };
      running.add(run);
      watch ??= setInterval(watchAll, WATCH_MS).unref();

      timeout = setTimeout(() => stop("timeout"), timeoutSeconds * 1000);
      request.signal.addEventListener("abort", onAbort, { once: true });
      if (request.signal.aborted) onAbort();

      const floodBytes = most.outputBytes * FLOOD_FACTOR;
      for (const [stream, capture, name] of [
        [child.stdout, stdout, "stdout"],
        [child.stderr, stderr, "stderr"],
      ] as const) {
        stream?.on("data", (chunk: Buffer) => {
          capture.add(chunk);
          request.onOutput?.(name, chunk);
          if (capture.seen > floodBytes) stop("output");
        });
        // A pipe torn down from here ends with an error that says nothing new.
        stream?.on("error", () => {});
      }

      const closed = new Promise<void>((resolve) => child.once("close", () => resolve()));
      const { exitCode, signal } = await exitOf(child);
      // Background children may hold the pipes and outlive the shell; neither is allowed.
      signalGroup(child, "SIGKILL");
      running.delete(run);
      releaseTag(tag);
      if (!endsAll) await hunt();
      await within(closed, PIPE_GRACE_MS);
      child.stdout?.destroy();
      child.stderr?.destroy();
      if (signal === "SIGXCPU") killed ??= "cpu";
      return {
        ...endOf({ exitCode, signal, stderr: stderr.read() }),
        stdout: stdout.read(),
        killed,
        durationMs: Math.round(performance.now() - started),
      };
    } finally {
      clearTimeout(timeout);
      clearTimeout(hardKill);
      request.signal.removeEventListener("abort", onAbort);
      if (run !== undefined) running.delete(run);
      releaseTag(tag);
      if (running.size === 0) {
        clearInterval(watch);
        watch = undefined;
      }
      if (temporary !== undefined) await removeTree(temporary).catch(() => {});
    }
  }

  return {
    limits,
    concurrency,
    shell,
    isolation,
    get running() {
      return running.size;
    },
    stopAll() {
      for (const { stop } of running) stop("shutdown");
    },
    killAllNow() {
      for (const { child } of running) signalGroup(child, "SIGKILL");
      for (const { tag } of running) releaseTag(tag);
      if (isolated?.endsAll === false) for (let round = 0; round < LAST_ROUNDS && killLeftovers() > 0; round++);
      ended = true;
      isolated?.close();
    },
    async run(request) {
      const most = limits[request.role];
      const leave = admit(request.caller, most.concurrency);
      try {
        return await runAdmitted(request, most);
      } finally {
        leave();
      }
    },
  };
}

/** A directory for one command's temporary files; without one, it has to do with its workspace. */
function makeTemporary(): Promise<string | undefined> {
  return mkdtemp(join(tmpdir(), "mcp-command-")).catch(() => undefined);
}

function endOf(end: Pick<CommandResult, "exitCode" | "signal" | "stderr">) {
  const { exitCode, stderr } = end;
  if (exitCode !== 1 || !stderr.text.endsWith(KILLED_INSIDE)) return end;
  const text = stderr.text.slice(0, -KILLED_INSIDE.length);
  return { exitCode: null, signal: "SIGKILL", stderr: { ...stderr, text } };
}

/** Kills what commands left behind, for as long as it is killed faster than it forks. */
async function hunt(): Promise<void> {
  const until = performance.now() + HUNT_MS;
  while (killLeftovers() > 0 && performance.now() < until) await setImmediate();
}

function enforceTotals({ limits, stop }: Run, pids: readonly number[]): void {
  const usage = usageOf(pids);
  if (usage === undefined) return;
  const { cpuSeconds, processes, residentBytes } = usage;
  if (cpuSeconds > limits.cpuSeconds) stop("cpu");
  else if (processes > limits.processes + UNCOUNTED) stop("processes", "kill");
  // What is resident is quickly asked and counts shared pages twice; only when it is too much is it asked exactly.
  else if (residentBytes > limits.memoryBytes && proportionalBytes(pids) > limits.memoryBytes) stop("memory", "kill");
}

/** Processes of the isolation itself: the waiting one, process 1 of the namespace, its sleeper. */
const UNCOUNTED = 3;

function start(
  { words, workspace, directory, fileBytes }: CommandRequest,
  { tag, temporary, ...limits }: CommandLimits & { tag: Tag; temporary: string | undefined },
  isolation: Isolation,
): ChildProcess {
  const most = Math.min(fileBytes ?? limits.fileBytes, limits.fileBytes);
  const launch = { words, workspace, directory, limits, fileBytes: most, tag, temporary };
  try {
    const [program, ...args] = isolation.wrap(launch);
    return spawn(program, args, {
      cwd: directory,
      // Built from nothing: the server's own environment holds addresses and tokens that no command may see.
      env: {
        PATH: isolation.path,
        HOME: workspace,
        SHELL: "/bin/sh",
        LANG: "C.UTF-8",
        TERM: "dumb",
        NO_COLOR: "1",
        ...(temporary !== undefined && { TMPDIR: temporary }),
      },
      stdio: ["ignore", "pipe", "pipe"],
      detached: true,
    });
  } catch (error) {
    throw new CommandNotStarted(error instanceof Error ? error : new Error(String(error)));
  }
}

function exitOf(child: ChildProcess): Promise<{ exitCode: number | null; signal: string | null }> {
  return new Promise((resolve, reject) => {
    child.once("error", (error) => reject(new CommandNotStarted(error)));
    child.once("exit", (exitCode, signal) => resolve({ exitCode, signal }));
  });
}

/** Signals the child's whole process group; the child leads it, so its id names it for as long as any member lives. */
function signalGroup(child: ChildProcess, signal: NodeJS.Signals): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, signal);
  } catch {
    // ESRCH: nobody is left in the group.
  }
}

function within(promise: Promise<void>, ms: number): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    void promise.then(() => {
      clearTimeout(timer);
      resolve();
    });
  });
}

/** Keeps the first and the last half of `limit` bytes of a stream, and counts the rest; and all of up to `wholeBytes`. */
function captureOf(limit: number, wholeBytes = 0) {
  const headLimit = Math.ceil(limit / 2);
  const tailLimit = limit - headLimit;
  const head: Buffer[] = [];
  const tail: Buffer[] = [];
  let whole: Buffer[] | undefined = [];
  let headBytes = 0;
  let tailBytes = 0;
  let seen = 0;
  return {
    /** Bytes so far. */
    get seen() {
      return seen;
    },
    add(chunk: Buffer): void {
      seen += chunk.length;
      if (seen > wholeBytes) whole = undefined;
      whole?.push(chunk);
      const toHead = Math.min(chunk.length, headLimit - headBytes);
      if (toHead > 0) {
        head.push(chunk.subarray(0, toHead));
        headBytes += toHead;
      }
      const rest = chunk.subarray(toHead);
      if (rest.length === 0) return;
      tail.push(rest);
      tailBytes += rest.length;
      while (tail[0] !== undefined && tailBytes - tail[0].length >= tailLimit) {
        tailBytes -= tail[0].length;
        tail.shift();
      }
    },
    read(): CapturedStream {
      const kept = Buffer.concat(tail);
      if (seen <= limit) return { text: Buffer.concat([...head, kept]).toString("utf8"), droppedBytes: 0 };
      const first = wholeCharactersFromStart(Buffer.concat(head));
      const last = wholeCharactersToEnd(kept.subarray(Math.max(0, kept.length - tailLimit)));
      const droppedBytes = seen - first.length - last.length;
      return {
        text: `${first.toString("utf8")}\n[... ${droppedBytes} bytes left out ...]\n${last.toString("utf8")}`,
        droppedBytes,
        ...(whole && { whole: Buffer.concat(whole) }),
      };
    },
  };
}
