/** A message for the queue: who is to be run, and nothing about it that must not be read. */
export interface QueuedJob {
  /** Of one id, the queue takes one message within its window of duplicate detection (10 minutes). */
  readonly id: string;
  /** What `server/services/jobs/messages.ts` writes. */
  readonly body: string;
  /** Messages of one key, of at most 128 characters, are received one after the other, in the order they were sent. */
  readonly orderKey?: string | undefined;
  /** Not to be received before. Milliseconds from now. */
  readonly delayMs?: number | undefined;
  /** W3C trace id. */
  readonly traceId?: string | undefined;
}

/** A message as a worker receives it, locked until it is settled, once, by one of the methods. */
export interface Delivery {
  readonly id: string;
  /** As it came: to be parsed. */
  readonly body: string;
  /** 1 for the first time. */
  readonly deliveries: number;
  readonly orderKey?: string | undefined;
  /** Aborts when the lock is lost: somebody else may have the message now. */
  readonly lost: AbortSignal;
  /** Done with it. */
  complete(): Promise<void>;
  /** Back to the queue as it is, for the next who receives. */
  handBack(): Promise<void>;
  /** Received again after so long, in place of this delivery; `id` is the new message's. One with an order key keeps its place. */
  retry(id: string, delayMs: number): Promise<void>;
  /** Set aside, with the reason (a word or two) and a sentence, for an operator to look at. */
  deadLetter(reason: string, description: string): Promise<void>;
}

/** What was set aside. */
export interface DeadLetter {
  /** Names it in {@link DeadLetters}; the queue's sequence number. */
  readonly sequence: string;
  readonly id: string;
  readonly body: string;
  readonly reason: string;
  readonly description: string;
  readonly deliveries: number;
  /** ISO 8601. */
  readonly enqueuedAt: string;
}

export interface DeadLetters {
  /** The oldest first, at most so many. */
  list(limit: number): Promise<readonly DeadLetter[]>;
  /** Sends the message to the queue again, as a new one with that id, and takes it out of here. False: it is not there. */
  replay(sequence: string, id: string): Promise<boolean>;
  /** Takes it out of here for good. False: it is not there. */
  drop(sequence: string): Promise<boolean>;
}

/** Receiving, until it is stopped. */
export interface Receiving {
  /** Receives nothing more; resolves when that holds. What was delivered keeps its lock and can still be settled. */
  stop(): Promise<void>;
}

/**
 * Brings jobs from whoever submits to whoever works, at least once each. In memory for a server by itself, on Service
 * Bus for a deployed one; both hold to the same contract, and the same tests.
 */
export interface JobQueue {
  readonly kind: "memory" | "service-bus";
  /** Resolves when the queue has it. */
  send(message: QueuedJob): Promise<void>;
  /**
   * Receives, at most `concurrency` at once. Locks are renewed for as long as `handle` runs; it settles each delivery
   * itself and never rejects. `onError` is told of what the queue cannot do meanwhile; receiving goes on by itself.
   */
  receive(options: {
    readonly concurrency: number;
    readonly handle: (delivery: Delivery) => Promise<void>;
    readonly onError: (error: unknown) => void;
  }): Receiving;
  readonly deadLetters: DeadLetters;
  /** Whether it answers. Rejects with why not. */
  check(): Promise<void>;
  close(): Promise<void>;
}
