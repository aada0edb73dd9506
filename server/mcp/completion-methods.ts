import { ProtocolError, ProtocolErrorCode } from "@modelcontextprotocol/server";
import type { Prompt } from "../prompts/define-prompt.ts";
import type { ResourceSource } from "../resources/resource-source.ts";
import { type Answering, answering } from "./exchange.ts";

/** Most values in one answer (MCP specification, Completion). */
const VALUES_LIMIT = 100;

/** `completion/complete`, for arguments of prompts and variables of resource templates. */
export function completionMethods(
  prompts: readonly Prompt[],
  sources: readonly ResourceSource[],
): readonly Answering[] {
  const promptsByName = new Map(prompts.map((prompt) => [prompt.name, prompt]));
  const sourcesByTemplate = new Map(
    sources.flatMap((source) => source.templates.map(({ uriTemplate }) => [uriTemplate, source] as const)),
  );
  return [
    answering("completion/complete", async ({ params: { ref, argument } }, { call }) => {
      const { name, value } = argument;
      let found: readonly string[];
      if (ref.type === "ref/prompt") {
        const prompt = promptsByName.get(ref.name);
        if (prompt === undefined) throw unknown("prompt", ref.name, [...promptsByName.keys()]);
        found = await prompt.complete(name, value, await call());
      } else {
        const source = sourcesByTemplate.get(ref.uri);
        if (source === undefined) throw unknown("resource template", ref.uri, [...sourcesByTemplate.keys()]);
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
