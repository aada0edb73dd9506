import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const ENTRY = fileURLToPath(new URL("worker.ts", import.meta.url));
const SKEWED_CLOCK = fileURLToPath(new URL("skewed-clock.ts", import.meta.url));

/** Worker processes: so many at any time, whatever becomes of each. */
export class Workers {
  readonly #directory: string;
  readonly #environment: NodeJS.ProcessEnv;
  /** By their places, each with a clock that is wrong by so much. Milliseconds. */
  readonly #skews: readonly number[];
  readonly #processes: ChildProcess[] = [];
  readonly #logs: string[] = [];
  readonly #told = new Set<ChildProcess>();
  #ending = false;
  /** Processes that ended by a fault of their own, each with the last that it said. */
  readonly failed: string[] = [];

  constructor(directory: string, environment: NodeJS.ProcessEnv, skews: readonly number[]) {
    this.#directory = directory;
    this.#environment = environment;
    this.#skews = skews;
    for (const place of skews.keys()) this.#start(place);
  }

  get places(): readonly number[] {
    return [...this.#skews.keys()];
  }

  /**
   * Sends a signal to the one in a place; another takes the place of one that ends. One that has been told to end is
   * killed when it is told again, as a cluster does it.
   */
  signal(place: number, signal: NodeJS.Signals): void {
    const worker = this.#processes[place];
    const again = signal === "SIGTERM" && worker !== undefined && this.#told.has(worker);
    if (signal === "SIGTERM" && worker !== undefined) this.#told.add(worker);
    worker?.kill(again ? "SIGKILL" : signal);
  }

  async end(): Promise<void> {
    this.#ending = true;
    const living = this.#processes.filter(({ exitCode, signalCode }) => exitCode === null && signalCode === null);
    await Promise.all(
      living.map((each) => {
        const exited = once(each, "exit");
        each.kill("SIGKILL");
        return exited;
      }),
    );
  }

  /** Lines of all logs that have `text` in them, by the time in them. */
  async lines(text: string): Promise<string[]> {
    const logs = await Promise.all(this.#logs.map((path) => readFile(path, "utf8")));
    return logs.flatMap((log) => log.split("\n")).filter((line) => line.includes(text));
  }

  #start(place: number): void {
    const skewMs = this.#skews[place] ?? 0;
    const path = join(this.#directory, `worker-${this.#logs.length}.log`);
    this.#logs.push(path);
    const log = openSync(path, "a");
    const child = spawn(process.execPath, [...(skewMs === 0 ? [] : ["--import", SKEWED_CLOCK]), ENTRY], {
      env: { ...this.#environment, CHAOS_SKEW_MS: String(skewMs) },
      stdio: ["ignore", log, log],
    });
    closeSync(log);
    this.#processes[place] = child;
    child.on("exit", (code) => {
      // By a signal, or by itself after SIGTERM.
      if (code !== null && code !== 0) this.failed.push(`${path} ended with ${code}: ${lastOf(path)}`);
      if (!this.#ending) this.#start(place);
    });
  }
}

const LAST_LINES = 5;

function lastOf(log: string): string {
  return readFileSync(log, "utf8").trimEnd().split("\n").slice(-LAST_LINES).join("\n");
}
