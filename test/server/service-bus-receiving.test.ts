import { setImmediate } from "node:timers/promises";
import type { ServiceBusClient, ServiceBusReceivedMessage } from "@azure/service-bus";
import { afterEach, expect, test, vi } from "vitest";
import { receiveFromServiceBus } from "../../server/services/jobs/queue-service-bus-receiving.ts";

afterEach(() => void vi.useRealTimers());

const never = () => new Promise<never>(() => {});
const message = { messageId: "job", body: "{}", deliveryCount: 0 } as unknown as ServiceBusReceivedMessage;

/** Azure's client, each of whose receivers does as it is told at each of its receives, and never answers after that. */
function clientOf(...receivers: (() => Promise<ServiceBusReceivedMessage[]>)[][]) {
  const closed: number[] = [];
  let opened = 0;
  const client = {
    createReceiver() {
      const number = opened++;
      const receives = [...(receivers[number] ?? [])];
      return {
        receiveMessages: () => (receives.shift() ?? never)(),
        completeMessage: async () => {},
        close: async () => void closed.push(number),
      };
    },
    acceptNextSession: never,
  };
  return {
    client: async () => client as unknown as ServiceBusClient,
    during: <Result>(work: Promise<Result>) => work,
    succeeded() {},
    failed() {},
    close: async () => {},
    closed,
  };
}

test.each([
  ["when it is opened", []],
  ["while it waits", [async () => []]],
])("a receiver that never answers %s is closed, and another takes its place", async (_when, receives) => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  const connection = clientOf(receives, [async () => [message]]);
  const handled: string[] = [];
  const receiving = receiveFromServiceBus({
    place: { host: "none", queue: "jobs", orderedQueue: "ordered", credential: "emulator" },
    connection,
    now: Date.now,
    send: async () => {},
    concurrency: 1,
    async handle(delivery) {
      handled.push(delivery.id);
      await delivery.complete();
    },
    onError: () => {},
  });
  while (handled.length === 0) {
    await vi.advanceTimersByTimeAsync(1000);
    await setImmediate();
  }
  expect(handled).toEqual(["job"]);
  expect(connection.closed).toEqual([0]);
  const stopped = receiving.stop();
  await vi.advanceTimersByTimeAsync(100_000);
  await stopped;
});
