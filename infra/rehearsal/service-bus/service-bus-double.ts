import { once } from "node:events";
import type { AddressInfo, Server, Socket } from "node:net";
import rhea, {
  type AmqpError,
  type Connection,
  type Container,
  type EventContext,
  type Message,
  type Receiver,
  type Sender,
  type Session,
} from "rhea";
import { answerManagement } from "./management.ts";
import { answerWhenReady, OutgoingLink } from "./outgoing-link.ts";
import { BusQueue, type QueueSettings } from "./queue.ts";

/** What a test may have go wrong. `settle` is a disposition; the others are what their names say. */
export type BusOperation = "token" | "attach" | "send" | "settle" | "manage";

/**
 * How: an answer with an error, the connection cut before anything was done, or after it was done and before it was
 * answered.
 */
export type BusFault = AmqpError | "cut-before" | "cut-after";

/** What Azure answers while it throttles. The client waits and tries again. */
export const SERVER_BUSY: AmqpError = {
  condition: "com.microsoft:server-busy",
  description:
    "The request was terminated because the entity is being throttled. Please wait 10 seconds and try again.",
};

const LOOPBACK = "127.0.0.1";
/** What Azure Standard takes: 256 KiB. */
const MAX_MESSAGE_BYTES = 256 * 1024;
const CBS = "$cbs";
const MANAGEMENT = "/$management";
/** The real one's spelling; the client's differs from it in case, and Azure minds neither. */
const DEAD_LETTERS = "/$deadletterqueue";

/**
 * Azure Service Bus on loopback, for the real client: AMQP 1.0 without TLS, as the Service Bus emulator speaks it. Starts
 * with its queues, empty. What a queue does is in `queue.ts`.
 */
export class ServiceBusDouble {
  /** May be set to have operations fail; asked for each. `queue` is the address, `$cbs` for tokens. */
  faults: ((operation: BusOperation, queue: string) => BusFault | undefined) | undefined;
  readonly #queues: ReadonlyMap<string, BusQueue>;
  readonly #container: Container;
  readonly #sockets = new Set<Socket>();
  /** What messages go out by, so that it can be taken from its queue when its connection ends. */
  readonly #links = new Map<Connection, Set<OutgoingLink>>();
  #server: Server | undefined;
  #port: number;

  private constructor(queues: readonly QueueSettings[], port: number) {
    this.#queues = new Map(queues.map((settings) => [settings.name, new BusQueue(settings)]));
    this.#port = port;
    this.#container = this.#createContainer();
  }

  /** @param port Default: any free one. */
  static async start({
    queues,
    port = 0,
  }: {
    readonly queues: readonly QueueSettings[];
    readonly port?: number;
  }): Promise<ServiceBusDouble> {
    const double = new ServiceBusDouble(queues, port);
    await double.resume();
    return double;
  }

  /** What SERVICE_BUS_NAMESPACE says. */
  get host(): string {
    return `${LOOPBACK}:${this.#port}`;
  }

  /** @throws Error when there is no such queue. */
  queue(name: string): BusQueue {
    const queue = this.#find(name);
    if (queue === undefined) throw new Error(`No queue ${name}: there is ${[...this.#queues.keys()].join(", ")}`);
    return queue;
  }

  /** Ends all connections at once, in the middle of whatever they do. Messages and their locks stay. */
  cutConnections(): void {
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  /** Goes down, and keeps its messages; their locks and schedules go on. */
  async stop(): Promise<void> {
    const server = this.#server;
    if (server === undefined) return;
    this.#server = undefined;
    const closed = once(server, "close");
    server.close();
    this.cutConnections();
    await closed;
  }

  /** Comes back after {@link stop}, on the same port. */
  async resume(): Promise<void> {
    if (this.#server !== undefined) return;
    const server = this.#container.listen({ host: LOOPBACK, port: this.#port });
    this.#server = server;
    server.on("connection", (socket: Socket) => {
      // As Azure: answers are small, and must not wait for the acknowledgement of the one before.
      socket.setNoDelay(true);
      this.#sockets.add(socket);
      socket.on("close", () => this.#sockets.delete(socket));
    });
    await once(server, "listening");
    this.#port = (server.address() as AddressInfo).port;
  }

  async close(): Promise<void> {
    await this.stop();
    for (const queue of this.#queues.values()) queue.close();
  }

  #find(address: string): BusQueue | undefined {
    const lower = address.toLowerCase();
    if (!lower.endsWith(DEAD_LETTERS)) return this.#queues.get(address);
    return this.#queues.get(address.slice(0, -DEAD_LETTERS.length))?.deadLetters;
  }

  #createContainer(): Container {
    const container = rhea.create_container({
      // Dispositions are answered here, by what the queue says of them.
      treat_modified_as_released: false,
      autoaccept: false,
      sender_options: {},
      receiver_options: { max_message_size: MAX_MESSAGE_BYTES },
    });
    container.sasl_server_mechanisms.enable_anonymous();
    // How the real one calls the mechanism of clients that prove themselves by put-token afterwards.
    container.sasl_server_mechanisms.MSSBCBS = container.sasl_server_mechanisms.ANONYMOUS;

    container.on("connection_open", ({ connection }: EventContext) => {
      this.#links.set(connection, new Set());
      connection.socket.on("close", () => this.#forget(connection));
      acknowledgeAtOnce(connection);
    });
    container.on("session_open", ({ session }: EventContext) => {
      if (session === undefined) return;
      answerWhenReady(session, (sender) => this.#open(sender));
      answerOneByOne(session);
    });
    container.on("message", (context: EventContext) => this.#take(context));
    container.on("sender_close", ({ sender, connection }: EventContext) => this.#detach(connection, sender));
    container.on("session_close", ({ session, connection }: EventContext) => {
      for (const link of this.#links.get(connection) ?? []) {
        if (link.sender.session === session) this.#detach(connection, link.sender);
      }
    });
    // Nothing hangs on these, and an emitter's "error" that nobody hears would end the process.
    container.on("error", () => {});
    for (const event of ["disconnected", "connection_close", "connection_error", "sender_error", "receiver_error"]) {
      container.on(event, () => {});
    }
    return container;
  }

  /** A client wants to receive: messages, or answers. */
  #open(sender: Sender): void {
    const { address } = sender.source;
    const fault = this.#fault("attach", address, sender.connection);
    if (fault === "cut") return;
    const isAnswers = address === CBS || address.endsWith(MANAGEMENT);
    const queue = isAnswers ? undefined : this.#find(address);
    if (fault !== undefined || (queue === undefined && !isAnswers)) {
      sender.attach();
      sender.close(fault ?? notFound(address));
      return;
    }
    if (queue === undefined) {
      sender.set_source({ address });
      sender.attach();
      return;
    }
    const link = new OutgoingLink(sender, queue, (operation) => this.#fault(operation, address, sender.connection));
    this.#links.get(sender.connection)?.add(link);
    link.open();
  }

  #detach(connection: Connection, sender: Sender | undefined): void {
    const links = this.#links.get(connection);
    for (const link of links ?? []) {
      if (link.sender !== sender) continue;
      link.gone();
      links?.delete(link);
    }
  }

  #forget(connection: Connection): void {
    for (const link of this.#links.get(connection) ?? []) link.gone();
    this.#links.delete(connection);
    // rhea would go on to beat the heart of what was cut.
    clearTimeout(connection.heartbeat_out);
    clearTimeout(connection.heartbeat_in);
  }

  /** A client has sent something: a token, a request, or a message. */
  #take({ message, delivery, receiver, connection }: EventContext): void {
    if (message === undefined || delivery === undefined || receiver === undefined) return;
    const address = receiver.target.address ?? "";
    if (address === CBS) {
      delivery.accept();
      const fault = this.#fault("token", CBS, connection);
      if (fault === "cut") return;
      const status = fault === undefined ? 202 : 401;
      answer(receiver, CBS, message.message_id, {
        application_properties: { "status-code": status, "status-description": fault?.description ?? "Accepted" },
      });
      return;
    }
    if (address.endsWith(MANAGEMENT)) {
      delivery.accept();
      const name = address.slice(0, -MANAGEMENT.length);
      const fault = this.#fault("manage", name, connection);
      if (fault === "cut") return;
      const queue = this.#find(name);
      answer(receiver, address, message.message_id, answerManagement(queue, message, fault ?? undefined));
      return;
    }
    const fault = this.#fault("send", address, connection);
    if (fault === "cut") return;
    const queue = this.#find(address);
    const error = fault ?? (queue === undefined ? notFound(address) : refusal(queue, message));
    if (error !== undefined || queue === undefined) {
      delivery.reject(error);
      return;
    }
    const due = message.message_annotations?.[SCHEDULED];
    queue.enqueue(message, due instanceof Date ? due.getTime() : undefined);
    delivery.accept();
  }

  /** "cut": the connection is gone, and nothing more to be done. */
  #fault(operation: BusOperation, queue: string, connection: Connection): AmqpError | "cut" | undefined {
    const fault = this.faults?.(operation, queue);
    if (fault === "cut-before") {
      connection.socket.resetAndDestroy();
      return "cut";
    }
    if (fault === "cut-after") {
      // Before anything that is answered now is written: rhea writes once this turn is over.
      connection.socket.resetAndDestroy();
      return undefined;
    }
    return fault;
  }
}

/**
 * Answers what comes with an empty frame when there is nothing else to say. The client writes small frames with Nagle's
 * algorithm, so that each waits for the acknowledgement of the one before, which Linux would delay by 40 ms.
 */
function acknowledgeAtOnce(connection: Connection): void {
  const socket: Socket = connection.socket;
  let asked = false;
  socket.on("data", () => {
    if (asked) return;
    asked = true;
    const before = socket.bytesWritten;
    setImmediate(() => {
      asked = false;
      if (socket.bytesWritten === before && socket.writable && connection.is_open()) connection._write_frame();
    });
  });
}

/** The parts of rhea's session that its types leave out; `rhea/lib/session.js`. */
interface SessionInside {
  readonly incoming: {
    readonly updated: readonly unknown[];
    update(delivery: unknown, settled: boolean, state: unknown): void;
    process(session: Session): void;
  };
}

/**
 * Has each message answered by itself. rhea puts answers of one turn together, and with it the first two whether or not
 * they are the same: a message that was refused after one that was taken would be answered as taken, and be lost.
 */
function answerOneByOne(session: Session): void {
  const { incoming } = session as unknown as SessionInside;
  const update = incoming.update.bind(incoming);
  incoming.update = (delivery, settled, state) => {
    if (incoming.updated.length > 0) incoming.process(session);
    update(delivery, settled, state);
  };
}

const SCHEDULED = "x-opt-scheduled-enqueue-time";

function notFound(address: string): AmqpError {
  return { condition: "amqp:not-found", description: `The messaging entity '${address}' could not be found.` };
}

/** Why a queue does not take a message. */
function refusal({ settings }: BusQueue, { group_id: sessionId }: { group_id?: string }): AmqpError | undefined {
  if (settings.requiresSession !== true || sessionId !== undefined) return undefined;
  return {
    condition: "amqp:not-allowed",
    description: `The SessionId was not set on a message, and it cannot be sent to the entity ${settings.name}.`,
  };
}

/** Answers by the link that the client opened, in the same AMQP session, to hear answers by. */
function answer(request: Receiver, address: string, id: Message["correlation_id"], message: Partial<Message>): void {
  const isAnswers = (link: { is_sender(): boolean; source?: { address?: string } | null }) =>
    link.is_sender() && link.source?.address === address;
  const sender = request.session.find_link(isAnswers);
  if (sender === undefined || !("send" in sender)) return;
  (sender as Sender).send({ body: undefined, ...message, correlation_id: id });
}
