import type { Readable, Writable } from "node:stream";
import {
  type FetchLike,
  isJSONRPCErrorResponse,
  isJSONRPCNotification,
  isJSONRPCRequest,
  isJSONRPCResultResponse,
  type JSONRPCErrorResponse,
  type JSONRPCMessage,
  type JSONRPCNotification,
  type JSONRPCRequest,
  type JSONRPCResponse,
  ReadBuffer,
  type RequestId,
  SdkHttpError,
  serializeMessage,
} from "@modelcontextprotocol/client";
import { SessionLost, Unanswered } from "./http-fetch.ts";
import { ListedTools } from "./listed-tools.ts";
import { backoff, pause } from "./patience.ts";
import { isModern, opensSession, Upstream } from "./upstream.ts";

export interface PumpOptions {
  readonly url: URL;
  readonly fetch: FetchLike;
  readonly input: Readable;
  readonly output: Writable;
  /** Says one line to the person who looks at the client's log. */
  say(line: string): void;
  /** How long one request is tried while the server cannot be reached, in milliseconds. */
  readonly patienceMs: number;
}

/** A request of the client's that has no answer yet. */
interface Exchange {
  readonly request: JSONRPCRequest;
  readonly cancel: AbortController;
  /** Ends the attempt that is under way. */
  settle: (outcome: Outcome) => void;
  upstream: Upstream | undefined;
  /** Whether the client has been told that its subscription stands. */
  acknowledged: boolean;
}

/** How an attempt ended: `undefined`, the client has its answer; else why there is none. */
type Outcome = Error | undefined;

/** What a client has set up in a session of the older protocol, and has to be set up anew in the next. */
interface Session {
  readonly initialize: JSONRPCRequest;
  protocolVersion: string | undefined;
  capabilities: Record<string, unknown>;
  initialized: boolean;
  level: JSONRPCRequest | undefined;
  readonly subscriptions: Map<string, JSONRPCRequest>;
}

/** JSON-RPC's codes, and the newer protocol's for headers that do not agree with the body. */
const INVALID_REQUEST = -32_600;
const CONNECTION_CLOSED = -32_000;
const HEADER_MISMATCH = -32_020;

/** Largest message in either direction, bytes. */
const MESSAGE_LIMIT = 128 * 1024 * 1024;
/** Requests of the bridge's own, among which no client's can be. */
const OWN_IDS = "mcp-aks-bridge:";

/** How often one request may find its session forgotten: a server that forgets every one is not to be mended here. */
const SESSIONS_LOST_LIMIT = 3;

/** What a server offers lists of. */
const LISTS = ["tools", "prompts", "resources"] as const;

/**
 * Passes messages between a client on stdio and a server on Streamable HTTP. Both eras pass as they are: the client and
 * the server agree with one another, and the bridge only adds what HTTP wants beside a message, and mends what stdio
 * knows nothing of: connections that break, servers that restart, sessions that are forgotten.
 */
export class Pump {
  readonly #options: PumpOptions;
  readonly #exchanges = new Map<RequestId, Exchange>();
  readonly #own = new Map<RequestId, (answer: JSONRPCResponse) => void>();
  /** Requests of the server's, by the id that the client knows them by. */
  readonly #asked = new Map<RequestId, { readonly upstream: Upstream; readonly id: RequestId }>();
  readonly #tools = new ListedTools();
  readonly #closing = new AbortController();
  #session: Session | undefined;
  #upstream: Upstream | undefined;
  #generations = 0;
  #ownIds = 0;
  /** Resolves when a session that is being opened, or opened anew, stands. */
  #ready: Promise<void> = Promise.resolve();
  #connecting: Promise<Upstream> | undefined;
  #unreachable = false;

  constructor(options: PumpOptions) {
    this.#options = options;
  }

  /** Runs until the client has gone, or `signal` aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const { input, output, say } = this.#options;
    const buffer = new ReadBuffer({ maxBufferSize: MESSAGE_LIMIT });
    await new Promise<void>((resolve) => {
      const end = () => resolve();
      signal.addEventListener("abort", end);
      // The end of input is how a client says goodbye (MCP specification, stdio, "Shutdown").
      input.once("end", end);
      input.once("close", end);
      input.once("error", end);
      output.once("error", end);
      input.on("data", (chunk: Buffer) => {
        try {
          buffer.append(chunk);
        } catch {
          say(`The client sent a message of more than ${MESSAGE_LIMIT} bytes; it was dropped.`);
          return;
        }
        for (;;) {
          try {
            const message = buffer.readMessage();
            if (message === null) return;
            this.#fromClient(message);
          } catch {
            say("The client sent a line that is no JSON-RPC message; it was dropped.");
          }
        }
      });
    });
    this.#closing.abort();
    for (const { cancel } of this.#exchanges.values()) cancel.abort();
    await this.#upstream?.close({ goodbye: true });
  }

  #write(message: JSONRPCMessage): void {
    if (!this.#closing.signal.aborted) this.#options.output.write(serializeMessage(message));
  }

  // From the client

  #fromClient(message: JSONRPCMessage): void {
    if (isJSONRPCRequest(message)) {
      const answered = this.#exchange(message);
      // What follows on an initialize waits for it: a server would refuse it.
      if (opensSession(message)) this.#ready = answered;
    } else if (isJSONRPCNotification(message)) {
      if (message.method === "notifications/cancelled") {
        this.#cancel(message);
        return;
      }
      const sent = this.#ready.then(() => this.#forward(message));
      if (message.method === "notifications/initialized") {
        if (this.#session) this.#session.initialized = true;
        this.#ready = sent;
      }
    } else {
      void this.#ready.then(() => this.#answer(message));
    }
  }

  /** Brings a request to its answer, in as many attempts as it takes and may take. */
  async #exchange(request: JSONRPCRequest): Promise<void> {
    if (this.#exchanges.has(request.id)) {
      const message = `A request with the id ${JSON.stringify(request.id)} is under way already; ids must differ.`;
      this.#write({ jsonrpc: "2.0", id: request.id, error: { code: INVALID_REQUEST, message } });
      return;
    }
    const cancel = new AbortController();
    const exchange: Exchange = { request, cancel, settle: () => {}, upstream: undefined, acknowledged: false };
    this.#exchanges.set(request.id, exchange);
    try {
      if (opensSession(request)) await this.#open(request);
      else await this.#ready;
      const failure = await this.#attempts(exchange);
      if (failure !== undefined && !cancel.signal.aborted) this.#write(errorFor(request, failure));
    } catch (error) {
      this.#write(errorFor(request, errorOf(error)));
    } finally {
      // An answered id is free, and may have been taken again.
      if (this.#exchanges.get(request.id) === exchange) this.#exchanges.delete(request.id);
    }
  }

  async #attempts(exchange: Exchange): Promise<Outcome> {
    const { request, cancel } = exchange;
    const deadline = performance.now() + this.#options.patienceMs;
    let mirrored = false;
    let lost = 0;
    for (let attempt = 0; ; attempt++) {
      const failure = await this.#attempt(exchange);
      if (failure === undefined) this.#reached();
      if (failure === undefined || cancel.signal.aborted) return undefined;
      if (failure instanceof HeadersWanted) {
        if (mirrored) return failure;
        mirrored = true;
        await this.#learnTools(request, cancel.signal);
        continue;
      }
      if (failure instanceof SessionLost) {
        if (++lost > SESSIONS_LOST_LIMIT) return failure;
        continue;
      }
      if (!(failure instanceof Unanswered)) return failure;
      this.#unreached(failure);
      if (!failure.untouched && !this.#mayRepeat(request)) return failure;
      const wait = Math.max(backoff(attempt), failure.retryAfterMs ?? 0);
      // A subscription is the client's way to hear of changes for as long as it runs; it is never given up.
      const endless = request.method === "subscriptions/listen" && exchange.acknowledged;
      if (!endless && performance.now() + wait > deadline) return failure;
      await pause(wait, cancel.signal);
    }
  }

  async #attempt(exchange: Exchange): Promise<Outcome> {
    const { request, cancel } = exchange;
    const upstream = await this.#current().catch(errorOf);
    if (cancel.signal.aborted) return undefined;
    if (upstream instanceof Error) return upstream;
    return new Promise<Outcome>((resolve) => {
      exchange.upstream = upstream;
      exchange.settle = resolve;
      cancel.signal.addEventListener("abort", () => resolve(undefined), { once: true });
      const params = request.params;
      const headers =
        request.method === "tools/call" && isModern(request)
          ? this.#tools.headersOf(params?.name, params?.arguments)
          : {};
      const onRequestStreamEnd = () => resolve(new Unanswered("the answer broke off", false));
      upstream.send(request, { requestSignal: cancel.signal, headers, onRequestStreamEnd }).catch((error: unknown) => {
        const answer = answerIn(error, request.id);
        if (answer) this.#fromServer(upstream, answer);
        else resolve(errorOf(error));
      });
    });
  }

  /** Whether a request may be sent again though the server may have acted on it: calls of tools change things. */
  #mayRepeat({ method, params }: JSONRPCRequest): boolean {
    return method !== "tools/call" || this.#tools.isRepeatable(params?.name);
  }

  /**
   * Cancels a request. The newer protocol's way over HTTP is to close the request; older servers get the notification,
   * and then the closed request as well, since a stateless one has nothing else to know the request by.
   */
  #cancel(notification: JSONRPCNotification): void {
    const id = notification.params?.requestId;
    const exchange = typeof id === "string" || typeof id === "number" ? this.#exchanges.get(id) : undefined;
    if (exchange === undefined) return;
    if (isModern(exchange.request)) exchange.cancel.abort();
    else void this.#forward(notification).finally(() => exchange.cancel.abort());
  }

  async #forward(notification: JSONRPCNotification): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      try {
        await (await this.#current()).send(notification);
        return;
      } catch (error) {
        const again = error instanceof SessionLost || (error instanceof Unanswered && error.untouched);
        if (!again || attempt > 4 || this.#closing.signal.aborted) {
          this.#options.say(`${notification.method} could not be passed on: ${reasonOf(error)}`);
          return;
        }
        if (error instanceof Unanswered) await pause(backoff(attempt), this.#closing.signal);
      }
    }
  }

  /** Passes on what the client answers to a request of the server's. */
  async #answer(message: JSONRPCResponse): Promise<void> {
    const asked = message.id === undefined ? undefined : this.#asked.get(message.id);
    if (asked === undefined || message.id === undefined) return;
    this.#asked.delete(message.id);
    // Whoever asked has forgotten the question with the session.
    if (asked.upstream !== this.#upstream) return;
    await asked.upstream
      .send({ ...message, id: asked.id })
      .catch((error: unknown) => this.#options.say(`An answer could not be passed on: ${reasonOf(error)}`));
  }

  // From the server

  #fromServer(upstream: Upstream, message: JSONRPCMessage): void {
    if (isJSONRPCRequest(message)) {
      // Servers count their requests by themselves, each session from the beginning.
      const id = `${upstream.generation}:${typeof message.id}:${message.id}`;
      this.#asked.set(id, { upstream, id: message.id });
      this.#write({ ...message, id });
    } else if (isJSONRPCNotification(message)) this.#write(this.#noticed(upstream, message));
    else this.#answered(upstream, message);
  }

  #answered(upstream: Upstream, message: JSONRPCResponse): void {
    const { id } = message;
    const own = id === undefined ? undefined : this.#own.get(id);
    if (own) {
      own(message);
      return;
    }
    const exchange = id === undefined ? undefined : this.#exchanges.get(id);
    // An answer to what was cancelled, or one that nobody asked for.
    if (exchange === undefined || exchange.cancel.signal.aborted) return;
    const { request } = exchange;
    if (isJSONRPCErrorResponse(message)) {
      if (message.error.code === HEADER_MISMATCH && request.method === "tools/call" && isModern(request)) {
        exchange.settle(new HeadersWanted(message));
        return;
      }
    } else {
      this.#keep(upstream, request, message.result);
    }
    // Once answered, an id is free, and its cancellation comes too late.
    this.#exchanges.delete(request.id);
    this.#write(message);
    exchange.settle(undefined);
  }

  /** Keeps what later requests, or a later session, will need of a result. */
  #keep(upstream: Upstream, request: JSONRPCRequest, result: Record<string, unknown>): void {
    const session = this.#session;
    switch (request.method) {
      case "initialize":
        if (session?.initialize !== request) return;
        session.protocolVersion = typeof result.protocolVersion === "string" ? result.protocolVersion : undefined;
        session.capabilities = (result.capabilities ?? {}) as Record<string, unknown>;
        if (session.protocolVersion !== undefined) upstream.settleOn(session.protocolVersion);
        return;
      case "tools/list":
        this.#tools.learn(result);
        return;
      case "logging/setLevel":
        if (session) session.level = request;
        return;
      case "resources/subscribe":
        session?.subscriptions.set(String(request.params?.uri), request);
        return;
      case "resources/unsubscribe":
        session?.subscriptions.delete(String(request.params?.uri));
        return;
    }
  }

  /** A notification as the client is to see it. */
  #noticed(upstream: Upstream, message: JSONRPCNotification): JSONRPCNotification {
    if (message.method === "notifications/cancelled") {
      const original = message.params?.requestId;
      const id = `${upstream.generation}:${typeof original}:${original}`;
      return this.#asked.delete(id) ? { ...message, params: { ...message.params, requestId: id } } : message;
    }
    if (message.method !== "notifications/subscriptions/acknowledged") return message;
    const exchange = this.#exchanges.get(subscriptionOf(message) ?? "");
    if (exchange === undefined) return message;
    if (!exchange.acknowledged) {
      exchange.acknowledged = true;
      return message;
    }
    // The stream broke and was opened anew. What changed meanwhile was not heard, so anything may have changed.
    this.#options.say("A subscription was taken up again.");
    const [first, ...others] = changesOf(message);
    for (const change of others) this.#write(change);
    return first ?? message;
  }

  // Sessions

  /** The HTTP side as it stands: connected, and in the client's session if it has one. */
  async #current(): Promise<Upstream> {
    if (this.#upstream) return this.#upstream;
    const session = this.#session;
    this.#connecting ??= (session?.protocolVersion === undefined ? this.#connect() : this.#renewed(session)).finally(
      () => {
        this.#connecting = undefined;
      },
    );
    this.#upstream = await this.#connecting;
    return this.#upstream;
  }

  async #connect(): Promise<Upstream> {
    const upstream = new Upstream(++this.#generations, this.#options.url, this.#options.fetch, {
      message: (from, message) => this.#fromServer(from, message),
      lost: (from) => this.#lost(from),
      trouble: () => {},
    });
    await upstream.start();
    return upstream;
  }

  /** Begins the session that this request of the client's opens. */
  async #open(initialize: JSONRPCRequest): Promise<void> {
    const before = this.#upstream;
    this.#upstream = undefined;
    await before?.close({ goodbye: true });
    this.#session = {
      initialize,
      protocolVersion: undefined,
      capabilities: {},
      initialized: false,
      level: undefined,
      subscriptions: new Map(),
    };
    this.#upstream = await this.#connect();
  }

  /** Leaves a session that the server has forgotten, and begins to open it anew. */
  #lost(upstream: Upstream): void {
    if (upstream !== this.#upstream) return;
    this.#upstream = undefined;
    this.#options.say("The server has forgotten the session; opening it anew.");
    void this.#current().catch((error: unknown) => {
      // The next request will try again, and say it to the client.
      this.#options.say(`The session could not be opened anew: ${reasonOf(error)}`);
    });
    // The request that brought it to light ends by itself. Those that were waiting on the old session for an answer
    // would wait for ever: each decides whether to ask again.
    setImmediate(() => {
      for (const exchange of this.#exchanges.values()) {
        if (exchange.upstream === upstream) exchange.settle(new Unanswered("the session was lost", false));
      }
      void upstream.close();
    });
  }

  /** Opens a session in the client's name, with what the client had set up in the one before. */
  async #renewed(session: Session): Promise<Upstream> {
    const { patienceMs } = this.#options;
    const upstream = await this.#connect();
    const deadline = performance.now() + patienceMs;
    for (let attempt = 0; ; attempt++) {
      try {
        const { protocolVersion } = await this.#ask(upstream, session.initialize);
        if (protocolVersion !== session.protocolVersion) {
          throw new Error(
            `the server now speaks version ${String(protocolVersion)} of the protocol, and the client had settled on ` +
              `${session.protocolVersion}; restart the client.`,
          );
        }
        break;
      } catch (error) {
        const wait = backoff(attempt);
        if (!(error instanceof Unanswered) || performance.now() + wait > deadline) throw error;
        await pause(wait, this.#closing.signal);
        if (this.#closing.signal.aborted) throw error;
      }
    }
    if (session.protocolVersion !== undefined) upstream.settleOn(session.protocolVersion);
    if (session.initialized) await upstream.send({ jsonrpc: "2.0", method: "notifications/initialized" });
    for (const request of [session.level, ...session.subscriptions.values()]) {
      if (request) await this.#ask(upstream, request);
    }
    for (const name of LISTS) {
      const capability = session.capabilities[name] as { listChanged?: unknown } | undefined;
      if (capability?.listChanged === true) {
        this.#write({ jsonrpc: "2.0", method: `notifications/${name}/list_changed` });
      }
    }
    return upstream;
  }

  /** Reads the list of tools in the client's name, for the headers that calls need. */
  async #learnTools(call: JSONRPCRequest, signal: AbortSignal): Promise<void> {
    const _meta = call.params?._meta;
    let cursor: string | undefined;
    do {
      const params = { ...(_meta !== undefined && { _meta }), ...(cursor !== undefined && { cursor }) };
      const list: JSONRPCRequest = { jsonrpc: "2.0", id: call.id, method: "tools/list", params };
      cursor = this.#tools.learn(await this.#ask(await this.#current(), list));
    } while (cursor !== undefined && !signal.aborted);
  }

  /** Sends a request of the bridge's own, made like `request`; resolves with the result. */
  async #ask(upstream: Upstream, request: JSONRPCRequest): Promise<Record<string, unknown>> {
    const id = `${OWN_IDS}${++this.#ownIds}`;
    const { promise, resolve, reject } = Promise.withResolvers<JSONRPCResponse>();
    this.#own.set(id, resolve);
    try {
      await upstream.send(
        { ...request, id },
        {
          requestSignal: this.#closing.signal,
          onRequestStreamEnd: () => reject(new Unanswered("the answer broke off", false)),
        },
      );
      const answer = await promise;
      if (isJSONRPCResultResponse(answer)) return answer.result;
      throw new Error(`the server answered ${request.method} with: ${answer.error.message}`);
    } finally {
      this.#own.delete(id);
    }
  }

  // For the person

  #unreached(failure: Error): void {
    if (this.#unreachable) return;
    this.#unreachable = true;
    this.#options.say(`${capital(failure.message)}; trying again.`);
  }

  #reached(): void {
    if (this.#unreachable) this.#options.say("The server answers again.");
    this.#unreachable = false;
  }
}

/** The server wants headers that only a listing of the tool could tell of. */
class HeadersWanted extends Error {
  override readonly name = "HeadersWanted";
  readonly answer: JSONRPCErrorResponse;

  constructor(answer: JSONRPCErrorResponse) {
    super(answer.error.message);
    this.answer = answer;
  }
}

/** The protocol's own answer in an HTTP error, under the id of the request that it is for. */
function answerIn(error: unknown, id: RequestId): JSONRPCErrorResponse | undefined {
  if (!(error instanceof SdkHttpError) || error.status === 401) return undefined;
  try {
    const answer: unknown = { ...JSON.parse(String(error.data.text)), id };
    return isJSONRPCErrorResponse(answer) ? answer : undefined;
  } catch {
    return undefined;
  }
}

/** What the client is told when there is no answer. */
function errorFor({ id, method, params }: JSONRPCRequest, failure: Error): JSONRPCErrorResponse {
  if (failure instanceof HeadersWanted) return { ...failure.answer, id };
  let message = reasonOf(failure);
  if (failure instanceof Unanswered && !failure.untouched && method === "tools/call") {
    message +=
      `. ${String(params?.name)} may have done its work, so it was not called again; ` +
      "look at what it did before you call it again.";
  }
  return { jsonrpc: "2.0", id, error: { code: CONNECTION_CLOSED, message: capital(message) } };
}

/** Longest that is passed on of an answer that is no protocol's. */
const FOREIGN_TEXT = 200;

function reasonOf(error: unknown): string {
  if (!(error instanceof SdkHttpError)) return error instanceof Error ? error.message : String(error);
  switch (error.status) {
    case 401:
      return "the server does not take the key (HTTP 401); see to the header Authorization in --header, --header-file or --key-env, or sign in by --login";
    case 404:
    case 405:
      return `there is no MCP endpoint at this URL (HTTP ${error.status}); it usually ends in /mcp`;
    case 301:
    case 302:
    case 303:
    case 307:
    case 308:
      // The SDK's own words, which say where the redirect points.
      return `the server answered HTTP ${error.status}: ${error.message.replace(/^Error POSTing to endpoint: /, "")}`;
    default:
      return `the server answered HTTP ${error.status}: ${String(error.data.text ?? error.message).slice(0, FOREIGN_TEXT)}`;
  }
}

const errorOf = (error: unknown): Error => (error instanceof Error ? error : new Error(String(error)));

const capital = (text: string) => `${text.slice(0, 1).toUpperCase()}${text.slice(1)}`;

const SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId";

function subscriptionOf({ params }: JSONRPCNotification): RequestId | undefined {
  const id = (params?._meta as Record<string, unknown> | undefined)?.[SUBSCRIPTION_ID];
  return typeof id === "string" || typeof id === "number" ? id : undefined;
}

/** A notification for everything that a subscription covers. */
function changesOf({ params }: JSONRPCNotification): JSONRPCNotification[] {
  const covered = (params?.notifications ?? {}) as Record<string, unknown>;
  const change = (method: string, more: Record<string, unknown> = {}): JSONRPCNotification => ({
    jsonrpc: "2.0",
    method,
    params: { ...more, _meta: params?._meta as Record<string, unknown> },
  });
  const lists = LISTS.filter((name) => covered[`${name}ListChanged`] === true);
  const uris = Array.isArray(covered.resourceSubscriptions) ? covered.resourceSubscriptions : [];
  return [
    ...lists.map((name) => change(`notifications/${name}/list_changed`)),
    ...uris.map((uri) => change("notifications/resources/updated", { uri: String(uri) })),
  ];
}
