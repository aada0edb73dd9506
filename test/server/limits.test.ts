import { createHash } from "node:crypto";
import { afterAll, describe, expect, onTestFinished, test, vi } from "vitest";
import { z } from "zod";
import { LOCAL_CALLER } from "../../server/auth/authenticate.ts";
import { parseEnvironment } from "../../server/config.ts";
import { type Admission, createLimits, type Verdict } from "../../server/limits/limits.ts";
import { createRepeatedRefusals } from "../../server/mcp/repeated-refusals.ts";
import { createMetrics } from "../../server/observability/metrics.ts";
import { createMemoryStore } from "../../server/services/shared-store-memory.ts";
import { type Caller, defineTool } from "../../server/tools/define-tool.ts";
import { noRedis, redisServer } from "./redis-server.ts";
import { listening, messageIn, rpc, type TestApp, testApp } from "./running-app.ts";
import { WebSocketClientTransport, websocketUrl } from "./websocket-client.ts";

const caller = (subject: string, tenant?: string): Caller =>
  Object.freeze({ subject, method: "entra", role: "reader", ...(tenant !== undefined && { tenant }) });

const ANYONE = caller("anyone");

/** Limits of `env` over the defaults, in memory, by a clock of the test's. */
function limitsWith(env: Record<string, string>) {
  let now = 0;
  const clock = () => now;
  const metrics = createMetrics([]);
  const limits = createLimits({ config: parseEnvironment(env), store: createMemoryStore(clock), metrics, clock });
  const request = (...asked: Parameters<typeof limits.request>) => limits.request(...asked) as Verdict;
  const admit = (...asked: Parameters<typeof limits.admit>) => limits.admit(...asked) as Admission;
  /** Whether each of so many requests is let through. */
  const many = (count: number, by = ANYONE) => Array.from({ length: count }, () => request(by).allowed);
  const pass = (seconds: number) => {
    now += seconds * 1000;
  };
  return { ...limits, request, admit, many, pass, metrics };
}

const granted = (allowed: readonly boolean[]) => allowed.filter(Boolean).length;

describe("requests", () => {
  test("are let through up to the limit at once, and then as the limit allows", () => {
    const { many, pass } = limitsWith({ RATE_LIMIT_PER_MINUTE: "60" });
    expect(granted(many(100))).toBe(60);
    pass(10);
    expect(granted(many(100))).toBe(10);
    pass(3600);
    expect(granted(many(100))).toBe(60);
  });

  test("are counted by tenant and subject, whatever token they come with", () => {
    const { many } = limitsWith({ RATE_LIMIT_PER_MINUTE: "10" });
    expect(granted(many(20, caller("sam", "one")))).toBe(10);
    expect(granted(many(20, caller("sam", "one")))).toBe(0);
    expect(granted(many(20, caller("sam", "two")))).toBe(10);
    expect(granted(many(20, caller("pat", "one")))).toBe(10);
    expect(granted(many(20, caller("sam")))).toBe(10);
  });

  test("of all callers together have a limit, which one who is over their own does not use up", () => {
    const env = { RATE_LIMIT_PER_MINUTE: "10", RATE_LIMIT_GLOBAL_PER_MINUTE: "25" };
    const { many, request, pass } = limitsWith(env);
    expect(granted(many(1000, caller("greedy")))).toBe(10);
    expect(granted(many(10, caller("second")))).toBe(10);
    expect(granted(many(10, caller("third")))).toBe(5);
    expect(request(caller("fourth"))).toMatchObject({ allowed: false, which: "global", retryAfterSeconds: 3 });
    // What the third was refused for the others' sake is not counted against them.
    pass(60);
    expect(granted(many(11, caller("third")))).toBe(10);
  });

  test("in a batch count as many as they are, and a batch above the limit wants all of it", () => {
    const { request, pass } = limitsWith({ RATE_LIMIT_PER_MINUTE: "20" });
    expect(request(ANYONE, 15).allowed).toBe(true);
    expect(request(ANYONE, 15)).toMatchObject({ allowed: false, retryAfterSeconds: 30 });
    pass(45);
    expect(request(ANYONE, 100).allowed).toBe(true);
    expect(request(ANYONE).allowed).toBe(false);
  });

  test("wait until the bytes of those before them are paid for", () => {
    const { request, moved, pass } = limitsWith({ RATE_LIMIT_BYTES_PER_MINUTE: "6000" });
    moved(ANYONE, 5000);
    expect(request(ANYONE).allowed).toBe(true);
    moved(ANYONE, 2000);
    expect(request(ANYONE)).toMatchObject({ allowed: false, which: "caller", what: "bytes", retryAfterSeconds: 11 });
    expect(request(caller("other")).allowed).toBe(true);
    pass(11);
    expect(request(ANYONE).allowed).toBe(true);
    // However much it was: nobody is kept out for longer than two minutes.
    moved(ANYONE, 1e9);
    pass(61);
    expect(request(ANYONE).allowed).toBe(true);
  });

  test("tell their limit in the fields of the IETF's draft, and of others' requests nothing", () => {
    const env = {
      RATE_LIMIT_PER_MINUTE: "60",
      RATE_LIMIT_BYTES_PER_MINUTE: "6000",
      RATE_LIMIT_GLOBAL_PER_MINUTE: "61",
    };
    const { request, moved, many } = limitsWith(env);
    const policy = { "ratelimit-policy": '"caller";q=60;w=60, "bytes";q=6000;w=60;qu="content-bytes"' };
    expect(request(ANYONE).headers).toEqual({ ...policy, ratelimit: '"caller";r=59;t=1' });
    many(58);
    expect(request(ANYONE).headers).toEqual({ ...policy, ratelimit: '"caller";r=0;t=60' });
    expect(request(ANYONE).headers).toEqual({ ...policy, ratelimit: '"caller";r=0;t=60', "retry-after": "1" });
    const other = caller("other");
    moved(other, 6000);
    expect(request(other).headers).toEqual({ ...policy, ratelimit: '"bytes";r=0;t=60', "retry-after": "1" });
    request(caller("third"));
    expect(request(caller("fourth")).headers).toEqual({ ...policy, "retry-after": "1" });
  });

  test("have no limit where it is 0, and tell of none", () => {
    const off = {
      RATE_LIMIT_PER_MINUTE: "0",
      RATE_LIMIT_GLOBAL_PER_MINUTE: "0",
      RATE_LIMIT_BYTES_PER_MINUTE: "0",
      RATE_LIMIT_TOOL_PER_MINUTE: "0",
      CALL_CONCURRENCY: "0",
      CALL_GLOBAL_CONCURRENCY: "0",
    };
    const { many, moved, request, admit } = limitsWith(off);
    moved(ANYONE, 1e12);
    expect(granted(many(10_000))).toBe(10_000);
    expect(request(ANYONE).headers).toEqual({});
    for (let at = 0; at < 1000; at++) expect(admit(ANYONE, "tool").refused).toBeUndefined();
  });

  test("of this machine's own user have none", () => {
    const tight = { RATE_LIMIT_PER_MINUTE: "1", RATE_LIMIT_TOOL_PER_MINUTE: "1", CALL_CONCURRENCY: "1" };
    const anonymous: Caller = { subject: "anonymous", method: "none", role: "admin" };
    const here = limitsWith(tight);
    for (const each of [LOCAL_CALLER, anonymous]) {
      expect(granted(here.many(10, each))).toBe(10);
      for (let at = 0; at < 10; at++) expect(here.admit(each, "tool").refused).toBeUndefined();
    }
    // Beyond loopback everyone is the same nobody, and one limit holds for them all.
    const open = limitsWith({ ...tight, HOST: "0.0.0.0", ALLOW_UNAUTHENTICATED: "true" });
    expect(granted(open.many(10, anonymous))).toBe(1);
    expect(granted(open.many(10, LOCAL_CALLER))).toBe(10);
  });
});

describe("calls", () => {
  const release = (admission: Admission) => {
    if (admission.refused === undefined) admission.release();
  };

  test("of one tool have a limit for each caller", () => {
    const { admit, pass } = limitsWith({ RATE_LIMIT_TOOL_PER_MINUTE: "6" });
    for (let at = 0; at < 6; at++) release(admit(ANYONE, "search"));
    expect(admit(ANYONE, "search")).toEqual({ refused: "tool", what: "calls", retryAfterSeconds: 10 });
    expect(admit(ANYONE, "read").refused).toBeUndefined();
    expect(admit(caller("other"), "search").refused).toBeUndefined();
    pass(10);
    expect(admit(ANYONE, "search").refused).toBeUndefined();
  });

  test("at once have a limit for each caller, and one for all", () => {
    const { admit } = limitsWith({ CALL_CONCURRENCY: "3", CALL_GLOBAL_CONCURRENCY: "5" });
    const [first] = [admit(ANYONE, "a"), admit(ANYONE, "b"), admit(ANYONE, "c")];
    const again = caller("anyone");
    expect(admit(again, "d")).toEqual({ refused: "caller", what: "concurrency", retryAfterSeconds: 1 });
    admit(caller("other"), "a");
    admit(caller("other"), "a");
    expect(admit(caller("other"), "a")).toMatchObject({ refused: "global", what: "concurrency" });
    // One place, however often it is given back.
    release(first as Admission);
    release(first as Admission);
    expect(admit(again, "d").refused).toBeUndefined();
    expect(admit(again, "d").refused).toBe("caller");
    expect(admit(caller("third"), "a").refused).toBe("global");
  });

  test("that a tool's limit refuses take no place", () => {
    const { admit } = limitsWith({ RATE_LIMIT_TOOL_PER_MINUTE: "1", CALL_CONCURRENCY: "1" });
    release(admit(ANYONE, "a"));
    expect(admit(ANYONE, "a").refused).toBe("tool");
    expect(admit(ANYONE, "b").refused).toBeUndefined();
  });

  test("that are refused are counted by limit, scope and a hash of the caller, of so many callers and no more", async () => {
    const { admit, many, metrics } = limitsWith({ RATE_LIMIT_PER_MINUTE: "1", CALL_CONCURRENCY: "1" });
    admit(ANYONE, "a");
    admit(ANYONE, "a");
    for (let at = 0; at < 300; at++) many(2, caller(`subject-${at}`, "tenant"));
    const text = await metrics.registry.metrics();
    expect(text).toMatch(
      /^mcp_rate_limit_exceeded_total\{limit="concurrency",scope="caller",caller="[0-9a-f]{8}"\} 1$/m,
    );
    expect(text).toMatch(/^mcp_rate_limit_exceeded_total\{limit="calls",scope="caller",caller="other"\} 201$/m);
    expect(text).not.toMatch(/subject|tenant/);
  });
});

const KEYS = ["mcp_dev_first", "mcp_dev_second"] as const;
const withKeys = {
  AUTH_MODE: "api-key",
  API_KEY_HASHES: KEYS.map((key) => `sha256:${createHash("sha256").update(key).digest("hex")}`).join(),
};
const bearer = (key: string) => ({ authorization: `Bearer ${key}` });
const list = (key: string = KEYS[0]) => rpc("tools/list", {}, bearer(key));

/** Statuses of so many requests, one after the other. */
async function statuses({ app }: TestApp, count: number, key?: string): Promise<number[]> {
  const all: number[] = [];
  for (let at = 0; at < count; at++) all.push((await app.inject(list(key))).statusCode);
  return all;
}

const ok = (all: readonly number[]) => all.filter((status) => status === 200).length;

describe("over HTTP", () => {
  test("a caller above the limit is told so, and when to come back; others are served", async () => {
    const server = await testApp({ ...withKeys, RATE_LIMIT_PER_MINUTE: "3" });
    const first = await server.app.inject(list());
    expect(first.headers.ratelimit).toBe('"caller";r=2;t=20');
    expect(first.headers["ratelimit-policy"]).toContain('"caller";q=3;w=60');
    expect(first.headers["retry-after"]).toBeUndefined();
    expect(await statuses(server, 3)).toEqual([200, 200, 429]);

    const refused = await server.app.inject(list());
    expect(refused.statusCode).toBe(429);
    expect(refused.headers["retry-after"]).toMatch(/^(19|20)$/);
    expect(refused.headers.ratelimit).toBe('"caller";r=0;t=60');
    expect(messageIn(refused.body)).toMatchObject({
      id: null,
      error: {
        code: -32_000,
        message: expect.stringMatching(/^Too many requests: .* try again in (19|20) seconds\.$/),
      },
    });
    expect((await server.app.inject(list(KEYS[1]))).statusCode).toBe(200);
    expect(server.events()).toContainEqual(
      expect.objectContaining({ event: "request.refused", reason: "limit", limit: "calls", scope: "caller" }),
    );
  });

  test("nobody who is not a caller uses anything up, and probes have no limit", async () => {
    const server = await testApp({ ...withKeys, RATE_LIMIT_GLOBAL_PER_MINUTE: "2" });
    expect(await statuses(server, 5, "wrong")).toEqual([401, 401, 401, 401, 401]);
    expect(await statuses(server, 3)).toEqual([200, 200, 429]);
    expect((await server.app.inject("/healthz")).statusCode).toBe(200);
  });

  test("an array of messages is as many requests", async () => {
    const { app } = await testApp({ ...withKeys, RATE_LIMIT_PER_MINUTE: "10" });
    const ping = { jsonrpc: "2.0", id: 1, method: "ping" };
    const batch = (count: number) => ({ ...list(), payload: JSON.stringify(Array(count).fill(ping)) });
    const first = await app.inject(batch(8));
    expect(first.statusCode).toBe(200);
    expect(first.headers.ratelimit).toMatch(/^"caller";r=2;/);
    expect((await app.inject(batch(3))).statusCode).toBe(429);
    expect((await app.inject(list())).statusCode).toBe(200);
  });

  test("what is sent and received counts, by all ways that it comes", async () => {
    const size = 100_000;
    const tool = defineTool({
      name: "long",
      title: "Long",
      description: "Says much.",
      input: z.object({ text: z.string().optional() }),
      output: z.object({ text: z.string() }),
      annotations: { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false },
      role: "reader",
      run: ({ text }) => ({ text: text === undefined ? "x".repeat(size) : "" }),
    });
    const server = await testApp({ ...withKeys, RATE_LIMIT_BYTES_PER_MINUTE: String(2 * size) }, [tool]);
    const url = await listening(server);
    const post = async (key: string, args: object) => {
      const { headers, payload } = rpc("tools/call", { name: "long", arguments: args }, bearer(key));
      const response = await fetch(url, { method: "POST", headers, body: payload });
      await response.text();
      return response;
    };
    // The answer has it twice, as text and as an object; the request once.
    expect((await post(KEYS[0], {})).status).toBe(200);
    await expect.poll(async () => (await post(KEYS[0], { text: "" })).status).toBe(429);
    for (let at = 0; at < 2; at++) expect((await post(KEYS[1], { text: "x".repeat(size) })).status).toBe(200);
    await expect.poll(async () => (await post(KEYS[1], { text: "" })).status).toBe(429);
  });
});

describe("over WebSocket", () => {
  const refusals = (server: TestApp) =>
    server.events().filter(({ stream, event }) => stream === "audit" && event === "request.refused");

  async function open(env: Record<string, string>) {
    const server = await testApp({ ...withKeys, ...env });
    const transport = new WebSocketClientTransport(websocketUrl(await listening(server)), bearer(KEYS[0]));
    const answers: Record<string, unknown>[] = [];
    transport.onmessage = (message) => answers.push({ ...message });
    const { promise: closed, resolve } = Promise.withResolvers<number>();
    transport.socket.addEventListener("close", ({ code }) => resolve(code));
    await transport.start();
    onTestFinished(() => transport.close());
    const ping = (id: number, text = "") => {
      void transport.send({ jsonrpc: "2.0", id, method: "ping", params: { _meta: { text } } });
    };
    ping(0);
    await expect.poll(() => answers.length).toBe(1);
    return { server, answers, ping, closed };
  }

  test("a message above the limit is answered with when to come back, on a connection that stays", async () => {
    // One for the handshake, one for the first message.
    const { server, answers, ping } = await open({ RATE_LIMIT_PER_MINUTE: "4" });
    for (const id of [1, 2, 3]) ping(id);
    await expect.poll(() => answers.length).toBe(4);
    expect(answers.filter((answer) => "error" in answer)).toEqual([
      {
        jsonrpc: "2.0",
        id: 3,
        error: {
          code: -32_000,
          message: expect.stringMatching(/^Too many requests: .* try again in 1[45] seconds\.$/),
          data: { retryAfterSeconds: expect.toSatisfy((wait: number) => wait === 14 || wait === 15) },
        },
      },
    ]);
    expect(refusals(server)).toEqual([
      expect.objectContaining({
        reason: "limit:caller:calls",
        subject: expect.stringMatching(/^key:/),
        requestMethod: "ping",
        path: "/mcp/ws",
      }),
    ]);
    // The same caller over HTTP has the same limit.
    expect(await statuses(server, 1)).toEqual([429]);
  });

  test("what is sent counts", async () => {
    const { answers, ping } = await open({ RATE_LIMIT_BYTES_PER_MINUTE: "100000" });
    ping(1, "x".repeat(120_000));
    await expect.poll(() => answers.length).toBe(2);
    ping(2);
    await expect.poll(() => answers[2]?.error).toMatchObject({ message: expect.stringContaining("Too many bytes") });
  });

  test("a client that goes on and on is shown the door", async () => {
    const { server, answers, ping, closed } = await open({ RATE_LIMIT_PER_MINUTE: "2" });
    for (let id = 1; id <= 500; id++) ping(id);
    expect(await closed).toBe(1008);
    await expect.poll(() => answers.length).toBe(101);
    expect(refusals(server)).toHaveLength(1);
  });
});

test("refusals that come by the thousand are on record as a line in ten seconds for each caller and reason", () => {
  vi.useFakeTimers();
  onTestFinished(() => void vi.useRealTimers());
  const lines: string[] = [];
  const refused = createRepeatedRefusals(({ caller: { subject }, reason }) => lines.push(`${subject} ${reason}`));
  const many = (count: number, subject: string, reason = "calls") => {
    for (let at = 0; at < count; at++) refused({ decision: "refused", reason, caller: caller(subject) });
  };
  const since = (ms: number) => {
    vi.advanceTimersByTime(ms);
    return lines.splice(0);
  };
  many(1000, "sam");
  many(1, "sam", "bytes");
  many(2, "pat");
  expect(since(9999)).toEqual(["sam calls", "sam bytes", "pat calls"]);
  many(5, "sam");
  expect(since(1)).toEqual(["sam calls (1004 more in 10 s)", "pat calls (1 more in 10 s)"]);
  many(3, "sam");
  expect(since(10_000)).toEqual(["sam calls (3 more in 10 s)"]);
  // Whoever was quiet for as long is told of at once again, and nothing is kept of them.
  expect(since(10_000)).toEqual([]);
  expect(vi.getTimerCount()).toBe(0);
  many(1, "sam");
  expect(since(0)).toEqual(["sam calls"]);
});

const redis = noRedis === undefined ? await redisServer() : undefined;
afterAll(() => redis?.close());

describe.skipIf(redis === undefined)("two replicas with one Redis", () => {
  const env = () => ({
    ...withKeys,
    REDIS_HOST: "127.0.0.1",
    REDIS_PORT: String(redis?.port),
    REDIS_AUTH: "none",
    REDIS_TLS: "false",
    // One more every ten seconds, longer than any of this takes.
    RATE_LIMIT_PER_MINUTE: "6",
  });
  const isShared = async ({ operator }: TestApp) =>
    (await operator.inject("/metrics")).body.includes("\nmcp_limits_store_healthy 1\n");

  const sharing = async () => {
    const server = await testApp(env());
    await expect.poll(() => isShared(server)).toBe(true);
    return server;
  };

  // On a machine so busy that a healthy Redis takes longer than the time-out, the numbers are others.
  const timing = { retry: 2 };
  test(
    "have one limit; each has its own while Redis is gone, at once, and one again when it is back",
    timing,
    async () => {
      if (redis === undefined) return;
      const [one, other] = [await sharing(), await sharing()];

      const both = await Promise.all([statuses(one, 10), statuses(other, 10)]);
      expect(ok(both.flat())).toBe(6);

      // It hangs: the first who asks waits for the time-out, and nobody after that.
      redis.freeze();
      const started = performance.now();
      expect(ok(await statuses(one, 8))).toBe(6);
      expect(performance.now() - started).toBeLessThan(1000);
      expect(await isShared(one)).toBe(false);
      redis.thaw();
      await expect.poll(() => isShared(one)).toBe(true);
      expect(await statuses(one, 1)).toEqual([429]);

      // It dies.
      await redis.kill();
      expect(ok(await statuses(other, 8))).toBe(6);
      await expect.poll(() => isShared(one)).toBe(false);
      await redis.start();
      for (const each of [one, other]) await expect.poll(() => isShared(each)).toBe(true);
      expect(ok((await Promise.all([statuses(one, 10), statuses(other, 10)])).flat())).toBe(6);

      const changes = one.events().flatMap(({ event }) => (String(event).startsWith("redis.") ? [event] : []));
      expect(changes).toEqual(["redis.connected", "redis.lost", "redis.connected", "redis.lost", "redis.connected"]);
    },
  );

  test("hold messages over WebSocket to it as well", async () => {
    const server = await sharing();
    const url = websocketUrl(await listening(server));
    const transport = new WebSocketClientTransport(url, bearer(KEYS[1]));
    const answers: object[] = [];
    transport.onmessage = (message) => answers.push(message);
    await transport.start();
    onTestFinished(() => transport.close());
    for (let id = 0; id < 20; id++) await transport.send({ jsonrpc: "2.0", id, method: "ping" });
    await expect.poll(() => answers.length).toBe(20);
    expect(answers.filter((answer) => "result" in answer)).toHaveLength(5);
    expect(await statuses(await sharing(), 1, KEYS[1])).toEqual([429]);
  });

  test("that cannot reach it serve all the same, and say so", async () => {
    const server = await testApp({ ...env(), REDIS_PORT: "1" });
    expect(await statuses(server, 7)).toEqual([...Array(6).fill(200), 429]);
    await expect.poll(() => server.events().some(({ event }) => event === "redis.lost")).toBe(true);
    expect(await isShared(server)).toBe(false);
  });
});
