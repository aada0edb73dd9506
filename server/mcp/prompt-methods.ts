import { ProtocolError, ProtocolErrorCode } from "@modelcontextprotocol/server";
import { type Prompt, PromptFailure } from "../prompts/define-prompt.ts";
import { InputNeeded } from "../tools/client-channel.ts";
import { channelOf } from "./channel.ts";
import { type Answering, answering } from "./exchange.ts";
import { pagesOf } from "./pages.ts";
import { askedFor } from "./tool-methods.ts";

/** `prompts/list` and `prompts/get`. */
export function promptMethods(prompts: readonly Prompt[]): readonly Answering[] {
  const byName = new Map(prompts.map((prompt) => [prompt.name, prompt]));
  if (byName.size < prompts.length) throw new Error("Two prompts have the same name.");
  const pages = pagesOf(prompts.map((prompt) => prompt.listing));
  return [
    answering("prompts/list", ({ params }) => {
      const { items, ...rest } = pages(params?.cursor);
      return { prompts: items, ...rest };
    }),
    answering("prompts/get", async ({ params }, exchange) => {
      const prompt = byName.get(params.name);
      if (prompt === undefined) {
        const known = [...byName.keys()].join(", ");
        throw invalid(`Unknown prompt ${JSON.stringify(params.name)}; there are ${known}.`);
      }
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
}

const invalid = (message: string) => new ProtocolError(ProtocolErrorCode.InvalidParams, message);
