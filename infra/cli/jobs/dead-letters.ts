import { parseEnvironment } from "../../../server/config.ts";
import { changeJob } from "../../../server/services/jobs/change-job.ts";
import { FINAL_STATES, type Job, type JobEvent, type JobRef } from "../../../server/services/jobs/job.ts";
import { queuedJob } from "../../../server/services/jobs/jobs.ts";
import { readMessage } from "../../../server/services/jobs/messages.ts";
import type { DeadLetter, JobQueue } from "../../../server/services/jobs/queue.ts";
import { JobConflict, type JobStore, type StoredJob, UnreadableJob } from "../../../server/services/jobs/store.ts";

/*
 * What was set aside, seen from both sides: the queue has dead letters, the store has dead jobs. A worker writes the store
 * first, so a job may be dead without a letter; the queue sets messages aside by itself, so there may be a letter of a
 * job that is not dead. Every step here can be taken again after whatever ended the one before.
 */

/** One thing that was set aside: a letter, a dead job, or mostly both. */
export interface SetAside {
  /** What the command line calls it: the letter's sequence number, or without a letter the job's id. */
  readonly name: string;
  /** Undefined: the job is dead, and the queue has nothing of it. */
  readonly letter?: DeadLetter;
  /** Undefined: the message cannot be read. */
  readonly ref?: JobRef;
  /** Undefined: the store has no such job, or has it no more. */
  readonly job?: Job;
}

/** What became of one of them. */
export interface Settled {
  readonly name: string;
  readonly job?: string;
  /**
   * `replayed`: it will run again. `resent`: the job had not ended, and its message is in the queue again. `ended`: the job
   * has ended by other means, and the letter is gone. `dropped`: the letter is gone, and the job is dead. `kept`: nothing
   * was done.
   */
  readonly outcome: "replayed" | "resent" | "ended" | "dropped" | "kept";
  /** A sentence, where the outcome does not say it all. */
  readonly because?: string;
}

interface Jobs {
  readonly store: JobStore;
  readonly queue: Pick<JobQueue, "send" | "deadLetters">;
}

/** A running job whose row is older than that has no worker any more. */
export const LEASE_MS = parseEnvironment({}).JOB_LEASE_SECONDS * 1000;
const NO_JOB =
  "The store has no such job (any more), or none that can be read: mcp-aks jobs replay mends that, or it can only be dropped.";
const CONTENDED = "Others keep changing the job; see what it is, and try again.";
const UNREADABLE =
  "Its message cannot be read by this version: use the one that the stack was deployed with, or it can only be dropped.";

/**
 * What was set aside, letters first, the oldest first.
 *
 * @param limit of letters, and of dead jobs of each partition.
 */
export async function listSetAside(
  { store, queue }: Jobs,
  { partitions, limit }: { readonly partitions: readonly string[]; readonly limit: number },
): Promise<readonly SetAside[]> {
  const letters: SetAside[] = [];
  for (const letter of await queue.deadLetters.list(limit)) {
    const read = readMessage(letter.body);
    const ref = read.kind === "job" ? read.ref : undefined;
    const stored = ref && (await readable(store, ref));
    letters.push({ name: letter.sequence, letter, ...(ref && { ref }), ...(stored && { job: stored.job }) });
  }
  const known = new Set(letters.map(({ ref }) => ref?.id));
  const dead: SetAside[] = [];
  for (const partition of partitions) {
    const { jobs } = await store.list({ partition, states: ["dead"], limit });
    for (const job of jobs) if (!known.has(job.id)) dead.push({ name: job.id, ref: job, job });
  }
  return [
    ...letters,
    ...dead.toSorted((one, other) => ((one.job?.endedAt ?? "") < (other.job?.endedAt ?? "") ? -1 : 1)),
  ];
}

/** A job, if there is one that can be read. */
async function readable(store: JobStore, ref: JobRef): Promise<StoredJob | undefined> {
  try {
    return await store.read(ref);
  } catch (error) {
    if (error instanceof UnreadableJob) return undefined;
    throw error;
  }
}

/** {@link changeJob} of a job, if there is one that can be read; `contended`: others change it without end. */
async function change(
  store: JobStore,
  ref: JobRef,
  decide: (stored: StoredJob) => readonly JobEvent[],
  options?: { readonly owed: boolean },
): Promise<Awaited<ReturnType<typeof changeJob>> | "contended"> {
  try {
    const stored = await store.read(ref);
    return stored && (await changeJob(store, stored, decide, options));
  } catch (error) {
    if (error instanceof UnreadableJob) return undefined;
    if (error instanceof JobConflict) return "contended";
    throw error;
  }
}

/**
 * Has a job run again. First the store says so, and owes the queue the message; whatever ends this process after that,
 * servers and workers see to it. Then the message is sent and the letter taken out; a second message does no harm.
 */
export async function replay(
  { store, queue }: Jobs,
  { name, letter, ref }: SetAside,
  { by, deadlineMs }: { readonly by: string; readonly deadlineMs: number },
): Promise<Settled> {
  if (ref === undefined) return { name, outcome: "kept", because: UNREADABLE };
  const decide = ({ job }: StoredJob): readonly JobEvent[] => {
    if (job.state !== "dead") return [];
    const at = new Date(store.now()).toISOString();
    return [{ type: "replayed", by, deadline: new Date(store.now() + deadlineMs).toISOString(), at }];
  };
  const changed = await change(store, ref, decide, { owed: true });
  if (changed === undefined) return { name, job: ref.id, outcome: "kept", because: NO_JOB };
  if (changed === "contended") return { name, job: ref.id, outcome: "kept", because: CONTENDED };
  const { job, events } = changed;
  if (FINAL_STATES.has(job.state)) {
    if (letter) await queue.deadLetters.drop(letter.sequence);
    return { name, job: job.id, outcome: "ended", because: `It has ended since: ${job.state}.` };
  }
  // A message of its own: the queue may still know the first one, and would drop its like.
  const message = queuedJob(job, true);
  const moved = letter !== undefined && (await queue.deadLetters.replay(letter.sequence, message.id));
  if (!moved) await queue.send(message);
  await store.sent(ref);
  return { name, job: job.id, outcome: events.length > 0 ? "replayed" : "resent" };
}

/** Takes a letter out for good. A job that had not ended is dead by that, and says why: nothing would ever run it. */
export async function drop({ store, queue }: Jobs, { name, letter, ref }: SetAside): Promise<Settled> {
  if (letter === undefined) {
    return {
      name,
      job: name,
      outcome: "kept",
      because: "It has no message that could be dropped; the job stays dead.",
    };
  }
  const reason = `Its message was set aside by the queue (${letter.reason}), and dropped by an operator.`;
  const decide = ({ job, readAt, changedAt }: StoredJob): readonly JobEvent[] => {
    const runs = job.state === "running" && readAt - changedAt < LEASE_MS;
    if (runs || FINAL_STATES.has(job.state)) return [];
    return [{ type: "dead-lettered", reason, at: new Date(store.now()).toISOString() }];
  };
  const changed = ref && (await change(store, ref, decide));
  if (changed === "contended") return { name, job: ref?.id ?? name, outcome: "kept", because: CONTENDED };
  if (changed !== undefined && !FINAL_STATES.has(changed.job.state)) {
    const because = "It is running; drop what is left of it when it has ended.";
    return { name, job: changed.job.id, outcome: "kept", because };
  }
  const there = await queue.deadLetters.drop(letter.sequence);
  const gone = there ? {} : { because: "It was gone already." };
  return { name, ...(ref && { job: ref.id }), outcome: "dropped", ...gone };
}
