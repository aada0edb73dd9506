import { setTimeout as delay } from "node:timers/promises";
import type {
  ServiceBusClient,
  ServiceBusMessage,
  ServiceBusReceivedMessage,
  ServiceBusReceiver,
  ServiceBusSessionReceiver,
} from "@azure/service-bus";
import { within } from "../within.ts";
import type { Delivery, Receiving } from "./queue.ts";
import type { Connection, ServiceBusPlace } from "./service-bus-connection.ts";
import { bodyOf, copyOf } from "./service-bus-message.ts";

/** How long a request for a session is left waiting at the broker. A few frames each time. */
export const SESSION_REQUEST_MS = 15_000;
/**
 * How long the client may take, beyond that or to open a link. Of what is cut off while it proves itself it says nothing
 * for a minute.
 */
const OPEN_MS = 5000;
/** Tries to settle, as long as the lock holds. */
const SETTLE_TRIES = 3;
const SETTLE_AGAIN_MS = 300;
/** How long a receiver is left waiting at the broker before it is told again that there is nothing. */
const WAIT_MS = 60_000;
/** The shortest that there is: for what is there already. */
const NO_WAIT_MS = 1;
/** A session was given to us because it has messages: they come at once, or they are gone. */
const SESSION_WAIT_MS = 1000;
/** So long one session is received from, if it goes on, before others get their turn. */
const SESSION_TURN_MS = 1000;
/** So long a slot is kept for a session that had to be given back for want of one. */
const SESSION_TURN_WAIT_MS = 100;
/** Sessions that are held for a retry: each is a link that is renewed. */
const MOST_HELD = 100;
/** After what the broker could not do. Doubles, up to the last. */
const FIRST_BACKOFF_MS = 200;
const LAST_BACKOFF_MS = 15_000;

/** How long stopping waits for the broker to take its credit back. What comes later is not delivered. */
const STOP_MS = 5000;
/** Longest description of a dead letter that Service Bus takes. Characters. */
const LONGEST_DESCRIPTION = 4096;

interface Source {
  readonly place: ServiceBusPlace;
  readonly connection: Connection;
  /** The broker's clock. Milliseconds since 1970. */
  readonly now: () => number;
  /** To the queue without sessions. */
  readonly send: (message: ServiceBusMessage) => Promise<void>;
  readonly concurrency: number;
  readonly handle: (delivery: Delivery) => Promise<void>;
  readonly onError: (error: unknown) => void;
}

/**
 * Receives from both queues with as many slots as there may be deliveries. A slot waits for a message with a link of its
 * own and a credit of one; beside them one request for a session waits at the broker, as long as a slot waits. When a
 * session is given, a slot withdraws its credit and takes it, and if there is none left, the session is given back: so
 * nothing is ever locked here that nobody works on, and an empty queue costs open links.
 *
 * Not by the client's `subscribe`: after a reconnection that adds credit for deliveries that still run. And a link each,
 * since one keeps 2048 deliveries at most counted from its oldest that is not settled, and a long job would block it.
 */
export function receiveFromServiceBus(source: Source): Receiving {
  const { place, connection, now, concurrency, handle, onError } = source;
  const waiting = new Set<Waiting>();
  const reservations = new Set<(session: ServiceBusSessionReceiver) => void>();
  const held = new Set<() => void>();
  /** Gives back what came while stopping: once no slot has credit left, or it would go from one to the next, and count. */
  const cameTooLate: (() => Promise<void>)[] = [];
  const stopping = new AbortController();
  const stopped = () => stopping.signal.aborted;
  let accepting = false;
  /** A session had to be given back, since all slots were at work: the next that is free is its. */
  let owedToSessions = false;
  let backoff: Promise<void> | undefined;
  let failures = 0;
  let giveUpRequest: ((error: unknown) => void) | undefined;

  for (let slot = 0; slot < concurrency; slot += 1) void work();
  return { stop };

  async function work(): Promise<void> {
    let link: { readonly client: ServiceBusClient; readonly receiver: ServiceBusReceiver } | undefined;
    let lookFirst = true;
    while (!stopped()) {
      try {
        const client = await connection.client();
        if (link?.client !== client) {
          const receiver = client.createReceiver(place.queue, {
            receiveMode: "peekLock",
            skipParsingBodyAsJson: true,
            // Renewed here, where it is known when that fails.
            maxAutoLockRenewalDurationInMs: 0,
          });
          link = { client, receiver };
          lookFirst = true;
        }
        const { receiver } = link;
        const reserved = owedToSessions ? await sessionInTurn() : undefined;
        const next: Work = reserved === undefined ? await nextWork(receiver, lookFirst) : { session: reserved };
        failures = 0;
        connection.succeeded();
        lookFirst = next.session !== undefined;
        if (next.session !== undefined) await serve(next.session);
        if (next.message !== undefined) await run(receiver, next.message);
      } catch (error) {
        if (error instanceof ReceiverStuck) {
          link?.receiver.close().catch(() => {});
          link = undefined;
        }
        lookFirst = true;
        await recover(error);
      }
    }
  }

  /** A message, or a session that this slot was lent to; neither, if there was none for long. */
  async function nextWork(receiver: ServiceBusReceiver, lookFirst: boolean): Promise<Work> {
    if (stopped()) return {};
    const slot = new Waiting();
    waiting.add(slot);
    try {
      // After a session it is the other queue's turn: what it has comes before the next. And a new link is opened so.
      let message = lookFirst ? await receiveOne(receiver, NO_WAIT_MS) : undefined;
      if (message === undefined) {
        slot.lendable = true;
        acceptSessions();
        message = await takeOne(receiver, slot.signal);
      }
      if (!stopped()) return message === undefined ? { session: slot.accept() } : { message };
      if (message !== undefined) cameTooLate.push(() => receiver.abandonMessage(message));
      return {};
    } finally {
      slot.refuse();
      waiting.delete(slot);
    }
  }

  async function run(receiver: ServiceBusReceiver, message: ServiceBusReceivedMessage): Promise<void> {
    const lock = keepLocked(message.lockedUntilUtc, now, () => receiver.renewMessageLock(message));
    const delivery = new ServiceBusDelivery(message, receiver, lock, {
      handBack: () => receiver.abandonMessage(message),
      // In this order: stopped in between, the job is in the queue twice, which the store makes harmless. The other way
      // round it would be there no more.
      retry: async (id, delayMs) => {
        await source.send(copyOf(message, id, { delayMs, now: now() }));
        await receiver.completeMessage(message);
      },
    });
    await handled(delivery);
    lock.end();
  }

  async function serve(session: ServiceBusSessionReceiver): Promise<void> {
    const lock = keepLocked(session.sessionLockedUntilUtc, now, () => session.renewSessionLock());
    const until = performance.now() + SESSION_TURN_MS;
    let waitMs = SESSION_WAIT_MS;
    try {
      while (!stopped() && !lock.lost.aborted && performance.now() < until) {
        const message = await receiveOne(session, waitMs);
        if (message === undefined || stopped()) break;
        waitMs = NO_WAIT_MS;
        let holdMs: number | undefined;
        let isBack = false;
        const delivery = new ServiceBusDelivery(message, session, lock, {
          // Closing the session gives back what is not settled, in its place, and counts as no failure ("Message
          // sessions", impact of delivery count), where abandoning it would.
          handBack: async () => {
            isBack = true;
          },
          retry: async (_id, delayMs) => {
            holdMs = delayMs;
          },
        });
        await handled(delivery);
        if (delivery.isOut) continue;
        // What is not done with comes before all that follows in its session.
        if (holdMs !== undefined && !stopped()) {
          hold(session, lock, holdMs);
          return;
        }
        if (holdMs !== undefined || isBack || lock.lost.aborted) break;
        // Nobody said what is to become of it. Its lock runs out, which counts: it does not go round and round.
        lock.end();
        return;
      }
    } catch (error) {
      release(session, lock);
      throw error;
    }
    release(session, lock);
  }

  function handled(delivery: Delivery): Promise<void> {
    return connection.during(handle(delivery).catch(onError));
  }

  function release(session: ServiceBusSessionReceiver, lock: Lock): void {
    lock.end();
    giveBack(session);
  }

  /** Keeps others from what comes after a message that is to be tried again later. Takes no slot. */
  function hold(session: ServiceBusSessionReceiver, lock: Lock, delayMs: number): void {
    const end = () => {
      clearTimeout(timer);
      lock.lost.removeEventListener("abort", end);
      held.delete(end);
      release(session, lock);
      acceptSessions();
    };
    const timer = setTimeout(end, delayMs);
    lock.lost.addEventListener("abort", end);
    held.add(end);
  }

  /** Has a request for a session wait at the broker, as long as there is a slot for one. */
  function acceptSessions(): void {
    const wanted = reservations.size > 0 || [...waiting].some((slot) => slot.lendable);
    if (accepting || stopped() || !wanted || held.size >= MOST_HELD) return;
    accepting = true;
    acceptOne().finally(() => {
      accepting = false;
      acceptSessions();
    });
  }

  async function acceptOne(): Promise<void> {
    const since = performance.now();
    try {
      const client = await connection.client();
      const options = { skipParsingBodyAsJson: true, maxAutoLockRenewalDurationInMs: 0 };
      const session = await unlessGivenUp(client.acceptNextSession(place.orderedQueue, options));
      if (!(await offer(session))) giveBack(session);
    } catch (error) {
      // Nobody wrote to any session for as long as was asked. Said at once, it would be asked for without end.
      const waitedMs = performance.now() - since;
      if (NO_SESSION.has(codeOf(error)) && waitedMs > SESSION_REQUEST_MS / 2) return;
      await recover(error);
    }
  }

  /** A request that something has happened to is made anew; what comes of it all the same is given back. */
  async function unlessGivenUp(request: Promise<ServiceBusSessionReceiver>): Promise<ServiceBusSessionReceiver> {
    const givenUp = Promise.withResolvers<never>();
    giveUpRequest = givenUp.reject;
    const late = () => new Error(`Service Bus did not answer a request for a session within ${SESSION_REQUEST_MS} ms.`);
    try {
      return await within(SESSION_REQUEST_MS + OPEN_MS, Promise.race([request, givenUp.promise]), late);
    } catch (error) {
      request.then(giveBack, () => {});
      throw error;
    } finally {
      giveUpRequest = undefined;
    }
  }

  async function offer(session: ServiceBusSessionReceiver): Promise<boolean> {
    if (stopped()) return false;
    for (const reserve of reservations) {
      reserve(session);
      return true;
    }
    for (const slot of waiting) {
      if (slot.lendable && (await slot.lend(session))) return true;
    }
    owedToSessions = true;
    return false;
  }

  /** The session that was given back, or another, if it comes soon. */
  function sessionInTurn(): Promise<ServiceBusSessionReceiver | undefined> {
    owedToSessions = false;
    return new Promise((resolve) => {
      const reserve = (session?: ServiceBusSessionReceiver) => {
        clearTimeout(timer);
        reservations.delete(reserve);
        resolve(session);
      };
      const timer = setTimeout(reserve, SESSION_TURN_WAIT_MS);
      reservations.add(reserve);
      acceptSessions();
    });
  }

  /** One of those that failed says so, and all wait. */
  function recover(error: unknown): Promise<void> {
    if (stopped()) return Promise.resolve();
    giveUpRequest?.(error);
    backoff ??= (async () => {
      onError(error);
      connection.failed();
      const longest = Math.min(FIRST_BACKOFF_MS * 2 ** failures, LAST_BACKOFF_MS);
      failures += 1;
      await delay(longest * (0.5 + Math.random() / 2), undefined, { signal: stopping.signal }).catch(() => {});
      backoff = undefined;
    })();
    return backoff;
  }

  async function stop(): Promise<void> {
    stopping.abort();
    const slots = [...waiting];
    for (const slot of slots) slot.call();
    for (const end of held) end();
    const enough = new AbortController();
    await Promise.race([
      Promise.all(slots.map((slot) => slot.over)),
      delay(STOP_MS, undefined, { signal: enough.signal }).catch(() => {}),
    ]);
    enough.abort();
    await Promise.allSettled(cameTooLate.splice(0).map((abandon) => abandon()));
  }
}

interface Work {
  readonly message?: ServiceBusReceivedMessage | undefined;
  readonly session?: ServiceBusSessionReceiver | undefined;
}

/** A slot that waits for a message, and may be called away for a session. */
class Waiting {
  lendable = false;
  readonly #called = new AbortController();
  readonly #over = Promise.withResolvers<void>();
  #offered: { session: ServiceBusSessionReceiver; taken: (taken: boolean) => void } | undefined;

  get signal(): AbortSignal {
    return this.#called.signal;
  }

  get over(): Promise<void> {
    return this.#over.promise;
  }

  call(): void {
    this.#called.abort();
  }

  /** False: a message came first. */
  lend(session: ServiceBusSessionReceiver): Promise<boolean> {
    this.lendable = false;
    return new Promise((taken) => {
      this.#offered = { session, taken };
      this.call();
    });
  }

  accept(): ServiceBusSessionReceiver | undefined {
    this.#offered?.taken(true);
    return this.#offered?.session;
  }

  /** Waits no more; what was offered and not accepted meanwhile is not taken. */
  refuse(): void {
    this.lendable = false;
    this.#offered?.taken(false);
    this.#over.resolve();
  }
}

/** Does not wait for it, which takes a minute if the connection was cut; then the session's lock runs out instead. */
function giveBack(session: ServiceBusSessionReceiver): void {
  session.close().catch(() => {});
}

/** A message, or none once the signal says so. */
async function takeOne(
  receiver: ServiceBusReceiver,
  signal: AbortSignal,
): Promise<ServiceBusReceivedMessage | undefined> {
  try {
    return await receiveOne(receiver, WAIT_MS, signal);
  } catch (error) {
    if (!signal.aborted) throw error;
    // The client stops listening, and leaves the credit with the broker: what it sent would be lost until its lock ran
    // out. A receive that is over at once takes the credit back, with what came; the client comes from the one to the
    // other in one turn of the event loop, so that nothing arrives in between.
    return receiveOne(receiver, NO_WAIT_MS);
  }
}

/** The client is stuck in what was cut off: only another receiver gets a link. */
class ReceiverStuck extends Error {
  override readonly name = "ReceiverStuck";
}

/**
 * A message, on a link that may have to be opened first; none after so long. Not for longer than it was asked: when taking
 * its credit back fails, the client never says what came of it (Azure/azure-sdk-for-js, issue 39348).
 *
 * @throws ReceiverStuck
 */
async function receiveOne(
  receiver: ServiceBusReceiver | ServiceBusSessionReceiver,
  maxWaitTimeInMs: number,
  abortSignal?: AbortSignal,
): Promise<ServiceBusReceivedMessage | undefined> {
  const options = { maxWaitTimeInMs, ...(abortSignal && { abortSignal }) };
  const received = receiver.receiveMessages(1, options).then(([message]) => message);
  const mostMs = maxWaitTimeInMs + OPEN_MS;
  const stuck = () => new ReceiverStuck(`Service Bus gave a receiver neither a message nor none within ${mostMs} ms.`);
  try {
    return await within(mostMs, received, stuck);
  } catch (error) {
    received.then((message) => message && receiver.abandonMessage(message)).catch(() => {});
    throw error;
  }
}

class ServiceBusDelivery implements Delivery {
  readonly id: string;
  readonly body: string;
  readonly deliveries: number;
  readonly orderKey: string | undefined;
  readonly lost: AbortSignal;
  /** Completed or set aside: it does not come again. */
  isOut = false;
  readonly #message: ServiceBusReceivedMessage;
  readonly #receiver: ServiceBusReceiver | ServiceBusSessionReceiver;
  readonly #lock: Lock;
  readonly #back: Pick<Delivery, "handBack" | "retry">;

  constructor(
    message: ServiceBusReceivedMessage,
    receiver: ServiceBusReceiver | ServiceBusSessionReceiver,
    lock: Lock,
    back: Pick<Delivery, "handBack" | "retry">,
  ) {
    this.id = String(message.messageId ?? "");
    this.body = bodyOf(message);
    // Service Bus counts those that came to nothing.
    this.deliveries = (message.deliveryCount ?? 0) + 1;
    this.orderKey = message.sessionId;
    this.lost = lock.lost;
    this.#message = message;
    this.#receiver = receiver;
    this.#lock = lock;
    this.#back = back;
  }

  async complete(): Promise<void> {
    await this.#unlessLost(() => this.#receiver.completeMessage(this.#message));
    this.#out();
  }

  async handBack(): Promise<void> {
    await this.#unlessLost(() => this.#back.handBack());
    if (this.orderKey === undefined) this.#lock.end();
  }

  async retry(id: string, delayMs: number): Promise<void> {
    await this.#unlessLost(() => this.#back.retry(id, delayMs));
    if (this.orderKey === undefined) this.#lock.end();
  }

  async deadLetter(reason: string, description: string): Promise<void> {
    const deadLetterErrorDescription = description.slice(0, LONGEST_DESCRIPTION);
    const why = { deadLetterReason: reason, deadLetterErrorDescription };
    await this.#unlessLost(() => this.#receiver.deadLetterMessage(this.#message, why));
    this.#out();
  }

  /**
   * Tries again what was cut off, and does not wait for its end when the lock is lost: that may take a minute, and be in
   * vain.
   */
  async #unlessLost(settle: () => Promise<void>): Promise<void> {
    const { lost } = this;
    const end = Promise.withResolvers<never>();
    const onLost = () => end.reject(lost.reason);
    lost.throwIfAborted();
    lost.addEventListener("abort", onLost);
    try {
      await Promise.race([repeat(settle), end.promise]);
    } catch (error) {
      if (LOCK_LOST.has(codeOf(error))) this.#lock.lose();
      throw error;
    } finally {
      lost.removeEventListener("abort", onLost);
    }

    async function repeat(step: () => Promise<void>): Promise<void> {
      for (let tries = 1; ; tries += 1) {
        try {
          return await step();
        } catch (error) {
          const mayPass = error instanceof Error && "retryable" in error && error.retryable === true;
          if (!mayPass || tries === SETTLE_TRIES || lost.aborted) throw error;
          await delay(SETTLE_AGAIN_MS);
        }
      }
    }
  }

  #out(): void {
    this.isOut = true;
    // A session's lock is for its next message as well.
    if (this.orderKey === undefined) this.#lock.end();
  }
}

interface Lock {
  readonly lost: AbortSignal;
  /** It is renewed no more, and can no more be lost. */
  end(): void;
  /** The broker says that it is not held any more. */
  lose(): void;
}

/** How much of a lock may go by before it is renewed, and how long at most: what is known of the broker's clock may be wrong. */
const RENEWED_AFTER = 1 / 3;
const RENEWED_AFTER_MS = 10_000;
/** The longest that Service Bus locks for, and what is taken for granted if it seems not to be so. */
const LONGEST_LOCK_MS = 300_000;
const LIKELY_LOCK_MS = 30_000;

function keepLocked(lockedUntil: Date | undefined, now: () => number, renew: () => Promise<Date>): Lock {
  const lost = new AbortController();
  let ended = false;
  let remainingMs = remainingOf(lockedUntil, now());
  let expiry = setTimeout(lose, remainingMs);
  let renewal = setTimeout(renewNow, nextIn());
  return { lost: lost.signal, end, lose };

  function nextIn(): number {
    return Math.min(remainingMs * RENEWED_AFTER, RENEWED_AFTER_MS);
  }

  /** Does not wait for an answer before it asks again: one to a connection that was cut never comes. */
  function renewNow(): void {
    renewal = setTimeout(renewNow, nextIn());
    renew().then(
      (until) => {
        if (ended) return;
        clearTimeout(expiry);
        remainingMs = remainingOf(until, now());
        expiry = setTimeout(lose, remainingMs);
      },
      (error) => {
        if (LOCK_LOST.has(codeOf(error))) lose();
      },
    );
  }

  function lose(): void {
    if (ended) return;
    end();
    lost.abort(new Error("The queue has taken the message back: its lock could not be renewed."));
  }

  function end(): void {
    ended = true;
    clearTimeout(expiry);
    clearTimeout(renewal);
  }
}

function remainingOf(lockedUntil: Date | undefined, now: number): number {
  const remainingMs = (lockedUntil?.getTime() ?? 0) - now;
  return remainingMs > 0 && remainingMs <= LONGEST_LOCK_MS ? remainingMs : LIKELY_LOCK_MS;
}

/** `ServiceBusErrorCode`s. */
const LOCK_LOST: ReadonlySet<unknown> = new Set(["MessageLockLost", "MessageNotFound", "SessionLockLost"]);
const NO_SESSION: ReadonlySet<unknown> = new Set(["ServiceTimeout", "SessionCannotBeLocked"]);

function codeOf(error: unknown): unknown {
  return error instanceof Error && "code" in error ? error.code : undefined;
}
