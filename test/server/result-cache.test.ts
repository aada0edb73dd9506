import { setTimeout as sleep } from "node:timers/promises";
import type { CallToolResult } from "@modelcontextprotocol/server";
import { afterAll, describe, expect, onTestFinished, test } from "vitest";
import { z } from "zod";
import type { Outcome } from "../../server/mcp/outcome.ts";
import { createResultCache } from "../../server/mcp/result-cache.ts";
import { createMetrics } from "../../server/observability/metrics.ts";
import type { SharedStore } from "../../server/services/shared-store.ts";
import { createMemoryStore } from "../../server/services/shared-store-memory.ts";
import { createRedisStore } from "../../server/services/shared-store-redis.ts";
import { openWorkspace } from "../../server/services/workspace.ts";
import { defineTool, ToolFailure } from "../../server/tools/define-tool.ts";
import { authenticate, bearer, callerNamed } from "./callers.ts";
import { noRedis, redisServer } from "./redis-server.ts";
import { messageIn, rpc, temporaryDirectory, testApp } from "./running-app.ts";
import { contextWith } from "./tool-context.ts";

const redis = noRedis === undefined ? await redisServer() : undefined;
afterAll(() => redis?.close());

const annotations = { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false };
const SECONDS = 20;
const Report = z.object({ structuredContent: z.object({ report: z.string() }) });

/** A tool that takes its time, and tells what its runs were for. */
function reportTool(run: (topic: string, subject: string) => Promise<string>, cacheSeconds = SECONDS) {
  return defineTool({
    name: "report",
    title: "Report",
    description: "Reports.",
    input: z.object({ topic: z.string(), page: z.number().optional() }),
    output: z.object({ report: z.string() }),
    annotations,
    role: "reader",
    cacheSeconds,
    run: async ({ topic }, { caller }) => ({ report: await run(topic, caller.subject) }),
  });
}

async function connected(): Promise<SharedStore> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const store = createRedisStore({
    ...{ host: "127.0.0.1", port: redis?.port ?? 0, tls: false, auth: "none", timeoutMs: 20_000 },
    onChange: (healthy) => healthy && resolve(),
  });
  onTestFinished(() => store.close());
  await promise;
  return store;
}

/** What each of the replicas keeps results in: in memory there is one. */
const subjects: [string, () => Promise<readonly SharedStore[]>][] = [["memory", async () => [createMemoryStore()]]];
if (redis !== undefined) subjects.push(["Redis", () => Promise.all([connected(), connected()])]);

let topics = 0;
/** Of no other test. */
const newTopic = () => `topic ${topics++}`;

async function caching(stores: readonly SharedStore[], run: (topic: string) => Promise<string>, cacheSeconds?: number) {
  const runs: string[] = [];
  let now = 0;
  const tool = reportTool((topic) => {
    runs.push(topic);
    return run(topic);
  }, cacheSeconds);
  const metrics = createMetrics(["report"]);
  const workspace = await openWorkspace(await temporaryDirectory(), { fileSizeLimit: 1024 });
  const caches = stores.map((store) => createResultCache({ store, metrics, clock: () => now + performance.now() }));
  const base = contextWith({ workspace });
  const ask = async (
    args: Record<string, unknown>,
    { replica = 0, caller = "one", signal = new AbortController().signal } = {},
  ) => {
    const context = { ...base, caller: callerNamed(caller), signal };
    const cache = caches[replica % caches.length] ?? expect.unreachable();
    const execute = async (): Promise<Outcome> => {
      try {
        return { status: "ok", result: await tool.respond(args, context) };
      } catch (error) {
        const status = signal.aborted ? "cancelled" : error instanceof ToolFailure ? "failed" : "broken";
        return { status, result: { content: [], isError: true } };
      }
    };
    const { status, result } = await cache.run({ tool, args, context }, execute);
    return status === "ok" ? Report.parse(result).structuredContent.report : status;
  };
  const counted = async () => {
    const values = (await metrics.registry.getSingleMetric("mcp_cache_requests_total")?.get())?.values ?? [];
    return Object.fromEntries(values.map(({ labels, value }) => [labels.outcome, value]));
  };
  const pass = (ms: number) => {
    now += ms;
  };
  return { ask, runs, counted, pass };
}

describe.each(subjects)("results in %s", (name, make) => {
  test("are given again for the same arguments, in whatever order, through whichever replica", async () => {
    const { ask, runs, counted } = await caching(await make(), async (topic) => `about ${topic}`);
    const topic = newTopic();
    for (const replica of [0, 1]) {
      expect(await ask({ topic, page: 1 }, { replica })).toBe(`about ${topic}`);
      expect(await ask({ page: 1, topic }, { replica })).toBe(`about ${topic}`);
    }
    expect(runs).toHaveLength(1);
    await ask({ topic, page: 2 });
    expect(runs).toHaveLength(2);
    expect(await counted()).toEqual({ miss: 2, hit: 3 });
  });

  test("are made once, however many ask at once", async () => {
    const { promise: goOn, resolve } = Promise.withResolvers<void>();
    const { ask, runs, counted } = await caching(await make(), async (topic) => {
      await goOn;
      return `about ${topic}`;
    });
    const topic = newTopic();
    const asked = Array.from({ length: 20 }, (_, replica) => ask({ topic }, { replica }));
    setTimeout(resolve, 60);
    expect(new Set(await Promise.all(asked))).toEqual(new Set([`about ${topic}`]));
    expect(runs).toHaveLength(1);
    expect(await counted()).toEqual({ miss: 1, wait: 19 });
  });

  test("are nobody else's: not another tenant's, another person's, a key's, nor another role's", async () => {
    const { ask, runs } = await caching(await make(), async () => `run ${runs.length}`);
    const topic = newTopic();
    const callers = ["one", "two", "neighbour", "key", "scoped-operator", "admin", "scoped-admin"];
    const first = await Promise.all(callers.map((caller) => ask({ topic }, { caller })));
    expect(runs).toHaveLength(callers.length);
    const again = await Promise.all(callers.map((caller, replica) => ask({ topic }, { caller, replica })));
    expect(again).toEqual(first);
    expect(runs).toHaveLength(callers.length);
  });

  test("that are failures are not kept, and those who waited for one have it", async () => {
    let fails = true;
    const { ask, runs } = await caching(await make(), async () => {
      await sleep(20);
      if (fails) throw new ToolFailure("Not now.");
      return "there";
    });
    const topic = newTopic();
    expect(await Promise.all([ask({ topic }), ask({ topic })])).toEqual(["failed", "failed"]);
    expect(runs).toHaveLength(1);
    fails = false;
    expect(await ask({ topic })).toBe("there");
  });

  test("do not wait for a caller who has gone", async () => {
    const going = new AbortController();
    const { ask, runs } = await caching(await make(), async () => {
      if (runs.length > 1) return "there";
      await new Promise((resolve) => going.signal.addEventListener("abort", resolve));
      throw new Error("aborted");
    });
    const topic = newTopic();
    const first = ask({ topic }, { signal: going.signal });
    await expect.poll(() => runs.length).toBe(1);
    const others = [ask({ topic }), ask({ topic }, { replica: 1 })];
    going.abort();
    expect(await first).toBe("cancelled");
    expect(await Promise.all(others)).toEqual(["there", "there"]);
    expect(runs).toHaveLength(2);
  });

  test("are made anew when their time is over", async () => {
    const seconds = name === "memory" ? 20 : 0.05;
    const { ask, runs, pass } = await caching(await make(), async () => `run ${runs.length}`, seconds);
    const topic = newTopic();
    expect(await ask({ topic })).toBe("run 1");
    pass(seconds * 1000);
    await sleep(60);
    expect(await ask({ topic })).toBe("run 2");
  });

  test("that are very long are not kept", async () => {
    const { ask, runs } = await caching(await make(), async () => "x".repeat(300_000));
    const topic = newTopic();
    await ask({ topic });
    await ask({ topic });
    expect(runs).toHaveLength(2);
  });
});

test("memory holds so much, and drops what was not asked for longest", async () => {
  const { ask, runs } = await caching([createMemoryStore()], async () => "x".repeat(120_000));
  const [often, once] = [newTopic(), newTopic()];
  await ask({ topic: often });
  await ask({ topic: once });
  // Each is there twice, as text and as structured content: 70 of them fill 16 MiB.
  for (let at = 0; at < 75; at++) {
    await ask({ topic: newTopic() });
    await ask({ topic: often });
  }
  expect(runs.filter((topic) => topic === often)).toHaveLength(1);
  await ask({ topic: once });
  expect(runs.filter((topic) => topic === once)).toHaveLength(2);
});

test.skipIf(redis === undefined)("without Redis every call is run, and none fails", async () => {
  const server = await redisServer();
  onTestFinished(() => server.close());
  const lost = Promise.withResolvers<void>();
  const there = Promise.withResolvers<void>();
  const store = createRedisStore({
    ...{ host: "127.0.0.1", port: server.port, tls: false, auth: "none" },
    onChange: (healthy) => (healthy ? there : lost).resolve(),
  });
  onTestFinished(() => store.close());
  await there.promise;
  await server.kill();
  await lost.promise;
  const { ask, runs } = await caching([store], async () => `run ${runs.length}`);
  const topic = newTopic();
  expect([await ask({ topic }), await ask({ topic })]).toEqual(["run 1", "run 2"]);
});

test("calls that are answered from the cache pass the gate, and are counted and put on record like all others", async () => {
  const seen: string[] = [];
  const tool = reportTool(async (topic, subject) => {
    seen.push(subject);
    return `${topic} of ${subject}`;
  });
  const server = await testApp({ RATE_LIMIT_TOOL_PER_MINUTE: "3" }, [tool], { authenticate });
  const call = async (caller: string) =>
    messageIn(
      (await server.app.inject(rpc("tools/call", { name: "report", arguments: { topic: "x" } }, bearer(caller)))).body,
    ).result as CallToolResult;
  const answers = [];
  for (const caller of ["one", "one", "two", "two", "one", "one"]) answers.push(await call(caller));
  const [first, , second] = answers;
  // The same person's id in two tenants.
  expect(seen).toHaveLength(2);
  expect(first?.structuredContent).toEqual(second?.structuredContent);
  expect(answers.map(({ isError }) => isError === true)).toEqual([false, false, false, false, false, true]);
  const called = server.events().filter(({ event }) => event === "tool.called");
  expect(called).toHaveLength(5);
  const { body } = await server.operator.inject("/metrics");
  expect(body).toMatch(/^mcp_cache_requests_total\{tool="report",outcome="hit"\} 3$/m);
  expect(body).toMatch(/^mcp_tool_calls_total\{tool="report",status="ok"\} 5$/m);
});

test("a tool that changes something cannot be cached", () => {
  expect(() =>
    defineTool({
      ...{ name: "note", title: "Note", description: "Notes.", role: "reader", cacheSeconds: 1 },
      input: z.object({}),
      output: z.object({}),
      annotations: { ...annotations, readOnlyHint: false },
      run: () => ({}),
    }),
  ).toThrow("note has cacheSeconds, and changes something");
});
