import { createHash } from "node:crypto";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { KEY } from "./workloads.ts";

/** A server of this repository as the bench runs it: everything on, and limits that are never reached. */
export const environment: Readonly<Record<string, string>> = {
  WORKSPACE_PATH: join(tmpdir(), "bench-workspace"),
  AUTH_MODE: "api-key",
  API_KEY_HASHES: `sha256:${createHash("sha256").update(KEY).digest("hex")}`,
  RATE_LIMIT_PER_MINUTE: "1000000000",
  RATE_LIMIT_TOOL_PER_MINUTE: "1000000000",
  RATE_LIMIT_GLOBAL_PER_MINUTE: "1000000000",
  RATE_LIMIT_BYTES_PER_MINUTE: String(1024 ** 4),
  CALL_CONCURRENCY: "10000",
  CALL_GLOBAL_CONCURRENCY: "10000",
};
