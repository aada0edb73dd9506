import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "vitest";
import { CHECKOUT } from "../../../infra/cli/checkout.ts";
import { runProgram } from "../../../infra/cli/program.ts";
import { recordingTerminal } from "./recording-terminal.ts";
import type { AtEnd } from "./server-process.ts";

interface Run {
  readonly child: ChildProcess;
  text(): string;
  /** Resolves when the output holds this. */
  says(what: string | RegExp): Promise<void>;
  readonly exit: Promise<number | null>;
}

/** The command, as npm starts it, with a temporary directory and a rehearsal directory of its own. */
async function start(onTestFinished: AtEnd, ...args: string[]): Promise<Run & { directory: string }> {
  const directory = await mkdtemp(join(tmpdir(), "mcp-command-test-"));
  const child = spawn(process.execPath, [join(CHECKOUT, "infra/cli/mcp-aks.js"), ...args], {
    cwd: CHECKOUT,
    env: { PATH: process.env.PATH, TMPDIR: directory, MCP_AKS_REHEARSALS: join(directory, "rehearsals") },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let text = "";
  const listeners = new Set<() => void>();
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk;
      for (const listener of listeners) listener();
    });
  }
  const exit = new Promise<number | null>((resolve) => child.once("close", (code) => resolve(code)));
  onTestFinished(async () => {
    child.kill("SIGKILL");
    await exit;
    await rm(directory, { recursive: true, force: true });
  });
  const says = (what: string | RegExp) =>
    new Promise<void>((resolve, reject) => {
      const check = () => {
        if (typeof what === "string" ? text.includes(what) : what.test(text)) resolve();
      };
      listeners.add(check);
      check();
      void exit.then((code) => reject(new Error(`it ended with ${code} and had said:\n${text}`)));
    });
  return { child, directory, exit, says, text: () => text };
}

// Most of the time is spent waiting for the command.
describe.concurrent("the command", () => {
  test("tells what there is, with examples and exit codes", async ({ expect, onTestFinished }) => {
    const run = await start(onTestFinished, "--help");
    expect(await run.exit).toBe(0);
    for (const command of ["rehearse", "plan", "render", "connect", "Exit codes"])
      expect(run.text()).toContain(command);
  });

  test.for<[string[], RegExp]>([
    [["rehears"], /unknown command 'rehears'[\s\S]*Did you mean rehearse/],
    [["plan", "prd"], /There is no stack "prd"; did you mean prod\?/],
    [["rehearse", "dev", "--port", "eighty"], /"eighty" is no port/],
    [["plan", "dev", "prod"], /too many arguments/],
    [["plan", "../dev"], /There is no stack "\.\.\/dev"/],
  ])(
    "%j ends with 2 and says what to do, without a stack trace",
    async ([args, message], { expect, onTestFinished }) => {
      const run = await start(onTestFinished, ...args);
      expect(await run.exit).toBe(2);
      expect(run.text()).toMatch(message);
      expect(run.text()).not.toMatch(/\n\s+at /);
    },
  );

  test.for(["main.ts", "mcp-aks.js"])(
    "%s under an older Node says which one it needs, and how to get it",
    async (entry, { expect }) => {
      // Node 20 cannot run main.ts at all; what a Node that can would say is seen by another version in its place.
      const older = 'Object.defineProperty(process, "versions", { value: { ...process.versions, node: "22.18.0" } })';
      const args = [
        "--import",
        `data:text/javascript,${encodeURIComponent(older)}`,
        join(CHECKOUT, "infra/cli", entry),
      ];
      const { status, stderr } = spawnSync(process.execPath, [...args, "plan"], { encoding: "utf8" });
      expect(status).toBe(2);
      expect(stderr).toMatch(/^error: this is Node 22\.18\.0, and mcp-aks needs Node 24.*npm ci.*npm run plan/);
    },
  );

  test("writes no colours into a pipe", async ({ expect, onTestFinished }) => {
    const run = await start(onTestFinished, "connect");
    await run.exit;
    expect(run.text()).not.toContain("\u001B");
  });
});

// One after the other: a rehearsal is busy from its start to its end, and two at once only take each other's time.
describe("rehearse", () => {
  test("--check plans, starts, uses and ends the server, and leaves nothing", async ({ expect, onTestFinished }) => {
    const run = await start(onTestFinished, "rehearse", "dev", "--check", "--port", "0");
    expect(await run.exit, run.text()).toBe(0);
    expect(run.text()).toContain("All is well with stack dev");
    expect(run.text()).toMatch(/✔ A job is run by the worker, in the same workspace \(job \w{26}\)/);
    expect(run.text()).toContain("✔ The worker ends as the kubelet asks it to");
    expect(await readdir(run.directory)).toEqual([]);
  });

  test("serves until it is interrupted, tells others where, and leaves nothing", async ({ expect, onTestFinished }) => {
    const run = await start(onTestFinished, "rehearse", "staging", "--port", "0");
    await run.says("Serving.");
    const files = join(run.directory, "rehearsals");
    const state = JSON.parse(await readFile(join(files, "staging.json"), "utf8"));
    const key = (await readFile(join(files, "staging.key"), "utf8")).trim();
    expect(state).toMatchObject({ stack: "staging", pid: run.child.pid, name: "mcp-staging" });
    expect(run.text()).not.toContain(key);
    for (const title of [
      "VS Code",
      "Cursor",
      "Claude Code",
      "Claude Desktop",
      "Codex",
      "Gemini CLI",
      "Windsurf",
      "Zed",
    ]) {
      expect(run.text()).toContain(title);
    }
    const authorized = await fetch(state.url, {
      method: "POST",
      headers: {
        authorization: `Bearer ${key}`,
        "content-type": "application/json",
        accept: "application/json, text/event-stream",
      },
      body: JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/list", params: {} }),
    });
    expect(authorized.status).toBe(200);
    // The jobs that it was driven with are there for who operates it.
    const { MCP_AKS_REHEARSALS: before } = process.env;
    process.env.MCP_AKS_REHEARSALS = files;
    try {
      const terminal = recordingTerminal();
      const code = await runProgram(["jobs", "list", "--stack", "staging", "--json"], terminal);
      expect(code, terminal.text()).toBe(0);
      const { jobs } = JSON.parse(terminal.stdout());
      const states = jobs.map(({ tool, state: end }: Record<string, unknown>) => `${tool} ${end}`);
      expect(states).toEqual(["execute_command cancelled", "execute_command succeeded"]);
    } finally {
      if (before === undefined) delete process.env.MCP_AKS_REHEARSALS;
      else process.env.MCP_AKS_REHEARSALS = before;
    }

    run.child.kill("SIGINT");
    expect(await run.exit, run.text()).toBe(0);
    await expect(fetch(state.url)).rejects.toThrow();
    expect((await readdir(run.directory)).filter((name) => name !== "rehearsals")).toEqual([]);
    expect(existsSync(files) ? await readdir(files) : []).toEqual([]);
  });

  test("a port that is taken ends it with the port's number and the way out, and leaves nothing", async ({
    expect,
    onTestFinished,
  }) => {
    const first = await start(onTestFinished, "rehearse", "dev", "--port", "0");
    await first.says("Serving.");
    const { url } = JSON.parse(await readFile(join(first.directory, "rehearsals/dev.json"), "utf8"));
    const { port } = new URL(url);
    const second = await start(onTestFinished, "rehearse", "staging", "--check", "--port", port);
    expect(await second.exit).toBe(1);
    expect(second.text()).toMatch(new RegExp(`Port ${port}.*is in use by another program.*--port`));
    expect(await readdir(second.directory)).toEqual([]);
    first.child.kill("SIGTERM");
    expect(await first.exit).toBe(0);
  });
});
