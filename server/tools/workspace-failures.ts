import { WorkspaceError } from "../services/workspace.ts";
import { ToolFailure } from "./define-tool.ts";

/** Passes on what the workspace refuses as a failure that the caller is told of. */
export async function failingClearly<T>(operation: Promise<T>): Promise<T> {
  try {
    return await operation;
  } catch (error) {
    throw error instanceof WorkspaceError ? new ToolFailure(error.message) : error;
  }
}
