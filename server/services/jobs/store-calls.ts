import { DelegateBackoff, handleWhen, retry, TimeoutStrategy, timeout, wrap } from "cockatiel";
import { z } from "zod";

/** Makes a request of a storage service, again if it is worth it; `abortSignal` ends one try. */
export type StorageCall = <T>(request: (abortSignal: AbortSignal) => Promise<T>) => Promise<T>;

/** Longest that one try may take, unless it is said otherwise. A storage service gives up after 30 s itself. */
const TRY_TIMEOUT_MS = 10_000;
/** Longest that a call may take, tries and pauses together. */
const CALL_TIMEOUT_MS = 30_000;
/** Beyond the first try: some three seconds, in which Azure moves a partition to another server. */
const RETRIES = 5;
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5000;
/** Who is asked to come back later than that is better off with the error. */
const LONGEST_RETRY_AFTER_MS = 15_000;

/** Timed out, too many requests, and what a service or something before it answers while it cannot. */
const TRANSIENT_STATUS: ReadonlySet<number> = new Set([408, 429, 500, 502, 503, 504]);

/** As far as it is looked at: what the clients for tables and blobs both throw. */
const Failure = z.object({
  name: z.string(),
  statusCode: z.number().optional().catch(undefined),
  code: z.string().optional().catch(undefined),
  /** Tables have the code in here. */
  details: z
    .object({ odataError: z.object({ code: z.string() }) })
    .optional()
    .catch(undefined),
  response: z.object({ headers: z.custom<{ get(name: string): string | undefined }>() }).optional().catch(undefined),
});

/** A row or blob is not there; a table or container that is not there is another matter. */
export function isGone(error: unknown): boolean {
  const { status, code } = refusalOf(error);
  return status === 404 && code !== "TableNotFound" && code !== "ContainerNotFound";
}

/** A row is there already. */
export function isThere(error: unknown): boolean {
  return refusalOf(error).code === "EntityAlreadyExists";
}

/** A row is not as the condition has it. */
export function isChanged(error: unknown): boolean {
  return refusalOf(error).status === 412;
}

/** The status that a storage service refused with, and the name it has for the reason. */
export function refusalOf(error: unknown): {
  readonly status?: number | undefined;
  readonly code?: string | undefined;
} {
  const failure = Failure.safeParse(error).data;
  return { status: failure?.statusCode, code: failure?.details?.odataError.code ?? failure?.code };
}

/**
 * Calls with a bound on their time, that are made again after pauses which double and vary, or as long as `Retry-After`
 * says. The clients' own retries stay off: the one for blobs knows neither 429 nor `Retry-After`, and neither bounds a
 * try.
 */
export function createStorageCalls(tryTimeoutMs: number = TRY_TIMEOUT_MS): StorageCall {
  const again = retry(handleWhen(isTransient), {
    maxAttempts: RETRIES,
    backoff: new DelegateBackoff(({ attempt, result }) =>
      Math.max("error" in result ? retryAfterMs(result.error) : 0, pauseMs(attempt)),
    ),
  });
  const policy = wrap(timeout(CALL_TIMEOUT_MS, TimeoutStrategy.Aggressive), again);
  return (request) =>
    policy.execute(({ signal }) => request(AbortSignal.any([signal, AbortSignal.timeout(tryTimeoutMs)])));
}

/** Whether it may be different the next time: the service said so, or did not say anything. */
function isTransient(error: unknown): boolean {
  const failure = Failure.safeParse(error).data;
  if (failure === undefined) return false;
  // The only one to abort is a try's own bound.
  if (failure.name === "AbortError") return true;
  if (failure.name !== "RestError") return false;
  const silent = failure.statusCode === undefined;
  return silent || (TRANSIENT_STATUS.has(failure.statusCode ?? 0) && retryAfterMs(error) <= LONGEST_RETRY_AFTER_MS);
}

/** RFC 9110, section 10.2.3, as Azure uses it: in seconds. */
function retryAfterMs(error: unknown): number {
  const seconds = Number(Failure.safeParse(error).data?.response?.headers.get("retry-after"));
  return Number.isFinite(seconds) ? seconds * 1000 : 0;
}

/** From half of it to the whole, so that those who failed together do not come back together. */
function pauseMs(attempt: number): number {
  return Math.min(FIRST_PAUSE_MS * 2 ** (attempt - 1), LONGEST_PAUSE_MS) * (0.5 + Math.random() / 2);
}
