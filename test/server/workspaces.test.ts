import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { link, lstat, mkdir, readdir, readFile, stat, symlink, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, describe, expect, onTestFinished, test } from "vitest";
import type { Role } from "../../server/config.ts";
import { createQuota } from "../../server/services/quota.ts";
import { removeTree } from "../../server/services/remove-tree.ts";
import { openWorkspace, type Workspace } from "../../server/services/workspace.ts";
import {
  openWorkspaces,
  type WorkspaceOwner,
  type Workspaces,
  type WorkspacesOptions,
  workspaceName,
} from "../../server/services/workspaces.ts";
import { ToolFailure } from "../../server/tools/define-tool.ts";
import { executeCommand } from "../../server/tools/execute-command.ts";
import { fileOperation } from "../../server/tools/file-operation.ts";
import { messageIn, rpc, temporaryDirectory, testApp } from "./running-app.ts";
import { commandRunner, contextWith } from "./tool-context.ts";

const TENANT = "5f0c2a3e-7a5b-4a57-9f9e-0e7d5a7b6c11";
const ada: WorkspaceOwner = { subject: "ada", tenant: TENANT, method: "entra" };
const bob: WorkspaceOwner = { subject: "bob", tenant: TENANT, method: "entra" };
const key: WorkspaceOwner = { subject: "key:0011aabb", method: "api-key" };

async function opened(path: string, options: Partial<WorkspacesOptions> = {}): Promise<Workspaces> {
  const limits = { bytes: undefined, files: undefined };
  const workspaces = await openWorkspaces({
    path,
    fileSizeLimit: 1024 * 1024,
    quotas: { own: limits, plain: limits },
    retentionDays: 30,
    ...options,
  });
  onTestFinished(() => workspaces.close());
  return workspaces;
}

describe("workspaces", () => {
  let path: string;
  beforeEach(async () => {
    path = await temporaryDirectory();
  });

  test("are each caller's own, made on first use for nobody else's eyes", async () => {
    const workspaces = await opened(path);
    expect(await readdir(path)).toEqual([]);
    const [first, second, third] = await Promise.all([ada, bob, key].map((owner) => workspaces.of(owner)));
    expect(new Set([first?.root, second?.root, third?.root]).size).toBe(3);
    expect(await workspaces.of({ ...ada })).toBe(first);
    await first?.write("note", Buffer.from("ada's"));
    await expect(second?.read("note", 0, 10)).rejects.toThrow("does not exist");
    for (const inside of ["../", `../${first?.root.split("/").at(-1)}/note`, `${first?.root}/note`]) {
      await expect(second?.read(inside, 0, 10)).rejects.toThrow("leads outside the workspace");
    }
    expect((await stat(first?.root ?? "")).mode & 0o777).toBe(0o700);
  });

  test("of callers whom nobody authenticated are the plain directory", async () => {
    const workspaces = await opened(path);
    expect((await workspaces.of({ subject: "local", method: "local" })).root).toBe(path);
    expect((await workspaces.of({ subject: "anonymous", method: "none" })).root).toBe(path);
  });

  test("are the same after a restart and on another replica", async () => {
    const [one, other] = [await opened(path), await opened(path)];
    await (await one.of(ada)).write("note", Buffer.from("kept"));
    expect((await (await other.of(ada)).read("note", 0, 10)).bytes.toString()).toBe("kept");
  });

  test.each<[WorkspaceOwner, RegExp]>([
    [ada, new RegExp(`^${TENANT}/[0-9a-f]{32}$`)],
    [{ ...ada, tenant: TENANT.toUpperCase() }, new RegExp(`^${TENANT}/[0-9a-f]{32}$`)],
    [{ ...ada, tenant: "../../etc" }, /^[0-9a-f]{32}\/[0-9a-f]{32}$/],
    [{ ...ada, tenant: "------------------------------------" }, /^[0-9a-f]{32}\/[0-9a-f]{32}$/],
    [{ ...ada, tenant: "" }, /^[0-9a-f]{32}\/[0-9a-f]{32}$/],
    [{ subject: "../../../etc/passwd", method: "api-key" }, /^by-api-key\/[0-9a-f]{32}$/],
    [{ subject: "x", method: "../.." }, /^[0-9a-f]{32}\/[0-9a-f]{32}$/],
  ])("have a name that leads nowhere else: %j", (owner, name) => {
    expect(workspaceName(owner)).toMatch(name);
  });

  test("of the same subject in two tenants, or by two methods, are two", () => {
    const owners = [
      ada,
      { ...ada, tenant: "other" },
      { subject: "ada", method: "api-key" },
      { subject: "ada", method: "entra" },
    ];
    expect(new Set(owners.map((owner) => workspaceName(owner))).size).toBe(owners.length);
  });

  test("are refused when something else is in their place", async () => {
    const elsewhere = await temporaryDirectory();
    await mkdir(join(path, TENANT));
    await symlink(elsewhere, join(path, workspaceName(ada)));
    await expect((await opened(path)).of(ada)).rejects.toThrow("is not a directory of its own");
    expect(await readdir(elsewhere)).toEqual([]);
  });

  const daysFromNow = (days: number) => new Date(Date.now() + days * 86_400_000);

  test("are removed when they have not been used for the retention time, and not before", async () => {
    const workspaces = await opened(path);
    const { root } = await workspaces.of(ada);
    await writeFile(join(root, "file"), "x");
    expect(await workspaces.sweep(daysFromNow(29))).toEqual([]);
    expect(await workspaces.sweep(daysFromNow(31))).toEqual([workspaceName(ada)]);
    expect(await readdir(path)).toEqual([]);
    // Whoever comes back finds a new one, on this replica and on others.
    const again = await workspaces.of(ada);
    expect(await readdir(again.root)).toEqual([]);
  });

  test("are kept for ever where retention is 0", async () => {
    const workspaces = await opened(path, { retentionDays: 0 });
    await workspaces.of(ada);
    expect(await workspaces.sweep(daysFromNow(10_000))).toEqual([]);
  });

  test("are all that sweeping removes", async () => {
    const workspaces = await opened(path);
    const mine = ["notes/file", "0123456789abcdef0123456789abcdef", "by-hand/file", `${TENANT}/readme`];
    for (const name of mine) {
      await mkdir(join(path, name, ".."), { recursive: true });
      await writeFile(join(path, name), "kept");
    }
    const outside = await temporaryDirectory();
    await mkdir(join(outside, "0".repeat(32)));
    await symlink(outside, join(path, "1".repeat(32)));
    await workspaces.sweep(daysFromNow(400));
    for (const name of mine) expect(await readFile(join(path, name), "utf8")).toBe("kept");
    expect(await readdir(outside)).toEqual(["0".repeat(32)]);
  });

  test("that a replica left half removed are removed by the next", async () => {
    const workspaces = await opened(path);
    await workspaces.of(ada);
    const leftover = join(path, TENANT, `.removing-${"a".repeat(32)}-0011`);
    await mkdir(join(leftover, "deep"), { recursive: true });
    await workspaces.sweep();
    await expect(lstat(leftover)).rejects.toThrow("ENOENT");
  });
});

describe("removing a tree", () => {
  test("gets through depth, missing rights, strange names, and follows no link", async () => {
    const outer = await temporaryDirectory();
    await writeFile(join(outer, "kept"), "kept");
    await mkdir(join(outer, "tree"));
    // Deeper than a path can say, for a shell that never says it.
    const deep = `i=0; while [ $i -lt 150 ]; do mkdir ${"d".repeat(50)} && cd -P ${"d".repeat(50)} || exit 1; i=$((i+1)); done; touch bottom`;
    execFileSync("sh", ["-c", deep], { cwd: join(outer, "tree") });
    execFileSync(
      "sh",
      [
        "-c",
        "mkdir -p locked/in; touch locked/in/x; chmod 000 locked/in locked; mkfifo pipe; ln -s .. up; ln -s / root",
      ],
      {
        cwd: join(outer, "tree"),
      },
    );
    await writeFile(join(outer, "tree", "\n-rf *"), "");
    await removeTree(join(outer, "tree"));
    expect(await readdir(outer)).toEqual(["kept"]);
  });
});

describe("a quota", () => {
  let workspace: Workspace;
  let root: string;
  const MEGABYTE = 1_000_000;
  beforeEach(async () => {
    root = await temporaryDirectory();
    workspace = await openWorkspace(root, {
      fileSizeLimit: 10 * MEGABYTE,
      quotaOf: (at) => createQuota(at, { bytes: MEGABYTE, files: 20 }),
    });
  });
  const call = (args: Record<string, unknown>) => fileOperation.call(args, contextWith({ workspace }));
  const write = (path: string, size: number) => call({ operation: "write", path, content: "x".repeat(size) });
  async function refusal(promise: Promise<unknown>): Promise<string> {
    const error = await promise.then(
      () => undefined,
      (reason: unknown) => reason,
    );
    if (!(error instanceof ToolFailure)) throw error ?? new Error("It was done.");
    return error.message;
  }

  test("of bytes holds for every way to write, and says what to do", async () => {
    await write("a", 600_000);
    const full = /"b" was not written: the workspace holds 6\d{5} of at most 1000000 bytes; delete something first\./;
    expect(await refusal(write("b", 600_000))).toMatch(full);
    expect(await refusal(call({ operation: "copy", path: "a", destination: "b" }))).toMatch(
      /holds 6\d{5} of at most 1000000 bytes/,
    );
    expect(await refusal(call({ operation: "append", path: "a", content: "x".repeat(600_000) }))).toContain(
      "delete something first",
    );
    // The same size again is no more, and less is less.
    await write("a", 600_000);
    await write("a", 100_000);
    await call({ operation: "delete", path: "a" });
    await write("b", 900_000);
    expect(await readdir(root)).toEqual(["b"]);
  });

  test("of files counts directories, links and all", async () => {
    for (let at = 0; at < 20; at++) await call({ operation: "mkdir", path: `d${at}` });
    const full = "the workspace holds 20 of at most 20 files and directories; delete something first.";
    expect(await refusal(call({ operation: "mkdir", path: "more" }))).toContain(full);
    expect(await refusal(write("more", 1))).toContain(full);
    await call({ operation: "delete", path: "d0" });
    await write("more", 1);
  });

  test("counts what others wrote before it refuses or allows", async () => {
    await write("a", 1);
    await writeFile(join(root, "other"), "x".repeat(990_000));
    workspace.quota.changed();
    expect(await refusal(write("b", 20_000))).toContain("delete something first");
    execFileSync("rm", [join(root, "other")]);
    await new Promise((resolve) => setTimeout(resolve, 1100));
    await write("b", 20_000);
  });

  test("counts sparse files by what they hold, and a file with two names once", async () => {
    await writeFile(join(root, "sparse"), "");
    await truncate(join(root, "sparse"), 10 * MEGABYTE);
    await writeFile(join(root, "one"), "x".repeat(600_000));
    await link(join(root, "one"), join(root, "two"));
    await write("small", 1);
    expect(workspace.quota.holdings?.files).toBe(4);
    expect(workspace.quota.holdings?.bytes).toBeLessThan(700_000);
  });

  test("is full when directories are nested beyond looking", async () => {
    execFileSync("sh", ["-c", "i=0; while [ $i -lt 140 ]; do mkdir d && cd d; i=$((i+1)); done"], { cwd: root });
    expect(await refusal(write("x", 1))).toContain("files and directories; delete something first");
    await call({ operation: "delete", path: "d", recursive: true });
    await write("x", 1);
  });

  test("holds for commands by the size of what they write, and is looked at after each", async () => {
    const commands = commandRunner();
    const run = (command: string) => executeCommand.call({ command }, contextWith({ workspace, commands }));
    await write("a", 900_000);
    expect(await run("head -c 500000 /dev/zero >b")).not.toMatchObject({ exitCode: 0 });
    expect((await stat(join(root, "b"))).size).toBeLessThanOrEqual(100_000);
    expect(await refusal(write("c", 50_000))).toContain("delete something first");
    // A full workspace can still be emptied.
    expect(await run("rm a b")).toMatchObject({ exitCode: 0 });
    await write("c", 50_000);
  });
});

describe("over HTTP", () => {
  const keys = ["first-key", "second-key"];
  const hashes = keys.map((each) => `sha256:${createHash("sha256").update(each).digest("hex")}`).join();
  async function called(app: Awaited<ReturnType<typeof testApp>>, which: number, name: string, args: unknown) {
    const { body } = await app.app.inject(
      rpc("tools/call", { name, arguments: args }, { authorization: `Bearer ${keys[which]}` }),
    );
    return messageIn(body).result as { isError?: boolean; structuredContent: Record<string, unknown> };
  }

  test("two callers have two workspaces, by files and by commands", async () => {
    const app = await testApp({ AUTH_MODE: "api-key", API_KEY_HASHES: hashes });
    await called(app, 0, "file_operation", { operation: "write", path: "note", content: "mine" });
    expect((await called(app, 1, "file_operation", { operation: "read", path: "note" })).isError).toBe(true);
    const [mine, other] = [0, 1].map((which) => called(app, which, "execute_command", { command: "ls; pwd" }));
    expect((await mine)?.structuredContent.stdout).toMatch(/^note\n.*\/by-api-key\/[0-9a-f]{32}\n$/);
    expect((await other)?.structuredContent.stdout).toMatch(/^\/.*\/by-api-key\/[0-9a-f]{32}\n$/);
    const { structuredContent } = await called(app, 1, "system_info", {});
    expect(structuredContent).toMatchObject({
      workspace: { quotaBytes: 1024 ** 3, quotaFiles: 100_000 },
      commands: { shell: true, isolation: { network: "open" } },
      limits: { role: "admin" satisfies Role, commandProcesses: 128, commandConcurrency: 4 },
    });
  });

  test("one caller's commands leave room for another's", async () => {
    const app = await testApp({ AUTH_MODE: "api-key", API_KEY_HASHES: hashes, COMMAND_CALLER_CONCURRENCY: "1" });
    const long = called(app, 0, "execute_command", { command: "while [ ! -e end ]; do sleep 0.05; done" });
    await expect.poll(() => app.services.commands.running).toBe(1);
    expect((await called(app, 0, "execute_command", { command: "true" })).isError).toBe(true);
    expect((await called(app, 1, "execute_command", { command: "true" })).structuredContent).toMatchObject({
      exitCode: 0,
    });
    await called(app, 0, "file_operation", { operation: "write", path: "end", content: "" });
    expect((await long).structuredContent).toMatchObject({ exitCode: 0 });
  });

  test("operators are told how commands are kept apart", async () => {
    const app = await testApp();
    const details = (await app.operator.inject("/health/detailed")).json();
    expect(details.isolation).toMatchObject({ namespaces: expect.any(Boolean), missing: expect.any(Array) });
    expect(app.events()).toContainEqual(expect.objectContaining({ event: "isolation.found" }));
  });

  test("a list of programs is told to callers", async () => {
    const app = await testApp({ COMMAND_SHELL: "false", COMMAND_ALLOWED_PROGRAMS: "cat, ls" });
    const { body } = await app.app.inject(rpc("tools/call", { name: "system_info", arguments: {} }));
    expect((messageIn(body).result as { structuredContent: unknown }).structuredContent).toMatchObject({
      commands: { shell: false, programs: ["cat", "ls"] },
    });
  });
});
