import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Prompt } from "../../server/prompts/define-prompt.ts";
import { diagnosePodLog } from "../../server/prompts/diagnose-pod-log.ts";
import { explainRepository } from "../../server/prompts/explain-repository.ts";
import { filesOf, reviewDiff } from "../../server/prompts/review-diff.ts";
import { openWorkspace } from "../../server/services/workspace.ts";
import { temporaryDirectory } from "./running-app.ts";
import { contextWith } from "./tool-context.ts";

async function rendered(prompt: Prompt, args: Record<string, string>, files: Record<string, string | Buffer>) {
  const directory = await temporaryDirectory();
  for (const [path, content] of Object.entries(files)) {
    await mkdir(join(directory, path, ".."), { recursive: true });
    await writeFile(join(directory, path), content);
  }
  const workspace = await openWorkspace(directory, { fileSizeLimit: 1024 * 1024 });
  const messages = await prompt.render(args, contextWith({ workspace }));
  const contents = messages.map(({ content }) => content);
  const [first] = contents;
  if (first?.type !== "text") throw new Error("A prompt begins with what it says.");
  const attached = contents.flatMap((content) =>
    content.type === "resource" && "text" in content.resource ? [[content.resource.uri, content.resource.text]] : [],
  );
  return { said: first.text, attached: Object.fromEntries(attached) as Record<string, string> };
}

describe("diagnose_pod_log", () => {
  test("attaches the end of a long log, and says how much of it that is", async () => {
    const log = `${"early\n".repeat(30_000)}panic: x509: certificate has expired\n`;
    const { said, attached } = await rendered(diagnosePodLog, { log: "pod.log" }, { "pod.log": log });
    expect(said).toMatch(/the first \d+ of 180037 bytes are left out/);
    expect(said).toContain("certificates: expiry, host name");
    expect(attached["workspace:///pod.log"]).toHaveLength(64 * 1024);
    expect(attached["workspace:///pod.log"]).toContain("certificate has expired");
  });

  test("keeps characters whole where the log is cut", async () => {
    const { attached } = await rendered(diagnosePodLog, { log: "l" }, { l: "→".repeat(40_000) });
    expect(attached["workspace:///l"]).toMatch(/^→+$/);
  });

  test("names what it cannot read", async () => {
    const failure = (args: Record<string, string>) => rendered(diagnosePodLog, args, { bin: Buffer.from([0, 1]) });
    await expect(failure({ log: "bin" })).rejects.toThrow('"bin" is not UTF-8 text');
    await expect(failure({ log: "../x" })).rejects.toThrow("leads outside the workspace");
  });
});

describe("explain_repository", () => {
  test("shows the tree without what tools put there, and attaches what tells most", async () => {
    const { said, attached } = await rendered(
      explainRepository,
      { path: "app/", focus: "how it is deployed" },
      {
        "app/README.md": "# App\n",
        "app/package.json": "{}",
        "app/src/index.ts": "export {};",
        "app/src/deep/more.ts": "",
        "app/node_modules/left/index.js": "",
        "app/.git/HEAD": "",
        "other.txt": "",
      },
    );
    expect(said).toContain('repository in "app"');
    expect(said).toContain("how it is deployed");
    expect(said).toContain("README.md\npackage.json\nsrc/\n  deep/\n  index.ts");
    expect(said).not.toMatch(/node_modules|\.git|other\.txt|more\.ts/);
    expect(Object.keys(attached)).toEqual(["workspace:///app/README.md", "workspace:///app/package.json"]);
  });

  test("says when the tree is longer than it shows, and is not stopped by a README in another encoding", async () => {
    const files = Object.fromEntries(Array.from({ length: 500 }, (_, at) => [`f${at}`, ""]));
    const { said, attached } = await rendered(
      explainRepository,
      {},
      { ...files, README: Buffer.from([0xff, 0xfe, 0]) },
    );
    expect(said).toContain("the first 400; there are more");
    expect(attached).toEqual({});
  });
});

describe("review_diff", () => {
  const diff = [
    "diff --git a/a.ts b/a.ts",
    "--- a/a.ts",
    "+++ b/a.ts",
    "@@ -1,3 +1,3 @@",
    " one",
    "--- a/not/a/file.ts",
    "+++ b/not/a/file.ts",
    " three",
    "diff --git a/old.ts b/new.ts",
    "rename from old.ts",
    "rename to new.ts",
    "--- /dev/null",
    "+++ b/made.ts\t2026-11-21",
    "@@ -0,0 +1 @@",
    "+made",
    "\\ No newline at end of file",
    "--- a/gone.ts",
    "+++ /dev/null",
    "@@ -1 +0,0 @@",
    "-gone",
    "",
  ].join("\n");

  test("tells files from lines that look like their names", () => {
    expect(filesOf(diff)).toEqual([
      { path: "a.ts", added: 1, removed: 1 },
      { path: "new.ts", added: 0, removed: 0 },
      { path: "made.ts", added: 1, removed: 0 },
      { path: "gone.ts", added: 0, removed: 1 },
    ]);
  });

  test("counts what was added and removed, whatever the lines are", () => {
    const line = fc.string({ unit: fc.constantFrom("+", "-", "@", " ", "\\", "a"), maxLength: 8 });
    const hunk = fc.record({ added: fc.array(line, { maxLength: 5 }), removed: fc.array(line, { maxLength: 5 }) });
    fc.assert(
      fc.property(fc.array(hunk, { minLength: 1, maxLength: 5 }), (hunks) => {
        const text = hunks.flatMap(({ added, removed }, at) => [
          `--- a/f${at}`,
          `+++ b/f${at}`,
          `@@ -1,${removed.length + 1} +1,${added.length + 1} @@`,
          " context",
          ...removed.map((each) => `-${each}`),
          ...added.map((each) => `+${each}`),
        ]);
        expect(filesOf(text.join("\n"))).toEqual(
          hunks.map(({ added, removed }, at) => ({ path: `f${at}`, added: added.length, removed: removed.length })),
        );
      }),
    );
  });

  test("takes a diff as it is or by its path", async () => {
    const pasted = await rendered(reviewDiff, { diff }, {});
    expect(pasted.said).toContain("change of 4 files");
    expect(pasted.attached).toEqual({ "diff:pasted": diff });
    const named = await rendered(reviewDiff, { diff: "c.diff", intent: "mend it" }, { "c.diff": diff });
    expect(named.said).toContain("It is meant to: mend it");
    expect(named.attached).toEqual({ "workspace:///c.diff": diff });
  });
});
