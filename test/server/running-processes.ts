import { readdir, readFile } from "node:fs/promises";

/** Processes that have not ended and have `mark` in their command line. Linux only. */
async function marked(mark: string): Promise<number[]> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  const lines = await Promise.all(pids.map((pid) => readFile(`/proc/${pid}/cmdline`, "latin1").catch(() => "")));
  return pids.filter((_, at) => lines[at]?.includes(mark)).map(Number);
}

export async function isRunning(mark: string): Promise<boolean> {
  return (await marked(mark)).length > 0;
}

/** Kills what a test may leave behind. */
export async function endMarked(mark: string): Promise<void> {
  for (const pid of await marked(mark)) process.kill(pid, "SIGKILL");
}

let marks = 0;

/** A number of seconds that no other process sleeps for, so that this one can be told from all others. */
export const sleepMark = () => `${86_400 + (process.pid % 10_000)}.${++marks}${Date.now() % 100_000}`;
