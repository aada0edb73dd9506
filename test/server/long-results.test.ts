import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { linkTo } from "../../server/mcp/long-results.ts";
import { openWorkspace } from "../../server/services/workspace.ts";
import { temporaryDirectory } from "./running-app.ts";
import { contextWith } from "./tool-context.ts";

const result = (text: string) => ({ content: [{ type: "text" as const, text }], structuredContent: { text } });

test("of long results the newest are kept, and no other file is touched", async () => {
  const directory = await temporaryDirectory();
  const workspace = await openWorkspace(directory, { fileSizeLimit: 1024 * 1024 });
  await workspace.write("mine.txt", Buffer.from("mine"));
  const context = contextWith({ workspace });
  const paths: string[] = [];
  for (let at = 0; at < 23; at++) {
    const { content } = await linkTo(result(`result ${at}`), 4, context);
    if (content[1]?.type === "resource_link") paths.push(content[1].name);
    // Names tell milliseconds apart.
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  const kept = (await readdir(join(directory, ".results"))).map((name) => `.results/${name}`);
  expect(kept.sort()).toEqual(paths.slice(-20).sort());
  expect(await readdir(directory)).toContain("mine.txt");
});

test("a result that cannot be kept is not lost in silence", async () => {
  const workspace = await openWorkspace(await temporaryDirectory(), { fileSizeLimit: 1024 });
  const { isError, content } = await linkTo(result("x".repeat(2000)), 1000, contextWith({ workspace }));
  expect(isError).toBe(true);
  expect(content).toEqual([
    { type: "text", text: expect.stringMatching(/carried out.*could not be kept.*at most 1024/) },
  ]);
});
