import type { PromptMessage } from "@modelcontextprotocol/server";
import { workspaceUri } from "../resources/workspace-files.ts";
import { mediaTypeOf } from "../services/media-types.ts";
import { textPageOf } from "../services/text-page.ts";
import { type Workspace, WorkspaceError } from "../services/workspace.ts";
import { PromptFailure } from "./define-prompt.ts";

/** A text file of the workspace, or one end of it. */
export interface Excerpt {
  readonly path: string;
  readonly text: string;
  /** Bytes of the whole file. */
  readonly size: number;
  /** What of the file is not in `text`, in words; undefined when all of it is. */
  readonly missing: string | undefined;
}

/** Reads at most `limit` bytes from the file's beginning or its end. Throws {@link PromptFailure} when it cannot. */
export async function excerpt(
  workspace: Workspace,
  path: string,
  limit: number,
  end: "head" | "tail",
): Promise<Excerpt> {
  try {
    const { size = 0 } = end === "tail" ? await workspace.stat(path) : {};
    const offset = Math.max(0, size - limit);
    const slice = await workspace.read(path, offset, limit);
    const page = textPageOf(slice);
    if (page === undefined) throw new PromptFailure(`${JSON.stringify(path)} is not UTF-8 text; name a text file.`);
    const left = slice.size - Buffer.byteLength(page.text);
    const missing = `the ${end === "tail" ? "first" : "last"} ${left} of ${slice.size} bytes are left out`;
    return { path, text: page.text, size: slice.size, missing: left > 0 ? missing : undefined };
  } catch (error) {
    throw error instanceof WorkspaceError ? new PromptFailure(error.message) : error;
  }
}

/** The excerpt as an attachment; what is missing can be read from the workspace by the same URI. */
export function attachment({ path, text }: Excerpt): PromptMessage {
  const resource = { uri: workspaceUri(path), mimeType: mediaTypeOf(path) ?? "text/plain", text };
  return { role: "user", content: { type: "resource", resource } };
}

export function said(text: string): PromptMessage {
  return { role: "user", content: { type: "text", text } };
}
