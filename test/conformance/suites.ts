import { spawn } from "node:child_process";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pino } from "pino";
import { z } from "zod";
import { buildApp } from "../../server/app.ts";
import { parseEnvironment } from "../../server/config.ts";
import { fixture } from "./fixture.ts";

/** One suite of the protocol's own conformance tests. */
export interface Suite {
  readonly title: string;
  /** Name of the package in node_modules: two versions are installed, each under a name of its own. */
  readonly package: string;
  readonly arguments: readonly string[];
  /** How many scenarios it has; fewer would mean that something kept it from running. */
  readonly scenarios: number;
  /** Scenarios that the suite runs and does not score; what they find is reported and is no failure. */
  readonly unscored: RegExp;
}

export const suites: readonly Suite[] = [
  {
    title: "conformance 0.1, every scenario",
    package: "mcp-conformance-2025",
    // The active suite of 30, and two that are pending in it.
    arguments: ["--suite", "all"],
    scenarios: 32,
    unscored: /(?!)/,
  },
  {
    title: "conformance 0.2, requirements of 2025-11-25",
    package: "mcp-conformance-2026",
    arguments: ["--requirements", "2025-11-25"],
    scenarios: 33,
    unscored: /(?!)/,
  },
  {
    title: "conformance 0.2, requirements of 2026-07-28",
    package: "mcp-conformance-2026",
    arguments: ["--requirements", "2026-07-28"],
    scenarios: 50,
    // Tools whose tasks ask for something. The extension leaves it to a server whether its tasks do (SEP-2663, "Task
    // Update Requests"), and jobs, which no client waits for, ask nothing.
    unscored: /^tasks-mrtr-/,
  },
];

const Check = z.object({
  id: z.string(),
  status: z.enum(["SUCCESS", "FAILURE", "WARNING", "INFO", "SKIPPED"]),
  errorMessage: z.string().optional(),
});

export interface CheckOutcome extends z.output<typeof Check> {
  readonly scenario: string;
}

export interface SuiteOutcome {
  readonly scenarios: number;
  readonly scored: readonly CheckOutcome[];
  readonly unscored: readonly CheckOutcome[];
  /** What the suite printed, for when something in it went wrong. */
  readonly output: string;
}

/** Whether the suite's package is installed. */
export function isInstalled(suite: Suite): boolean {
  try {
    entryOf(suite);
    return true;
  } catch {
    return false;
  }
}

/** Serves the fixture by the server itself, all plugins included, and runs the suite against it. */
export async function run(suite: Suite): Promise<SuiteOutcome> {
  const directory = await mkdtemp(join(tmpdir(), "conformance-"));
  const config = parseEnvironment({ WORKSPACE_PATH: join(directory, "workspace"), PORT: "0" });
  const { app, operator, readiness, mcp } = await buildApp({
    config,
    log: pino({ level: "silent" }),
    ...fixture,
  });
  try {
    await app.listen({ host: config.HOST, port: 0 });
    readiness.start();
    const { port } = app.server.address() as AddressInfo;
    const results = join(directory, "results");
    const output = await runProgram(entryOf(suite), [
      "server",
      "--url",
      `http://${config.HOST}:${port}/mcp`,
      "--output-dir",
      results,
      ...suite.arguments,
    ]);
    return { ...(await outcomeIn(results, suite.unscored)), output };
  } finally {
    await mcp.endStreams();
    await mcp.abort();
    app.server.closeAllConnections();
    await app.close();
    await operator.close();
    await rm(directory, { recursive: true, force: true });
  }
}

/** CommonJS resolution, which finds the files of a package whatever it exports. */
function entryOf(suite: Suite): string {
  return createRequire(import.meta.url).resolve(`${suite.package}/dist/index.js`);
}

async function runProgram(script: string, args: readonly string[]): Promise<string> {
  const child = spawn(process.execPath, [script, ...args], { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk: Buffer) => (output += chunk.toString()));
  // Its exit code says whether anything failed, which the results tell more closely.
  await new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", resolve);
  });
  return output;
}

/** Results lie in a directory for each scenario: `server-<scenario>-<time>/checks.json`. */
async function outcomeIn(results: string, unscoredScenarios: RegExp): Promise<Omit<SuiteOutcome, "output">> {
  const scored: CheckOutcome[] = [];
  const unscored: CheckOutcome[] = [];
  const directories = (await readdir(results).catch(() => [])).sort();
  for (const directory of directories) {
    const scenario = directory.replace(/^server-/, "").replace(/-\d{4}-\d{2}-\d{2}T.*$/, "");
    const checks = z.array(Check).parse(JSON.parse(await readFile(join(results, directory, "checks.json"), "utf8")));
    const into = unscoredScenarios.test(scenario) ? unscored : scored;
    into.push(...checks.map((check) => ({ ...check, scenario })));
  }
  return { scenarios: directories.length, scored, unscored };
}
