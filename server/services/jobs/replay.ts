import { isDeepStrictEqual } from "node:util";
import { after, ImpossibleEvent, type Job, type JobRef, type LoggedEvent } from "./job.ts";
import { type JobStore, type StoredJob, UnreadableJob } from "./store.ts";

/*
 * Jobs told again from what happened to them. Nothing is executed: what tools did, they have done. A job's row and its
 * log are written in one transaction, so a difference means that somebody has changed rows, or brought back old ones.
 */

/** A job as its log has it, or why the log makes none. */
export type Rebuilt = { readonly ref: JobRef } & ({ readonly job: Job } | { readonly fault: string });

/** How a job in the store is not what its log makes of it. */
export interface Difference {
  readonly ref: JobRef;
  /**
   * `missing`: there is no row. `unreadable`: there is no job in it. `differs`: they do not say the same. `newer`: the row
   * has come further than the log, of which something is lost. `log`: the log makes no job.
   */
  readonly kind: "missing" | "unreadable" | "differs" | "newer" | "log";
  /** A sentence. */
  readonly detail: string;
  /** What {@link JobStore.repair} may write; absent when there is nothing to go by, or what is there knows better. */
  readonly repair?: Job;
}

/** A live job moves on between one look and the next: looks until one finds it as it was. */
const LOOKS = 5;

/** Tells each job from its events, which come together and in order, as {@link JobStore.events} has them. */
export async function* rebuild(events: AsyncIterable<LoggedEvent>): AsyncGenerator<Rebuilt> {
  let current: { ref: JobRef; job: Job | undefined; fault: string | undefined } | undefined;
  const told = () => {
    if (current === undefined) return [];
    const { ref, job, fault = "The log is empty." } = current;
    return [job !== undefined && current.fault === undefined ? { ref, job } : { ref, fault }];
  };
  for await (const { partition, id, seq, event } of events) {
    if (current?.ref.id !== id || current.ref.partition !== partition) {
      yield* told();
      current = { ref: { partition, id }, job: undefined, fault: undefined };
    }
    if (current.fault !== undefined) continue;
    const next = (current.job?.version ?? 0) + 1;
    if (seq !== next) current.fault = `Event ${next} is not in the log; the next one is ${seq}.`;
    else {
      try {
        current.job = after(current.job, event, current.ref);
      } catch (error) {
        if (!(error instanceof ImpossibleEvent)) throw error;
        current.fault = `Event ${seq} cannot have happened: ${error.message}`;
      }
    }
  }
  yield* told();
}

/** Where the store differs from what was rebuilt. Reads only; live jobs that move on meanwhile are none. */
export async function* compare(rebuilt: AsyncIterable<Rebuilt>, store: JobStore): AsyncGenerator<Difference> {
  for await (const told of rebuilt) {
    if (difference(told, await look(store, told.ref)) === undefined) continue;
    const found = await atRest(store, told.ref);
    if (found !== undefined) yield found;
  }
}

/** What is in the row: a job, nothing, or something else. */
type Seen = StoredJob | UnreadableJob | undefined;

async function look(store: JobStore, ref: JobRef): Promise<Seen> {
  try {
    return await store.read(ref);
  } catch (error) {
    if (error instanceof UnreadableJob) return error;
    throw error;
  }
}

const etagOf = (seen: Seen) => (seen instanceof UnreadableJob ? seen.message : seen?.etag);

/** The difference in a moment in which nothing happened to the job: a row that was the same before and after its log. */
async function atRest(store: JobStore, ref: JobRef): Promise<Difference | undefined> {
  let before = await look(store, ref);
  for (let looks = 0; looks < LOOKS; looks += 1) {
    let told: Rebuilt | undefined;
    for await (const each of rebuild(store.events({ ref }))) told = each;
    const now = await look(store, ref);
    // Swept meanwhile.
    if (told === undefined) return undefined;
    if (etagOf(now) === etagOf(before)) return difference(told, now);
    before = now;
  }
  return undefined;
}

function difference(told: Rebuilt, seen: Seen): Difference | undefined {
  const { ref } = told;
  if ("fault" in told) return { ref, kind: "log", detail: told.fault };
  const { job } = told;
  if (seen === undefined) {
    return { ref, kind: "missing", detail: `There is no row; by its log it is ${job.state}.`, repair: job };
  }
  if (seen instanceof UnreadableJob) return { ref, kind: "unreadable", detail: seen.message, repair: job };
  if (seen.job.version > job.version) {
    const detail = `The row is at version ${seen.job.version}, and its log ends at ${job.version}.`;
    return { ref, kind: "newer", detail };
  }
  const [row, log] = [plain(seen.job), plain(job)];
  const names = [...new Set([...Object.keys(row), ...Object.keys(log)])];
  const fields = names.filter((name) => !isDeepStrictEqual(row[name], log[name]));
  if (fields.length === 0) return undefined;
  return { ref, kind: "differs", detail: `The row has other values for ${fields.join(", ")}.`, repair: job };
}

/** As it comes out of a store: without what is undefined. */
function plain(job: Job): Readonly<Record<string, unknown>> {
  return JSON.parse(JSON.stringify(job)) as Record<string, unknown>;
}
