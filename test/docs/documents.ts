import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** The checkout. */
export const ROOT = fileURLToPath(new URL("../../", import.meta.url));

export interface Document {
  /** Path from the checkout: `docs/settings.md`. */
  readonly path: string;
  readonly text: string;
  /** Text outside fenced blocks. */
  readonly prose: string;
  /** Fenced blocks in their order, without the indentation of the list item they are in. */
  readonly blocks: readonly { readonly language: string; readonly code: string }[];
  /** What stands between single backticks in prose. */
  readonly spans: readonly string[];
}

const FENCE = /^([ \t]*)```(\w*)[^\n]*\n([\s\S]*?)^\1```[ \t]*$/gm;

/** Every document for people: the Markdown files of the root, and of docs/. */
export const documents: readonly Document[] = ["", "docs"].flatMap((folder) =>
  readdirSync(join(ROOT, folder))
    .filter((file) => file.endsWith(".md"))
    .map((file) => {
      const path = join(folder, file);
      const text = readFileSync(join(ROOT, path), "utf8");
      const prose = text.replace(FENCE, "");
      return {
        path,
        text,
        prose,
        blocks: [...text.matchAll(FENCE)].map(([, indent = "", language = "", code = ""]) => ({
          language,
          code: code.replace(new RegExp(`^${indent}`, "gm"), ""),
        })),
        spans: [...prose.matchAll(/(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)/g)].map(([, span = ""]) =>
          span.replace(/\s+/g, " "),
        ),
      };
    }),
);
