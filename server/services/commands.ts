import { type ChildProcess, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { wholeCharactersFromStart, wholeCharactersToEnd } from "./utf8.ts";

/** Bounds on every command; seconds and bytes as configured. */
export interface CommandLimits {
  /** Longest run and the default one, seconds. */
  readonly timeoutSeconds: number;
  /** Bytes kept of each output stream. */
  readonly outputBytes: number;
  /** Commands at once. */
  readonly concurrency: number;
}

export interface CommandRequest {
  /** Run by `/bin/sh -c`. */
  readonly command: string;
  /** Absolute, existing, already checked to be inside the workspace. */
  readonly directory: string;
  /** Home of the command: the root of the workspace. */
  readonly home: string;
  /** At most the limit. */
  readonly timeoutSeconds: number;
  readonly signal: AbortSignal;
  /** Hears of output as it comes, before any of it is dropped. Must neither throw nor take long. */
  readonly onOutput?: ((stream: "stdout" | "stderr", chunk: Buffer) => void) | undefined;
}

/** One output stream: its head and its tail when it was longer than the limit. */
export interface CapturedStream {
  readonly text: string;
  /** Bytes left out of the middle. */
  readonly droppedBytes: number;
}

export interface CommandResult {
  /** Null when a signal ended the command. */
  readonly exitCode: number | null;
  readonly signal: string | null;
  readonly stdout: CapturedStream;
  readonly stderr: CapturedStream;
  /** Why the command was killed, when it was. */
  readonly killed: "timeout" | "cancelled" | "output" | "shutdown" | undefined;
  readonly durationMs: number;
}

export type Kill = NonNullable<CommandResult["killed"]>;

/** Too many commands run already. */
export class CommandLimitReached extends Error {
  override readonly name = "CommandLimitReached";
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
  readonly limits: CommandLimits;
  /** Commands running now. */
  readonly running: number;
  /** Runs one command to its end. Throws {@link CommandLimitReached} or {@link CommandNotStarted}. */
  run(request: CommandRequest): Promise<CommandResult>;
  /** Kills what runs, with SIGTERM first; the calls end with `killed: "shutdown"`. */
  stopAll(): void;
  /** Kills what runs, at once and without waiting: for the last act of a process. */
  killAllNow(): void;
}

/** Time from SIGTERM to SIGKILL. */
const TERM_GRACE_MS = 2000;
/** How long the pipes may stay open after the command and its group are dead, before they are closed from here. */
const PIPE_GRACE_MS = 500;
/** A command that writes this many times its output limit is a flood: reading it only to drop it starves others. */
const FLOOD_FACTOR = 1024;
/** The one variable that marks a command's processes, so that those which left the process group are found. */
const MARK = "MCP_COMMAND_ID";

/**
 * Runs shell commands: each in its own process group, with an environment built from nothing, no input, and bounds on
 * time, output and number. When a command ends, whatever it left behind ends with it.
 */
export function createCommandRunner(limits: CommandLimits): CommandRunner {
  const running = new Set<{ child: ChildProcess; stop(why: Kill): void }>();

  return {
    limits,
    get running() {
      return running.size;
    },
    stopAll() {
      for (const { stop } of running) stop("shutdown");
    },
    killAllNow() {
      for (const { child } of running) signalGroup(child, "SIGKILL");
    },
    async run(request) {
      if (running.size >= limits.concurrency) throw new CommandLimitReached();
      const started = performance.now();
      const mark = randomUUID();
      const child = start(request, mark);
      const stdout = captureOf(limits.outputBytes);
      const stderr = captureOf(limits.outputBytes);

      let killed: Kill | undefined;
      let hardKill: NodeJS.Timeout | undefined;
      const stop = (why: Kill) => {
        if (killed !== undefined) return;
        killed = why;
        signalGroup(child, "SIGTERM");
        hardKill = setTimeout(() => signalGroup(child, "SIGKILL"), TERM_GRACE_MS);
      };
      const entry = { child, stop };
      running.add(entry);

      const onAbort = () => stop("cancelled");
      const timeout = setTimeout(() => stop("timeout"), request.timeoutSeconds * 1000);
      request.signal.addEventListener("abort", onAbort, { once: true });
      if (request.signal.aborted) onAbort();

      const floodBytes = limits.outputBytes * FLOOD_FACTOR;
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

      try {
        const closed = new Promise<void>((resolve) => child.once("close", () => resolve()));
        const { exitCode, signal } = await exitOf(child);
        // Background children may hold the pipes and outlive the shell; neither is allowed.
        signalGroup(child, "SIGKILL");
        await killMarked(mark);
        await within(closed, PIPE_GRACE_MS);
        child.stdout?.destroy();
        child.stderr?.destroy();
        return {
          exitCode,
          signal,
          stdout: stdout.read(),
          stderr: stderr.read(),
          killed,
          durationMs: Math.round(performance.now() - started),
        };
      } finally {
        clearTimeout(timeout);
        clearTimeout(hardKill);
        request.signal.removeEventListener("abort", onAbort);
        running.delete(entry);
      }
    },
  };
}

function start({ command, directory, home }: CommandRequest, mark: string): ChildProcess {
  try {
    return spawn("/bin/sh", ["-c", command], {
      cwd: directory,
      // Built from nothing: the server's own environment holds addresses and tokens that no command may see.
      env: {
        PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        HOME: home,
        SHELL: "/bin/sh",
        LANG: "C.UTF-8",
        TERM: "dumb",
        NO_COLOR: "1",
        [MARK]: mark,
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

/**
 * Kills the processes that left the command's group (`setsid`, daemons) but still carry its mark in their environment.
 * Linux only, where `/proc` shows it. What leaves the group and also hides its environment, by clearing it or by being
 * a program that may not be read, escapes; the container's end catches that.
 */
async function killMarked(mark: string): Promise<void> {
  if (process.platform !== "linux") return;
  const needle = `${MARK}=${mark}`;
  // More rounds than one, since a process may fork between being seen and being killed.
  for (let round = 0; round < 5; round++) {
    const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
    const found = await Promise.all(
      pids.map(async (pid) => {
        const environment = await readFile(`/proc/${pid}/environ`, "latin1").catch(() => "");
        return environment.includes(needle) ? Number(pid) : undefined;
      }),
    );
    const survivors = found.filter((pid) => pid !== undefined);
    if (survivors.length === 0) return;
    for (const pid of survivors) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // Gone in the meantime.
      }
    }
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

/** Keeps the first and the last half of `limit` bytes of a stream, and counts the rest. */
function captureOf(limit: number) {
  const headLimit = Math.ceil(limit / 2);
  const tailLimit = limit - headLimit;
  const head: Buffer[] = [];
  const tail: Buffer[] = [];
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
      };
    },
  };
}
