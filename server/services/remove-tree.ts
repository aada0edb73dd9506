import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { chmod, type FileHandle, lstat, open, readdir, rename, rmdir, unlink } from "node:fs/promises";
import { join } from "node:path";

const DIRECTORY = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
/** Each level keeps a directory open, and paths have an end; what lies deeper is moved up before it is removed. */
const DEPTH_LIMIT = 32;
/** Ends the work against somebody who makes directories faster than they are removed. */
const PASS_LIMIT = 10_000;

/** A path for system calls to `name` in an open directory: on Linux one that no rename or link can bend. */
export function entryPath(directory: FileHandle, path: string, name: string): string {
  return process.platform === "linux" ? `/proc/self/fd/${directory.fd}/${name}` : join(path, name);
}

/**
 * Removes the directory `at` with all it holds, following no link, however deep it is and whatever permissions its
 * owner took from himself. Throws the system's error when something cannot be removed.
 */
export async function removeTree(at: string): Promise<void> {
  const top = await openDirectory(at);
  try {
    // Moving deep directories to the top makes new entries there, so it is gone through until nothing is moved.
    let moved = 0;
    const empty = async (directory: FileHandle, path: string, depth: number): Promise<void> => {
      for (const name of await readdir(entryPath(directory, path, "."))) {
        const entry = entryPath(directory, path, name);
        if (!(await lstat(entry)).isDirectory()) {
          await unlink(entry);
        } else if (depth >= DEPTH_LIMIT) {
          // A directory is written to when it gets another parent.
          await makeUsable(entry);
          moved++;
          await rename(entry, entryPath(top, at, `.removing-${randomBytes(8).toString("hex")}`));
        } else {
          const inner = await openDirectory(entry);
          try {
            await empty(inner, entry, depth + 1);
          } finally {
            await inner.close();
          }
          await rmdir(entry);
        }
      }
    };
    for (let pass = 0; pass < PASS_LIMIT; pass++) {
      await empty(top, at, 0);
      if (moved === 0) break;
      moved = 0;
    }
  } finally {
    await top.close();
  }
  await rmdir(at);
}

async function openDirectory(at: string): Promise<FileHandle> {
  await makeUsable(at);
  return open(at, DIRECTORY);
}

/** Gives the owner the rights to a directory back that he took from himself. */
async function makeUsable(at: string): Promise<void> {
  const { mode } = await lstat(at);
  if ((mode & 0o700) !== 0o700) await chmod(at, 0o700);
}
