import { spawn } from "node:child_process";
import { constants } from "node:fs";
import { access, copyFile, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { delimiter, dirname, join, resolve } from "node:path";
import { text } from "node:stream/consumers";
import { parseDocument } from "yaml";
import { z } from "zod";

export const REPOSITORY = resolve(import.meta.dirname, "../..");
const LOCAL_BIN = join(REPOSITORY, "node_modules/.bin");

/**
 * Path of the machine's Pulumi CLI; its language host lies beside it or on PATH. npm puts its own `pulumi` first on
 * PATH: a wrapper that downloads the CLI when it has none, which a test must not do, so only what it has already counts.
 */
export async function findPulumi(): Promise<string | undefined> {
  const installed = (process.env.PATH ?? "")
    .split(delimiter)
    .filter((folder) => folder !== "" && !folder.endsWith(join("node_modules", ".bin")))
    .map((folder) => join(folder, "pulumi"));
  for (const path of [...installed, downloadedByWrapper()]) {
    if (!(await isExecutable(path))) continue;
    const { code } = await run(path, ["version"], baseEnvironment(path));
    if (code === 0) return path;
  }
  return undefined;
}

const Wrapper = z.object({ version: z.string() });
const WrapperCache = z.object({
  cacheDir: z.custom<(version: string) => string>((value) => typeof value === "function"),
});

/** Where npm's wrapper keeps the CLI that it downloads. */
function downloadedByWrapper(): string {
  const require = createRequire(import.meta.url);
  const { version } = Wrapper.parse(require("pulumi/package.json"));
  const { cacheDir } = WrapperCache.parse(require("pulumi/lib/cache.js"));
  return join(cacheDir(process.env.PULUMI_VERSION ?? version), "bin", "pulumi");
}

async function isExecutable(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Settings of this machine's user that would reach into a test: other backends, other clouds, other ways out. */
const NOT_INHERITED = /^(PULUMI_(?!HOME$)|ARM_|AZURE_|NODE_EXTRA_CA_CERTS$|(https?|all|no|grpc)_proxy$)/i;

function baseEnvironment(cli: string): NodeJS.ProcessEnv {
  const inherited = Object.entries(process.env).filter(([key]) => !NOT_INHERITED.test(key));
  return {
    ...Object.fromEntries(inherited),
    // Node 24 of this repository first: it runs the program's TypeScript.
    PATH: [LOCAL_BIN, dirname(cli), process.env.PATH].join(delimiter),
  };
}

/** One line of the engine's event log; of the many kinds, those that a test asserts on. */
const EngineEvent = z.looseObject({
  diagnosticEvent: z.looseObject({ severity: z.string(), message: z.string(), urn: z.string().optional() }).optional(),
  resourcePreEvent: z
    .looseObject({ metadata: z.looseObject({ op: z.string(), urn: z.string(), type: z.string() }) })
    .optional(),
  resOutputsEvent: z
    .looseObject({
      metadata: z.looseObject({
        op: z.string(),
        urn: z.string(),
        type: z.string(),
        new: z.looseObject({ outputs: z.record(z.string(), z.unknown()).nullish() }).nullish(),
      }),
    })
    .optional(),
  summaryEvent: z.looseObject({ resourceChanges: z.record(z.string(), z.number()).nullish() }).optional(),
});

const UNCHANGED: ReadonlySet<string> = new Set(["same", "read", "refresh"]);

export interface Run {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
  /** Everything the engine said for a human: errors, warnings, refusals. */
  readonly diagnostics: string;
  /** Steps other than `same`, as "create azure-native:network:VirtualNetwork vnet". */
  readonly changes: readonly string[];
  /** The stack's outputs as far as they were known. */
  readonly outputs: Readonly<Record<string, unknown>>;
  /** How many resources met which fate: `{ create: 120, same: 3 }`. */
  readonly summary: Readonly<Record<string, number>>;
}

/** A resource of an exported state. */
const StateResource = z.looseObject({
  urn: z.string(),
  type: z.string(),
  custom: z.boolean(),
  id: z.string().optional(),
  protect: z.boolean().optional(),
  inputs: z.record(z.string(), z.unknown()).optional(),
  outputs: z.record(z.string(), z.unknown()).optional(),
  initErrors: z.array(z.string()).optional(),
});
export type StateResource = z.infer<typeof StateResource>;

const Deployment = z.object({
  deployment: z.looseObject({
    resources: z.array(StateResource).default([]),
    pending_operations: z.array(z.unknown()).default([]),
  }),
});

export interface ProjectOptions {
  /** Path of the Pulumi CLI. */
  readonly cli: string;
  readonly stack: string;
  /** Settings beyond the shipped stack file's. */
  readonly config?: Readonly<Record<string, unknown>>;
  /** The value of PULUMI_DEBUG_PROVIDERS: emulated providers by name and port. */
  readonly providers: string;
  readonly environment?: Readonly<Record<string, string>>;
}

/**
 * This repository's program as a Pulumi project of its own in a temporary folder: everything is linked but the stack's
 * file, which is a copy, for the CLI writes a stack's encryption salt into it. State stays in the folder as well.
 */
export class PulumiProject {
  readonly stack: string;
  readonly #cli: string;
  readonly #folder: string;
  readonly #environment: NodeJS.ProcessEnv;
  #runs = 0;

  private constructor(folder: string, options: ProjectOptions) {
    this.stack = options.stack;
    this.#cli = options.cli;
    this.#folder = folder;
    this.#environment = {
      ...baseEnvironment(options.cli),
      PULUMI_BACKEND_URL: `file://${join(folder, "state")}`,
      PULUMI_CONFIG_PASSPHRASE: "engine test",
      PULUMI_SKIP_UPDATE_CHECK: "true",
      PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION: "true",
      PULUMI_DIY_BACKEND_DISABLE_CHECKPOINT_BACKUPS: "true",
      // Where Node would keep it by itself: every operation starts the same program.
      NODE_COMPILE_CACHE: join(tmpdir(), "node-compile-cache"),
      // Makes --event-log known, as it does for the Automation API.
      PULUMI_DEBUG_COMMANDS: "true",
      PULUMI_DEBUG_PROVIDERS: options.providers,
      ...options.environment,
    };
  }

  static async create(options: ProjectOptions): Promise<PulumiProject> {
    const folder = await mkdtemp(join(tmpdir(), `mcp-engine-${options.stack}-`));
    for (const entry of ["Pulumi.yaml", "package.json", "infra", "server", "node_modules"]) {
      await symlink(join(REPOSITORY, entry), join(folder, entry));
    }
    await mkdir(join(folder, "stacks"));
    await mkdir(join(folder, "state"));
    const file = `Pulumi.${options.stack}.yaml`;
    await copyFile(join(REPOSITORY, "stacks", file), join(folder, "stacks", file));

    const project = new PulumiProject(folder, options);
    await project.configure(options.config ?? {});
    await project.#expect("stack", "init", options.stack);
    return project;
  }

  /** Sets settings in the copy of the stack's file; undefined drops one. */
  async configure(settings: Readonly<Record<string, unknown>>): Promise<void> {
    const file = join(this.#folder, "stacks", `Pulumi.${this.stack}.yaml`);
    const document = parseDocument(await readFile(file, "utf8"));
    for (const [key, value] of Object.entries(settings)) {
      if (value === undefined) document.deleteIn(["config", key]);
      else document.setIn(["config", key], value);
    }
    await writeFile(file, String(document));
  }

  preview(...flags: string[]): Promise<Run> {
    return this.#operate(["preview", ...flags]);
  }

  up(...flags: string[]): Promise<Run> {
    return this.#operate(["up", "--yes", ...flags]);
  }

  /** An `up` that its user stops with Ctrl-C once `moment` has come. */
  async interruptedUp(moment: Promise<void>): Promise<Run> {
    const stop = new AbortController();
    void moment.then(() => stop.abort());
    return this.#operate(["up", "--yes", "--skip-preview"], stop.signal);
  }

  refresh(...flags: string[]): Promise<Run> {
    return this.#operate(["refresh", "--yes", "--skip-preview", ...flags]);
  }

  /** With the preview that a user gets: without one, the engine deletes what it can before it meets a protected resource. */
  destroy(...flags: string[]): Promise<Run> {
    return this.#operate(["destroy", "--yes", ...flags]);
  }

  async unprotectAll(): Promise<void> {
    await this.#expect("state", "unprotect", "--all", "--yes");
  }

  /** The stack's state as it is stored, secrets encrypted. */
  async state(): Promise<string> {
    return (await this.#expect("stack", "export")).stdout;
  }

  async resources(): Promise<StateResource[]> {
    return Deployment.parse(JSON.parse(await this.state())).deployment.resources;
  }

  async remove(): Promise<void> {
    await rm(this.#folder, { recursive: true, force: true });
  }

  async #operate([command = "", ...flags]: string[], interrupt?: AbortSignal): Promise<Run> {
    this.#runs += 1;
    const log = join(this.#folder, `events-${this.#runs}.json`);
    const ran = await this.#run([command, "--event-log", log, "--suppress-progress", ...flags], interrupt);
    const events = (await readFile(log, "utf8").catch(() => ""))
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => EngineEvent.parse(JSON.parse(line)));
    const steps = events.flatMap((e) => e.resourcePreEvent?.metadata ?? []);
    const results = events.flatMap((e) => e.resOutputsEvent?.metadata ?? []);
    return {
      ...ran,
      diagnostics: events
        .flatMap(({ diagnosticEvent: e }) => (e && e.severity !== "debug" ? [e.message] : []))
        .join(""),
      changes: (command === "refresh" ? results : steps)
        .filter(({ op }) => !UNCHANGED.has(op))
        .map(({ op, type, urn }) => `${op} ${type} ${urn.split("::").at(-1)}`),
      outputs: results.findLast(({ type }) => type === "pulumi:pulumi:Stack")?.new?.outputs ?? {},
      summary: events.findLast((e) => e.summaryEvent)?.summaryEvent?.resourceChanges ?? {},
    };
  }

  async #expect(...args: string[]): Promise<{ stdout: string }> {
    const ran = await this.#run(args);
    if (ran.code !== 0) throw new Error(`pulumi ${args.join(" ")} ended with ${ran.code}:\n${ran.stdout}${ran.stderr}`);
    return ran;
  }

  #run(args: readonly string[], interrupt?: AbortSignal) {
    const where = ["--cwd", this.#folder, "--non-interactive", "--color", "never"];
    const stack = args[0] === "stack" && args[1] === "init" ? [] : ["--stack", this.stack];
    return run(this.#cli, [...args, ...stack, ...where], this.#environment, interrupt);
  }
}

/** Longer than any single operation; a hanging one shall fail its test and not the whole run. */
const PATIENCE = 120_000;

async function run(file: string, args: readonly string[], env: NodeJS.ProcessEnv, interrupt?: AbortSignal) {
  const child = spawn(file, args, { env, stdio: ["ignore", "pipe", "pipe"], timeout: PATIENCE });
  const stop = () => child.kill("SIGINT");
  interrupt?.addEventListener("abort", stop);
  const [stdout, stderr, code] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    new Promise<number>((resolve, reject) => {
      child.once("error", reject);
      child.once("close", (status) => resolve(status ?? -1));
    }),
  ]);
  interrupt?.removeEventListener("abort", stop);
  return { code, stdout, stderr };
}
