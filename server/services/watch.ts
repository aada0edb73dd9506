import type { Workspace } from "./workspace.ts";

/** Tells of changes to files, on any file system and whoever makes them. */
export interface FileWatch {
  /** Watches that are on now. */
  readonly size: number;
  /**
   * Calls `changed` whenever the file at `path` is written, replaced, made or removed, until the returned function is
   * called. Undefined when this process watches as many as it may, in that workspace or in all.
   */
  watch(workspace: Workspace, path: string, changed: () => void): (() => void) | undefined;
}

/** Time between two looks at a file. */
export const WATCH_INTERVAL_MS = 2000;
/** Files watched at once in one process; each costs a `stat` over the network a look. */
const WATCH_LIMIT = 1000;
/** One workspace gets a quarter of them, so that nobody's watches keep others from theirs. */
const PARTS = 4;

interface FileWatchOptions {
  readonly intervalMs?: number;
  readonly limit?: number;
}

interface Watched {
  readonly workspace: Workspace;
  readonly path: string;
  readonly listeners: Set<() => void>;
  /** What the file was at the last look; undefined before the first. */
  seen: string | undefined;
}

/**
 * Watches by looking: the workspace lies on a network share that other replicas write to, and no file system
 * notification tells of what another machine does. One look serves everyone who watches the same file.
 */
export function createFileWatch({
  intervalMs = WATCH_INTERVAL_MS,
  limit = WATCH_LIMIT,
}: FileWatchOptions = {}): FileWatch {
  const watched = new Map<string, Watched>();
  const byRoot = new Map<string, number>();
  const count = (root: string, by: 1 | -1) => {
    const left = (byRoot.get(root) ?? 0) + by;
    if (left === 0) byRoot.delete(root);
    else byRoot.set(root, left);
  };
  let timer: NodeJS.Timeout | undefined;
  let looking = false;

  const look = async () => {
    timer = undefined;
    looking = true;
    for (const entry of watched.values()) {
      const now = await fingerprint(entry);
      const changed = entry.seen !== undefined && entry.seen !== now;
      entry.seen = now;
      if (changed) for (const listener of entry.listeners) listener();
    }
    looking = false;
    schedule();
  };
  const schedule = () => {
    if (timer !== undefined || looking || watched.size === 0) return;
    timer = setTimeout(() => void look(), intervalMs);
    // Watching keeps no process alive.
    timer.unref();
  };

  return {
    get size() {
      return watched.size;
    },
    watch(workspace, path, changed) {
      const key = `${workspace.root}\0${path}`;
      let entry = watched.get(key);
      if (entry === undefined) {
        const { root } = workspace;
        if (watched.size >= limit || (byRoot.get(root) ?? 0) >= Math.ceil(limit / PARTS)) return undefined;
        count(root, 1);
        entry = { workspace, path, listeners: new Set(), seen: undefined };
        watched.set(key, entry);
        const added = entry;
        void fingerprint(added).then((seen) => {
          added.seen ??= seen;
        });
        schedule();
      }
      const { listeners } = entry;
      // A function of its own, so that the same listener may watch twice.
      const listener = () => changed();
      listeners.add(listener);
      return () => {
        if (!listeners.delete(listener)) return;
        if (listeners.size === 0) {
          watched.delete(key);
          count(workspace.root, -1);
        }
        if (watched.size > 0) return;
        clearTimeout(timer);
        timer = undefined;
      };
    },
  };
}

/** Differs when the file does, but for changes within one tick of the file system's clock that keep the size. */
async function fingerprint({ workspace, path }: Watched): Promise<string> {
  return workspace.stat(path).then(
    ({ type, size, modified }) => `${type} ${size} ${modified}`,
    () => "missing",
  );
}
