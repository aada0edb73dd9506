import { spawnSync } from "node:child_process";
import { cp, mkdtemp, readFile, realpath, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { CHECKOUT } from "../../../infra/cli/checkout.ts";
import { writeTool } from "../../../infra/cli/new-tool.ts";

/** A copy of the checkout, in which tools may come and go. */
let copy = "";
/** What a type check, a style check and a test run need. */
const NEEDED = ["infra", "server", "stacks", "test", "biome.json", "package.json", "tsconfig.json", "vitest.config.ts"];

beforeAll(async () => {
  copy = await realpath(await mkdtemp(join(tmpdir(), "mcp-new-tool-test-")));
  const filter = (path: string) => !/\/server\/(node_modules|workspace)$/.test(path);
  await Promise.all(NEEDED.map((path) => cp(join(CHECKOUT, path), join(copy, path), { recursive: true, filter })));
  await cp(join(CHECKOUT, ".gitignore"), join(copy, ".gitignore"));
  await symlink(await realpath(join(CHECKOUT, "node_modules")), join(copy, "node_modules"));
});
afterAll(() => rm(copy, { recursive: true, force: true }));

const run = (...args: string[]) => {
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: copy, encoding: "utf8" });
  return { status, text: `${stdout}${stderr}` };
};
const index = () => readFile(join(copy, "server/tools/index.ts"), "utf8");

describe("new:tool", () => {
  test("leaves a tree that passes its type check, its style check and the new test", async () => {
    const made = run(join(copy, "infra/cli/mcp-aks.js"), "new-tool", "count_all_words");
    expect(made, made.text).toMatchObject({ status: 0 });
    expect(made.text).toContain("test/server/count-all-words.test.ts");
    expect(run(join(copy, "infra/cli/mcp-aks.js"), "new-tool", "a1")).toMatchObject({ status: 0 });

    const list = /\[\s*([^\]]*?),?\s*\];\s*$/.exec(await index())?.[1]?.split(/,\s*/);
    expect(list?.slice(-2)).toEqual(["countAllWords", "a1"]);
    const passes = { status: 0, text: expect.anything() };
    // All that a tool can break; the rest of the tree takes much longer to check.
    const include = ["server", "test/server/count-all-words.test.ts", "test/server/a1.test.ts"];
    await writeFile(join(copy, "tsconfig.tools.json"), JSON.stringify({ extends: "./tsconfig.json", include }));
    expect(run(join(copy, "node_modules/typescript/bin/tsc"), "-p", "tsconfig.tools.json")).toEqual(passes);
    const folders = ["server/tools", "test/server"];
    expect(run(join(copy, "node_modules/@biomejs/biome/bin/biome"), "ci", ...folders)).toEqual(passes);
    const tests = ["test/server/count-all-words.test.ts", "test/server/a1.test.ts", "test/server/structure.test.ts"];
    expect(run(join(copy, "node_modules/vitest/vitest.mjs"), "run", ...tests)).toEqual(passes);
  }, 120_000);

  test.each<[string, RegExp]>([
    ["Weather-Report", /"Weather-Report" is no name for a tool.*did you mean weather_report\?/],
    ["weatherReport", /did you mean weather_report\?/],
    ["2fast", /did you mean fast\?/],
    ["a__b", /did you mean a_b\?/],
    ["_x_", /is no name for a tool/],
    ["", /"" is no name for a tool.*such as weather_report/],
    ["x", /2 to 48 characters/],
    ["x".repeat(49), /2 to 48 characters/],
    ["../../main", /is no name for a tool.*did you mean main\?/],
    ["größe", /is no name for a tool/],
    ["delete", /"delete" means something else in the code.*delete_file/],
    ["tools", /"tools" means something else in the code/],
    ["define_tool", /"define_tool" means something else in the code/],
    ["system_info", /The name "system_info" is taken: server\/tools\/system-info\.ts is there already/],
    ["workspace_failures", /The name "workspace_failures" is taken/],
    ["protocol", /The name "protocol" is taken: test\/server\/protocol\.test\.ts is there already/],
  ])("refuses %j and changes nothing", async (name, message) => {
    const before = await index();
    await expect(writeTool(name, copy)).rejects.toThrow(message);
    expect(await index()).toBe(before);
  });
});
