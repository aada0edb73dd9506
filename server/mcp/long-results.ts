import type { CallToolResult } from "@modelcontextprotocol/server";
import { WorkspaceError } from "../services/workspace.ts";
import type { ToolContext, ToolResult } from "../tools/define-tool.ts";
import { KEPT_RESULTS, keepResult } from "../tools/kept-results.ts";

/** Characters that a result's blocks carry, which is bytes or a little less. */
export function lengthOf({ content }: ToolResult): number {
  let length = 0;
  for (const block of content) {
    if (block.type === "text") length += block.text.length;
    else if (block.type === "image" || block.type === "audio") length += block.data.length;
    else if (block.type === "resource")
      length += "text" in block.resource ? block.resource.text.length : block.resource.blob.length;
  }
  return length;
}

/**
 * In place of a result that is longer than `limit`: a link to it, as a file in the caller's workspace, which can be read
 * in parts through any replica. It is an error to the protocol, since a tool that promises structured content can give
 * less only so; the sentence says that the tool did what it was to do.
 */
export async function linkTo(result: ToolResult, limit: number, context: ToolContext): Promise<CallToolResult> {
  const length = lengthOf(result);
  const text = JSON.stringify(result.structuredContent ?? result.content);
  try {
    const { path, uri, size } = await keepResult(Buffer.from(text, "utf8"), ".json", context);
    const sentence =
      `The call was carried out. Its result has ${length} bytes, and answers have at most ${limit}, so the whole of it ` +
      `is in the workspace: read ${path} with file_operation, or ${uri}, in parts. The ${KEPT_RESULTS} newest results are kept.`;
    return {
      isError: true,
      content: [
        { type: "text", text: sentence },
        { type: "resource_link", uri, name: path, description: "The whole result", mimeType: "application/json", size },
      ],
    };
  } catch (error) {
    if (!(error instanceof WorkspaceError)) throw error;
    const sentence =
      `The call was carried out, but its result has ${length} bytes: more than the ${limit} of an answer, and it could ` +
      `not be kept (${error.message}). Ask for less, or for a part at a time, or have it written to files.`;
    return { isError: true, content: [{ type: "text", text: sentence }] };
  }
}
