import { setTimeout as delay } from "node:timers/promises";
import { describe, type TestContext, test, vi } from "vitest";
import {
  type BusOperation,
  SERVER_BUSY,
  ServiceBusDouble,
} from "../../infra/rehearsal/service-bus/service-bus-double.ts";
import type { Delivery, JobQueue, QueuedJob, Receiving } from "../../server/services/jobs/queue.ts";
import { createMemoryQueue } from "../../server/services/jobs/queue-memory.ts";
import { createServiceBusQueue } from "../../server/services/jobs/queue-service-bus.ts";

/** Short enough to be waited for, long enough for a slow machine to renew it. */
const LOCK_MS = 900;
const MAX_DELIVERY_COUNT = 3;
const WITHIN = { timeout: 8000, interval: 5 };

interface Limits {
  readonly lockMs?: number;
  readonly duplicateWindowMs?: number;
}

type Bed = Pick<TestContext, "onTestFinished">;

function memoryQueue({ onTestFinished }: Bed, limits: Limits = {}): JobQueue {
  const queue = createMemoryQueue({ lockMs: LOCK_MS, maxDeliveryCount: MAX_DELIVERY_COUNT, ...limits });
  onTestFinished(() => queue.close());
  return queue;
}

async function serviceBus({ onTestFinished }: Bed, limits: Limits = {}) {
  const { lockMs = LOCK_MS, duplicateWindowMs = 60_000 } = limits;
  const settings = { lockMs, maxDeliveryCount: MAX_DELIVERY_COUNT, duplicateWindowMs };
  const bus = await ServiceBusDouble.start({
    queues: [
      { name: "jobs", ...settings },
      { name: "ordered", requiresSession: true, ...settings },
    ],
  });
  onTestFinished(() => bus.close());
  const another = () => {
    const place = { host: bus.host, queue: "jobs", orderedQueue: "ordered", credential: "emulator" } as const;
    const queue = createServiceBusQueue(place);
    onTestFinished(() => queue.close());
    return queue;
  };
  return { bus, another, queue: another() };
}

/** Receives, and notes what came. Settles what `handle` does not. */
function receive(queue: JobQueue, options: { concurrency?: number; handle?: (delivery: Delivery) => unknown } = {}) {
  const { concurrency = 4, handle = (delivery: Delivery) => delivery.complete() } = options;
  const received: Delivery[] = [];
  const errors: unknown[] = [];
  const now = new Set<Delivery>();
  let most = 0;
  const receiving: Receiving = queue.receive({
    concurrency,
    async handle(delivery) {
      received.push(delivery);
      now.add(delivery);
      most = Math.max(most, now.size);
      try {
        await handle(delivery);
      } finally {
        now.delete(delivery);
      }
    },
    onError: (error) => errors.push(error),
  });
  return {
    received,
    errors,
    now,
    receiving,
    most: () => most,
    ids: () => received.map(({ id }) => id),
    untilReceived: (count: number) => until(() => received.length >= count),
  };
}

const until = (holds: () => boolean | Promise<boolean>) =>
  vi.waitFor(async () => {
    if (!(await holds())) throw new Error(`Not within ${WITHIN.timeout} ms: ${holds}`);
  }, WITHIN);

const job = (id: string, more: Partial<QueuedJob> = {}): QueuedJob => ({ id, body: `{"job":"${id}"}`, ...more });

async function sendAll(queue: JobQueue, jobs: readonly QueuedJob[]): Promise<void> {
  await Promise.all(jobs.map((each) => queue.send(each)));
}

/** How the two kinds of message are called in the names of tests. */
const KINDS = [
  ["a message", {}],
  ["a message with an order key", { orderKey: "k" }],
] as const;

describe.concurrent.each([
  ["in memory", async (bed: Bed, limits?: Limits) => memoryQueue(bed, limits)],
  ["on Service Bus", async (bed: Bed, limits?: Limits) => (await serviceBus(bed, limits)).queue],
])("the job queue %s", (_where, create) => {
  test.for(KINDS)("brings %s as it was sent, and once", async ([, more], { expect, onTestFinished }) => {
    const queue = await create({ onTestFinished });
    await queue.check();
    const body = JSON.stringify({ text: "čaj ☕ \u0000", nested: { "": [1] } });
    await queue.send({ id: "a", body, traceId: "0af7651916cd43dd8448eb211c80319c", ...more });
    const { received, untilReceived } = receive(queue);
    await untilReceived(1);
    await delay(50);
    expect(received).toEqual([expect.objectContaining({ id: "a", body, deliveries: 1, ...more })]);
    expect(await queue.deadLetters.list(10)).toEqual([]);
  });

  test("runs as many at once as it may, with and without order keys together", async ({ expect, onTestFinished }) => {
    const queue = await create({ onTestFinished });
    const jobs = Array.from({ length: 30 }, (_, n) => job(`${n}`, n % 2 === 0 ? {} : { orderKey: `k${n}` }));
    await sendAll(queue, jobs);
    const { untilReceived, ids, most } = receive(queue, {
      concurrency: 3,
      handle: async (delivery) => {
        await delay(10);
        await delivery.complete();
      },
    });
    await untilReceived(jobs.length);
    expect(most()).toBe(3);
    expect(new Set(ids()).size).toBe(jobs.length);
  });

  test("lets neither kind wait for the end of the other's, with a single slot", async ({ expect, onTestFinished }) => {
    const queue = await create({ onTestFinished });
    const kinds = [{}, { orderKey: "k" }];
    const jobs = Array.from({ length: 60 }, (_, n) => kinds.map((more, kind) => job(`${kind}-${n}`, more))).flat();
    await sendAll(queue, jobs);
    const { received } = receive(queue, {
      concurrency: 1,
      handle: async (delivery) => {
        await delay(25);
        await delivery.complete();
      },
    });
    await until(() => new Set(received.map(({ orderKey }) => orderKey)).size === 2);
    expect(received.length).toBeLessThan(60);
  });

  test("takes one message of an id within the window", async ({ expect, onTestFinished }) => {
    const queue = await create({ onTestFinished }, { duplicateWindowMs: 300 });
    const { untilReceived, ids } = receive(queue);
    await sendAll(queue, [job("a"), job("a"), job("b")]);
    await untilReceived(2);
    await queue.send(job("a"));
    await delay(320);
    await queue.send(job("a"));
    await untilReceived(3);
    expect(ids().sort()).toEqual(["a", "a", "b"]);
  });

  test("brings a delayed message when it is due, and others before it", async ({ expect, onTestFinished }) => {
    const queue = await create({ onTestFinished });
    const sentAt = Date.now();
    await queue.send(job("late", { delayMs: 600 }));
    await queue.send(job("now"));
    let lateAt = 0;
    const { untilReceived, ids } = receive(queue, {
      handle: async (delivery) => {
        lateAt = Date.now();
        await delivery.complete();
      },
    });
    await untilReceived(2);
    expect(ids()).toEqual(["now", "late"]);
    expect(lateAt - sentAt).toBeGreaterThanOrEqual(595);
  });

  test("brings messages of a key in order, one at a time, whatever is handed back or tried again", async ({
    expect,
    onTestFinished,
  }) => {
    const queue = await create({ onTestFinished }, { lockMs: 10_000 });
    const keys = ["x", "y", "z"];
    for (let n = 0; n < 6; n += 1)
      await sendAll(
        queue,
        keys.map((orderKey) => job(`${orderKey}${n}`, { orderKey })),
      );
    const done: string[] = [];
    const running = new Set<string | undefined>();
    let overlaps = 0;
    const tries = new Map<string, number>();
    const { most } = receive(queue, {
      concurrency: 3,
      handle: async (delivery) => {
        const { id, orderKey } = delivery;
        if (running.has(orderKey)) overlaps += 1;
        running.add(orderKey);
        await delay(5);
        running.delete(orderKey);
        const nth = (tries.get(id) ?? 0) + 1;
        tries.set(id, nth);
        if (id === "x1" && nth <= 2) return delivery.retry(`x1-${nth}`, 100);
        if (id === "y2" && nth === 1) return delivery.handBack();
        done.push(id);
        return delivery.complete();
      },
    });
    await until(() => done.length === 18);
    for (const key of keys) {
      expect(done.filter((id) => id.startsWith(key))).toEqual([0, 1, 2, 3, 4, 5].map((n) => `${key}${n}`));
    }
    expect(overlaps).toBe(0);
    expect(most()).toBeGreaterThan(1);
    // Others went on while one key waited for its retry.
    expect(done.indexOf("z5")).toBeLessThan(done.indexOf("x1"));
  });

  test.for(KINDS)("brings %s again at once that was handed back", async ([, more], { expect, onTestFinished }) => {
    const queue = await create({ onTestFinished }, { lockMs: 60_000 });
    await queue.send(job("a", more));
    const { untilReceived, ids, received } = receive(queue, {
      handle: (delivery) => (received.length === 1 ? delivery.handBack() : delivery.complete()),
    });
    await untilReceived(2);
    expect(ids()).toEqual(["a", "a"]);
  });

  test("brings a message that is to be tried again after the delay, as a new one", async ({
    expect,
    onTestFinished,
  }) => {
    const queue = await create({ onTestFinished });
    await queue.send(job("a"));
    const times: number[] = [];
    const { untilReceived, received } = receive(queue, {
      handle: (delivery) => {
        times.push(Date.now());
        return times.length === 1 ? delivery.retry("a-2", 150) : delivery.complete();
      },
    });
    await untilReceived(2);
    expect(received[1]).toMatchObject({ id: "a-2", body: received[0]?.body, deliveries: 1 });
    expect((times[1] ?? 0) - (times[0] ?? 0)).toBeGreaterThanOrEqual(145);
  });

  test("holds a delay without a slot", async ({ expect, onTestFinished }) => {
    const queue = await create({ onTestFinished });
    await queue.send(job("a", { orderKey: "k" }));
    let tries = 0;
    const { untilReceived, ids } = receive(queue, {
      concurrency: 1,
      handle: async (delivery) => {
        if (delivery.id !== "a") return delivery.complete();
        tries += 1;
        return tries === 1 ? delivery.retry("a-2", 400) : delivery.complete();
      },
    });
    await untilReceived(1);
    await sendAll(queue, [job("b"), job("c", { orderKey: "other" })]);
    await untilReceived(4);
    expect(ids().slice(1, 3).sort()).toEqual(["b", "c"]);
    expect(ids()[3]).toBe("a");
  });

  test.for(KINDS)(
    "sets %s aside with the reason, to be listed, replayed and dropped",
    async ([, more], { expect, onTestFinished }) => {
      const queue = await create({ onTestFinished });
      const first = receive(queue, {
        handle: (delivery) => delivery.deadLetter("poison", `Cannot be run: ${delivery.id}.`),
      });
      for (const id of ["a", "b", "c"]) await queue.send(job(id, more));
      await until(async () => (await queue.deadLetters.list(10)).length === 3);
      await first.receiving.stop();
      const letters = await queue.deadLetters.list(10);
      expect(letters).toEqual(
        ["a", "b", "c"].map((id) => ({
          sequence: expect.any(String),
          id,
          body: job(id).body,
          reason: "poison",
          description: `Cannot be run: ${id}.`,
          deliveries: 1,
          enqueuedAt: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/),
        })),
      );
      const [a, b] = letters.map(({ sequence }) => sequence);
      expect((await queue.deadLetters.list(2)).map(({ id }) => id)).toEqual(["a", "b"]);
      expect(await queue.deadLetters.replay(b ?? "", "b-again")).toBe(true);
      expect(await queue.deadLetters.drop(a ?? "")).toBe(true);
      expect(await queue.deadLetters.replay(b ?? "", "b-thrice")).toBe(false);
      expect(await queue.deadLetters.drop("987654")).toBe(false);
      expect((await queue.deadLetters.list(10)).map(({ id }) => id)).toEqual(["c"]);
      const { untilReceived, received } = receive(queue);
      await untilReceived(1);
      expect(received[0]).toMatchObject({ id: "b-again", body: job("b").body, deliveries: 1, ...more });
    },
  );

  test("brings again what nobody settled, when its lock has run out, and sets it aside in the end", async ({
    expect,
    onTestFinished,
  }) => {
    const queue = await create({ onTestFinished }, { lockMs: 100 });
    await queue.send(job("a"));
    await queue.send(job("b", { orderKey: "k" }));
    const { ids, received } = receive(queue, { handle: () => {} });
    await until(async () => (await queue.deadLetters.list(10)).length === 2);
    for (const id of ["a", "b"]) {
      expect(received.filter((each) => each.id === id).map(({ deliveries }) => deliveries)).toEqual([1, 2, 3]);
    }
    expect(ids().length).toBe(2 * MAX_DELIVERY_COUNT);
    const letters = await queue.deadLetters.list(10);
    expect(letters.map(({ reason }) => reason)).toEqual(["MaxDeliveryCountExceeded", "MaxDeliveryCountExceeded"]);
  });

  test("keeps messages locked for as long as they are handled", async ({ expect, onTestFinished }) => {
    const queue = await create({ onTestFinished }, { lockMs: LOCK_MS });
    await sendAll(queue, [job("a"), job("b", { orderKey: "k" })]);
    const go = Promise.withResolvers<void>();
    const { received, untilReceived, now } = receive(queue, { handle: () => go.promise });
    await untilReceived(2);
    await delay(LOCK_MS * 1.5);
    for (const { lost } of received) expect(lost.aborted).toBe(false);
    await Promise.all(received.map((delivery) => delivery.complete()));
    go.resolve();
    await until(() => now.size === 0);
    expect(await queue.deadLetters.list(10)).toEqual([]);
    expect(received.length).toBe(2);
  });

  test("receives nothing more once stopped, and what is handled can be settled", async ({ expect, onTestFinished }) => {
    const queue = await create({ onTestFinished });
    await sendAll(queue, [job("a"), job("b", { orderKey: "k" })]);
    const go = Promise.withResolvers<void>();
    const settled: Promise<void>[] = [];
    const first = receive(queue, {
      handle: async (delivery) => {
        await go.promise;
        settled.push(delivery.complete());
      },
    });
    await first.untilReceived(2);
    await first.receiving.stop();
    await sendAll(queue, [job("c"), job("d", { orderKey: "k" }), job("e", { orderKey: "other" })]);
    // Longer than a lock that nobody renews.
    await delay(LOCK_MS * 1.2);
    go.resolve();
    await until(() => first.now.size === 0);
    await Promise.all(settled);
    expect(first.ids().sort()).toEqual(["a", "b"]);
    const second = receive(queue);
    await second.untilReceived(3);
    expect(second.ids().sort()).toEqual(["c", "d", "e"]);
  });
});

describe.concurrent("the job queue on Service Bus", () => {
  test.for(KINDS)(
    "says so when the lock of %s is lost, and brings it to somebody else",
    async ([, more], { expect, onTestFinished }) => {
      const { bus, queue, another } = await serviceBus({ onTestFinished }, { lockMs: 300 });
      await queue.send(job("a", more));
      const lost = Promise.withResolvers<unknown>();
      const first = receive(queue, {
        handle: async (delivery) => {
          bus.faults = (operation) => (operation === "manage" ? SERVER_BUSY : undefined);
          delivery.lost.addEventListener("abort", () => {
            lost.resolve(delivery.complete().catch((error) => error));
          });
          await lost.promise;
        },
      });
      await first.untilReceived(1);
      const second = receive(another());
      expect(await lost.promise).toMatchObject({ message: expect.stringContaining("taken the message back") });
      await first.receiving.stop();
      await until(() => first.received.length + second.received.length > 1);
      const [again] = [...first.received.slice(1), ...second.received];
      expect(again?.id).toBe("a");
    },
  );

  test("settles what was received before the connection was cut, and goes on receiving", async ({
    expect,
    onTestFinished,
  }) => {
    const { bus, queue } = await serviceBus({ onTestFinished }, { lockMs: 2000 });
    await queue.send(job("a"));
    const go = Promise.withResolvers<void>();
    const settled = Promise.withResolvers<void>();
    const { ids, untilReceived, most } = receive(queue, {
      concurrency: 1,
      handle: async (delivery) => {
        if (delivery.id === "a") await go.promise;
        await delivery.complete().then(settled.resolve, settled.reject);
      },
    });
    await untilReceived(1);
    let isBack = false;
    bus.faults = (operation) => {
      isBack ||= operation === "attach";
      return undefined;
    };
    bus.cutConnections();
    await until(() => isBack);
    await queue.send(job("b"));
    await queue.send(job("c", { orderKey: "k" }));
    go.resolve();
    await settled.promise;
    await untilReceived(3);
    expect(ids().sort()).toEqual(["a", "b", "c"]);
    expect(most()).toBe(1);
    await until(() => bus.queue("jobs").depth().active === 0);
  });

  test("keeps the order of a key whose session was lost with the connection", async ({ expect, onTestFinished }) => {
    const { bus, queue } = await serviceBus({ onTestFinished });
    for (let n = 0; n < 4; n += 1) await queue.send(job(`k${n}`, { orderKey: "k" }));
    const done: string[] = [];
    let cuts = 0;
    receive(queue, {
      handle: async (delivery) => {
        if (delivery.id === "k1" && cuts === 0) {
          cuts += 1;
          bus.cutConnections();
          await until(() => delivery.lost.aborted === true);
          return;
        }
        await delivery.complete();
        done.push(delivery.id);
      },
    });
    await until(() => done.length === 4);
    expect(done).toEqual(["k0", "k1", "k2", "k3"]);
  });

  test("receives again when the broker is back, and brings what it kept", async ({ expect, onTestFinished }) => {
    const { bus, queue } = await serviceBus({ onTestFinished });
    const { untilReceived, ids, errors, received } = receive(queue);
    await queue.send(job("a"));
    await until(() => received.length === 1 && bus.queue("jobs").depth().active === 0);
    await bus.stop();
    await until(() => errors.length > 0);
    await expect(queue.send(job("b"))).rejects.toThrow();
    await expect(queue.check()).rejects.toThrow();
    await bus.resume();
    await queue.send(job("c"));
    await queue.send(job("d", { orderKey: "k" }));
    await untilReceived(3);
    expect(ids().sort()).toEqual(["a", "c", "d"]);
  });

  test("sends again what was throttled, and once what was not acknowledged", async ({ expect, onTestFinished }) => {
    const { bus, queue } = await serviceBus({ onTestFinished });
    const faults = [SERVER_BUSY, "cut-after"] as const;
    let sends = 0;
    bus.faults = (operation) => (operation === "send" ? faults[sends++] : undefined);
    await queue.send(job("a"));
    expect(sends).toBeGreaterThan(faults.length);
    expect(bus.queue("jobs").depth()).toMatchObject({ active: 1 });
  });

  test("loses no message while slots go from one queue to the other", async ({ expect, onTestFinished }) => {
    // Were one lost, its lock would be waited for.
    const { bus, queue } = await serviceBus({ onTestFinished }, { lockMs: 60_000 });
    const { untilReceived, received, errors } = receive(queue, { concurrency: 3 });
    for (let n = 0; n < 80; n += 1) {
      await sendAll(queue, [job(`p${n}`), job(`o${n}`, { orderKey: `k${n % 7}` })]);
    }
    await untilReceived(160);
    expect(new Set(received.map(({ id, deliveries }) => `${id} ${deliveries}`)).size).toBe(160);
    expect(received.filter(({ deliveries }) => deliveries > 1)).toEqual([]);
    expect(errors).toEqual([]);
    await until(() => bus.queue("ordered").depth().active === 0);
  });

  test("goes by the broker's clock, whatever this machine's says", async ({ expect, onTestFinished }) => {
    const { bus } = await serviceBus({ onTestFinished });
    const hourMs = 3_600_000;
    const behind = { now: () => Date.now() - hourMs, credential: "emulator" } as const;
    const queue = createServiceBusQueue({ host: bus.host, queue: "jobs", orderedQueue: "ordered", ...behind });
    onTestFinished(() => queue.close());
    await queue.send(job("a", { delayMs: hourMs + 50 }));
    await queue.send(job("b", { delayMs: 3 * hourMs }));
    const { ids, untilReceived } = receive(queue, {
      handle: (delivery) => (delivery.id === "a" ? delivery.retry("a-2", hourMs + 50) : delivery.complete()),
    });
    await untilReceived(2);
    expect(ids()).toEqual(["a", "a-2"]);
  });

  test("loses none of those that are sent together when one is throttled", async ({ expect, onTestFinished }) => {
    const { bus, queue } = await serviceBus({ onTestFinished });
    await queue.check();
    let sends = 0;
    // The first goes by itself, the second and this one together.
    bus.faults = (operation) => (operation === "send" && ++sends === 3 ? SERVER_BUSY : undefined);
    const ids = ["a", "b", "c", "d", "e"];
    await sendAll(
      queue,
      ids.map((id) => job(id)),
    );
    expect(sends).toBe(ids.length + 1);
    expect(bus.queue("jobs").depth()).toMatchObject({ active: ids.length });
  });

  test("gives back what comes while it stops once, and not from one slot to the next", async ({
    expect,
    onTestFinished,
  }) => {
    const { bus, queue, another } = await serviceBus({ onTestFinished }, { lockMs: 60_000 });
    const first = receive(queue, { concurrency: 8 });
    let attached = 0;
    bus.faults = (operation) => {
      if (operation === "attach") attached++;
      return undefined;
    };
    await until(() => attached >= 8);
    const ids = Array.from({ length: 4 }, (_, at) => `a-${at}`);
    const sent = sendAll(
      queue,
      ids.map((id) => job(id)),
    );
    await until(() => bus.queue("jobs").depth().active > 0 || first.received.length > 0);
    await Promise.all([sent, first.receiving.stop()]);
    const second = receive(another());
    await second.untilReceived(ids.length - first.received.length);
    expect([...first.ids(), ...second.ids()].toSorted()).toEqual(ids);
    for (const { deliveries } of second.received) expect(deliveries).toBeLessThanOrEqual(2);
    expect(await queue.deadLetters.list(10)).toEqual([]);
  });

  test("asks an empty queue for nothing", async ({ expect, onTestFinished }) => {
    const { bus, queue } = await serviceBus({ onTestFinished });
    const operations: BusOperation[] = [];
    bus.faults = (operation) => {
      operations.push(operation);
      return undefined;
    };
    receive(queue, { concurrency: 2 });
    await vi.waitFor(
      () => expect(operations.filter((each) => each === "attach").length).toBeGreaterThanOrEqual(4),
      WITHIN,
    );
    await delay(100);
    const before = operations.length;
    await delay(400);
    expect(operations.slice(before)).toEqual([]);
  });
});
