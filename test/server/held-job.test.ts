import { expect, test } from "vitest";
import { HeldJob } from "../../server/jobs/held-job.ts";
import { after, type JobEvent, type JobRef, newJobId } from "../../server/services/jobs/job.ts";
import { createMemoryStore } from "../../server/services/jobs/store-memory.ts";
import { submitted, timeOf } from "./job-histories.ts";

test("a run whose report meets a cancellation hears of it, and the report is written all the same", async () => {
  const store = createMemoryStore();
  const ref: JobRef = { partition: "tenant-contoso", id: newJobId(Date.now()) };
  const first = submitted();
  await store.insert(after(undefined, first, ref), first);
  const change = async (event: JobEvent) => {
    const stored = await store.read(ref);
    if (stored === undefined) throw new Error("it was inserted");
    return store.update(stored, after(stored.job, event, ref), [event]);
  };
  const at = timeOf(Date.now());
  const begun = await change({ type: "started", attempt: 1, worker: "w1", at });
  let cancelled = false;
  const held = new HeldJob({
    store,
    begun,
    onCancel: () => {
      cancelled = true;
    },
    onFenced: () => {},
    onWritten: () => {},
  });
  await change({ type: "cancel-requested", by: "ada", at });
  // Both make version 3 of a job that runs, by the same worker.
  await held.write((job) => ({ type: "progressed", attempt: job.attempts, progress: { progress: 1 }, at }));
  expect(cancelled).toBe(true);
  expect((await store.read(ref))?.job).toMatchObject({ version: 4, progress: { progress: 1 }, cancelRequestedAt: at });
});
