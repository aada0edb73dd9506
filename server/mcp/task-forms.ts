import { type CallToolResult, ProtocolErrorCode } from "@modelcontextprotocol/server";
import { z } from "zod";
import { FINAL_STATES, type Job } from "../services/jobs/job.ts";

/*
 * A job in the words of the protocol's tasks. Two protocols have them, and mean nearly the same:
 * - 2025-11-25, in the protocol itself and experimental ("Tasks" under Utilities);
 * - 2026-07-28, as the extension `io.modelcontextprotocol/tasks` (SEP-2663).
 */

/** The extension's name, in the capabilities of servers and clients. */
export const TASKS_EXTENSION = "io.modelcontextprotocol/tasks";

type Ended = "completed" | "failed" | "cancelled";

/** What both have, under the same names. */
interface Common {
  readonly taskId: string;
  readonly status: "working" | Ended;
  /** For people. */
  readonly statusMessage?: string;
  /** ISO 8601. */
  readonly createdAt: string;
  readonly lastUpdatedAt: string;
}

/** Times are milliseconds; the first counts from creation. */
export interface OlderTask extends Common {
  readonly ttl: number;
  readonly pollInterval: number;
}

export interface NewerTask extends Common {
  readonly ttlMs: number;
  readonly pollIntervalMs: number;
}

/** How a task ended, and so what its last answer is. */
export type Outcome =
  | { readonly result: CallToolResult; readonly error?: undefined }
  | { readonly error: { readonly code: number; readonly message: string }; readonly result?: undefined };

/** Characters of a message, which may be what a tool says of its progress. */
const MESSAGE_LIMIT = 1000;
/** Between questions after a task, which are asked less often the longer it takes. Milliseconds. */
const POLL_MS = { least: 500, most: 10_000 };
/** Of its age so far. */
const POLL_SHARE = 0.1;

export function isEnded({ state }: Job): boolean {
  return FINAL_STATES.has(state);
}

/**
 * 2025-11-25: a task that was cancelled is so at once and for good, whatever its tool still does; and one whose tool
 * reports a failure has failed.
 */
export function olderTask(job: Job, ttl: number, now: number): OlderTask {
  return { ...common(job, olderStatus(job)), ttl, pollInterval: pollMs(job, now) };
}

export function olderStatus(job: Job): Common["status"] {
  if (job.cancelRequestedAt !== undefined) return "cancelled";
  if (job.state === "succeeded") return "completed";
  if (job.state === "cancelled") return "cancelled";
  return isEnded(job) ? "failed" : "working";
}

/**
 * 2026-07-28: a task is what its job is, and a tool that reports a failure has completed; a task has failed that has no
 * answer of its tool. `outcome`: of a job that has ended; absent: only that it has is told.
 */
export function newerTask(job: Job, outcome: Outcome | undefined, ttlMs: number, now: number): NewerTask {
  const task = { ...common(job, newerStatus(job, outcome)), ttlMs, pollIntervalMs: pollMs(job, now) };
  if (task.status === "completed" && outcome?.result) return Object.assign(task, { result: outcome.result });
  if (task.status === "failed" && outcome?.error) return Object.assign(task, { error: outcome.error });
  return task;
}

function newerStatus({ state }: Job, outcome: Outcome | undefined): Common["status"] {
  switch (state) {
    case "queued":
    case "running":
      return "working";
    case "cancelled":
      return "cancelled";
    case "succeeded":
    case "failed":
      return outcome?.error === undefined ? "completed" : "failed";
    case "expired":
    case "dead":
      // What a tool had to say before its time was up is more than that it was.
      return outcome?.result === undefined ? "failed" : "completed";
  }
}

/** Where a job's result says that a call would have ended in an error of the protocol, which no result can be. */
export const PROTOCOL_ERROR_META = "mcp-on-aks/protocol-error";

const ProtocolFault = z.object({ code: z.int(), message: z.string() });

/** What a job that has ended comes to, with what its tool answered, where it did. */
export function outcomeOf(job: Job, answer: CallToolResult | undefined): Outcome {
  const { data: error } = ProtocolFault.safeParse(answer?._meta?.[PROTOCOL_ERROR_META]);
  if (error !== undefined) return { error };
  if (answer !== undefined) return { result: answer };
  return { error: { code: ProtocolErrorCode.InternalError, message: job.reason ?? `The task is ${job.state}.` } };
}

function common(job: Job, status: Common["status"]): Common {
  const { id: taskId, submittedAt, startedAt, endedAt, cancelRequestedAt } = job;
  const lastUpdatedAt = endedAt ?? cancelRequestedAt ?? startedAt ?? submittedAt;
  return { taskId, status, ...messageOf(job, status), createdAt: submittedAt, lastUpdatedAt };
}

function messageOf({ reason, progress, state }: Job, status: Common["status"]): Pick<Common, "statusMessage"> {
  if (status === "completed") return {};
  if (status === "cancelled") return { statusMessage: "The task was cancelled." };
  const words = reason ?? progress?.message ?? (state === "queued" ? "Waiting for its turn." : undefined);
  return words === undefined ? {} : { statusMessage: words.slice(0, MESSAGE_LIMIT) };
}

function pollMs({ submittedAt }: Job, now: number): number {
  const share = Math.round((now - Date.parse(submittedAt)) * POLL_SHARE);
  return Math.min(POLL_MS.most, Math.max(POLL_MS.least, share));
}
