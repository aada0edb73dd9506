import { setTimeout as delay } from "node:timers/promises";
import type { FastifyBaseLogger } from "fastify";
import { type Caller, callerKey } from "../tools/define-tool.ts";
import { type Child, type ChildCommand, type ChildEvents, ChildNotStarted, startChild } from "./child.ts";

type JsonObject = Record<string, unknown>;

/** No child can be had now. The message is for the caller: it says why, and when to try again. */
export class NoChild extends Error {
  override readonly name = "NoChild";
}

export interface ChildLimits {
  /** Children at one time. */
  readonly count: number;
  /** How long a child without a call is kept. Milliseconds. */
  readonly idleMs: number;
}

/** The callers' children: one a caller, so that what one does and sees there stays its own. */
export interface Children {
  /** Children that run. */
  readonly count: number;
  /** Calls in progress. */
  readonly running: number;
  /**
   * Runs `work` with the caller's child, which is started if there is none, and kept from being reaped meanwhile.
   *
   * @param capabilities what the client can be asked for, for a child that is started for it.
   * @throws NoChild
   */
  use<T>(caller: Caller, work: (child: Child) => Promise<T>, capabilities?: JsonObject): Promise<T>;
  /**
   * Subscribes to a resource of the caller's child, and calls `changed` when that says so. It does not keep the child: the
   * next one that is started for the caller is subscribed to anew, and `changed` called, for nobody saw what happened
   * between them. Returns how to end it; rejects as the child does.
   */
  watch(caller: Caller, uri: string, changed: () => void): Promise<() => void>;
  /** Ends all of them, properly. */
  close(): Promise<void>;
  killAllNow(): void;
}

/** What children tell of their lives. */
export interface ChildrenObserver {
  started(child: Child): void;
  ended(): void;
}

/** After a child's second end in a row: a second, then twice as long each time, up to half a minute. */
const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 30_000;
/** A caller waits this long for a start; beyond it is told when to come back. */
const PATIENCE_MS = 5000;
/** A child that has lived so long was no failure, however it ended. */
const HEALTHY_MS = 60_000;

interface Entry {
  /** Whose child it is, for the log. */
  readonly subject: string;
  /** The child that calls go to, from its start on. */
  child: Promise<Child> | undefined;
  running: Child | undefined;
  /** Calls in progress, and those that wait for the start. */
  users: number;
  lastUsed: number;
  /** Ends in a row that nobody asked for. */
  failures: number;
  notBefore: number;
  reaper: NodeJS.Timeout | undefined;
}

interface Watcher {
  changed(): void;
  /** Whether a child has agreed to it. */
  begun: boolean;
}

export function createChildren(
  command: ChildCommand,
  { count: limit, idleMs }: ChildLimits,
  log: FastifyBaseLogger,
  observer: ChildrenObserver,
): Children {
  const entries = new Map<string, Entry>();
  /** Who wants to hear of which resource, by caller. */
  const watches = new Map<string, Map<string, Set<Watcher>>>();
  const alive = new Set<Child>();
  /** Children whose end was asked for. */
  const stopping = new Set<Child>();
  let closed = false;

  async function start(caller: Caller, entry: Entry, capabilities: JsonObject): Promise<Child> {
    const { subject } = caller;
    const watched = () => watches.get(callerKey(caller)) ?? new Map<string, Set<Watcher>>();
    const wait = entry.notBefore - performance.now();
    if (wait > PATIENCE_MS) {
      const seconds = Math.ceil(wait / 1000);
      throw new NoChild(`The server process ended ${entry.failures} times in a row; try again in ${seconds} seconds.`);
    }
    if (wait > 0) await delay(wait);
    if (closed) throw new NoChild("This server is shutting down; call again.");
    const started = performance.now();
    const failed = () => {
      entry.failures = performance.now() - started > HEALTHY_MS ? 1 : entry.failures + 1;
      // The first start after an end comes at once: most ends are single ones.
      const backoff = entry.failures < 2 ? 0 : Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** (entry.failures - 2));
      entry.notBefore = performance.now() + backoff * (0.5 + Math.random() / 2);
    };
    let child: Child;
    try {
      const events: ChildEvents = {
        said: (stream, line) => log.info({ event: "child.said", subject, stream, line }),
        updated: (uri) => {
          for (const { changed } of watched().get(uri) ?? []) changed();
        },
      };
      child = await startChild(command, events, capabilities);
    } catch (error) {
      failed();
      log.error({ event: "child.not-started", subject, failures: entry.failures, err: error });
      if (!(error instanceof ChildNotStarted)) throw error;
      throw new NoChild("The server process could not be started; the log has the details. Try again later.");
    }
    alive.add(child);
    entry.running = child;
    observer.started(child);
    log.info({ event: "child.started", subject, pid: child.pid, server: child.description.info.name });
    void child.ended.then((how) => {
      alive.delete(child);
      observer.ended();
      const asked = stopping.delete(child);
      if (!asked) failed();
      log[asked ? "info" : "warn"]({ event: "child.ended", subject, pid: child.pid, how });
      if (entry.running !== child) return;
      entry.running = undefined;
      entry.child = undefined;
    });
    for (const [uri, watchers] of watched()) {
      const begun = [...watchers].filter((watcher) => watcher.begun);
      // What cannot be watched any more is told once, too: it is another than before.
      if (begun.length > 0) child.request("resources/subscribe", { uri }).catch(() => {});
      for (const { changed } of begun) changed();
    }
    return child;
  }

  async function stop(entry: Entry): Promise<void> {
    clearTimeout(entry.reaper);
    const starting = entry.child;
    entry.child = undefined;
    entry.running = undefined;
    const child = await starting?.catch(() => undefined);
    if (child === undefined || !alive.has(child)) return;
    stopping.add(child);
    await child.stop();
  }

  /** The caller's entry, for which another's must go when there is no more room. */
  function entryOf(caller: Caller): Entry {
    const key = callerKey(caller);
    const known = entries.get(key);
    if (known) return known;
    if (entries.size >= limit) {
      const idle = [...entries].filter(([, { users }]) => users === 0);
      const [oldest] = idle.toSorted(([, a], [, b]) => a.lastUsed - b.lastUsed);
      if (oldest === undefined) {
        throw new NoChild(
          `${limit} callers are served at this moment, each by a process of its own, the most this server runs; ` +
            "try again later.",
        );
      }
      log.info({ event: "child.evicted", subject: oldest[1].subject });
      entries.delete(oldest[0]);
      void stop(oldest[1]);
    }
    const entry: Entry = {
      subject: caller.subject,
      child: undefined,
      running: undefined,
      users: 0,
      lastUsed: performance.now(),
      failures: 0,
      notBefore: 0,
      reaper: undefined,
    };
    entries.set(key, entry);
    return entry;
  }

  const use: Children["use"] = async (caller, work, capabilities = {}) => {
    if (closed) throw new NoChild("This server is shutting down; call again.");
    const entry = entryOf(caller);
    clearTimeout(entry.reaper);
    entry.users++;
    try {
      entry.child ??= start(caller, entry, capabilities).catch((error: unknown) => {
        entry.child = undefined;
        throw error;
      });
      const result = await work(await entry.child);
      entry.failures = 0;
      return result;
    } finally {
      entry.users--;
      entry.lastUsed = performance.now();
      if (entry.users === 0 && !closed) {
        entry.reaper = setTimeout(() => {
          // What it remembers of failures is worth keeping for as long as they hold up the next start.
          if (entry.notBefore < performance.now()) entries.delete(callerKey(caller));
          log.info({ event: "child.reaped", subject: caller.subject });
          void stop(entry);
        }, idleMs).unref();
      }
    }
  };

  return {
    get count() {
      return alive.size;
    },
    get running() {
      return [...alive].reduce((sum, { pending }) => sum + pending, 0);
    },
    use,
    async watch(caller, uri, changed) {
      const key = callerKey(caller);
      const watcher: Watcher = { changed, begun: false };
      const own = watches.get(key) ?? new Map<string, Set<Watcher>>();
      watches.set(key, own);
      const watchers = own.get(uri) ?? new Set();
      own.set(uri, watchers.add(watcher));
      const leave = () => {
        if (!watchers.delete(watcher) || watchers.size > 0) return;
        own.delete(uri);
        if (own.size === 0) watches.delete(key);
        entries
          .get(key)
          ?.running?.request("resources/unsubscribe", { uri })
          .catch(() => {});
      };
      try {
        // The first change may be told together with the answer, so the watcher is there before.
        await use(caller, (child) => child.request("resources/subscribe", { uri }));
        watcher.begun = true;
        return leave;
      } catch (error) {
        leave();
        throw error;
      }
    },
    async close() {
      closed = true;
      await Promise.all([...entries.values()].map(stop));
      await Promise.all([...alive].map((child) => child.stop()));
    },
    killAllNow() {
      closed = true;
      for (const child of alive) child.killNow();
    },
  };
}
