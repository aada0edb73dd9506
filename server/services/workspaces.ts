import { createHash, randomBytes } from "node:crypto";
import { access, constants, lstat, mkdir, readdir, realpath, rename, rmdir, utimes } from "node:fs/promises";
import { join } from "node:path";
import { createQuota, type QuotaLimits } from "./quota.ts";
import { removeTree } from "./remove-tree.ts";
import { openWorkspace, type Workspace } from "./workspace.ts";

/** Whose a workspace is. */
export interface WorkspaceOwner {
  readonly subject: string;
  /** Entra tenant of the subject, where there is one. */
  readonly tenant?: string;
  /** How the caller is known: those whom nobody authenticated have the plain workspace. */
  readonly method: string;
}

/** The workspaces of all callers. */
export interface Workspaces {
  /** Directory that holds them, absolute; the plain workspace itself. */
  readonly root: string;
  /** The caller's own, made on first use. */
  of(owner: WorkspaceOwner): Promise<Workspace>;
  /** Removes those not used for the retention time; the names of those removed. */
  sweep(now?: Date): Promise<readonly string[]>;
  /** Bytes of the file system that they lie on. */
  space(): Promise<{ totalBytes: number; freeBytes: number }>;
  /** Ends the sweeping. */
  close(): void;
}

export interface WorkspacesOptions {
  readonly path: string;
  readonly fileSizeLimit: number;
  /** What a workspace may hold: each caller's own, and the plain one. */
  readonly quotas: { readonly own: QuotaLimits; readonly plain: QuotaLimits };
  /** Days after the last use; 0 keeps workspaces for ever. */
  readonly retentionDays: number;
  /** Told of what sweeping did. */
  readonly onSwept?: (removed: readonly string[]) => void;
  readonly onSweepFailed?: (error: unknown) => void;
}

/** Callers without authentication share what is there: the local user's directory, or an open server's. */
const PLAIN: ReadonlySet<string> = new Set(["local", "none"]);

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
/** How exactly the last use is known; the retention time is days. */
const TOUCH_EVERY_MS = HOUR_MS;
const SWEEP_EVERY_MS = 6 * HOUR_MS;
/** Open workspaces remembered; one that is forgotten is opened anew. */
const REMEMBERED = 10_000;

const OWN_NAME = /^[0-9a-f]{32}$/;
const GROUP_NAME = /^(?:[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|[0-9a-f]{32}|by-[a-z-]+)$/;
const REMOVING = ".removing-";

/**
 * Where a caller's workspace lies under the root: `<tenant>/<hash of tenant and subject>`. Names of people and of keys
 * are in no path; what is not an Entra tenant's id is hashed, so that no name can lead elsewhere.
 */
export function workspaceName(owner: WorkspaceOwner): string {
  const known = names.get(owner);
  if (known !== undefined) return known;
  const { subject, tenant, method } = owner;
  const hash = (...parts: string[]) => createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 32);
  const group =
    tenant === undefined ? `by-${method}` : /^[0-9a-f-]{36}$/i.test(tenant) ? tenant.toLowerCase() : hash(tenant);
  const name = join(GROUP_NAME.test(group) ? group : hash(group), hash(group, subject));
  names.set(owner, name);
  return name;
}

/** Callers are the same objects call after call. */
const names = new WeakMap<WorkspaceOwner, string>();

/** Opens the root, making it if it is missing. Throws the system's error when it cannot be used. */
export async function openWorkspaces(options: WorkspacesOptions): Promise<Workspaces> {
  const { path, fileSizeLimit, quotas, retentionDays, onSwept, onSweepFailed } = options;
  await mkdir(path, { recursive: true });
  const root = await realpath(path);
  await access(root, constants.R_OK | constants.W_OK | constants.X_OK);

  const open = new Map<string, { workspace: Promise<Workspace>; touched: number }>();
  const plain = await openWorkspace(root, { fileSizeLimit, quotaOf: (at) => createQuota(at, quotas.plain) });

  async function makeOwn(name: string): Promise<Workspace> {
    const at = join(root, name);
    await mkdir(at, { recursive: true, mode: 0o700 });
    // Where commands cannot be kept apart, one of them might have put a link here.
    if ((await realpath(at)) !== at) {
      throw new Error(`The workspace ${name} is not a directory of its own; remove what is there.`);
    }
    await touch(at);
    return openWorkspace(at, { fileSizeLimit, quotaOf: (own) => createQuota(own, quotas.own) });
  }

  function own(owner: WorkspaceOwner): Promise<Workspace> {
    const name = workspaceName(owner);
    const now = Date.now();
    const found = open.get(name);
    // An hour later it may have been removed by another replica; opening it again is what marks its use.
    if (found !== undefined && now - found.touched < TOUCH_EVERY_MS) return found.workspace;
    const workspace = found === undefined ? makeOwn(name) : found.workspace.then((known) => usedAgain(known, name));
    open.delete(name);
    open.set(name, { workspace, touched: now });
    workspace.catch(() => open.delete(name));
    const [oldest] = open.keys();
    if (open.size > REMEMBERED && oldest !== undefined) open.delete(oldest);
    return workspace;
  }

  /** The same workspace, quota and all, unless it was removed. */
  async function usedAgain(known: Workspace, name: string): Promise<Workspace> {
    return (await touch(known.root).catch(() => false)) ? known : makeOwn(name);
  }

  async function sweepGroup(group: string, before: number): Promise<string[]> {
    const removed: string[] = [];
    for (const name of await readdir(join(root, group))) {
      const at = join(root, group, name);
      if (name.startsWith(REMOVING)) {
        // Left by a replica that ended meanwhile, or being removed by one: both may.
        await removeTree(at).catch(ignoreMissing);
        continue;
      }
      // The change time, which no command can set; it goes with the time of modification, or is later.
      const use = await lastUse(at);
      if (!OWN_NAME.test(name) || use.changed >= before) continue;
      // Whoever comes now gets a new one; whoever came just before is seen by the time of use.
      const aside = join(root, group, `${REMOVING}${name}-${randomBytes(4).toString("hex")}`);
      // Another replica may be about the same.
      const taken = await rename(at, aside).then(() => true, ignoreMissing);
      if (taken !== true) continue;
      if ((await lastUse(aside)).modified !== use.modified) {
        await rename(aside, at).catch(() => {});
        continue;
      }
      open.delete(join(group, name));
      await removeTree(aside).catch(ignoreMissing);
      removed.push(join(group, name));
    }
    await rmdir(join(root, group)).catch(() => {});
    return removed;
  }

  async function sweep(now = new Date()): Promise<readonly string[]> {
    if (retentionDays === 0) return [];
    const before = now.getTime() - retentionDays * DAY_MS;
    const removed: string[] = [];
    for (const group of await readdir(root)) {
      if (!GROUP_NAME.test(group) || !(await lstat(join(root, group))).isDirectory()) continue;
      removed.push(...((await sweepGroup(group, before).catch(ignoreMissing)) ?? []));
    }
    return removed;
  }

  const timer = setInterval(() => {
    sweep().then(onSwept, onSweepFailed);
  }, SWEEP_EVERY_MS).unref();
  if (retentionDays === 0) clearInterval(timer);

  return {
    root,
    of: async (owner) => (PLAIN.has(owner.method) ? plain : own(owner)),
    sweep,
    space: () => plain.space(),
    close: () => clearInterval(timer),
  };
}

/** Marks a use: the time stands at the directory itself, where every replica sees it. */
async function touch(at: string): Promise<boolean> {
  const now = new Date();
  await utimes(at, now, now);
  return true;
}

/** Milliseconds since 1970; what is no directory is in use for ever. */
async function lastUse(at: string): Promise<{ changed: number; modified: number }> {
  const stats = await lstat(at).catch(() => undefined);
  if (stats?.isDirectory() !== true) return { changed: Number.POSITIVE_INFINITY, modified: Number.NaN };
  return { changed: stats.ctimeMs, modified: stats.mtimeMs };
}

function ignoreMissing(error: unknown): undefined {
  if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
  throw error;
}
