import { z } from "zod";
import { icons } from "../icons.ts";
import { JOB_STATES } from "../services/jobs/job.ts";
import { defineTool } from "./define-tool.ts";
import { failingClearly, JobView, submitterOf, viewOf } from "./job-answers.ts";

const PAGE_DEFAULT = 20;
const PAGE_MAXIMUM = 100;

export const listJobs = defineTool({
  name: "list_jobs",
  title: "List jobs",
  description:
    "Lists your jobs, the newest first, with their states and without their results: to find one again, or to see what " +
    "still runs. Jobs are kept for some days after their end. When nextCursor is there, call again with that cursor.",
  input: z.object({
    states: z
      .array(z.enum(JOB_STATES, { error: `choose among ${JOB_STATES.join(", ")}` }))
      .min(1, "name at least one state, or leave it out for all")
      .optional()
      .describe("Only jobs in these states. Default: all."),
    limit: z
      .int("it must be a whole number")
      .min(1, "it must be at least 1")
      .max(PAGE_MAXIMUM, `it must be at most ${PAGE_MAXIMUM}`)
      .default(PAGE_DEFAULT)
      .describe(`Most jobs in one answer, at most ${PAGE_MAXIMUM}. Default ${PAGE_DEFAULT}.`),
    cursor: z
      .string()
      .max(4096, "it must be nextCursor of the call before")
      .optional()
      .describe("nextCursor of the call before."),
    everyone: z.boolean().default(false).describe("true: everybody's jobs in your tenant, for admins."),
  }),
  output: z.object({ jobs: z.array(JobView), nextCursor: z.string().optional().describe("there is more") }),
  annotations: { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false },
  icons: icons.clock,
  role: "reader",
  roleFor: ({ everyone }) => (everyone ? "admin" : "reader"),
  async run({ states, limit, cursor, everyone }, { jobs, caller }) {
    const by = submitterOf(caller);
    const page = await failingClearly(jobs.list(by, { states, limit, cursor, everyone }));
    return {
      jobs: page.jobs.map((job) => viewOf(job, by)),
      ...(page.cursor !== undefined && { nextCursor: page.cursor }),
    };
  },
});
