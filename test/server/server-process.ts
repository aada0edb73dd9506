import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export type Event = Record<string, unknown>;

/** A server in a process of its own. */
export interface ServerProcess {
  readonly child: ChildProcess;
  readonly url: URL;
  readonly metricsUrl: string;
  /** Resolves with the first event of that name, past or to come. */
  event(name: string): Promise<Event>;
  readonly exited: Promise<{ code: number | null; signal: string | null }>;
}

/** One of the server's entries; `left` descriptors beside the standard ones stay open in it. */
export function spawnEntry(name: string, env: Record<string, string>, left = 0): ChildProcess {
  const stdio = Array.from({ length: 3 + left }, () => "pipe" as const);
  return spawn(process.execPath, [fileURLToPath(new URL(`../../server/${name}`, import.meta.url))], { env, stdio });
}

/** Resolves when the server listens, on ports that were free. */
export async function serverIn(child: ChildProcess, listens = "server.listening"): Promise<ServerProcess> {
  const events: Event[] = [];
  const waiters = new Map<string, (event: Event) => void>();
  if (child.stdout === null) throw new Error("The server has no output.");
  createInterface(child.stdout).on("line", (line) => {
    const event = JSON.parse(line) as Event;
    events.push(event);
    waiters.get(String(event.event))?.(event);
  });
  const exited = once(child, "exit").then(([code, signal]) => ({
    code: code as number | null,
    signal: signal as string | null,
  }));
  const event = (name: string) => {
    const past = events.find((each) => each.event === name);
    return past ? Promise.resolve(past) : new Promise<Event>((resolve) => waiters.set(name, resolve));
  };
  const listening = await Promise.race([event(listens), exited.then(() => undefined)]);
  if (listening === undefined) throw new Error("The server did not start.");
  return { child, url: new URL(String(listening.url)), metricsUrl: String(listening.metricsUrl), event, exited };
}

/** Commands that run on that server now. */
export async function commandsRunning({ metricsUrl }: ServerProcess): Promise<number> {
  const response = await fetch(new URL("/health/detailed", metricsUrl));
  return ((await response.json()) as { commands: { running: number } }).commands.running;
}
