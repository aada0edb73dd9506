import { setTimeout as delay } from "node:timers/promises";
import { AzureNamedKeyCredential, TableClient } from "@azure/data-tables";
import { ContainerClient, StorageSharedKeyCredential } from "@azure/storage-blob";
import fc from "fast-check";
import { afterAll, afterEach, describe, expect, type TestContext, test, vi } from "vitest";
import { Azurite } from "../../infra/rehearsal/azurite.ts";
import { EMULATOR_ACCOUNT } from "../../server/services/jobs/emulator-account.ts";
import {
  type Job,
  type JobEvent,
  type JobRef,
  type JobState,
  after as jobAfter,
  newJobId,
} from "../../server/services/jobs/job.ts";
import { compare, rebuild } from "../../server/services/jobs/replay.ts";
import {
  InvalidCursor,
  JobConflict,
  type JobStore,
  type StoredJob,
  UnreadableJob,
} from "../../server/services/jobs/store.ts";
import { createAzureStore } from "../../server/services/jobs/store-azure.ts";
import { createServiceClock } from "../../server/services/jobs/store-clock.ts";
import { createMemoryStore } from "../../server/services/jobs/store-memory.ts";
import { histories, submitted, timeOf } from "../server/job-histories.ts";
import { type FaultProxy, startFaultProxy } from "./fault-proxy.ts";

const CONTAINER = "jobs";
const azurite = await Azurite.start();
afterAll(() => azurite.close());
await azurite.createContainer(CONTAINER);

let tables = 0;
/** A table that no other test has. */
async function newTable(): Promise<string> {
  const table = `jobs${tables++}`;
  await azurite.createTable(table);
  return table;
}

const azureStore = (table: string, { tableEndpoint, blobEndpoint, tryTimeoutMs }: Partial<Ends> = {}): JobStore =>
  createAzureStore({
    tableEndpoint: tableEndpoint ?? azurite.tableEndpoint,
    table,
    blobEndpoint: blobEndpoint ?? azurite.blobEndpoint,
    container: CONTAINER,
    auth: "emulator",
    ...(tryTimeoutMs !== undefined && { tryTimeoutMs }),
  });
interface Ends {
  readonly tableEndpoint: string;
  readonly blobEndpoint: string;
  readonly tryTimeoutMs: number;
}

const credential = new AzureNamedKeyCredential(EMULATOR_ACCOUNT.name, EMULATOR_ACCOUNT.key);
/** The table as somebody with a mouse has it. */
const byHand = (table: string) =>
  new TableClient(azurite.tableEndpoint, table, credential, { allowInsecureConnection: true });

const PARTITION = "tenant-contoso";
const OWNER = "a".repeat(32);

interface Made {
  readonly ref: JobRef;
  readonly job: Job;
  readonly event: JobEvent;
}
/** A job to be submitted. */
function newJob({ at = Date.now(), owner = OWNER, partition = PARTITION, id = newJobId(at) } = {}): Made {
  const ref = { partition, id };
  const event = submitted({ at: timeOf(at), owner });
  return { ref, event, job: jobAfter(undefined, event, ref) };
}

async function inserted(store: JobStore, job: Made = newJob()): Promise<StoredJob> {
  expect(await store.insert(job.job, job.event)).toBe(true);
  return found(await store.read(job.ref));
}

function found<T>(value: T | undefined): T {
  if (value === undefined) throw new Error("It is not there.");
  return value;
}

/** Has that happen. */
async function happen(store: JobStore, before: StoredJob, ...events: JobEvent[]): Promise<StoredJob> {
  const { partition, id } = before.job;
  const job = events.reduce((so, event) => jobAfter(so, event, { partition, id }), before.job);
  return store.update(before, job, events);
}

const at = timeOf(Date.now());
const started = (attempt: number, worker = "worker"): JobEvent => ({ type: "started", attempt, worker, at });
const completed = (attempt: number): JobEvent => ({ type: "completed", attempt, outcome: "succeeded", at });
const refOf = ({ partition, id }: Job): JobRef => ({ partition, id });

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const seen: T[] = [];
  for await (const item of items) seen.push(item);
  return seen;
}

/** What happened to a job. */
const told = async (store: JobStore, ref: JobRef) => (await all(store.events({ ref }))).map(({ event }) => event.type);

const subjects: [string, () => Promise<JobStore>][] = [
  ["memory", async () => createMemoryStore()],
  ["Azure storage", async () => azureStore(await newTable())],
];

describe.each(subjects)("jobs in %s", (_name, newStore) => {
  test("are kept once, whoever submits them at the same time", async () => {
    const store = await newStore();
    const id = newJobId(Date.now());
    const rivals = Array.from({ length: 6 }, (_, n) => newJob({ id, owner: String(n).repeat(32) }));
    const results = await Promise.all(rivals.map(({ job, event }) => store.insert(job, event)));
    expect(results.filter((won) => won)).toHaveLength(1);
    const kept = found(await store.read({ partition: PARTITION, id }));
    expect(kept.job).toEqual(rivals[results.indexOf(true)]?.job);
    expect(await told(store, { partition: PARTITION, id })).toEqual(["submitted"]);
    const listed = await Promise.all(
      rivals.map(({ job: { owner } }) => store.list({ partition: PARTITION, owner, limit: 9 })),
    );
    expect(listed.flatMap(({ jobs }) => jobs)).toEqual([kept.job]);
  });

  test("with an idempotency key are kept once of each owner, found by it, and forgotten with it", async () => {
    const store = await newStore();
    const keyed = (owner: string) => {
      const { ref, event } = newJob({ owner, at: Date.now() - 60_000 });
      const named = { ...event, idempotencyKey: "nightly / 1" } as JobEvent;
      return { ref, event: named, job: jobAfter(undefined, named, ref) };
    };
    const rivals = Array.from({ length: 4 }, () => keyed(OWNER));
    const won = await Promise.all(rivals.map(({ job, event }) => store.insert(job, event)));
    expect(won.filter((each) => each)).toHaveLength(1);
    const kept = found(rivals[won.indexOf(true)]);
    const query = { partition: PARTITION, owner: OWNER, idempotencyKey: "nightly / 1" };
    expect(await store.find(query)).toEqual(kept.ref);
    expect(await store.find({ ...query, idempotencyKey: "nightly / 2" })).toBeUndefined();
    const other = keyed("b".repeat(32));
    expect(await store.insert(other.job, other.event)).toBe(true);
    expect(await store.find(query)).toEqual(kept.ref);

    const began = await happen(store, found(await store.read(kept.ref)), started(1));
    await happen(store, began, {
      type: "completed",
      attempt: 1,
      outcome: "succeeded",
      at: timeOf(Date.now() - 30_000),
    });
    expect(await store.sweep(10_000)).toBe(1);
    expect(await store.find(query)).toBeUndefined();
    const again = keyed(OWNER);
    expect(await store.insert(again.job, again.event)).toBe(true);
  });

  test("are changed by one of many who have read the same, and the log has what that one did", async () => {
    const store = await newStore();
    const { ref } = newJob();
    let now = await inserted(store, newJob(ref));
    for (const attempt of [1, 2]) {
      const worker = (n: number) => `worker-${attempt}-${n}`;
      const results = await Promise.allSettled(
        Array.from({ length: 20 }, (_, n) => happen(store, now, started(attempt, worker(n)))),
      );
      const winners = results.flatMap((result, n) => (result.status === "fulfilled" ? [n] : []));
      expect(winners).toHaveLength(1);
      for (const result of results) {
        if (result.status === "rejected") expect(result.reason).toBeInstanceOf(JobConflict);
      }
      now = found(await store.read(ref));
      expect(now.job).toMatchObject({ version: attempt + 1, attempts: attempt, worker: worker(winners[0] ?? -1) });
    }
    const log = await all(store.events({ ref }));
    expect(log.map(({ seq }) => seq)).toEqual([1, 2, 3]);
    expect(log.at(-1)?.event).toMatchObject({ worker: now.job.worker });
  });

  test("tell everything that happened to them, whole and in order, and make the same job again", async () => {
    const store = await newStore();
    await fc.assert(
      fc.asyncProperty(histories(PARTITION), async ({ ref, events, jobs }) => {
        const [first, ...more] = events;
        await store.insert(found(jobs[0]), found(first));
        const before = found(await store.read(ref));
        if (more.length > 0) await store.update(before, found(jobs.at(-1)), more);
        expect(await all(store.events({ ref }))).toEqual(
          events.map((event, index) => ({ ...ref, seq: index + 1, event })),
        );
        expect(found(await store.read(ref)).job).toEqual(jobs.at(-1));
      }),
      { numRuns: 10 },
    );
    expect(await all(compare(rebuild(store.events({})), store))).toEqual([]);
  });

  test("hold no event of a change that was refused", async () => {
    const store = await newStore();
    const first = await inserted(store);
    await happen(store, first, started(1));
    await expect(happen(store, first, { type: "cancel-requested", by: "me", at }, started(1))).rejects.toThrow(
      JobConflict,
    );
    expect(await told(store, refOf(first.job))).toEqual(["submitted", "started"]);
    await expect(store.update(first, { ...first.job, version: 5 }, [])).rejects.toThrow(RangeError);
  });

  test("are renewed without an event, for the one who has them, and age by the store's clock", async () => {
    const store = await newStore();
    const before = await happen(store, await inserted(store), started(1));
    const read = found(await store.read(refOf(before.job)));
    expect(read.readAt - read.changedAt).toBeGreaterThanOrEqual(0);
    const renewed = await store.update(read, read.job, []);
    expect(renewed.etag).not.toBe(read.etag);
    await expect(store.update(read, read.job, [])).rejects.toThrow(JobConflict);
    const now = found(await store.read(refOf(before.job)));
    expect(now.etag).toBe(renewed.etag);
    expect(now.changedAt).toBeGreaterThanOrEqual(read.changedAt);
    expect(now.job).toEqual(read.job);
    expect(await told(store, refOf(before.job))).toEqual(["submitted", "started"]);
  });

  test("are told of by everybody who has an event since, from the first on", async () => {
    const store = await newStore();
    const since = Date.now();
    const old = await inserted(store, newJob({ at: since - 60_000 }));
    const goesOn = await inserted(store, newJob({ at: since - 60_000 }));
    const elsewhere = await inserted(store, newJob({ at: since, partition: "method-local" }));
    await happen(store, goesOn, { type: "cancelled", at: timeOf(since) });
    const events = await all(store.events({ since: timeOf(since) }));
    const seen = events.map(({ id, seq }) => `${id} ${seq}`);
    expect(seen.toSorted()).toEqual([`${elsewhere.job.id} 1`, `${goesOn.job.id} 1`, `${goesOn.job.id} 2`].toSorted());
    expect(await all(store.events({}))).toHaveLength(4);
    expect(await all(store.events({ ref: refOf(old.job) }))).toHaveLength(1);
  });

  test("are listed by partition, owner and state, the newest first, a page at a time", async () => {
    const store = await newStore();
    const start = Date.now() - 1_000_000;
    const owners = ["a", "b", "c"].map((letter) => letter.repeat(32));
    const partitions = ["tenant-a", "tenant-b"];
    const made = Array.from({ length: 60 }, (_, n) =>
      newJob({ at: start + n, owner: found(owners[n % 3]), partition: found(partitions[n % 2]) }),
    );
    await inParallel(made, async (job, n) => {
      const kept = await inserted(store, job);
      if (n % 5 === 0) await happen(store, kept, { type: "cancelled", at });
    });
    const ids = (wanted: (made: Made, n: number) => boolean) =>
      made
        .filter(wanted)
        .map(({ ref }) => ref.id)
        .toReversed();
    const walk = async (query: { partition: string; owner?: string; states?: JobState[]; limit: number }) => {
      const seen: string[] = [];
      let cursor: string | undefined;
      do {
        const page = await store.list({ ...query, ...(cursor !== undefined && { cursor }) });
        expect(page.jobs.length).toBeLessThanOrEqual(query.limit);
        seen.push(...page.jobs.map(({ id }) => id));
        cursor = page.cursor;
        // Whoever comes meanwhile is newer, and on no later page.
        if (seen.length < 10) await inserted(store, newJob({ partition: query.partition }));
      } while (cursor !== undefined);
      return seen;
    };
    const inA = ({ ref }: Made) => ref.partition === "tenant-a";
    expect(await walk({ partition: "tenant-a", limit: 10 })).toEqual(ids(inA));
    expect(await walk({ partition: "tenant-a", owner: found(owners[1]), limit: 7 })).toEqual(
      ids((each, n) => inA(each) && n % 3 === 1),
    );
    expect(await walk({ partition: "tenant-b", states: ["cancelled", "dead"], limit: 4 })).toEqual(
      ids((each, n) => !inA(each) && n % 5 === 0),
    );
    expect(await walk({ partition: "tenant-b", owner: found(owners[0]), states: ["cancelled"], limit: 100 })).toEqual(
      ids((each, n) => !inA(each) && n % 15 === 0),
    );
    expect(await store.list({ partition: "tenant-b", states: [], limit: 5 })).toEqual({ jobs: [] });
    expect(await store.list({ partition: "tenant-c", limit: 5 })).toEqual({ jobs: [] });
  });

  test("are not found by what is no id, no partition, no owner and no cursor", async () => {
    const store = await newStore();
    const { job } = await inserted(store);
    const hostile = ["", "'", "' or PartitionKey ne '", "a/../b", "\0", "x".repeat(2000), "ü", "%27", `${job.id}'`];
    for (const text of hostile) {
      expect(await store.read({ partition: PARTITION, id: text })).toBeUndefined();
      expect(await store.read({ partition: text, id: job.id })).toBeUndefined();
      expect(await store.content({ partition: text, id: text }, text)).toBeUndefined();
      expect(await store.list({ partition: text, limit: 5 })).toEqual({ jobs: [] });
      expect(await store.list({ partition: PARTITION, owner: text, limit: 5 })).toEqual({ jobs: [] });
      expect(await all(store.events({ ref: { partition: text, id: text } }))).toEqual([]);
      await expect(store.list({ partition: PARTITION, cursor: text, limit: 5 })).rejects.toThrow(InvalidCursor);
      await expect(store.insert({ ...job, id: text }, submitted())).rejects.toThrow(RangeError);
      await expect(store.putContent({ partition: text, id: job.id }, "arguments", "")).rejects.toThrow(RangeError);
      await expect(store.putContent(refOf(job), text, "")).rejects.toThrow(RangeError);
    }
  });

  test.each([
    ["nothing", ""],
    ["what fits in a row", "r".repeat(30_000)],
    ["a little more", "b".repeat(30_001)],
    ["what takes more bytes than letters", "ü€😀\u0000\n".repeat(7000)],
    ["5 MiB", "0123456789abcdef".repeat(327_680)],
  ])("keep content that is %s", async (_what, text) => {
    const store = await newStore();
    const { ref } = newJob();
    expect(await store.content(ref, "arguments")).toBeUndefined();
    await store.putContent(ref, "arguments", text);
    // Compared by hand: a difference of megabytes is nothing to print.
    expect((await store.content(ref, "arguments")) === text).toBe(true);
    expect(await store.content(ref, "result-1")).toBeUndefined();
    expect(await store.content(newJob().ref, "arguments")).toBeUndefined();
    await store.putContent(ref, "arguments", "short");
    expect(await store.content(ref, "arguments")).toBe("short");
  });

  test("owe their message until it is sent, and again when it is owed again", async () => {
    const store = await newStore();
    const first = await inserted(store);
    const second = await inserted(store);
    expect(await all(store.owed(3_600_000))).toEqual([]);
    const owed = async () => (await all(store.owed(-1000))).map(({ id }) => id).toSorted();
    expect(await owed()).toEqual([first.job.id, second.job.id].toSorted());
    await store.sent(refOf(first.job));
    await store.sent(refOf(first.job));
    expect(await owed()).toEqual([second.job.id]);
    await store.sent(refOf(second.job));
    expect(await owed()).toEqual([]);
    const dead = await happen(store, first, { type: "dead-lettered", reason: "It broke.", at });
    const event: JobEvent = { type: "replayed", by: "operator", deadline: at, at };
    const replayed = await store.update(dead, jobAfter(dead.job, event, refOf(dead.job)), [event], { owed: true });
    expect(await owed()).toEqual([first.job.id]);
    await store.sent(refOf(first.job));
    // What is refused owes nothing.
    await expect(store.update(dead, replayed.job, [event], { owed: true })).rejects.toThrow(JobConflict);
    expect(await store.insert(second.job, submitted())).toBe(false);
    expect(await owed()).toEqual([]);
  });

  test("are owed the earliest first, as of when that is asked: none that comes meanwhile", async () => {
    const store = await newStore();
    const owedForMs = 100;
    /** Until it has been owed for so long by what the store takes for its service's time, after having read a row. */
    const wait = async ({ job }: StoredJob) => {
      await store.read(refOf(job));
      await delay(owedForMs + 50);
    };
    const first = [await inserted(store), await inserted(store), await inserted(store)] as const;
    await wait(first[2]);
    const told: string[] = [];
    for await (const { id } of store.owed(owedForMs)) {
      told.push(id);
      if (told.length > 1) continue;
      // Ids say where debts are kept: in some place that has not been looked at.
      for (let n = 0; n < 20; n += 1) await inserted(store);
      await wait(await inserted(store));
    }
    expect(told).toEqual(first.map(({ job }) => job.id));
  });

  test("of one order owe what was noted earlier, whatever their servers' clocks say, and nothing of another's", async () => {
    const store = await newStore();
    const now = Date.now();
    const ordered = async (at: number, { owner = OWNER, orderKey = "k" } = {}) => {
      const { ref, event } = newJob({ at, owner });
      if (event.type !== "submitted") throw new Error("It is.");
      const first = { ...event, orderKey };
      const job = jobAfter(undefined, first, ref);
      await store.insert(job, first);
      return job;
    };
    await ordered(now, { owner: "b".repeat(32) });
    await ordered(now, { orderKey: "l" });
    const first = await ordered(now);
    // By a server whose clock is behind.
    const second = await ordered(now - 1000);
    const third = await ordered(now + 1000);
    const { job: free } = await inserted(store, newJob({ at: now + 2000 }));
    const owes = () => Promise.all([first, second, third, free].map((job) => store.owesEarlier(job)));
    expect(await owes()).toEqual([false, true, true, false]);
    await store.sent(refOf(first));
    expect(await owes()).toEqual([false, false, true, false]);
    // What nobody owes any more comes after nothing.
    await store.sent(refOf(third));
    expect(await owes()).toEqual([false, false, false, false]);
  });

  test("are found when they have not ended by their deadline, among those of late", async () => {
    const store = await newStore();
    const now = Date.now();
    const hourMs = 3_600_000;
    const due = async (submittedAt: number, deadline: number, partition = PARTITION) => {
      const { ref, event } = newJob({ at: submittedAt, partition });
      if (event.type !== "submitted") throw new Error("It is.");
      const first = { ...event, deadline: timeOf(deadline) };
      return inserted(store, { ref, event: first, job: jobAfter(undefined, first, ref) });
    };
    const waiting = await due(now - hourMs, now - 60_000);
    const running = await happen(store, await due(now - hourMs, now - 60_000, "tenant-other"), started(1));
    await happen(store, await due(now - hourMs, now - 60_000), started(1), completed(1));
    await due(now - hourMs, now + hourMs);
    await due(now - hourMs, now - 10_000);
    await due(now - 5 * hourMs, now - 60_000);
    const overdue = await all(store.overdue({ byMs: 30_000, withinMs: 2 * hourMs }));
    const byId = (a: JobRef, b: JobRef) => (a.id < b.id ? -1 : 1);
    expect(overdue.toSorted(byId)).toEqual([refOf(waiting.job), refOf(running.job)].toSorted(byId));
  });

  test("are swept with all that was theirs when they ended long enough ago, by several at once", async () => {
    const store = await newStore();
    const ended = await Promise.all(
      Array.from({ length: 9 }, async (_, n) => {
        const job = newJob({ partition: n % 2 === 0 ? "tenant-a" : "tenant-b" });
        await store.putContent(job.ref, "arguments", "a".repeat(n % 3 === 0 ? 40_000 : 10));
        const kept = await inserted(store, job);
        return happen(store, kept, started(1), { ...completed(1), at: timeOf(store.now()) });
      }),
    );
    const running = await happen(store, await inserted(store), started(1));
    await store.putContent(refOf(running.job), "arguments", "wanted");
    const orphan = newJob({ partition: "tenant-a" }).ref;
    await store.putContent(orphan, "arguments", "of a submission that came to nothing");

    expect(await store.sweep(3_600_000)).toBe(0);
    expect(await store.read(refOf(found(ended[0]).job))).toBeDefined();

    const swept = await Promise.all([store.sweep(-2000), store.sweep(-2000), store.sweep(-2000)]);
    expect(swept.reduce((sum, each) => sum + each, 0)).toBe(9);
    for (const { job } of ended) {
      expect(await store.read(refOf(job))).toBeUndefined();
      expect(await told(store, refOf(job))).toEqual([]);
      expect(await store.content(refOf(job), "arguments")).toBeUndefined();
      await expect(store.update(found(ended[0]), found(ended[0]).job, [])).rejects.toThrow(JobConflict);
    }
    expect(await store.content(orphan, "arguments")).toBeUndefined();
    expect(await all(store.events({}))).toHaveLength(2);
    expect(await store.list({ partition: "tenant-a", owner: OWNER, limit: 9 })).toEqual({ jobs: [] });
    expect((await store.list({ partition: PARTITION, limit: 9 })).jobs).toEqual([running.job]);
    expect(await store.content(refOf(running.job), "arguments")).toBe("wanted");
    expect(await store.sweep(-2000)).toBe(0);
  });

  test("are written as their log has them when they are behind it, and not when they are ahead", async () => {
    const store = await newStore();
    const first = await inserted(store);
    const second = await happen(store, first, started(1));
    expect(await store.repair(first.job)).toBe(false);
    expect(found(await store.read(refOf(first.job))).job).toEqual(second.job);
    const other = { ...second.job, worker: "another" };
    expect(await store.repair(other)).toBe(true);
    expect(found(await store.read(refOf(first.job))).job).toEqual(other);
    expect((await store.list({ partition: PARTITION, owner: OWNER, limit: 9 })).jobs).toEqual([other]);
    await expect(happen(store, second, completed(1))).rejects.toThrow(JobConflict);
    expect(await told(store, refOf(first.job))).toEqual(["submitted", "started"]);
    expect(await all(compare(rebuild(store.events({})), store))).toMatchObject([
      { kind: "differs", repair: second.job },
    ]);
  });

  test("are refused when they are too long for a row, and stay as they were", async () => {
    const store = await newStore();
    const before = await happen(store, await inserted(store), started(1));
    const progress = { progress: 1, message: "m".repeat(40_000) };
    await expect(happen(store, before, { type: "progressed", attempt: 1, progress, at })).rejects.toThrow(RangeError);
    const { ref, event, job } = newJob();
    await expect(store.insert({ ...job, tool: "t".repeat(40_000) }, event)).rejects.toThrow(/shorten/);
    expect(await store.read(ref)).toBeUndefined();
    expect((await happen(store, before, completed(1))).job.state).toBe("succeeded");
  });

  test("answer whether they are there", async () => {
    await expect((await newStore()).check()).resolves.toBeUndefined();
  });
});

describe("jobs in memory", () => {
  test("make room for new ones by those that ended, the oldest first", async () => {
    const store = createMemoryStore();
    const running = await inserted(store);
    const oldest = await inserted(store);
    await happen(store, oldest, { type: "cancelled", at });
    const next = await inserted(store);
    await happen(store, next, { type: "cancelled", at });
    for (let n = 3; n <= 10_000; n += 1) {
      const { job, event } = newJob();
      await store.insert(job, event);
    }
    expect(await store.read(refOf(oldest.job))).toBeUndefined();
    expect(await store.read(refOf(next.job))).toBeDefined();
    expect(await store.read(refOf(running.job))).toBeDefined();
    const more = [newJob(), newJob()] as const;
    expect(await store.insert(more[0].job, more[0].event)).toBe(true);
    await expect(store.insert(more[1].job, more[1].event)).rejects.toThrow("none of them has ended");
  });

  test("make room for long content, too", async () => {
    const store = createMemoryStore();
    const text = "c".repeat(16 * 1024 * 1024);
    const jobs: StoredJob[] = [];
    for (let n = 0; n < 4; n += 1) {
      const job = await inserted(store);
      await store.putContent(refOf(job.job), "arguments", text);
      jobs.push(job);
    }
    await expect(store.putContent(newJob().ref, "arguments", "one more")).rejects.toThrow("none of them has ended");
    await happen(store, found(jobs[2]), { type: "cancelled", at });
    await store.putContent(newJob().ref, "arguments", "one more");
    expect(await store.content(refOf(found(jobs[2]).job), "arguments")).toBeUndefined();
    expect(await store.content(refOf(found(jobs[0]).job), "arguments")).toHaveLength(text.length);
  });
});

test("live jobs, which move on while they are compared with their logs, differ in nothing", async () => {
  const store = createMemoryStore();
  let now = await inserted(store);
  const seen: unknown[] = [];
  for (let attempt = 1; attempt <= 20; attempt += 1) {
    const comparing = all(compare(rebuild(store.events({})), store));
    now = await happen(store, now, started(attempt));
    now = await happen(store, now, { type: "retried", attempt, reason: "", retryAt: at, at });
    seen.push(...(await comparing));
  }
  expect(seen).toEqual([]);
});

/** A store whose requests to the table service go through a network that fails. */
async function behindProxy(
  { onTestFinished }: TestContext,
  tryTimeoutMs?: number,
): Promise<{ store: JobStore; proxy: FaultProxy; table: string }> {
  const table = await newTable();
  const proxy = await startFaultProxy(azurite.tableEndpoint);
  onTestFinished(() => proxy.close());
  const store = azureStore(table, { tableEndpoint: proxy.url, ...(tryTimeoutMs !== undefined && { tryTimeoutMs }) });
  await store.check();
  return { store, proxy, table };
}

/** Each request that `concerns` fails so, the first `times` times. */
function failing(proxy: FaultProxy, fault: FaultProxy["fault"], times = 1): void {
  let left = times;
  proxy.fault = (request) => {
    const answer = left > 0 ? fault?.(request) : undefined;
    if (answer !== undefined) left -= 1;
    return answer;
  };
}

const ofTransaction = ({ path }: { path: string }) => path.endsWith("/$batch");

// Most of the time they wait.
describe.concurrent("jobs in Azure storage, when it fails", () => {
  test.for([
    ["refuses with 503", { status: 503 }],
    ["cuts connections", "cut"],
    ["loses answers", "lose"],
  ] as const)("are as they would have been, though it %s", async ([_how, fault], context) => {
    const { store, proxy } = await behindProxy(context);
    let requests = 0;
    // Every other request: each is made again, and each change is made once.
    proxy.fault = () => (requests++ % 2 === 0 ? fault : undefined);
    const { job, event, ref } = newJob();
    await store.putContent(ref, "arguments", "{}");
    expect(await store.insert(job, event)).toBe(true);
    await store.sent(ref);
    const first = found(await store.read(ref));
    const second = await happen(store, first, started(1));
    const renewed = await store.update(second, second.job, []);
    const third = await happen(store, renewed, completed(1));
    const now = found(await store.read(ref));
    expect(now.job).toEqual(third.job);
    expect(now.etag).toBe(third.etag);
    expect(await told(store, ref)).toEqual(["submitted", "started", "completed"]);
    expect(await store.content(ref, "arguments")).toBe("{}");
    expect((await store.list({ partition: PARTITION, owner: OWNER, limit: 5 })).jobs).toEqual([third.job]);
    expect(await all(store.owed(-1000))).toEqual([]);
    expect(requests).toBeGreaterThan(10);
  });

  test("are asked for again whatever says that it cannot now", async (context) => {
    const { store, proxy } = await behindProxy(context);
    for (const status of [408, 429, 500, 502, 504]) {
      failing(proxy, () => ({ status }));
      expect(await store.read(newJob().ref)).toBeUndefined();
    }
    const before = proxy.requests.length;
    failing(proxy, () => ({ status: 403 }));
    await expect(store.read(newJob().ref)).rejects.toMatchObject({ statusCode: 403 });
    expect(proxy.requests.length - before).toBe(1);
  });

  test("come back as late as they are told to", async (context) => {
    const { store, proxy } = await behindProxy(context);
    failing(proxy, () => ({ status: 429, retryAfterSeconds: 1 }));
    const asked = performance.now();
    expect(await store.read(newJob().ref)).toBeUndefined();
    expect(performance.now() - asked).toBeGreaterThan(990);
    failing(proxy, () => ({ status: 503, retryAfterSeconds: 600 }), 100);
    await expect(store.read(newJob().ref)).rejects.toThrow();
    expect(performance.now() - asked).toBeLessThan(5000);
  });

  test("are not asked for for ever", async (context) => {
    const { store, proxy } = await behindProxy(context);
    const before = proxy.requests.length;
    failing(proxy, () => ({ status: 503 }), 100);
    await expect(store.read(newJob().ref)).rejects.toMatchObject({ statusCode: 503 });
    expect(proxy.requests.length - before).toBe(6);
  });

  test("are asked for again when an answer takes too long", async (context) => {
    const { store, proxy } = await behindProxy(context, 300);
    const { promise, resolve } = Promise.withResolvers<void>();
    context.onTestFinished(() => resolve());
    failing(proxy, (request) => (ofTransaction(request) ? promise : undefined));
    const { job, event, ref } = newJob();
    expect(await store.insert(job, event)).toBe(true);
    expect(await told(store, ref)).toEqual(["submitted"]);
  });

  test("are no conflict to who has lost the answer, even if somebody has gone on", async (context) => {
    const { store, proxy, table } = await behindProxy(context);
    const other = azureStore(table);
    const before = await inserted(store);
    const ref = refOf(before.job);
    let gone: StoredJob | undefined;
    const goOn = async () => {
      const now = found(await other.read(ref));
      gone = await happen(other, now, { type: "cancel-requested", by: "me", at });
      throw new Error("The answer is lost.");
    };
    failing(proxy, (request) => (ofTransaction(request) ? goOn() : undefined));
    const mine = await happen(store, before, started(1));
    expect(mine.job).toMatchObject({ state: "running", version: 2 });
    expect(gone?.job.version).toBe(3);
    await expect(happen(store, mine, completed(1))).rejects.toThrow(JobConflict);
    expect(await told(store, ref)).toEqual(["submitted", "started", "cancel-requested"]);
  });

  test("are a conflict to who comes second, though neither has had an answer", async (context) => {
    const { store, proxy, table } = await behindProxy(context);
    const before = await inserted(store);
    const rival = await happen(azureStore(table), before, started(1, "rival"));
    failing(proxy, (request) => (ofTransaction(request) ? "lose" : undefined));
    await expect(happen(store, before, started(1, "me"))).rejects.toThrow(JobConflict);
    expect(found(await store.read(refOf(before.job))).job).toEqual(rival.job);
  });

  test("are not swept when an operator has them run again at that moment", async (context) => {
    const { store, proxy, table } = await behindProxy(context);
    const operator = azureStore(table);
    const dead = await happen(store, await inserted(store), { type: "dead-lettered", reason: "It broke.", at });
    await store.putContent(refOf(dead.job), "arguments", "l".repeat(40_000));
    const replay = () => happen(operator, dead, { type: "replayed", by: "operator", deadline: at, at });
    failing(proxy, ({ method, path }) => (method === "DELETE" && path.includes("owner-") ? replay() : undefined));
    expect(await store.sweep(-2000)).toBe(0);
    expect(found(await store.read(refOf(dead.job))).job.state).toBe("queued");
    expect(await told(store, refOf(dead.job))).toEqual(["submitted", "dead-lettered", "replayed"]);
    expect(await store.content(refOf(dead.job), "arguments")).toHaveLength(40_000);
  });

  test("owe no message when their submission came to nothing, and one when only its answer did", async (context) => {
    const { store, proxy } = await behindProxy(context);
    const nothing = newJob();
    // That late, nobody waits.
    const refusal = { status: 503, retryAfterSeconds: 600 };
    failing(proxy, (request) => (ofTransaction(request) ? refusal : undefined));
    await expect(store.insert(nothing.job, nothing.event)).rejects.toThrow();
    const kept = newJob();
    let lost = false;
    proxy.fault = (request) => {
      if (lost) return refusal;
      lost = ofTransaction(request);
      return lost ? "lose" : undefined;
    };
    await expect(store.insert(kept.job, kept.event)).rejects.toThrow();
    proxy.fault = undefined;
    expect(await all(store.owed(-1000))).toEqual([kept.ref]);
    expect(await store.read(nothing.ref)).toBeUndefined();
  });

  test("owe their message, too, when nobody can tell whether it was their submission that was there", async (context) => {
    const { store, proxy } = await behindProxy(context);
    const { job, event, ref } = newJob();
    const refusal = { status: 503, retryAfterSeconds: 600 };
    let tries = 0;
    // Its answer is lost, the repetition is told that it is there, and then nobody answers.
    proxy.fault = (request) => {
      if (ofTransaction(request)) return ++tries === 1 ? "lose" : undefined;
      return tries > 1 ? refusal : undefined;
    };
    await expect(store.insert(job, event)).rejects.toThrow();
    proxy.fault = undefined;
    expect(found(await store.read(ref)).job).toEqual(job);
    expect(await all(store.owed(-1000))).toEqual([ref]);
  });

  test("say so when there is no table, or no container", async () => {
    await expect(azureStore("nosuchtable").check()).rejects.toMatchObject({ statusCode: 404 });
    await expect(azureStore("nosuchtable").read(newJob().ref)).rejects.toMatchObject({ statusCode: 404 });
    const noContainer = createAzureStore({
      tableEndpoint: azurite.tableEndpoint,
      table: await newTable(),
      blobEndpoint: azurite.blobEndpoint,
      container: "no-such-container",
      auth: "emulator",
    });
    await expect(noContainer.check()).rejects.toMatchObject({ statusCode: 404 });
  });
});

describe("jobs in Azure storage", () => {
  test("owe a message that was owed again while the first one was sent", async () => {
    const table = await newTable();
    const [server, worker] = [azureStore(table), azureStore(table)];
    const before = await inserted(server);
    const event: JobEvent = { type: "cancel-requested", by: "me", at };
    const next = jobAfter(before.job, event, refOf(before.job));
    await worker.update(before, next, [event], { owed: true });
    await server.sent(refOf(before.job));
    expect(await all(server.owed(-1000))).toEqual([refOf(before.job)]);
    await worker.sent(refOf(before.job));
    expect(await all(worker.owed(-1000))).toEqual([]);
  });

  test("are found by a server that has not met them, which sends what another owes", async () => {
    const table = await newTable();
    const { job } = await inserted(azureStore(table));
    const another = azureStore(table);
    expect(await all(another.owed(-1000))).toEqual([refOf(job)]);
    await azureStore(table).sent(refOf(job));
    expect(await all(another.owed(-1000))).toEqual([]);
  });

  test("have long content in a blob that names nobody and is text, and goes with the job", async () => {
    const store = azureStore(await newTable());
    const { ref, job, event } = newJob();
    await store.putContent(ref, "arguments", "l".repeat(40_000));
    const shared = new StorageSharedKeyCredential(EMULATOR_ACCOUNT.name, EMULATOR_ACCOUNT.key);
    const container = new ContainerClient(`${azurite.blobEndpoint}/${CONTAINER}`, shared);
    const blobs = async () => await all(container.listBlobsFlat({ prefix: `${PARTITION}/${ref.id}/` }));
    expect(await blobs()).toMatchObject([
      { name: `${PARTITION}/${ref.id}/arguments`, properties: { contentType: "text/plain; charset=utf-8" } },
    ]);
    // Short content in its place does not leave the blob behind.
    await store.putContent(ref, "arguments", "short");
    await store.insert(job, event);
    await happen(store, found(await store.read(ref)), { type: "cancelled", at });
    expect(await store.sweep(-2000)).toBe(1);
    expect(await blobs()).toEqual([]);
  });

  test("are told again, and written so, when somebody has changed their rows by hand", async () => {
    const table = await newTable();
    const store = azureStore(table);
    const hand = byHand(table);
    const jobs = await Promise.all(
      Array.from({ length: 6 }, async () => happen(store, await inserted(store), started(1))),
    );
    const [gone, garbage, wrong, newer, broken, right] = jobs.map(({ job }) => job).map(found);
    const key = (job: Job | undefined) => `job-${job?.id}`;
    const row = async (job: Job | undefined) => ({ partitionKey: PARTITION, rowKey: key(job) });
    await hand.deleteEntity(PARTITION, key(gone));
    await hand.updateEntity({ ...(await row(garbage)), job: "{}" }, "Merge");
    await hand.updateEntity({ ...(await row(wrong)), job: JSON.stringify({ ...wrong, state: "succeeded" }) }, "Merge");
    await hand.deleteEntity(PARTITION, `event-${newer?.id}-0000000002`);
    await hand.updateEntity({ partitionKey: PARTITION, rowKey: `event-${broken?.id}-0000000001`, event: "{" }, "Merge");

    await expect(store.read(refOf(found(garbage)))).rejects.toThrow(UnreadableJob);
    expect((await store.list({ partition: PARTITION, limit: 9 })).jobs).toHaveLength(4);
    const differences = async () => all(compare(rebuild(store.events({})), store));
    const seen = new Map((await differences()).map((each) => [each.ref.id, each]));
    expect(seen.get(found(gone).id)).toMatchObject({ kind: "missing", repair: gone });
    expect(seen.get(found(garbage).id)).toMatchObject({ kind: "unreadable", repair: garbage });
    expect(seen.get(found(wrong).id)).toMatchObject({ kind: "differs", detail: /state/, repair: wrong });
    expect(seen.get(found(newer).id)).toMatchObject({ kind: "newer" });
    expect(seen.get(found(broken).id)).toMatchObject({ kind: "log" });
    expect(seen.has(found(right).id)).toBe(false);

    for (const { repair } of seen.values()) if (repair !== undefined) expect(await store.repair(repair)).toBe(true);
    expect((await differences()).map(({ kind }) => kind).toSorted()).toEqual(["log", "newer"]);
    expect(found(await store.read(refOf(found(gone)))).job).toEqual(gone);
    expect(await told(store, refOf(found(gone)))).toEqual(["submitted", "started"]);
  });

  test("keep what a newer server has put into them when an older one goes on", async () => {
    const table = await newTable();
    const store = azureStore(table);
    const before = await inserted(store);
    const job = JSON.stringify({ ...before.job, mood: "fine" });
    await byHand(table).updateEntity({ partitionKey: PARTITION, rowKey: `job-${before.job.id}`, job }, "Merge");
    await happen(store, found(await store.read(refOf(before.job))), started(1));
    expect(found(await store.read(refOf(before.job))).job).toMatchObject({ mood: "fine", state: "running" });
  });
});

describe("the store's clock", () => {
  afterEach(() => void vi.useRealTimers());

  test.each([-1, 1])("is the service's, though this machine's is wrong by %d hours", async (hours) => {
    const right = Date.now();
    vi.useFakeTimers({ toFake: ["Date"], now: right + hours * 3_600_000 });
    const store = azureStore(await newTable());
    await store.check();
    expect(Math.abs(store.now() - right)).toBeLessThan(10_000);
    const lease = await happen(store, await inserted(store), started(1));
    const read = found(await store.read(refOf(lease.job)));
    for (const time of [store.now(), read.readAt, read.changedAt, lease.changedAt]) {
      expect(Math.abs(time - right)).toBeLessThan(10_000);
    }
    expect(read.readAt - read.changedAt).toBeLessThan(5000);
    expect(await all(store.owed(60_000))).toEqual([]);
    expect(await store.sweep(60_000)).toBe(0);
  });

  test("is right to a second after each answer, however long that took, and whatever the drift", () => {
    const answers = fc.array(
      fc.record({ pause: fc.integer({ min: 1000, max: 100_000 }), there: fc.nat(200), back: fc.nat(200) }),
      { minLength: 1, maxLength: 50, size: "max" },
    );
    fc.assert(
      fc.property(
        answers,
        fc.integer({ min: 0, max: 4e12 }),
        fc.integer({ min: -300, max: 300 }),
        (all, start, drift) => {
          let mine = 0;
          let theirs = start;
          const clock = createServiceClock(() => mine);
          for (const { pause, there, back } of all) {
            mine += pause;
            theirs += pause + drift;
            const sentAt = mine;
            mine += there + back;
            theirs += there;
            const date = new Date(theirs).toUTCString();
            theirs += back;
            clock.answered(date, sentAt, mine);
            // No more than the header leaves out, and the way.
            expect(theirs - clock.now()).toBeLessThanOrEqual(1000 + back + 1);
            expect(clock.now() - theirs).toBeLessThanOrEqual(1000 + there + 1);
          }
        },
      ),
    );
  });
});

async function inParallel<T>(items: readonly T[], each: (item: T, index: number) => Promise<void>): Promise<void> {
  const left = items.entries();
  const work = async () => {
    for (const [index, item] of left) await each(item, index);
  };
  await Promise.all(Array.from({ length: 8 }, work));
}
