import type {
  ServiceBusClient,
  ServiceBusMessage,
  ServiceBusReceivedMessage,
  ServiceBusReceiver,
} from "@azure/service-bus";
import { azureCredential } from "../azure-credential.ts";
import type { DeadLetter, DeadLetters, JobQueue, Receiving } from "./queue.ts";
import { receiveFromServiceBus } from "./queue-service-bus-receiving.ts";
import { bodyOf, copyOf, toServiceBus } from "./service-bus-message.ts";

/** Where the queues are, and how to prove who asks. */
export interface ServiceBusPlace {
  /** The namespace's full name; an emulator's with its port. */
  readonly host: string;
  readonly queue: string;
  /** One with sessions: for messages with an order key. */
  readonly orderedQueue: string;
  /** `emulator`: an emulator's connection string, which speaks AMQP without TLS. On loopback only. */
  readonly credential: "entra" | "emulator";
}

/**
 * Few and soon: who sends notes what it owes and sends it again, and receiving begins anew for ever. A try takes as long
 * as a request for a session is left with the broker.
 */
const RETRIES = { maxRetries: 2, retryDelayInMs: 500, timeoutInMs: 30_000 };

const CHECK_TIMEOUT_MS = 5000;

/** Dead letters looked at at once. */
const BATCH = 100;
/** How long the broker is given to come up with a dead letter that is there. */
const TAKE_WAIT_MS = 1000;

/** Tells the ordered queue's dead letters from the other's, which counts its own. */
const ORDERED = "ordered-";

/**
 * Jobs on Azure Service Bus. Order keys are session ids, of at most 128 characters. Opens its connection when first
 * asked for something, and opens it anew whenever it is lost.
 */
export function createServiceBusQueue(place: ServiceBusPlace): JobQueue {
  let connection: Promise<ServiceBusClient> | undefined;
  const connected = () => {
    connection ??= connect(place).catch((error) => {
      connection = undefined;
      throw error;
    });
    return connection;
  };
  const senders = new Map<string, ReturnType<ServiceBusClient["createSender"]>>();
  const senderOf = async (queue: string) => {
    const client = await connected();
    const sender = senders.get(queue) ?? client.createSender(queue);
    senders.set(queue, sender);
    return sender;
  };
  const send = async (queue: string, message: ServiceBusMessage) => (await senderOf(queue)).sendMessages(message);
  const receivings: Receiving[] = [];

  return {
    kind: "service-bus",
    async send(message) {
      await send(message.orderKey === undefined ? place.queue : place.orderedQueue, toServiceBus(message));
    },
    receive(options) {
      const receiving = receiveFromServiceBus({
        place,
        connected,
        send: (each) => send(place.queue, each),
        ...options,
      });
      receivings.push(receiving);
      return receiving;
    },
    deadLetters: createDeadLetters(place, send),
    async check() {
      // Opens the link to the queue if it is not open: whoever may send may do that, and servers may do no more. An
      // open one is beaten by AMQP's heart, and closed by the client if that stops.
      const sender = await senderOf(place.queue);
      await sender.createMessageBatch({ abortSignal: AbortSignal.timeout(CHECK_TIMEOUT_MS) });
    },
    async close() {
      await Promise.all(receivings.map((each) => each.stop()));
      await (await connection)?.close();
    },
  };
}

/** Loaded when it is needed: a server without a queue does without its memory. */
async function connect({ host, credential }: ServiceBusPlace): Promise<ServiceBusClient> {
  const { ServiceBusClient } = await import("@azure/service-bus");
  const options = { retryOptions: RETRIES };
  if (credential === "entra") return new ServiceBusClient(host, await azureCredential(), options);
  // The emulator's own, which is no secret: "Test locally by using the Service Bus emulator". It takes any key.
  const key = "SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=SAS_KEY_VALUE";
  return new ServiceBusClient(`Endpoint=sb://${host};${key};UseDevelopmentEmulator=true;`, options);
}

/** Operators look at dead letters now and then: each time with a connection of its own, that is closed afterwards. */
function createDeadLetters(
  place: ServiceBusPlace,
  send: (queue: string, message: ServiceBusMessage) => Promise<void>,
): DeadLetters {
  async function withReceiver<Result>(queue: string, use: (receiver: ServiceBusReceiver) => Promise<Result>) {
    const client = await connect(place);
    try {
      const options = { subQueueType: "deadLetter", receiveMode: "peekLock", skipParsingBodyAsJson: true } as const;
      return await use(client.createReceiver(queue, options));
    } finally {
      await client.close();
    }
  }

  async function peek(queue: string, prefix: string, limit: number): Promise<DeadLetter[]> {
    return withReceiver(queue, async (receiver) => {
      const letters: DeadLetter[] = [];
      while (letters.length < limit) {
        // Goes on after the last one of before. The broker may give fewer than there are, but not none.
        const messages = await receiver.peekMessages(Math.min(limit - letters.length, BATCH));
        if (messages.length === 0) break;
        letters.push(...messages.map((message) => toDeadLetter(message, prefix)));
      }
      return letters;
    });
  }

  /**
   * Service Bus gives out messages in order, and none by its number: takes them all until that one comes, and puts the
   * others back by going away, at the latest when their locks run out.
   */
  async function take(name: string, then: (message: ServiceBusReceivedMessage, queue: string) => Promise<void>) {
    const isOrdered = name.startsWith(ORDERED);
    const queue = isOrdered ? place.orderedQueue : place.queue;
    const sequence = isOrdered ? name.slice(ORDERED.length) : name;
    return withReceiver(queue, async (receiver) => {
      const others: ServiceBusReceivedMessage[] = [];
      let found: ServiceBusReceivedMessage | undefined;
      while (found === undefined) {
        // One by one: for a batch that is not full, the client waits a second for more.
        const [message] = await receiver.receiveMessages(1, { maxWaitTimeInMs: TAKE_WAIT_MS });
        if (message === undefined) break;
        if (message.sequenceNumber?.toString() === sequence) found = message;
        else others.push(message);
      }
      try {
        if (found === undefined) return false;
        await then(found, queue);
        await receiver.completeMessage(found);
        return true;
      } finally {
        await Promise.allSettled(others.map((message) => receiver.abandonMessage(message)));
      }
    });
  }

  return {
    async list(limit) {
      const letters = await Promise.all([peek(place.queue, "", limit), peek(place.orderedQueue, ORDERED, limit)]);
      return letters
        .flat()
        .sort((a, b) => a.enqueuedAt.localeCompare(b.enqueuedAt))
        .slice(0, limit);
    },
    // Sent before it is taken out: stopped in between, there are two of it, which does no harm, and not none.
    replay: (sequence, id) => take(sequence, (message, queue) => send(queue, copyOf(message, id, 0))),
    drop: (sequence) => take(sequence, async () => {}),
  };
}

function toDeadLetter(message: ServiceBusReceivedMessage, prefix: string): DeadLetter {
  return {
    sequence: prefix + (message.sequenceNumber?.toString() ?? ""),
    id: String(message.messageId ?? ""),
    body: bodyOf(message),
    reason: message.deadLetterReason ?? "",
    description: message.deadLetterErrorDescription ?? "",
    deliveries: (message.deliveryCount ?? 0) + 1,
    enqueuedAt: (message.enqueuedTimeUtc ?? new Date(0)).toISOString(),
  };
}
