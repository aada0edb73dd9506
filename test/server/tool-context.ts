import { pino } from "pino";
import { LOCAL_CALLER } from "../../server/auth/authenticate.ts";
import { type CommandLimits, commandLimits, parseEnvironment } from "../../server/config.ts";
import { type CommandRunner, type CommandRunnerOptions, createCommandRunner } from "../../server/services/commands.ts";
import { createIsolation, type Isolation, type IsolationOptions } from "../../server/services/isolation.ts";
import type { Jobs } from "../../server/services/jobs/jobs.ts";
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

const none = async () => {
  throw new Error("There are no jobs here.");
};
const NO_JOBS: Jobs = { tools: [], submit: none, get: none, result: none, list: none, cancel: none };

/** What a tool is run with, when it is run by itself. */
export function contextWith(parts: Partial<ToolContext> & { workspace: Workspace }): ToolContext {
  return {
    commands: commandRunner(),
    runtime: createRuntime("test", "1.0.0"),
    jobs: NO_JOBS,
    resultLimit: 1024 * 1024,
    caller: LOCAL_CALLER,
    signal: new AbortController().signal,
    log: pino({ level: "silent" }),
    client: SILENT_CLIENT,
    ...parts,
  };
}

/** Limits of every role: the defaults but for `limits`. */
export function limitsOf(limits: Partial<CommandLimits> = {}): CommandRunnerOptions["limits"] {
  const { admin } = commandLimits(parseEnvironment({}));
  const all = { ...admin, timeoutSeconds: 10, outputBytes: 4096, concurrency: 2, ...limits };
  return { reader: all, operator: all, admin: all };
}

/** util-linux of 2.41 or later, where the machine has an older one of its own. */
const TOOL_PATH = process.env.SANDBOX_TOOLS;

export function isolation(options: Partial<IsolationOptions> = {}): Promise<Isolation> {
  return createIsolation({
    mode: "auto",
    network: true,
    workspaces: "/nonexistent",
    hidden: [],
    toolPath: TOOL_PATH,
    ...options,
  });
}

interface RunnerParts {
  limits?: Partial<CommandLimits>;
  shell?: boolean;
  inAll?: number;
  isolation?: Promise<Isolation>;
}

let shared: Promise<Isolation> | undefined;

/** What most tests run commands in: one for all of them. */
function sharedIsolation(): Promise<Isolation> {
  if (shared === undefined) {
    shared = isolation();
    shared.then(({ close }) => process.once("exit", close));
  }
  return shared;
}

export function commandRunner({ limits, shell = true, inAll = 8, isolation }: RunnerParts = {}): CommandRunner {
  return createCommandRunner({
    limits: limitsOf(limits),
    concurrency: inAll,
    shell,
    isolation: isolation ?? sharedIsolation(),
  });
}
