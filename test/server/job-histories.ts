import fc from "fast-check";
import { after, FINAL_STATES, type Job, type JobEvent, type JobRef, newJobId } from "../../server/services/jobs/job.ts";

/** Times of events, one after the other. */
export const timeOf = (ms: number) => new Date(ms).toISOString();

type Submitted = JobEvent & { type: "submitted" };

/** A job's submission, by whoever it is told. */
export function submitted(more: { [Key in keyof Submitted]?: Submitted[Key] | undefined } = {}): Submitted {
  const at = more.at ?? timeOf(Date.now());
  return {
    type: "submitted",
    tool: "system_info",
    owner: "0".repeat(32),
    caller: { subject: "somebody", method: "entra", role: "operator", tenant: "contoso" },
    argumentsDigest: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    submittedAt: at,
    deadline: timeOf(Date.parse(at) + 3_600_000),
    repeatable: true,
    ...more,
    at,
  };
}

export interface History {
  readonly ref: JobRef;
  readonly events: readonly JobEvent[];
  /** The job after each event. */
  readonly jobs: readonly Job[];
}

/** Everything that may happen to a job next; `text` is any. */
function possible(job: Job, at: string, text: string): JobEvent[] {
  const attempt = job.attempts;
  const retryAt = timeOf(Date.parse(at) + 1000);
  if (job.state === "dead") return [{ type: "replayed", by: text, deadline: retryAt, at }];
  if (FINAL_STATES.has(job.state)) return [];
  const always: JobEvent[] = [
    { type: "started", attempt: attempt + 1, worker: text, at },
    { type: "cancel-requested", by: text, at },
    { type: "cancelled", at },
    { type: "expired", reason: text, at },
    { type: "dead-lettered", reason: text, at },
  ];
  if (job.state !== "running") return always;
  return [
    ...always,
    { type: "progressed", attempt, progress: { progress: 1, message: text }, at },
    { type: "retried", attempt, reason: text, retryAt, at },
    { type: "retried", attempt, reason: text, retryAt, uncounted: true, at },
    { type: "completed", attempt, outcome: "succeeded", at },
    { type: "completed", attempt, outcome: "failed", reason: text, at },
  ];
}

/** What may happen to one job, from its submission on. */
export function histories(partition: string, maxLength = 30): fc.Arbitrary<History> {
  const choices = fc.array(fc.tuple(fc.nat(), fc.string({ unit: "grapheme", maxLength: 20 })), { maxLength });
  return fc.tuple(choices, fc.integer({ min: 0, max: 4e12 })).map(([chosen, start]) => {
    const ref = { partition, id: newJobId(start) };
    const events: JobEvent[] = [submitted({ at: timeOf(start) })];
    const jobs = events.map((event) => after(undefined, event, ref));
    for (const [step, [choice, text]] of chosen.entries()) {
      const job = jobs.at(-1);
      const next = job === undefined ? [] : possible(job, timeOf(start + step + 1), text);
      const event = next[choice % next.length];
      if (event === undefined) break;
      events.push(event);
      jobs.push(after(job, event, ref));
    }
    return { ref, events, jobs };
  });
}
