import { runtime } from "@pulumi/pulumi";
import { messageOf, type Recorder } from "./recorder.ts";

/** A Pulumi program: what infra/index.ts exports. */
export type Program = () => Promise<Record<string, unknown> | undefined>;

/** How long a program may take that waits for itself; the stacks here take a second. */
const LIMIT_MS = 60_000;

/**
 * Frames of a stack trace while a program runs. Pulumi's runtime writes one down for every promise that it makes, which
 * at the usual ten takes as long as all the rest of a plan; these few still say where the program threw.
 */
const STACK_FRAMES = 3;

/**
 * Runs a program and everything that it set going, against the monitor that the runtime has been given.
 *
 * @returns what the program logged as warnings.
 * @throws what the program threw before it had registered anything; later failures are the recorder's faults.
 */
export async function runProgram(program: Program, recorder: Recorder): Promise<string[]> {
  const rejections = new Rejections();
  const log = new RuntimeLog();
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = Math.min(stackTraceLimit, STACK_FRAMES);
  try {
    await withinLimit(runtime.runInPulumiStack(program).finally(() => runtime.disconnect()));
  } catch (error) {
    rejections.forget(error);
    const begun = [...recorder.registrations.values()].some((registration) => registration.custom);
    if (!begun && recorder.faults.length === 0) {
      await rejections.settle();
      throw error;
    }
    recorder.faults.push({ name: "program", message: messageOf(error) });
  } finally {
    await rejections.settle();
    log.restore();
    Error.stackTraceLimit = stackTraceLimit;
  }
  const known = new Set(recorder.faults.map((fault) => fault.message));
  for (const message of [...rejections.messages, ...log.errors]) {
    if (!known.has(message)) recorder.faults.push({ name: "program", message });
    known.add(message);
  }
  return log.warnings;
}

async function withinLimit(work: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<never>((_resolve, reject) => {
    const late = () => reject(new Error("the program did not come to an end: its resources wait for one another"));
    timer = setTimeout(late, LIMIT_MS);
  });
  try {
    await Promise.race([limit, work]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * A resource whose arguments fail rejects a promise that nobody holds, and Pulumi's runtime rejects one on purpose.
 * While a program runs such rejections are its own: they must not end the process, and they must not be lost.
 */
class Rejections {
  readonly #reasons = new Set<unknown>();
  readonly #others = process.listeners("unhandledRejection");
  readonly #listen = (reason: unknown) => {
    this.#reasons.add(reason);
  };

  constructor() {
    process.removeAllListeners("unhandledRejection");
    process.on("unhandledRejection", this.#listen);
  }

  get messages(): string[] {
    return [...new Set([...this.#reasons].map(messageOf))];
  }

  forget(reason: unknown): void {
    this.#reasons.delete(reason);
  }

  /** Node reports rejections once its queue of promises has run dry; what comes after is somebody else's. */
  async settle(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
    process.off("unhandledRejection", this.#listen);
    const present = process.listeners("unhandledRejection");
    for (const other of this.#others) if (!present.includes(other)) process.on("unhandledRejection", other);
  }
}

const LOG_LINE = /^(info|warning|error): \[runtime\] ([\s\S]*)$/;

/** Without an engine Pulumi's runtime prints what the program logs: into the middle of a plan's JSON. */
class RuntimeLog {
  readonly warnings: string[] = [];
  readonly errors: string[] = [];
  readonly #print = { log: console.log, warn: console.warn, error: console.error };

  constructor() {
    for (const method of ["log", "warn", "error"] as const) {
      console[method] = (...values: unknown[]) => {
        const line = values.length === 1 && typeof values[0] === "string" ? LOG_LINE.exec(values[0]) : null;
        if (!line) this.#print[method](...values);
        if (line?.[1] === "warning") this.warnings.push(line[2] ?? "");
        if (line?.[1] === "error") this.errors.push(line[2] ?? "");
      };
    }
  }

  restore(): void {
    Object.assign(console, this.#print);
  }
}
