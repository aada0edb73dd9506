import { z } from "zod";
import { icons } from "../icons.ts";
import { defineTool } from "./define-tool.ts";
import { failingClearly, JobView, submitterOf, viewOf } from "./job-answers.ts";

const KEY_CHARACTERS = 128;
const key = (what: string) =>
  z
    .string()
    .min(1, `give ${what} of 1 to ${KEY_CHARACTERS} characters, or leave it out`)
    .max(KEY_CHARACTERS, `give ${what} of at most ${KEY_CHARACTERS} characters`);

export const submitJob = defineTool({
  name: "submit_job",
  title: "Submit a job",
  description:
    "Has another tool run in the background and returns at once with the job's id: for work that takes longer than a " +
    "minute, such as a build, a whole test run or a large search, and for work that has to go on when you disconnect. " +
    "Tools that may be jobs: execute_command. Anything shorter is better called directly. Then ask get_job for the " +
    "result, with wait_seconds. The job runs as you, with your rights and in your workspace, and has the tool's own " +
    "limits, of which some may be higher than for a call. It is ended at its deadline. Give an idempotency_key if you " +
    "might submit the same again, after a lost connection say: the same key with the same arguments is the same job.",
  input: z.object({
    tool: z
      .string()
      .min(1, "name a tool")
      .max(128, "name a tool")
      .describe("Name of the tool to run: execute_command."),
    arguments: z
      .record(z.string(), z.unknown())
      .default({})
      .describe("What the tool is called with, as in a call of it; checked now, not when the job runs."),
    idempotency_key: key("a key")
      .optional()
      .describe("Any text of your choice that names this very piece of work. Kept as long as the job."),
    deadline_seconds: z
      .number()
      .positive("it must be more than 0 seconds")
      .optional()
      .describe(
        "Seconds from now after which the job is ended, waiting included: a week (604800) at most. The server sets what " +
          "it is by default, an hour unless it is told otherwise.",
      ),
    order_key: key("a key")
      .optional()
      .describe("Your jobs with the same order_key run one after the other, in the order in which you submitted them."),
    repeatable: z
      .boolean()
      .optional()
      .describe(
        "true: the job may be run again from its beginning if a worker is lost in the middle. Say so only if running it " +
          "twice does no harm. Default: what the tool says of itself; of execute_command, false.",
      ),
  }),
  output: JobView.extend({
    existing: z.boolean().describe("whether this is the job that was submitted before under the same idempotency_key"),
  }),
  annotations: { readOnlyHint: false, destructiveHint: true, idempotentHint: false, openWorldHint: true },
  icons: icons.clock,
  role: "reader",
  facets: { tool: ({ tool }) => tool },
  asksFor: ({ tool, arguments: args }) => ({ tool, args }),
  async run(input, { jobs, caller, traceId }) {
    const by = submitterOf(caller);
    const { job, existing } = await failingClearly(
      jobs.submit(by, {
        tool: input.tool,
        args: input.arguments,
        idempotencyKey: input.idempotency_key,
        deadlineSeconds: input.deadline_seconds,
        orderKey: input.order_key,
        repeatable: input.repeatable,
        traceId,
      }),
    );
    return { ...viewOf(job, by), existing };
  },
});
