import { type ChildProcess, spawn } from "node:child_process";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CliError } from "./cli-error.ts";
import type { LocalWorkload } from "./local-workload.ts";

/** A process of the rehearsal. */
export interface RunningWorkload {
  /** Resolves when the process has ended, however it did. */
  readonly ended: Promise<Ending>;
  /** The end of what it has written, both streams, for messages. */
  lastLines(): string;
  /** Asks it to end (SIGTERM) and waits; kills it when the grace is over. Safe to call more than once. */
  stop(): Promise<Ending>;
  /** Ends it now: nobody wants to know what becomes of it. */
  kill(): Promise<Ending>;
}

export interface Ending {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** Whether it had to be killed. */
  readonly killed: boolean;
}

/** Lines kept for messages. */
const LINES = 40;

/** Starts a workload; `graceSeconds` is the pod's, after which the kubelet kills. */
export async function startWorkload(local: LocalWorkload, graceSeconds: number): Promise<RunningWorkload> {
  await Promise.all(local.directories.map((directory) => mkdir(directory, { recursive: true })));
  const [program = "", ...args] = local.command;
  const child = spawn(program, args, {
    cwd: local.directory,
    env: { ...local.environment },
    stdio: ["ignore", "pipe", "pipe"],
    // A group of its own: Ctrl-C at the terminal is for this process to pass on, not for both at once.
    detached: process.platform !== "win32",
  });
  const lines: string[] = [];
  const keep = (text: string) => {
    lines.push(...text.split("\n").filter((line) => line.trim() !== ""));
    lines.splice(0, lines.length - LINES);
  };
  child.stdout.setEncoding("utf8").on("data", keep);
  child.stderr.setEncoding("utf8").on("data", keep);

  let killed = false;
  const ended = new Promise<Ending>((resolve) => {
    child.once("error", (error) => {
      keep(error.message);
      resolve({ code: null, signal: null, killed: false });
    });
    child.once("close", (code, signal) => resolve({ code, signal, killed }));
  });
  // Whatever ends this process, the workload does not outlive it.
  const onExit = () => kill(child);
  process.once("exit", onExit);
  void ended.then(() => process.removeListener("exit", onExit));

  let stopping: Promise<Ending> | undefined;
  const stop = async (): Promise<Ending> => {
    if (child.exitCode !== null || child.signalCode !== null) return ended;
    child.kill("SIGTERM");
    const timer = setTimeout(() => {
      killed = true;
      kill(child);
    }, graceSeconds * 1000);
    const ending = await ended;
    clearTimeout(timer);
    return ending;
  };
  return {
    ended,
    lastLines: () => lines.join("\n"),
    stop: () => {
      stopping ??= stop();
      return stopping;
    },
    kill: () => {
      killed ||= child.exitCode === null && child.signalCode === null;
      kill(child);
      return ended;
    },
  };
}

/** Kills the process with its group. */
function kill(child: ChildProcess): void {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  try {
    if (process.platform === "win32") child.kill("SIGKILL");
    else process.kill(-child.pid, "SIGKILL");
  } catch {
    // It has just ended.
  }
}

/** A directory for the volumes. */
export function volumeDirectory(): Promise<string> {
  return mkdtemp(join(tmpdir(), "mcp-rehearsal-"));
}

export async function removeDirectory(directory: string): Promise<void> {
  await rm(directory, { recursive: true, force: true, maxRetries: 3 });
}

/** @throws CliError naming the port and the mend, when something listens there already. */
export async function assertPortIsFree(port: number, what: string, host = "127.0.0.1"): Promise<void> {
  const fault = await listenOnce(port, host).then(
    () => undefined,
    (error: NodeJS.ErrnoException) => error.code ?? error.message,
  );
  if (fault === undefined) return;
  const why = fault === "EADDRINUSE" ? "is in use by another program" : `cannot be listened on (${fault})`;
  throw new CliError(
    `Port ${port}, where the plan's Deployment has its ${what}, ${why}. ` +
      "Free it, or take others: --port 18080 (metrics go to the port above), or --port 0 for any two that are free.",
  );
}

/** Two free ports. Somebody else may take one before the server does; its message then says so. */
export async function freePorts(): Promise<{ http: number; metrics: number }> {
  const [http, metrics] = await Promise.all([listenOnce(0), listenOnce(0)]);
  return { http, metrics };
}

function listenOnce(port: number, host = "127.0.0.1"): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once("error", reject);
    probe.listen({ port, host, exclusive: true }, () => {
      const address = probe.address();
      probe.close(() => resolve(typeof address === "object" && address ? address.port : port));
    });
  });
}
