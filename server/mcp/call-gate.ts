import type { ToolStatus } from "../observability/metrics.ts";
import type { Caller, Tool } from "../tools/define-tool.ts";

/** One call of a tool, before it runs. */
export interface Entering {
  readonly tool: Tool;
  readonly args: unknown;
  readonly caller: Caller;
}

/** How a call ended. */
export interface Left {
  readonly status: ToolStatus;
  readonly durationMs: number;
  /** What a fault of the tool threw. */
  readonly error?: unknown;
}

/** A call that may run; told once how it ended. */
export interface Entered {
  left(how: Left): void;
}

/** What stands between callers and tools on every transport: may they, is there room, and is it on record. */
export interface CallGate {
  /** The tools that the caller may call, in the order of the list. */
  shown(caller: Caller): readonly Tool[];
  /** Lets a call begin, or throws what its caller is told: a ToolFailure or a ProtocolError. */
  enter(call: Entering): Entered | Promise<Entered>;
}
