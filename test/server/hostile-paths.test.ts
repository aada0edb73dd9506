import { execFileSync } from "node:child_process";
import { link, mkdir, readdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { openWorkspace, type Workspace } from "../../server/services/workspace.ts";
import { ToolFailure } from "../../server/tools/define-tool.ts";
import { fileOperation } from "../../server/tools/file-operation.ts";
import { temporaryDirectory } from "./running-app.ts";
import { contextWith } from "./tool-context.ts";

/* Paths that a hostile caller hands to file_operation, in a workspace that a hostile command has prepared. */

const SECRET = "swordfish";
let outer: string;
let workspace: Workspace;

beforeEach(async () => {
  outer = await temporaryDirectory();
  await mkdir(join(outer, "workspace"));
  await mkdir(join(outer, "beside"));
  await writeFile(join(outer, "secret"), SECRET);
  workspace = await openWorkspace(join(outer, "workspace"), { fileSizeLimit: 64 * 1024 });
});

async function attempted(args: Record<string, unknown>): Promise<Record<string, unknown> | string> {
  try {
    return await fileOperation.call(args, contextWith({ workspace }));
  } catch (error) {
    if (error instanceof ToolFailure) return error.message;
    throw error;
  }
}

/** Every operation on `path`, each ending in good time. */
async function everything(path: string): Promise<string> {
  const calls = [
    ...["read", "stat", "list", "search", "mkdir"].map((operation) => ({ operation, path })),
    { operation: "read", path, encoding: "base64" },
    { operation: "write", path, content: "x" },
    { operation: "append", path, content: "x" },
    { operation: "copy", path, destination: "copied", recursive: true },
    { operation: "move", path, destination: "moved" },
    { operation: "search", path: ".", text: SECRET },
    { operation: "delete", path, recursive: true },
  ];
  const results = [];
  for (const call of calls) results.push(JSON.stringify(await attempted(call)));
  return results.join("\n");
}

describe("a path that looks like one that leads out", () => {
  test.each([
    // Unicode's dots, slashes and full-width forms; overlong and double encodings of them.
    "\u2024\u2024/secret",
    "\u2025/secret",
    "\uff0e\uff0e/secret",
    "..\u2215secret",
    "..\u2044secret",
    "..\uff0fsecret",
    "..\u29f8secret",
    "..\u0338/secret",
    ".\u200b./secret",
    "..\u00a0/secret",
    "%2e%2e/secret",
    "%2e%2e%2fsecret",
    "..%c0%afsecret",
    "%252e%252e%252fsecret",
    "\u202e/secret",
    // Windows'.
    "C:/secret",
    "C:secret",
    "//server/share/secret",
    "//?/C:/secret",
    "CON",
    "NUL.txt",
    "secret::$DATA",
    "secret .",
    "..\\secret",
    "..\\..\\secret",
    "\\\\server\\share",
    // The shell's, and others'.
    "~/secret",
    "~root/secret",
    "$HOME/../secret",
    "`cat ../secret`",
    "-rf",
    "--help",
    "file:///etc/passwd",
    "workspace://../secret",
    "....//secret",
    "..../secret",
    "./.../secret",
    "a/\r\n../secret",
    `${"../".repeat(50)}etc/passwd`,
    `${"a/../".repeat(500)}../secret`,
    `${"a/".repeat(3000)}x`,
    "x".repeat(5000),
  ])("%j stays inside, or is refused", async (path) => {
    expect(await everything(path)).not.toContain(SECRET);
    expect(await readFile(join(outer, "secret"), "utf8")).toBe(SECRET);
    expect((await readdir(outer)).sort()).toEqual(["beside", "secret", "workspace"]);
    expect(await readdir(join(outer, "beside"))).toEqual([]);
  });
});

describe.runIf(process.platform === "linux")("what a command may have prepared", () => {
  test.each<[string, string]>([
    ["the server's environment", "/proc/self/environ"],
    ["the server's memory", "/proc/self/mem"],
    ["the server's descriptors", "/proc/self/fd"],
    ["one of the server's descriptors", "/proc/self/fd/1"],
    ["the server's root", "/proc/self/root"],
    ["the server's directory", "/proc/self/cwd"],
    ["a thread of the server's", "/proc/thread-self/environ"],
    ["endless zeros", "/dev/zero"],
    ["a terminal", "/dev/tty"],
    ["standard input", "/dev/stdin"],
    ["passwords", "/etc/shadow"],
    ["the pod's token", "/var/run/secrets"],
    ["a file beside", "../secret"],
    ["itself", "trap"],
    ["nothing", "../gone"],
  ])("a link to %s leads nowhere", async (_what, target) => {
    process.env.TEST_SECRET = SECRET;
    await symlink(target, join(workspace.root, "trap"));
    const results = await everything("trap");
    const inside = await everything("trap/environ");
    delete process.env.TEST_SECRET;
    expect(results + inside).not.toContain(SECRET);
    expect(await readFile(join(outer, "secret"), "utf8")).toBe(SECRET);
    expect((await readdir(outer)).sort()).toEqual(["beside", "secret", "workspace"]);
  });

  test("pipes, sockets and devices are neither read nor waited for", async () => {
    execFileSync("mkfifo", ["pipe"], { cwd: workspace.root });
    await symlink("pipe", join(workspace.root, "link"));
    for (const path of ["pipe", "link"]) {
      for (const operation of ["read", "write", "append", "copy"]) {
        const more = operation === "copy" ? { destination: "x" } : operation === "read" ? {} : { content: "x" };
        expect(await attempted({ operation, path, ...more })).toContain("is neither a file nor a directory");
      }
    }
    expect(await attempted({ operation: "search", path: ".", text: "x" })).toMatchObject({ matches: [] });
    expect(await attempted({ operation: "delete", path: "pipe" })).toMatchObject({ operation: "delete" });
  });

  test("a file of 1 TiB with nothing in it is read in pages and copied never", async () => {
    execFileSync("truncate", ["-s", "1T", "giant"], { cwd: workspace.root });
    expect(
      await attempted({ operation: "read", path: "giant", encoding: "base64", offset: 2 ** 39, limit: 3 }),
    ).toMatchObject({
      content: "AAAA",
      nextOffset: 2 ** 39 + 3,
    });
    expect(await attempted({ operation: "copy", path: "giant", destination: "x" })).toContain("1099511627776 bytes");
    expect(await attempted({ operation: "search", path: ".", text: "x" })).toMatchObject({
      incomplete: expect.stringContaining("1 files larger than"),
    });
  });

  test("a file with another name outside is replaced, not written into", async () => {
    await link(join(outer, "secret"), join(workspace.root, "linked"));
    await attempted({ operation: "write", path: "linked", content: "changed" });
    expect(await readFile(join(outer, "secret"), "utf8")).toBe(SECRET);
    expect(await readFile(join(workspace.root, "linked"), "utf8")).toBe("changed");
  });

  test("a directory deeper than a path can say is deleted all the same", async () => {
    const name = "d".repeat(50);
    const script = `i=0; while [ $i -lt 120 ]; do mkdir ${name} && cd -P ${name} || exit 1; i=$((i+1)); done; touch bottom`;
    execFileSync("sh", ["-c", script], { cwd: workspace.root });
    expect(await attempted({ operation: "list", path: ".", recursive: true })).toMatchObject({ operation: "list" });
    expect(await attempted({ operation: "delete", path: name, recursive: true })).toMatchObject({
      operation: "delete",
    });
    expect(await readdir(workspace.root)).toEqual([]);
  });
});
