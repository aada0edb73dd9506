import type { DeadLetter, Delivery, JobQueue, QueuedJob, Receiving } from "./queue.ts";

/** The clock and the timers of a queue; a test may have its own. */
export interface QueueClock {
  /** Milliseconds since 1970. */
  now(): number;
  /** Calls back after so many milliseconds; the result takes it back. */
  after(ms: number, callback: () => void): () => void;
}

export interface MemoryQueueOptions {
  /** How long a lock holds that is not renewed; those here always are. Milliseconds. Default: a minute, as deployed. */
  readonly lockMs?: number;
  /** Deliveries that came to nothing, after which a message is set aside. Default 10, as deployed. */
  readonly maxDeliveryCount?: number;
  /** How long a message's id is remembered. Milliseconds. Default: ten minutes, as deployed. */
  readonly duplicateWindowMs?: number;
  readonly clock?: QueueClock;
}

const SYSTEM_CLOCK: QueueClock = {
  now: Date.now,
  after(ms, callback) {
    const timer = setTimeout(callback, ms);
    return () => clearTimeout(timer);
  },
};

interface Kept {
  readonly sequence: number;
  readonly id: string;
  readonly body: string;
  readonly orderKey: string | undefined;
  readonly traceId: string | undefined;
  readonly enqueuedAt: number;
  deliveries: number;
}
