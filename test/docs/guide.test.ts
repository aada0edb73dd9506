import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { requiredProviders } from "../../infra/azure/resource-providers.ts";
import { documents, ROOT } from "./documents.ts";

const guide = documents.find(({ path }) => path === "docs/first-deployment.md");
const text = guide?.text ?? "";

describe("every document", () => {
  it("links to files and headings that exist", () => {
    for (const { path, prose } of documents) {
      for (const [, target = ""] of prose.matchAll(/\]\(([^)]+)\)/g)) {
        if (/^[a-z]+:/.test(target)) continue;
        const [file = "", anchor] = target.replace(/\s+/g, "").split("#");
        const linked = file === "" ? path : join(dirname(path), file);
        expect(existsSync(join(ROOT, linked)), `${path} links to ${target}`).toBe(true);
        if (anchor !== undefined) expect(anchors(linked), `${path} links to ${target}`).toContain(anchor);
      }
    }
  });

  it("names files that exist", () => {
    for (const { path, spans } of documents) {
      for (const span of spans) {
        if (!/^(infra|server|stacks|test|docs|\.github|\.ci)\/[\w./-]+$/.test(span)) continue;
        // What is made when it is needed.
        if (span.includes("node_modules/")) continue;
        expect(existsSync(join(ROOT, span)), `${path} names ${span}`).toBe(true);
      }
    }
  });
});

describe("the first-deployment guide", () => {
  it("has ten steps", () => {
    expect([...text.matchAll(/^## (\d+)\. /gm)].map(([, n]) => Number(n))).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  });

  it("registers every resource provider that a stack needs", () => {
    const registered = [...text.matchAll(/az provider register --namespace (\S+)/g)].map(([, namespace]) => namespace);
    const needed = requiredProviders({ cache: { sku: "Balanced_B1", highAvailability: true } });
    expect(registered).toEqual([...needed].sort());
  });

  it("answers each of the fifteen known failures, where the code says so too", () => {
    const rows = [...text.matchAll(/^\| (\d+) \| [^|]+ \| ([^|]+) \|$/gm)].map(([, number, answer = ""]) => ({
      number: Number(number),
      files: [...answer.matchAll(/`(infra\/[^`]+\.ts)`/g)].map(([, file = ""]) => file),
    }));
    expect(rows.map(({ number }) => number)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    for (const { number, files } of rows) {
      const reasons = files.map((file) => readFileSync(join(ROOT, file), "utf8"));
      expect(reasons.join("\n"), `failure ${number}, in ${files.join(", ")}`).toMatch(
        new RegExp(`failures? (\\d+(, | and ))*${number}\\b`),
      );
    }
  });

  it("gives totals of costs that its lines add up to, to the nearest 150 dollars", () => {
    const table = /\| \| dev \| staging \| prod \|\n\|.*\n([\s\S]*?)\n\n/.exec(text)?.[1] ?? "";
    const rows = table.split("\n").map((row) => row.split("|").slice(2, 5).map(lowest));
    const totals = rows.pop() ?? [];
    for (const [column, total] of totals.entries()) {
      const sum = rows.reduce((sum, row) => sum + (row[column] ?? 0), 0);
      expect(Math.abs(sum - total), `column ${column + 1}: lines ${sum}, total ${total}`).toBeLessThanOrEqual(150);
    }
    expect(totals).toHaveLength(3);
  });
});

/** The lowest figure in a cell such as `4 to 7: 660-1,155`; none in `-`. */
function lowest(cell: string): number {
  const figures = cell.replace(/^.*:/, "").replace(/[,*\s]/g, "");
  return Number(/^\d+/.exec(figures)?.[0] ?? 0);
}

/** GitHub's anchors of a document's headings. */
function anchors(path: string): string[] {
  const { prose = "" } = documents.find((document) => document.path === path) ?? {};
  return [...prose.matchAll(/^#+ (.*)$/gm)].map(([, heading = ""]) =>
    heading
      .toLowerCase()
      .replace(/[^\w\s-]/g, "")
      .replace(/ /g, "-"),
  );
}
