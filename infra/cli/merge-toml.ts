import { isDeepStrictEqual } from "node:util";
import { parse, TomlError } from "smol-toml";
import type { JsonObject, JsonValue } from "../ide-configs.ts";
import { edited, editsFor, MergeError } from "./config-edits.ts";

/*
 * No TOML library on npm writes a document back with its comments, so the text is spliced: a scanner finds where every
 * key's value stands, and smol-toml reads the document before and after to prove that nothing else has changed.
 */

/**
 * Merges a server into the text of a TOML file, comments and all the rest kept to the letter.
 *
 * @returns the new text; the old one, identical, when nothing has to change.
 * @throws MergeError when the text is not TOML, or no edit of it is safe.
 */
export function mergeToml(text: string, content: JsonObject): string {
  const bom = text.startsWith("\uFEFF") ? "\uFEFF" : "";
  let result = text.slice(bom.length);
  const existing = read(result);
  const edits = editsFor(existing, content);
  for (const { path, value } of edits) {
    const keys = path.map(String);
    result = value === undefined ? withoutValue(result, keys) : withValue(result, keys, value);
  }
  if (!isDeepStrictEqual(tryRead(result), edited(existing, edits))) {
    const place = edits[0]?.path.slice(0, 2).join(".") ?? "";
    throw new MergeError(`the way it writes ${place} leaves no room for an edit; add the table by hand`);
  }
  return bom + result;
}

/** The text of a file that holds nothing else. */
export function printToml(content: JsonObject): string {
  return mergeToml("", content);
}

function read(text: string): Record<string, unknown> {
  try {
    // The clone has ordinary prototypes, which the parser's tables lack.
    return structuredClone(parse(text, { integersAsBigInt: true }));
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const what = error.message.split("\n")[0]?.replace(/^Invalid TOML document: /, "");
    throw new MergeError(`line ${error.line} is not TOML (${what}); mend it first`);
  }
}

function tryRead(text: string): Record<string, unknown> | undefined {
  try {
    return read(text);
  } catch {
    return undefined;
  }
}

/** A `key = value`, wherever it stands. Offsets are into the text. */
interface Pair {
  readonly path: readonly string[];
  /** Key as it is written, prefix of a dotted key included. */
  readonly start: number;
  readonly keyEnd: number;
  readonly valueStart: number;
  readonly valueEnd: number;
  /** In an inline table rather than on a line of its own. */
  readonly inline: boolean;
}

/** A `[table]`. Arrays of tables are skipped with all that is under them, for a server's entry is never one. */
interface Header {
  readonly path: readonly string[];
  /** Behind the line. */
  readonly end: number;
}

interface Document {
  readonly pairs: readonly Pair[];
  readonly headers: readonly Header[];
}

/** Finds pairs and headers of a document that is known to parse. */
function scan(text: string): Document {
  const pairs: Pair[] = [];
  const headers: Header[] = [];
  let at = 0;

  const peek = (literal: string) => text.startsWith(literal, at);
  const skip = (pattern: RegExp) => {
    pattern.lastIndex = at;
    at += pattern.exec(text)?.[0].length ?? 0;
  };
  const skipBlank = () => skip(/[ \t]*/y);
  /** White space, line ends and comments, as they stand between a list's items. */
  const skipFiller = () => skip(/(?:[ \t\r\n]|#[^\n]*)*/y);
  const skipString = () => {
    const quote = text[at] ?? "";
    if (peek(quote.repeat(3))) skip(quote === '"' ? /"""(?:\\[\s\S]|[^\\])*?"{3,5}/y : /'''[\s\S]*?'{3,5}/y);
    else skip(quote === '"' ? /"(?:\\.|[^"\\])*"/y : /'[^']*'/y);
  };
  const key = (): string[] => {
    const parts: string[] = [];
    do {
      if (peek(".")) at += 1;
      skipBlank();
      const start = at;
      if (peek('"') || peek("'")) {
        skipString();
        parts.push(Object.keys(parse(`${text.slice(start, at)} = 0`))[0] ?? "");
      } else {
        skip(/[A-Za-z0-9_-]+/y);
        parts.push(text.slice(start, at));
      }
      skipBlank();
    } while (peek("."));
    return parts;
  };
  const value = (path: readonly string[] | undefined): void => {
    if (peek('"') || peek("'")) skipString();
    else if (peek("[")) {
      at += 1;
      for (skipFiller(); !peek("]") && at < text.length; skipFiller()) {
        if (peek(",")) at += 1;
        else value(undefined);
      }
      at += 1;
    } else if (peek("{")) {
      at += 1;
      for (skipFiller(); !peek("}") && at < text.length; skipFiller()) {
        if (peek(",")) at += 1;
        else pair(path, true);
      }
      at += 1;
    } else {
      skip(/[^,\]}#\r\n]*/y);
      while (/[ \t]/.test(text[at - 1] ?? "")) at -= 1;
    }
  };
  const pair = (table: readonly string[] | undefined, inline: boolean): void => {
    const start = at;
    const own = key();
    const keyEnd = start + text.slice(start, at).trimEnd().length;
    const path = table && [...table, ...own];
    at += 1;
    skipBlank();
    const valueStart = at;
    value(path);
    if (path) pairs.push({ path, start, keyEnd, valueStart, valueEnd: at, inline });
  };

  let table: readonly string[] | undefined = [];
  const lists: (readonly string[])[] = [];
  for (skipFiller(); at < text.length; skipFiller()) {
    const before = at;
    if (peek("[[")) {
      at += 2;
      lists.push(key());
      table = undefined;
      skip(/[^\n]*\n?/y);
    } else if (peek("[")) {
      at += 1;
      const path = key();
      skip(/[^\n]*\n?/y);
      table = lists.some((list) => list.every((part, i) => part === path[i])) ? undefined : path;
      if (table) headers.push({ path, end: at });
    } else pair(table, false);
    if (at === before) break;
  }
  return { pairs, headers };
}

/** Puts a value at a path, in the way the document already writes what is around it. */
function withValue(text: string, path: readonly string[], value: JsonValue): string {
  const { pairs, headers } = scan(text);
  const splice = (start: number, end: number, insert: string) => text.slice(0, start) + insert + text.slice(end);
  const isPath = (other: readonly string[]) => isDeepStrictEqual(other, path);

  const own = pairs.find((pair) => isPath(pair.path));
  if (own) return splice(own.valueStart, own.valueEnd, inlineValue(value));

  // The nearest table around it that is written as one value.
  const around = pairs
    .filter((pair) => text[pair.valueStart] === "{" && startsWith(path, pair.path))
    .toSorted((a, b) => b.path.length - a.path.length)[0];
  if (around) {
    const key = path.slice(around.path.length).map(bareOrQuoted).join(".");
    // A table's pairs are found before the table itself, so the last one found inside is its last item.
    const last = pairs.findLast(
      (pair) => pair.inline && pair.valueStart > around.valueStart && pair.valueEnd < around.valueEnd,
    );
    const place = last ? last.valueEnd : around.valueStart + 1;
    return splice(place, place, last ? `, ${key} = ${inlineValue(value)}` : ` ${key} = ${inlineValue(value)} `);
  }

  const eol = text.includes("\r\n") ? "\r\n" : "\n";
  const parent = path.slice(0, -1);
  const isLeaf = typeof value !== "object" || value === null || Array.isArray(value);
  if (isLeaf) {
    const line = (prefix: readonly string[]) => {
      return `${path.slice(prefix.length).map(bareOrQuoted).join(".")} = ${inlineValue(value)}`;
    };
    const header = headers.find((h) => isDeepStrictEqual(h.path, parent));
    if (header) {
      const atLineStart = text[header.end - 1] === "\n";
      return splice(header.end, header.end, `${atLineStart ? "" : eol}${line(parent)}${eol}`);
    }
    // `mcp_servers.x.url = ...`: its siblings are lines with dotted keys.
    const sibling = pairs
      .filter((pair) => !pair.inline && startsWith(pair.path, parent))
      .map((pair) => ({ ...pair, prefix: pair.path.slice(0, -keyLength(text, pair)) }))
      .find(({ prefix }) => prefix.length < parent.length);
    if (sibling) return splice(sibling.start, sibling.start, `${line(sibling.prefix)}${eol}`);
  }
  const lines = isLeaf
    ? [tableHeader(parent), `${bareOrQuoted(path.at(-1) ?? "")} = ${inlineValue(value)}`]
    : tableLines(path, value as JsonObject);
  const gap = text.trim() === "" ? "" : text.endsWith("\n") ? eol : eol + eol;
  return `${text}${gap}${lines.join(eol)}${eol}`;
}

/** Takes away a line. What is inside an inline table stays, and the caller finds the document unchanged. */
function withoutValue(text: string, path: readonly string[]): string {
  const pair = scan(text).pairs.find((p) => isDeepStrictEqual(p.path, path));
  if (!pair || pair.inline) return text;
  const lineStart = text.lastIndexOf("\n", pair.start - 1) + 1;
  const lineEnd = text.indexOf("\n", pair.valueEnd);
  return text.slice(0, lineStart) + (lineEnd === -1 ? "" : text.slice(lineEnd + 1));
}

/** How many parts a pair's key has as it is written, which is fewer than its path below a header. */
function keyLength(text: string, { start, keyEnd }: Pair): number {
  return scan(`${text.slice(start, keyEnd)} = 0`).pairs[0]?.path.length ?? 0;
}

function startsWith(path: readonly string[], prefix: readonly string[]): boolean {
  return path.length > prefix.length && prefix.every((part, i) => part === path[i]);
}

function tableHeader(path: readonly string[]): string {
  return `[${path.map(bareOrQuoted).join(".")}]`;
}

/** A table as lines, tables of servers as headers rather than one line each. */
function tableLines(path: readonly string[], table: JsonObject): string[] {
  const values = Object.values(table);
  if (path.length < 2 && values.every((v) => typeof v === "object" && v !== null && !Array.isArray(v))) {
    return Object.entries(table).flatMap(([key, inner], i) => [
      ...(i === 0 ? [] : [""]),
      ...tableLines([...path, key], inner as JsonObject),
    ]);
  }
  return [
    tableHeader(path),
    ...Object.entries(table).map(([key, value]) => `${bareOrQuoted(key)} = ${inlineValue(value)}`),
  ];
}

function inlineValue(value: JsonValue): string {
  if (Array.isArray(value)) return `[${value.map(inlineValue).join(", ")}]`;
  if (typeof value === "object" && value !== null) {
    const pairs = Object.entries(value).map(([key, inner]) => `${bareOrQuoted(key)} = ${inlineValue(inner)}`);
    return pairs.length === 0 ? "{}" : `{ ${pairs.join(", ")} }`;
  }
  if (value === null) throw new TypeError("TOML has no null");
  return typeof value === "string" ? quoted(value) : String(value);
}

function bareOrQuoted(key: string): string {
  return /^[A-Za-z0-9_-]+$/.test(key) ? key : quoted(key);
}

/** A basic string: JSON's escapes are TOML's, but for DEL. */
function quoted(text: string): string {
  return JSON.stringify(text).replaceAll("\u007F", "\\u007F");
}
