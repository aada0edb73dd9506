import { constants } from "node:fs";
import { lstat, open, readdir } from "node:fs/promises";
import { entryPath } from "./remove-tree.ts";

/** What a directory tree holds. */
export interface Holdings {
  /** Bytes that its files occupy: of a sparse file only what is really there, of a file with two names once. */
  readonly bytes: number;
  /** Files, directories, links and all else. */
  readonly files: number;
}

export interface QuotaLimits {
  readonly bytes: number | undefined;
  readonly files: number | undefined;
}

/**
 * How much a workspace may hold. There is no ledger to be lost or to disagree about: the file system is measured, and
 * in between each process adds what it writes itself. So the count is exact when it is measured, which it always is
 * before something is refused; and between two looks, at most {@link LOOK_MS} apart while somebody writes, it misses
 * what commands and other replicas write.
 */
export interface Quota {
  readonly limits: QuotaLimits;
  /** What the workspace holds, as far as it is known; undefined where nothing is limited or measured yet. */
  readonly holdings: Holdings | undefined;
  /** Counts what is about to be written. Throws {@link QuotaExceeded} when it does not fit. */
  reserve(bytes: number, files: number): Promise<void>;
  /** Bytes that still fit; undefined when there is no limit. */
  remainingBytes(): Promise<number | undefined>;
  /** Something changed that was not reserved: the next look is due. */
  changed(): void;
}

/** The message says what is used up, and the mend. */
export class QuotaExceeded extends Error {
  override readonly name = "QuotaExceeded";
}

/** Longest time between two looks while something is written. */
const LOOK_MS = 60_000;
/** A look that is expected to be over by then is waited for; a longer one goes on while the numbers known are used. */
const SHORT_LOOK_MS = 250;
/** Longest that anybody waits for a look, which then goes on; what it has counted so far is what counts. */
const WAIT_MS = 5000;
/** Numbers younger than this are not measured again before something is refused. */
const FRESH_MS = 1000;
/** Whoever nests directories deeper than this has a full workspace: it would take too many open files to look. */
const DEPTH_LIMIT = 128;

export const UNLIMITED: Quota = Object.freeze({
  limits: { bytes: undefined, files: undefined },
  holdings: undefined,
  reserve: async () => {},
  remainingBytes: async () => undefined,
  changed: () => {},
});

export function createQuota(root: string, limits: QuotaLimits): Quota {
  if (limits.bytes === undefined && limits.files === undefined) return UNLIMITED;
  let known: { bytes: number; files: number } | undefined;
  /** Reserved since the last look began. */
  let written = { bytes: 0, files: 0 };
  let looked = { at: Number.NEGATIVE_INFINITY, tookMs: 0 };
  let stale = true;
  let look: Promise<void> | undefined;

  async function measure(): Promise<void> {
    const started = performance.now();
    stale = false;
    const counted = { bytes: 0, files: 0 };
    written = { bytes: 0, files: 0 };
    // Until there is better, what is counted so far is what is known.
    known ??= counted;
    await count(root, counted);
    // What is written during the look may be counted twice; the next one tells.
    known =
      known === counted ? counted : { bytes: counted.bytes + written.bytes, files: counted.files + written.files };
    looked = { at: performance.now(), tookMs: performance.now() - started };
  }

  /** Waits for a look as long as is reasonable; with `exact`, for one that is over in time and just made. */
  async function refresh(exact: boolean): Promise<void> {
    const age = performance.now() - looked.at;
    // A look that is under way makes the numbers of the one before no longer exact, however young they are.
    const current = !stale && !(exact && look !== undefined);
    if (current && age < (exact ? FRESH_MS : LOOK_MS)) return;
    look ??= measure().finally(() => {
      look = undefined;
    });
    if (!exact && known !== undefined && looked.tookMs > SHORT_LOOK_MS) {
      look.catch(() => {});
      return;
    }
    await orAfter(look, WAIT_MS);
  }

  const excess = (bytes: number, files: number): string | undefined => {
    const held = known ?? { bytes: 0, files: 0 };
    if (bytes > 0 && limits.bytes !== undefined && held.bytes + bytes > limits.bytes) {
      return `the workspace holds ${held.bytes} of at most ${limits.bytes} bytes; delete something first.`;
    }
    if (files > 0 && limits.files !== undefined && held.files + files > limits.files) {
      return `the workspace holds ${held.files} of at most ${limits.files} files and directories; delete something first.`;
    }
    return undefined;
  };

  return {
    limits,
    get holdings() {
      return known && { ...known };
    },
    async reserve(bytes, files) {
      await refresh(false);
      if (excess(bytes, files) !== undefined) await refresh(true);
      const why = excess(bytes, files);
      if (why !== undefined) throw new QuotaExceeded(why);
      for (const tally of [known, written]) {
        if (tally === undefined) continue;
        tally.bytes += bytes;
        tally.files += files;
      }
    },
    async remainingBytes() {
      if (limits.bytes === undefined) return undefined;
      await refresh(false);
      return Math.max(0, limits.bytes - (known?.bytes ?? 0));
    },
    changed() {
      stale = true;
    },
  };
}

/** Adds up what is under `root` into `total`, following no link. */
async function count(root: string, total: { bytes: number; files: number }): Promise<void> {
  const seen = new Set<string>();
  const enter = async (at: string, depth: number): Promise<void> => {
    if (depth > DEPTH_LIMIT) {
      total.files = Number.POSITIVE_INFINITY;
      return;
    }
    const directory = await open(at, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW).catch(
      () => undefined,
    );
    // Gone, or closed by its owner even to himself; in it nothing grows meanwhile.
    if (directory === undefined) return;
    try {
      for (const name of await readdir(entryPath(directory, at, ".")).catch(() => [])) {
        const entry = entryPath(directory, at, name);
        const stats = await lstat(entry).catch(() => undefined);
        if (stats === undefined) continue;
        total.files++;
        if (stats.isDirectory()) await enter(entry, depth + 1);
        else if (stats.nlink === 1 || !seen.has(`${stats.dev}:${stats.ino}`)) {
          if (stats.nlink > 1) seen.add(`${stats.dev}:${stats.ino}`);
          // Blocks are of 512 bytes (stat(2)); a file system may report more of them than there are bytes.
          total.bytes += Math.min(stats.size, stats.blocks * 512);
        }
      }
    } finally {
      await directory.close();
    }
  };
  await enter(root, 0);
}

function orAfter(promise: Promise<void>, ms: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
