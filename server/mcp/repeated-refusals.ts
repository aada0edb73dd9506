import type { Decision } from "../observability/audit.ts";
import { type Caller, callerKey } from "../tools/define-tool.ts";

/** A refusal that its caller can bring about as often as it likes. */
export type RepeatedRefusal = Decision & { readonly caller: Caller };

/** Time that a caller's refusals for one reason are gathered for. */
const GATHERED_MS = 10_000;

/**
 * Puts on record what may come by the thousand on one connection, so that no flood becomes one of lines: of each caller
 * and reason the first at once, and those after it every ten seconds, as one line with how many there were.
 */
export function createRepeatedRefusals(record: (refusal: RepeatedRefusal) => void): (refusal: RepeatedRefusal) => void {
  const gathered = new Map<string, { last: RepeatedRefusal; count: number }>();

  const gather = (key: string, first: RepeatedRefusal) => {
    const since = { last: first, count: 0 };
    gathered.set(key, since);
    setTimeout(() => {
      gathered.delete(key);
      const { last, count } = since;
      if (count === 0) return;
      record({ ...last, reason: `${last.reason} (${count} more in ${GATHERED_MS / 1000} s)` });
      gather(key, last);
    }, GATHERED_MS).unref();
  };

  return (refusal) => {
    const key = `${callerKey(refusal.caller)}\n${refusal.reason}`;
    const since = gathered.get(key);
    if (since !== undefined) {
      since.last = refusal;
      since.count++;
      return;
    }
    record(refusal);
    gather(key, refusal);
  };
}
