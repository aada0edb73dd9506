import { setTimeout as sleep } from "node:timers/promises";
import type { Metrics } from "../observability/metrics.ts";
import { digestOf } from "../services/arguments-digest.ts";
import type { SharedStore } from "../services/shared-store.ts";
import { unlessAborted } from "../services/unless-aborted.ts";
import { callerKey, type Tool, type ToolContext } from "../tools/define-tool.ts";
import type { Outcome } from "./outcome.ts";

/** A call of a tool whose results may be given again. */
export interface CachedCall {
  readonly tool: Tool;
  readonly args: unknown;
  readonly context: ToolContext;
}

/**
 * Gives results again for as long as their tools say: in memory, or in Redis where replicas share one. Of calls for the
 * same thing that come while there is no result, one runs and the others wait for it. A result is its caller's own, as is
 * what the caller may see; failures are never kept.
 */
export interface ResultCache {
  run(call: CachedCall, execute: () => Promise<Outcome>): Promise<Outcome>;
}

interface ResultCacheOptions {
  readonly store: SharedStore;
  readonly metrics: Pick<Metrics, "cacheRequested">;
  /** Milliseconds that never go back. */
  readonly clock?: () => number;
}

/** Characters of one result that is worth keeping, and of all that are kept in memory. */
const RESULT_LENGTH = 256 * 1024;
const MEMORY_LENGTH = 16 * 1024 * 1024;
/**
 * How long one replica has the others wait for a result that it makes. What takes longer is made by more than one, so
 * that the end of a replica holds up nobody for long.
 */
const LOCK_SECONDS = 10;
/** A bucket of one token: whoever takes it is the one to run, until it is given back, or has come back by itself. */
const LOCK = { capacity: 1, perSecond: 1 / LOCK_SECONDS };
/** Between two looks for a result that another replica makes: half as much again each time up to the longest. */
const FIRST_LOOK_MS = 20;
const LONGEST_LOOK_MS = 500;

/** Where results are. Whatever it cannot do is as if there were none. */
interface Place {
  get(key: string): Promise<string | undefined>;
  put(key: string, text: string, seconds: number): Promise<void>;
  /** Whether the result is this process's to make. */
  lock(key: string): Promise<boolean>;
  unlock(key: string): Promise<void>;
}

export function createResultCache({
  store,
  metrics,
  clock = () => performance.now(),
}: ResultCacheOptions): ResultCache {
  const place = store.kind === "memory" ? inMemory(clock) : inStore(store);
  /** What this process makes, or waits for, now. */
  const flights = new Map<string, Promise<Outcome>>();

  /** Whatever comes first: a result that is there, one that another replica has made, or our own. */
  const fetch = async (
    { tool, context }: CachedCall,
    key: string,
    seconds: number,
    execute: () => Promise<Outcome>,
  ): Promise<Outcome> => {
    const until = clock() + LOCK_SECONDS * 1000;
    let mine = false;
    for (let waited = false, look = FIRST_LOOK_MS; ; ) {
      const text = await place.get(key);
      if (text !== undefined) {
        if (mine) await place.unlock(key);
        metrics.cacheRequested(tool.name, waited ? "wait" : "hit");
        // As it was written, here or by another replica.
        return JSON.parse(text) as Outcome;
      }
      if (mine || clock() >= until || context.signal.aborted) break;
      mine = await place.lock(key);
      // Who had it before may have left a result since.
      if (mine) continue;
      waited = true;
      await sleep(look, undefined, { signal: context.signal }).catch(() => {});
      look = Math.min(LONGEST_LOOK_MS, look * 1.5);
    }
    metrics.cacheRequested(tool.name, "miss");
    try {
      const outcome = await execute();
      const text = isResult(outcome) ? JSON.stringify(outcome) : "";
      if (text !== "" && text.length <= RESULT_LENGTH) await place.put(key, text, seconds);
      return outcome;
    } finally {
      if (mine) await place.unlock(key);
    }
  };

  return {
    async run(call, execute) {
      const { tool, args, context } = call;
      const { cacheSeconds = 0 } = tool;
      const key = keyOf(tool, args, context);
      for (;;) {
        const flight = flights.get(key);
        if (flight === undefined) break;
        // One that its own caller has given up says nothing to anybody else; nor does a fault.
        const outcome = await unlessAborted(flight, context.signal);
        if (context.signal.aborted) return execute();
        if (outcome?.status !== "ok" && outcome?.status !== "failed") continue;
        metrics.cacheRequested(tool.name, "wait");
        return outcome;
      }
      const flight = fetch(call, key, cacheSeconds, execute);
      flights.set(key, flight);
      try {
        return await flight;
      } finally {
        flights.delete(key);
      }
    },
  };
}

/** A tool, what it is asked, and everything by which a caller may see something else than another. */
function keyOf(tool: Tool, args: unknown, { caller, workspace }: ToolContext): string {
  const { role, scopedRole, keyId, client } = caller;
  return JSON.stringify([
    "result",
    tool.name,
    digestOf(args),
    callerKey(caller),
    role,
    scopedRole,
    keyId,
    client,
    workspace.root,
  ]);
}

function isResult({ status, result }: Outcome): boolean {
  return status === "ok" && result !== undefined && "content" in result && result.isError !== true;
}

/** Bounded: what was used longest ago goes first. There is no other process to be kept from making the same. */
function inMemory(clock: () => number): Place {
  /** The newest use last. */
  const results = new Map<string, { readonly text: string; readonly expires: number }>();
  let length = 0;
  const drop = (key: string) => {
    length -= results.get(key)?.text.length ?? 0;
    results.delete(key);
  };
  return {
    async get(key) {
      const result = results.get(key);
      if (result === undefined) return undefined;
      if (result.expires <= clock()) {
        drop(key);
        return undefined;
      }
      results.delete(key);
      results.set(key, result);
      return result.text;
    },
    async put(key, text, seconds) {
      drop(key);
      results.set(key, { text, expires: clock() + seconds * 1000 });
      length += text.length;
      for (const oldest of results.keys()) {
        if (length <= MEMORY_LENGTH) break;
        drop(oldest);
      }
    },
    lock: async () => true,
    unlock: async () => {},
  };
}

/** A store that does not answer costs the calls their cache, and nothing else. */
function inStore(store: SharedStore): Place {
  const lockOf = (key: string) => `making ${key}`;
  return {
    get: (key) => store.get(key).catch(() => undefined),
    put: (key, text, seconds) => store.put(key, text, seconds).catch(() => {}),
    async lock(key) {
      try {
        return (await store.takeTokens(lockOf(key), LOCK, 1)).allowed;
      } catch {
        return true;
      }
    },
    async unlock(key) {
      try {
        await store.spendTokens(lockOf(key), LOCK, -1);
      } catch {
        // It comes back by itself.
      }
    },
  };
}
