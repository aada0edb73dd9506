import type { Admitted } from "../auth/credentials.ts";

/**
 * Has `ended` called, once, when what the caller was let in by holds no more: the token has run out, the key has run out
 * or was revoked. Returns how to end the watch before.
 */
export type CredentialWatch = (admitted: Admitted, ended: () => void) => () => void;

/**
 * How often everything that stays open is asked. A revoked key is read within a minute, so a second more is nothing, and
 * a thousand streams and a hundred keys take less than a millisecond.
 */
const INTERVAL_MS = 1000;

/** A request is asked for its credential when it comes; this asks for those that stay, event streams and WebSockets. */
export function createCredentialWatch(stillHolds: (admitted: Admitted) => boolean): CredentialWatch {
  const open = new Map<symbol, { readonly admitted: Admitted; ended(): void }>();
  let timer: NodeJS.Timeout | undefined;

  const stop = (name: symbol) => {
    if (open.delete(name) && open.size === 0) clearInterval(timer);
  };
  const look = () => {
    for (const [name, { admitted, ended }] of open) {
      if (stillHolds(admitted)) continue;
      stop(name);
      ended();
    }
  };
  return (admitted, ended) => {
    const name = Symbol(admitted.caller.subject);
    if (open.size === 0) timer = setInterval(look, INTERVAL_MS).unref();
    open.set(name, { admitted, ended });
    return () => stop(name);
  };
}
