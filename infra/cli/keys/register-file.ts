import { open, readFile, realpath, rename, rm, stat, writeFile } from "node:fs/promises";
import { setTimeout as wait } from "node:timers/promises";
import {
  EMPTY_REGISTER,
  parseRegister,
  printRegister,
  type Register,
  RegisterFault,
  UseRecord,
  useFileOf,
} from "../../../server/auth/key-register.ts";
import { CliError } from "../cli-error.ts";
import { sound } from "./register-edits.ts";
import type { RegisterStore } from "./register-store.ts";

/** How long to wait for another command to be done with the file. */
const LOCK_PATIENCE_MS = 5000;
const LOCK_RETRY_MS = 50;

/** A register in a file on this machine; made by the first key. */
export function registerFile(given: string): RegisterStore {
  return {
    place: given,
    holds: "within seconds",
    read: async () => read(await target(given)),
    async change(edit) {
      const path = await target(given);
      return await locked(path, async () => {
        const after = sound(edit(await read(path)));
        await replace(path, printRegister(after));
        return after;
      });
    },
    async lastUses() {
      const path = useFileOf(given);
      try {
        const { used } = UseRecord.parse(JSON.parse(await readFile(path, "utf8")));
        return { times: new Map(Object.entries(used).map(([id, time]) => [id, Date.parse(time)])) };
      } catch (error) {
        if (codeOf(error) === "ENOENT") return { times: new Map() };
        return { unknown: `${path} cannot be read${codeOf(error) === undefined ? "" : ` (${codeOf(error)})`}.` };
      }
    },
  };
}

/** The file itself, links followed. */
async function target(path: string): Promise<string> {
  return await realpath(path).catch(() => path);
}

async function read(path: string): Promise<Register> {
  try {
    return parseRegister(await readFile(path, "utf8"));
  } catch (error) {
    if (codeOf(error) === "ENOENT") return EMPTY_REGISTER;
    if (error instanceof RegisterFault) throw new CliError(`${path}: ${error.message} Mend it by hand first.`);
    throw unusable(path, error);
  }
}

/** The server reads the file at any time: it finds the one register or the other, and no part of one. */
async function replace(path: string, text: string): Promise<void> {
  const draft = `${path}.${process.pid}.tmp`;
  try {
    // Hashes are no secret, but the names of keys are nobody else's business.
    const mode = await stat(path).then(
      (found) => found.mode & 0o777,
      () => 0o600,
    );
    await writeFile(draft, text, { mode, flush: true });
    await rename(draft, path);
  } catch (error) {
    await rm(draft, { force: true });
    throw unusable(path, error);
  }
}

/** Runs `work` while no other command works on the same file. */
async function locked<T>(path: string, work: () => Promise<T>): Promise<T> {
  const lock = `${path}.lock`;
  const patience = performance.now() + LOCK_PATIENCE_MS;
  for (;;) {
    try {
      await (await open(lock, "wx", 0o600)).close();
      break;
    } catch (error) {
      if (codeOf(error) !== "EEXIST") throw unusable(path, error);
      if (performance.now() > patience) {
        throw new CliError(`${lock} says that another command changes the register. If none runs, remove it.`);
      }
      await wait(LOCK_RETRY_MS);
    }
  }
  try {
    return await work();
  } finally {
    await rm(lock, { force: true });
  }
}

function unusable(path: string, error: unknown): unknown {
  const code = codeOf(error);
  if (code === undefined) return error;
  return new CliError(`${path} cannot be used (${code}); see to its rights, or name another file by --file.`);
}

function codeOf(error: unknown): string | undefined {
  return error instanceof Error && "code" in error ? String(error.code) : undefined;
}
