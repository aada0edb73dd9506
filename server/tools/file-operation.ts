import { posix } from "node:path";
import { z } from "zod";
import { icons } from "../icons.ts";
import { textPageOf } from "../services/text-page.ts";
import type { Workspace } from "../services/workspace.ts";
import type { ClientChannel } from "./client-channel.ts";
import { confirm } from "./confirm.ts";
import { defineTool, ToolFailure } from "./define-tool.ts";
import { failingClearly } from "./workspace-failures.ts";

/** Bytes read by one call that names no limit: what fits a model's context, the rest by `nextOffset`. */
const READ_DEFAULT_BYTES = 256 * 1024;
const PAGE_DEFAULT = 200;
const PAGE_MAXIMUM = 1000;

const OPERATIONS = ["read", "write", "append", "list", "stat", "search", "mkdir", "copy", "move", "delete"] as const;
type Operation = (typeof OPERATIONS)[number];

/** Operations that leave everything as it was. */
const READING: ReadonlySet<Operation> = new Set(["read", "list", "stat", "search"]);

const input = z.object({
  operation: z.enum(OPERATIONS, { error: `choose one of ${OPERATIONS.join(", ")}` }),
  path: z
    .string()
    .min(1, "give a path; . is the workspace")
    .describe("Relative to the workspace; . is the workspace itself."),
  content: z.string().optional().describe("write, append: what to write, in the given encoding."),
  encoding: z
    .enum(["utf-8", "base64"], { error: "choose utf-8 or base64" })
    .optional()
    .describe("read, write, append: utf-8 (default) for text, base64 for anything else."),
  destination: z
    .string()
    .min(1, "give a path")
    .optional()
    .describe("copy, move: the new path, which must not exist yet."),
  pattern: z
    .string()
    .min(1, "give a pattern, such as *.ts")
    .max(512, "a pattern has at most 512 characters")
    .optional()
    .describe(
      "search: names to find. * and ? within a name, ** for any directories: src/**/*.ts. Default: every name.",
    ),
  text: z
    .string()
    .min(1, "give the text to find")
    .max(4096, "a text to find has at most 4096 characters")
    .optional()
    .describe("search: exact text to find in the files whose names match."),
  recursive: z
    .boolean()
    .optional()
    .describe("list: include what is in subdirectories. delete, copy: required for a directory that is not empty."),
  offset: z
    .int("it must be a whole number")
    .min(0, "it must not be negative")
    .optional()
    .describe("read: first byte. list, search: how many entries to skip. Use nextOffset of the call before."),
  limit: z
    .int("it must be a whole number")
    .min(1, "it must be at least 1")
    .optional()
    .describe(
      `read: most bytes (default ${READ_DEFAULT_BYTES}). list, search: most entries (default ${PAGE_DEFAULT}, at most ${PAGE_MAXIMUM}).`,
    ),
});
type Input = z.output<typeof input>;

/** What each operation takes beside `operation` and `path`; anything else given is a mistake worth telling. */
const ARGUMENTS: Readonly<
  Record<Operation, { required?: readonly (keyof Input)[]; optional?: readonly (keyof Input)[] }>
> = {
  read: { optional: ["encoding", "offset", "limit"] },
  write: { required: ["content"], optional: ["encoding"] },
  append: { required: ["content"], optional: ["encoding"] },
  list: { optional: ["recursive", "offset", "limit"] },
  stat: {},
  search: { optional: ["pattern", "text", "offset", "limit"] },
  mkdir: {},
  copy: { required: ["destination"], optional: ["recursive"] },
  move: { required: ["destination"] },
  delete: { optional: ["recursive"] },
};

const entryType = z.enum(["file", "directory", "symlink", "other"]);

const output = z.object({
  operation: z.enum(OPERATIONS),
  path: z.string(),
  content: z.string().optional().describe("read"),
  encoding: z.enum(["utf-8", "base64"]).optional().describe("read"),
  size: z.int().optional().describe("read, write, append, stat: bytes of the whole file"),
  type: entryType.optional().describe("stat"),
  modified: z.string().optional().describe("stat: ISO 8601"),
  target: z.string().optional().describe("stat of a symlink: what it points to"),
  created: z.boolean().optional().describe("write, append, mkdir: whether it did not exist before"),
  destination: z.string().optional().describe("copy, move"),
  skipped: z.array(z.string()).optional().describe("copy: links, pipes and devices that were left out"),
  entries: z
    .array(z.object({ path: z.string(), type: entryType, size: z.int().optional(), modified: z.string() }))
    .optional()
    .describe("list"),
  matches: z
    .array(
      z.object({
        path: z.string(),
        type: entryType,
        lines: z.array(z.object({ line: z.int(), text: z.string() })).optional(),
      }),
    )
    .optional()
    .describe("search: at most 20 lines of each file"),
  nextOffset: z.int().optional().describe("read, list, search: there is more; call again with this offset"),
  incomplete: z.string().optional().describe("list, search: why not everything was looked at"),
});
type Output = z.input<typeof output>;
type Result = Omit<Output, "operation" | "path">;

export const fileOperation = defineTool({
  name: "file_operation",
  title: "Work with files",
  description:
    "Reads, writes, appends to, lists, searches, stats, copies, moves and deletes files in the workspace, and makes " +
    "directories (mkdir). Paths are relative to the workspace and never lead outside, links included. write replaces " +
    "the whole file at once; write, append, mkdir, copy and move make missing parent directories; copy and move never " +
    "overwrite. Text is UTF-8; use encoding base64 for anything else. Long results come in pages: when nextOffset is " +
    "there, call again with that offset. Whatever changes something needs the role operator.",
  input,
  output,
  annotations: { readOnlyHint: false, destructiveHint: true, idempotentHint: false, openWorldHint: false },
  icons: icons.file,
  role: "reader",
  roleFor: ({ operation }) => (READING.has(operation) ? "reader" : "operator"),
  facets: {
    operation: ({ operation }) => operation,
    path: ({ path, destination }) => [path, ...(destination === undefined ? [] : [destination])].map(plainPath),
  },
  async run(request, { workspace, signal, client }) {
    assertArgumentsBelong(request);
    if (request.operation === "delete" && request.recursive)
      await assertAgreed(request.path, workspace, signal, client);
    const result = await failingClearly(perform(request, workspace, signal));
    return { operation: request.operation, path: request.path, ...result };
  },
});

/** The path as the workspace understands it, links apart: without `.`, `..` and what is doubled. */
function plainPath(path: string): string {
  const plain = posix.normalize(path).replace(/\/+$/, "");
  return plain === "" ? "/" : plain;
}

/** Entries counted for a question; more than these are many. */
const COUNT_LIMIT = 1000;

/**
 * Whoever sits at the client agrees before a directory goes with all that it holds, where the client can ask; the
 * client that cannot was told by the annotations that this tool destroys.
 */
async function assertAgreed(path: string, workspace: Workspace, signal: AbortSignal, client: ClientChannel) {
  const { type } = await failingClearly(workspace.stat(path));
  if (type !== "directory") return;
  const options = { recursive: true, offset: 0, limit: COUNT_LIMIT, signal };
  const { items, nextOffset } = await failingClearly(workspace.list(path, options));
  if (items.length === 0) return;
  const count = `${nextOffset === undefined ? "" : "more than "}${items.length}`;
  const question = `Delete the directory ${JSON.stringify(path)} with everything in it (${count} entries)? This cannot be undone.`;
  if (confirm(client, question) === "refused") {
    throw new ToolFailure(`${JSON.stringify(path)} was not deleted: the user did not agree. Ask before you try again.`);
  }
}

async function perform(request: Input, workspace: Workspace, signal: AbortSignal): Promise<Result> {
  const { operation, path, destination = "", recursive = false } = request;
  switch (operation) {
    case "read":
      return read(request, workspace);
    case "write":
      return workspace.write(path, decode(request));
    case "append":
      return workspace.append(path, decode(request));
    case "list": {
      const { items, ...rest } = await workspace.list(path, { ...pageFrom(request), recursive, signal });
      return { entries: [...items], ...rest };
    }
    case "stat": {
      const { path: _, ...rest } = await workspace.stat(path);
      return rest;
    }
    case "search": {
      const { pattern = "*", text } = request;
      const { items, ...rest } = await workspace.search(path, {
        ...pageFrom(request),
        pattern,
        signal,
        ...(text !== undefined && { text }),
      });
      return {
        matches: items.map(({ lines, ...match }) => (lines ? { ...match, lines: [...lines] } : match)),
        ...rest,
      };
    }
    case "mkdir":
      return workspace.makeDirectory(path);
    case "copy": {
      const { skipped } = await workspace.copy(path, destination, recursive);
      return { destination, ...(skipped.length > 0 && { skipped: [...skipped] }) };
    }
    case "move":
      await workspace.move(path, destination);
      return { destination };
    case "delete":
      await workspace.remove(path, recursive);
      return {};
  }
}

async function read({ path, encoding = "utf-8", offset = 0, limit }: Input, workspace: Workspace): Promise<Result> {
  const most = Math.min(limit ?? READ_DEFAULT_BYTES, workspace.fileSizeLimit);
  const slice = await workspace.read(path, offset, most);
  if (encoding === "base64")
    return { content: slice.bytes.toString("base64"), encoding, ...extentOf(slice, slice.bytes.length) };
  const page = textPageOf(slice);
  if (page === undefined) {
    throw new ToolFailure(`${JSON.stringify(path)} is not UTF-8 text; read it with encoding base64.`);
  }
  const { text: content, ...extent } = page;
  if (content === "" && page.nextOffset !== undefined) {
    throw new ToolFailure(`Argument "limit" is ${most}: too few bytes for the next character; give at least 4.`);
  }
  return { content, encoding, ...extent };
}

function extentOf({ offset, size }: { offset: number; size: number }, consumed: number): Result {
  return { size, ...(offset + consumed < size && { nextOffset: offset + consumed }) };
}

function decode({ path, content = "", encoding = "utf-8" }: Input): Buffer {
  if (encoding === "utf-8") {
    if (!content.isWellFormed()) {
      throw new ToolFailure(
        `Argument "content" for ${JSON.stringify(path)} has half a surrogate pair, which UTF-8 cannot hold; send base64.`,
      );
    }
    return Buffer.from(content, "utf8");
  }
  const compact = content.replace(/\s/g, "");
  // Buffer.from() skips what it does not know; a typo would be written as other bytes than were meant.
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(compact) || compact.length % 4 !== 0) {
    throw new ToolFailure(
      `Argument "content" for ${JSON.stringify(path)} is not base64; encode the bytes, padding included, or use utf-8.`,
    );
  }
  return Buffer.from(compact, "base64");
}

function pageFrom({ offset = 0, limit = PAGE_DEFAULT }: Input) {
  if (limit > PAGE_MAXIMUM) {
    throw new ToolFailure(
      `Argument "limit" is ${limit}: at most ${PAGE_MAXIMUM} entries come at once; page with offset.`,
    );
  }
  return { offset, limit };
}

function assertArgumentsBelong(request: Input): void {
  const { operation } = request;
  const { required = [], optional = [] } = ARGUMENTS[operation];
  for (const name of required) {
    if (request[name] === undefined) {
      throw new ToolFailure(`Argument ${JSON.stringify(name)} is missing: operation ${operation} needs it.`);
    }
  }
  const takes: readonly string[] = ["operation", "path", ...required, ...optional];
  for (const [name, value] of Object.entries(request)) {
    if (value === undefined || takes.includes(name)) continue;
    throw new ToolFailure(
      `Argument ${JSON.stringify(name)} means nothing to operation ${operation}, which takes ${takes.join(", ")}.`,
    );
  }
}
