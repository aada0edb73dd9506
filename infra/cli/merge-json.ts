import { isDeepStrictEqual } from "node:util";
import {
  applyEdits,
  findNodeAtLocation,
  modify,
  type Node,
  type ParseError,
  parseTree,
  printParseErrorCode,
} from "jsonc-parser";
import type { JsonObject, JsonValue } from "../ide-configs.ts";
import { type ConfigEdit, edited, editsFor, isTable, MergeError } from "./config-edits.ts";

/**
 * Merges a server into the text of a JSON file, comments and all the rest kept to the letter.
 *
 * @returns the new text; the old one, identical, when nothing has to change.
 * @throws MergeError when the text is not JSON (with or without comments) or its shape leaves no place for a server.
 */
export function mergeJson(text: string, content: JsonObject): string {
  const bom = text.startsWith("\uFEFF") ? "\uFEFF" : "";
  const body = text.slice(bom.length);
  const style = styleOf(body);
  const existing = read(body);
  if (existing === undefined) {
    // Nothing but white space and comments.
    const before = body.trimEnd();
    return `${bom}${before}${before && style.eol}${printJson(content, { ...style, indent: "  " })}`;
  }
  const edits = editsFor(existing, content);
  let result = body;
  for (const edit of edits) result = withEdit(result, edit, style);
  if (!isDeepStrictEqual(read(result), edited(existing, edits))) {
    throw new MergeError("no edit of it is safe; merge by hand");
  }
  return bom + result;
}

/** The text of a file that holds nothing else. */
export function printJson(content: JsonObject, style: Style = { indent: "  ", eol: "\n" }): string {
  return `${JSON.stringify(content, null, style.indent)}\n`.replaceAll("\n", style.eol);
}

/** The indentation and line ends that a file already has. No indentation: it is all on one line. */
interface Style {
  readonly indent: string;
  readonly eol: string;
}

function styleOf(text: string): Style {
  const indent = /\n([ \t]+)["{[\]}/]/.exec(text)?.[1] ?? (/\S[\s\S]*\n[\s\S]*\S/.test(text) ? "  " : "");
  return { indent: indent, eol: text.includes("\r\n") ? "\r\n" : "\n" };
}

/**
 * jsonc-parser's own `modify` lays the neighbours of what it inserts out anew; here only the insertion has a layout.
 */
function withEdit(text: string, { path, value }: ConfigEdit, style: Style): string {
  const splice = (start: number, end: number, insert: string) => text.slice(0, start) + insert + text.slice(end);
  if (value === undefined) return applyEdits(text, modify(text, [...path], undefined, {}));

  const root = parseTree(text, [], { allowTrailingComma: true });
  const own = root && findNodeAtLocation(root, [...path]);
  if (own) return splice(own.offset, own.offset + own.length, layOut(value, style, path.length));

  const key = path.at(-1);
  const parent = root && findNodeAtLocation(root, path.slice(0, -1));
  if (!parent) throw new MergeError(`it has no ${path.slice(0, -1).join(".")}; merge by hand`);
  const inside = text.slice(parent.offset, parent.offset + parent.length);
  const last = parent.children?.at(-1);
  const onOneLine = style.indent === "" || (last !== undefined && !inside.includes("\n"));
  const layout = onOneLine ? { ...style, indent: "" } : style;
  const item = `${typeof key === "string" ? `${JSON.stringify(key)}: ` : ""}${layOut(value, layout, path.length)}`;
  const newLine = (depth: number) => style.eol + style.indent.repeat(depth);
  if (last) {
    const end = last.offset + last.length;
    return splice(end, end, `,${onOneLine ? " " : newLine(path.length)}${item}`);
  }
  const start = parent.offset + 1;
  if (onOneLine) return splice(start, start, item);
  return splice(start, start, newLine(path.length) + item + (inside.includes("\n") ? "" : newLine(path.length - 1)));
}

function layOut(value: JsonValue, { indent, eol }: Style, depth: number): string {
  return JSON.stringify(value, null, indent).replaceAll("\n", eol + indent.repeat(depth));
}

function read(text: string): Record<string, unknown> | undefined {
  const errors: ParseError[] = [];
  const root = parseTree(text, errors, { allowTrailingComma: true, allowEmptyContent: true });
  const [fault] = errors;
  if (fault) {
    const what = printParseErrorCode(fault.error)
      .replaceAll(/(?<=[a-z])(?=[A-Z])/g, " ")
      .toLowerCase();
    throw new MergeError(`line ${lineAt(text, fault.offset)} is not JSON (${what}); mend it first`);
  }
  if (root === undefined) return undefined;
  const value = jsonValue(root, text);
  if (!isTable(value)) throw new MergeError("it holds something other than a JSON object; mend it first");
  return value;
}

/** As `JSON.parse` would read it: the library's own `parse` takes a key `__proto__` for the prototype. */
function jsonValue(node: Node, text: string): unknown {
  if (node.type === "array") return (node.children ?? []).map((item) => jsonValue(item, text));
  if (node.type !== "object") return node.value;
  const entries = (node.children ?? []).flatMap(({ children: [key, value] = [] }): [string, unknown][] => {
    return key && value ? [[String(key.value), jsonValue(value, text)]] : [];
  });
  const result = Object.fromEntries(entries);
  if (Object.keys(result).length === entries.length) return result;
  const double = entries.find(([key], i) => entries.findIndex(([other]) => other === key) < i)?.[0];
  throw new MergeError(
    `"${double}" occurs twice in the object at line ${lineAt(text, node.offset)}, so no edit is safe; remove one`,
  );
}

function lineAt(text: string, offset: number): number {
  return text.slice(0, offset).split("\n").length;
}
