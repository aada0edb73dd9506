import type { DeadLetter, Delivery, JobQueue, QueuedJob } from "./queue.ts";

/** The clock and the timers of a queue; a test may have its own. */
export interface QueueClock {
  /** Milliseconds since 1970. */
  now(): number;
  /** Calls back after so many milliseconds. What it returns takes that back. */
  after(ms: number, callback: () => void): () => void;
}

export interface MemoryQueueOptions {
  /** How long a message stays away whose receiver did not settle it. Milliseconds; default a minute, as deployed. */
  readonly lockMs?: number;
  /** Deliveries that came to nothing, after which a message is set aside. Default 10, as deployed. */
  readonly maxDeliveryCount?: number;
  /** How long a message's id is remembered. Milliseconds; default ten minutes, as deployed. */
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
  readonly message: QueuedJob;
  readonly sequence: number;
  readonly enqueuedAt: number;
  /** Deliveries that came to nothing. */
  failures: number;
}

/** Messages of one order key; all without one are together in another. */
interface Line {
  readonly key: string | undefined;
  /** In order. */
  readonly messages: Kept[];
  /** One of its messages is with a receiver, or is to be tried again before the next. */
  busy: boolean;
}

interface Receiver {
  readonly concurrency: number;
  readonly handle: (delivery: Delivery) => Promise<void>;
  readonly onError: (error: unknown) => void;
  running: number;
}

/**
 * Jobs in this process, for a server by itself: they end with it. Locks do not run out while their message is handled,
 * since nobody else is there to have it.
 */
export function createMemoryQueue({
  lockMs = 60_000,
  maxDeliveryCount = 10,
  duplicateWindowMs = 600_000,
  clock = SYSTEM_CLOCK,
}: MemoryQueueOptions = {}): JobQueue {
  const unordered: Line = { key: undefined, messages: [], busy: false };
  /** Those with messages, or with one that is away. */
  const ordered = new Map<string, Line>();
  const receivers = new Set<Receiver>();
  /** The oldest first. */
  const dead: (DeadLetter & { readonly message: QueuedJob })[] = [];
  /** Until when ids are remembered; the earliest first. */
  const seen = new Map<string, number>();
  const timers = new Set<() => void>();
  const away = new Set<AbortController>();
  let sequences = 0;
  let dispatching = false;

  return {
    kind: "memory",
    async send(message) {
      if (isDuplicate(message.id)) return;
      const { delayMs = 0 } = message;
      if (delayMs > 0) later(delayMs, () => enqueue(message));
      else enqueue(message);
    },
    receive({ concurrency, handle, onError }) {
      const receiver: Receiver = { concurrency, handle, onError, running: 0 };
      receivers.add(receiver);
      dispatch();
      return {
        async stop() {
          receivers.delete(receiver);
        },
      };
    },
    deadLetters: {
      async list(limit) {
        return dead.slice(0, limit).map(({ message: _message, ...letter }) => letter);
      },
      async replay(sequence, id) {
        const letter = takeDead(sequence);
        if (letter === undefined) return false;
        const { delayMs: _delayMs, ...message } = letter.message;
        if (!isDuplicate(id)) enqueue({ ...message, id });
        return true;
      },
      drop: async (sequence) => takeDead(sequence) !== undefined,
    },
    async check() {},
    async close() {
      receivers.clear();
      for (const cancel of timers) cancel();
      timers.clear();
      for (const lock of away) lock.abort(new Error("The queue was closed."));
    },
  };

  function isDuplicate(id: string): boolean {
    const now = clock.now();
    for (const [other, until] of seen) {
      if (until > now) break;
      seen.delete(other);
    }
    if (seen.has(id)) return true;
    seen.set(id, now + duplicateWindowMs);
    return false;
  }

  function later(ms: number, callback: () => void): void {
    const cancel = clock.after(ms, () => {
      timers.delete(cancel);
      callback();
    });
    timers.add(cancel);
  }

  function enqueue(message: QueuedJob): void {
    sequences += 1;
    lineOf(message.orderKey).messages.push({
      message,
      sequence: sequences,
      enqueuedAt: clock.now(),
      failures: 0,
    });
    dispatch();
  }

  function lineOf(key: string | undefined): Line {
    if (key === undefined) return unordered;
    const line = ordered.get(key) ?? { key, messages: [], busy: false };
    ordered.set(key, line);
    return line;
  }

  /** Gives out what can be given out, the oldest first; not before whoever sends or receives is done with that. */
  function dispatch(): void {
    if (dispatching) return;
    dispatching = true;
    queueMicrotask(() => {
      dispatching = false;
      dispatchNow();
    });
  }

  function dispatchNow(): void {
    for (const receiver of receivers) {
      while (receiver.running < receiver.concurrency) {
        const line = nextLine();
        const kept = line?.messages.shift();
        if (line === undefined || kept === undefined) return;
        line.busy = line.key !== undefined;
        receiver.running += 1;
        void deliver(receiver, line, kept);
      }
    }
  }

  function nextLine(): Line | undefined {
    let next: Line | undefined;
    for (const line of [unordered, ...ordered.values()]) {
      const sequence = line.messages[0]?.sequence;
      if (line.busy || sequence === undefined) continue;
      if (sequence < (next?.messages[0]?.sequence ?? Number.POSITIVE_INFINITY)) next = line;
    }
    return next;
  }

  async function deliver(receiver: Receiver, line: Line, kept: Kept): Promise<void> {
    const lock = new AbortController();
    away.add(lock);
    /** Once settled, a message is not settled again: it may be somebody else's. */
    const settle = (what: () => void) => async () => {
      if (!away.delete(lock)) throw new Error(`Message ${kept.message.id} has been settled, or its lock was lost.`);
      what();
    };
    const { id, body, orderKey } = kept.message;
    const delivery: Delivery = {
      id,
      body,
      orderKey,
      deliveries: kept.failures + 1,
      lost: lock.signal,
      complete: settle(() => free(line)),
      // As on Service Bus, where a session is closed and its messages are as they were, and others are abandoned.
      handBack: settle(() => (line.key === undefined ? failed(line, kept) : putBack(line, kept))),
      retry: (newId, delayMs) =>
        settle(() => {
          if (line.key !== undefined) later(delayMs, () => putBack(line, kept));
          else later(delayMs, () => isDuplicate(newId) || enqueue({ ...kept.message, id: newId }));
        })(),
      deadLetter: (reason, description) =>
        settle(() => {
          setAside(kept, reason, description);
          free(line);
        })(),
    };
    try {
      await receiver.handle(delivery);
    } catch (error) {
      receiver.onError(error);
    }
    receiver.running -= 1;
    if (away.has(lock)) {
      later(lockMs, () => {
        if (!away.delete(lock)) return;
        lock.abort(new Error("The queue has taken the message back: it was not settled."));
        failed(line, kept);
      });
    }
    dispatch();
  }

  function free(line: Line): void {
    line.busy = false;
    if (line.key !== undefined && line.messages.length === 0) ordered.delete(line.key);
    dispatch();
  }

  function putBack(line: Line, kept: Kept): void {
    line.busy = false;
    const at = line.messages.findIndex((other) => other.sequence > kept.sequence);
    line.messages.splice(at < 0 ? line.messages.length : at, 0, kept);
    dispatch();
  }

  function failed(line: Line, kept: Kept): void {
    kept.failures += 1;
    if (kept.failures < maxDeliveryCount) {
      putBack(line, kept);
      return;
    }
    setAside(kept, "MaxDeliveryCountExceeded", `It came to nothing ${maxDeliveryCount} times.`);
    free(line);
  }

  function setAside({ message, sequence, failures, enqueuedAt }: Kept, reason: string, description: string): void {
    const { id, body } = message;
    const letter = { sequence: String(sequence), id, body, reason, description, deliveries: failures + 1 };
    dead.push({ ...letter, enqueuedAt: new Date(enqueuedAt).toISOString(), message });
    dead.sort((a, b) => a.enqueuedAt.localeCompare(b.enqueuedAt));
  }

  function takeDead(sequence: string): (typeof dead)[number] | undefined {
    const at = dead.findIndex((letter) => letter.sequence === sequence);
    return at < 0 ? undefined : dead.splice(at, 1)[0];
  }
}
