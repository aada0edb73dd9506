import { pino } from "pino";
import { LOCAL_CALLER } from "../../server/auth/authenticate.ts";
import { createCommandRunner } from "../../server/services/commands.ts";
import { createRuntime } from "../../server/services/runtime.ts";
import type { Workspace } from "../../server/services/workspace.ts";
import type { ClientChannel } from "../../server/tools/client-channel.ts";
import type { ToolContext } from "../../server/tools/define-tool.ts";

/** A client that can do nothing and wants to hear nothing. */
export const SILENT_CLIENT: ClientChannel = {
  wantsProgress: false,
  progress: async () => {},
  log: async () => {},
  capabilities: {},
  answers: {},
  state: undefined,
};

/** What a tool is run with, when it is run by itself. */
export function contextWith(parts: Partial<ToolContext> & { workspace: Workspace }): ToolContext {
  return {
    commands: createCommandRunner({ timeoutSeconds: 10, outputBytes: 4096, concurrency: 2 }),
    runtime: createRuntime("test", "1.0.0"),
    caller: LOCAL_CALLER,
    signal: new AbortController().signal,
    log: pino({ level: "silent" }),
    client: SILENT_CLIENT,
    ...parts,
  };
}
