import type { FastifyBaseLogger } from "fastify";
import type { Metrics } from "../observability/metrics.ts";
import type { Job, JobEvent } from "../services/jobs/job.ts";

/** Hears of each thing that happened to a job, once, from whoever wrote it down. */
export type TellOf = (job: Job, event: JobEvent) => void;

/** Puts what happens to jobs into the log, an event a line, and counts it. */
export function createTellOf(log: FastifyBaseLogger, metrics: Metrics): TellOf {
  return (job, event) => {
    const { id, tool, owner, attempts, traceId, reason } = job;
    const facts = { job: id, tool, owner, ...(traceId !== undefined && { traceId }) };
    switch (event.type) {
      case "progressed":
        return;
      case "submitted":
        log.info({ event: "job.submitted", ...facts, deadline: job.deadline, repeatable: job.repeatable });
        return;
      case "started": {
        const waitMs = Date.parse(event.at) - Date.parse(job.submittedAt);
        log.info({ event: "job.started", ...facts, attempt: attempts, worker: event.worker, waitMs });
        metrics.jobStarted(tool, attempts === 1 ? Math.max(0, waitMs) / 1000 : undefined);
        return;
      }
      case "retried":
        log.warn({
          event: "job.retried",
          ...facts,
          attempt: attempts,
          failures: job.failures,
          retryAt: job.retryAt,
          reason,
        });
        metrics.jobRetried(tool);
        return;
      case "completed":
        log.info({ event: `job.${event.outcome}`, ...facts, attempt: attempts });
        metrics.jobEnded(tool, event.outcome);
        return;
      case "dead-lettered":
        log.error({ event: "job.dead-lettered", ...facts, attempt: attempts, failures: job.failures, reason });
        metrics.jobEnded(tool, "dead");
        return;
      case "cancelled":
      case "expired":
        log.info({ event: `job.${event.type}`, ...facts, attempt: attempts });
        metrics.jobEnded(tool, event.type);
        return;
      default:
        log.info({ event: `job.${event.type}`, ...facts, by: event.by });
    }
  };
}
