import { ProtocolError, ProtocolErrorCode } from "@modelcontextprotocol/server";
import { forEachRole } from "../auth/roles.ts";
import type { Role } from "../config.ts";
import { type Prompt, PromptFailure } from "../prompts/define-prompt.ts";
import { InputNeeded } from "../tools/client-channel.ts";
import type { Caller } from "../tools/define-tool.ts";
import { channelOf } from "./channel.ts";
import { type Answering, answering } from "./exchange.ts";
import { askedFor } from "./outcome.ts";
import { pagesOf } from "./pages.ts";
import { assertInScope, type ScopeFor, scopeForRole } from "./step-up.ts";

interface PromptMethods {
  readonly methods: readonly Answering[];
  /** For `prompts/get`. */
  readonly scopeFor: ScopeFor;
}

/** `prompts/list` and `prompts/get`. */
export function promptMethods(prompts: readonly Prompt[]): PromptMethods {
  const byName = new Map(prompts.map((prompt) => [prompt.name, prompt]));
  if (byName.size < prompts.length) throw new Error("Two prompts have the same name.");
  const shown = forEachRole(prompts, ({ role }) => role);
  const pagesFor = (role: Role) => pagesOf(shown[role].map((prompt) => prompt.listing));
  const pages = { reader: pagesFor("reader"), operator: pagesFor("operator"), admin: pagesFor("admin") };
  const find = (caller: Caller, name: unknown) => shown[caller.role].find((prompt) => prompt.name === name);
  const methods = [
    answering("prompts/list", ({ params }, { caller }) => {
      const { items, ...rest } = pages[caller.role](params?.cursor);
      return { prompts: items, ...rest };
    }),
    answering("prompts/get", async ({ params }, exchange) => {
      const { caller } = exchange;
      const prompt = find(caller, params.name);
      if (prompt === undefined) {
        const known = shown[caller.role].map(({ name }) => name).join(", ");
        throw invalid(`Unknown prompt ${JSON.stringify(params.name)}; there are ${known}.`);
      }
      assertInScope(caller, `The prompt ${prompt.name}`, prompt.role);
      try {
        const messages = await prompt.render(params.arguments ?? {}, {
          ...(await exchange.call()),
          client: channelOf(exchange),
        });
        return { description: prompt.listing.description, messages };
      } catch (error) {
        if (error instanceof InputNeeded) return askedFor(error);
        throw error instanceof PromptFailure ? invalid(error.message) : error;
      }
    }),
  ];
  return {
    methods,
    scopeFor(caller, { name }) {
      const prompt = find(caller, name);
      return prompt && scopeForRole(caller, prompt.role);
    },
  };
}

const invalid = (message: string) => new ProtocolError(ProtocolErrorCode.InvalidParams, message);
