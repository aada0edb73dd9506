import { execFileSync } from "node:child_process";
import { link, lstat, mkdir, readdir, readFile, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import fc from "fast-check";
import { beforeEach, describe, expect, test } from "vitest";
import { matchesPattern } from "../../server/services/glob.ts";
import { openWorkspace, type Workspace } from "../../server/services/workspace.ts";
import { ToolFailure } from "../../server/tools/define-tool.ts";
import { fileOperation } from "../../server/tools/file-operation.ts";
import { temporaryDirectory } from "./running-app.ts";
import { contextWith } from "./tool-context.ts";

let outer: string;
let root: string;
let workspace: Workspace;

/** Every test has a workspace of its own beside a secret that no operation may reach. */
beforeEach(async () => {
  outer = await temporaryDirectory();
  root = join(outer, "workspace");
  await mkdir(root);
  await writeFile(join(outer, "secret.txt"), "secret");
  await mkdir(join(outer, "beside"));
  workspace = await openWorkspace(root, { fileSizeLimit: 64 * 1024 });
});

const call = (args: Record<string, unknown>, signal?: AbortSignal) =>
  fileOperation.call(args, contextWith({ workspace, ...(signal && { signal }) }));

/** The sentence of a refusal; fails the test when there was none. */
async function refusal(args: unknown): Promise<string> {
  try {
    await fileOperation.call(args, contextWith({ workspace }));
  } catch (error) {
    if (error instanceof ToolFailure) return error.message;
    throw error;
  }
  throw new Error("It was done.");
}

const put = async (path: string, content: string | Buffer) => {
  await mkdir(join(root, path, ".."), { recursive: true });
  await writeFile(join(root, path), content);
};

describe("files", () => {
  test("are written whole, with their directories, and read back", async () => {
    expect(await call({ operation: "write", path: "a/b/c.txt", content: "one\n" })).toEqual({
      operation: "write",
      path: "a/b/c.txt",
      created: true,
      size: 4,
    });
    expect(await call({ operation: "write", path: "a/b/c.txt", content: "two" })).toMatchObject({
      created: false,
      size: 3,
    });
    expect(await call({ operation: "append", path: "a/b/c.txt", content: " three" })).toMatchObject({
      created: false,
      size: 9,
    });
    expect(await call({ operation: "read", path: "./a//b/../b/c.txt" })).toMatchObject({
      content: "two three",
      size: 9,
    });
    expect(await readdir(join(root, "a/b"))).toEqual(["c.txt"]);
  });

  test("keep their permissions when replaced", async () => {
    await put("run.sh", "old");
    execFileSync("chmod", ["750", join(root, "run.sh")]);
    await call({ operation: "write", path: "run.sh", content: "new" });
    expect((await stat(join(root, "run.sh"))).mode & 0o777).toBe(0o750);
  });

  test("keep every byte in base64", async () => {
    const bytes = Buffer.from(Array.from({ length: 256 }, (_, at) => at));
    await call({ operation: "write", path: "bin", content: bytes.toString("base64"), encoding: "base64" });
    expect(await readFile(join(root, "bin"))).toEqual(bytes);
    expect(await call({ operation: "read", path: "bin", encoding: "base64" })).toMatchObject({
      content: bytes.toString("base64"),
    });
  });

  test("are read in pages that never cut a character", async () => {
    const text = "aé€😀".repeat(50);
    await put("text", text);
    let read = "";
    let offset: unknown = 0;
    while (offset !== undefined) {
      const page: Record<string, unknown> = await call({ operation: "read", path: "text", offset, limit: 7 });
      read += page.content;
      offset = page.nextOffset;
    }
    expect(read).toBe(text);
  });

  test("an absolute path inside the workspace is one too", async () => {
    await put("a.txt", "x");
    expect(await call({ operation: "read", path: join(root, "a.txt") })).toMatchObject({ content: "x" });
  });

  test("are copied, moved and deleted, directories with all they hold", async () => {
    await put("src/a.txt", "a");
    await put("src/deep/b.txt", "b");
    await symlink("a.txt", join(root, "src/link"));
    expect(await call({ operation: "copy", path: "src", destination: "new/copy", recursive: true })).toMatchObject({
      skipped: ["src/link"],
    });
    expect(await readFile(join(root, "new/copy/deep/b.txt"), "utf8")).toBe("b");
    await call({ operation: "move", path: "new/copy/a.txt", destination: "moved/a.txt" });
    expect(await readFile(join(root, "moved/a.txt"), "utf8")).toBe("a");
    await call({ operation: "move", path: "new", destination: "newer" });
    await call({ operation: "delete", path: "newer", recursive: true });
    await call({ operation: "delete", path: "src/link" });
    expect((await readdir(root)).sort()).toEqual(["moved", "src"]);
    expect(await readdir(join(root, "src"))).toEqual(["a.txt", "deep"]);
  });

  test("are listed in pages, in order", async () => {
    for (const name of ["c", "a", "b/inner"]) await put(name, name);
    expect(await call({ operation: "list", path: "." })).toMatchObject({
      entries: [
        { path: "a", type: "file", size: 1 },
        { path: "b", type: "directory" },
        { path: "c", type: "file" },
      ],
    });
    const first = await call({ operation: "list", path: ".", recursive: true, limit: 3 });
    expect(first).toMatchObject({ entries: [{ path: "a" }, { path: "b" }, { path: "b/inner" }], nextOffset: 3 });
    const last = await call({ operation: "list", path: ".", recursive: true, limit: 3, offset: 3 });
    expect(last).toMatchObject({ entries: [{ path: "c" }] });
    expect(last).not.toHaveProperty("nextOffset");
  });

  test("are found by name and by text", async () => {
    await put("src/a.ts", "one\ntwo TODO\nthree\nTODO four");
    await put("src/deep/b.ts", "nothing");
    await put("readme.md", "TODO");
    await put("binary", Buffer.from([0, ...Buffer.from("TODO")]));
    expect(await call({ operation: "search", path: ".", pattern: "*.ts" })).toMatchObject({
      matches: [{ path: "src/a.ts" }, { path: "src/deep/b.ts" }],
    });
    expect((await call({ operation: "search", path: ".", text: "TODO" })).matches).toEqual([
      { path: "readme.md", type: "file", lines: [{ line: 1, text: "TODO" }] },
      {
        path: "src/a.ts",
        type: "file",
        lines: [
          { line: 2, text: "two TODO" },
          { line: 4, text: "TODO four" },
        ],
      },
    ]);
    expect((await call({ operation: "search", path: "src", pattern: "deep/**" })).matches).toMatchObject([
      { path: "src/deep/b.ts" },
    ]);
  });

  test("stat describes a link itself", async () => {
    await symlink("../secret.txt", join(root, "link"));
    expect(await call({ operation: "stat", path: "link" })).toMatchObject({ type: "symlink", target: "../secret.txt" });
    expect(await call({ operation: "stat", path: "." })).toMatchObject({ type: "directory" });
  });

  test("a link inside the workspace is followed, and stays a link", async () => {
    await put("real/file", "old");
    await symlink("real/file", join(root, "link"));
    await call({ operation: "write", path: "link", content: "new" });
    expect(await readFile(join(root, "real/file"), "utf8")).toBe("new");
    expect((await lstat(join(root, "link"))).isSymbolicLink()).toBe(true);
  });

  test("a listing ends when its caller goes away", async () => {
    await put("a", "a");
    await expect(call({ operation: "list", path: "." }, AbortSignal.abort())).rejects.toThrow("abort");
  });
});

describe("refusals name the value and the mend", () => {
  const long = "x".repeat(300);
  test.each<[unknown, string]>([
    [{}, 'Argument "operation" is missing: choose one of read, write'],
    [[], "The arguments must be one JSON object"],
    [{ operation: "chmod", path: "a" }, 'Argument "operation" is "chmod": choose one of read, write'],
    [{ operation: "read" }, 'Argument "path" is missing'],
    [{ operation: "read", path: "" }, 'Argument "path" is "": give a path'],
    [{ operation: "read", path: 7 }, 'Argument "path" is 7'],
    [
      { operation: "read", path: "a", mode: "r" },
      'Unknown argument "mode"; file_operation takes operation, path, content',
    ],
    [
      { operation: "read", path: "a", content: "x" },
      'Argument "content" means nothing to operation read, which takes operation, path, encoding',
    ],
    [{ operation: "read", path: "a", encoding: "latin1" }, 'Argument "encoding" is "latin1": choose utf-8 or base64'],
    [{ operation: "read", path: "a", offset: -1 }, 'Argument "offset" is -1: it must not be negative'],
    [{ operation: "read", path: "a", limit: 0.5 }, 'Argument "limit" is 0.5: it must be a whole number'],
    [{ operation: "read", path: "text", offset: 99 }, 'Offset 99 is beyond the end of "text", which has 4 bytes'],
    [{ operation: "read", path: "wide", limit: 1 }, 'Argument "limit" is 1: too few bytes for the next character'],
    [{ operation: "read", path: "none.txt" }, '"none.txt" does not exist in the workspace; list the directory'],
    [{ operation: "read", path: "dir" }, '"dir" is a directory; list it'],
    [{ operation: "read", path: "binary" }, '"binary" is not UTF-8 text; read it with encoding base64'],
    [{ operation: "read", path: "latin1" }, '"latin1" is not UTF-8 text'],
    [{ operation: "read", path: "pipe" }, '"pipe" is neither a file nor a directory'],
    [{ operation: "read", path: "text/inner" }, '"text/inner" leads through something that is not a directory'],
    [{ operation: "read", path: "loop" }, '"loop" leads through a link that changed or goes in circles'],
    [{ operation: "write", path: "a" }, 'Argument "content" is missing: operation write needs it'],
    [{ operation: "write", path: "dir", content: "" }, '"dir" is a directory; name a file in it'],
    [{ operation: "write", path: "pipe", content: "" }, '"pipe" is neither a file nor a directory'],
    [{ operation: "append", path: "pipe", content: "" }, '"pipe" is neither a file nor a directory'],
    [{ operation: "write", path: "a", content: "ä!", encoding: "base64" }, "is not base64; encode the bytes"],
    [
      { operation: "write", path: "a", content: "abc", encoding: "base64" },
      "is not base64; encode the bytes, padding included",
    ],
    [{ operation: "write", path: "a", content: "\ud800" }, "has half a surrogate pair"],
    [
      { operation: "write", path: "a", content: "x".repeat(65 * 1024) },
      '"a" would have 66560 bytes, and files written here have at most 65536',
    ],
    [{ operation: "append", path: "full", content: "x" }, '"full" would have 65537 bytes'],
    [{ operation: "write", path: long, content: "" }, "has a name longer than the file system allows"],
    [
      { operation: "write", path: "dangling", content: "" },
      '"dangling" leads through a link to something that does not exist',
    ],
    [{ operation: "list", path: "text" }, '"text" is not a directory; read or stat it instead'],
    [{ operation: "list", path: ".", limit: 1001 }, 'Argument "limit" is 1001: at most 1000 entries come at once'],
    [{ operation: "search", path: ".", pattern: "x".repeat(513) }, "a pattern has at most 512 characters"],
    [{ operation: "search", path: ".", text: "" }, 'Argument "text" is "": give the text to find'],
    [{ operation: "mkdir", path: "text" }, '"text" exists and is not a directory'],
    [{ operation: "delete", path: "." }, "The workspace itself cannot be deleted"],
    [{ operation: "delete", path: "dir/..", recursive: true }, "The workspace itself cannot be deleted"],
    [{ operation: "delete", path: "dir" }, '"dir" is a directory that is not empty; set recursive to true'],
    [{ operation: "delete", path: "none" }, '"none" does not exist'],
    [{ operation: "move", path: "text" }, 'Argument "destination" is missing: operation move needs it'],
    [{ operation: "move", path: "text", destination: "latin1" }, '"latin1" exists already; delete it first'],
    [{ operation: "move", path: "dir", destination: "dir/inside" }, '"dir/inside" is "dir" or lies inside it'],
    [{ operation: "move", path: ".", destination: "x" }, "The workspace itself cannot be moved"],
    [{ operation: "copy", path: "dir", destination: "x" }, '"dir" is a directory; set recursive to true to copy it'],
    [{ operation: "copy", path: "text", destination: "full" }, '"full" exists already'],
    [{ operation: "copy", path: "sparse", destination: "x" }, '"sparse" would have 1099511627776 bytes'],
  ])("%j", async (args, sentence) => {
    await put("text", "text");
    await put("wide", "😀😀");
    await put("dir/file", "");
    await put("binary", Buffer.from([1, 0, 2]));
    await put("latin1", Buffer.from([0x47, 0x72, 0xfc]));
    await put("full", "x".repeat(64 * 1024));
    await symlink("loop", join(root, "loop"));
    await symlink("nowhere", join(root, "dangling"));
    execFileSync("sh", ["-c", "mkfifo pipe && truncate -s 1T sparse"], { cwd: root });
    expect(await refusal(args)).toContain(sentence);
  });
});

describe("nothing leads outside", () => {
  const escapes = [
    "..",
    "../secret.txt",
    "a/../../secret.txt",
    "/etc/passwd",
    "/",
    "//etc/passwd",
    "../workspace-other",
    "./../beside/x",
    "file-link",
    "directory-link/x",
    "directory-link",
    "chain/x",
    "absolute-link",
    "deep/up/x",
    "..\\secret.txt",
    "a\0/../../secret.txt",
    "/proc/self/cwd/x",
  ];

  beforeEach(async () => {
    await symlink("../secret.txt", join(root, "file-link"));
    await symlink("../beside", join(root, "directory-link"));
    await symlink("directory-link", join(root, "chain"));
    await symlink("/etc/passwd", join(root, "absolute-link"));
    await mkdir(join(root, "deep"));
    await symlink("../..", join(root, "deep/up"));
  });

  test.each(escapes)("%j", async (path) => {
    const message = /outside the workspace|NUL character|backslash|cannot be (deleted|moved)/;
    for (const operation of ["read", "list", "search", "mkdir"]) {
      expect(await refusal({ operation, path })).toMatch(message);
    }
    expect(await refusal({ operation: "write", path, content: "x" })).toMatch(message);
    expect(await refusal({ operation: "append", path, content: "x" })).toMatch(message);
    expect(await refusal({ operation: "copy", path, destination: "stolen", recursive: true })).toMatch(message);
    expect(await readFile(join(outer, "secret.txt"), "utf8")).toBe("secret");
    expect(await readdir(join(outer, "beside"))).toEqual([]);
    expect((await readdir(outer)).sort()).toEqual(["beside", "secret.txt", "workspace"]);
  });

  test("deleting and moving a link leaves what it points to", async () => {
    await writeFile(join(outer, "beside/kept"), "kept");
    await call({ operation: "move", path: "directory-link", destination: "elsewhere" });
    await call({ operation: "delete", path: "elsewhere", recursive: true });
    await call({ operation: "delete", path: "file-link" });
    await call({ operation: "delete", path: "deep", recursive: true });
    expect(await readdir(join(outer, "beside"))).toEqual(["kept"]);
    expect(await readFile(join(outer, "secret.txt"), "utf8")).toBe("secret");
  });

  test("links are listed, not entered", async () => {
    const { entries } = await call({ operation: "list", path: ".", recursive: true });
    expect((entries as { path: string }[]).map((entry) => entry.path)).toEqual([
      "absolute-link",
      "chain",
      "deep",
      "deep/up",
      "directory-link",
      "file-link",
    ]);
  });

  test("whatever the path, what is read is inside and what is outside stays as it was", async () => {
    const segment = fc.oneof(
      fc.constantFrom(
        "..",
        ".",
        "",
        "a",
        "deep",
        "up",
        "directory-link",
        "chain",
        "secret.txt",
        "beside",
        "workspace",
        "~",
        "%2e%2e",
        "．．",
      ),
      fc.string({ maxLength: 8 }),
    );
    const paths = fc.tuple(
      fc.constantFrom("", "/", "./", `${outer}/`, `${root}/`),
      fc.array(segment, { maxLength: 6 }),
    );
    await fc.assert(
      fc.asyncProperty(
        paths,
        fc.constantFrom("read", "write", "delete", "move"),
        async ([start, segments], operation) => {
          const path = start + segments.join("/");
          const extra =
            operation === "write" ? { content: "x" } : operation === "move" ? { destination: "b/moved" } : {};
          await fileOperation
            .call({ operation, path, ...extra }, contextWith({ workspace }))
            .catch((error: unknown) => {
              if (!(error instanceof ToolFailure)) throw error;
            });
          expect(await readFile(join(outer, "secret.txt"), "utf8")).toBe("secret");
          expect((await readdir(outer)).sort()).toEqual(["beside", "secret.txt", "workspace"]);
          expect(await readdir(join(outer, "beside"))).toEqual([]);
        },
      ),
      { numRuns: 300 },
    );
  });

  // The guarantee rests on /proc/self/fd, which is Linux's.
  test.runIf(process.platform === "linux")(
    "a directory swapped for a link between check and use is an error, not an escape",
    async () => {
      await put("swap/file", "inside");
      await writeFile(join(outer, "beside/file"), "outside");
      await symlink(join(outer, "beside"), join(root, "evil"));
      let swapping = true;
      const swapper = (async () => {
        while (swapping) {
          await rename(join(root, "swap"), join(root, "parked"));
          await rename(join(root, "evil"), join(root, "swap"));
          await rename(join(root, "swap"), join(root, "evil"));
          await rename(join(root, "parked"), join(root, "swap"));
        }
      })();
      const outcomes = new Set<unknown>();
      for (let at = 0; at < 500; at++) {
        await call({ operation: "read", path: "swap/file" }).then(
          ({ content }) => outcomes.add(content),
          (error: unknown) => {
            if (!(error instanceof ToolFailure)) throw error;
            outcomes.add("refused");
          },
        );
      }
      swapping = false;
      await swapper;
      expect([...outcomes].sort()).toEqual(["inside", "refused"]);
    },
  );
});

describe("atomic writes", () => {
  test("a reader sees one whole content or the other", async () => {
    const contents = ["a".repeat(50_000), "b".repeat(60_000)];
    await put("file", contents[0] ?? "");
    const writes = (async () => {
      for (let at = 0; at < 30; at++) await call({ operation: "write", path: "file", content: contents[at % 2] });
    })();
    for (let at = 0; at < 60; at++)
      expect(contents).toContain((await call({ operation: "read", path: "file" })).content);
    await writes;
    expect(await readdir(root)).toEqual(["file"]);
  });

  test("another name of the same file keeps the old content", async () => {
    await put("file", "old");
    await link(join(root, "file"), join(root, "other"));
    await call({ operation: "write", path: "file", content: "new" });
    expect(await readFile(join(root, "other"), "utf8")).toBe("old");
  });

  test("a failed write leaves nothing behind", async () => {
    await put("dir/file", "old");
    execFileSync("chmod", ["555", join(root, "dir")]);
    // The superuser is not stopped by permissions; then the write succeeds, which leaves nothing behind either.
    await call({ operation: "write", path: "dir/file", content: "new" }).catch((error: unknown) => {
      expect(error).toBeInstanceOf(ToolFailure);
    });
    execFileSync("chmod", ["755", join(root, "dir")]);
    expect(await readdir(join(root, "dir"))).toEqual(["file"]);
    await rm(join(root, "dir"), { recursive: true });
  });
});

describe("patterns", () => {
  test.each<[string, string, boolean]>([
    ["*.ts", "a.ts", true],
    ["*.ts", "src/deep/a.ts", true],
    ["*.ts", "a.tsx", false],
    ["src/*.ts", "src/a.ts", true],
    ["src/*.ts", "src/deep/a.ts", false],
    ["src/**/*.ts", "src/a.ts", true],
    ["src/**/*.ts", "src/deep/er/a.ts", true],
    ["**/test/**", "a/test/b", true],
    ["a?c", "abc", true],
    ["a?c", "ac", false],
    ["*", ".hidden", true],
    ["[ab]", "a", false],
    ["ä*", "ärger", true],
  ])("%s against %s: %s", (pattern, path, expected) => {
    expect(matchesPattern(pattern, path)).toBe(expected);
  });

  test("a hostile pattern costs no more than its length", () => {
    const started = performance.now();
    expect(matchesPattern(`${"*a".repeat(250)}b`, "a".repeat(255))).toBe(false);
    expect(matchesPattern(`${"**/a/".repeat(100)}b`, "a/".repeat(2000))).toBe(false);
    expect(performance.now() - started).toBeLessThan(500);
  });

  test("every path matches itself and **", () => {
    const name = fc.string({ minLength: 1, maxLength: 6 }).filter((part) => !/[/*?]/.test(part));
    fc.assert(
      fc.property(fc.array(name, { minLength: 1, maxLength: 4 }), (names) => {
        const path = names.join("/");
        expect(matchesPattern(`**/${path}`, path)).toBe(true);
        expect(matchesPattern("**/*", path)).toBe(true);
      }),
    );
  });
});
