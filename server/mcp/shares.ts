import { type Caller, callerKey } from "../tools/define-tool.ts";

/** Room for so many things at once, of which no caller gets all. */
export interface Shares {
  /** Takes room for one; undefined when there is none left, or the caller has as much as one caller gets. */
  take(caller: Caller): (() => void) | undefined;
}

/** One caller gets a quarter: a team that shares a key has enough, and what it leaves is enough for others. */
const PARTS = 4;

/** As much of `limit` as one caller gets. Callers whom nobody authenticated are all one, and there are no others. */
export function shareOf(caller: Caller, limit: number): number {
  return caller.method === "none" || caller.method === "local" ? limit : Math.ceil(limit / PARTS);
}

export function createShares(limit: number): Shares {
  const taken = new Map<string, number>();
  let all = 0;
  return {
    take(caller) {
      const key = callerKey(caller);
      const own = taken.get(key) ?? 0;
      if (all >= limit || own >= shareOf(caller, limit)) return undefined;
      taken.set(key, own + 1);
      all++;
      let given = false;
      return () => {
        if (given) return;
        given = true;
        all--;
        const left = (taken.get(key) ?? 1) - 1;
        if (left === 0) taken.delete(key);
        else taken.set(key, left);
      };
    },
  };
}
