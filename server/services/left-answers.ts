import { createHash } from "node:crypto";
import { constants, mkdir, open, readdir, readFile, rm, stat, unlink, writeFile } from "node:fs/promises";
import { join } from "node:path";

/**
 * Answers that one replica leaves for another, in a directory that all of them share. Whoever waits makes an empty file,
 * and whoever has the answer writes into it: so nothing is kept that nobody waits for.
 */
export interface LeftAnswers {
  /** Waits for what is left under `key`; resolves when every replica can leave it, to what ends the wait. */
  expect(key: string, deliver: (answer: string) => void): Promise<() => void>;
  /** Leaves an answer, which is one line; false when nobody waits for one under that key. */
  leave(key: string, answer: string): Promise<boolean>;
}

/** Somebody is waiting, and a look costs a few calls to a file share. */
const LOOK_MS = 250;
/** Far longer than anybody waits: what is as old was left behind by a replica that was killed. */
const ABANDONED_MS = 3_600_000;

export function createLeftAnswers(directory: string): LeftAnswers {
  const awaited = new Map<string, (answer: string) => void>();
  let ready: Promise<void> | undefined;
  let looking = false;

  // Keys are whatever a client says; names are not.
  const pathOf = (key: string) => join(directory, createHash("sha256").update(key).digest("hex"));
  const forget = (path: string) => {
    if (awaited.delete(path)) unlink(path).catch(() => {});
  };
  const look = async () => {
    for (const [path, deliver] of awaited) {
      // Opening a file is what has NFS ask the server for what others wrote.
      const text = await readFile(path, "utf8").catch(() => "");
      if (!text.endsWith("\n") || !awaited.has(path)) continue;
      forget(path);
      deliver(text);
    }
    looking = false;
    schedule();
  };
  const schedule = () => {
    if (looking || awaited.size === 0) return;
    looking = true;
    setTimeout(() => void look(), LOOK_MS).unref();
  };

  const prepare = async () => {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const before = Date.now() - ABANDONED_MS;
    for (const name of await readdir(directory)) {
      const path = join(directory, name);
      const { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: Number.POSITIVE_INFINITY }));
      if (mtimeMs < before) await rm(path, { force: true });
    }
  };

  return {
    async expect(key, deliver) {
      const path = pathOf(key);
      ready ??= prepare();
      try {
        await ready;
        await writeFile(path, "", { flag: "wx", mode: 0o600 });
      } catch {
        // Nothing can be left where nothing can be written; the next question tries again.
        ready = undefined;
        return () => {};
      }
      awaited.set(path, deliver);
      schedule();
      return () => forget(path);
    },
    async leave(key, answer) {
      // Not made, and no link followed: there is a file exactly as long as somebody waits.
      const file = await open(pathOf(key), constants.O_WRONLY | constants.O_NOFOLLOW).catch(() => undefined);
      if (file === undefined) return false;
      try {
        if ((await file.stat()).size > 0) return false;
        await file.writeFile(`${answer}\n`);
        return true;
      } finally {
        await file.close();
      }
    },
  };
}
