import { posix } from "node:path";
import { icons } from "../icons.ts";
import { mediaTypeOf } from "../services/media-types.ts";
import { textPageOf } from "../services/text-page.ts";
import type { FileWatch } from "../services/watch.ts";
import { type FileSlice, type Workspace, WorkspaceError } from "../services/workspace.ts";
import type { CallContext } from "../tools/define-tool.ts";
import {
  type ResourceContents,
  ResourceFailure,
  ResourceMissing,
  type ResourcePage,
  type ResourceSource,
} from "./resource-source.ts";

const SCHEME = "workspace";
const FILE_TEMPLATE = "workspace:///{+path}";
const PART_TEMPLATE = "workspace:///{+path}{?offset,length}";

/** Directory entries looked at for one page of the list; those that are files and not hidden are on it. */
const PAGE_ENTRIES = 200;
/** Bytes of a file in one answer; what is longer comes in parts. About 64,000 tokens of text. */
const PART_BYTES = 256 * 1024;
/** Entries of a directory looked at for a completion. */
const COMPLETION_ENTRIES = 1000;

/** The URI of a file, from its path in the workspace. */
export function workspaceUri(path: string, part?: { offset: number; length: number }): string {
  const encoded = path.split("/").map(encodeURIComponent).join("/");
  return `${SCHEME}:///${encoded}${part ? `?offset=${part.offset}&length=${part.length}` : ""}`;
}

/**
 * The caller's workspace as resources: `workspace:///` and a path. Files are read whole up to a limit and beyond it in
 * parts, `?offset=` and `&length=` counting bytes; each part names the next.
 */
export function createWorkspaceFiles(watch: FileWatch): ResourceSource {
  return {
    scheme: SCHEME,
    role: "reader",
    templates: [
      {
        name: "workspace_file",
        title: "File in the workspace",
        uriTemplate: FILE_TEMPLATE,
        description:
          `Any file in the workspace, by its path. Files of more than ${PART_BYTES} bytes come in parts: ` +
          "the first part names the URI of the next.",
        icons: icons.file,
      },
      {
        name: "workspace_file_part",
        title: "Part of a file in the workspace",
        uriTemplate: PART_TEMPLATE,
        description: `Bytes of a file from offset on, at most ${PART_BYTES} at once, cut at whole characters.`,
        icons: icons.file,
      },
    ],
    list: (from, context) => list(from, context),
    read: (uri, { workspace }) => read(uri, workspace),
    complete: (template, variable, value, context) =>
      variable === "path" && (template === FILE_TEMPLATE || template === PART_TEMPLATE)
        ? completePath(value, context)
        : Promise.resolve([]),
    watch(uri, { workspace, log }, changed) {
      const { path } = parse(uri);
      const stop = watch.watch(workspace, path, changed);
      if (stop !== undefined) return stop;
      log.warn({ event: "watch.refused", watches: watch.size });
      throw new ResourceFailure(
        "This server watches as many files as it may for one workspace, or in all; unsubscribe from some, or read them.",
      );
    },
  };
}

async function list(from: string | undefined, { workspace, signal }: CallContext): Promise<ResourcePage> {
  const offset = from === undefined ? 0 : Number(from);
  if (!Number.isSafeInteger(offset) || offset < 0) throw new ResourceFailure("The cursor is none that this list gave.");
  const page = await clearly(workspace.list(".", { recursive: true, offset, limit: PAGE_ENTRIES, signal }));
  return {
    resources: page.items
      .filter(({ type, path }) => type === "file" && !isHidden(path))
      .map(({ path, size, modified }) => {
        const mimeType = mediaTypeOf(path);
        return {
          uri: workspaceUri(path),
          name: path,
          description: `${posix.basename(path)} in the workspace`,
          ...(mimeType !== undefined && { mimeType }),
          ...(size !== undefined && { size }),
          annotations: { lastModified: modified },
        };
      }),
    ...(page.nextOffset !== undefined && { next: String(page.nextOffset) }),
    ...(page.incomplete !== undefined && { incomplete: page.incomplete }),
  };
}

/** Version control and tool state would drown the list; by its URI each of those files can still be read. */
const isHidden = (path: string): boolean => path.split("/").some((name) => name.startsWith("."));

async function read(uri: string, workspace: Workspace): Promise<ResourceContents[]> {
  const { path, offset, length } = parse(uri);
  const slice = await clearly(workspace.read(path, offset, length), uri);
  const whole = slice.offset === 0 && slice.bytes.length === slice.size;
  const { contents, end } = contentsOf(path, slice);
  const first = { uri: whole ? uri : workspaceUri(path, { offset, length: end - offset }), ...contents };
  if (end >= slice.size) return [first];
  const next = workspaceUri(path, { offset: end, length: PART_BYTES });
  // A client that shows what it gets shows this too, so nobody takes the part for the whole.
  const rest = `[Bytes ${offset} to ${end - 1} of ${slice.size}. The file goes on at ${next}]`;
  return [first, { uri: next, mimeType: "text/plain", text: rest }];
}

function contentsOf(path: string, slice: FileSlice) {
  const { bytes, offset } = slice;
  const page = textPageOf(slice);
  const end = page?.nextOffset ?? offset + bytes.length;
  if (page === undefined || (end === offset && bytes.length > 0)) {
    const mimeType = mediaTypeOf(path) ?? "application/octet-stream";
    return { contents: { mimeType, blob: bytes.toString("base64") }, end: offset + bytes.length };
  }
  return { contents: { mimeType: mediaTypeOf(path) ?? "text/plain", text: page.text }, end };
}

function parse(uri: string): { path: string; offset: number; length: number } {
  const url = URL.parse(uri);
  if (url === null || url.protocol !== `${SCHEME}:` || url.host !== "" || url.hash !== "") {
    throw new ResourceMissing(`${JSON.stringify(uri)} is no file here; URIs are ${workspaceUri("path/to/file")}.`);
  }
  const path = decoded(url.pathname.slice(1));
  if (path === undefined || path === "") {
    throw new ResourceMissing(`${JSON.stringify(uri)} names no file; URIs are ${workspaceUri("path/to/file")}.`);
  }
  const number = (name: string, least: number, fallback: number): number => {
    const text = url.searchParams.get(name);
    if (text === null) return fallback;
    if (!/^\d{1,15}$/.test(text) || Number(text) < least) {
      throw new ResourceFailure(`"${name}" is ${JSON.stringify(text)}; give a whole number of bytes from ${least} on.`);
    }
    return Number(text);
  };
  const unknown = [...url.searchParams.keys()].find((name) => name !== "offset" && name !== "length");
  if (unknown !== undefined) {
    throw new ResourceFailure(`"${unknown}" means nothing to a file; its URI takes offset and length.`);
  }
  return { path, offset: number("offset", 0, 0), length: Math.min(number("length", 1, PART_BYTES), PART_BYTES) };
}

function decoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}

/** Paths that begin with `value`, directories ending in a slash. */
export async function completePath(value: string, { workspace, signal }: CallContext): Promise<string[]> {
  const slash = value.lastIndexOf("/");
  const directory = slash === -1 ? "." : value.slice(0, slash) || ".";
  const page = await workspace
    .list(directory, { recursive: false, offset: 0, limit: COMPLETION_ENTRIES, signal })
    // A path that leads nowhere, or outside, has no completions; that is no failure while somebody types.
    .catch((error: unknown) => {
      if (error instanceof WorkspaceError) return { items: [] };
      throw error;
    });
  const wantsHidden = value.slice(slash + 1).startsWith(".");
  return page.items
    .filter(({ path, type }) => type === "file" || type === "directory" || path === value)
    .filter(({ path }) => path.startsWith(value) && (wantsHidden || !posix.basename(path).startsWith(".")))
    .map(({ path, type }) => (type === "directory" ? `${path}/` : path));
}

/** Passes on what the workspace refuses as a failure that the caller is told of. */
async function clearly<T>(operation: Promise<T>, uri?: string): Promise<T> {
  try {
    return await operation;
  } catch (error) {
    if (!(error instanceof WorkspaceError)) throw error;
    throw uri === undefined ? new ResourceFailure(error.message) : new ResourceMissing(error.message);
  }
}
