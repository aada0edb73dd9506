/** Waits between attempts, in milliseconds: twice as long each time, up to the longest. */
const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 5000;

/**
 * How long to wait before attempt `attempt + 1`: exponential, and between half and all of it by chance, so that the
 * bridges that a restart has cut off do not all come back at the same moment.
 */
export function backoff(attempt: number, { longestMs = LONGEST_WAIT_MS, random = Math.random } = {}): number {
  return Math.min(longestMs, FIRST_WAIT_MS * 2 ** Math.min(attempt, 20)) * (0.5 + random() / 2);
}

/** Resolves after `ms`, or at once when `signal` aborts. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });
}
