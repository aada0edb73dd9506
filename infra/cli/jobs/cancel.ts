import { after, FINAL_STATES, type Job, type JobRef, type JobState } from "../../../server/services/jobs/job.ts";
import { cancelling } from "../../../server/services/jobs/next-step.ts";
import { JobConflict, type JobStore } from "../../../server/services/jobs/store.ts";
import { LEASE_MS } from "./dead-letters.ts";

/** What became of a job that was to end. `asked`: it runs, and whoever runs it ends it within seconds. */
export type Cancelled = "cancelled" | "asked" | "ended" | "kept";

/** Tries again when somebody else has changed the row meanwhile, as the one who runs it does all the time. */
const ROUNDS = 20;
const UNFINISHED: readonly JobState[] = ["queued", "running"];
const PAGE = 500;

/** The jobs of one submitter, as `jobs list` names it, that have not ended. */
export async function unfinishedOf(
  store: JobStore,
  { partitions, submitter }: { readonly partitions: readonly string[]; readonly submitter: string },
): Promise<readonly Job[]> {
  const found: Job[] = [];
  for (const partition of partitions) {
    let cursor: string | undefined;
    do {
      const page = await store.list({ partition, states: UNFINISHED, limit: PAGE, cursor });
      found.push(...page.jobs.filter(({ caller }) => caller.subject === submitter));
      cursor = page.cursor;
    } while (cursor !== undefined);
  }
  return found;
}

/** Ends a job, as its submitter's `cancel_job` does. Can be repeated. */
export async function cancel(store: JobStore, ref: JobRef, by: string): Promise<Cancelled> {
  for (let round = 1; round <= ROUNDS; round++) {
    const stored = await store.read(ref);
    if (stored === undefined) return "ended";
    const events = cancelling(stored, by, LEASE_MS);
    if (events.length === 0) return FINAL_STATES.has(stored.job.state) ? "ended" : "asked";
    const job = events.reduce<Job>((before, event) => after(before, event, ref), stored.job);
    try {
      await store.update(stored, job, events);
      return job.state === "cancelled" ? "cancelled" : "asked";
    } catch (error) {
      if (!(error instanceof JobConflict)) throw error;
    }
  }
  return "kept";
}
