/** Numbers that look like chance and are the same for the same seed. */
export interface Chance {
  /** From 0 to 1. */
  next(): number;
  /** From `low` to `high`, both included. */
  whole(low: number, high: number): number;
  /** True so often, from 0 to 1. */
  happens(share: number): boolean;
  pick<Item>(items: readonly Item[]): Item | undefined;
  /** Another, which goes its own way: what draws from it changes nothing for who draws from this. */
  fork(): Chance;
}

/** Source: mulberry32, by Tommy Ettinger, in the public domain. */
export function chanceOf(seed: number): Chance {
  let state = seed | 0;
  const next = () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  return {
    next,
    whole: (low, high) => low + Math.floor(next() * (high - low + 1)),
    happens: (share) => next() < share,
    pick: (items) => items[Math.floor(next() * items.length)],
    fork: () => chanceOf(Math.floor(next() * 2 ** 32)),
  };
}
