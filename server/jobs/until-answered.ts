import { setTimeout } from "node:timers/promises";
import { JobConflict } from "../services/jobs/store.ts";
import { Fenced } from "./held-job.ts";

const FIRST_WAIT_MS = 100;
const LONGEST_WAIT_MS = 3000;

/**
 * Does what has to be done until store or queue has answered to it, since what a run has come to must not be lost with
 * one request. What the store says of the job itself is an answer.
 *
 * @throws whatever the last try threw, once `signal` aborts.
 */
export async function untilAnswered<Result>(work: () => Promise<Result>, signal: AbortSignal): Promise<Result> {
  for (let wait = FIRST_WAIT_MS; ; wait = Math.min(LONGEST_WAIT_MS, wait * 2)) {
    try {
      return await work();
    } catch (error) {
      if (error instanceof JobConflict || error instanceof Fenced || signal.aborted) throw error;
      await setTimeout(wait, undefined, { signal }).catch(() => {});
    }
  }
}
