import { z } from "zod";
import { icons } from "../icons.ts";
import { defineTool } from "./define-tool.ts";
import { failingClearly, JobView, jobId, noSuchJob, submitterOf, viewOf } from "./job-answers.ts";

export const cancelJob = defineTool({
  name: "cancel_job",
  title: "Cancel a job",
  description:
    "Ends a job: at once while it is queued, within seconds while it runs (get_job with wait_seconds then tells when). " +
    "What a running job has done by then stays done. A job that has ended stays as it is.",
  input: z.object({ id: jobId }),
  output: JobView,
  annotations: { readOnlyHint: false, destructiveHint: true, idempotentHint: true, openWorldHint: false },
  icons: icons.clock,
  role: "reader",
  facets: { id: ({ id }) => id },
  async run({ id }, { jobs, caller }) {
    const by = submitterOf(caller);
    const job = await failingClearly(jobs.cancel(by, id));
    if (job === undefined) throw noSuchJob(id);
    return viewOf(job, by);
  },
});
