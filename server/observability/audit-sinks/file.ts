import { closeSync, constants, fdatasync, fstatSync, openSync, statSync } from "node:fs";
import { createLineWriter } from "../line-writer.ts";
import { createLineSink } from "./line-sink.ts";
import type { Sink, SinkReports } from "./sink.ts";

/** How often the file is synced to its disk while lines are written, and looked at for having been renamed. Milliseconds. */
const CARE_MS = 1000;

/** The owner's alone: it tells who did what. */
const MODE = 0o600;

export interface FileSink extends Sink {
  /** Opens the path anew, after the file was renamed. */
  reopen(): void;
}

/**
 * Appends to a file. A line is with the operating system at the end of its turn of the event loop, and on the disk a
 * second later (`fdatasync`): what a crash of the process cannot take, and a crash of the machine can, is the last
 * second. A file that was renamed or removed is noticed within that second, and the path opened anew, so log rotation
 * needs no signal.
 *
 * @throws Error naming AUDIT_FILE when it cannot be opened.
 */
export function createFileSink(path: string, reports: SinkReports): FileSink {
  let descriptor = open(path);
  let dirty = false;
  let care: NodeJS.Timeout | undefined;
  const writer = createLineWriter(descriptor);
  const sink = createLineSink("file", writer, {
    ...reports,
    written(lines) {
      dirty = true;
      reports.written(lines);
    },
  });

  const reopen = () => {
    try {
      const next = open(path);
      writer.redirect(next);
      closeSync(descriptor);
      descriptor = next;
    } catch (error) {
      // The old file is still there to take lines.
      reports.failing(error instanceof Error ? error : new Error(String(error)));
    }
  };

  const sync = () =>
    new Promise<void>((resolve) => {
      if (!dirty) return resolve();
      dirty = false;
      fdatasync(descriptor, (error) => {
        // What is no file on a disk has nothing to sync.
        if (error !== null && error.code !== "EINVAL" && error.code !== "EROFS") reports.failing(error);
        resolve();
      });
    });

  const takeCare = () => {
    care = undefined;
    if (wasRenamed(path, descriptor)) reopen();
    void sync();
  };

  return {
    ...sink,
    get waiting() {
      return sink.waiting;
    },
    write(entry) {
      sink.write(entry);
      care ??= setTimeout(takeCare, CARE_MS).unref();
    },
    async flush() {
      sink.push();
      await sync();
    },
    async close() {
      sink.push();
      await sync();
      clearTimeout(care);
      care = undefined;
    },
    reopen,
  };
}

function open(path: string): number {
  try {
    // Without waiting: a pipe that nobody reads is a fault, and no reason to stand still.
    return openSync(path, constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | constants.O_NONBLOCK, MODE);
  } catch (cause) {
    const code = cause instanceof Error && "code" in cause ? cause.code : cause;
    throw new Error(`AUDIT_FILE=${path} cannot be opened (${code}); name a file that this user may append to.`, {
      cause,
    });
  }
}

function wasRenamed(path: string, descriptor: number): boolean {
  const opened = fstatSync(descriptor);
  const there = statSync(path, { throwIfNoEntry: false });
  return there === undefined || there.ino !== opened.ino || there.dev !== opened.dev;
}
