import { pino } from "pino";
import { LOCAL_CALLER } from "../../server/auth/authenticate.ts";
import { type CommandLimits, commandLimits, parseEnvironment } from "../../server/config.ts";
import type { CallGate } from "../../server/mcp/call-gate.ts";
import { createIdempotentCalls } from "../../server/mcp/idempotent-calls.ts";
import { createResultCache } from "../../server/mcp/result-cache.ts";
import { createToolCalls, type ToolCallsOptions } from "../../server/mcp/tool-calls.ts";
import { createMetrics } from "../../server/observability/metrics.ts";
import { type CommandRunner, type CommandRunnerOptions, createCommandRunner } from "../../server/services/commands.ts";
import { createMemoryIdempotency } from "../../server/services/idempotency-memory.ts";
import { createIsolation, type Isolation, type IsolationOptions } from "../../server/services/isolation.ts";
import type { Jobs } from "../../server/services/jobs/jobs.ts";
import { createRuntime } from "../../server/services/runtime.ts";
import { createMemoryStore } from "../../server/services/shared-store-memory.ts";
import type { Workspace } from "../../server/services/workspace.ts";
import type { ClientChannel } from "../../server/tools/client-channel.ts";
import type { ToolContext } from "../../server/tools/define-tool.ts";
import { quietConnectors } from "./quiet-connectors.ts";

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
    connectors: quietConnectors(),
    caller: LOCAL_CALLER,
    signal: new AbortController().signal,
    log: pino({ level: "silent" }),
    client: SILENT_CLIENT,
    ...parts,
  };
}

/** What carries out calls behind that gate, with what is remembered of them in memory. */
export function toolCallsBehind(
  gate: CallGate,
  parts: Partial<Omit<ToolCallsOptions, "gate">> = {},
): ReturnType<typeof createToolCalls> {
  const { metrics = createMetrics([]), log = pino({ level: "silent" }) } = parts;
  return createToolCalls({
    gate,
    metrics,
    log,
    idempotentCalls: createIdempotentCalls({ store: createMemoryIdempotency(), metrics, log }),
    resultCache: createResultCache({ store: createMemoryStore(), metrics }),
    ...parts,
  });
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
