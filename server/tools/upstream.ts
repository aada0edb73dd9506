import { setTimeout } from "node:timers/promises";
import { type Connector, ConnectorUnavailable } from "../services/resilience.ts";
import { ToolFailure } from "./define-tool.ts";

/** What a request to another service is made with; the signal is the call's own. */
export type UpstreamRequest = RequestInit & {
  readonly signal: AbortSignal;
  /**
   * By way of which a service of Azure is asked, `connectors.of("azure")`: then a GET or HEAD that gets no answer, or one of
   * 500 and above, is made again soon, and a service that is down is left alone for a while.
   */
  readonly connector?: Connector | undefined;
};

interface UpstreamClock {
  /** Milliseconds since 1970. */
  now(): number;
  wait(ms: number, signal: AbortSignal): Promise<void>;
}

const SYSTEM_CLOCK: UpstreamClock = {
  now: Date.now,
  wait: (ms, signal) => setTimeout(ms, undefined, { signal }),
};

/** Before the second try, where the service does not say; doubled each time. */
const FIRST_WAIT_MS = 1000;

/**
 * `fetch`, for a service that may have enough of its callers, as Azure and model providers do: when it answers 429, or
 * 503 with a `Retry-After`, the request is made again once that has passed, and the caller of the tool hears nothing of
 * it. Any other answer is given back as it is.
 *
 * `seconds` is how long all of it may take, the reading of the answer's body included. Clients commonly give a call 60.
 *
 * @throws ToolFailure telling when to call again, when the wait would be longer than the time there is, or when the body
 *   is a stream, which cannot be sent twice; and when the service has not answered in that time.
 * @throws ConnectorUnavailable while the connector's circuit is open.
 */
export async function fetchWithin(
  seconds: number,
  url: string | URL,
  request: UpstreamRequest,
  clock: UpstreamClock = SYSTEM_CLOCK,
): Promise<Response> {
  const { host } = new URL(url);
  const deadline = clock.now() + seconds * 1000;
  const timeout = AbortSignal.timeout(seconds * 1000);
  const signal = AbortSignal.any([request.signal, timeout]);
  for (let tries = 1; ; tries++) {
    const response = await ask(url, { ...request, signal }).catch((error: unknown) => {
      if (!timeout.aborted || request.signal.aborted) throw error;
      throw new ToolFailure(`${host} did not answer within ${seconds} seconds; call again, or ask it for less.`);
    });
    if (!isBusy(response)) return response;
    const said = retryAfterMs(response.headers, clock.now());
    await response.body?.cancel();
    const wait = said ?? FIRST_WAIT_MS * 2 ** (tries - 1);
    if (clock.now() + wait >= deadline || isStream(request.body)) throw busy(host, response.status, wait);
    await clock.wait(wait, request.signal);
  }
}

/** One request, or what its connector makes of it. */
async function ask(url: string | URL, { connector, ...request }: UpstreamRequest): Promise<Response> {
  if (connector === undefined) return fetch(url, request);
  let broken: Response | undefined;
  const { method = "GET", signal } = request;
  const repeatable = ["GET", "HEAD"].includes(method.toUpperCase());
  try {
    return await connector.run(
      async () => {
        await broken?.body?.cancel();
        broken = undefined;
        const response = await fetch(url, request);
        // When to come back is what a busy service says itself.
        if (response.status < 500 || isBusy(response)) return response;
        broken = response;
        throw new Error(`HTTP ${response.status}`);
      },
      { signal, repeatable },
    );
  } catch (error) {
    // The connector has taken note of it; what it means is the tool's to judge.
    if (broken !== undefined && !(error instanceof ConnectorUnavailable)) return broken;
    throw error;
  }
}

function isBusy({ status, headers }: Response): boolean {
  return status === 429 || (status === 503 && retryAfterMs(headers, 0) !== undefined);
}

function busy(host: string, status: number, waitMs: number): ToolFailure {
  const retryAfterSeconds = Math.max(1, Math.ceil(waitMs / 1000));
  const wait = retryAfterSeconds === 1 ? "1 second" : `${retryAfterSeconds} seconds`;
  return new ToolFailure(`${host} takes no more requests now (HTTP ${status}); call again in ${wait}.`, {
    status,
    retryAfterSeconds,
  });
}

/**
 * What `Retry-After` says (RFC 9110, section 10.2.3): seconds, or a date, which is the service's own and so is compared
 * with its own clock, where it tells the time. Azure's model services say it in milliseconds as well.
 */
function retryAfterMs(headers: Headers, now: number): number | undefined {
  const exact = headers.get("retry-after-ms") ?? headers.get("x-ms-retry-after-ms") ?? "";
  if (/^\d{1,10}$/.test(exact)) return Number(exact);
  const value = headers.get("retry-after")?.trim() ?? "";
  if (/^\d{1,10}$/.test(value)) return Number(value) * 1000;
  const until = /[a-z]/i.test(value) ? Date.parse(value) : Number.NaN;
  if (Number.isNaN(until)) return undefined;
  const told = Date.parse(headers.get("date") ?? "");
  return Math.max(0, until - (Number.isNaN(told) ? now : told));
}

function isStream(body: RequestInit["body"]): boolean {
  return typeof body === "object" && body !== null && (body instanceof ReadableStream || Symbol.asyncIterator in body);
}
