import rhea, { type AmqpError, type Delivery, type Message, type Sender, type Session } from "rhea";
import type { Acceptor, BusQueue, Consumer, KeptMessage, MessageLock, Outcome, SessionLock } from "./queue.ts";

/** The parts of rhea's link that its types leave out; `rhea/lib/link.js`. */
interface SenderInside {
  credit: number;
  delivery_count: number;
  _draining: boolean;
  _get_drain: () => boolean;
  local: { attach: { properties?: Record<string, unknown> } };
  session: { outgoing: { available(): number } };
}

/** So is this of its messages; `rhea/lib/message.js`. */
const OUTCOMES = rhea.message as unknown as {
  accepted(): { described(): object };
  rejected(fields: { error: AmqpError }): { described(): object };
};

const SESSION_FILTER = "com.microsoft:session-filter";
/** How long a client waits for a session. Milliseconds, in the link's properties. */
const TIMEOUT = "com.microsoft:timeout";
const DEFAULT_TIMEOUT_MS = 60_000;
const LOCKED_UNTIL = "com.microsoft:locked-until-utc";

/** Asked before a settlement is looked at. "cut": the connection is gone. */
type Fault = (operation: "settle") => AmqpError | "cut" | undefined;

/**
 * Has links that clients receive by opened when `open` says so, and not as soon as they ask: a client that wants a session
 * is answered when there is one.
 */
export function answerWhenReady(session: Session, open: (sender: Sender) => void): void {
  const inside = session as Session & { create_sender: (name: string, options?: object) => Sender };
  const create = inside.create_sender.bind(session);
  inside.create_sender = (name, options) => {
    const sender = create(name, options);
    // What rhea calls when the client's attach came; `attach` remains, and is the answer.
    sender.open = () => {};
    sender.on("sender_open", () => open(sender));
    return sender;
  };
}

/** A link by which a client receives: from a queue, or from one session of it. */
export class OutgoingLink implements Consumer {
  readonly sender: Sender;
  readonly #queue: BusQueue;
  readonly #fault: Fault;
  readonly #acceptor: Acceptor | undefined;
  #sessionId: string | undefined;
  #waiting: NodeJS.Timeout | undefined;
  /** Sent in this turn of the event loop, and not yet taken off rhea's credit. */
  #unsent = 0;

  constructor(sender: Sender, queue: BusQueue, fault: Fault) {
    this.sender = sender;
    this.#queue = queue;
    this.#fault = fault;
    this.#acceptor = queue.settings.requiresSession === true ? this.#createAcceptor() : undefined;
    const inside = insideOf(sender);
    // rhea answers a drain only while there is credit left; Azure always, and the client waits for it.
    inside._get_drain = () => {
      if (!inside._draining) return false;
      inside.delivery_count += inside.credit;
      inside.credit = 0;
      return true;
    };
    sender.on("sender_flow", () => this.#pump());
    sender.on("sender_draining", () => {
      this.#pumpNow();
      sender.set_drained(true);
    });
    sender.on("accepted", ({ delivery }) => this.#settle(delivery, { kind: "complete" }));
    sender.on("released", ({ delivery }) => this.#settle(delivery, { kind: "abandon" }));
    sender.on("modified", ({ delivery }) =>
      this.#settle(delivery, { kind: delivery?.remote_state?.undeliverable_here ? "defer" : "abandon" }),
    );
    sender.on("rejected", ({ delivery }) => {
      const info = delivery?.remote_state?.error?.info ?? {};
      const description = info.DeadLetterErrorDescription;
      this.#settle(delivery, { kind: "dead-letter", reason: info.DeadLetterReason, description });
    });
  }

  open(): void {
    const { sender } = this;
    if (this.#acceptor === undefined) {
      sender.set_source({ address: sender.source.address });
      sender.attach();
      this.#queue.addConsumer(this);
      return;
    }
    const acceptor = this.#acceptor;
    const waitMs = Number(sender.properties?.[TIMEOUT] ?? DEFAULT_TIMEOUT_MS);
    this.#waiting = setTimeout(() => {
      this.#queue.cancelAccept(acceptor);
      this.#refuse("com.microsoft:timeout", "There was no session to be received within the time.");
    }, waitMs);
    this.#queue.accept(acceptor);
  }

  /** The client has closed it, or is gone. */
  gone(): void {
    clearTimeout(this.#waiting);
    if (this.#acceptor === undefined) this.#queue.removeConsumer(this);
    else if (this.#sessionId === undefined) this.#queue.cancelAccept(this.#acceptor);
    else this.#queue.releaseSession(this.#sessionId, this);
  }

  credit(): number {
    if (!this.sender.is_open()) return 0;
    const { credit, session } = insideOf(this.sender);
    return Math.min(credit - this.#unsent, session.outgoing.available());
  }

  deliver(kept: KeptMessage, lock: MessageLock): void {
    if (this.#unsent === 0) {
      // After rhea's own turn, which was asked for when the first was sent.
      setImmediate(() => {
        this.#unsent = 0;
      });
    }
    this.#unsent += 1;
    this.sender.send(annotated(kept, lock), tagOf(lock.token));
  }

  #createAcceptor(): Acceptor {
    const { sender } = this;
    const wanted = filterOf(sender)[SESSION_FILTER];
    return {
      sessionId: typeof wanted === "string" ? wanted : undefined,
      accept: (lock: SessionLock) => {
        clearTimeout(this.#waiting);
        this.#sessionId = lock.sessionId;
        sender.set_source({ address: sender.source.address, filter: { [SESSION_FILTER]: lock.sessionId } });
        insideOf(sender).local.attach.properties = { [LOCKED_UNTIL]: rhea.types.wrap_long(ticksOf(lock.until)) };
        sender.attach();
        return this;
      },
      lost: () => this.#refuse("com.microsoft:session-lock-lost", "The session lock has expired."),
    };
  }

  #refuse(condition: string, description: string): void {
    this.sender.attach();
    this.sender.close({ condition, description });
  }

  #pump(): void {
    if (this.#sessionId === undefined) this.#queue.pump();
    else this.#queue.pumpSession(this.#sessionId);
  }

  #pumpNow(): void {
    if (this.#sessionId === undefined) this.#queue.pumpNow();
    else this.#queue.pumpSession(this.#sessionId);
  }

  #settle(delivery: Delivery | undefined, outcome: Outcome): void {
    if (delivery === undefined) return;
    const fault = this.#fault("settle");
    if (fault === "cut") return;
    const held = fault === undefined && this.#queue.settle(tokenOf(delivery.tag), outcome);
    if (held) delivery.update(true, OUTCOMES.accepted().described());
    else delivery.update(true, OUTCOMES.rejected({ error: fault ?? LOCK_LOST }).described());
    // The client settles with this and says no more; rhea would keep the delivery, and wait for its word.
    Object.assign(delivery, { remote_settled: true });
    this.#pump();
  }
}

export const LOCK_LOST: AmqpError = {
  condition: "com.microsoft:message-lock-lost",
  description: "The lock supplied is invalid. Either the lock expired, or the message has already been removed.",
};

/** A message as it is received: with what the queue knows of it. */
export function annotated(kept: KeptMessage, lock: MessageLock | undefined): Message {
  const { message, sequence, enqueuedAt, failures, state } = kept;
  return {
    ...message,
    delivery_count: failures,
    message_annotations: {
      ...message.message_annotations,
      "x-opt-sequence-number": rhea.types.wrap_long(sequence),
      "x-opt-enqueued-time": rhea.types.wrap_timestamp(enqueuedAt),
      ...(lock && { "x-opt-locked-until": rhea.types.wrap_timestamp(lock.until) }),
      "x-opt-message-state": rhea.types.wrap_int(STATES.indexOf(state)),
    },
  };
}

/** By their numbers in `x-opt-message-state`. */
const STATES: readonly KeptMessage["state"][] = ["active", "deferred", "scheduled"];

/** .NET has the first three parts of a GUID in the other order; delivery tags are in it. */
const GUID_ORDER = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
const reordered = (guid: Buffer) => Buffer.from(GUID_ORDER.map((at) => guid[at] ?? 0));

function tagOf(token: string): Buffer {
  return reordered(Buffer.from(token.replaceAll("-", ""), "hex"));
}

function tokenOf(tag: Buffer | string): string {
  return rhea.uuid_to_string(reordered(Buffer.from(tag)));
}

/** 100 ns each since the year 1, as .NET counts; eight bytes, the highest first. */
function ticksOf(milliseconds: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64BE(TICKS_AT_1970 + BigInt(milliseconds) * TICKS_IN_A_MILLISECOND);
  return bytes;
}

const TICKS_AT_1970 = 621_355_968_000_000_000n;
const TICKS_IN_A_MILLISECOND = 10_000n;

function filterOf(sender: Sender): Record<string, unknown> {
  const source: { filter?: Record<string, unknown> } = sender.source;
  return source.filter ?? {};
}

function insideOf(sender: Sender): SenderInside {
  return sender as unknown as SenderInside;
}
