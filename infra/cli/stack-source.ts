import { spawn } from "node:child_process";
import { z } from "zod";
import type { Login } from "../ide-configs.ts";
import { CHECKOUT } from "./checkout.ts";
import { CliError } from "./cli-error.ts";
import { LoginFacts, runningRehearsal } from "./rehearsal-state.ts";

/** Where a stack's server is, and who says so. */
export interface StackSource {
  readonly kind: "rehearsal" | "deployment";
  /** For people: `the rehearsal running on this machine (process 4711)`. */
  readonly description: string;
  /** What an IDE calls the server. */
  readonly name: string;
  readonly url: string;
  /** How people log in; absent: they do not. */
  readonly login?: Login;
  /** Shell command that prints the key, or what stands for one; absent: the server takes none. */
  readonly keyCommand?: string;
  /** File with the key as a header, if there is one. */
  readonly headerFile?: string;
}

/** What `connect` needs of the outputs in outputs.ts. */
const Outputs = z.object({
  endpoint: z.url(),
  entra: LoginFacts.optional(),
  apiKey: z.object({ command: z.string() }).optional(),
  ideConfigs: z.record(z.string(), z.object({ name: z.string() })),
});

/**
 * Finds a stack's server: the rehearsal of this checkout while it runs, else what `pulumi up` has left in the state.
 *
 * @param options.deployed passes over a running rehearsal.
 * @throws CliError saying what to do when there is neither.
 */
export async function stackSource(
  stack: string,
  options: { readonly deployed?: boolean; readonly rehearsals?: string } = {},
): Promise<StackSource> {
  const rehearsal = options.deployed ? undefined : await runningRehearsal(stack, options.rehearsals);
  if (rehearsal) {
    return {
      kind: "rehearsal",
      description: `the rehearsal of ${stack} that runs on this machine (process ${rehearsal.pid})`,
      name: rehearsal.name,
      url: rehearsal.url,
      login: rehearsal.login,
      keyCommand: `cat ${shellWord(rehearsal.keyFile)}`,
      headerFile: rehearsal.headerFile,
    };
  }
  const outputs = await deployedOutputs(stack, Outputs, {
    reader: "connect",
    because: `No rehearsal of ${stack} is running, and `,
    otherwise: `To try the server on this machine first: npm run rehearse -- ${stack}`,
  });
  const [first] = Object.values(outputs.ideConfigs);
  return {
    kind: "deployment",
    description: `the outputs of stack ${stack}, by pulumi stack output`,
    name: first?.name ?? `mcp-${stack}`,
    url: outputs.endpoint,
    login: outputs.entra,
    keyCommand: outputs.apiKey?.command,
  };
}

/** Who asks for outputs, and what a person can do without them. */
interface OutputsReader {
  /** The command's name. */
  readonly reader: string;
  /** What stands before the reason: why the outputs are asked for at all. */
  readonly because?: string;
  readonly otherwise: string;
}

/**
 * What `pulumi up` has left in the state of a stack, as far as the schema asks for it.
 *
 * @throws CliError saying what to do when there is none.
 */
export async function deployedOutputs<T>(
  stack: string,
  schema: z.ZodType<T>,
  { reader, because = "", otherwise }: OutputsReader,
): Promise<T> {
  const result = await run("pulumi", ["stack", "output", "--json", "--stack", stack, "--non-interactive"]);
  const sentence = (text: string) => because + (because === "" ? text.charAt(0).toUpperCase() + text.slice(1) : text);
  if (result.missing) {
    throw new CliError(
      `${sentence("there is no pulumi on PATH to ask for the stack's outputs.")}\n` +
        `Install it (https://www.pulumi.com/docs/iac/download-install/). ${otherwise}`,
    );
  }
  if (result.code !== 0) {
    const said = result.stderr.trim().split("\n").slice(-3).join("\n  ");
    throw new CliError(
      `${sentence(`pulumi could not tell the outputs of stack ${stack}:`)}\n  ${said}\n` +
        `Log in (pulumi login) and deploy it (pulumi up -s ${stack}). ${otherwise}`,
    );
  }
  const outputs = schema.safeParse(jsonOrUndefined(result.stdout));
  if (outputs.success) return outputs.data;
  const faults = outputs.error.issues.map((issue) => issue.path.join(".") || "all of them").join(", ");
  throw new CliError(
    `Stack ${stack} does not have the outputs that ${reader} reads (missing or odd: ${faults}). ` +
      `Deploy it: pulumi up -s ${stack}. ${otherwise}`,
  );
}

interface Finished {
  readonly missing: boolean;
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function run(command: string, args: readonly string[]): Promise<Finished> {
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd: CHECKOUT,
      env: { ...process.env, PULUMI_SKIP_UPDATE_CHECK: "true" },
      stdio: ["ignore", "pipe", "pipe"],
      // On Windows the command is a script of its own kind, which only a shell finds.
      shell: process.platform === "win32",
    });
    const output = { stdout: "", stderr: "" };
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      output.stdout += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      output.stderr += text;
    });
    child.on("error", () => resolve({ missing: true, code: null, ...output }));
    child.on("close", (code) => resolve({ missing: false, code, ...output }));
  });
}

/** `text` as one word of a POSIX shell. */
export function shellWord(text: string): string {
  return /^[\w@%+=:,./~-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function jsonOrUndefined(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
