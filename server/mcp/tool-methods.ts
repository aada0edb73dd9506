import type { CallToolResult, ClientCapabilities, InputRequiredResult } from "@modelcontextprotocol/server";
import type { Role } from "../config.ts";
import type { Caller, Tool, ToolContext } from "../tools/define-tool.ts";
import type { CallGate } from "./call-gate.ts";
import { channelOf } from "./channel.ts";
import { type Answering, answering } from "./exchange.ts";
import { pagesOf } from "./pages.ts";
import type { ScopeFor } from "./step-up.ts";
import { becomesTask, speaksTasks, type TaskMethods } from "./task-methods.ts";
import type { CarryOut } from "./tool-calls.ts";

interface ToolMethodsOptions {
  readonly gate: CallGate;
  readonly carryOut: CarryOut;
  /** Absent: no call becomes a task. */
  readonly tasks?: TaskMethods | undefined;
}

export interface ToolMethods {
  readonly methods: readonly Answering[];
  /** Whether there is such a tool for the caller. */
  has(caller: Caller, name: string): boolean;
  /** Whether a call that asks for no task is run at once: there is such a tool for the caller, and it becomes no task. */
  isPlain(caller: Caller, name: string, args: unknown, capabilities: ClientCapabilities | undefined): boolean;
  /** For `tools/call`. */
  readonly scopeFor: ScopeFor;
  /** Calls a tool for a request; throws what is the protocol's own. */
  call(name: string, args: unknown, context: ToolContext): Promise<CallToolResult | InputRequiredResult>;
}

/** `tools/list` and `tools/call`. */
export function toolMethods({ gate, carryOut, tasks }: ToolMethodsOptions): ToolMethods {
  const { shown } = gate;
  // For clients of the 2025-11-25 protocol; the SDK leaves it out for newer ones.
  const listed = ({ listing, job }: Tool) => {
    if (tasks === undefined || !job) return listing;
    return { ...listing, execution: { taskSupport: job === "only" ? ("required" as const) : ("optional" as const) } };
  };
  const pagesFor = (role: Role) => pagesOf(shown[role].map(listed));
  const pages = { reader: pagesFor("reader"), operator: pagesFor("operator"), admin: pagesFor("admin") };

  const call: ToolMethods["call"] = async (name, args, context) => {
    const { result, error } = await carryOut(name, args, context);
    // A tool that speaks of the protocol itself is passed on as it is.
    if (result === undefined) throw error;
    return result;
  };

  const methods = [
    answering("tools/list", ({ params }, { caller }) => {
      const { items, ...rest } = pages[caller.role](params?.cursor);
      return { tools: items, ...rest };
    }),
    answering("tools/call", async ({ params }, exchange) => {
      const ran = exchange.ran();
      if (ran !== undefined) return ran;
      const begun = tasks?.begin(params, exchange);
      // Refused, which is a result like any other.
      if (begun !== undefined) return (await begun) as CallToolResult;
      return call(params.name, params.arguments, { ...(await exchange.call()), client: channelOf(exchange) });
    }),
  ];
  return {
    methods,
    has: (caller, name) => gate.find(caller, name) !== undefined,
    isPlain(caller, name, args, capabilities) {
      const tool = gate.find(caller, name);
      if (tool === undefined || tool.job === "only") return false;
      return tasks === undefined || !speaksTasks(capabilities) || !becomesTask(tool, args);
    },
    scopeFor: (caller, { name, arguments: args }) =>
      typeof name === "string" ? gate.scopeFor(caller, name, args) : undefined,
    call,
  };
}
