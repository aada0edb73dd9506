import { randomUUID } from "node:crypto";
import type { Message } from "rhea";

/** A queue as it was made; the words are Azure's. */
export interface QueueSettings {
  readonly name: string;
  /** Messages carry a session id, and are received session by session, in order. Default false. */
  readonly requiresSession?: boolean;
  /** How long a message or a session is locked for its receiver. Milliseconds. */
  readonly lockMs: number;
  /** After so many deliveries that came to nothing, a message is dead-lettered. */
  readonly maxDeliveryCount: number;
  /** For so long, a second message of the same id is taken and dropped. Milliseconds; 0 does without. */
  readonly duplicateWindowMs: number;
}

/** A message as a queue keeps it. */
export interface KeptMessage {
  /** Rises with each message of a queue. A scheduled message gets a new one when it is due, as at Azure. */
  sequence: number;
  readonly message: Message;
  readonly sessionId: string | undefined;
  enqueuedAt: number;
  /** Deliveries that came to nothing so far: what AMQP's header calls delivery-count. */
  failures: number;
  state: "active" | "scheduled" | "deferred";
  /** While `scheduled`. Milliseconds since 1970. */
  readonly dueAt: number | undefined;
  lock: MessageLock | undefined;
}

export interface MessageLock {
  /** A GUID, by which the receiver names the message. */
  readonly token: string;
  until: number;
  readonly timer: NodeJS.Timeout | undefined;
}

/** A link that messages go out by. */
export interface Consumer {
  /** How many messages it takes now. */
  credit(): number;
  deliver(kept: KeptMessage, lock: MessageLock): void;
}

/** A receiver's hold on a session. */
export interface SessionLock {
  readonly sessionId: string;
  until: number;
}

/** Somebody who waits for a session: that one, or any that has messages and is free. */
export interface Acceptor {
  readonly sessionId: string | undefined;
  accept(lock: SessionLock): Consumer;
  /** The lock ran out. */
  lost(): void;
}

interface Session {
  readonly id: string;
  readonly ready: InOrder;
  state: Buffer | undefined;
  held: (SessionLock & { consumer: Consumer; acceptor: Acceptor; timer: NodeJS.Timeout }) | undefined;
}

export type Outcome =
  | { readonly kind: "complete" | "abandon" | "defer" }
  | { readonly kind: "dead-letter"; readonly reason: string | undefined; readonly description: string | undefined };

/**
 * One queue of Service Bus in memory: locks, sessions, schedules, duplicate detection, delivery counts and dead letters,
 * by the rules of the articles "Message transfers, locks, and settlement", "Message sessions", "Duplicate detection" and
 * "Dead-letter queues" of Azure's documentation. Knows nothing of AMQP but the message.
 */
export class BusQueue {
  readonly settings: QueueSettings;
  /** The sub-queue; it has none of its own. */
  readonly deadLetters: BusQueue | undefined;
  readonly #all = new Map<number, KeptMessage>();
  readonly #ready = new InOrder();
  readonly #locked = new Map<string, KeptMessage>();
  readonly #sessions = new Map<string, Session>();
  /** Sessions with messages that nobody holds, the longest free first. */
  readonly #free = new Set<Session>();
  readonly #acceptors = new Set<Acceptor>();
  readonly #consumers = new Set<Consumer>();
  readonly #schedules = new Map<number, NodeJS.Timeout>();
  /** Ids of the window, by when they leave it; the earliest first. */
  readonly #seen = new Map<string, number>();
  #sequence = 0;
  #pumping: NodeJS.Immediate | undefined;

  constructor(settings: QueueSettings, subQueue = false) {
    this.settings = settings;
    if (subQueue) return;
    const dead = {
      ...settings,
      requiresSession: false,
      duplicateWindowMs: 0,
      maxDeliveryCount: Number.MAX_SAFE_INTEGER,
    };
    this.deadLetters = new BusQueue(dead, true);
  }

  /** Messages by what becomes of them next; `active` counts those that are locked as well, as Azure does. */
  depth(): { active: number; locked: number; scheduled: number; deferred: number; deadLetter: number } {
    let deferred = 0;
    for (const kept of this.#all.values()) if (kept.state === "deferred") deferred += 1;
    const scheduled = this.#schedules.size;
    const active = this.#all.size - scheduled - deferred;
    const deadLetter = this.deadLetters === undefined ? 0 : this.deadLetters.#all.size;
    return { active, locked: this.#locked.size, scheduled, deferred, deadLetter };
  }

  /** Takes a message, and says under which sequence number; that of a duplicate is nobody's. */
  enqueue(message: Message, dueAt?: number): number {
    const now = Date.now();
    this.#sequence += 1;
    if (this.#isDuplicate(message, now)) return this.#sequence;
    const later = dueAt !== undefined && dueAt > now;
    const kept: KeptMessage = {
      sequence: this.#sequence,
      message,
      sessionId: message.group_id,
      enqueuedAt: now,
      failures: 0,
      state: later ? "scheduled" : "active",
      dueAt: later ? dueAt : undefined,
      lock: undefined,
    };
    this.#all.set(kept.sequence, kept);
    if (later) this.#schedule(kept, dueAt - now);
    else this.#makeReady(kept);
    return kept.sequence;
  }

  /** False: there is none scheduled under that number. */
  cancelScheduled(sequence: number): boolean {
    const timer = this.#schedules.get(sequence);
    if (timer === undefined) return false;
    clearTimeout(timer);
    this.#schedules.delete(sequence);
    return this.#all.delete(sequence);
  }

  /** Messages from that number on, whatever their state; nothing is locked. */
  peek(from: number, limit: number, sessionId?: string): readonly KeptMessage[] {
    return [...this.#all.values()]
      .filter((kept) => kept.sequence >= from && (sessionId === undefined || kept.sessionId === sessionId))
      .sort((a, b) => a.sequence - b.sequence)
      .slice(0, limit);
  }

  /** Locks a deferred message. */
  receiveDeferred(sequence: number): { kept: KeptMessage; lock: MessageLock } | undefined {
    const kept = this.#all.get(sequence);
    if (kept?.state !== "deferred" || kept.lock !== undefined) return undefined;
    return { kept, lock: this.#lock(kept) };
  }

  /** False: the lock is not held, or no more. */
  settle(token: string, outcome: Outcome): boolean {
    const kept = this.#locked.get(token);
    if (kept === undefined) return false;
    this.#unlock(kept);
    switch (outcome.kind) {
      case "complete":
        this.#all.delete(kept.sequence);
        break;
      case "abandon":
        this.#failed(kept);
        break;
      case "defer":
        kept.state = "deferred";
        break;
      case "dead-letter":
        this.#deadLetter(kept, outcome.reason, outcome.description);
        break;
    }
    return true;
  }

  /** Until when the lock is held now; undefined: it is not. */
  renew(token: string): number | undefined {
    const lock = this.#locked.get(token)?.lock;
    if (lock?.timer === undefined) return undefined;
    lock.until = Date.now() + this.settings.lockMs;
    lock.timer.refresh();
    return lock.until;
  }

  addConsumer(consumer: Consumer): void {
    this.#consumers.add(consumer);
  }

  /** Its messages stay locked until they are settled, by whatever link, or their locks run out. */
  removeConsumer(consumer: Consumer): void {
    this.#consumers.delete(consumer);
  }

  /** Credit or messages came: hands out what can be, once what is under way has been read. */
  pump(): void {
    this.#pumping ??= setImmediate(() => {
      this.#pumping = undefined;
      this.pumpNow();
    });
  }

  pumpNow(): void {
    for (const consumer of [...this.#consumers]) {
      for (let credit = consumer.credit(); credit > 0; credit -= 1) {
        const kept = this.#ready.first();
        if (kept === undefined) return;
        this.#ready.remove(kept);
        consumer.deliver(kept, this.#lock(kept));
      }
      // The next pump begins with the next, so that one with much credit does not take all.
      this.#consumers.delete(consumer);
      this.#consumers.add(consumer);
    }
  }

  accept(acceptor: Acceptor): void {
    this.#acceptors.add(acceptor);
    this.#assign();
  }

  cancelAccept(acceptor: Acceptor): void {
    this.#acceptors.delete(acceptor);
  }

  /** Hands out the messages of a session that this consumer holds. */
  pumpSession(sessionId: string): void {
    const session = this.#sessions.get(sessionId);
    if (session?.held === undefined) return;
    const { consumer } = session.held;
    for (let credit = consumer.credit(); credit > 0; credit -= 1) {
      const kept = session.ready.first();
      if (kept === undefined) return;
      session.ready.remove(kept);
      consumer.deliver(kept, this.#lock(kept));
    }
  }

  renewSession(sessionId: string): number | undefined {
    const held = this.#sessions.get(sessionId)?.held;
    if (held === undefined) return undefined;
    held.until = Date.now() + this.settings.lockMs;
    held.timer.refresh();
    return held.until;
  }

  /** Its receiver went: what it had of the session is there again, and counts as no failure. */
  releaseSession(sessionId: string, consumer: Consumer): void {
    const session = this.#sessions.get(sessionId);
    if (session?.held?.consumer === consumer) this.#freeSession(session, false);
  }

  /** Undefined: nobody holds the session. Null: it has no state. */
  sessionState(sessionId: string): Buffer | null | undefined {
    const session = this.#sessions.get(sessionId);
    return session?.held === undefined ? undefined : (session.state ?? null);
  }

  setSessionState(sessionId: string, state: Buffer | undefined): boolean {
    const session = this.#sessions.get(sessionId);
    if (session?.held === undefined) return false;
    session.state = state;
    return true;
  }

  /** Ends all timers. */
  close(): void {
    for (const timer of this.#schedules.values()) clearTimeout(timer);
    for (const { lock } of this.#locked.values()) clearTimeout(lock?.timer);
    for (const { held } of this.#sessions.values()) clearTimeout(held?.timer);
    if (this.#pumping !== undefined) clearImmediate(this.#pumping);
    this.deadLetters?.close();
  }

  #isDuplicate({ message_id: id }: Message, now: number): boolean {
    if (this.settings.duplicateWindowMs <= 0 || id === undefined) return false;
    for (const [other, until] of this.#seen) {
      if (until > now) break;
      this.#seen.delete(other);
    }
    if (this.#seen.has(String(id))) return true;
    this.#seen.set(String(id), now + this.settings.duplicateWindowMs);
    return false;
  }

  #schedule(kept: KeptMessage, delayMs: number): void {
    const timer = setTimeout(() => {
      this.#schedules.delete(kept.sequence);
      this.#all.delete(kept.sequence);
      this.#sequence += 1;
      kept.sequence = this.#sequence;
      kept.enqueuedAt = Date.now();
      kept.state = "active";
      this.#all.set(kept.sequence, kept);
      this.#makeReady(kept);
    }, delayMs);
    this.#schedules.set(kept.sequence, timer);
  }

  #makeReady(kept: KeptMessage): void {
    if (!this.settings.requiresSession) {
      this.#ready.insert(kept);
      this.pump();
      return;
    }
    const id = kept.sessionId ?? "";
    const session = this.#sessions.get(id) ?? { id, ready: new InOrder(), state: undefined, held: undefined };
    this.#sessions.set(id, session);
    session.ready.insert(kept);
    if (session.held !== undefined) this.pumpSession(id);
    else {
      this.#free.add(session);
      this.#assign();
    }
  }

  #lock(kept: KeptMessage): MessageLock {
    const inSession = this.settings.requiresSession === true;
    const until = inSession
      ? (this.#sessions.get(kept.sessionId ?? "")?.held?.until ?? Date.now())
      : Date.now() + this.settings.lockMs;
    const lock: MessageLock = {
      token: randomUUID(),
      until,
      // A session's messages are held by the session's lock.
      timer: inSession ? undefined : setTimeout(() => this.#lockRanOut(kept), this.settings.lockMs),
    };
    kept.lock = lock;
    this.#locked.set(lock.token, kept);
    return lock;
  }

  #unlock(kept: KeptMessage): void {
    if (kept.lock === undefined) return;
    clearTimeout(kept.lock.timer);
    this.#locked.delete(kept.lock.token);
    kept.lock = undefined;
  }

  #lockRanOut(kept: KeptMessage): void {
    this.#unlock(kept);
    this.#failed(kept);
  }

  #failed(kept: KeptMessage): void {
    kept.failures += 1;
    const most = this.settings.maxDeliveryCount;
    if (kept.failures < most) {
      if (kept.state === "active") this.#makeReady(kept);
      return;
    }
    const description = `Message could not be consumed after ${most} delivery attempts.`;
    this.#deadLetter(kept, "MaxDeliveryCountExceeded", description);
  }

  #deadLetter(kept: KeptMessage, reason: string | undefined, description: string | undefined): void {
    this.#all.delete(kept.sequence);
    const dead = this.deadLetters;
    // Nothing is set aside from where things are set aside: it stays.
    if (dead === undefined) {
      this.#all.set(kept.sequence, kept);
      this.#makeReady(kept);
      return;
    }
    const why = { ...(reason && { DeadLetterReason: reason }) };
    const more = { ...(description && { DeadLetterErrorDescription: description }) };
    const application_properties = { ...kept.message.application_properties, ...why, ...more };
    const moved: KeptMessage = {
      ...kept,
      message: { ...kept.message, application_properties },
      state: "active",
      lock: undefined,
    };
    dead.#all.set(moved.sequence, moved);
    dead.#makeReady(moved);
  }

  #assign(): void {
    for (const acceptor of [...this.#acceptors]) {
      const session = this.#sessionFor(acceptor);
      if (session === undefined) continue;
      this.#acceptors.delete(acceptor);
      this.#free.delete(session);
      const lock = { sessionId: session.id, until: Date.now() + this.settings.lockMs };
      const timer = setTimeout(() => this.#freeSession(session, true), this.settings.lockMs);
      // Held before its receiver hears of it, which may ask for messages at once.
      const held = { ...lock, acceptor, timer, consumer: NOBODY };
      session.held = held;
      held.consumer = acceptor.accept(lock);
    }
  }

  #sessionFor({ sessionId }: Acceptor): Session | undefined {
    if (sessionId === undefined) return this.#free.values().next().value;
    const session = this.#sessions.get(sessionId) ?? {
      id: sessionId,
      ready: new InOrder(),
      state: undefined,
      held: undefined,
    };
    this.#sessions.set(sessionId, session);
    return session.held === undefined ? session : undefined;
  }

  #freeSession(session: Session, ranOut: boolean): void {
    const { held } = session;
    if (held === undefined) return;
    clearTimeout(held.timer);
    session.held = undefined;
    if (ranOut) held.acceptor.lost();
    for (const kept of [...this.#locked.values()].filter((each) => (each.sessionId ?? "") === session.id)) {
      this.#unlock(kept);
      if (ranOut) this.#failed(kept);
      else if (kept.state === "active") session.ready.insert(kept);
    }
    if (session.ready.first() !== undefined) this.#free.add(session);
    else if (session.state === undefined) this.#sessions.delete(session.id);
    this.#assign();
  }
}

const NOBODY: Consumer = { credit: () => 0, deliver: () => {} };

/** Messages by their numbers. They mostly come at the end, go from the front, and now and then come back near it. */
class InOrder {
  #messages: KeptMessage[] = [];

  first(): KeptMessage | undefined {
    return this.#messages[0];
  }

  insert(kept: KeptMessage): void {
    let at = this.#messages.length;
    if (at > 0 && (this.#messages[at - 1]?.sequence ?? 0) > kept.sequence) {
      at = this.#messages.findIndex((other) => other.sequence > kept.sequence);
    }
    this.#messages.splice(at, 0, kept);
  }

  remove(kept: KeptMessage): void {
    if (this.#messages[0] === kept) this.#messages.shift();
    else this.#messages = this.#messages.filter((other) => other !== kept);
  }
}
