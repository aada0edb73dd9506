import { type ClientRequest, Agent as HttpAgent, request as httpRequest, type IncomingMessage } from "node:http";
import { Agent as HttpsAgent, request as httpsRequest } from "node:https";
import { Readable } from "node:stream";
import type { FetchLike } from "@modelcontextprotocol/client";
import type { HeaderValues } from "./headers.ts";

/** A request that got no usable answer. */
export class Unanswered extends Error {
  override readonly name = "Unanswered";
  /** Whether the server has certainly not acted on it, so that it may be sent again whatever it asks for. */
  readonly untouched: boolean;
  /** How long the server asked to be left alone. */
  readonly retryAfterMs: number | undefined;

  constructor(message: string, untouched: boolean, more: { retryAfterMs?: number; cause?: unknown } = {}) {
    super(message, { cause: more.cause });
    this.untouched = untouched;
    this.retryAfterMs = more.retryAfterMs;
  }
}

/** The server does not know the session any more. It has not acted on the request that brought this to light. */
export class SessionLost extends Error {
  override readonly name = "SessionLost";
}

export interface HttpFetchOptions {
  /** Headers of every request. */
  headers(): HeaderValues;
  /** Reads them anew, after a 401; tells whether they have changed. */
  refreshHeaders(): Promise<boolean>;
}

/** Longest that a connection may take to come about, TLS included. */
const CONNECT_TIMEOUT_MS = 15_000;
/** How soon a peer that has vanished without a word is looked for. */
const KEEP_ALIVE_MS = 30_000;
/** Longest error text that is read. */
const ERROR_TEXT_LIMIT = 64 * 1024;

/**
 * A `fetch` over Node's own HTTP client. The built-in one gives up on an answer that takes five minutes to begin, which
 * a tool may well take; it does not tell whether a request that failed had been sent; and it knows no proxy.
 */
export function createHttpFetch({ headers, refreshHeaders }: HttpFetchOptions): FetchLike & { close(): void } {
  // HTTP_PROXY, HTTPS_PROXY and NO_PROXY are where companies say how to get out.
  const options = { keepAlive: true, keepAliveMsecs: KEEP_ALIVE_MS, proxyEnv: process.env };
  const agents = { "http:": new HttpAgent(options), "https:": new HttpsAgent(options) };

  const once = async (target: string | URL, init: RequestInit): Promise<IncomingMessage> => {
    const url = new URL(target);
    const secure = url.protocol === "https:";
    const request = (secure ? httpsRequest : httpRequest)(url, {
      method: init.method ?? "GET",
      headers: { ...headers(), ...Object.fromEntries(new Headers(init.headers)) },
      agent: secure ? agents["https:"] : agents["http:"],
      ...(init.signal && { signal: init.signal }),
    });
    return answerOf(request, secure, url, typeof init.body === "string" ? init.body : undefined);
  };

  const fetch = async (target: string | URL, init: RequestInit = {}): Promise<Response> => {
    let answer = await once(target, init);
    if (answer.statusCode === 401 && (await refreshHeaders())) {
      answer.resume();
      answer = await once(target, init);
    }
    const status = answer.statusCode ?? 0;
    const hadSession = new Headers(init.headers).has("mcp-session-id");
    if (status === 429 || (status >= 502 && status <= 504)) {
      answer.resume();
      // A gateway that answers 502 or 504 may have passed the request on before.
      throw new Unanswered(`the server answered ${status}`, status === 429 || status === 503, retryAfter(answer));
    }
    if (hadSession && init.method !== "DELETE" && (status === 404 || status === 400)) {
      const text = await textOf(answer);
      // The specification has 404; servers made after the SDK's examples answer 400 and say it in words.
      if (status === 404 || /session|not initialized/i.test(text)) throw new SessionLost("the session is gone");
      return response(answer, text);
    }
    // Statuses that allow no body.
    if (status === 204 || status === 304) {
      answer.resume();
      return response(answer, null);
    }
    return response(answer, Readable.toWeb(answer) as ReadableStream);
  };
  return Object.assign(fetch, {
    close() {
      agents["http:"].destroy();
      agents["https:"].destroy();
    },
  });
}

/** Sends a request, and resolves with the head of its answer. */
function answerOf(request: ClientRequest, secure: boolean, url: URL, body: string | undefined) {
  return new Promise<IncomingMessage>((resolve, reject) => {
    let connected = false;
    const timer = setTimeout(() => {
      const seconds = CONNECT_TIMEOUT_MS / 1000;
      request.destroy(new Error(`no connection within ${seconds} seconds`));
    }, CONNECT_TIMEOUT_MS);
    const onConnected = () => {
      connected = true;
      clearTimeout(timer);
    };
    request.on("socket", (socket) => {
      // One that was used before is connected already.
      if (request.reusedSocket || !socket.connecting) onConnected();
      else socket.once(secure ? "secureConnect" : "connect", onConnected);
    });
    request.on("response", (answer) => {
      onConnected();
      resolve(answer);
    });
    request.on("error", (error: NodeJS.ErrnoException) => {
      clearTimeout(timer);
      if (error.name === "AbortError") return reject(error);
      const why = error.code ?? error.message;
      const where = `${url.protocol}//${url.host}`;
      reject(
        connected
          ? new Unanswered(`the connection to ${where} broke (${why})`, false, { cause: error })
          : new Unanswered(`${where} cannot be reached (${why})`, true, { cause: error }),
      );
    });
    request.end(body);
  });
}

function response(answer: IncomingMessage, body: string | ReadableStream | null): Response {
  const headers = new Headers();
  for (const [name, value] of Object.entries(answer.headers)) {
    for (const each of [value ?? []].flat()) headers.append(name, each);
  }
  return new Response(body, { status: answer.statusCode ?? 0, statusText: answer.statusMessage ?? "", headers });
}

async function textOf(answer: IncomingMessage): Promise<string> {
  let text = "";
  for await (const chunk of answer.setEncoding("utf8")) {
    text += chunk;
    if (text.length > ERROR_TEXT_LIMIT) break;
  }
  return text;
}

/** `Retry-After`, in seconds or as a date (RFC 9110 section 10.2.3). */
function retryAfter(answer: IncomingMessage): { retryAfterMs?: number } {
  const value = answer.headers["retry-after"];
  if (value === undefined) return {};
  const ms = /^\d+$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Number.isFinite(ms) && ms > 0 ? { retryAfterMs: ms } : {};
}
