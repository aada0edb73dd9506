import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join, relative } from "node:path";
import { z } from "zod";
import { CHECKOUT } from "./checkout.ts";
import { JobPlace } from "./jobs/job-place.ts";

/*
 * What a running rehearsal leaves for others to find, in .rehearsal/: <stack>.json says where it serves; <stack>.key is
 * its throw-away key, or a token where it takes no keys, and <stack>.headers the same as a header, both for their
 * owner's eyes only. All go when it ends.
 */

/** A login as outputs and files have it. */
export const LoginFacts = z.object({
  tenantId: z.string(),
  clientId: z.string(),
  ideClientId: z.string(),
  scopes: z.array(z.string()),
});

const State = z.object({
  stack: z.string(),
  /** The process that rehearses, which owns the server. */
  pid: z.number().int().positive(),
  /** What an IDE calls the server. */
  name: z.string(),
  /** The endpoint on this machine. */
  url: z.url(),
  metricsUrl: z.url(),
  /** The endpoint that the plan gives the stack. */
  plannedUrl: z.string(),
  /** How people log in to the deployed server; absent: by key alone. */
  login: LoginFacts.optional(),
  /** Where its jobs are, for `mcp-aks jobs`; absent: the server runs them itself, in memory. */
  jobs: JobPlace.optional(),
  keyFile: z.string(),
  headerFile: z.string(),
  startedAt: z.string(),
});

export type RehearsalState = Readonly<z.output<typeof State>>;

export interface RehearsalFiles {
  readonly state: string;
  readonly key: string;
  readonly headers: string;
}

/** `.rehearsal` in the checkout, or where MCP_AKS_REHEARSALS says, for a checkout that cannot be written to. */
function rehearsalDirectory(): string {
  return process.env.MCP_AKS_REHEARSALS ?? join(CHECKOUT, ".rehearsal");
}

export function rehearsalFiles(stack: string, directory = rehearsalDirectory()): RehearsalFiles {
  const file = (end: string) => join(directory, `${stack}.${end}`);
  return { state: file("json"), key: file("key"), headers: file("headers") };
}

/** The rehearsal of a stack that runs now, or undefined: a state file that its process has left behind does not count. */
export async function runningRehearsal(stack: string, directory?: string): Promise<RehearsalState | undefined> {
  let text: string;
  try {
    text = await readFile(rehearsalFiles(stack, directory).state, "utf8");
  } catch {
    return undefined;
  }
  const parsed = State.safeParse(jsonOrUndefined(text));
  return parsed.success && isAlive(parsed.data.pid) ? parsed.data : undefined;
}

/** Makes the rehearsal known. */
export async function announceRehearsal(
  state: Omit<RehearsalState, "keyFile" | "headerFile">,
  key: string,
  directory?: string,
): Promise<RehearsalState> {
  const files = rehearsalFiles(state.stack, directory);
  await mkdir(join(files.state, ".."), { recursive: true });
  const complete = { ...state, keyFile: files.key, headerFile: files.headers };
  await writeSecret(files.key, `${key}\n`);
  await writeSecret(files.headers, `Authorization: Bearer ${key}\n`);
  await writeFile(files.state, `${JSON.stringify(complete, null, 2)}\n`);
  return complete;
}

export async function forgetRehearsal(stack: string, directory?: string): Promise<void> {
  await Promise.all(Object.values(rehearsalFiles(stack, directory)).map((file) => rm(file, { force: true })));
}

/** A path as someone in the checkout would type it. */
export function shortPath(path: string, from = process.cwd()): string {
  const short = relative(from, path);
  return short === "" || short.startsWith("..") ? path : short;
}

/** The mode is given at creation, so that there is no moment in which others can read the file. */
async function writeSecret(path: string, text: string): Promise<void> {
  await rm(path, { force: true });
  await writeFile(path, text, { mode: 0o600, flag: "wx" });
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // The process of another user lives, too.
    return error instanceof Error && "code" in error && error.code === "EPERM";
  }
}

function jsonOrUndefined(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
