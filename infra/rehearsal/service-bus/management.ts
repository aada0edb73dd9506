import rhea, { type AmqpError, type Message } from "rhea";
import { annotated, LOCK_LOST } from "./outgoing-link.ts";
import type { BusQueue, Outcome } from "./queue.ts";

/** AMQP's type codes, for arrays. */
const LONG = 0x81;
const TIMESTAMP = 0x83;

interface Answer {
  readonly status: number;
  readonly error?: AmqpError;
  readonly body?: unknown;
}

/** A request's body, decoded. Who sends it is the real client, so what is there has the type that it should. */
// biome-ignore lint/suspicious/noExplicitAny: rhea's messages have no types.
type Body = Record<string, any>;

const DONE: Answer = { status: 200 };
const NOTHING: Answer = { status: 204 };
const GONE: Answer = { status: 410, error: LOCK_LOST };
const SESSION_GONE: Answer = {
  status: 410,
  error: { condition: "com.microsoft:session-lock-lost", description: "The session lock has expired." },
};

/**
 * What is asked of `<queue>/$management`, and not by links of its own. Source: "AMQP 1.0 in Azure Service Bus:
 * request-response-based operations".
 */
const OPERATIONS: Readonly<Record<string, (queue: BusQueue, body: Body) => Answer>> = {
  "com.microsoft:renew-lock": (queue, body) => {
    const renewed = tokensOf(body).map((token) => queue.renew(token));
    if (renewed.includes(undefined)) return GONE;
    return { status: 200, body: { expirations: rhea.types.wrap_array(renewed, TIMESTAMP, undefined) } };
  },
  "com.microsoft:renew-session-lock": (queue, body) => {
    const until = queue.renewSession(body["session-id"]);
    return until === undefined ? SESSION_GONE : { status: 200, body: { expiration: rhea.types.wrap_timestamp(until) } };
  },
  "com.microsoft:get-session-state": (queue, body) => {
    const state = queue.sessionState(body["session-id"]);
    return state === undefined ? SESSION_GONE : { status: 200, body: { "session-state": state } };
  },
  "com.microsoft:set-session-state": (queue, body) => {
    return queue.setSessionState(body["session-id"], body["session-state"] ?? undefined) ? DONE : SESSION_GONE;
  },
  "com.microsoft:schedule-message": (queue, body) => {
    const entries: { message: Buffer }[] = body.messages;
    const sequences = entries.map((entry) => {
      const message: Message = { body: undefined, ...rhea.message.decode(entry.message) };
      return queue.enqueue(message, message.message_annotations?.["x-opt-scheduled-enqueue-time"]?.getTime());
    });
    return { status: 200, body: { "sequence-numbers": rhea.types.wrap_array(sequences, LONG, undefined) } };
  },
  "com.microsoft:cancel-scheduled-message": (queue, body) => {
    const cancelled = sequencesOf(body).map((sequence) => queue.cancelScheduled(sequence));
    return cancelled.includes(false) ? NOT_FOUND : DONE;
  },
  "com.microsoft:peek-message": (queue, body) => {
    const from = Number(body["from-sequence-number"]);
    const kept = queue.peek(from, body["message-count"], body["session-id"] ?? undefined);
    if (kept.length === 0) return NOTHING;
    const messages = kept.map((each) => ({ message: rhea.message.encode(annotated(each, undefined)) }));
    return { status: 200, body: { messages } };
  },
  "com.microsoft:receive-by-sequence-number": (queue, body) => {
    const received = sequencesOf(body).map((sequence) => queue.receiveDeferred(sequence));
    const messages = received.flatMap((each) => {
      if (each === undefined) return [];
      const token = rhea.types.wrap_uuid(rhea.string_to_uuid(each.lock.token));
      return [{ message: rhea.message.encode(annotated(each.kept, each.lock)), "lock-token": token }];
    });
    return messages.length < received.length ? NOT_FOUND : { status: 200, body: { messages } };
  },
  "com.microsoft:update-disposition": (queue, body) => {
    const outcome = outcomeOf(body);
    if (outcome === undefined) return unknown(`a disposition ${body["disposition-status"]}`);
    return tokensOf(body).every((token) => queue.settle(token, outcome)) ? DONE : GONE;
  },
};

const NOT_FOUND: Answer = {
  status: 404,
  error: { condition: "com.microsoft:message-not-found", description: "There is no message of that sequence number." },
};

/** What a queue's management says to a request; the message to be sent back, but for whom it is. */
export function answerManagement(
  queue: BusQueue | undefined,
  request: Message,
  fault: AmqpError | undefined,
): Omit<Message, "correlation_id"> {
  const name = String(request.application_properties?.operation);
  const operation = OPERATIONS[name];
  const answer = perform();
  return {
    body: answer.body,
    application_properties: {
      statusCode: answer.status,
      statusDescription: answer.error?.description ?? "OK",
      ...(answer.error && { errorCondition: answer.error.condition }),
    },
  };

  function perform(): Answer {
    if (fault !== undefined) return { status: 503, error: fault };
    if (queue === undefined)
      return { status: 404, error: { condition: "amqp:not-found", description: "No such queue." } };
    return operation === undefined ? unknown(`an operation ${name}`) : operation(queue, request.body);
  }
}

function unknown(what: string): Answer {
  const description = `The double of Service Bus does not know ${what}: see infra/rehearsal/service-bus/management.ts.`;
  return { status: 501, error: { condition: "amqp:not-implemented", description } };
}

function outcomeOf(body: Body): Outcome | undefined {
  switch (body["disposition-status"]) {
    case "completed":
      return { kind: "complete" };
    case "abandoned":
      return { kind: "abandon" };
    case "defered":
      return { kind: "defer" };
    case "suspended":
      return { kind: "dead-letter", reason: body["deadletter-reason"], description: body["deadletter-description"] };
    default:
      return undefined;
  }
}

function tokensOf(body: Body): string[] {
  return body["lock-tokens"].map((token: Buffer) => rhea.uuid_to_string(token));
}

function sequencesOf(body: Body): number[] {
  return body["sequence-numbers"].map(Number);
}
