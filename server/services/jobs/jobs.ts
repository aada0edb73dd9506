import type { CallToolResult } from "@modelcontextprotocol/server";
import type { Job, JobCaller, JobState } from "./job.ts";

/** Who asks, and under which name jobs are its own: `ownerOf(callerKey(caller))`. */
export interface Submitter {
  readonly caller: JobCaller;
  readonly owner: string;
}

export interface JobRequest {
  readonly tool: string;
  readonly args: unknown;
  /** The same key of the same submitter is the same job, as long as the job is kept. */
  readonly idempotencyKey?: string | undefined;
  /** From now; the configuration's, JOB_DEADLINE_SECONDS, unless it is less. */
  readonly deadlineSeconds?: number | undefined;
  readonly orderKey?: string | undefined;
  /** Default: whether the tool says of itself that it only reads, or may be repeated. */
  readonly repeatable?: boolean | undefined;
  readonly traceId?: string | undefined;
}

/** A job was not taken. The message goes to the caller as it is, and names the value and the mend. */
export class JobRefused extends Error {
  override readonly name = "JobRefused";
}

/** Jobs as their submitters see them. Callers see their own; admins all of their tenant's. */
export interface Jobs {
  /** Names of the tools that may be jobs. */
  readonly tools: readonly string[];
  /**
   * Takes a job: when this resolves it is kept, and will be run. `existing`: it was there already, by its idempotency
   * key.
   *
   * @throws JobRefused
   */
  submit(by: Submitter, request: JobRequest): Promise<{ readonly job: Job; readonly existing: boolean }>;
  /** Undefined when there is none that `by` may see: no difference is made. */
  get(by: Submitter, id: string): Promise<Job | undefined>;
  /** What its tool answered; undefined while there is no answer. */
  result(job: Job): Promise<CallToolResult | undefined>;
  list(
    by: Submitter,
    query: {
      readonly states?: readonly JobState[] | undefined;
      readonly limit: number;
      readonly cursor?: string | undefined;
      /** Of the whole tenant, for admins. */
      readonly everyone?: boolean | undefined;
    },
  ): Promise<{ readonly jobs: readonly Job[]; readonly cursor?: string | undefined }>;
  /** Asks for its end, which comes at once while it waits and within seconds while it runs. Undefined as with `get`. */
  cancel(by: Submitter, id: string): Promise<Job | undefined>;
}
