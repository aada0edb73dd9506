import { z } from "zod";
import { JOB_ID, JOB_STATES, type Job, JobProgress, ownerOf } from "../services/jobs/job.ts";
import { JobRefused, JobsUnavailable, type Submitter } from "../services/jobs/jobs.ts";
import { type Caller, callerKey, ToolFailure } from "./define-tool.ts";

/* What the tools about jobs have in common: how they name one, show one, and fail. */

export const jobId = z
  .string()
  .regex(JOB_ID, "it must be a job's id as submit_job gave it: 26 small letters and digits")
  .describe("Id of the job, as submit_job gave it.");

/** A job as its submitter sees it. */
export const JobView = z.object({
  id: z.string(),
  tool: z.string(),
  state: z
    .enum(JOB_STATES)
    .describe(
      "queued and running go on. succeeded and failed have a result; cancelled, expired (its deadline passed) and dead " +
        "(set aside for an operator) are final as well",
    ),
  attempts: z.number().int().describe("runs begun"),
  submittedAt: z.string(),
  startedAt: z.string().optional().describe("when the last run began"),
  endedAt: z.string().optional(),
  deadline: z.string().describe("when it is ended if it has not ended by then"),
  progress: JobProgress.optional(),
  cancelRequested: z.boolean().optional(),
  retryAt: z.string().optional().describe("when the next run is due, after one that was lost or broke"),
  reason: z.string().optional().describe("why it failed, was ended, was set aside, or is run again"),
  idempotencyKey: z.string().optional(),
  orderKey: z.string().optional(),
  submittedBy: z.string().optional().describe("of others' jobs: who submitted it"),
});
export type JobView = z.output<typeof JobView>;

export function viewOf(job: Job, { owner }: Submitter): JobView {
  const { id, tool, state, attempts, submittedAt, startedAt, endedAt, deadline } = job;
  const { progress, cancelRequestedAt, retryAt, reason, idempotencyKey, orderKey } = job;
  return {
    id,
    tool,
    state,
    attempts,
    submittedAt,
    ...(startedAt !== undefined && { startedAt }),
    ...(endedAt !== undefined && { endedAt }),
    deadline,
    ...(progress !== undefined && { progress }),
    ...(cancelRequestedAt !== undefined && { cancelRequested: true }),
    ...(retryAt !== undefined && { retryAt }),
    ...(reason !== undefined && { reason }),
    ...(idempotencyKey !== undefined && { idempotencyKey }),
    ...(orderKey !== undefined && { orderKey }),
    ...(job.owner !== owner && { submittedBy: job.caller.subject }),
  };
}

export function submitterOf(caller: Caller): Submitter {
  return { caller, owner: ownerOf(callerKey(caller)) };
}

/** The same for a job that never was, and for one that is somebody else's. */
export const noSuchJob = (id: string) =>
  new ToolFailure(`There is no job ${JSON.stringify(id)}; list_jobs names those there are.`);

/** Waits for what jobs do, and has what they refuse told to the caller. */
export async function failingClearly<Result>(work: Promise<Result>): Promise<Result> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof JobRefused || error instanceof JobsUnavailable) throw new ToolFailure(error.message);
    throw error;
  }
}
