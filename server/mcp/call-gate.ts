import { ProtocolError, ProtocolErrorCode } from "@modelcontextprotocol/server";
import { createAccess, type Decision } from "../auth/access.ts";
import { type AccessPolicy, atLeast } from "../auth/roles.ts";
import { ROLES, type Role } from "../config.ts";
import type { Audit } from "../observability/audit.ts";
import type { ToolStatus } from "../observability/metrics.ts";
import { digestOf } from "../services/arguments-digest.ts";
import {
  type Caller,
  type FacetContext,
  isUnknown,
  type JobRun,
  type Tool,
  ToolFailure,
} from "../tools/define-tool.ts";
import { scopeNeeded } from "./step-up.ts";

/** One call of a tool, before it runs. */
export interface Entering {
  readonly tool: Tool;
  readonly args: unknown;
  readonly caller: Caller;
  /** W3C trace id of the request, where it came with one. */
  readonly traceId?: string | undefined;
  /** The job that it is a run of. There was room for it when it was submitted; how many run is the worker's to say. */
  readonly run?: JobRun | undefined;
}

/** How a call ended. */
export interface Left {
  readonly status: ToolStatus;
  readonly durationMs: number;
  /** Bytes of what its caller gets. */
  readonly bytes: number;
}

/** A call that may run; told once how it ended. */
export interface Entered {
  left(how: Left): void;
}

/** What stands between callers and tools on every transport: may they, is there room, and is it on record. */
export interface CallGate {
  /** The tools that each role may call, in the order of the list. */
  readonly shown: Readonly<Record<Role, readonly Tool[]>>;
  /** The tool of that name, if the caller may know of it. */
  find(caller: Caller, name: string): Tool | undefined;
  /** What a caller is told of a name that is no tool's, or of a tool that it may not know of: word for word the same. */
  unknown(caller: Caller, name: string, traceId?: string): ProtocolError;
  /** Whether a call would be granted, beside limits, and without a record of the question. */
  decide(caller: Caller, tool: Tool, args: unknown): Decision;
  /** Lets a call begin, or throws what its caller is told: a {@link CallRefused} or a {@link ProtocolError}. */
  enter(call: Entering): Entered | Promise<Entered>;
  /** The scope that the caller's token lacks for that call; undefined when it lacks none, or a scope would not help. */
  scopeFor(caller: Caller, name: string, args: unknown): string | undefined;
}

/** A call was not let in; the message says why, and the mend. */
export class CallRefused extends ToolFailure {
  /** `argument`: not with these arguments. `limit`: not now. `audit`: not without a record of it. */
  readonly why: "argument" | "limit" | "audit";

  constructor(why: CallRefused["why"], message: string, output?: Record<string, unknown>) {
    super(message, output);
    this.why = why;
  }
}

/** Room for a call, or why there is none. */
export type Admission =
  | { release(bytes: number): void }
  | {
      readonly refused: "tool" | "caller" | "global";
      readonly what: "calls" | "concurrency" | "bytes";
      readonly retryAfterSeconds: number;
    };

/** As far as calls are concerned. */
export interface CallLimits {
  admit(caller: Caller, tool: string): Admission | Promise<Admission>;
}

/** As far as calls are concerned. */
export type CallAudit = Pick<Audit, "decided" | "begin">;

export interface CallGateOptions {
  readonly tools: readonly Tool[];
  readonly policy: AccessPolicy;
  /** What the facets of calls may depend on. */
  readonly facetContext: FacetContext;
  readonly limits?: CallLimits | undefined;
  readonly audit?: CallAudit | undefined;
}

/** Nothing has to be told how the call ended. */
const ENTERED: Entered = Object.freeze({ left() {} });

/** Longest part of a name from the network that a record or a message repeats. */
export const NAME_CHARACTERS = 128;

/** A call of a tool, as limits and audit know it. */
type Known = Pick<Entering, "caller" | "traceId" | "run"> & { readonly tool: string };
/** What the record of a call tells beside that; made where there is a record. */
type Particulars = Pick<Parameters<CallAudit["begin"]>[0], "changes" | "argumentDigest" | "safeArguments">;

/** The part of the gate that needs to know nothing of the tool: is there room, and is the call on record. */
export function createEntrance({
  limits,
  audit,
}: Pick<CallGateOptions, "limits" | "audit">): (
  call: Known,
  particulars: () => Particulars,
) => Entered | Promise<Entered> {
  function admitted(call: Known, admission: Admission) {
    if ("release" in admission) return admission;
    const { refused, what, retryAfterSeconds } = admission;
    audit?.decided({ decision: "refused", reason: `limit:${refused}:${what}`, ...call });
    throw new CallRefused("limit", limitMessage(call.tool, admission), { limit: refused, what, retryAfterSeconds });
  }

  function begun(call: Known, particulars: () => Particulars, release: (bytes: number) => void): Entered {
    if (audit === undefined) return { left: ({ bytes }) => release(bytes) };
    let record: ReturnType<CallAudit["begin"]>;
    try {
      record = audit.begin({ ...call, ...particulars() });
    } catch (cause) {
      release(0);
      const refusal = new CallRefused(
        "audit",
        `${call.tool} was not run: this server cannot record calls at the moment, and runs none that changes something ` +
          "without a record. Reading goes on; try again later.",
      );
      refusal.cause = cause;
      throw refusal;
    }
    return {
      left({ status, durationMs, bytes }) {
        record.ended({ outcome: status, durationMs });
        release(bytes);
      },
    };
  }

  return (call, particulars) => {
    if (limits === undefined || call.run !== undefined) {
      return audit === undefined ? ENTERED : begun(call, particulars, () => {});
    }
    const enter = (admission: Admission) => {
      const room = admitted(call, admission);
      return begun(call, particulars, (bytes) => room.release(bytes));
    };
    const admission = limits.admit(call.caller, call.tool);
    return admission instanceof Promise ? admission.then(enter) : enter(admission);
  };
}

/**
 * Composes what a call passes through: the decision on it, the limits, the record of it. It leaves in reverse.
 *
 * @throws EnvironmentError when the policy does not fit the tools.
 */
export function createCallGate({ tools, policy, facetContext, limits, audit }: CallGateOptions): CallGate {
  const access = createAccess({ tools, policy, facetContext });
  const { shown } = access;
  const enter = createEntrance({ limits, audit });
  const byName = (role: Role) => new Map(shown[role].map((tool) => [tool.name, tool]));
  const known = { reader: byName("reader"), operator: byName("operator"), admin: byName("admin") };
  const names = (role: Role) => shown[role].map(({ name }) => name).join(", ") || "none";
  const listed = { reader: names("reader"), operator: names("operator"), admin: names("admin") };

  /** Decides on a call, and on the one that it asks for: it is granted no more than that. */
  function decide(caller: Caller, tool: Tool, args: unknown): Decision {
    const decision = access.decide(caller, tool, args);
    const later = decision.granted ? tool.asksFor?.(args) : undefined;
    const asked = later && known[caller.role].get(later.tool);
    // What there is not for the caller, the tool itself refuses, in its own words.
    return asked?.job ? access.decide(caller, asked, later?.args) : decision;
  }

  /** Throws what a caller is told whose call is not granted. */
  function assertGranted({ tool, args, caller, traceId }: Entering): void {
    const decision = decide(caller, tool, args);
    if (decision.granted) return;
    audit?.decided({ decision: "denied", reason: decision.why, caller, tool: tool.name, traceId });
    if (decision.why === "hidden") throw unknownTool(tool.name, listed[caller.role]);
    if (decision.why === "argument") throw new CallRefused("argument", decision.message);
    throw scopeNeeded(decision.message, decision.scope ?? "");
  }

  return {
    shown,
    find: (caller, name) => known[caller.role].get(name),
    unknown(caller, name, traceId) {
      audit?.decided({ decision: "denied", reason: "hidden", caller, tool: name.slice(0, NAME_CHARACTERS), traceId });
      return unknownTool(name, listed[caller.role]);
    },
    decide,
    enter(call) {
      assertGranted(call);
      const { tool, args, caller, traceId, run } = call;
      return enter({ caller, tool: tool.name, traceId, ...(run && { run }) }, () => ({
        changes: changes(tool, args),
        argumentDigest: digestOf(args),
        safeArguments: {
          ...safeArguments(tool, args, facetContext),
          ...(run && { job: run.jobId, attempt: String(run.attempt) }),
        },
      }));
    },
    scopeFor(caller, name, args) {
      const tool = known[caller.role].get(name);
      const decision = tool && decide(caller, tool, args);
      return decision?.granted === false ? decision.scope : undefined;
    },
  };
}

function unknownTool(name: string, known: string): ProtocolError {
  return new ProtocolError(
    ProtocolErrorCode.InvalidParams,
    `Unknown tool ${JSON.stringify(name)}; there are ${known}.`,
  );
}

function limitMessage(
  tool: string,
  { refused, what, retryAfterSeconds }: Exclude<Admission, { release: unknown }>,
): string {
  const whose = {
    tool: `calls of ${tool} by you`,
    caller: "calls by you",
    global: "calls to this server",
  }[refused];
  const used = {
    calls: `as many ${whose} as may be made in a while have been made`,
    concurrency: `as many ${whose} as may run at once are running`,
    bytes: `the answers to ${whose} have had as many bytes as they may in a while`,
  }[what];
  const seconds = Math.max(1, Math.ceil(retryAfterSeconds));
  return `${tool} was not run: ${used}. Try again in ${seconds} second${seconds === 1 ? "" : "s"}.`;
}

/** Whether a call may change something, as far as is known before it runs. */
function changes(tool: Tool, args: unknown): boolean {
  if (tool.listing.annotations.readOnlyHint) return false;
  const needed = tool.roleFor?.(args);
  // A tool that tells its arguments apart by role wants no more of a call that only looks.
  return needed === undefined || atLeast(needed, CHANGING_ROLE);
}

const CHANGING_ROLE = ROLES[1];

/** What the tool lets be seen of the arguments. */
function safeArguments(tool: Tool, args: unknown, context: FacetContext): Record<string, string> {
  const safe: Record<string, string> = {};
  for (const [name, facet] of Object.entries(tool.facets?.(args, context) ?? {})) {
    if (facet === undefined || isUnknown(facet)) continue;
    safe[name] = typeof facet === "string" ? facet : facet.join(" -> ");
  }
  return safe;
}
