import { randomBytes } from "node:crypto";
import { workspaceUri } from "../resources/workspace-files.ts";
import type { Workspace } from "../services/workspace.ts";

/** Where results wait that are too long for an answer. */
const DIRECTORY = ".results";
/** As many are kept in a workspace; the oldest go first. */
export const KEPT_RESULTS = 20;

/** A file in the caller's workspace, which can be read in parts through any replica. */
export interface KeptResult {
  readonly path: string;
  readonly uri: string;
  /** Bytes. */
  readonly size: number;
}

/** Keeps what is too long for an answer; `ending` is that of the file's name. Throws the workspace's error if it cannot. */
export async function keepResult(
  content: Buffer,
  ending: string,
  { workspace, signal }: { readonly workspace: Workspace; readonly signal: AbortSignal },
): Promise<KeptResult> {
  const path = `${DIRECTORY}/${new Date().toISOString().replace(/\W/g, "")}-${randomBytes(4).toString("hex")}${ending}`;
  const { size } = await workspace.write(path, content);
  // Names begin with the time, and lists are in order of name.
  const { items } = await workspace.list(DIRECTORY, { recursive: false, offset: 0, limit: 1000, signal });
  for (const oldest of items.slice(0, -KEPT_RESULTS)) await workspace.remove(oldest.path, false).catch(() => {});
  return { path, uri: workspaceUri(path), size };
}
