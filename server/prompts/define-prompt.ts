import type { Icon, PromptMessage } from "@modelcontextprotocol/server";
import type { z } from "zod";
import type { Role } from "../config.ts";
import type { ClientChannel } from "../tools/client-channel.ts";
import type { CallContext } from "../tools/define-tool.ts";

/** What a prompt gets beside its arguments. */
export interface PromptContext extends CallContext {
  readonly client: ClientChannel;
}

/** A prompt as the list of prompts shows it. */
export interface PromptListing {
  readonly name: string;
  readonly title: string;
  readonly description: string;
  readonly arguments: { name: string; description?: string; required: boolean }[];
  readonly icons?: Icon[];
}

/** A prompt as the protocol side uses it. */
export interface Prompt {
  readonly name: string;
  /** Without it, there is no such prompt for a caller. */
  readonly role: Role;
  readonly listing: PromptListing;
  /** Checks `args` and writes the messages. Throws {@link PromptFailure} for what the caller can mend. */
  render(args: Readonly<Record<string, string>>, context: PromptContext): Promise<PromptMessage[]>;
  /** What `argument` may be, beginning with `value`, best first; nothing when the prompt has no idea. */
  complete(argument: string, value: string, context: CallContext): Promise<readonly string[]>;
}

/** Arguments of prompts are strings, because clients ask people for them one by one. */
type PromptArguments = z.ZodObject<Record<string, z.ZodType<unknown, string | undefined>>>;

interface PromptDefinition<Arguments extends PromptArguments> {
  name: string;
  title: string;
  /** What a person needs to choose the prompt. */
  description: string;
  icons?: Icon[];
  /** What a caller must be to know of the prompt. Default `reader`: a prompt reads, and what it proposes is for tools to do. */
  role?: Role;
  arguments: Arguments;
  /** For each argument that has some: what it may be, given what has been typed. */
  complete?: { [Name in keyof z.input<Arguments>]?: (value: string, context: CallContext) => Promise<string[]> };
  render(args: z.output<Arguments>, context: PromptContext): Promise<PromptMessage[]> | PromptMessage[];
}

/** A failure that the caller can mend; the message goes to the caller as it is. */
export class PromptFailure extends Error {
  override readonly name = "PromptFailure";
}

/** Makes a prompt of its definition. The listing is made here, once. */
export function definePrompt<Arguments extends PromptArguments>(definition: PromptDefinition<Arguments>): Prompt {
  const { name, title, description, icons, role = "reader", complete = {}, render } = definition;
  const args = definition.arguments.strict();
  const known = Object.entries<z.ZodType>(args.shape);
  const listing: PromptListing = Object.freeze({
    name,
    title,
    description,
    arguments: known.map(([argument, schema]) => ({
      name: argument,
      ...(schema.description !== undefined && { description: schema.description }),
      required: !schema.safeParse(undefined).success,
    })),
    ...(icons && { icons }),
  });
  const completers = new Map(Object.entries<CompleteArgument | undefined>(complete));
  return {
    name,
    role,
    listing,
    async render(given, context) {
      const parsed = args.safeParse(given);
      if (!parsed.success) throw new PromptFailure(describe(name, known, parsed.error.issues));
      return render(parsed.data as z.output<Arguments>, context);
    },
    async complete(argument, value, context) {
      return (await completers.get(argument)?.(value, context)) ?? [];
    },
  };
}

type CompleteArgument = (value: string, context: CallContext) => Promise<string[]>;

function describe(prompt: string, known: [string, unknown][], issues: readonly z.core.$ZodIssue[]): string {
  const sentences = issues.map((issue) => {
    if (issue.code === "unrecognized_keys") {
      const names = issue.keys.map((key) => JSON.stringify(key)).join(", ");
      return `Unknown argument ${names}; ${prompt} takes ${known.map(([name]) => name).join(", ") || "none"}.`;
    }
    return `Argument ${JSON.stringify(issue.path.join("."))}: ${issue.message}.`;
  });
  return sentences.join(" ");
}
