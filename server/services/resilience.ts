import type { CircuitBreakerPolicy } from "cockatiel";
import { ImpossibleEvent } from "./jobs/job.ts";
import type { DeadLetters, Delivery, JobQueue } from "./jobs/queue.ts";
import { InvalidCursor, JobConflict, type JobStore, UnreadableJob } from "./jobs/store.ts";

/*
 * What keeps an outage elsewhere from becoming one here. Most clients do part of it by themselves, and nothing is done
 * twice: who does what is in the table of `docs/resilience.md` and beside each policy below.
 */

/** Everything outward that is asked again and again. Labels of metrics, so there are these and no others. */
export type ConnectorName =
  | "service-bus"
  | "tables"
  | "blobs"
  | "key-vault"
  | "azure"
  | "redis"
  | "entra-keys"
  | "log-ingestion";

/** `open`: nothing is asked for a while. `half-open`: one request is let through, and decides. */
export type CircuitState = "closed" | "half-open" | "open";

/** Where it is counted; `server/observability/metrics.ts` has one for each name. */
export interface ConnectorCounts {
  requested(): void;
  failed(): void;
  healthy(healthy: boolean): void;
  circuit(state: CircuitState): void;
}

/** How a connector is, for operators. */
export interface ConnectorDetails {
  readonly circuit: CircuitState;
  readonly healthy: boolean;
  readonly requests: number;
  readonly errors: number;
  readonly lastError?: string;
  /** While the circuit is open. */
  readonly retryAfterSeconds?: number;
}

interface Observed {
  readonly name: ConnectorName;
  readonly circuit: CircuitState;
  /** Whether what it said last was no failure, and its circuit is closed. One that was never asked is taken for healthy. */
  readonly healthy: boolean;
}

/** Asks a service, within the bounds of its policy. */
export interface Connector extends Observed {
  /**
   * @throws ConnectorUnavailable without having asked, while the circuit is open or too much is asked at once, and when
   *   there is no answer in time; otherwise what `operation` threw last.
   */
  run<Result>(operation: (signal: AbortSignal) => Promise<Result>, options?: RunOptions): Promise<Result>;
}

export interface RunOptions {
  /** The caller's; that it gives up is no failure of the service. */
  readonly signal?: AbortSignal | undefined;
  /** Asking twice does no harm, so a failure may be tried again where the policy has it. */
  readonly repeatable?: boolean;
  /** Errors that are the service's answer, and no failure of it; by default what {@link isAnswer} says. */
  readonly isAnswer?: (error: unknown) => boolean;
}

/**
 * Tells of a client that is resilient by itself: after a failure it pauses, and everybody does without it until it has
 * answered again. That is an open circuit.
 */
export interface WatchedConnector extends Observed {
  requested(): void;
  answered(): void;
  failed(error: unknown): void;
  /** The connection ended, with no request to blame. */
  lost(reason: unknown): void;
}

/** Nothing was asked of the service, or it did not answer in time. The message goes to callers as it is. */
export class ConnectorUnavailable extends Error {
  override readonly name = "ConnectorUnavailable";
  readonly retryAfterSeconds: number;

  constructor(connector: ConnectorName, why: string, retryAfterSeconds: number, options?: ErrorOptions) {
    const wait = retryAfterSeconds === 1 ? "1 second" : `${retryAfterSeconds} seconds`;
    super(`${SERVICES[connector]} ${why}; try again in ${wait}.`, options);
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

/** What callers know them as: no address. */
const SERVICES: Readonly<Record<ConnectorName, string>> = {
  "service-bus": "The queue of jobs",
  tables: "The table of jobs and idempotency keys",
  blobs: "The store of long arguments and results",
  "key-vault": "The key vault",
  azure: "The Azure service that this needs",
  redis: "The shared store",
  "entra-keys": "Entra",
  "log-ingestion": "The log service",
};

interface Policy {
  /** For all of one operation, the client's own retries included. */
  readonly timeoutMs: number;
  /** At once; see {@link MOST_WAITING} for what comes above. */
  readonly concurrency: number;
  /** Tries after the first, of what may be repeated. 0 where the client tries again by itself. */
  readonly retries: number;
}

type GuardedName = "service-bus" | "tables" | "blobs" | "azure";
type WatchedName = Exclude<ConnectorName, GuardedName>;

const POLICIES: Readonly<Record<GuardedName, Policy>> = {
  // Azure's clients try again by themselves, as does the store of jobs in their place: what answers 408, 429 or 5xx, or
  // not at all, by exponential backoff with jitter and by `Retry-After`. They know no circuit and no bulkhead. Their own
  // bounds on time, where they have some, are a little less than these, and say more.
  "service-bus": { timeoutMs: 60_000, concurrency: 64, retries: 0 },
  tables: { timeoutMs: 40_000, concurrency: 128, retries: 0 },
  // The largest contents are some tens of megabytes.
  blobs: { timeoutMs: 120_000, concurrency: 16, retries: 0 },
  // Asked by `fetch`, which tries once.
  azure: { timeoutMs: 60_000, concurrency: 64, retries: 2 },
};

/**
 * What waits for room: as many as a process runs calls at once, by default (CALL_GLOBAL_CONCURRENCY), each of which asks
 * for one thing after another. So what many submit in the same moment is taken, and not refused for being as many.
 */
const MOST_WAITING = 256;

/** Failures one after another that open a circuit. */
export const FAILURES = 5;
/** How long a circuit is open: the first time, and doubled each time that it opens again, up to the longest. */
export const FIRST_PAUSE_MS = 5000;
const LONGEST_PAUSE_MS = 60_000;

/** Before the second try; cockatiel doubles and spreads it (decorrelated jitter). */
const FIRST_RETRY_MS = 200;
const LONGEST_RETRY_MS = 5000;
/**
 * What retries may add to the load of a service that fails: a tenth, and a few for those that hardly ask. Every request
 * puts its share in, and every retry takes one out.
 */
const RETRIES_PER_REQUEST = 0.1;
const MOST_RETRIES = 10;

export interface Connectors {
  /** The same one for a name, made when it is first asked for. */
  of(name: GuardedName): Connector;
  /** For clients that time out, try again and pause by themselves, so that all of them are seen alike. */
  watched(name: WatchedName): WatchedConnector;
  /** Those that are in use. */
  details(): Readonly<Record<string, ConnectorDetails>>;
}

/** The connectors of one server. `counts` gives where each is counted. */
export function createConnectors(counts: (name: ConnectorName) => ConnectorCounts): Connectors {
  const guarded = new Map<GuardedName, Connector>();
  const watched = new Map<WatchedName, WatchedConnector>();
  const observations: Observation[] = [];
  const observe = (name: ConnectorName) => {
    const observation = createObservation(name, counts(name));
    observations.push(observation);
    return observation;
  };
  return {
    of: (name) => kept(guarded, name, () => createConnector(observe(name), POLICIES[name])),
    watched: (name) => kept(watched, name, () => createWatched(observe(name))),
    details: () => Object.fromEntries(observations.map(({ name, details }) => [name, details()])),
  };
}

function kept<Key, Value>(made: Map<Key, Value>, key: Key, make: () => Value): Value {
  const known = made.get(key);
  if (known !== undefined) return known;
  const value = make();
  made.set(key, value);
  return value;
}

type Observation = ReturnType<typeof createObservation>;

/** What is known of a connector, and counted. */
function createObservation(name: ConnectorName, counts: ConnectorCounts) {
  let circuit: CircuitState = "closed";
  let answers = true;
  let requests = 0;
  let errors = 0;
  let lastError: string | undefined;
  /** Milliseconds since 1970. */
  let opensAt = 0;

  const isHealthy = () => answers && circuit === "closed";
  const telling = () => counts.healthy(isHealthy());
  counts.circuit(circuit);
  telling();
  const retryAfterSeconds = () => Math.max(1, Math.ceil((opensAt - Date.now()) / 1000));
  return {
    name,
    get circuit() {
      return circuit;
    },
    get healthy() {
      return isHealthy();
    },
    retryAfterSeconds,
    requested() {
      requests++;
      counts.requested();
    },
    answered() {
      if (answers) return;
      answers = true;
      telling();
    },
    failed(error: unknown) {
      errors++;
      lastError = describe(error);
      counts.failed();
      answers = false;
      telling();
    },
    circuitIs(state: CircuitState, pauseMs = 0, reason?: unknown) {
      if (state === circuit) return;
      circuit = state;
      if (reason !== undefined) lastError = describe(reason);
      opensAt = Date.now() + pauseMs;
      counts.circuit(state);
      telling();
    },
    details: (): ConnectorDetails => ({
      circuit,
      healthy: isHealthy(),
      requests,
      errors,
      ...(lastError !== undefined && { lastError }),
      ...(circuit === "open" && opensAt > Date.now() && { retryAfterSeconds: retryAfterSeconds() }),
    }),
  };
}

function createWatched(observation: Observation): WatchedConnector {
  return {
    name: observation.name,
    get circuit() {
      return observation.circuit;
    },
    get healthy() {
      return observation.healthy;
    },
    requested: () => observation.requested(),
    answered() {
      observation.answered();
      observation.circuitIs("closed");
    },
    failed(error) {
      observation.failed(error);
      observation.circuitIs("open");
    },
    lost: (reason) => observation.circuitIs("open", 0, reason),
  };
}

/** An error that is an answer, on its way through the policies, which would take it for a failure. */
class Answer {
  readonly error: unknown;

  constructor(error: unknown) {
    this.error = error;
  }
}

/** A failure beside one that counted: a connection that is cut takes with it all that was under way on it. */
class FailedTogether extends Error {
  readonly error: unknown;

  constructor(error: unknown) {
    super();
    this.error = error;
  }
}

function createConnector(observation: Observation, { timeoutMs, concurrency, retries }: Policy): Connector {
  const { name } = observation;
  let budget = MOST_RETRIES;
  /** By `performance.now()`: of the last failure that counted. */
  let failedAt = Number.NEGATIVE_INFINITY;

  // Loaded by the first request, since most local servers never make one.
  const prepare = async () => {
    const cockatiel = await import("cockatiel");
    const { circuitBreaker, ConsecutiveBreaker, DelegateBackoff, ExponentialBackoff, handleWhen } = cockatiel;
    const { bulkhead, retry, timeout, TimeoutStrategy, wrap } = cockatiel;
    let pauseMs = FIRST_PAUSE_MS;
    const breaker: CircuitBreakerPolicy = circuitBreaker(
      handleWhen((error) => !(error instanceof FailedTogether)),
      {
        breaker: new ConsecutiveBreaker(FAILURES),
        halfOpenAfter: new DelegateBackoff(({ attempt }) => {
          // Spread, so that replicas do not come back all at once.
          pauseMs = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (attempt - 1)) * (0.75 + Math.random() / 2);
          return pauseMs;
        }),
      },
    );
    const { Closed, HalfOpen } = cockatiel.CircuitState;
    breaker.onStateChange((state) => {
      observation.circuitIs(state === Closed ? "closed" : state === HalfOpen ? "half-open" : "open", pauseMs);
    });
    const room = bulkhead(concurrency, MOST_WAITING);
    // Aggressive: an operation that does not listen to its signal is not waited for.
    const once = wrap(breaker, timeout(timeoutMs, { strategy: TimeoutStrategy.Aggressive, abortOnReturn: false }));
    const isRefusal = (error: unknown) =>
      error instanceof cockatiel.BrokenCircuitError || error instanceof cockatiel.BulkheadRejectedError;
    const again = retry(
      handleWhen((error) => {
        if (isRefusal(error) || budget < 1) return false;
        budget -= 1;
        return true;
      }),
      {
        maxAttempts: retries,
        backoff: new ExponentialBackoff({ initialDelay: FIRST_RETRY_MS, maxDelay: LONGEST_RETRY_MS }),
      },
    );
    const unavailable = (cause: unknown): unknown => {
      if (cause instanceof cockatiel.BrokenCircuitError) {
        return new ConnectorUnavailable(name, "does not answer at the moment", observation.retryAfterSeconds());
      }
      if (cause instanceof cockatiel.BulkheadRejectedError) {
        return new ConnectorUnavailable(name, "has as many requests as it is given at once", 1);
      }
      if (cause instanceof cockatiel.TaskCancelledError) {
        return new ConnectorUnavailable(name, `has not answered within ${timeoutMs / 1000} seconds`, 5, { cause });
      }
      return cause;
    };
    return { once: wrap(room, once), again: wrap(room, again, once), isRefusal, unavailable };
  };
  let policies: ReturnType<typeof prepare> | undefined;

  return {
    name,
    get circuit() {
      return observation.circuit;
    },
    get healthy() {
      return observation.healthy;
    },
    async run(operation, { signal: given, repeatable = false, isAnswer: isTheirs = isAnswer } = {}) {
      policies ??= prepare();
      const { once, again, isRefusal, unavailable } = await policies;
      observation.requested();
      budget = Math.min(MOST_RETRIES, budget + RETRIES_PER_REQUEST);
      // The caller's signal goes past the policies, which would count its end as a failure.
      const asked = async ({ signal }: { readonly signal: AbortSignal }) => {
        const askedAt = performance.now();
        try {
          // It may have waited for room, or for its next try.
          given?.throwIfAborted();
          return await operation(given === undefined ? signal : AbortSignal.any([signal, given]));
        } catch (error) {
          if (given?.aborted || isTheirs(error)) return new Answer(error);
          // One that is let through to find out decides, whatever else fails at that moment.
          if (askedAt < failedAt && observation.circuit === "closed") throw new FailedTogether(error);
          failedAt = performance.now();
          throw error;
        }
      };
      let result: Awaited<ReturnType<typeof asked>>;
      try {
        result = await (repeatable && retries > 0 ? again : once).execute(asked);
      } catch (thrown) {
        const error = thrown instanceof FailedTogether ? thrown.error : thrown;
        if (!isRefusal(error)) observation.failed(error);
        throw unavailable(error);
      }
      observation.answered();
      if (result instanceof Answer) throw result.error;
      return result;
    },
  };
}

/**
 * Whether the error is an HTTP service's answer to what it was asked: not there, there already, changed meanwhile, not
 * like this. That it lets nobody in (401, 403), has no time (408, 429) or is broken (5xx) is a failure.
 */
export function isAnswer(error: unknown): boolean {
  if (typeof error !== "object" || error === null) return false;
  const status: unknown = Reflect.get(error, "statusCode");
  return typeof status === "number" && status >= 400 && status < 500 && ![401, 403, 408, 429].includes(status);
}

/** Why the last request failed: the first words of whoever says so, who never says a secret. */
function describe(error: unknown): string {
  const said = error instanceof Error ? error.message || error.name : String(error);
  return (said.split("\n")[0] ?? "").slice(0, 200);
}

/** Of Service Bus: it has answered, about this message or this session (`MessagingError.code`). */
const ABOUT_THE_MESSAGE: ReadonlySet<unknown> = new Set([
  "MessageLockLost",
  "MessageNotFound",
  "MessageSizeExceeded",
  "SessionCannotBeLocked",
  "SessionLockLost",
]);

function isQueueAnswer(error: unknown): boolean {
  return error instanceof Error && "code" in error && ABOUT_THE_MESSAGE.has(error.code);
}

/**
 * A queue that is asked by way of its connector, to the same contract. Receiving waits for what is to come, and is no
 * request; settling what was received is one.
 */
export function resilientQueue(queue: JobQueue, connector: Connector): JobQueue {
  const ask = <Result>(operation: () => Promise<Result>) => connector.run(operation, { isAnswer: isQueueAnswer });
  const deadLetters: DeadLetters = {
    list: (limit) => ask(() => queue.deadLetters.list(limit)),
    replay: (sequence, id) => ask(() => queue.deadLetters.replay(sequence, id)),
    drop: (sequence) => ask(() => queue.deadLetters.drop(sequence)),
  };
  // Part by part: what a queue delivers may be of a class.
  const settled = (delivery: Delivery): Delivery => ({
    id: delivery.id,
    body: delivery.body,
    deliveries: delivery.deliveries,
    orderKey: delivery.orderKey,
    lost: delivery.lost,
    complete: () => ask(() => delivery.complete()),
    handBack: () => ask(() => delivery.handBack()),
    retry: (id, delayMs) => ask(() => delivery.retry(id, delayMs)),
    deadLetter: (reason, description) => ask(() => delivery.deadLetter(reason, description)),
  });
  return {
    ...queue,
    send: (message) => ask(() => queue.send(message)),
    receive: ({ handle, ...rest }) => queue.receive({ ...rest, handle: (delivery) => handle(settled(delivery)) }),
    deadLetters,
    check: () => ask(() => queue.check()),
  };
}

const STORE_ANSWERS = [JobConflict, ImpossibleEvent, UnreadableJob, InvalidCursor, RangeError] as const;

function isStoreAnswer(error: unknown): boolean {
  return STORE_ANSWERS.some((answer) => error instanceof answer) || isAnswer(error);
}

/**
 * A store that is asked by way of its connectors, to the same contract: rows by `tables`, contents by `blobs`, where the
 * long ones are. What is listed is asked for page by page, as whoever reads it comes along. A sweep is no single request:
 * it goes through all that is old, however long that takes, and bounds each of its requests itself.
 */
export function resilientStore(
  store: JobStore,
  { tables, blobs }: { readonly tables: Connector; readonly blobs: Connector },
): JobStore {
  const isAnswer = isStoreAnswer;
  const row = <Result>(operation: () => Promise<Result>) => tables.run(operation, { isAnswer });
  const content = <Result>(operation: () => Promise<Result>) => blobs.run(operation, { isAnswer });
  async function* each<Item>(items: AsyncIterable<Item>): AsyncGenerator<Item> {
    const iterator = items[Symbol.asyncIterator]();
    try {
      for (;;) {
        const { done, value } = await row(() => iterator.next());
        if (done) return;
        yield value;
      }
    } finally {
      // One that has not answered would have this wait for it.
      iterator.return?.().catch(() => {});
    }
  }
  return {
    ...store,
    insert: (job, event) => row(() => store.insert(job, event)),
    find: (query) => row(() => store.find(query)),
    read: (ref) => row(() => store.read(ref)),
    update: (before, job, events, options) => row(() => store.update(before, job, events, options)),
    list: (query) => row(() => store.list(query)),
    sent: (ref) => row(() => store.sent(ref)),
    owed: (olderThanMs) => each(store.owed(olderThanMs)),
    owesEarlier: (job) => row(() => store.owesEarlier(job)),
    overdue: (query) => each(store.overdue(query)),
    events: (query) => each(store.events(query)),
    putContent: (ref, name, text) => content(() => store.putContent(ref, name, text)),
    content: (ref, name) => content(() => store.content(ref, name)),
    repair: (job) => row(() => store.repair(job)),
    partitions: () => each(store.partitions()),
    check: () => row(() => store.check()),
  };
}
