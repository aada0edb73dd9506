import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { z } from "zod";
import { createMetrics } from "../../server/observability/metrics.ts";
import type { Job, JobEvent } from "../../server/services/jobs/job.ts";
import type { Delivery, JobQueue } from "../../server/services/jobs/queue.ts";
import { JobConflict, type JobStore } from "../../server/services/jobs/store.ts";
import {
  type Connector,
  ConnectorUnavailable,
  createConnectors,
  FAILURES,
  FIRST_PAUSE_MS,
  resilientQueue,
  resilientStore,
} from "../../server/services/resilience.ts";
import { defineTool } from "../../server/tools/define-tool.ts";
import { fetchWithin } from "../../server/tools/upstream.ts";
import { messageIn, rpc, testApp } from "./running-app.ts";

afterEach(() => {
  vi.useRealTimers();
});

const refused = () => Promise.reject(new Error("connect ECONNREFUSED 10.0.0.4:443"));

/** As Azure's HTTP clients throw it. */
const answerOf = (statusCode: number) => Object.assign(new Error(`HTTP ${statusCode}`), { statusCode });

function setUp() {
  const metrics = createMetrics([]);
  const connectors = createConnectors((name) => metrics.connector(name));
  const metric = async (name: string, connector: string) =>
    (await metrics.registry.getSingleMetric(name)?.get())?.values.find(({ labels }) => labels.connector === connector)
      ?.value;
  return { connectors, metric };
}

async function fail(connector: Connector, times: number, operation: () => Promise<unknown> = refused) {
  for (let at = 0; at < times; at++) await connector.run(operation).catch(() => {});
}

/** Every pause is at least this, and less than its double. */
const SPREAD = 1.25;

describe("a circuit", () => {
  test("opens after a row of failures, says when to come back, lets one request through then, and closes by it", async () => {
    vi.useFakeTimers({ toFake: ["Date"] });
    const { connectors, metric } = setUp();
    const tables = connectors.of("tables");
    await fail(tables, FAILURES - 1);
    expect([tables.circuit, tables.healthy]).toEqual(["closed", false]);
    await fail(tables, 1);
    expect(tables.circuit).toBe("open");

    let asked = 0;
    const answers = async () => ++asked;
    const error = await tables.run(answers).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(ConnectorUnavailable);
    const { message, retryAfterSeconds } = error as ConnectorUnavailable;
    expect(message).toBe(
      `The table of jobs and idempotency keys does not answer at the moment; try again in ${retryAfterSeconds} seconds.`,
    );
    expect(retryAfterSeconds).toBeGreaterThanOrEqual(4);
    expect(retryAfterSeconds).toBeLessThanOrEqual(7);
    expect(asked).toBe(0);
    expect(await metric("mcp_circuit_breaker_state", "tables")).toBe(2);
    expect(connectors.details().tables).toEqual({
      ...{ circuit: "open", healthy: false, requests: FAILURES + 1, errors: FAILURES, retryAfterSeconds },
      lastError: "connect ECONNREFUSED 10.0.0.4:443",
    });

    vi.setSystemTime(Date.now() + FIRST_PAUSE_MS * SPREAD);
    const { promise, resolve } = Promise.withResolvers<string>();
    const first = tables.run(() => promise);
    const second = tables.run(answers);
    await vi.waitFor(() => expect(tables.circuit).toBe("half-open"));
    expect(await metric("mcp_circuit_breaker_state", "tables")).toBe(1);
    expect(asked).toBe(0);
    resolve("there");
    expect([await first, await second]).toEqual(["there", 1]);
    expect([tables.circuit, tables.healthy]).toEqual(["closed", true]);
    expect(await metric("mcp_circuit_breaker_state", "tables")).toBe(0);
    expect(await metric("mcp_circuit_breaker_opened_total", "tables")).toBe(1);
    expect(await metric("mcp_connector_healthy", "tables")).toBe(1);
  });

  test("that opens again stays open for longer", async () => {
    vi.useFakeTimers({ toFake: ["Date"] });
    const { connectors } = setUp();
    const tables = connectors.of("tables");
    await fail(tables, FAILURES);
    for (const least of [2, 4, 8]) {
      vi.setSystemTime(Date.now() + FIRST_PAUSE_MS * SPREAD * least);
      await fail(tables, 1);
      expect(tables.circuit).toBe("open");
      const { retryAfterSeconds = 0 } = connectors.details().tables ?? {};
      expect(retryAfterSeconds).toBeGreaterThanOrEqual((FIRST_PAUSE_MS * least * 0.75) / 1000);
    }
  });

  test("takes what fails together, as with the connection that it was under way on, for one failure", async () => {
    const { connectors } = setUp();
    const queue = connectors.of("service-bus");
    const cut = async () => {
      const { promise, reject } = Promise.withResolvers<never>();
      const underWay = Array.from({ length: 3 * FAILURES }, () => queue.run(() => promise).catch(() => {}));
      await new Promise((resolve) => setTimeout(resolve, 1));
      reject(new Error("read ECONNRESET"));
      await Promise.all(underWay);
    };
    for (let times = 1; times < FAILURES; times++) {
      await cut();
      expect(queue.circuit).toBe("closed");
    }
    expect(connectors.details()["service-bus"]).toMatchObject({ errors: 3 * FAILURES * (FAILURES - 1) });
    await cut();
    expect(queue.circuit).toBe("open");
  });

  test("of one connector is no other's", async () => {
    const { connectors } = setUp();
    await fail(connectors.of("blobs"), FAILURES);
    expect(connectors.of("blobs").circuit).toBe("open");
    expect(await connectors.of("tables").run(async () => "there")).toBe("there");
  });

  test("takes answers for answers, whatever they say, and what lets nobody in or has no time for failures", async () => {
    const { connectors, metric } = setUp();
    const tables = connectors.of("tables");
    for (const status of [404, 409, 412]) {
      await expect(tables.run(() => Promise.reject(answerOf(status)))).rejects.toMatchObject({ statusCode: status });
    }
    expect(await metric("mcp_connector_errors_total", "tables")).toBe(0);
    for (const status of [401, 403, 429, 500, 503]) await fail(tables, 1, () => Promise.reject(answerOf(status)));
    expect(await metric("mcp_connector_errors_total", "tables")).toBe(5);
    expect(tables.circuit).toBe("open");
  });

  test("is not opened by answers between failures, nor by callers who give up", async () => {
    const { connectors, metric } = setUp();
    const tables = connectors.of("tables");
    for (let at = 0; at < FAILURES; at++) {
      await fail(tables, FAILURES - 1);
      await fail(tables, 1, () => Promise.reject(answerOf(412)));
    }
    const before = await metric("mcp_connector_errors_total", "tables");
    for (let at = 0; at < FAILURES; at++) {
      const giving = new AbortController();
      const run = tables.run((signal) => once(signal, "abort").then(() => Promise.reject(signal.reason)), {
        signal: giving.signal,
      });
      giving.abort(new Error("no longer wanted"));
      await expect(run).rejects.toThrow("no longer wanted");
    }
    expect(tables.circuit).toBe("closed");
    expect(await metric("mcp_connector_errors_total", "tables")).toBe(before);
  });
});

describe("a request", () => {
  test("that is not answered ends in time, whether or not it listens", async () => {
    vi.useFakeTimers();
    const { connectors } = setUp();
    const queue = connectors.of("service-bus");
    await queue.run(async () => {});
    const late = queue.run(() => new Promise(() => {})).catch((error: unknown) => error);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(await late).toMatchObject({
      message: "The queue of jobs has not answered within 60 seconds; try again in 5 seconds.",
    });
  });

  test("finds room, waits for some, or is refused without being asked", async () => {
    const { connectors, metric } = setUp();
    const blobs = connectors.of("blobs");
    const { promise: goOn, resolve } = Promise.withResolvers<void>();
    let most = 0;
    let now = 0;
    const asked = Array.from({ length: 16 + 256 + 8 }, () =>
      blobs.run(async () => {
        most = Math.max(most, ++now);
        await goOn;
        now--;
      }),
    );
    const outcomes = Promise.allSettled(asked);
    await vi.waitFor(() => expect(now).toBe(16));
    resolve();
    const failures = (await outcomes).filter(({ status }) => status === "rejected");
    expect(failures).toHaveLength(8);
    expect(String((failures[0] as PromiseRejectedResult).reason)).toMatch(/as many requests as it is given at once/);
    expect(most).toBe(16);
    // The service has nothing to do with it.
    expect(await metric("mcp_connector_errors_total", "blobs")).toBe(0);
    expect(blobs.circuit).toBe("closed");
  });

  test("is made again where that does no harm, and an outage is not multiplied by that", async () => {
    vi.useFakeTimers();
    const { connectors } = setUp();
    const azure = connectors.of("azure");
    let tries = 0;
    const twice = () => (++tries < 2 ? refused() : Promise.resolve("there"));
    const running = azure.run(twice, { repeatable: true });
    await vi.advanceTimersByTimeAsync(20_000);
    expect([await running, tries]).toEqual(["there", 2]);
    await expect(azure.run(refused)).rejects.toThrow("ECONNREFUSED");

    // A service that fails half of the time never opens its circuit, and is asked a tenth more at most.
    let asked = 0;
    const half = () => (++asked % 2 ? refused() : Promise.resolve("there"));
    const requests = 400;
    for (let at = 0; at < requests; at++) {
      const run = azure.run(half, { repeatable: true }).catch(() => {});
      await vi.advanceTimersByTimeAsync(20_000);
      await run;
    }
    expect(asked).toBeGreaterThan(requests * 1.05);
    expect(asked).toBeLessThanOrEqual(requests * 1.1 + 10);
  });
});

test("a client that is resilient by itself is seen like the others", async () => {
  const { connectors, metric } = setUp();
  const redis = connectors.watched("redis");
  const seen = async () =>
    Promise.all(
      ["connector_healthy", "circuit_breaker_state", "circuit_breaker_opened_total", "connector_errors_total"].map(
        (name) => metric(`mcp_${name}`, "redis"),
      ),
    );
  expect(await seen()).toEqual([1, 0, 0, 0]);
  redis.failed(new Error("no answer within 100 ms"));
  redis.lost("the connection ended");
  expect(await seen()).toEqual([0, 2, 1, 1]);
  redis.answered();
  expect(await seen()).toEqual([1, 0, 1, 1]);
});

describe("queue and store of jobs behind their connectors", () => {
  const job = { id: "j", partition: "p" } as Job;
  const event = { type: "cancelled", at: "2026-11-03T10:00:00.000Z" } as JobEvent;

  test("keep their contracts: a conflict is an answer, and lists come item by item", async () => {
    const { connectors, metric } = setUp();
    const [tables, blobs] = [connectors.of("tables"), connectors.of("blobs")];
    let returned = false;
    const inner = {
      kind: "memory",
      now: () => 5,
      insert: async () => false,
      update: () => Promise.reject(new JobConflict("changed")),
      async *owed() {
        try {
          yield { partition: "p", id: "1" };
          yield { partition: "p", id: "2" };
          throw new Error("connect ECONNREFUSED");
        } finally {
          returned = true;
        }
      },
      putContent: refused,
    } as unknown as JobStore;
    const store = resilientStore(inner, { tables, blobs });
    expect([store.kind, store.now(), await store.insert(job, event)]).toEqual(["memory", 5, false]);
    for (let at = 0; at < FAILURES; at++) {
      await expect(store.update({ job, etag: "", readAt: 0, changedAt: 0 }, job, [])).rejects.toThrow(JobConflict);
    }
    expect(tables.healthy).toBe(true);

    const found: string[] = [];
    await expect(
      (async () => {
        for await (const { id } of store.owed(0)) found.push(id);
      })(),
    ).rejects.toThrow("ECONNREFUSED");
    expect(found).toEqual(["1", "2"]);
    expect(await metric("mcp_connector_errors_total", "tables")).toBe(1);
    returned = false;
    for await (const _ of store.owed(0)) break;
    expect(returned).toBe(true);

    await expect(store.putContent(job, "arguments", "")).rejects.toThrow("ECONNREFUSED");
    expect([tables.healthy, blobs.healthy]).toEqual([true, false]);
  });

  test("a lost lock is an answer, receiving is no request, and settling is one", async () => {
    const { connectors, metric } = setUp();
    const bus = connectors.of("service-bus");
    const settled: string[] = [];
    const lock = Object.assign(new Error("The lock has expired."), { code: "MessageLockLost" });
    const delivery: Delivery = {
      ...{ id: "1", body: "{}", deliveries: 1, lost: new AbortController().signal },
      complete: () => Promise.reject(lock),
      handBack: async () => {},
      retry: async (id, delayMs) => void settled.push(`${id} in ${delayMs}`),
      deadLetter: async () => {},
    };
    let handled: Promise<void> | undefined;
    const inner = {
      kind: "memory",
      receive({ handle }) {
        handled = handle(delivery);
        return { stop: async () => {} };
      },
      check: refused,
    } as Partial<JobQueue> as JobQueue;
    const queue = resilientQueue(inner, bus);
    queue.receive({
      concurrency: 1,
      async handle(received) {
        await expect(received.complete()).rejects.toBe(lock);
        await received.retry("2", 50);
      },
      onError() {},
    });
    await handled;
    expect(settled).toEqual(["2 in 50"]);
    expect(await metric("mcp_connector_requests_total", "service-bus")).toBe(2);
    expect(await metric("mcp_connector_errors_total", "service-bus")).toBe(0);
    await expect(queue.check()).rejects.toThrow("ECONNREFUSED");
    expect(bus.healthy).toBe(false);
  });
});

test("a tool whose service is down tells its caller when to come back, and is soon done with it", async () => {
  let asked = 0;
  const service = createServer((_request, response) => {
    asked++;
    response.writeHead(500).end();
  }).listen(0, "127.0.0.1");
  await once(service, "listening");
  onTestFinished(() => void service.close());
  const { port } = service.address() as AddressInfo;
  const tool = defineTool({
    ...{ name: "send", title: "Send", description: "Sends.", role: "reader" },
    input: z.object({}),
    output: z.object({ status: z.number() }),
    annotations: { readOnlyHint: false, destructiveHint: false, idempotentHint: false, openWorldHint: true },
    async run(_input, { signal, connectors }) {
      const request = { method: "POST", signal, connector: connectors.of("azure") };
      return { status: (await fetchWithin(30, `http://127.0.0.1:${port}/`, request)).status };
    },
  });
  const server = await testApp({}, [tool]);
  const call = async () => messageIn((await server.app.inject(rpc("tools/call", { name: "send" }))).body).result;
  for (let at = 0; at < FAILURES; at++) expect(await call()).toMatchObject({ structuredContent: { status: 500 } });
  const told = await call();
  expect(asked).toBe(FAILURES);
  expect(told).toMatchObject({ isError: true, structuredContent: { retryAfterSeconds: expect.any(Number) } });
  expect(JSON.stringify(told)).toMatch(/send could not do its work: The Azure service .* try again in \d seconds\./);
  const { connectors } = (await server.operator.inject("/health/detailed")).json();
  expect(connectors.azure).toMatchObject({ circuit: "open", healthy: false, errors: FAILURES, lastError: "HTTP 500" });
  // The server itself goes on.
  expect((await server.app.inject("/health/ready")).statusCode).toBe(200);
});
