import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { getCACertificates, setDefaultCACertificates } from "node:tls";
import { promisify } from "node:util";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import fc from "fast-check";
import { createClient } from "redis";
import { afterAll, describe, expect, onTestFinished, test } from "vitest";
import type { SharedStore } from "../../server/services/shared-store.ts";
import { createMemoryStore } from "../../server/services/shared-store-memory.ts";
import { createRedisStore } from "../../server/services/shared-store-redis.ts";
import { type Bucket, TAKE_TOKENS_SCRIPT, takeFrom, tokensAt } from "../../server/services/token-bucket.ts";
import { noRedis, redisServer } from "./redis-server.ts";
import { temporaryDirectory } from "./running-app.ts";

/** A store, and how its time passes. */
interface Subject {
  readonly store: SharedStore;
  pass(ms: number): Promise<void>;
}

const redis = noRedis === undefined ? await redisServer() : undefined;
afterAll(() => redis?.close());

const subjects: [string, () => Promise<Subject>][] = [["memory", inMemory]];
if (redis !== undefined) subjects.push(["Redis", inRedis]);

async function inMemory(): Promise<Subject> {
  let now = 1000;
  const store = createMemoryStore(() => now);
  return {
    store,
    async pass(ms) {
      now += ms;
    },
  };
}

async function inRedis(): Promise<Subject> {
  const store = await connected();
  return { store, pass: (ms) => new Promise((resolve) => setTimeout(resolve, ms)) };
}

async function connected(port = redis?.port ?? 0): Promise<SharedStore> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const onChange = (healthy: boolean) => healthy && resolve();
  // What is tested is what Redis answers, and not how busy the machine is.
  const store = createRedisStore({ host: "127.0.0.1", port, tls: false, auth: "none", timeoutMs: 20_000, onChange });
  onTestFinished(() => store.close());
  await promise;
  return store;
}

let keys = 0;
/** A key that no other test has. */
const newKey = () => `tests ${keys++}`;

/** Fills so slowly that a test does not see it. */
const slow = (capacity: number): Bucket => ({ capacity, perSecond: capacity / 3600 });

describe.each(subjects)("the store in %s", (_name, make) => {
  test("keeps a value until it is taken, once", async () => {
    const { store } = await make();
    const key = newKey();
    await store.put(key, "first", 30);
    await store.put(key, "second", 30);
    expect(await Promise.all([store.take(key), store.take(key), store.take(key)])).toEqual([
      "second",
      undefined,
      undefined,
    ]);
    expect(await store.take(newKey())).toBeUndefined();
  });

  test("gives a value as often as it is asked for, until somebody takes it", async () => {
    const { store } = await make();
    const key = newKey();
    await store.put(key, "value", 30);
    expect(await Promise.all([store.get(key), store.get(key)])).toEqual(["value", "value"]);
    await store.take(key);
    expect(await store.get(key)).toBeUndefined();
  });

  test("forgets a value when its time is over", async () => {
    const { store, pass } = await make();
    const key = newKey();
    await store.put(key, "brief", 0.02);
    await pass(40);
    expect(await store.get(key)).toBeUndefined();
    expect(await store.take(key)).toBeUndefined();
  });

  test("gives out what a bucket holds, and says when there is more", async () => {
    const { store } = await make();
    const [key, bucket] = [newKey(), slow(10)];
    expect(await store.takeTokens(key, bucket, 4)).toEqual({ allowed: true, remaining: 6, retryAfterSeconds: 0 });
    expect(await store.takeTokens(key, bucket, 7)).toMatchObject({ allowed: false, remaining: 6 });
    expect(await store.takeTokens(key, bucket, 6)).toEqual({ allowed: true, remaining: 0, retryAfterSeconds: 0 });
    expect(await store.takeTokens(key, bucket, 1)).toEqual({ allowed: false, remaining: 0, retryAfterSeconds: 360 });
    expect(await store.takeTokens(newKey(), bucket, 10)).toMatchObject({ allowed: true });
  });

  test("fills a bucket again evenly, and never above its rim", async () => {
    const { store, pass } = await make();
    const [key, bucket] = [newKey(), { capacity: 10, perSecond: 100 }];
    await store.takeTokens(key, bucket, 10);
    await pass(30);
    expect(await store.takeTokens(key, bucket, 2)).toMatchObject({ allowed: true });
    await pass(150);
    expect(await store.takeTokens(key, bucket, 0)).toMatchObject({ remaining: 10 });
  });

  test("takes what is known only afterwards on credit, of one bucket at most, and takes some back", async () => {
    const { store } = await make();
    const [key, bucket] = [newKey(), slow(10)];
    await store.spendTokens(key, bucket, 1000);
    expect(await store.takeTokens(key, bucket, 1)).toEqual({
      allowed: false,
      remaining: 0,
      retryAfterSeconds: expect.closeTo(11 * 360, -1),
    });
    await store.spendTokens(key, bucket, -13);
    expect(await store.takeTokens(key, bucket, 1)).toMatchObject({ allowed: true, remaining: 2 });
    await store.spendTokens(key, bucket, -1000);
    expect(await store.takeTokens(key, bucket, 0)).toMatchObject({ remaining: 10 });
  });

  test("never gives out more than the bucket holds, to however many ask at once", async () => {
    const { store } = await make();
    const [key, bucket] = [newKey(), slow(25)];
    const asked = Array.from({ length: 100 }, () => store.takeTokens(key, bucket, 1));
    const granted = (await Promise.all(asked)).filter(({ allowed }) => allowed);
    expect(granted).toHaveLength(25);
  });
});

test("memory forgets what has ended, so that callers who come once do not fill it", async () => {
  setFlagsFromString("--expose-gc");
  const collect: () => void = runInNewContext("gc");
  let now = 0;
  const store = createMemoryStore(() => now);
  collect();
  const before = process.memoryUsage().heapUsed;
  for (let at = 0; at < 300_000; at++) {
    now += 1;
    store.takeTokens(`caller ${at}`, { capacity: 1, perSecond: 10 }, 1);
  }
  collect();
  // A tenth of a second's worth is remembered; all would be some 50 MB.
  expect(process.memoryUsage().heapUsed - before).toBeLessThan(25 * 1024 * 1024);
});

const steps = fc.array(
  fc.record({
    waited: fc.integer({ min: 0, max: 5000 }),
    count: fc.integer({ min: -2, max: 30 }),
    forced: fc.boolean(),
  }),
  { minLength: 1, maxLength: 25 },
);
const buckets = fc.record({
  capacity: fc.integer({ min: 1, max: 50 }),
  perSecond: fc.double({ min: 0.01, max: 100, noNaN: true }),
});

describe("a token bucket", () => {
  test("gives out no more than it holds and what has come in since, and gives that to who waits", () => {
    fc.assert(
      fc.property(buckets, steps, (bucket, taken) => {
        const level = { tokens: bucket.capacity, at: 0 };
        let [now, given] = [0, 0];
        for (const { waited, count } of taken) {
          now += waited;
          const wanted = Math.max(0, count);
          if (takeFrom(level, bucket, wanted, false, now)) given += wanted;
          expect(given).toBeLessThanOrEqual(bucket.capacity + (bucket.perSecond * now) / 1000 + 1e-6);
        }
        const rest = Math.max(0, 1 - tokensAt(level, bucket, now));
        now += (rest / bucket.perSecond) * 1000 + 1e-3;
        expect(takeFrom(level, bucket, 1, false, now)).toBe(true);
      }),
    );
  });

  test("owes no more than it can hold, whatever is taken by force", () => {
    fc.assert(
      fc.property(buckets, steps, (bucket, taken) => {
        const level = { tokens: bucket.capacity, at: 0 };
        let now = 0;
        for (const { waited, count, forced } of taken) {
          // A clock that goes back, too.
          now += waited - 1000;
          takeFrom(level, bucket, count, forced, now);
          expect(Math.abs(level.tokens)).toBeLessThanOrEqual(bucket.capacity);
        }
      }),
    );
  });

  test.skipIf(redis === undefined)(`in Redis is the same as here${noRedis ? `: ${noRedis}` : ""}`, async () => {
    const client = createClient({ socket: { host: "127.0.0.1", port: redis?.port ?? 0 } });
    await client.connect();
    onTestFinished(() => client.destroy());
    // The script as it is, but for whose clock it asks.
    const script = TAKE_TOKENS_SCRIPT.replace("redis.call('TIME')", "{ ARGV[5], ARGV[6] }");
    expect(script).not.toBe(TAKE_TOKENS_SCRIPT);
    await fc.assert(
      fc.asyncProperty(buckets, steps, async (bucket, taken) => {
        const level = { tokens: bucket.capacity, at: Number.NEGATIVE_INFINITY };
        const key = newKey();
        let micros = 1_800_000_000_000_000;
        const answers = taken.map(async ({ waited, count, forced }) => {
          micros += waited * 997;
          const [seconds, rest] = [Math.floor(micros / 1e6), micros % 1e6];
          const now = seconds * 1000 + rest / 1000;
          if (level.at === Number.NEGATIVE_INFINITY) level.at = now;
          const allowed = takeFrom(level, bucket, count, forced, now);
          const here = [allowed ? 1 : 0, tokensAt(level, bucket, now)];
          const argv = [bucket.capacity, bucket.perSecond, count, forced ? 1 : 0, seconds, rest].map(String);
          const there = await client.eval(script, { keys: [key], arguments: argv });
          return { here, there: (there as [number, string]).map(Number) };
        });
        for (const { here, there } of await Promise.all(answers)) expect(there).toEqual(here);
      }),
      { numRuns: 60 },
    );
  });
});

describe.skipIf(redis === undefined)("Redis", () => {
  test("holds what two replicas take to one limit, by a clock that is neither's", async () => {
    const [one, other] = [await connected(), await connected()];
    const [key, bucket] = [newKey(), slow(40)];
    const taken = await Promise.all(
      Array.from({ length: 100 }, (_, at) => (at % 2 === 0 ? one : other).takeTokens(key, bucket, 1)),
    );
    expect(taken.filter(({ allowed }) => allowed)).toHaveLength(40);
  });

  test("is left at once, whatever the connection is doing", async () => {
    const frozen = await redisServer();
    onTestFinished(() => frozen.close());
    const stores = [redis?.port ?? 0, frozen.port, 1].map((port) => {
      return createRedisStore({ host: "127.0.0.1", port, tls: false, auth: "none", onChange() {} });
    });
    frozen.freeze();
    await expect.poll(() => stores[0]?.healthy).toBe(true);
    await Promise.all(stores.map((store) => store.close()));
    await expect(stores[0]?.take("key")).rejects.toThrow("The shared store is not available (not connected)");
  });

  test("is told no names and no secrets, and keeps nothing for ever", async () => {
    const store = await connected();
    const key = `ticket ${newKey()}`;
    await store.put(key, "value", 30);
    await store.takeTokens(key + 1, slow(10), 1);
    const client = createClient({ socket: { host: "127.0.0.1", port: redis?.port ?? 0 } });
    await client.connect();
    onTestFinished(() => client.destroy());
    for (const name of await client.keys("mcp:*")) {
      expect(name).toMatch(/^mcp:[\w-]{43}$/);
      expect(await client.pTTL(name)).toBeGreaterThan(0);
    }
  });
});

describe.skipIf(redis === undefined)("Azure Managed Redis", () => {
  const OBJECT_ID = "5c0d5c0d-0000-4000-8000-000000000001";
  /** What Entra gives out: the library reads the identity's object id from it, and Redis takes all of it for a password. */
  const token = (number: number) =>
    ["{}", JSON.stringify({ oid: OBJECT_ID, number }), "signature"]
      .map((part) => Buffer.from(part).toString("base64url"))
      .join(".");

  test("lets in this workload's identity, over TLS, and goes on with the next token before one ends", async () => {
    const directory = await temporaryDirectory();
    const [key, certificate] = [join(directory, "key.pem"), join(directory, "certificate.pem")];
    const subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
    const made = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", key, "-out", certificate];
    await promisify(execFile)("openssl", ["req", "-x509", "-nodes", "-days", "1", ...subject, ...made]);
    const trusted = getCACertificates("default");
    setDefaultCACertificates([...trusted, await readFile(certificate, "utf8")]);
    onTestFinished(() => setDefaultCACertificates(trusted));

    const passwords = [1, 2, 3].map((number) => `>${token(number)}`);
    const server = await redisServer((port) => [
      ...["--port", "0", "--tls-port", String(port)],
      ...["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no"],
      ...["--user", "default", "off", "--user", OBJECT_ID, "on", ...passwords, "~*", "+@all"],
    ]);
    onTestFinished(() => server.close());
    const given: string[] = [];
    const credential = {
      async getToken(scope: string | string[]) {
        given.push(String(scope));
        return { token: token(given.length), expiresOnTimestamp: Date.now() + (given.length < 3 ? 300 : 3_600_000) };
      },
    };
    const { promise, resolve } = Promise.withResolvers<string | undefined>();
    const changes: boolean[] = [];
    const store = createRedisStore({
      host: "localhost",
      port: server.port,
      tls: true,
      auth: "entra",
      credential,
      timeoutMs: 20_000,
      onChange(healthy, reason) {
        changes.push(healthy);
        resolve(reason);
      },
    });
    onTestFinished(() => store.close());
    expect(await promise).toBeUndefined();
    await expect.poll(() => given.length).toBe(3);
    expect(new Set(given)).toEqual(new Set(["https://redis.azure.com/.default"]));
    await store.put("key", "value", 30);
    expect(await store.take("key")).toBe("value");
    // On one and the same connection, which has heard of both later tokens.
    expect(changes).toEqual([true]);
    const socket = { host: "localhost", port: server.port, tls: true } as const;
    const client = createClient({ socket, username: OBJECT_ID, password: token(1) });
    await client.connect();
    onTestFinished(() => client.destroy());
    expect(await client.info("commandstats")).toContain("cmdstat_auth:calls=2,");
  });
});
