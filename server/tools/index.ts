import { cancelJob } from "./cancel-job.ts";
import type { Tool } from "./define-tool.ts";
import { executeCommand } from "./execute-command.ts";
import { fileOperation } from "./file-operation.ts";
import { getJob } from "./get-job.ts";
import { listJobs } from "./list-jobs.ts";
import { submitJob } from "./submit-job.ts";
import { systemInfo } from "./system-info.ts";

/** The tools that this server offers, in the order in which clients see them. */
export const tools: readonly Tool[] = [
  executeCommand,
  fileOperation,
  systemInfo,
  submitJob,
  getJob,
  listJobs,
  cancelJob,
];
