import { randomBytes } from "node:crypto";
import type { CallToolResult } from "@modelcontextprotocol/server";
import { workspaceUri } from "../resources/workspace-files.ts";
import { type Workspace, WorkspaceError } from "../services/workspace.ts";
import type { ToolContext, ToolResult } from "../tools/define-tool.ts";

/** Where results wait that are too long for an answer. */
const DIRECTORY = ".results";
/** As many are kept in a workspace; the oldest go first. */
const KEPT = 20;

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
export async function linkTo(
  result: ToolResult,
  limit: number,
  { workspace, signal }: ToolContext,
): Promise<CallToolResult> {
  const length = lengthOf(result);
  const text = JSON.stringify(result.structuredContent ?? result.content);
  const path = `${DIRECTORY}/${new Date().toISOString().replace(/\W/g, "")}-${randomBytes(4).toString("hex")}.json`;
  try {
    const { size } = await workspace.write(path, Buffer.from(text, "utf8"));
    await forgetOldest(workspace, signal);
    const uri = workspaceUri(path);
    const sentence =
      `The call was carried out. Its result has ${length} bytes, and answers have at most ${limit}, so the whole of it ` +
      `is in the workspace: read ${path} with file_operation, or ${uri}, in parts. The ${KEPT} newest results are kept.`;
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

async function forgetOldest(workspace: Workspace, signal: AbortSignal): Promise<void> {
  // Names begin with the time, and lists are in order of name.
  const { items } = await workspace.list(DIRECTORY, { recursive: false, offset: 0, limit: 1000, signal });
  for (const { path } of items.slice(0, -KEPT)) await workspace.remove(path, false).catch(() => {});
}
