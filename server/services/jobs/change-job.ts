import { after, type Job, type JobEvent } from "./job.ts";
import { JobConflict, type JobStore, type StoredJob } from "./store.ts";

/** Others may change a job at the same time, each only so often. */
const MOST_TRIES = 50;

/**
 * Writes down what `decide` says has happened to the job, which it is asked anew when somebody else has changed the row
 * meanwhile; no events leave it as it is. The job as it then is, with what was written of it; undefined when it is gone.
 * `options` are the store's.
 *
 * @throws JobConflict when others change it without end; UnreadableJob.
 */
export async function changeJob(
  store: Pick<JobStore, "read" | "update">,
  found: StoredJob,
  decide: (stored: StoredJob) => readonly JobEvent[],
  options?: { readonly owed?: boolean },
): Promise<{ readonly job: Job; readonly events: readonly JobEvent[] } | undefined> {
  let stored = found;
  for (let tries = 1; ; tries++) {
    const events = decide(stored);
    if (events.length === 0) return { job: stored.job, events };
    const next = events.reduce<Job>((before, event) => after(before, event, before), stored.job);
    try {
      const { job } = await store.update(stored, next, events, options);
      return { job, events };
    } catch (error) {
      if (!(error instanceof JobConflict) || tries === MOST_TRIES) throw error;
      const fresh = await store.read(stored.job);
      if (fresh === undefined) return undefined;
      stored = fresh;
    }
  }
}
