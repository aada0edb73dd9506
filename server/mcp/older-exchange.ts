import type { ServerResponse } from "node:http";
import {
  isJSONRPCErrorResponse,
  isJSONRPCRequest,
  isJSONRPCResultResponse,
  type JSONRPCMessage,
  type JSONRPCNotification,
  type JSONRPCRequest,
  type MessageExtraInfo,
  type RequestId,
  type Transport,
} from "@modelcontextprotocol/server";
import type { Caller } from "../tools/define-tool.ts";
import type { AwaitedAnswers, JSONRPCAnswer } from "./awaited-answers.ts";
import { EventStream } from "./event-stream.ts";
import type { Session } from "./session.ts";
import { writeJson } from "./write-json.ts";

interface OlderExchangeOptions {
  readonly response: ServerResponse;
  readonly caller: Caller;
  /** What is handed to the SDK with every message. */
  readonly extra: MessageExtraInfo;
  /** Whether the requests came as a JSON array, and their answers go as one. */
  readonly batch: boolean;
  readonly awaited: AwaitedAnswers;
  /** Where something has been said already. */
  readonly stream?: EventStream | undefined;
  /** By what a client that loses the stream asks for it again. */
  readonly eventId?: string | undefined;
}

/**
 * One POST of an older protocol (2024-11-05 to 2025-11-25) as a transport of the SDK's: the requests in it go to a
 * server object of their own, and its answers make up the HTTP answer. That is one JSON body, unless something has to
 * be said before the last answer is there: then it is an event stream from there on.
 */
export class OlderExchange implements Transport {
  onclose?: () => void;
  onerror?: (error: Error) => void;
  onmessage?: <T extends JSONRPCMessage>(message: T, extra?: MessageExtraInfo) => void;

  readonly #options: OlderExchangeOptions;
  /** Requests without an answer. */
  readonly #open = new Set<RequestId>();
  readonly #answers: JSONRPCAnswer[] = [];
  readonly #questions = new Set<() => void>();
  #stream: EventStream | undefined;
  #handshakeAnswered: (() => void) | undefined;
  #ended = false;

  constructor(options: OlderExchangeOptions) {
    this.#options = options;
    this.#stream = options.stream;
    // The client went away. The older protocols do not take that for a cancellation, but an answer without a stream
    // to resume could not be delivered any more, so nothing is gained by working on.
    options.response.once("close", () => void this.close());
  }

  async start(): Promise<void> {}

  /**
   * Repeats to the server object, which is new, the handshake that its client had with another one before, so that it
   * knows what the client can be asked. What it answers goes nowhere.
   */
  async resume({ protocolVersion, capabilities }: Session): Promise<void> {
    const answered = new Promise<void>((resolve) => {
      this.#handshakeAnswered = resolve;
    });
    const clientInfo = { name: "resumed", version: "1" };
    this.#receive({
      jsonrpc: "2.0",
      id: 0,
      method: "initialize",
      params: { protocolVersion, capabilities, clientInfo },
    });
    await answered;
  }

  /** Hands the client's messages to the server object. */
  receive(messages: readonly (JSONRPCRequest | JSONRPCNotification)[]): void {
    // Its client went away while the handshake was repeated.
    if (this.#ended) return;
    for (const message of messages) if (isJSONRPCRequest(message)) this.#open.add(message.id);
    for (const message of messages) this.#receive(message);
  }

  /** The client wants no answer to that request any more. */
  cancel(id: RequestId, notification: JSONRPCNotification): void {
    if (!this.#open.delete(id)) return;
    this.#receive(notification);
    if (this.#open.size === 0) this.#finish();
  }

  async send(message: JSONRPCMessage): Promise<void> {
    if (isJSONRPCResultResponse(message) || isJSONRPCErrorResponse(message)) {
      if (this.#handshakeAnswered !== undefined) {
        this.#handshakeAnswered();
        this.#handshakeAnswered = undefined;
        return;
      }
      if (message.id === undefined || !this.#open.delete(message.id)) return;
      if (this.#stream !== undefined) await this.#stream.send(message);
      else this.#answers.push(message);
      if (this.#open.size === 0) this.#finish();
      return;
    }
    if (this.#ended) return;
    await this.#say(isJSONRPCRequest(message) ? await this.#asked(message) : message);
  }

  async close(): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    this.#handshakeAnswered?.();
    for (const cancel of this.#questions) cancel();
    this.#options.response.destroy();
    this.onclose?.();
  }

  #receive(message: JSONRPCMessage): void {
    this.onmessage?.(message, this.#options.extra);
  }

  /** The question under an id that the answer finds its way back by. */
  async #asked(question: JSONRPCRequest): Promise<JSONRPCRequest> {
    const { awaited, caller } = this.#options;
    const { id, cancel } = await awaited.expect(caller, (answer) => {
      this.#questions.delete(cancel);
      this.#receive({ ...answer, id: question.id });
    });
    if (this.#ended) cancel();
    else this.#questions.add(cancel);
    return { ...question, id };
  }

  async #say(message: JSONRPCMessage): Promise<void> {
    if (this.#ended) return;
    if (this.#stream !== undefined) return this.#stream.send(message);
    const { response, eventId } = this.#options;
    const stream = new EventStream(response);
    this.#stream = stream;
    for (const answer of this.#answers.splice(0)) await stream.send(answer);
    await stream.send(message, eventId);
  }

  /** Everything is answered: writes what was not written yet, and lets the server object go. */
  #finish(): void {
    if (this.#ended) return;
    this.#ended = true;
    for (const cancel of this.#questions) cancel();
    const { response, batch } = this.#options;
    const [answer] = this.#answers;
    if (this.#stream !== undefined) this.#stream.end();
    // Cancelled before anything was said: a stream in which nothing comes.
    else if (answer === undefined) new EventStream(response).end();
    else writeJson(response, batch ? this.#answers : answer);
    this.onclose?.();
  }
}
