import { hash } from "node:crypto";
import { isIP } from "node:net";
import { setTimeout } from "node:timers/promises";
import type { TokenCredential } from "@azure/identity";
import type { WatchedConnector } from "./resilience.ts";
import { type SharedStore, StoreUnavailable } from "./shared-store.ts";
import { type Bucket, TAKE_TOKENS_SCRIPT, type Taken, taken } from "./token-bucket.ts";
import { within } from "./within.ts";

export interface RedisOptions {
  readonly host: string;
  readonly port: number;
  readonly tls: boolean;
  /** `entra`: by a token of this workload's identity. `none`: Redis asks for nothing. */
  readonly auth: "entra" | "none";
  /** Where tokens come from; by default this workload's identity in the cluster, and `az login` elsewhere. */
  readonly credential?: TokenCredential;
  /** Longest that one operation waits for an answer. Default 100: where all is well, Redis takes two or three. */
  readonly timeoutMs?: number;
  /** Told of each request, and each that failed. What else a connector does is done here: see {@link createRedisStore}. */
  readonly connector?: Pick<WatchedConnector, "requested" | "failed">;
  /** Told of each change: `reason` is why Redis does not answer, undefined when it does. */
  onChange(healthy: boolean, reason: string | undefined): void;
}

const COMMAND_TIMEOUT_MS = 100;
/** Longest that a new connection may take: TCP, TLS, a token from Entra, AUTH. */
const CONNECT_TIMEOUT_MS = 10_000;
/** Longest that Redis may take to answer before its connection is given up. */
const PROBE_TIMEOUT_MS = 2000;
/** Between a failure and the next try: doubled each time, and spread, so that replicas do not come all at once. */
const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 5000;
/** How long Redis has to have answered for the next failure to count as the first. */
const STEADY_AFTER_MS = 10_000;
/** Azure ends connections that nothing goes over for ten minutes. */
const PING_INTERVAL_MS = 60_000;

/** Marks this server's keys in a Redis that others use too. */
const PREFIX = "mcp:";
/** Nobody's; taken from to see whether Redis does what is needed of it. */
const PROBE_KEY = "probe";
const PROBE_BUCKET: Bucket = { capacity: 1, perSecond: 1 };

/**
 * Keys name callers, or are secrets for as long as they live; whoever reads Redis reads neither. The hash also spreads
 * them over the database's shards.
 */
const stored = (key: string): string => PREFIX + hash("sha256", key, "base64url");

/**
 * The store in Redis, Azure Managed Redis above all. It connects by itself, for as long as it takes; what it needs for
 * that is loaded here and nowhere else. A dead Redis costs one caller the time-out, and those after it nothing: that is the
 * circuit, which the probe closes again. Nothing is tried twice, since whoever asks can do without.
 */
export function createRedisStore({
  timeoutMs = COMMAND_TIMEOUT_MS,
  connector: watched,
  onChange,
  ...address
}: RedisOptions): SharedStore {
  let connection: Connection | undefined;
  let told: boolean | undefined;
  const ending = new AbortController();
  const { signal } = ending;

  const tell = (healthy: boolean, reason?: unknown) => {
    if (told === healthy || signal.aborted) return;
    told = healthy;
    onChange(healthy, healthy ? undefined : describe(reason));
  };

  const stayConnected = async () => {
    const open = await connector(address);
    let failures = 0;
    while (!signal.aborted) {
      let opened: Connection | undefined;
      try {
        opened = await open(signal);
        // A connection that had trouble may be over it: asked again, it answers or is given up.
        while (!signal.aborted) {
          await answered(PROBE_TIMEOUT_MS, opened.take(PROBE_KEY, PROBE_BUCKET, 0, false));
          const since = performance.now();
          connection = opened;
          tell(true);
          const reason = await opened.trouble();
          connection = undefined;
          tell(false, reason);
          failures = performance.now() - since > STEADY_AFTER_MS ? 1 : failures + 1;
          await pause(failures, signal);
        }
      } catch (error) {
        tell(false, error);
        failures++;
        await pause(failures, signal);
      } finally {
        opened?.destroy();
      }
    }
  };
  const ended = stayConnected().catch((error: unknown) => tell(false, error));

  const run = async <Result>(command: (connection: Connection) => Promise<Result>): Promise<Result> => {
    const used = connection;
    if (used === undefined) throw new StoreUnavailable("not connected");
    watched?.requested();
    try {
      return await answered(timeoutMs, command(used));
    } catch (error) {
      watched?.failed(error);
      if (connection === used) {
        // From here on nobody waits for it any more.
        connection = undefined;
        used.report(error);
      }
      throw new StoreUnavailable(describe(error), { cause: error });
    }
  };

  return {
    kind: "redis",
    get healthy() {
      return connection !== undefined;
    },
    put: (key, value, ttlSeconds) => run((redis) => redis.put(key, value, ttlSeconds)),
    get: (key) => run((redis) => redis.get(key)),
    take: (key) => run((redis) => redis.getAndDelete(key)),
    takeTokens: (key, bucket, count) => run((redis) => redis.take(key, bucket, count, false)),
    spendTokens: (key, bucket, count) => run((redis) => redis.take(key, bucket, count, true)).then(() => {}),
    async close() {
      connection = undefined;
      ending.abort();
      await ended;
    },
  };
}

interface Connection {
  put(key: string, value: string, ttlSeconds: number): Promise<void>;
  get(key: string): Promise<string | undefined>;
  getAndDelete(key: string): Promise<string | undefined>;
  take(key: string, bucket: Bucket, count: number, forced: boolean): Promise<Taken>;
  /** Resolves with the next thing that goes wrong, or has since this was last asked. */
  trouble(): Promise<unknown>;
  report(error: unknown): void;
  destroy(): void;
}

/** Loads the client, and the means to prove who we are; gives what makes a connection. */
async function connector({
  host,
  port,
  tls,
  auth,
  credential,
}: Omit<RedisOptions, "connector" | "onChange" | "timeoutMs">): Promise<(signal: AbortSignal) => Promise<Connection>> {
  const [{ createClient, defineScript }, credentials] = await Promise.all([
    import("redis"),
    auth === "entra" ? entraCredentials(credential) : undefined,
  ]);
  const takeTokens = defineScript({
    SCRIPT: TAKE_TOKENS_SCRIPT,
    NUMBER_OF_KEYS: 1,
    parseCommand(parser, key: string, { capacity, perSecond }: Bucket, count: number, forced: boolean) {
      parser.pushKey(key);
      parser.push(String(capacity), String(perSecond), String(count), forced ? "1" : "0");
    },
    transformReply: (reply: [allowed: number, tokens: string]) => reply,
  });
  const makeClient = () => {
    const common = { host, port, connectTimeout: CONNECT_TIMEOUT_MS, reconnectStrategy: false } as const;
    return createClient({
      // A connection that broke is replaced by a new client: its subscription to new tokens goes with it.
      socket: tls ? { ...common, tls: true, ...(isIP(host) === 0 && { servername: host }) } : common,
      scripts: { takeTokens },
      disableOfflineQueue: true,
      pingInterval: PING_INTERVAL_MS,
      // During its maintenance Redis is replaced by the local limit, as at any other time that it does not answer.
      maintNotifications: "disabled",
      ...(credentials && { credentialsProvider: credentials() }),
    });
  };

  return async (signal) => {
    const client = makeClient();
    let failed = Promise.withResolvers<unknown>();
    const report = (error: unknown) => failed.resolve(error);
    const destroy = () => {
      signal.removeEventListener("abort", destroy);
      client.destroy();
      report("closed");
    };
    client.on("error", report);
    client.on("end", () => report("the connection ended"));
    signal.addEventListener("abort", destroy);
    try {
      await answered(CONNECT_TIMEOUT_MS, client.connect());
    } catch (error) {
      destroy();
      throw error;
    }
    return {
      async put(key, value, ttlSeconds) {
        await client.set(stored(key), value, { expiration: { type: "PX", value: Math.ceil(ttlSeconds * 1000) } });
      },
      get: async (key) => (await client.get(stored(key))) ?? undefined,
      getAndDelete: async (key) => (await client.getDel(stored(key))) ?? undefined,
      async take(key, bucket, count, forced) {
        const [allowed, tokens] = await client.takeTokens(stored(key), bucket, count, forced);
        return taken(allowed === 1, Number(tokens), bucket, count);
      },
      async trouble() {
        const reason = await failed.promise;
        failed = Promise.withResolvers();
        return reason;
      },
      report,
      destroy,
    };
  };
}

/** How much of a token's life has passed when the next one is fetched: enough is left to try again for a while. */
const REFRESH_RATIO = 0.7;

/**
 * Tokens that are fetched anew, and sent to Redis on the connection that is open, before they end (Microsoft Learn, "Use
 * Microsoft Entra ID for cache authentication"). The user name is the identity's object id, which the library reads from
 * the token.
 */
async function entraCredentials(given: TokenCredential | undefined) {
  const [{ EntraIdCredentialsProviderFactory, REDIS_SCOPE_DEFAULT }, credential] = await Promise.all([
    import("@redis/entraid"),
    given ?? import("@azure/identity").then(({ DefaultAzureCredential }) => new DefaultAzureCredential()),
  ]);
  return () =>
    EntraIdCredentialsProviderFactory.createForDefaultAzureCredential({
      credential,
      scopes: REDIS_SCOPE_DEFAULT,
      tokenManagerConfig: {
        expirationRefreshRatio: REFRESH_RATIO,
        // Any failure may pass. When none does, Redis ends the connection with the token, and the next one says why.
        retry: {
          maxAttempts: 100,
          initialDelayMs: 1000,
          maxDelayMs: 30_000,
          backoffMultiplier: 2,
          jitterPercentage: 20,
          isRetryable: () => true,
        },
      },
      // What comes of it is seen on the connection; the library would write to standard error.
      onReAuthenticationError: () => {},
    });
}

function pause(failures: number, signal: AbortSignal): Promise<void> {
  const ms = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (failures - 1)) * (0.75 + Math.random() / 2);
  // Cut short by the end, which whoever pauses looks for next.
  return setTimeout(ms, undefined, { signal, ref: false }).catch(() => {});
}

/** The client's own time-outs are for what it has not sent yet. */
const answered = <Result>(ms: number, answer: Promise<Result>) =>
  within(ms, answer, () => new Error(`no answer within ${ms} ms`));

/** Redis's and Entra's own words, without what follows the first line. */
function describe(reason: unknown): string {
  const said = reason instanceof Error ? reason.message || reason.name : String(reason);
  return (said.split("\n")[0] ?? "").slice(0, 200);
}
