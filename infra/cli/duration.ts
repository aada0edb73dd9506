import { InvalidArgumentError } from "commander";

const UNITS = { h: 60 * 60_000, d: 24 * 60 * 60_000, w: 7 * 24 * 60 * 60_000 } as const;

/** Nothing here is longer than a year; who still needs a key then has somebody to renew it. */
const LONGEST_MS = 366 * UNITS.d;

/** Milliseconds of `12h`, `90d` or `2w`; `0d` where nothing at all makes sense. */
export function duration(text: string, { least = 1 }: { least?: 0 | 1 } = {}): number {
  const [, amount, unit] = /^(\d{1,5})([hdw])$/.exec(text) ?? [];
  const ms = Number(amount) * (unit === "h" || unit === "d" || unit === "w" ? UNITS[unit] : Number.NaN);
  if (ms >= least && ms <= LONGEST_MS) return ms;
  throw new InvalidArgumentError("give hours, days or weeks such as 12h, 90d or 2w, a year at most.");
}
