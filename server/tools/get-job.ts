import type { CallToolResult } from "@modelcontextprotocol/server";
import { z } from "zod";
import { icons } from "../icons.ts";
import { awaitEnd } from "../services/jobs/await-end.ts";
import { WorkspaceError } from "../services/workspace.ts";
import { defineTool, type Tool, type ToolContext } from "./define-tool.ts";
import { failingClearly, JobView, jobId, noSuchJob, submitterOf, viewOf } from "./job-answers.ts";
import { keepResult } from "./kept-results.ts";

/** Clients commonly give a call 60 seconds. */
const LONGEST_WAIT_SECONDS = 30;
/** Bytes of an answer that are not the result's. */
const VIEW_BYTES = 8 * 1024;

const lookedUp = defineTool({
  name: "get_job",
  title: "Look at a job",
  description:
    "Tells how a job does, and what came of it: its state, its progress, and once its tool has ended the tool's result, as " +
    "a call of the tool would have given it. With wait_seconds it answers as soon as the job has ended, or when that time " +
    "is up: call it again then, rather than often. A result too long for an answer comes as a link to a file in the " +
    "workspace.",
  input: z.object({
    id: jobId,
    wait_seconds: z
      .number()
      .min(0, "it must not be negative")
      .max(LONGEST_WAIT_SECONDS, `it must be at most ${LONGEST_WAIT_SECONDS}; call again after that`)
      .default(0)
      .describe(`Seconds to wait for its end, at most ${LONGEST_WAIT_SECONDS}. Default 0.`),
  }),
  output: JobView.extend({
    isError: z.boolean().optional().describe("whether the tool says that it failed"),
    result: z.record(z.string(), z.unknown()).optional().describe("what the tool gave back, as structured content"),
    resultResource: z.string().optional().describe("all of the result, where it is too long for an answer"),
  }),
  annotations: { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false },
  icons: icons.clock,
  role: "reader",
  facets: { id: ({ id }) => id },
  async run({ id, wait_seconds }, context) {
    const { jobs, caller, signal } = context;
    const by = submitterOf(caller);
    const withinMs = wait_seconds * 1000;
    const job = await failingClearly(awaitEnd(jobs, by, id, { withinMs, signal }));
    if (job === undefined) throw noSuchJob(id);
    const view = viewOf(job, by);
    const result = await failingClearly(jobs.result(job));
    if (result === undefined) return view;
    const { isError, structuredContent, content } = result;
    const said = { ...view, ...(isError && { isError }) };
    const whole = JSON.stringify(structuredContent ?? content);
    if (Buffer.byteLength(whole) > context.resultLimit - VIEW_BYTES)
      return { ...said, ...(await linkTo(whole, context)) };
    passedOn.set(context, content);
    return { ...said, ...(structuredContent !== undefined && { result: { ...structuredContent } }) };
  },
});

/** The content of a job's result, on its way into the answer that tells of the job. */
const passedOn = new WeakMap<ToolContext, CallToolResult["content"]>();

/** The tool's own content stands in the answer as it is, after what there is to say of the job. */
export const getJob: Tool = {
  ...lookedUp,
  async respond(args, context) {
    const structuredContent = await lookedUp.call(args, context);
    const view = { ...structuredContent };
    delete view.result;
    const content: CallToolResult["content"] = [{ type: "text", text: JSON.stringify(view) }];
    const { resultResource: uri } = view;
    if (typeof uri === "string") {
      content.push({
        type: "resource_link",
        uri,
        name: uri.slice(uri.lastIndexOf("/") + 1),
        mimeType: "application/json",
      });
    }
    content.push(...(passedOn.get(context) ?? []));
    return { content, structuredContent };
  },
};

async function linkTo(result: string, context: ToolContext): Promise<{ resultResource?: string; reason?: string }> {
  try {
    return { resultResource: (await keepResult(Buffer.from(result, "utf8"), ".json", context)).uri };
  } catch (error) {
    if (!(error instanceof WorkspaceError)) throw error;
    const bytes = Buffer.byteLength(result);
    return {
      reason: `Its result has ${bytes} bytes, too many for an answer, and could not be kept: ${error.message}.`,
    };
  }
}
