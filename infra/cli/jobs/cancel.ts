import { changeJob } from "../../../server/services/jobs/change-job.ts";
import { FINAL_STATES, type Job, type JobRef } from "../../../server/services/jobs/job.ts";
import { cancelling } from "../../../server/services/jobs/next-step.ts";
import { JobConflict, type JobStore } from "../../../server/services/jobs/store.ts";
import { unfinishedJobs } from "../../../server/services/jobs/unfinished-jobs.ts";
import { LEASE_MS } from "./dead-letters.ts";

/** What became of a job that was to end. `asked`: it runs, and whoever runs it ends it within seconds. */
export type Cancelled = "cancelled" | "asked" | "ended" | "kept";

/** The jobs of one submitter, as `jobs list` names it, that have not ended. */
export async function unfinishedOf(
  store: JobStore,
  { partitions, submitter }: { readonly partitions: readonly string[]; readonly submitter: string },
): Promise<readonly Job[]> {
  const found: Job[] = [];
  for (const partition of partitions) {
    for await (const job of unfinishedJobs(store, { partition })) if (job.caller.subject === submitter) found.push(job);
  }
  return found;
}

/** Ends a job, as its submitter's `cancel_job` does. Can be repeated. */
export async function cancel(store: JobStore, ref: JobRef, by: string): Promise<Cancelled> {
  try {
    const stored = await store.read(ref);
    const changed = stored && (await changeJob(store, stored, (found) => cancelling(found, by, LEASE_MS)));
    if (changed === undefined) return "ended";
    if (!FINAL_STATES.has(changed.job.state)) return "asked";
    return changed.events.length > 0 ? "cancelled" : "ended";
  } catch (error) {
    if (error instanceof JobConflict) return "kept";
    throw error;
  }
}
