import type { Tool } from "./define-tool.ts";
import { executeCommand } from "./execute-command.ts";
import { fileOperation } from "./file-operation.ts";
import { systemInfo } from "./system-info.ts";

/** The tools that this server offers, in the order in which clients see them. */
export const tools: readonly Tool[] = [executeCommand, fileOperation, systemInfo];
