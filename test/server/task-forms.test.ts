import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { isEnded, newerTask, olderTask, outcomeOf } from "../../server/mcp/task-forms.ts";
import { after, ImpossibleEvent, type Job, type JobEvent, newJobId } from "../../server/services/jobs/job.ts";

const START = Date.parse("2026-11-21T10:00:00.000Z");
const ref = { partition: "method-local", id: newJobId(START) };
const timeOf = (seconds: number) => new Date(START + seconds * 1000).toISOString();
const submitted: JobEvent = {
  type: "submitted",
  at: timeOf(0),
  owner: "somebody",
  tool: "dig",
  caller: { subject: "local", method: "local", role: "reader" },
  argumentsDigest: "",
  submittedAt: timeOf(0),
  deadline: timeOf(3600),
  repeatable: true,
};

/** What may happen to a job but for an operator's replay; an event's number of a run is made to fit. */
const happenings = fc.array(
  fc.constantFrom<JobEvent["type"]>(
    "started",
    "progressed",
    "retried",
    "completed",
    "cancel-requested",
    "cancelled",
    "expired",
    "dead-lettered",
  ),
  { maxLength: 30 },
);

function eventOf(type: JobEvent["type"], job: Job, at: string, odd: boolean): JobEvent | undefined {
  const attempt = job.attempts;
  switch (type) {
    case "started":
      return { type, attempt: attempt + 1, worker: "w", at };
    case "progressed":
      return { type, attempt, progress: { progress: 1, message: "on the way" }, at };
    case "retried":
      return { type, attempt, reason: "It was lost.", retryAt: at, at };
    case "completed":
      return { type, attempt, outcome: odd ? "failed" : "succeeded", at };
    case "cancel-requested":
      return { type, by: "somebody", at };
    case "cancelled":
      return { type, at };
    case "expired":
    case "dead-lettered":
      return { type, reason: "It was too late.", at };
    default:
      return undefined;
  }
}

/** A job's whole life, one state after the other. */
const lives = fc.tuple(happenings, fc.boolean()).map(([types, odd]) => {
  const life = [after(undefined, submitted, ref)];
  for (const [index, type] of types.entries()) {
    const job = life.at(-1);
    const event = job && eventOf(type, job, timeOf(index + 1), odd);
    if (job === undefined || event === undefined) continue;
    try {
      life.push(after(job, event, ref));
    } catch (error) {
      if (!(error instanceof ImpossibleEvent)) throw error;
    }
  }
  return life;
});

const NOW = START + 60_000;
const result = { content: [] };

describe("a task", () => {
  test("begins as working, and once it has ended stays as it is, whatever happens to its job", () => {
    fc.assert(
      fc.property(lives, (life) => {
        const older = life.map((job) => olderTask(job, 1, NOW));
        const newer = life.map((job) => {
          return newerTask(
            job,
            isEnded(job) ? outcomeOf(job, job.state === "dead" ? undefined : result) : undefined,
            1,
            NOW,
          );
        });
        for (const tasks of [older, newer]) {
          expect(tasks[0]?.status).toBe("working");
          const statuses = new Set(tasks.map(({ status }) => status));
          statuses.delete("working");
          expect(statuses.size).toBeLessThanOrEqual(1);
          const last = tasks.findLastIndex(({ status }) => status === "working");
          for (const { status } of tasks.slice(0, last)) expect(status).toBe("working");
          const updated = tasks.map(({ lastUpdatedAt }) => lastUpdatedAt);
          expect(updated).toEqual(updated.toSorted());
        }
        // A job that has ended is a task that has, in both protocols; and a cancellation is heeded at once in the older.
        for (const [index, job] of life.entries()) {
          if (isEnded(job) || job.cancelRequestedAt !== undefined) expect(older[index]?.status).not.toBe("working");
          expect(newer[index]?.status === "working").toBe(!isEnded(job));
        }
      }),
    );
  });

  test("is asked after less often the longer it takes", () => {
    const job = after(undefined, submitted, ref);
    const pauses = [0, 5, 10, 60, 3600].map((seconds) => olderTask(job, 1, START + seconds * 1000).pollInterval);
    expect(pauses).toEqual([500, 500, 1000, 6000, 10_000]);
    // Another machine's clock may be behind.
    expect(olderTask(job, 1, START - 60_000).pollInterval).toBe(500);
  });
});
