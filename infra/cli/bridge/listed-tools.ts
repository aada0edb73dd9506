import { z } from "zod";

/** What the bridge keeps of a tool that it has seen listed. */
interface ListedTool {
  /** Whether calling it twice does no more than calling it once. */
  readonly repeatable: boolean;
  /** Arguments that travel as headers, too: path of property names, and the header's name. */
  readonly headers: readonly { readonly path: readonly string[]; readonly name: string }[];
}

/** A page of `tools/list`; whatever else it holds passes by unread. */
const Page = z.object({
  nextCursor: z.string().optional(),
  tools: z.array(
    z.object({
      name: z.string(),
      inputSchema: z.unknown(),
      annotations: z.object({ readOnlyHint: z.unknown(), idempotentHint: z.unknown() }).partial().optional(),
    }),
  ),
});

/**
 * The tools that have passed through the bridge in lists. A client on stdio sends no headers, so the bridge has to
 * know which arguments of a call the server wants as headers (MCP 2026-07-28, Streamable HTTP, "Custom Headers").
 */
export class ListedTools {
  readonly #tools = new Map<string, ListedTool>();

  /** Takes in a result of `tools/list`; returns the cursor of the next page, if there is one. */
  learn(result: unknown): string | undefined {
    const page = Page.safeParse(result);
    if (!page.success) return undefined;
    for (const { name, inputSchema, annotations } of page.data.tools) {
      const repeatable = annotations?.idempotentHint === true || annotations?.readOnlyHint === true;
      this.#tools.set(name, { repeatable, headers: [...declaredHeaders(inputSchema)] });
    }
    return page.data.nextCursor;
  }

  isRepeatable(name: unknown): boolean {
    return typeof name === "string" && this.#tools.get(name)?.repeatable === true;
  }

  /** The headers that mirror a call's arguments. */
  headersOf(name: unknown, args: unknown): Record<string, string> {
    const declared = typeof name === "string" ? (this.#tools.get(name)?.headers ?? []) : [];
    return Object.fromEntries(
      declared.flatMap(({ path, name }) => {
        const value = path.reduce(propertyOf, args);
        const text = typeof value === "string" ? value : isPlain(value) ? String(value) : undefined;
        return text === undefined ? [] : [[`mcp-param-${name}`, fieldValue(text)]];
      }),
    );
  }
}

/** RFC 9110 section 5.6.2. */
const TOKEN = /^[!#$%&'*+\-.^_`|~\w]+$/;

function* declaredHeaders(schema: unknown, path: readonly string[] = []): Generator<ListedTool["headers"][number]> {
  const name = propertyOf(schema, "x-mcp-header");
  if (typeof name === "string" && TOKEN.test(name) && path.length > 0) yield { path, name };
  const properties = propertyOf(schema, "properties");
  if (typeof properties !== "object" || properties === null) return;
  for (const [key, child] of Object.entries(properties)) yield* declaredHeaders(child, [...path, key]);
}

function propertyOf(value: unknown, key: string): unknown {
  return typeof value === "object" && value !== null && Object.hasOwn(value, key) ? Reflect.get(value, key) : undefined;
}

const isPlain = (value: unknown) => typeof value === "boolean" || Number.isSafeInteger(value);

/** Text as a header's value: as it is where a header can carry it, else in Base64 (section "Value Encoding"). */
function fieldValue(text: string): string {
  const fits = /^[\x20-\x7e\t]+$/.test(text) && text === text.trim() && !/^=\?base64\?.*\?=$/s.test(text);
  return fits ? text : `=?base64?${Buffer.from(text).toString("base64")}?=`;
}
