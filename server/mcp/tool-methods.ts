import type { CallToolResult, InputRequiredResult } from "@modelcontextprotocol/server";
import type { Role } from "../config.ts";
import type { Caller, ToolContext } from "../tools/define-tool.ts";
import type { CallGate } from "./call-gate.ts";
import { channelOf } from "./channel.ts";
import { type Answering, answering } from "./exchange.ts";
import { pagesOf } from "./pages.ts";
import type { ScopeFor } from "./step-up.ts";
import type { CarryOut } from "./tool-calls.ts";

export interface ToolMethods {
  readonly methods: readonly Answering[];
  /** Whether there is such a tool for the caller. */
  has(caller: Caller, name: string): boolean;
  /** For `tools/call`. */
  readonly scopeFor: ScopeFor;
  /** Calls a tool for a request; throws what is the protocol's own. */
  call(name: string, args: unknown, context: ToolContext): Promise<CallToolResult | InputRequiredResult>;
}

/** `tools/list` and `tools/call`. */
export function toolMethods({ gate, carryOut }: { readonly gate: CallGate; readonly carryOut: CarryOut }): ToolMethods {
  const { shown } = gate;
  const pagesFor = (role: Role) => pagesOf(shown[role].map((tool) => tool.listing));
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
      return call(params.name, params.arguments, { ...(await exchange.call()), client: channelOf(exchange) });
    }),
  ];
  return {
    methods,
    has: (caller, name) => gate.find(caller, name) !== undefined,
    scopeFor: (caller, { name, arguments: args }) =>
      typeof name === "string" ? gate.scopeFor(caller, name, args) : undefined,
    call,
  };
}
