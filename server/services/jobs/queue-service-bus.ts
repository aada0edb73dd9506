import type {
  ServiceBusClient,
  ServiceBusMessage,
  ServiceBusReceivedMessage,
  ServiceBusReceiver,
  ServiceBusSender,
} from "@azure/service-bus";
import type { DeadLetter, DeadLetters, JobQueue, Receiving } from "./queue.ts";
import { receiveFromServiceBus, SESSION_REQUEST_MS } from "./queue-service-bus-receiving.ts";
import { connect, connection, type ServiceBusPlace } from "./service-bus-connection.ts";
import { bodyOf, copyOf, toServiceBus } from "./service-bus-message.ts";

/**
 * Few and soon: who sends notes what it owes, and sends it again. When a connection is cut, the client leaves what was
 * under way to its time-out.
 */
const SENDING = { maxRetries: 2, retryDelayInMs: 500, timeoutInMs: 5000 };

/**
 * Receiving begins anew by itself, and has to hear of each fault for that. The time-out is also how long a request for a
 * session is left with the broker before it is made again.
 */
const RECEIVING = { maxRetries: 0, timeoutInMs: SESSION_REQUEST_MS };

const CHECK_TIMEOUT_MS = 5000;

/** Dead letters asked for at once, and how long the broker is given to come up with them. */
const BATCH = 100;
const BATCH_WAIT_MS = 1000;

/** Tells the ordered queue's dead letters from the other's, which counts its own. */
const ORDERED = "ordered-";

/**
 * Jobs on Azure Service Bus. Order keys are session ids, of at most 128 characters. Opens its connection when first
 * asked for something, and opens it anew whenever it is lost.
 */
export function createServiceBusQueue(place: ServiceBusPlace): JobQueue {
  const sending = connection(place, SENDING);
  const receiving = connection(place, RECEIVING);
  const links = new Map<string, { readonly client: ServiceBusClient; readonly sender: ServiceBusSender }>();
  const bySender = async (queue: string, use: (sender: ServiceBusSender) => Promise<unknown>): Promise<void> => {
    const client = await sending.client();
    let link = links.get(queue);
    if (link?.client !== client) {
      link = { client, sender: client.createSender(queue) };
      links.set(queue, link);
    }
    try {
      await sending.during(use(link.sender));
      sending.succeeded();
    } catch (error) {
      sending.failed();
      throw error;
    }
  };
  const send = (queue: string, message: ServiceBusMessage) => bySender(queue, (sender) => sender.sendMessages(message));
  const receivings: Receiving[] = [];
  const now = place.now ?? Date.now;

  return {
    kind: "service-bus",
    async send(message) {
      await send(message.orderKey === undefined ? place.queue : place.orderedQueue, toServiceBus(message, now()));
    },
    receive(options) {
      const started = receiveFromServiceBus({
        place,
        connection: receiving,
        now,
        send: (each) => send(place.queue, each),
        ...options,
      });
      receivings.push(started);
      return started;
    },
    deadLetters: createDeadLetters(place, send),
    async check() {
      // Opens the link to the queue if it is not open: whoever may send may do that, and servers may do no more. An
      // open one is beaten by AMQP's heart, and closed by the client if that stops.
      const abortSignal = AbortSignal.timeout(CHECK_TIMEOUT_MS);
      await bySender(place.queue, (sender) => sender.createMessageBatch({ abortSignal }));
    },
    async close() {
      await Promise.all(receivings.map((each) => each.stop()));
      await Promise.all([sending.close(), receiving.close()]);
    },
  };
}

/** Operators look at dead letters now and then: each time with a connection of its own, that is closed afterwards. */
function createDeadLetters(
  place: ServiceBusPlace,
  send: (queue: string, message: ServiceBusMessage) => Promise<void>,
): DeadLetters {
  async function withReceiver<Result>(queue: string, use: (receiver: ServiceBusReceiver) => Promise<Result>) {
    const client = await connect(place, SENDING);
    try {
      const options = { subQueueType: "deadLetter", receiveMode: "peekLock", skipParsingBodyAsJson: true } as const;
      return await use(client.createReceiver(queue, options));
    } finally {
      await client.close();
    }
  }

  async function peek(
    receiver: ServiceBusReceiver,
    enough: (letters: readonly ServiceBusReceivedMessage[]) => boolean,
  ) {
    const messages: ServiceBusReceivedMessage[] = [];
    while (!enough(messages)) {
      // Goes on after the last one of before. The broker may give fewer than there are, but not none.
      const more = await receiver.peekMessages(BATCH);
      if (more.length === 0) break;
      messages.push(...more);
    }
    return messages;
  }

  function list(queue: string, prefix: string, limit: number): Promise<DeadLetter[]> {
    return withReceiver(queue, async (receiver) => {
      const messages = await peek(receiver, ({ length }) => length >= limit);
      return messages.map((message) => toDeadLetter(message, prefix));
    });
  }

  /**
   * Service Bus gives out messages in order, and none by its number: takes all up to that one, and puts back the others.
   */
  function take(name: string, then: (message: ServiceBusReceivedMessage, queue: string) => Promise<void>) {
    const isOrdered = name.startsWith(ORDERED);
    const queue = isOrdered ? place.orderedQueue : place.queue;
    const sequence = isOrdered ? name.slice(ORDERED.length) : name;
    const isIt = ({ sequenceNumber }: ServiceBusReceivedMessage) => sequenceNumber?.toString() === sequence;
    return withReceiver(queue, async (receiver) => {
      // Tells at once what is not there, and how many to ask for: the client waits for as many as it was asked for.
      const before = (await peek(receiver, (messages) => messages.some(isIt))).findIndex(isIt);
      if (before < 0) return false;
      const others: ServiceBusReceivedMessage[] = [];
      let found: ServiceBusReceivedMessage | undefined;
      while (found === undefined) {
        const most = Math.min(Math.max(before + 1 - others.length, 1), BATCH);
        const messages = await receiver.receiveMessages(most, { maxWaitTimeInMs: BATCH_WAIT_MS });
        if (messages.length === 0) break;
        found = messages.find(isIt);
        others.push(...messages.filter((message) => message !== found));
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
      const letters = await Promise.all([list(place.queue, "", limit), list(place.orderedQueue, ORDERED, limit)]);
      return letters
        .flat()
        .sort((a, b) => a.enqueuedAt.localeCompare(b.enqueuedAt))
        .slice(0, limit);
    },
    // Sent before it is taken out: stopped in between, there are two of it, which does no harm, and not none.
    replay: (sequence, id) => take(sequence, (message, queue) => send(queue, copyOf(message, id))),
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
