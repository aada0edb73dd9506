import { setTimeout } from "node:timers/promises";
import { FINAL_STATES, type Job } from "./job.ts";
import type { Jobs, Submitter } from "./jobs.ts";

/** Between two looks at a job that somebody waits for: soon at first, since many are short. */
const FIRST_LOOK_MS = 100;
const LONGEST_LOOK_MS = 1000;

/** A job once it has ended, or as it is when `withinMs` have passed or `signal` aborts. Undefined as with {@link Jobs.get}. */
export async function awaitEnd(
  jobs: Pick<Jobs, "get">,
  by: Submitter,
  id: string,
  { withinMs, signal }: { readonly withinMs: number; readonly signal: AbortSignal },
): Promise<Job | undefined> {
  const until = performance.now() + withinMs;
  for (let wait = FIRST_LOOK_MS; ; wait = Math.min(LONGEST_LOOK_MS, wait * 1.5)) {
    const job = await jobs.get(by, id);
    const left = until - performance.now();
    if (job === undefined || FINAL_STATES.has(job.state) || left <= 0 || signal.aborted) return job;
    await setTimeout(Math.min(wait, left), undefined, { signal }).catch(() => {});
  }
}
