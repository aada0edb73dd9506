import { mkdir, mkdtemp, readdir, readFile, realpath, rm, writeFile } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import type { CommandLimits } from "../../server/config.ts";
import { findProgram, type Isolation, IsolationError, type IsolationOptions } from "../../server/services/isolation.ts";
import { openWorkspace, type Workspace } from "../../server/services/workspace.ts";
import { ToolFailure } from "../../server/tools/define-tool.ts";
import { executeCommand } from "../../server/tools/execute-command.ts";
import { temporaryDirectory } from "./running-app.ts";
import { endMarked, isRunning, sleepMark } from "./running-processes.ts";
import { commandRunner, contextWith, isolation } from "./tool-context.ts";

/*
 * What a hostile command tries, against every isolation that this machine can give it. What holds only by a feature
 * that is missing here is skipped, and says so; SANDBOX_TOOLS may name a directory with a newer util-linux.
 */

/** A tool path on which `name` is a script of ours. */
async function toolsWith(name: string, script: string): Promise<string> {
  const directory = await mkdtemp("/var/tmp/mcp-tools-");
  made.push(directory);
  await writeFile(join(directory, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  return process.env.SANDBOX_TOOLS === undefined ? directory : `${directory}:${process.env.SANDBOX_TOOLS}`;
}
const made: string[] = [];
afterAll(() => Promise.all(made.map((directory) => rm(directory, { recursive: true, force: true }))));

/** Where `unshare` never works, as under Kubernetes' default seccomp profile. */
const withoutNamespaces = () => toolsWith("unshare", "echo 'unshare: Operation not permitted' >&2; exit 1");

const VARIANTS: readonly [string, () => Promise<Partial<IsolationOptions>>][] = [
  ["with all that the kernel allows", async () => ({})],
  ["without namespaces", async () => ({ toolPath: await withoutNamespaces() })],
  ["without any isolation", async () => ({ mode: "off" as const })],
];

/** Where workspaces lie: below what commands have of their own, /tmp, and elsewhere. */
const PLACES = ["/tmp", "/var/tmp"];

// Most of the time is spent waiting for limits to be reached.
describe.runIf(process.platform === "linux").concurrent.each(VARIANTS)("a hostile command %s", (_name, options) => {
  let outer: string;
  let isolated: Isolation;

  beforeAll(async () => {
    outer = await realpath(await mkdtemp(join("/var/tmp", "mcp-sandbox-test-")));
    for (const directory of ["all/b", "token"]) await mkdir(join(outer, directory), { recursive: true });
    await writeFile(join(outer, "all/b/secret"), "swordfish");
    await writeFile(join(outer, "token/secret"), "swordfish");
    isolated = await isolation({
      workspaces: join(outer, "all"),
      hidden: [join(outer, "token")],
      ...(await options()),
    });
  });
  afterAll(async () => {
    isolated.close();
    await rm(outer, { recursive: true, force: true });
  });
  /** One of many, beside the one with the secret. */
  const newWorkspace = async () => openWorkspace(await mkdtemp(join(outer, "all/own-")), { fileSizeLimit: 1024 });

  async function run(command: string, limits: Partial<CommandLimits> = {}, timeout?: number, own?: Workspace) {
    const workspace = own ?? (await newWorkspace());
    const commands = commandRunner({ limits, isolation: Promise.resolve(isolated) });
    const context = contextWith({ workspace, commands });
    return executeCommand
      .call({ command, ...(timeout && { timeout }) }, context)
      .then(
        (result) => ({ failure: "", ...result }),
        (error: unknown) => {
          if (!(error instanceof ToolFailure)) throw error;
          return { failure: error.message, ...error.output };
        },
      )
      .then((result) => ({ stdout: "", stderr: "", exitCode: null, ...result }));
  }

  const needs = (holds: (facts: Isolation["facts"]) => boolean, skip: (note: string) => void) => {
    if (!holds(isolated.facts)) skip(isolated.facts.missing.join("; "));
  };
  const filesHold = ({ namespaces, landlock }: Isolation["facts"]) => namespaces || landlock;
  const signalsHold = ({ namespaces, syscallFilter }: Isolation["facts"]) => namespaces || syscallFilter;

  test("that will not end is gone when its time is up, wherever it went", async ({ onTestFinished }) => {
    const commands: ((mark: string) => string)[] = [
      // Ignores SIGTERM, and so do its children.
      (mark) => `trap '' TERM; sleep ${mark} & while :; do sleep ${mark}; done`,
      // Stops itself.
      (mark) => `sleep ${mark} & kill -STOP $$`,
      // Hides in a session of its own without an environment.
      (mark) => `setsid env -i sleep ${mark} & sleep ${mark}`,
      // Detaches a grandchild that holds the pipes.
      (mark) => `(setsid sh -c 'sleep ${mark} & sleep ${mark}' &); sleep ${mark}`,
    ];
    await Promise.all(
      commands.map(async (command) => {
        const mark = sleepMark();
        onTestFinished(() => endMarked(mark));
        const { failure } = await run(command(mark), {}, 0.3);
        expect(failure).toContain("killed after 0.3 seconds");
        expect(await isRunning(mark)).toBe(false);
      }),
    );
  });

  test.for<[string, (mark: string) => string]>([
    ["holding both pipes", (mark) => `sleep ${mark} & echo started`],
    [
      "in a session of its own, without environment and pipes",
      (mark) => `setsid env -i sleep ${mark} >/dev/null 2>&1 & echo started`,
    ],
    ["many times over", (mark) => `for i in 1 2 3 4 5 6 7 8; do setsid sleep ${mark} & done; echo started`],
  ])("leaves no child behind %s", async ([, command], { expect, onTestFinished }) => {
    const mark = sleepMark();
    onTestFinished(() => endMarked(mark));
    expect(await run(command(mark))).toMatchObject({ exitCode: 0, stdout: "started\n" });
    await expect.poll(() => isRunning(mark)).toBe(false);
  });

  test("that forks without end is stopped by the kernel", async ({ skip, onTestFinished }) => {
    needs(({ processLimit }) => processLimit !== "none", skip);
    const mark = sleepMark();
    onTestFinished(() => endMarked(mark));
    const bounded = await run(`i=0; while [ $i -lt 100 ]; do sleep ${mark} & i=$((i+1)); done; echo all`, {
      processes: 16,
    });
    expect(bounded.stdout).toBe("");
    expect(bounded.stderr).toMatch(/fork/i);
    expect(await isRunning(mark)).toBe(false);
    // Only where the limit is the command's own: elsewhere it would also keep this user's other programs from starting.
    if (isolated.facts.processLimit !== "command") return;
    const bomb = await run("bomb() { bomb | bomb & }; bomb; sleep 0.2; echo survived", { processes: 16 }, 5);
    expect(bomb.failure).toBe("");
    expect(await run("echo fine")).toMatchObject({ stdout: "fine\n" });
  });

  test("that has too many processes where the kernel does not count them is killed", async ({
    skip,
    onTestFinished,
  }) => {
    needs(({ processLimit }) => processLimit === "none", skip);
    const mark = sleepMark();
    onTestFinished(() => endMarked(mark));
    const { failure } = await run(`i=0; while [ $i -lt 30 ]; do sleep ${mark} & i=$((i+1)); done; wait`, {
      processes: 16,
    });
    expect(failure).toContain("more than 16 processes and threads");
    expect(await isRunning(mark)).toBe(false);
  });

  test("that floods both pipes is ended", async () => {
    const { failure } = await run("yes >&2 & yes", { outputBytes: 1024 });
    expect(failure).toContain("its output did not end");
  });

  test("that burns CPU is ended, in one process or in several", async () => {
    const one = await run("while :; do :; done", { cpuSeconds: 1 });
    expect(one.failure).toContain("it used 1 seconds of CPU time");
    const several = await run("for i in 1 2 3 4; do (while :; do :; done) & done; wait", { cpuSeconds: 1 });
    expect(several.failure).toContain("it used 1 seconds of CPU time");
  });

  test("that takes too much memory does not get it, or is killed when several do together", async () => {
    const memoryBytes = 96 * 1024 * 1024;
    const alone = await run("dd if=/dev/zero of=/dev/null bs=200M count=1 && echo held", { memoryBytes });
    expect(alone.stdout).toBe("");
    // Each has its buffer full and waits for a reader that does not read.
    const together = "for i in 1 2 3 4 5 6; do dd if=/dev/zero bs=30M count=1 status=none | sleep 10 & done; wait";
    expect((await run(together, { memoryBytes })).failure).toContain(`more than ${memoryBytes} bytes of memory`);
  });

  test("writes no file larger than it may, sparse or not", async () => {
    const workspace = await newWorkspace();
    const command = "truncate -s 1T giant || head -c 2000000 /dev/zero >giant";
    const { exitCode } = await run(command, { fileBytes: 1_048_576 }, undefined, workspace);
    expect(exitCode).not.toBe(0);
    const { items } = await workspace.list(".", {
      offset: 0,
      limit: 10,
      recursive: false,
      signal: AbortSignal.timeout(1000),
    });
    for (const { size = 0 } of items) expect(size).toBeLessThanOrEqual(1_048_576);
  });

  test("does not reach files of others, nor the pod's token", async ({ skip }) => {
    needs(filesHold, skip);
    const commands = [
      `cat ${outer}/all/b/secret`,
      `cat ${outer}/token/secret`,
      `cat ../b/secret`,
      `ln ${outer}/all/b/secret linked && cat linked`,
      `ln -s ${outer}/all/b/secret link; cat link`,
      `cat /proc/${process.pid}/root${outer}/all/b/secret`,
      `cat /proc/${process.pid}/cwd/package.json`,
      `cp -r ${outer}/all/b stolen; cat stolen/secret`,
    ];
    for (const command of commands) expect((await run(command)).stdout).toBe("");
    expect((await run(`cd ${outer}/all && ls`)).stdout.split("\n")).not.toContain("b");
  });

  test("changes nothing outside its workspace", async ({ skip }) => {
    needs(filesHold, skip);
    const before = await readdir(outer);
    await run(
      `echo x >${outer}/escaped; echo x >${outer}/all/escaped; rm -rf ${outer}/all/b; mv ${outer}/token ${outer}/gone`,
    );
    expect(await readdir(outer)).toEqual(before);
    expect(await readdir(join(outer, "all"))).toContain("b");
    expect(await readdir(join(outer, "all"))).not.toContain("escaped");
    expect(await readFile(join(outer, "all/b/secret"), "utf8")).toBe("swordfish");
  });

  test("makes no device", async ({ skip }) => {
    needs(filesHold, skip);
    const workspace = await newWorkspace();
    await run("mknod memory c 1 1; mknod disk b 8 0", {}, undefined, workspace);
    expect(await readdir(workspace.root)).toEqual([]);
  });

  test("reads neither the server's environment nor its memory nor its files", async ({ skip }) => {
    needs(filesHold, skip);
    const server = `/proc/${process.pid}`;
    for (const what of [
      `cat ${server}/environ`,
      `cat ${server}/maps`,
      `head -c 1 ${server}/mem`,
      `cat ${server}/fd/0`,
      `readlink ${server}/fd/1`,
    ]) {
      expect((await run(what)).stdout).toBe("");
    }
  });

  test("signals neither the server nor its threads nor everybody", async ({ skip, onTestFinished }) => {
    needs(signalsHold, skip);
    // Signals that do nothing to whoever has not asked for them, should one get through.
    let received = 0;
    const onSignal = () => received++;
    process.on("SIGURG", onSignal);
    onTestFinished(() => {
      process.off("SIGURG", onSignal);
    });
    const threads = await readdir("/proc/self/task");
    const targets = [process.pid, "$PPID", "-1", `-${await groupOf("self")}`, ...threads];
    await run(targets.map((target) => `kill -URG -- ${target}`).join("; "));
    await run(`prlimit --pid ${process.pid} --nofile=10; renice -n 19 -p ${process.pid}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(received).toBe(0);
    expect(await readFile("/proc/self/limits", "utf8")).not.toMatch(/^Max open files\s+10 /m);
    // Its own processes are its to signal.
    expect(await run("sleep 100 & kill $!; wait $!; echo $?")).toMatchObject({ stdout: "143\n" });
  });

  test("gains no rights, and makes no namespace to have them in", async ({ skip }) => {
    needs(({ noNewRights }) => noNewRights, skip);
    expect((await run("grep NoNewPrivs /proc/self/status")).stdout).toMatch(/1$/m);
    expect((await run("grep CapEff /proc/self/status")).stdout).toMatch(/\t0{16}\n/);
    if (isolated.facts.syscallFilter) expect((await run("unshare --user true")).exitCode).not.toBe(0);
  });

  test("sees its own processes only", async ({ skip }) => {
    needs(({ ownProc }) => ownProc, skip);
    const { stdout } = await run("ls -d /proc/[0-9]* | wc -l");
    expect(Number(stdout)).toBeLessThan(8);
  });

  test("has a place for temporary files that is gone afterwards", async ({ skip }) => {
    needs(({ landlock, namespaces }) => landlock || namespaces, skip);
    // biome-ignore lint/suspicious/noTemplateCurlyInString: the shell's.
    const { stdout } = await run("f=$(mktemp ${TMPDIR:-/tmp}/mcp-sandbox-XXXXXX) && echo hi >$f && cat $f && echo $f");
    expect(stdout).toMatch(/^hi\n\//);
    const [, file = ""] = String(stdout).split("\n");
    await expect(readFile(file)).rejects.toThrow("ENOENT");
  });

  test("works as usual in its workspace, call after call", async () => {
    const workspace = await newWorkspace();
    await run("mkdir -p a && echo one >a/file && mv a/file b && ln -s b c && chmod 700 b", {}, undefined, workspace);
    const { stdout } = await run("cat c; pwd; echo $HOME", {}, undefined, workspace);
    expect(stdout).toBe(`one\n${workspace.root}\n${workspace.root}\n`);
  });
});

async function groupOf(process: string): Promise<string> {
  const stat = await readFile(`/proc/${process}/stat`, "latin1");
  return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[2] ?? "";
}

describe.runIf(process.platform === "linux")("isolation", () => {
  test.each(PLACES)("leaves the workspace where it was, in %s", async (place) => {
    const root = await realpath(await mkdtemp(join(place, "mcp-sandbox-test-")));
    onTestFinished(() => rm(root, { recursive: true, force: true }));
    const workspace = await openWorkspace(join(root, "tenant/own"), { fileSizeLimit: 1024 });
    await mkdir(join(root, "tenant/own/deep"));
    await mkdir(join(root, "tenant/other"));
    const isolated = await isolation({ workspaces: root });
    onTestFinished(() => isolated.close());
    const commands = commandRunner({ isolation: Promise.resolve(isolated) });
    const call = (args: Record<string, unknown>) => executeCommand.call(args, contextWith({ workspace, commands }));
    const { stdout } = await call({ command: "pwd; echo kept >file", working_dir: "deep" });
    expect(stdout).toBe(`${workspace.root}/deep\n`);
    expect(await readFile(join(workspace.root, "deep/file"), "utf8")).toBe("kept\n");
    if (isolated.facts.namespaces) expect((await call({ command: "ls ../*" })).stdout).not.toContain("other");
  });

  test("keeps commands off the network where it is told to, and only there", async ({ skip }) => {
    if ((await findProgram("bash")) === undefined) skip("bash is not installed");
    const listener = createServer((socket) => socket.end()).listen(0, "127.0.0.1");
    onTestFinished(() => {
      listener.close();
    });
    await new Promise((resolve) => listener.once("listening", resolve));
    const { port } = listener.address() as AddressInfo;
    const connect = { command: "bash", args: ["-c", `exec 3<>/dev/tcp/127.0.0.1/${port} && echo connected`] };
    const workspace = await openWorkspace(await temporaryDirectory(), { fileSizeLimit: 1024 });
    for (const toolPath of [process.env.SANDBOX_TOOLS, await withoutNamespaces()]) {
      for (const network of [true, false]) {
        const isolated = await isolation({ network, toolPath }).catch((error: unknown) => {
          expect(error).toBeInstanceOf(IsolationError);
          expect(String(error)).toContain(
            "COMMAND_NETWORK is false, and nothing here can keep commands off the network",
          );
          return undefined;
        });
        if (isolated === undefined) continue;
        onTestFinished(() => isolated.close());
        const commands = commandRunner({ isolation: Promise.resolve(isolated) });
        const { stdout } = await executeCommand.call(connect, contextWith({ workspace, commands }));
        expect([network, stdout]).toEqual([network, network ? "connected\n" : ""]);
      }
    }
  });

  test("does without a /proc of the command's own where the container masks its", async ({ skip }) => {
    const { facts } = await isolation();
    if (!facts.ownProc) skip(facts.missing.join("; "));
    const toolPath = await toolsWith("mount", 'case "$*" in *"-t proc"*) exit 1;; esac\nexec /usr/bin/mount "$@"');
    const isolated = await isolation({ toolPath });
    onTestFinished(() => isolated.close());
    expect(isolated.facts).toMatchObject({ namespaces: true, ownProc: false });
    const workspace = await openWorkspace(await temporaryDirectory(), { fileSizeLimit: 1024 });
    const commands = commandRunner({ isolation: Promise.resolve(isolated) });
    const server = `/proc/${process.pid}`;
    const command = `cat ${server}/environ; readlink ${server}/cwd ${server}/fd/0; kill -URG ${process.pid} && echo signalled`;
    const result = await executeCommand.call({ command }, contextWith({ workspace, commands }));
    expect(result).toMatchObject({ stdout: "" });
  });

  test("that is required and cannot be had is an error that says why", async ({ skip }) => {
    const toolPath = await withoutNamespaces();
    const got = isolation({ mode: "required", toolPath });
    const { facts } = await isolation({ toolPath });
    if (facts.landlock && facts.syscallFilter) skip("this machine has it without namespaces");
    await expect(got).rejects.toThrow(/COMMAND_ISOLATION is required.*namespaces: unshare: Operation not permitted/);
  });

  test("finds no program that is not there", async () => {
    await expect(isolation({ programs: ["ls", "no-such-program"] })).rejects.toThrow(
      'COMMAND_ALLOWED_PROGRAMS names "no-such-program", which is not installed here',
    );
  });
});
