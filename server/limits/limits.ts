import { hash } from "node:crypto";
import { type Config, isLoopback } from "../config.ts";
import type { Metrics } from "../observability/metrics.ts";
import type { SharedStore } from "../services/shared-store.ts";
import { createMemoryStore } from "../services/shared-store-memory.ts";
import type { Bucket, Taken } from "../services/token-bucket.ts";
import type { Caller } from "../tools/define-tool.ts";

/** Whether a request may go on, and what its caller is told of the limit. */
export interface Verdict {
  readonly allowed: boolean;
  /** Whole seconds until it is worth another try; 0 when it is allowed. */
  readonly retryAfterSeconds: number;
  /** For HTTP: `RateLimit` and `RateLimit-Policy`, and `Retry-After` when it is refused. */
  readonly headers: Readonly<Record<string, string>>;
  /** Whose limit refuses it, and of what. */
  readonly which?: "caller" | "global";
  readonly what?: "calls" | "bytes";
}

/** A call of a tool that may run, until it is released; or why it may not. Its bytes are counted by what carries them. */
export type Admission =
  | { release(): void; readonly refused?: undefined }
  | {
      readonly refused: "tool" | "caller" | "global";
      readonly what: "calls" | "concurrency";
      readonly retryAfterSeconds: number;
    };

/**
 * What keeps one caller from using up what is everybody's. Everything is counted by tenant and subject, hashed: all the
 * tokens and connections of one caller together, and no two callers'.
 */
export interface Limits {
  /** Counts a request, or the `count` messages of a batch, however it came: calls and bytes of the caller, and all calls. */
  request(caller: Caller, count?: number): Verdict | Promise<Verdict>;
  /** Counts a call of a tool that exists, in `request` or not: calls of the tool by the caller, and calls at once. */
  admit(caller: Caller, tool: string): Admission | Promise<Admission>;
  /** Charges the caller with bytes that went to and fro. What they exceed the limit by, later requests wait for. */
  moved(caller: Caller, bytes: number): void;
}

type LimitsConfig = Pick<
  Config,
  | "HOST"
  | "RATE_LIMIT_PER_MINUTE"
  | "RATE_LIMIT_TOOL_PER_MINUTE"
  | "RATE_LIMIT_GLOBAL_PER_MINUTE"
  | "RATE_LIMIT_BYTES_PER_MINUTE"
  | "CALL_CONCURRENCY"
  | "CALL_GLOBAL_CONCURRENCY"
>;

interface LimitsOptions {
  readonly config: LimitsConfig;
  readonly store: SharedStore;
  readonly metrics: Pick<Metrics, "limitExceeded">;
  /** Milliseconds that never go back, for what is counted in this process. */
  readonly clock?: () => number;
}

/** How long a limit of calls at once asks to wait: any call may end at any time. */
const CONCURRENCY_RETRY_SECONDS = 1;

const WINDOW_SECONDS = 60;
/**
 * A bucket holds a minute's worth: whoever was quiet may use it all at once, as an agent does that reads a repository,
 * and after that as fast as it fills again. So no minute has more than twice the limit, and no hour more than 1/60
 * above it.
 */
const aMinutesWorth = (limit: number): Bucket | undefined =>
  limit === 0 ? undefined : { capacity: limit, perSecond: limit / WINDOW_SECONDS };

/** A caller's names in the store. */
interface Names {
  readonly caller: string;
  readonly calls: string;
  readonly bytes: string;
  /** By tool. Kept, since a string that is put together has to be hashed anew whenever something is looked up by it. */
  readonly tools: Map<string, string>;
}
const GLOBAL = "limit:global";

const UNLIMITED: Verdict = { allowed: true, retryAfterSeconds: 0, headers: {} };
const FREE: Admission = { release() {} };

export function createLimits({ config, store, metrics, clock }: LimitsOptions): Limits {
  const calls = aMinutesWorth(config.RATE_LIMIT_PER_MINUTE);
  const ofTool = aMinutesWorth(config.RATE_LIMIT_TOOL_PER_MINUTE);
  const all = aMinutesWorth(config.RATE_LIMIT_GLOBAL_PER_MINUTE);
  const bytes = aMinutesWorth(config.RATE_LIMIT_BYTES_PER_MINUTE);
  const atOnce = config.CALL_CONCURRENCY || Number.POSITIVE_INFINITY;
  const allAtOnce = config.CALL_GLOBAL_CONCURRENCY || Number.POSITIVE_INFINITY;
  const policy = policyHeader(calls, bytes);
  /** Where no calls are counted. */
  const unlimited: Verdict = policy === "" ? UNLIMITED : { ...UNLIMITED, headers: { "ratelimit-policy": policy } };

  // What counts while Redis does not answer: in this process alone, so that each replica grants the whole limit.
  const local = createMemoryStore(clock);
  const names = new WeakMap<Caller, Names>();
  const running = new Map<string, number>();
  let runningInAll = 0;

  // Whoever sits at this machine is not kept from using it: over stdio, and over HTTP where only loopback can call.
  const openToThisMachine = isLoopback(config.HOST);
  const isFree = ({ method }: Caller) => method === "local" || (method === "none" && openToThisMachine);

  const namesOf = (caller: Caller): Names => {
    const known = names.get(caller);
    if (known !== undefined) return known;
    const id = hash("sha256", JSON.stringify([caller.tenant ?? "", caller.subject]), "hex");
    const made = { caller: id, calls: `limit:calls:${id}`, bytes: `limit:bytes:${id}`, tools: new Map() };
    names.set(caller, made);
    return made;
  };
  const toolOf = ({ caller, tools }: Names, tool: string): string => {
    const known = tools.get(tool);
    if (known !== undefined) return known;
    const made = `limit:tool:${caller}:${tool}`;
    tools.set(tool, made);
    return made;
  };

  /** Does something with the store, in the common case at once; without Redis the same with what is counted here. */
  const counted = <Result>(count: (store: SharedStore) => Result | Promise<Result>): Result | Promise<Result> => {
    if (!store.healthy) return count(local);
    const result = count(store);
    return result instanceof Promise ? result.catch(() => count(local)) : result;
  };
  const spend = (key: string, bucket: Bucket | undefined, count: number): void => {
    if (bucket === undefined) return;
    const spent = counted((each) => each.spendTokens(key, bucket, count));
    if (spent instanceof Promise) spent.catch(() => {});
  };
  const exceeded = (what: "calls" | "bytes" | "concurrency", scope: "tool" | "caller" | "global", { caller }: Names) =>
    metrics.limitExceeded(what, scope, caller);

  const request: Limits["request"] = (caller, count = 1) => {
    if (isFree(caller)) return UNLIMITED;
    const keys = namesOf(caller);
    // A batch of more than the limit has to find a full bucket, instead of never finding enough.
    const wanted = (bucket: Bucket) => Math.min(count, bucket.capacity);

    const judge = (ofCalls?: Taken, ofBytes?: Taken, ofAll?: Taken): Verdict => {
      const mayCall = ofCalls?.allowed !== false;
      const mayMove = ofBytes?.allowed !== false;
      const mayAll = ofAll?.allowed !== false;
      if (mayCall && mayMove && mayAll) return allowed(ofCalls);
      // A refused request has cost nobody anything: above all not the others, what is everybody's.
      if (ofCalls?.allowed && calls) spend(keys.calls, calls, -wanted(calls));
      if (ofAll?.allowed && all) spend(GLOBAL, all, -wanted(all));
      if (!mayCall && ofCalls && calls) return refused(keys, "caller", "calls", ofCalls, calls);
      if (!mayMove && ofBytes && bytes) return refused(keys, "caller", "bytes", ofBytes, bytes);
      return refused(keys, "global", "calls", ofAll, all);
    };
    return counted((each) => {
      const ofCalls = calls && each.takeTokens(keys.calls, calls, wanted(calls));
      // How many bytes there will be is known afterwards; until then it is enough that there is no debt.
      const ofBytes = bytes && each.takeTokens(keys.bytes, bytes, 1);
      const ofAll = all && each.takeTokens(GLOBAL, all, wanted(all));
      if (ofCalls instanceof Promise || ofBytes instanceof Promise || ofAll instanceof Promise) {
        return Promise.all([ofCalls, ofBytes, ofAll]).then((taken) => judge(...taken));
      }
      return judge(ofCalls, ofBytes, ofAll);
    });
  };

  const allowed = (taken: Taken | undefined): Verdict => {
    if (calls === undefined || taken === undefined) return unlimited;
    return {
      allowed: true,
      retryAfterSeconds: 0,
      headers: { "ratelimit-policy": policy, ratelimit: limitHeader("caller", taken, calls) },
    };
  };
  const refused = (
    keys: Names,
    which: "caller" | "global",
    what: "calls" | "bytes",
    taken: Taken | undefined,
    bucket: Bucket | undefined,
  ): Verdict => {
    exceeded(what, which, keys);
    const retryAfterSeconds = taken?.retryAfterSeconds ?? 1;
    const headers: Record<string, string> = { ...unlimited.headers, "retry-after": String(retryAfterSeconds) };
    // How much of everybody's is left says what the others do, and is nobody's business.
    if (which === "caller" && taken && bucket) {
      headers.ratelimit = limitHeader(what === "bytes" ? "bytes" : "caller", taken, bucket);
    }
    return { allowed: false, retryAfterSeconds, headers, which, what };
  };

  const admit: Limits["admit"] = (caller, tool) => {
    if (isFree(caller)) return FREE;
    const keys = namesOf(caller);
    const already = running.get(keys.caller) ?? 0;
    if (already >= atOnce || runningInAll >= allAtOnce) {
      const scope = already >= atOnce ? "caller" : "global";
      exceeded("concurrency", scope, keys);
      return { refused: scope, what: "concurrency", retryAfterSeconds: CONCURRENCY_RETRY_SECONDS };
    }
    running.set(keys.caller, already + 1);
    runningInAll++;
    const leave = () => {
      runningInAll--;
      const left = (running.get(keys.caller) ?? 1) - 1;
      if (left === 0) running.delete(keys.caller);
      else running.set(keys.caller, left);
    };
    const judge = (taken: Taken | undefined): Admission => {
      if (taken?.allowed === false) {
        leave();
        exceeded("calls", "tool", keys);
        return { refused: "tool", what: "calls", retryAfterSeconds: taken.retryAfterSeconds };
      }
      let released = false;
      return {
        release() {
          if (!released) leave();
          released = true;
        },
      };
    };
    if (ofTool === undefined) return judge(undefined);
    const taken = counted((each) => each.takeTokens(toolOf(keys, tool), ofTool, 1));
    return taken instanceof Promise ? taken.then(judge) : judge(taken);
  };

  return {
    request,
    admit,
    moved(caller, size) {
      if (size > 0 && !isFree(caller)) spend(namesOf(caller).bytes, bytes, size);
    },
  };
}

/*
 * The headers are those of draft-ietf-httpapi-ratelimit-headers-10: lists of structured fields (RFC 9651), `q` the quota
 * in `w` seconds, `r` what is left of it, `t` the seconds until all of it is there again. `qu` is the unit, requests
 * where there is none.
 */

function policyHeader(calls: Bucket | undefined, bytes: Bucket | undefined): string {
  const policies = [
    calls && `"caller";q=${calls.capacity};w=${WINDOW_SECONDS}`,
    bytes && `"bytes";q=${bytes.capacity};w=${WINDOW_SECONDS};qu="content-bytes"`,
  ].filter((each) => each !== undefined);
  return policies.join(", ");
}

function limitHeader(name: string, { remaining }: Taken, { capacity, perSecond }: Bucket): string {
  return `"${name}";r=${remaining};t=${Math.ceil((capacity - remaining) / perSecond)}`;
}
