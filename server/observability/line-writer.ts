import { writeSync } from "node:fs";

/** What becomes of the lines of a {@link LineWriter}. */
export interface LineWatcher {
  /** Everything that was taken has been handed to the operating system. */
  written(): void;
  /** What was taken waits, and is tried again; or, when the reader is gone, it is lost, and so is all that follows. */
  failed(error: Error, gone: boolean): void;
}

/** Whole lines to a descriptor, those of one turn of the event loop in one write. */
export interface LineWriter {
  /** Takes a line, with its line break. False when it does not: the reader is gone, or too much waits already. */
  write(line: string): boolean;
  /** Writes what waits, now. */
  flush(): void;
  /** The same for the end of the process: gives a reader that is slow a moment. */
  flushSync(): void;
  /** Writes what waits to the old descriptor, as far as that can be, and the rest and all that follows to another. */
  redirect(descriptor: number): void;
  /** Why nothing can be written at the moment. */
  readonly failure: Error | undefined;
  watch(watcher: LineWatcher): void;
}

/** Bytes (of ASCII) that are written without waiting for the turn's end. */
const WRITE_LENGTH = 8 * 1024;
/** What may wait for a full disk or a slow reader, in characters; more is refused. */
const MOST_WAITING = 8 * 1024 * 1024;
/** Until what failed is tried again, if no line comes before. Milliseconds. */
const RETRY_MS = 1000;
/** Until a slow reader is tried again, and for how long at the end of the process. Milliseconds. */
const SLOW_MS = 5;
const LAST_WAIT_MS = 1000;

/**
 * Writes are synchronous: what a turn says is with the operating system before the next one begins, so that a process
 * that is killed leaves all that it did before, and a full disk is known at once. No line waits for longer than a turn
 * while the descriptor takes what it is given; when it does not, nothing blocks, and a bounded number of lines waits.
 */
export function createLineWriter(descriptor: number): LineWriter {
  const watchers: LineWatcher[] = [];
  let to = descriptor;
  let waiting = "";
  /** A batch of which the operating system took a part, and how much. */
  let begun: { readonly bytes: Buffer; at: number } | undefined;
  let failure: Error | undefined;
  let gone = false;
  let due = false;
  let retry: NodeJS.Timeout | undefined;
  const length = () => waiting.length + (begun === undefined ? 0 : begun.bytes.length - begun.at);

  const flush = () => {
    due = false;
    if (length() === 0) return;
    try {
      while (length() > 0) {
        if (begun === undefined) {
          begun = { bytes: Buffer.from(waiting), at: 0 };
          waiting = "";
        }
        begun.at += writeSync(to, begun.bytes, begun.at);
        if (begun.at === begun.bytes.length) begun = undefined;
      }
    } catch (cause) {
      failed(cause instanceof Error ? cause : new Error(String(cause)));
      return;
    }
    failure = undefined;
    for (const watcher of watchers) watcher.written();
  };

  const failed = (error: NodeJS.ErrnoException) => {
    const slow = error.code === "EAGAIN";
    if (!slow) {
      failure = error;
      gone = error.code === "EPIPE";
      if (gone) {
        waiting = "";
        begun = undefined;
      }
      for (const watcher of watchers) watcher.failed(error, gone);
    }
    if (gone || retry !== undefined) return;
    retry = setTimeout(
      () => {
        retry = undefined;
        flush();
      },
      slow ? SLOW_MS : RETRY_MS,
    ).unref();
  };

  return {
    get failure() {
      return failure;
    },
    write(line) {
      if (gone || length() + line.length > MOST_WAITING) return false;
      waiting += line;
      if (waiting.length >= WRITE_LENGTH && retry === undefined) flush();
      else if (!due) {
        due = true;
        setImmediate(flush);
      }
      return true;
    },
    flush,
    flushSync() {
      const end = performance.now() + LAST_WAIT_MS;
      const clock = new Int32Array(new SharedArrayBuffer(4));
      flush();
      while (failure === undefined && length() > 0 && performance.now() < end) {
        Atomics.wait(clock, 0, 0, SLOW_MS);
        flush();
      }
    },
    redirect(next) {
      flush();
      // A line of which the old descriptor has a part begins anew in the other.
      if (begun !== undefined) {
        const start = begun.bytes.subarray(0, begun.at).lastIndexOf("\n") + 1;
        waiting = begun.bytes.toString("utf8", start) + waiting;
        begun = undefined;
      }
      to = next;
      gone = false;
      flush();
    },
    watch: (watcher) => void watchers.push(watcher),
  };
}
