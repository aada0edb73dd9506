/* What the processes of the bench of jobs tell the one that started them. */

/** A job's end, as whoever ran it tells it. */
export interface JobEnd {
  readonly job: string;
  /** The last part of its event's name: `succeeded`, if all is well. */
  readonly outcome: string;
  /** By {@link now}. */
  readonly startedAt: number;
  readonly endedAt: number;
}

/** What the doubles say when they are there: the environment in which a server and a worker find them. */
export interface Doubles {
  readonly env: Readonly<Record<string, string>>;
}

/** Milliseconds by the machine's monotonic clock, which is the same in all processes. */
export const now = (): number => Number(process.hrtime.bigint()) / 1e6;
