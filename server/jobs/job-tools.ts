import type { CallGate } from "../mcp/call-gate.ts";
import { JobRefused, type JobTools } from "../services/jobs/jobs.ts";
import type { Tool } from "../tools/define-tool.ts";

/** The tools that may be jobs, for who may call them: what the gate says of a call holds for a job. */
export function createJobTools(tools: readonly Tool[], gate: Pick<CallGate, "find" | "decide">): JobTools {
  const names = tools.filter(({ job }) => job).map(({ name }) => name);
  return {
    names,
    examine(caller, name, args) {
      const tool = gate.find(caller, name);
      if (!tool?.job) {
        const known = names.filter((each) => gate.find(caller, each) !== undefined);
        const there =
          known.length === 0 ? "no tool may be a job for you" : `tools that may be jobs are ${known.join(", ")}`;
        throw new JobRefused(
          tool === undefined
            ? `Unknown tool ${JSON.stringify(name)}; ${there}.`
            : `${name} is none that may be a job: call it directly; ${there}.`,
        );
      }
      const decision = gate.decide(caller, tool, args);
      if (!decision.granted) throw new JobRefused(decision.message);
      const faults = tool.faultsIn?.(args);
      if (faults !== undefined) throw new JobRefused(faults);
      const { readOnlyHint, idempotentHint } = tool.listing.annotations;
      return { repeatable: readOnlyHint || idempotentHint };
    },
  };
}
