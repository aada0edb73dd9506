import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";

/** What a process of the bench has used so far. */
export interface Usage {
  readonly cpuMicros: number;
}

/** A script of the bench in a process of its own, which ends with this one. */
export interface ScriptProcess<Ready> {
  /** What it said first, which is that it is there. */
  readonly ready: Ready;
  usage(): Promise<Usage>;
  /** Hears of whatever else it says. */
  onMessage(listener: (message: unknown) => void): void;
  stop(): void;
}

/** Starts a script of this folder, which is ready with its first message. */
export async function startScript<Ready = { readonly port: number }>(
  script: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<ScriptProcess<Ready>> {
  const child = fork(fileURLToPath(new URL(script, import.meta.url)), args, {
    stdio: ["ignore", "ignore", "inherit", "ipc"],
    env: { ...process.env, NODE_ENV: "production", ...env },
  });
  const told = <T>(isIt: (message: unknown) => boolean = () => true) =>
    new Promise<T>((resolve, reject) => {
      const listen = (message: unknown) => {
        if (!isIt(message)) return;
        child.off("message", listen);
        child.off("exit", fail);
        resolve(message as T);
      };
      const fail = (code: number | null) => reject(new Error(`${script} ${args.join(" ")} ended with code ${code}.`));
      child.on("message", listen);
      child.on("exit", fail);
    });
  return {
    ready: await told<Ready>(),
    usage: () => {
      const usage = told<Usage>((message) => message instanceof Object && "cpuMicros" in message);
      child.send("usage");
      return usage;
    },
    onMessage: (listener) => void child.on("message", listener),
    stop: () => child.disconnect(),
  };
}

/** For a script: says that it is there, says what it has used when asked, and ends when whoever started it does. */
export function tellStarter(ready: object): void {
  process.on("message", () => {
    const { user, system } = process.cpuUsage();
    process.send?.({ cpuMicros: user + system, residentBytes: process.memoryUsage.rss() });
  });
  process.on("disconnect", () => process.exit(0));
  process.send?.(ready);
}
