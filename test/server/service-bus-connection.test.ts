import { expect, onTestFinished, test, vi } from "vitest";
import { connection } from "../../server/services/jobs/service-bus-connection.ts";

function connected() {
  // Nobody listens there, and a client connects when it is asked for something.
  const opened = connection({ host: "127.0.0.1:1", queue: "a", orderedQueue: "b", credential: "emulator" }, {});
  onTestFinished(() => opened.close());
  return opened;
}

test("another client takes the place of one of which nothing has come three times in a row", async () => {
  const opened = connected();
  const first = await opened.client();
  opened.failed();
  opened.failed();
  opened.succeeded();
  opened.failed();
  opened.failed();
  expect(await opened.client()).toBe(first);
  opened.failed();
  const second = await opened.client();
  expect(second).not.toBe(first);
  expect(await opened.client()).toBe(second);
});

test("ending goes on when a client cannot be closed", async () => {
  const opened = connected();
  vi.spyOn(await opened.client(), "close").mockRejectedValue(new Error("It was cut off."));
  await opened.close();
});

test("a client that was replaced is closed when what is under way on it is over", async () => {
  const opened = connected();
  const close = vi.spyOn(await opened.client(), "close");
  const rest = Promise.withResolvers<void>();
  const during = opened.during(rest.promise);
  for (let times = 0; times < 3; times += 1) opened.failed();
  const second = vi.spyOn(await opened.client(), "close");
  expect(close).not.toHaveBeenCalled();
  rest.resolve();
  await during;
  await vi.waitFor(() => expect(close).toHaveBeenCalledOnce());
  expect(second).not.toHaveBeenCalled();
});
