import { ProtocolError, ProtocolErrorCode } from "@modelcontextprotocol/server";
import { forEachRole } from "../auth/roles.ts";
import type { Prompt } from "../prompts/define-prompt.ts";
import type { ResourceSource } from "../resources/resource-source.ts";
import { type Answering, answering } from "./exchange.ts";
import { assertInScope } from "./step-up.ts";

/** Most values in one answer (MCP specification, Completion). */
const VALUES_LIMIT = 100;

/** `completion/complete`, for arguments of prompts and variables of resource templates. */
export function completionMethods(
  prompts: readonly Prompt[],
  sources: readonly ResourceSource[],
): readonly Answering[] {
  const shown = {
    prompts: forEachRole(prompts, ({ role }) => role),
    sources: forEachRole(sources, ({ role }) => role),
  };
  return [
    answering("completion/complete", async ({ params: { ref, argument } }, { call, caller }) => {
      const { name, value } = argument;
      let found: readonly string[];
      if (ref.type === "ref/prompt") {
        const known = shown.prompts[caller.role];
        const prompt = known.find((each) => each.name === ref.name);
        if (prompt === undefined)
          throw unknown(
            "prompt",
            ref.name,
            known.map((each) => each.name),
          );
        assertInScope(caller, `The prompt ${prompt.name}`, prompt.role);
        found = await prompt.complete(name, value, await call());
      } else {
        const known = shown.sources[caller.role];
        const templates = (source: ResourceSource) => source.templates.map(({ uriTemplate }) => uriTemplate);
        const source = known.find((each) => templates(each).includes(ref.uri));
        if (source === undefined) throw unknown("resource template", ref.uri, known.flatMap(templates));
        assertInScope(caller, `What is under ${source.scheme}:`, source.role);
        found = await source.complete(ref.uri, name, value, await call());
      }
      const values = found.slice(0, VALUES_LIMIT);
      return { completion: { values, total: found.length, hasMore: found.length > values.length } };
    }),
  ];
}

function unknown(what: string, name: string, known: readonly string[]): ProtocolError {
  return new ProtocolError(
    ProtocolErrorCode.InvalidParams,
    `Unknown ${what} ${JSON.stringify(name)}; there are ${known.join(", ")}.`,
  );
}
