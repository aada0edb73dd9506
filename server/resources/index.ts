import type { FileWatch } from "../services/watch.ts";
import type { ResourceSource } from "./resource-source.ts";
import { createWorkspaceFiles } from "./workspace-files.ts";

/** The resources that this server offers, in the order in which clients see them. */
export function resourceSources(watch: FileWatch): readonly ResourceSource[] {
  return [createWorkspaceFiles(watch)];
}
