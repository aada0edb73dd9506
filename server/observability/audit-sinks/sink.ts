/** A line of the audit trail, on its way to where it is kept. */
export interface Entry {
  readonly seq: number;
  /** UTC, ISO 8601, with milliseconds. */
  readonly time: string;
  /** The line, without a line break. */
  readonly text: string;
}

/** Lines of which one sink lost some or all, by their numbers. */
export interface Loss {
  readonly from: number;
  readonly to: number;
  readonly lines: number;
}

/** What a sink tells of itself. */
export interface SinkReports {
  written(lines: number): void;
  lost(loss: Loss): void;
  /** It takes no lines at the moment, or takes them and cannot pass them on. Told as often as it is tried. */
  failing(error: Error): void;
  /** What it took was passed on. Told as often as that happens. */
  working(): void;
}

/** A place that the audit trail is written to. */
export interface Sink {
  readonly name: "stream" | "file" | "ingestion";
  /** Lines that wait to be passed on. */
  readonly waiting: number;
  /** Takes a line, or reports it as lost. Never throws, never waits. */
  write(entry: Entry): void;
  /** Passes on at once what can be passed on without waiting for anybody. */
  push(): void;
  /** Passes on everything that waits; gives up after `withinMs`. */
  flush(withinMs: number): Promise<void>;
  /** The same, and no more after that. */
  close(withinMs: number): Promise<void>;
}

/** The losses that were one after the other, as one. */
export function joined(first: Loss | undefined, second: Loss): Loss {
  if (first === undefined) return second;
  return {
    from: Math.min(first.from, second.from),
    to: Math.max(first.to, second.to),
    lines: first.lines + second.lines,
  };
}
