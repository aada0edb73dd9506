import { randomBytes } from "node:crypto";
import { constants, type Stats } from "node:fs";
import {
  access,
  type FileHandle,
  link,
  lstat,
  mkdir,
  open,
  readdir,
  readlink,
  realpath,
  rename,
  rmdir,
  statfs,
  unlink,
} from "node:fs/promises";
import { isAbsolute, join, normalize, relative, sep } from "node:path";
import { matchesPattern } from "./glob.ts";
import { type Quota, QuotaExceeded, UNLIMITED } from "./quota.ts";
import { entryPath, removeTree } from "./remove-tree.ts";

export type EntryType = "file" | "directory" | "symlink" | "other";

export interface Entry {
  /** Relative to the workspace, `.` being the workspace itself. */
  readonly path: string;
  readonly type: EntryType;
  /** Bytes; of files only. */
  readonly size?: number;
  /** ISO 8601. */
  readonly modified: string;
}

/** A stretch of a file: `bytes` are those from `offset` on, of `size` in all. */
export interface FileSlice {
  readonly bytes: Buffer;
  readonly offset: number;
  readonly size: number;
}

export interface Match {
  readonly path: string;
  readonly type: EntryType;
  /** Lines with the text searched for; absent when only names were searched. */
  readonly lines?: readonly { readonly line: number; readonly text: string }[];
}

export interface Page {
  readonly offset: number;
  readonly limit: number;
}

export interface Paged<T> {
  readonly items: readonly T[];
  /** Where the next page begins, if there is one. */
  readonly nextOffset?: number;
  /** Set when the walk ended at a bound of its own, so that nothing is known of the rest. */
  readonly incomplete?: string;
}

/**
 * A directory tree that nothing here reaches out of. Paths are relative to it, with `/` between names. Every failure
 * that the user of a path can mend is a {@link WorkspaceError}.
 */
export interface Workspace {
  /** Absolute, with symlinks resolved. */
  readonly root: string;
  /** Bytes: the largest content written, copied or searched at once. */
  readonly fileSizeLimit: number;
  /** What it may hold. Everything written through the methods below counts at once, all else when it is looked at. */
  readonly quota: Quota;
  /** Absolute path of an existing directory inside; symlinks resolved. */
  directory(path: string): Promise<string>;
  read(path: string, offset: number, limit: number): Promise<FileSlice>;
  /** Replaces or makes the file, whole or not at all; makes missing directories. */
  write(path: string, content: Buffer): Promise<{ created: boolean; size: number }>;
  append(path: string, content: Buffer): Promise<{ created: boolean; size: number }>;
  list(path: string, options: Page & { recursive: boolean; signal: AbortSignal }): Promise<Paged<Entry>>;
  stat(path: string): Promise<Entry & { target?: string }>;
  makeDirectory(path: string): Promise<{ created: boolean }>;
  /** Removes a file, a link (never what it points to), or a directory. */
  remove(path: string, recursive: boolean): Promise<void>;
  /** Never onto something that exists. */
  move(from: string, to: string): Promise<void>;
  /** Never onto something that exists. Links, pipes and devices in a directory are left out, and named. */
  copy(from: string, to: string, recursive: boolean): Promise<{ skipped: readonly string[] }>;
  search(path: string, options: Page & { pattern: string; text?: string; signal: AbortSignal }): Promise<Paged<Match>>;
  /** Bytes of the file system it lies on. */
  space(): Promise<{ totalBytes: number; freeBytes: number }>;
}

/** The message is for the one who gave the path: it names the path and what to do. */
export class WorkspaceError extends Error {
  override readonly name = "WorkspaceError";
}

/** Directory entries looked at by one listing or search; a bound on time, since trees have none. */
const WALK_LIMIT = 20_000;
const DEPTH_LIMIT = 64;
/** Names in a path. What is nested deeper can still be deleted from above. */
const LEVEL_LIMIT = 100;
/** Bytes of files read by one text search. */
const SEARCH_BYTES_LIMIT = 64 * 1024 * 1024;
const LINES_PER_FILE = 20;
const LINE_LENGTH = 300;

const DIRECTORY = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
/** Without O_NONBLOCK, opening a pipe waits for its other end for ever. */
const FILE = constants.O_NOFOLLOW | constants.O_NONBLOCK;

/** Makes the directory if it is missing. Throws the system's error when it cannot be used. */
export async function openWorkspace(
  path: string,
  { fileSizeLimit, quotaOf = () => UNLIMITED }: { fileSizeLimit: number; quotaOf?: (root: string) => Quota },
): Promise<Workspace> {
  await mkdir(path, { recursive: true });
  const root = await realpath(path);
  await access(root, constants.R_OK | constants.W_OK | constants.X_OK);
  return new DirectoryWorkspace(root, fileSizeLimit, quotaOf(root));
}

/** An entry of an open directory. `at` is good for system calls for as long as the directory is open. */
interface Place {
  readonly at: string;
  readonly path: string;
  readonly stats: Stats | undefined;
}

/**
 * How escapes are prevented. A path is normalised, then resolved with `realpath`, and refused unless the result lies
 * inside. What is then opened is not that path, which may change under us, but each of its directories in turn,
 * relative to the one before and following no link (`openat` with O_NOFOLLOW; Node has no `openat`, but on Linux
 * `/proc/self/fd/N/name` is one). A link put in between is an error, not an escape. Elsewhere than on Linux, where
 * this server is for local use, the resolved path is used as it is.
 */
class DirectoryWorkspace implements Workspace {
  readonly root: string;
  readonly fileSizeLimit: number;
  readonly quota: Quota;

  constructor(root: string, fileSizeLimit: number, quota: Quota) {
    this.root = root;
    this.fileSizeLimit = fileSizeLimit;
    this.quota = quota;
  }

  async directory(path: string): Promise<string> {
    const resolved = await this.#resolve(path, "follow");
    const stats = await lstat(join(this.root, resolved)).catch(throwAsMendable(path));
    if (!stats.isDirectory()) throw new WorkspaceError(`${quote(path)} is not a directory.`);
    return join(this.root, resolved);
  }

  read(path: string, offset: number, limit: number): Promise<FileSlice> {
    return this.#at(path, { links: "follow" }, async ({ at, stats }) => {
      assertReadable(path, stats);
      const file = await open(at, constants.O_RDONLY | FILE);
      try {
        const opened = await file.stat();
        assertReadable(path, opened);
        if (offset > opened.size) {
          throw new WorkspaceError(
            `Offset ${offset} is beyond the end of ${quote(path)}, which has ${opened.size} bytes.`,
          );
        }
        const bytes = await readUpTo(file, offset, Math.min(limit, this.fileSizeLimit, opened.size - offset));
        return { bytes, offset, size: opened.size };
      } finally {
        await file.close();
      }
    });
  }

  write(path: string, content: Buffer): Promise<{ created: boolean; size: number }> {
    this.#assertFits(path, content.length);
    return this.#at(path, { links: "follow", makeParents: true }, async ({ at, stats }) => {
      if (stats !== undefined) assertWritable(path, stats);
      await this.quota.reserve(Math.max(0, content.length - (stats?.size ?? 0)), stats === undefined ? 1 : 0);
      await replaceFile(at, content, stats?.mode);
      return { created: stats === undefined, size: content.length };
    });
  }

  append(path: string, content: Buffer): Promise<{ created: boolean; size: number }> {
    return this.#at(path, { links: "follow", makeParents: true }, async ({ at, stats }) => {
      if (stats !== undefined) assertWritable(path, stats);
      const file = await open(at, constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | FILE, 0o644);
      try {
        const opened = await file.stat();
        assertWritable(path, opened);
        this.#assertFits(path, opened.size + content.length);
        await this.quota.reserve(content.length, stats === undefined ? 1 : 0);
        await file.writeFile(content);
        return { created: stats === undefined, size: opened.size + content.length };
      } finally {
        await file.close();
      }
    });
  }

  async list(
    path: string,
    { offset, limit, recursive, signal }: Page & { recursive: boolean; signal: AbortSignal },
  ): Promise<Paged<Entry>> {
    const items: Entry[] = [];
    let seen = 0;
    const end = await this.#walk(
      path,
      { depth: recursive ? DEPTH_LIMIT : 1, signal },
      async ({ path: found, stats }) => {
        if (seen++ < offset) return "continue";
        if (items.length === limit) return "stop";
        if (stats !== undefined) items.push(entryOf(found, stats));
        return "continue";
      },
    );
    return pageOf(items, offset, end);
  }

  stat(path: string): Promise<Entry & { target?: string }> {
    return this.#at(path, { links: "keep" }, async ({ at, path: found, stats }) => {
      if (stats === undefined) throw missing(path);
      const entry = entryOf(found, stats);
      // What a link says is part of the workspace; whether that exists outside is not told.
      return stats.isSymbolicLink() ? { ...entry, target: await readlink(at) } : entry;
    });
  }

  makeDirectory(path: string): Promise<{ created: boolean }> {
    return this.#at(path, { links: "follow", makeParents: true }, async ({ at, stats }) => {
      if (stats === undefined) {
        await this.quota.reserve(0, 1);
        await mkdir(at);
        return { created: true };
      }
      if (!stats.isDirectory()) throw new WorkspaceError(`${quote(path)} exists and is not a directory.`);
      return { created: false };
    });
  }

  async remove(path: string, recursive: boolean): Promise<void> {
    await this.#at(path, { links: "keep" }, async ({ at, path: found, stats }) => {
      if (found === ".") throw new WorkspaceError("The workspace itself cannot be deleted; name something in it.");
      if (stats === undefined) throw missing(path);
      if (!stats.isDirectory()) return unlink(at);
      if (recursive) return removeTree(at);
      return rmdir(at).catch((error: unknown) => {
        if (codeOf(error) !== "ENOTEMPTY") throw error;
        throw new WorkspaceError(
          `${quote(path)} is a directory that is not empty; set recursive to true to delete it all.`,
        );
      });
    });
    this.quota.changed();
  }

  move(from: string, to: string): Promise<void> {
    return this.#at(from, { links: "keep" }, (source) => {
      if (source.path === ".") throw new WorkspaceError("The workspace itself cannot be moved; name something in it.");
      if (source.stats === undefined) throw missing(from);
      const { stats } = source;
      return this.#at(to, { links: "keep", makeParents: true }, async (destination) => {
        assertOutsideOf(source.path, destination.path, from, to);
        if (destination.stats !== undefined) throw occupied(to);
        if (stats.isDirectory()) return rename(source.at, destination.at);
        // rename() would replace what appeared there since; link() never does.
        await link(source.at, destination.at).then(
          () => unlink(source.at),
          async (error: unknown) => {
            if (codeOf(error) === "EEXIST") throw occupied(to);
            // Some file systems have no hard links.
            await rename(source.at, destination.at);
          },
        );
      });
    });
  }

  copy(from: string, to: string, recursive: boolean): Promise<{ skipped: readonly string[] }> {
    return this.#at(from, { links: "follow" }, (source) => {
      const { stats } = source;
      if (stats === undefined) throw missing(from);
      if (stats.isDirectory() && !recursive) {
        throw new WorkspaceError(`${quote(from)} is a directory; set recursive to true to copy it with all it holds.`);
      }
      if (!stats.isDirectory()) assertReadable(from, stats);
      return this.#at(to, { links: "keep", makeParents: true }, async (destination) => {
        assertOutsideOf(source.path, destination.path, from, to);
        if (destination.stats !== undefined) throw occupied(to);
        const skipped: string[] = [];
        const budget = { entries: WALK_LIMIT };
        await this.#copyTree({ ...source, stats }, destination.at, skipped, budget, 0);
        return { skipped };
      });
    });
  }

  async search(
    path: string,
    { pattern, text, offset, limit, signal }: Page & { pattern: string; text?: string; signal: AbortSignal },
  ): Promise<Paged<Match>> {
    const items: Match[] = [];
    const needle = text === undefined ? undefined : Buffer.from(text, "utf8");
    let seen = 0;
    let bytesLeft = SEARCH_BYTES_LIMIT;
    let unread = 0;
    const end = await this.#walk(path, { depth: DEPTH_LIMIT, signal }, async ({ at, path: found, stats }, base) => {
      if (stats === undefined || !matchesPattern(pattern, base)) return "continue";
      let match: Match = { path: found, type: typeOf(stats) };
      if (needle !== undefined) {
        if (!stats.isFile()) return "continue";
        if (stats.size > this.fileSizeLimit) {
          unread++;
          return "continue";
        }
        if (stats.size > bytesLeft) return "stop: too many bytes to read in one search; narrow path or pattern";
        bytesLeft -= stats.size;
        const content = await readWhole(at, this.fileSizeLimit);
        const lines = content === undefined ? [] : linesWith(content, needle);
        if (lines.length === 0) return "continue";
        match = { ...match, lines };
      }
      if (seen++ < offset) return "continue";
      if (items.length === limit) return "stop";
      items.push(match);
      return "continue";
    });
    const page = pageOf(items, offset, end);
    if (unread === 0 || page.incomplete !== undefined) return page;
    return { ...page, incomplete: `${unread} files larger than ${this.fileSizeLimit} bytes were not searched` };
  }

  async space(): Promise<{ totalBytes: number; freeBytes: number }> {
    const { blocks, bavail, bsize } = await statfs(this.root);
    return { totalBytes: blocks * bsize, freeBytes: bavail * bsize };
  }

  #assertFits(path: string, size: number): void {
    if (size <= this.fileSizeLimit) return;
    throw new WorkspaceError(
      `${quote(path)} would have ${size} bytes, and files written here have at most ${this.fileSizeLimit}; split it.`,
    );
  }

  /** Relative path inside the workspace, `.` for itself. Checks the words only; the file system is not asked. */
  #normalise(path: string): string {
    if (path.includes("\0")) throw new WorkspaceError(`${quote(path)} contains a NUL character; remove it.`);
    if (path.includes("\\")) throw new WorkspaceError(`${quote(path)} contains a backslash; separate names with "/".`);
    const inside = normalize(isAbsolute(path) ? relative(this.root, path) : path).replace(/\/+$/, "");
    if (inside === ".." || inside.startsWith(`..${sep}`) || isAbsolute(inside)) throw outside(path);
    const levels = inside.split(sep).length;
    if (levels > LEVEL_LIMIT) {
      throw new WorkspaceError(`${quote(brief(path))} has ${levels} levels, and paths have at most ${LEVEL_LIMIT}.`);
    }
    return inside === "" ? "." : inside;
  }

  /**
   * The path with its links resolved, relative to the root. Names that do not exist yet are kept as they are. With
   * `keep`, the last name is not resolved, for operations on a link itself.
   */
  async #resolve(path: string, links: "follow" | "keep"): Promise<string> {
    const inside = this.#normalise(path);
    if (inside === ".") return inside;
    const pending: string[] = [];
    let existing = join(this.root, inside);
    if (links === "keep") {
      pending.unshift(existing.slice(existing.lastIndexOf(sep) + 1));
      existing = existing.slice(0, existing.lastIndexOf(sep));
    }
    for (;;) {
      const resolved = await realpath(existing).catch(async (error: unknown) => {
        if (codeOf(error) !== "ENOENT") throw mendable(error, path);
        // A link to nowhere is not a missing file: writing "through" it would write wherever it points.
        const stats = await lstat(existing).catch(() => undefined);
        if (stats?.isSymbolicLink()) {
          throw new WorkspaceError(
            `${quote(path)} leads through a link to something that does not exist; delete the link first.`,
          );
        }
        return undefined;
      });
      if (resolved !== undefined) {
        if (resolved !== this.root && !resolved.startsWith(this.root + sep)) throw outside(path);
        return relative(this.root, join(resolved, ...pending)) || ".";
      }
      pending.unshift(existing.slice(existing.lastIndexOf(sep) + 1));
      existing = existing.slice(0, existing.lastIndexOf(sep));
    }
  }

  /** Opens the directories down to `path` and hands over its last name, stats included if it exists. */
  async #at<T>(
    path: string,
    { links, makeParents = false }: { links: "follow" | "keep"; makeParents?: boolean },
    use: (place: Place) => Promise<T> | T,
  ): Promise<T> {
    const resolved = await this.#resolve(path, links);
    const names = resolved === "." ? [] : resolved.split(sep);
    const last = names.pop() ?? ".";
    let directory: FileHandle | undefined;
    try {
      directory = await open(this.root, DIRECTORY);
      let within = this.root;
      for (const name of names) {
        const at = entryPath(directory, within, name);
        if (makeParents) {
          await mkdir(at).catch((error: unknown) => {
            if (codeOf(error) !== "EEXIST") throw error;
          });
        }
        const next = await open(at, DIRECTORY);
        await directory.close();
        directory = next;
        within = join(within, name);
      }
      const at = entryPath(directory, within, last);
      const stats = await lstat(at).catch((error: unknown) => {
        if (codeOf(error) === "ENOENT") return undefined;
        throw error;
      });
      return await use({ at, path: resolved, stats });
    } catch (error) {
      throw mendable(error, path);
    } finally {
      await directory?.close();
    }
  }

  /**
   * Visits what is under the directory `path`, each directory before what it holds and in order of name; links are
   * visited, not followed. The second argument of `visit` is the path relative to where the walk began.
   */
  async #walk(
    path: string,
    { depth, signal }: { depth: number; signal: AbortSignal },
    visit: (place: Place, base: string) => Promise<string>,
  ): Promise<WalkEnd> {
    let budget = WALK_LIMIT;
    const enter = async (at: string, inside: string, base: string, levels: number): Promise<WalkEnd> => {
      const directory = await open(at, DIRECTORY);
      try {
        const here = entryPath(directory, join(this.root, inside), ".");
        const names = (await readdir(here)).sort();
        for (const name of names) {
          signal.throwIfAborted();
          if (budget-- === 0) return `the walk ended after ${WALK_LIMIT} entries; narrow the path`;
          const entry = entryPath(directory, join(this.root, inside), name);
          const stats = await lstat(entry).catch(() => undefined);
          const found = inside === "." ? name : `${inside}/${name}`;
          const fromBase = base === "" ? name : `${base}/${name}`;
          const verdict = await visit({ at: entry, path: found, stats }, fromBase);
          if (verdict === "stop") return "page full";
          if (verdict !== "continue") return verdict.slice("stop: ".length);
          if (stats?.isDirectory() && levels > 1) {
            const end = await enter(entry, found, fromBase, levels - 1);
            if (end !== "complete") return end;
          }
        }
        return "complete";
      } catch (error) {
        // Removed, or made something else, while the walk was on its way: what is gone is not listed.
        if (base !== "" && ["ENOENT", "ENOTDIR", "ELOOP", "EACCES"].includes(codeOf(error))) return "complete";
        throw error;
      } finally {
        await directory.close();
      }
    };
    return this.#at(path, { links: "follow" }, ({ at, path: found, stats }) => {
      if (stats === undefined) throw missing(path);
      if (!stats.isDirectory()) throw new WorkspaceError(`${quote(path)} is not a directory; read or stat it instead.`);
      return enter(at, found, "", depth);
    });
  }

  async #copyTree(
    source: Place & { stats: Stats },
    to: string,
    skipped: string[],
    budget: { entries: number },
    depth: number,
  ): Promise<void> {
    if (budget.entries-- === 0 || depth > DEPTH_LIMIT) {
      throw new WorkspaceError(
        `The copy ended after ${WALK_LIMIT} entries or ${DEPTH_LIMIT} levels; copy parts of it.`,
      );
    }
    if (source.stats.isFile()) {
      this.#assertFits(source.path, source.stats.size);
      const content = await readWhole(source.at, this.fileSizeLimit);
      if (content === undefined)
        throw new WorkspaceError(`${quote(source.path)} changed while it was copied; try again.`);
      await this.quota.reserve(content.length, 1);
      const file = await open(
        to,
        constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | FILE,
        source.stats.mode & 0o777,
      );
      try {
        await file.writeFile(content);
      } finally {
        await file.close();
      }
      return;
    }
    if (!source.stats.isDirectory()) {
      skipped.push(source.path);
      return;
    }
    await this.quota.reserve(0, 1);
    await mkdir(to);
    const from = await open(source.at, DIRECTORY);
    const target = await open(to, DIRECTORY).catch(async (error: unknown) => {
      await from.close();
      throw error;
    });
    try {
      for (const name of (await readdir(entryPath(from, source.at, "."))).sort()) {
        const at = entryPath(from, source.at, name);
        const stats = await lstat(at);
        const child = { at, path: `${source.path}/${name}`, stats };
        await this.#copyTree(child, entryPath(target, to, name), skipped, budget, depth + 1);
      }
    } finally {
      await from.close();
      await target.close();
    }
  }
}

type WalkEnd = "complete" | "page full" | (string & {});

function pageOf<T>(items: readonly T[], offset: number, end: WalkEnd): Paged<T> {
  if (end === "complete") return { items };
  if (end === "page full") return { items, nextOffset: offset + items.length };
  return { items, incomplete: end };
}

/** Writes beside the file and renames over it, so that a reader sees the old content or the new, never a part. */
async function replaceFile(at: string, content: Buffer, mode: number | undefined): Promise<void> {
  const temporary = `${at.slice(0, at.lastIndexOf("/") + 1)}.${randomBytes(8).toString("hex")}.tmp`;
  const file = await open(temporary, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | FILE, 0o644);
  try {
    try {
      if (mode !== undefined) await file.chmod(mode & 0o777);
      await file.writeFile(content);
      // Without it, a crash after the rename may leave an empty file.
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, at);
  } catch (error) {
    await unlink(temporary).catch(() => {});
    throw error;
  }
}

async function readUpTo(file: FileHandle, offset: number, length: number): Promise<Buffer> {
  const buffer = Buffer.allocUnsafe(length);
  let filled = 0;
  while (filled < length) {
    const { bytesRead } = await file.read(buffer, filled, length - filled, offset + filled);
    if (bytesRead === 0) break;
    filled += bytesRead;
  }
  return buffer.subarray(0, filled);
}

/** The content of a regular file of at most `limit` bytes; undefined when it is no such file, or is gone. */
async function readWhole(at: string, limit: number): Promise<Buffer | undefined> {
  const file = await open(at, constants.O_RDONLY | FILE).catch(() => undefined);
  if (file === undefined) return undefined;
  try {
    const stats = await file.stat();
    return stats.isFile() && stats.size <= limit ? await readUpTo(file, 0, stats.size) : undefined;
  } finally {
    await file.close();
  }
}

function linesWith(content: Buffer, needle: Buffer): { line: number; text: string }[] {
  const found: { line: number; text: string }[] = [];
  // A file with NUL near its beginning is taken for binary, as git and grep do.
  if (content.subarray(0, 8000).includes(0)) return found;
  let line = 1;
  let counted = 0;
  let from = content.indexOf(needle);
  while (from !== -1 && found.length < LINES_PER_FILE) {
    for (let at = content.indexOf(10, counted); at !== -1 && at < from; at = content.indexOf(10, at + 1)) {
      line++;
      counted = at + 1;
    }
    const start = content.lastIndexOf(10, from - 1) + 1;
    const newline = content.indexOf(10, from);
    const end = newline === -1 ? content.length : newline;
    const text = content.subarray(from === 0 ? 0 : start, end).toString("utf8");
    found.push({ line, text: text.length > LINE_LENGTH ? `${text.slice(0, LINE_LENGTH)}...` : text });
    from = content.indexOf(needle, Math.max(end, from + 1));
  }
  return found;
}

function typeOf(stats: Stats): EntryType {
  if (stats.isFile()) return "file";
  if (stats.isDirectory()) return "directory";
  return stats.isSymbolicLink() ? "symlink" : "other";
}

function entryOf(path: string, stats: Stats): Entry {
  const type = typeOf(stats);
  return { path, type, ...(type === "file" && { size: stats.size }), modified: stats.mtime.toISOString() };
}

function assertReadable(path: string, stats: Stats | undefined): void {
  if (stats === undefined) throw missing(path);
  if (stats.isDirectory()) throw new WorkspaceError(`${quote(path)} is a directory; list it, or name a file in it.`);
  if (!stats.isFile()) throw special(path);
}

function assertWritable(path: string, stats: Stats): void {
  if (stats.isDirectory()) throw new WorkspaceError(`${quote(path)} is a directory; name a file in it.`);
  if (!stats.isFile()) throw special(path);
}

function assertOutsideOf(source: string, destination: string, from: string, to: string): void {
  if (destination !== source && !destination.startsWith(`${source}${sep}`)) return;
  throw new WorkspaceError(`${quote(to)} is ${quote(from)} or lies inside it; choose another destination.`);
}

const quote = (path: string): string => JSON.stringify(path);
const brief = (path: string): string => (path.length > 200 ? `${path.slice(0, 200)}...` : path);
const missing = (path: string) =>
  new WorkspaceError(`${quote(path)} does not exist in the workspace; list the directory to see what does.`);
const occupied = (path: string) =>
  new WorkspaceError(`${quote(path)} exists already; delete it first or choose another destination.`);
const outside = (path: string) =>
  new WorkspaceError(`${quote(path)} leads outside the workspace; give a path relative to the workspace, inside it.`);
const special = (path: string) =>
  new WorkspaceError(
    `${quote(path)} is neither a file nor a directory (a link, pipe, socket or device); it is left alone.`,
  );

const codeOf = (error: unknown): string =>
  error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : "";

/** The system's errors that the giver of a path can mend, by code. */
const MENDABLE: Readonly<Record<string, (path: string) => string>> = {
  ENOENT: (path) => `${path} does not exist in the workspace; list the directory to see what does.`,
  ENOTDIR: (path) => `${path} leads through something that is not a directory (or no longer is).`,
  EISDIR: (path) => `${path} is a directory; name a file in it.`,
  EEXIST: (path) => `${path} exists already; delete it first or choose another destination.`,
  ENOTEMPTY: (path) => `${path} is a directory that is not empty.`,
  ELOOP: (path) => `${path} leads through a link that changed or goes in circles; name the target itself.`,
  ENAMETOOLONG: (path) => `${path} has a name longer than the file system allows (255 bytes a name).`,
  EACCES: (path) => `${path} may not be accessed: its permissions forbid it.`,
  EPERM: (path) => `${path} may not be changed: the file system forbids it.`,
  EROFS: (path) => `${path} lies on a file system that is read-only.`,
  ENOSPC: (path) => `${path} was not written: the workspace is full; delete something first.`,
  EDQUOT: (path) => `${path} was not written: the workspace's quota is used up; delete something first.`,
  ETXTBSY: (path) => `${path} is a program that runs; stop it first.`,
  EBUSY: (path) => `${path} is in use and cannot be changed now.`,
  ENXIO: (path) => `${path} is neither a file nor a directory; it is left alone.`,
};

function mendable(error: unknown, path: string): unknown {
  if (error instanceof WorkspaceError) return error;
  if (error instanceof QuotaExceeded) return new WorkspaceError(`${quote(path)} was not written: ${error.message}`);
  const sentence = MENDABLE[codeOf(error)];
  if (sentence === undefined) return error;
  return new WorkspaceError(sentence(quote(brief(path))), { cause: error });
}

function throwAsMendable(path: string): (error: unknown) => never {
  return (error) => {
    throw mendable(error, path);
  };
}
