import type { ServiceBusMessage, ServiceBusReceivedMessage } from "@azure/service-bus";
import type { QueuedJob } from "./queue.ts";

/** A message for the queue as Service Bus takes it. `now` is the broker's, by which it is due. */
export function toServiceBus({ id, body, orderKey, delayMs = 0, traceId }: QueuedJob, now: number): ServiceBusMessage {
  return {
    messageId: id,
    // Bytes go as they are; a string would be put into JSON.
    body: Buffer.from(body),
    contentType: "application/json",
    ...(orderKey !== undefined && { sessionId: orderKey }),
    ...(delayMs > 0 && { scheduledEnqueueTimeUtc: new Date(now + delayMs) }),
    ...(traceId !== undefined && { correlationId: traceId }),
  };
}

/** The same job again, as a message of its own: duplicate detection would drop one of the same id. */
export function copyOf(
  message: ServiceBusReceivedMessage,
  id: string,
  due: { readonly delayMs: number; readonly now: number } = { delayMs: 0, now: 0 },
): ServiceBusMessage {
  const { correlationId, sessionId: orderKey } = message;
  const traceId = typeof correlationId === "string" ? correlationId : undefined;
  return toServiceBus({ id, body: bodyOf(message), orderKey, delayMs: due.delayMs, traceId }, due.now);
}

/** A message's body as text. Whoever may send to the queue may send what is none: it comes as something unreadable. */
export function bodyOf({ body }: ServiceBusReceivedMessage): string {
  if (Buffer.isBuffer(body)) return body.toString("utf8");
  return typeof body === "string" ? body : (JSON.stringify(body) ?? "");
}
