import { describe, test } from "vitest";
import { newJobId } from "../../server/services/jobs/job.ts";
import { resultName } from "../../server/services/jobs/jobs.ts";
import { writeMessage } from "../../server/services/jobs/messages.ts";
import type { JobQueue } from "../../server/services/jobs/queue.ts";
import { createMemoryQueue } from "../../server/services/jobs/queue-memory.ts";
import { JobConflict, type JobStore } from "../../server/services/jobs/store.ts";
import { createMemoryStore } from "../../server/services/jobs/store-memory.ts";
import { InputNeeded } from "../../server/tools/client-channel.ts";
import { ToolBusy, ToolFailure } from "../../server/tools/define-tool.ts";
import { gate, jobParts, untilAborted } from "./job-parts.ts";

/*
 * Jobs and those who run them: what becomes of a job whatever becomes of its workers, messages and store.
 */

/** A lease short enough to see it run out. */
const LEASE_MS = 150;

describe.concurrent("a job", () => {
  test("is run once, for its submitter, and keeps what its tool gave", async ({ expect, onTestFinished }) => {
    const seen: unknown[] = [];
    const parts = jobParts(
      {
        hello({ caller, run, traceId }) {
          seen.push({ subject: caller.subject, run, traceId });
          return "hello";
        },
      },
      {},
      onTestFinished,
    );
    parts.worker();
    const traceId = "0af7651916cd43dd8448eb211c80319c";
    const job = await parts.submit("hello", { traceId });
    expect(job).toMatchObject({ state: "queued", attempts: 0, repeatable: false });
    await expect.poll(() => parts.state(job)).toMatchObject({ state: "succeeded", attempts: 1 });
    expect(seen).toEqual([{ subject: "the operator", run: { jobId: job.id, attempt: 1 }, traceId }]);
    expect(await parts.jobs.result(await parts.state(job))).toMatchObject({ structuredContent: { said: "hello" } });
    expect(await parts.log(job)).toEqual(["submitted", "started", "completed"]);
    const told = parts.events.filter(({ job: id }) => id === job.id).map(({ event }) => event);
    expect(told).toEqual(["job.submitted", "job.started", "job.succeeded"]);
    const metrics = await parts.metrics.registry.metrics();
    expect(metrics).toContain('mcp_jobs_total{tool="task",outcome="succeeded"} 1');
    expect(metrics).toContain('mcp_tool_calls_total{tool="task",status="ok"} 1');
    expect(metrics).toContain("mcp_jobs_running 0");
  });

  test("whose tool fails by what its caller can mend has failed, and is not run again", async ({
    expect,
    onTestFinished,
  }) => {
    const parts = jobParts(
      {
        fail() {
          throw new ToolFailure("The date is wrong; give another.", { date: "x" });
        },
        ask() {
          throw new InputNeeded({
            requests: {
              sure: {
                method: "elicitation/create",
                params: { mode: "form", message: "Sure?", requestedSchema: { type: "object", properties: {} } },
              },
            },
          });
        },
      },
      {},
      onTestFinished,
    );
    parts.worker();
    const failed = await parts.submit("fail", { repeatable: true });
    await expect
      .poll(() => parts.state(failed))
      .toMatchObject({
        state: "failed",
        attempts: 1,
        reason: "The date is wrong; give another.",
      });
    expect(await parts.jobs.result(await parts.state(failed))).toMatchObject({
      isError: true,
      structuredContent: { date: "x" },
    });
    const asked = await parts.submit("ask");
    await expect
      .poll(() => parts.state(asked))
      .toMatchObject({
        state: "failed",
        reason: expect.stringMatching(/^task asks its user before it goes on, .*"Sure\?".* leave nothing to ask\.$/),
      });
  });

  test("whose tool breaks is run again only if that may be, and set aside in the end", async ({
    expect,
    onTestFinished,
  }) => {
    let runs = 0;
    const parts = jobParts(
      {
        break() {
          runs++;
          throw new TypeError("undefined is not a function");
        },
      },
      { attempts: 3 },
      onTestFinished,
    );
    parts.worker();
    const once = await parts.submit("break");
    await expect.poll(() => parts.state(once)).toMatchObject({ state: "failed", attempts: 1 });
    expect((await parts.state(once)).reason).not.toContain("undefined");
    expect(runs).toBe(1);

    const again = await parts.submit("break", { repeatable: true });
    await expect.poll(() => parts.state(again)).toMatchObject({ state: "dead", attempts: 3 });
    expect(runs).toBe(4);
    expect(await parts.log(again)).toEqual([
      "submitted",
      ...["started", "retried", "started", "retried", "started", "dead-lettered"],
    ]);
    await expect.poll(() => parts.queue.deadLetters.list(10)).toMatchObject([{ reason: "attempts" }]);
    const [letter] = await parts.queue.deadLetters.list(10);
    expect(letter?.description).toMatch(/^3 runs were lost or broke\. The last: task failed by a fault of its own/);
    expect(await parts.metrics.registry.metrics()).toContain('mcp_jobs_dead_lettered_total{reason="attempts"} 1');
  });

  test("for which there is no room is run later, and that counts as no failure", async ({ expect, onTestFinished }) => {
    const parts = jobParts(
      {
        busy() {
          throw new ToolBusy("4 commands run already.");
        },
      },
      {},
      onTestFinished,
    );
    parts.worker();
    const job = await parts.submit("busy");
    await expect.poll(() => parts.state(job)).toMatchObject({ state: "queued", attempts: 1, failures: 0 });
    expect((await parts.state(job)).retryAt).toBeDefined();
  });

  test("of a tool that this worker does not know waits for one that does", async ({ expect, onTestFinished }) => {
    const parts = jobParts({}, {}, onTestFinished);
    parts.worker({ knows: () => false });
    const job = await parts.submit("hello");
    await expect.poll(() => parts.events.map(({ event }) => event)).toContain("job.postponed");
    expect(await parts.state(job)).toMatchObject({ state: "queued", attempts: 0 });
  });

  test("tells how far it is, at most once a second, and keeps its lease meanwhile", async ({
    expect,
    onTestFinished,
  }) => {
    const done = gate();
    const parts = jobParts(
      {
        async work({ client }) {
          for (let at = 1; at <= 100; at++) await client.progress({ progress: at, total: 100, message: `step ${at}` });
          await done.opened;
          return "done";
        },
      },
      { leaseMs: LEASE_MS },
      onTestFinished,
    );
    parts.worker();
    parts.worker();
    const job = await parts.submit("work");
    await expect.poll(() => parts.state(job)).toMatchObject({ progress: { progress: 100, message: "step 100" } });
    // Several leases long, with another worker at hand and a second message to bring it there.
    await parts.queue.send({
      id: `${job.id}-x`,
      body: writeMessage(job),
    });
    await new Promise((resolve) => setTimeout(resolve, 3 * LEASE_MS));
    done.open();
    await expect.poll(() => parts.state(job)).toMatchObject({ state: "succeeded", attempts: 1 });
    expect((await parts.log(job)).filter((type) => type === "progressed")).toHaveLength(1);
  });
});

describe.concurrent("cancelling", () => {
  test("ends a job that waits at once, and one that runs within seconds", async ({ expect, onTestFinished }) => {
    let aborted = false;
    const parts = jobParts(
      {
        async work({ signal }) {
          signal.addEventListener("abort", () => {
            aborted = true;
          });
          await untilAborted(signal);
          return "never";
        },
      },
      { leaseMs: LEASE_MS },
      onTestFinished,
    );
    const waiting = await parts.submit("work");
    expect(await parts.jobs.cancel(parts.by("operator"), waiting.id)).toMatchObject({ state: "cancelled" });
    parts.worker();
    const running = await parts.submit("work");
    await expect.poll(() => parts.state(running)).toMatchObject({ state: "running" });
    expect(await parts.jobs.cancel(parts.by("operator"), running.id)).toMatchObject({ state: "running" });
    await expect.poll(() => parts.state(running)).toMatchObject({ state: "cancelled" });
    expect(aborted).toBe(true);
    expect(await parts.log(waiting)).toEqual(["submitted", "cancel-requested", "cancelled"]);
    // What has ended stays as it is.
    expect(await parts.jobs.cancel(parts.by("operator"), running.id)).toMatchObject({ state: "cancelled" });
  });

  test("what has succeeded all the same has succeeded", async ({ expect, onTestFinished }) => {
    const parts = jobParts(
      {
        async work({ signal }) {
          await untilAborted(signal).catch(() => {});
          return "done before I heard";
        },
      },
      { leaseMs: LEASE_MS },
      onTestFinished,
    );
    parts.worker();
    const job = await parts.submit("work");
    await expect.poll(() => parts.state(job)).toMatchObject({ state: "running" });
    await parts.jobs.cancel(parts.by("operator"), job.id);
    await expect.poll(() => parts.state(job)).toMatchObject({ state: "succeeded" });
  });
});

describe.concurrent("a deadline", () => {
  test("ends what runs, with what it had to say by then, and what was never begun", async ({
    expect,
    onTestFinished,
  }) => {
    const parts = jobParts(
      {
        async work({ signal }) {
          await untilAborted(signal).catch(() => {});
          throw new ToolFailure("Killed.", { stdout: "half of it" });
        },
      },
      {},
      onTestFinished,
    );
    const never = await parts.submit("work", { deadlineSeconds: 0.01 });
    await expect
      .poll(() => parts.jobs.get(parts.by("operator"), never.id))
      .toMatchObject({ state: "expired", attempts: 0 });
    parts.worker();
    const job = await parts.submit("work", { deadlineSeconds: 0.2 });
    await expect.poll(() => parts.state(job)).toMatchObject({ state: "expired", attempts: 1 });
    expect(await parts.jobs.result(await parts.state(job))).toMatchObject({
      structuredContent: { stdout: "half of it" },
    });
  });
});

describe.concurrent("order", () => {
  test("holds among one caller's jobs of one key, over retries, and among no others", async ({
    expect,
    onTestFinished,
  }) => {
    const ran: string[] = [];
    const held = gate();
    let broken = false;
    const parts = jobParts(
      {
        first: () => {
          if (!broken) {
            broken = true;
            throw new Error("once");
          }
          ran.push("first");
          return "";
        },
        second: () => {
          ran.push("second");
          return "";
        },
        slow: async () => {
          await held.opened;
          ran.push("slow");
          return "";
        },
        other: () => {
          ran.push("other");
          return "";
        },
      },
      {},
      onTestFinished,
    );
    parts.worker({ concurrency: 2 });
    parts.worker({ concurrency: 2 });
    await parts.submit("slow", { orderKey: "b" });
    const behind = await parts.submit("other", { orderKey: "b" });
    const free = await parts.submit("other", { orderKey: "b", as: "admin" });
    await parts.submit("first", { orderKey: "a", repeatable: true });
    const last = await parts.submit("second", { orderKey: "a" });
    await expect.poll(() => parts.state(last)).toMatchObject({ state: "succeeded" });
    await expect.poll(() => parts.state(free)).toMatchObject({ state: "succeeded" });
    expect(await parts.state(behind)).toMatchObject({ state: "queued" });
    expect(ran.filter((name) => name !== "other")).toEqual(["first", "second"]);
    held.open();
    await expect.poll(() => parts.state(behind)).toMatchObject({ state: "succeeded" });
    expect(ran.indexOf("slow")).toBeLessThan(ran.lastIndexOf("other"));
  });
});

/** A store that a worker cannot write to any more, as if its process were gone. */
function cutOff(store: JobStore): JobStore & { cut(): void; heal(): void } {
  let gone = false;
  const lost = async () => {
    throw new Error("It is gone.");
  };
  return {
    ...store,
    update: (...args) => (gone ? lost() : store.update(...args)),
    putContent: (...args) => (gone ? lost() : store.putContent(...args)),
    cut() {
      gone = true;
    },
    heal() {
      gone = false;
    },
  };
}

describe.concurrent("a worker that is lost in the middle", () => {
  test.for([true, false])(
    "leaves a job that is run again if it may be (%s), and is not heard any more",
    async (repeatable, { expect, onTestFinished }) => {
      const began: number[] = [];
      const late = gate();
      const parts = jobParts(
        {
          async work({ run, signal }) {
            began.push(run?.attempt ?? 0);
            if (run?.attempt === 1) {
              // It does not even hear that it is to end.
              await late.opened;
              return `late, ${signal.aborted ? "told" : "not told"}`;
            }
            return `run ${run?.attempt}`;
          },
        },
        { leaseMs: LEASE_MS },
        onTestFinished,
      );
      const store = cutOff(parts.store);
      parts.worker({ store, concurrency: 1 });
      const job = await parts.submit("work", { repeatable });
      await expect.poll(() => began).toEqual([1]);
      store.cut();
      parts.worker();
      // The queue gives the message to somebody else once its lock is lost.
      await parts.queue.send({ id: `${job.id}-again`, body: writeMessage(job) });
      const end = repeatable ? { state: "succeeded", attempts: 2, failures: 1 } : { state: "dead", attempts: 1 };
      await expect.poll(() => parts.state(job)).toMatchObject(end);
      expect(began).toEqual(repeatable ? [1, 2] : [1]);
      if (!repeatable) {
        expect((await parts.state(job)).reason).toContain("what it has done is not known");
        expect(await parts.queue.deadLetters.list(10)).toMatchObject([{ reason: "lost" }]);
      }
      // It comes back, and has something to say.
      store.heal();
      late.open();
      await expect.poll(() => parts.events.map(({ event }) => event)).toContain("job.fenced");
      expect(await parts.state(job)).toMatchObject(end);
      expect(await parts.store.content(job, resultName(2))).toEqual(
        repeatable ? expect.stringContaining("run 2") : undefined,
      );
    },
  );

  test("and comes back finds that it was fenced off, and what it says is dropped", async ({
    expect,
    onTestFinished,
  }) => {
    const late = gate();
    const parts = jobParts(
      {
        async work({ run }) {
          if (run?.attempt === 1) await late.opened;
          return `run ${run?.attempt}`;
        },
      },
      { leaseMs: LEASE_MS },
      onTestFinished,
    );
    // Its signs of life are lost, and nothing else is.
    let deaf = true;
    const store: JobStore = {
      ...parts.store,
      update: (before, job, events, options) =>
        deaf && events[0]?.type !== "started"
          ? Promise.reject(new Error("503"))
          : parts.store.update(before, job, events, options),
    };
    parts.worker({ store, concurrency: 1 });
    const job = await parts.submit("work", { repeatable: true });
    await expect.poll(() => parts.state(job)).toMatchObject({ state: "running" });
    parts.worker();
    await parts.queue.send({ id: `${job.id}-again`, body: writeMessage(job) });
    await expect.poll(() => parts.state(job)).toMatchObject({ state: "succeeded", attempts: 2 });
    deaf = false;
    late.open();
    await expect.poll(() => parts.events.map(({ event }) => event)).toContain("job.fenced");
    const { job: ended } = (await parts.store.read(job)) ?? {};
    expect(ended).toMatchObject({ state: "succeeded", attempts: 2 });
    expect(ended && (await parts.jobs.result(ended))).toMatchObject({ structuredContent: { said: "run 2" } });
  });
});

describe.concurrent("a store or queue that does not do as it should", () => {
  test("conflicts, answers that get lost, and errors make one run of each job, and one end", async ({
    expect,
    onTestFinished,
  }) => {
    const runs = new Map<string, number>();
    const inner = createMemoryStore();
    let count = 0;
    const store: JobStore = {
      ...inner,
      async update(...args) {
        count++;
        if (count % 5 === 1) throw new Error("503");
        const stored = await inner.update(...args);
        // Done, but who asked hears of a conflict: the request was sent twice.
        if (count % 5 === 2) throw new JobConflict("412");
        if (count % 5 === 3) throw new Error("The connection was reset.");
        return stored;
      },
    };
    const parts = jobParts(
      {
        work({ run }) {
          const id = run?.jobId ?? "";
          runs.set(id, (runs.get(id) ?? 0) + 1);
          return "done";
        },
      },
      { store },
      onTestFinished,
    );
    const jobs = await Promise.all(Array.from({ length: 20 }, () => parts.submit("work")));
    // Each message twice.
    for (const job of jobs) await parts.queue.send({ id: `${job.id}-twice`, body: writeMessage(job) });
    parts.worker();
    parts.worker();
    for (const job of jobs)
      await expect.poll(() => parts.state(job)).toMatchObject({ state: "succeeded", attempts: 1 });
    expect([...runs.values()]).toEqual(jobs.map(() => 1));
    for (const job of jobs) expect(await parts.log(job)).toEqual(["submitted", "started", "completed"]);
  });

  test("a message is settled once the queue takes that, and comes no second time", async ({
    expect,
    onTestFinished,
  }) => {
    const queue = createMemoryQueue({ lockMs: 60_000 });
    const deliveries: number[] = [];
    let refusals = 0;
    const refusing: JobQueue = {
      ...queue,
      receive: ({ handle, ...rest }) =>
        queue.receive({
          ...rest,
          handle(delivery) {
            deliveries.push(delivery.deliveries);
            const complete = () => (++refusals <= 2 ? Promise.reject(new Error("503")) : delivery.complete());
            const { id, body, lost } = delivery;
            const others = {
              handBack: () => delivery.handBack(),
              retry: (again: string, delayMs: number) => delivery.retry(again, delayMs),
              deadLetter: (reason: string, description: string) => delivery.deadLetter(reason, description),
            };
            return handle({ id, body, lost, deliveries: delivery.deliveries, complete, ...others });
          },
        }),
    };
    const parts = jobParts({}, { queue }, onTestFinished);
    parts.worker({ queue: refusing });
    const job = await parts.submit("hello");
    await expect.poll(() => refusals).toBe(3);
    expect(await parts.state(job)).toMatchObject({ state: "succeeded", attempts: 1 });
    expect(deliveries).toEqual([1]);
    expect(parts.events.map(({ event }) => event)).not.toContain("job.postponed");
  });

  test("a message that cannot be settled is let go, so that another may have it", async ({
    expect,
    onTestFinished,
  }) => {
    const queue = createMemoryQueue({ lockMs: 60_000 });
    const over: string[] = [];
    // As a client does that waits for what was cut off.
    const never = () => new Promise<void>(() => {});
    const deaf: JobQueue = {
      ...queue,
      receive: ({ handle, ...rest }) =>
        queue.receive({
          ...rest,
          async handle({ id, body, lost, deliveries }) {
            await handle({
              id,
              body,
              lost,
              deliveries,
              complete: never,
              handBack: never,
              retry: never,
              deadLetter: never,
            });
            over.push(id);
          },
        }),
    };
    const parts = jobParts({}, { queue }, onTestFinished);
    parts.worker({ queue: deaf, settleMs: 50 });
    const job = await parts.submit("hello");
    await expect.poll(() => over).toEqual([job.id]);
    expect(await parts.state(job)).toMatchObject({ state: "succeeded", attempts: 1 });
    expect(parts.events).toContainEqual(expect.objectContaining({ event: "job.message.unsettled", message: job.id }));
  });

  test("clocks that differ by minutes neither lose a lease nor take one", async ({ expect, onTestFinished }) => {
    let runs = 0;
    const done = gate();
    const parts = jobParts(
      {
        async work() {
          runs++;
          await done.opened;
          return "done";
        },
      },
      { leaseMs: LEASE_MS },
      onTestFinished,
    );
    // What each worker takes the time to be; the store judges by its own.
    const skewed = (ms: number): JobStore => ({ ...parts.store, now: () => parts.store.now() + ms });
    parts.worker({ store: skewed(-600_000) });
    const job = await parts.submit("work", { repeatable: true });
    await expect.poll(() => runs).toBe(1);
    parts.worker({ store: skewed(500_000) });
    await parts.queue.send({ id: `${job.id}-twice`, body: writeMessage(job) });
    await new Promise((resolve) => setTimeout(resolve, 2 * LEASE_MS));
    done.open();
    await expect.poll(() => parts.state(job)).toMatchObject({ state: "succeeded", attempts: 1 });
    expect(runs).toBe(1);
  });

  test("messages that name no job are set aside, with the reason", async ({ expect, onTestFinished }) => {
    const parts = jobParts({}, {}, onTestFinished);
    parts.worker();
    await parts.queue.send({ id: "1", body: "rm -rf /" });
    const job = await parts.submit("hello");
    await parts.queue.send({ id: "2", body: writeMessage({ ...job, id: newJobId(Date.now()) }) });
    const reasons = async () => (await parts.queue.deadLetters.list(10)).map(({ reason }) => reason).sort();
    await expect.poll(reasons).toEqual(["unknown-job", "unreadable"]);
    await expect.poll(() => parts.state(job)).toMatchObject({ state: "succeeded" });
  });
});

describe.concurrent("a run", () => {
  test("writes nothing any more once it has ended, though a sign of life was under way", async ({
    expect,
    onTestFinished,
  }) => {
    const [asked, answer] = [gate(), gate()];
    const inner = createMemoryStore();
    let renewals = 0;
    const store: JobStore = {
      ...inner,
      async update(...args) {
        if (args[2].length > 0) return inner.update(...args);
        renewals++;
        asked.open();
        await answer.opened;
        return inner.update(...args);
      },
    };
    const parts = jobParts(
      { work: () => asked.opened.then(() => "done") },
      { store, leaseMs: LEASE_MS },
      onTestFinished,
    );
    parts.worker();
    const job = await parts.submit("work");
    await asked.opened;
    // The tool has ended by now, and its end waits for its turn.
    await new Promise((resolve) => setImmediate(resolve));
    answer.open();
    await expect.poll(() => parts.state(job)).toMatchObject({ state: "succeeded" });
    await new Promise((resolve) => setTimeout(resolve, 2 * LEASE_MS));
    expect(renewals).toBe(1);
  });

  test("that could not make sure in time that it is the last does nothing, and has not failed", async ({
    expect,
    onTestFinished,
  }) => {
    const began: number[] = [];
    const inner = createMemoryStore();
    let deaf = true;
    const store: JobStore = {
      ...inner,
      async update(before, job, events, options) {
        const begins = events[0]?.type === "started";
        // Its answer comes when most of the lease is gone; then there is none to a sign of life.
        if (begins && deaf) {
          const stored = await inner.update(before, job, events, options);
          await new Promise((resolve) => setTimeout(resolve, LEASE_MS / 2));
          return stored;
        }
        if (events.length === 0 && deaf) throw new Error("503");
        if (!begins) deaf = false;
        return inner.update(before, job, events, options);
      },
    };
    const parts = jobParts(
      {
        work({ run }) {
          began.push(run?.attempt ?? 0);
          return "done";
        },
      },
      { store, leaseMs: LEASE_MS },
      onTestFinished,
    );
    parts.worker();
    const job = await parts.submit("work", { deadlineSeconds: 0.5 });
    await expect.poll(() => parts.state(job)).toMatchObject({ state: expect.not.stringMatching(/queued|running/) });
    expect(began).toEqual([]);
    expect(await parts.state(job)).toMatchObject({ state: "expired", attempts: 1, failures: 0 });
    expect((await parts.state(job)).reason).toContain("before it could be run");
  });

  test("whose submitter asks for its end just before it writes how far it is hears of that, and both are kept", async ({
    expect,
    onTestFinished,
  }) => {
    const store = createMemoryStore();
    let cancel: (() => Promise<unknown>) | undefined;
    const racing: JobStore = {
      ...store,
      async update(...args) {
        const before = cancel;
        if (args[2][0]?.type === "progressed" && before !== undefined) {
          cancel = undefined;
          await before();
        }
        return store.update(...args);
      },
    };
    const heard = gate();
    const parts = jobParts(
      {
        async work({ client, signal }) {
          await client.progress({ progress: 1, total: 2 });
          await untilAborted(signal).catch(() => heard.open());
          throw new ToolFailure("It ended when it was told to.");
        },
      },
      // A long lease: no sign of life comes before the report.
      { store },
      onTestFinished,
    );
    const job = await parts.submit("work");
    cancel = () => parts.jobs.cancel(parts.by("operator"), job.id);
    parts.worker({ store: racing });
    await heard.opened;
    await expect.poll(() => parts.state(job)).toMatchObject({ state: "cancelled", progress: { progress: 1 } });
    expect(await parts.log(job)).toEqual(["submitted", "started", "cancel-requested", "progressed", "cancelled"]);
  });
});

describe.concurrent("a worker that is told to end", () => {
  test("takes nothing more, lets what runs finish, and hands back what may run elsewhere", async ({
    expect,
    onTestFinished,
  }) => {
    const finish = gate();
    const ran: string[] = [];
    const parts = jobParts(
      {
        async quick() {
          await finish.opened;
          ran.push("quick");
          return "";
        },
        async endless({ signal, run }) {
          if (run?.attempt === 1) await untilAborted(signal);
          ran.push("endless");
          return "";
        },
        stuck: ({ signal }) => untilAborted(signal),
        next: () => {
          ran.push("next");
          return "";
        },
      },
      {},
      onTestFinished,
    );
    const ending = parts.worker({ concurrency: 3 });
    const quick = await parts.submit("quick");
    const endless = await parts.submit("endless", { repeatable: true });
    const stuck = await parts.submit("stuck");
    await expect.poll(() => ending.running).toBe(3);
    const next = await parts.submit("next");
    const stopped = ending.stop(400);
    finish.open();
    await expect.poll(() => parts.state(quick)).toMatchObject({ state: "succeeded" });
    await stopped;
    expect(ending.running).toBe(0);
    expect(await parts.state(endless)).toMatchObject({ state: "queued", attempts: 1, failures: 0 });
    expect(await parts.state(stuck)).toMatchObject({ state: "dead", reason: expect.stringContaining("is not known") });
    expect(await parts.state(next)).toMatchObject({ state: "queued", attempts: 0 });
    expect(ran).toEqual(["quick"]);

    parts.worker();
    await expect.poll(() => parts.state(endless)).toMatchObject({ state: "succeeded", attempts: 2 });
    await expect.poll(() => parts.state(next)).toMatchObject({ state: "succeeded" });
  });
});
