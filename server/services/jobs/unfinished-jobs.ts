import type { Job, JobState } from "./job.ts";
import type { JobStore } from "./store.ts";

const UNFINISHED: readonly JobState[] = ["queued", "running"];
const PAGE = 500;

/** Jobs of a partition, or of one owner in it, that have not ended; the newest first, page by page as they are read. */
export async function* unfinishedJobs(
  store: Pick<JobStore, "list">,
  of: { readonly partition: string; readonly owner?: string | undefined },
): AsyncGenerator<Job> {
  let cursor: string | undefined;
  do {
    const page = await store.list({ ...of, states: UNFINISHED, limit: PAGE, cursor });
    yield* page.jobs;
    cursor = page.cursor;
  } while (cursor !== undefined);
}
