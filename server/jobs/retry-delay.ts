/** After the first failure; doubled with each, up to the longest. */
const FIRST_MS = 2000;
const LONGEST_MS = 5 * 60_000;

/**
 * How long to wait after so many failures: twice as long each time, and at random between half of that and all of it, so
 * that what failed together does not come back together. `random` is from 0 to 1.
 */
export function retryDelayMs(failures: number, random: () => number = Math.random): number {
  const whole = Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.max(0, failures - 1));
  return Math.round(whole * (0.5 + random() / 2));
}
