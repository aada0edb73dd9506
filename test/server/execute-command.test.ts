import { mkdir, readFile, symlink } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { LOCAL_CALLER } from "../../server/auth/authenticate.ts";
import type { Role } from "../../server/config.ts";
import { openWorkspace, type Workspace } from "../../server/services/workspace.ts";
import { type ToolContext, ToolFailure } from "../../server/tools/define-tool.ts";
import { executeCommand } from "../../server/tools/execute-command.ts";
import { temporaryDirectory } from "./running-app.ts";
import { isRunning, sleepMark } from "./running-processes.ts";
import { commandRunner, contextWith, limitsOf } from "./tool-context.ts";

let workspace: Workspace;
let root: string;

beforeEach(async () => {
  root = await temporaryDirectory();
  workspace = await openWorkspace(root, { fileSizeLimit: 1024 });
});

const OUTPUT_BYTES = 4096;
const context = (parts: Partial<ToolContext> = {}) =>
  contextWith({ workspace, commands: commandRunner({ limits: { outputBytes: OUTPUT_BYTES } }), ...parts });

const run = (command: string, more: Record<string, unknown> = {}, parts: Partial<ToolContext> = {}) =>
  executeCommand.call({ command, ...more }, context(parts));

async function failureOf(promise: Promise<unknown>): Promise<ToolFailure> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof ToolFailure) return error;
    throw error;
  }
  throw new Error("The command ran.");
}

describe("a command", () => {
  test("has its exit code, its output and its errors told apart", async () => {
    expect(await run("echo out; echo err >&2; exit 7")).toMatchObject({
      exitCode: 7,
      signal: null,
      stdout: "out\n",
      stderr: "err\n",
      truncated: false,
      timedOut: false,
    });
  });

  test("that is ended by a signal says which", async () => {
    expect(await run("kill -9 $$")).toMatchObject({ exitCode: null, signal: "SIGKILL" });
  });

  test("that is not found is a result like any other", async () => {
    expect(await run("no-such-program")).toMatchObject({ exitCode: 127, stderr: expect.stringContaining("not found") });
  });

  test("runs in the workspace or a directory of it", async () => {
    await mkdir(join(root, "a/b"), { recursive: true });
    await symlink("a", join(root, "link"));
    expect(await run("pwd")).toMatchObject({ stdout: `${root}\n` });
    expect(await run("pwd", { working_dir: "link/b" })).toMatchObject({ stdout: `${root}/a/b\n` });
  });

  test("sees nothing of the server's environment", async () => {
    process.env.TEST_SECRET = "swordfish";
    const { stdout } = await run("env");
    delete process.env.TEST_SECRET;
    const names = String(stdout)
      .trim()
      .split("\n")
      .map((line) => line.split("=")[0]);
    expect(names.sort()).toEqual(["HOME", "LANG", "NO_COLOR", "PATH", "PWD", "SHELL", "TERM"]);
    expect(await run("echo $HOME")).toMatchObject({ stdout: `${root}\n` });
  });

  test("has no input to wait for", async () => {
    expect(await run("cat; echo done")).toMatchObject({ stdout: "done\n" });
  });

  test("keeps UTF-8 whole", async () => {
    expect(await run("printf 'Grüße 😀'")).toMatchObject({ stdout: "Grüße 😀" });
  });
});

describe("long output", () => {
  test("keeps head and tail and counts the rest exactly", async () => {
    const { stdout, stdoutDroppedBytes, truncated, exitCode } = await run("seq 1 5000");
    const total = Array.from({ length: 5000 }, (_, at) => `${at + 1}\n`).join("").length;
    expect({ truncated, exitCode }).toEqual({ truncated: true, exitCode: 0 });
    const [head = "", tail = ""] = String(stdout).split(`\n[... ${stdoutDroppedBytes} bytes left out ...]\n`);
    expect(head).toMatch(/^1\n2\n3\n/);
    expect(tail).toMatch(/4999\n5000\n$/);
    expect(head.length + tail.length + Number(stdoutDroppedBytes)).toBe(total);
    expect(head.length + tail.length).toBe(OUTPUT_BYTES);
  });

  test("is linked to, whole, as a file of the workspace", async () => {
    const roomy = await openWorkspace(root, { fileSizeLimit: 64 * 1024 });
    const both = { command: "seq 1 5000; seq 5000 -1 1 >&2" };
    const { content, structuredContent } = await executeCommand.respond(both, context({ workspace: roomy }));
    expect(structuredContent).toMatchObject({ exitCode: 0, truncated: true });
    const numbers = Array.from({ length: 5000 }, (_, at) => `${at + 1}\n`);
    for (const [at, [stream, whole]] of [
      ["stdout", numbers.join("")] as const,
      ["stderr", numbers.toReversed().join("")] as const,
    ].entries()) {
      const link = content[at + 1];
      if (link?.type !== "resource_link") throw new Error(`There is no link to ${stream}.`);
      expect(structuredContent).toHaveProperty(`${stream}Resource`, link.uri);
      expect(await readFile(join(root, link.uri.slice("workspace:///".length)), "utf8")).toBe(whole);
    }
  });

  test("that the workspace does not take is counted, and nothing fails", async () => {
    const output = await run("seq 1 5000");
    expect(output).toMatchObject({ exitCode: 0, truncated: true });
    expect(output).not.toHaveProperty("stdoutResource");
  });

  test("is cut between characters, not in them", async () => {
    const { stdout } = await run("i=0; while [ $i -lt 400 ]; do printf '€€€€€'; i=$((i+1)); done");
    expect(stdout).not.toContain("\ufffd");
  });

  test("up to the limit is kept whole", async () => {
    const { stdout, truncated } = await run("head -c 4096 /dev/zero | tr '\\0' x");
    expect([String(stdout).length, truncated]).toEqual([4096, false]);
  });

  test("without end is ended", async () => {
    const commands = commandRunner({ limits: { outputBytes: 1024 } });
    const { message, output } = await failureOf(run("yes", {}, { commands }));
    expect(message).toContain("killed because its output did not end");
    expect(output).toMatchObject({ timedOut: false, truncated: true });
  });
});

describe("a command is killed, with all it started,", () => {
  test("when its time is up, and what it wrote is kept", async () => {
    const mark = sleepMark();
    const { message, output } = await failureOf(run(`echo before; sleep ${mark} & sleep ${mark}`, { timeout: 1.5 }));
    expect(message).toContain("killed after 1.5 seconds");
    expect(output).toMatchObject({ timedOut: true, exitCode: null, signal: "SIGTERM", stdout: "before\n" });
    expect(await isRunning(mark)).toBe(false);
  });

  test("when it ignores SIGTERM", async () => {
    const mark = sleepMark();
    // Long enough for a shell on a busy machine to have set its trap.
    const { output } = await failureOf(run(`trap '' TERM; while :; do sleep ${mark}; done`, { timeout: 1.5 }));
    expect(output).toMatchObject({ timedOut: true, signal: "SIGKILL" });
    expect(await isRunning(mark)).toBe(false);
  });

  test("when its caller cancels", async () => {
    const mark = sleepMark();
    const controller = new AbortController();
    const call = failureOf(run(`sleep ${mark}`, {}, { signal: controller.signal }));
    await expect.poll(() => isRunning(mark)).toBe(true);
    controller.abort();
    expect((await call).message).toContain("cancelled");
    expect(await isRunning(mark)).toBe(false);
  });

  test("when the server shuts down", async () => {
    const mark = sleepMark();
    const commands = commandRunner();
    const call = failureOf(run(`sleep ${mark}`, {}, { commands }));
    await expect.poll(() => isRunning(mark)).toBe(true);
    commands.stopAll();
    expect((await call).message).toContain("shutting down");
    expect(commands.running).toBe(0);
  });

  test.each([
    ["in the background", (mark: string) => `sleep ${mark} & echo started`],
    ["in the background, holding no pipe", (mark: string) => `sleep ${mark} >/dev/null 2>&1 & echo started`],
    ["with nohup", (mark: string) => `nohup sleep ${mark} >/dev/null 2>&1 & echo started`],
    ["in a session of its own", (mark: string) => `setsid sleep ${mark} & echo started`],
    ["as a daemon's grandchild", (mark: string) => `(setsid sh -c 'sleep ${mark} & sleep ${mark}' &) ; echo started`],
  ])("or ends by itself and leaves a child %s", async (_what, command) => {
    const mark = sleepMark();
    const result = await run(command(mark));
    expect(result).toMatchObject({ exitCode: 0, stdout: "started\n" });
    expect(result.durationMs).toBeLessThan(5000);
    await expect.poll(() => isRunning(mark)).toBe(false);
  });
});

test("each role has its own limits", async () => {
  const { admin } = limitsOf();
  const limits = { admin, operator: { ...admin, timeoutSeconds: 5 }, reader: { ...admin, timeoutSeconds: 1 } };
  const commands = { ...commandRunner(), limits };
  const as = (role: Role, timeout: number) =>
    executeCommand.call(
      { command: "echo ran", timeout },
      contextWith({ workspace, commands, caller: { ...LOCAL_CALLER, role } }),
    );
  expect(await as("operator", 5)).toMatchObject({ stdout: "ran\n" });
  expect((await failureOf(as("operator", 6))).message).toContain("for at most 5 seconds");
  expect((await failureOf(as("reader", 2))).message).toContain("for at most 1 seconds");
});

test("callers do not use up what is everybody's", async () => {
  const commands = commandRunner({ inAll: 2, limits: { concurrency: 2 } });
  const as = (subject: string, command: string, signal?: AbortSignal) =>
    executeCommand.call(
      { command },
      contextWith({ workspace, commands, caller: { ...LOCAL_CALLER, subject }, ...(signal && { signal }) }),
    );
  const stop = new AbortController();
  const busy = ["ada", "bob"].map((subject) => failureOf(as(subject, "sleep 100", stop.signal)));
  await expect.poll(() => commands.running).toBe(2);
  expect((await failureOf(as("eve", "true"))).message).toContain("2 commands run already, the most this server runs");
  stop.abort();
  await Promise.all(busy);
  expect(await as("eve", "true")).toMatchObject({ exitCode: 0 });
});

describe("refusals name the value and the mend", () => {
  test.each<[unknown, string]>([
    [{}, 'Argument "command" is missing'],
    [{ command: "" }, 'Argument "command" is "": give the command to run'],
    [{ command: "echo a\0b" }, "it must not contain NUL characters"],
    [{ command: ["ls"] }, 'Argument "command" is ["ls"]'],
    [
      { command: "ls", cwd: "a" },
      'Unknown argument "cwd"; execute_command takes command, args, working_dir, timeout, idempotency_key.',
    ],
    [{ command: "ls", timeout: 0 }, 'Argument "timeout" is 0: it must be more than 0 seconds'],
    [{ command: "ls", timeout: "5" }, 'Argument "timeout" is "5"'],
    [{ command: "ls", timeout: 11 }, 'Argument "timeout" is 11: this server runs commands for at most 10 seconds'],
    [{ command: "ls", working_dir: "none" }, '"none" does not exist in the workspace'],
    [{ command: "ls", working_dir: "../.." }, '"../.." leads outside the workspace'],
    [{ command: "ls", working_dir: "out" }, '"out" leads outside the workspace'],
    [{ command: "ls", working_dir: "file" }, '"file" is not a directory'],
    [
      { command: `: ${"x".repeat(131_072)}` },
      'Argument "command" has 131074 bytes in one piece, and a program takes at most 131071',
    ],
  ])("%j", async (args, sentence) => {
    await symlink("/", join(root, "out"));
    await run("touch file");
    expect((await failureOf(executeCommand.call(args, context()))).message).toContain(sentence);
  });

  test("too many at once are refused, and the next is taken when one has ended", async () => {
    const commands = commandRunner();
    const stop = new AbortController();
    const mark = sleepMark();
    const busy = [0, 1].map(() => failureOf(run(`sleep ${mark}`, {}, { commands, signal: stop.signal })));
    await expect.poll(() => commands.running).toBe(2);
    expect((await failureOf(run("true", {}, { commands }))).message).toBe(
      "2 commands of yours run already, the most one caller may run at once; try again when one has ended.",
    );
    stop.abort();
    await Promise.all(busy);
    expect(await run("true", {}, { commands })).toMatchObject({ exitCode: 0 });
  });
});
