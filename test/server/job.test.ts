import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  FINAL_STATES,
  ImpossibleEvent,
  idsUntil,
  JOB_ID,
  Job,
  JobEvent,
  // By itself it is the name of a test's hook.
  after as jobAfter,
  newJobId,
  ownerOf,
  partitionOf,
} from "../../server/services/jobs/job.ts";
import { rebuild } from "../../server/services/jobs/replay.ts";
import { histories, submitted, timeOf } from "./job-histories.ts";

const history = histories("tenant-contoso");
const times = fc.integer({ min: 0, max: 32 ** 9 });

describe("what happens to a job", () => {
  test("counts: its version is the number of events, its attempts those that began", () => {
    fc.assert(
      fc.property(history, ({ events, jobs }) => {
        const job = jobs.at(-1);
        expect(job?.version).toBe(events.length);
        expect(job?.attempts).toBe(events.filter(({ type }) => type === "started").length);
        expect(job?.failures).toBeLessThanOrEqual(job?.attempts ?? -1);
      }),
    );
  });

  test("never takes attempts back, nor an end but by replay", () => {
    fc.assert(
      fc.property(history, ({ events, jobs }) => {
        for (const [at, job] of jobs.entries()) {
          const before = jobs[at - 1];
          if (before === undefined) continue;
          expect(job.attempts).toBeGreaterThanOrEqual(before.attempts);
          if (FINAL_STATES.has(before.state)) expect([before.state, events[at]?.type]).toEqual(["dead", "replayed"]);
        }
      }),
    );
  });

  test("leaves an end time on what has ended and on nothing else, a worker on what runs and on nothing else", () => {
    fc.assert(
      fc.property(history, ({ jobs }) => {
        for (const job of jobs) {
          expect(job.endedAt !== undefined).toBe(FINAL_STATES.has(job.state));
          expect(job.worker !== undefined).toBe(job.state === "running");
          if (job.retryAt !== undefined) expect(job.state).toBe("queued");
        }
      }),
    );
  });

  test("changes nothing of who submitted it, what, and for how long, but the deadline by replay", () => {
    fc.assert(
      fc.property(history, ({ events, jobs, ref }) => {
        const { tool, caller, owner, argumentsDigest, submittedAt, repeatable } = submitted({ at: events[0]?.at });
        const same = { ...ref, tool, caller, owner, argumentsDigest, submittedAt, repeatable };
        for (const job of jobs) expect(job).toMatchObject(same);
        const deadlines = events.flatMap((event) => ("deadline" in event ? [event.deadline] : []));
        expect(jobs.at(-1)?.deadline).toBe(deadlines.at(-1));
      }),
    );
  });

  test("comes to the same when it is told again, as it was logged", async () => {
    await fc.assert(
      fc.asyncProperty(history, async ({ events, jobs, ref }) => {
        const logged = events.map((event, at) => ({
          ...ref,
          seq: at + 1,
          event: JobEvent.parse(JSON.parse(JSON.stringify(event))),
        }));
        const told = await all(rebuild(streamOf(logged)));
        expect(told).toEqual([{ ref, job: jobs.at(-1) }]);
        expect(Job.parse(JSON.parse(JSON.stringify(jobs.at(-1))))).toEqual(jobs.at(-1));
      }),
    );
  });

  test("cannot be anything else: a run that is no longer the last is not heard, nor anything after the end", () => {
    fc.assert(
      fc.property(history, fc.integer({ min: -3, max: 3 }), ({ jobs, ref }, off) => {
        const job = jobs.at(-1);
        if (job === undefined) return;
        const at = timeOf(0);
        const attempt = job.attempts + off;
        const heard = job.state === "running" && off === 0;
        const said: [JobEvent, boolean][] = [
          [{ type: "started", attempt, worker: "w", at }, !FINAL_STATES.has(job.state) && off === 1],
          [{ type: "progressed", attempt, progress: { progress: 1 }, at }, heard],
          [{ type: "retried", attempt, reason: "", retryAt: at, at }, heard],
          [{ type: "completed", attempt, outcome: "succeeded", at }, heard],
          [{ type: "cancelled", at }, !FINAL_STATES.has(job.state)],
          [{ type: "expired", reason: "", at }, !FINAL_STATES.has(job.state)],
          [{ type: "replayed", by: "", deadline: at, at }, job.state === "dead"],
          [submitted(), false],
        ];
        for (const [event, possible] of said) {
          if (possible) expect(jobAfter(job, event, ref).version).toBe(job.version + 1);
          else expect(() => jobAfter(job, event, ref)).toThrow(ImpossibleEvent);
        }
      }),
    );
  });

  test("begins with its submission", () => {
    const ref = { partition: "tenant-contoso", id: newJobId(0) };
    expect(() => jobAfter(undefined, { type: "cancelled", at: timeOf(0) }, ref)).toThrow(ImpossibleEvent);
  });
});

describe("a log", () => {
  test("with a gap, or with what cannot have happened, makes no job, and says where", async () => {
    const ref = { partition: "tenant-contoso", id: newJobId(0) };
    const other = { partition: "tenant-contoso", id: newJobId(1) };
    const at = timeOf(0);
    const log = [
      { ...ref, seq: 1, event: submitted({ at }) },
      { ...ref, seq: 3, event: { type: "cancelled", at } as const },
      { ...other, seq: 1, event: submitted({ at }) },
      { ...other, seq: 2, event: { type: "cancelled", at } as const },
      { ...other, seq: 3, event: { type: "cancelled", at } as const },
    ];
    expect(await all(rebuild(streamOf(log)))).toEqual([
      { ref, fault: "Event 2 is not in the log; the next one is 3." },
      { ref: other, fault: expect.stringMatching(/^Event 3 cannot have happened: .*is cancelled/) },
    ]);
  });
});

describe("a job's id", () => {
  test("is one, and no two are the same", () => {
    fc.assert(fc.property(times, (now) => void expect(newJobId(now)).toMatch(JOB_ID)));
    expect(new Set(Array.from({ length: 1000 }, () => newJobId(0))).size).toBe(1000);
  });

  test("sorts after those of later times, and tells whether it was made until some time", () => {
    fc.assert(
      fc.property(times, times, (earlier, later) => {
        fc.pre(earlier < later);
        expect(newJobId(earlier) > newJobId(later)).toBe(true);
        expect(newJobId(earlier) > idsUntil(later)).toBe(true);
        expect(newJobId(later) > idsUntil(earlier)).toBe(false);
      }),
    );
  });
});

test("tenants have partitions of their own, and callers without one by how they prove themselves", () => {
  expect(partitionOf({ tenant: "ABC", method: "entra" })).toBe(partitionOf({ tenant: "abc", method: "entra" }));
  expect(partitionOf({ tenant: "local", method: "entra" })).not.toBe(partitionOf({ method: "local" }));
});

test("an owner's name does not say who it is, and is the same for the same caller only", () => {
  expect(ownerOf("tenant/subject")).toMatch(/^[0-9a-f]{32}$/);
  expect(ownerOf("tenant/subject")).toBe(ownerOf("tenant/subject"));
  expect(ownerOf("tenant/subject")).not.toBe(ownerOf("tenant/other"));
});

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const seen: T[] = [];
  for await (const item of items) seen.push(item);
  return seen;
}

async function* streamOf<T>(items: readonly T[]): AsyncGenerator<T> {
  yield* items;
}
