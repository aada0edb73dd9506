import { chmod, lstat, mkdir, readFile, realpath, rename, rm, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import type { IdeConfig, Platform } from "../ide-configs.ts";
import { MergeError } from "./config-edits.ts";
import { mergeJson, printJson } from "./merge-json.ts";
import { mergeToml, printToml } from "./merge-toml.ts";

/** Where a client's files are on one machine. */
export interface Machine {
  readonly platform: Platform;
  readonly home: string;
  /** Windows' `%APPDATA%`. */
  readonly appData?: string;
}

export function thisMachine(): Machine {
  const platform = process.platform === "darwin" || process.platform === "win32" ? process.platform : "linux";
  return { platform, home: homedir(), appData: process.env.APPDATA };
}

/**
 * The file that a client reads.
 *
 * @param scope the project's own file, where the client has one, or the user's.
 * @returns an absolute path, or undefined when the client has no file of that scope.
 */
export function configPath(
  { file }: Pick<IdeConfig, "file">,
  scope: "project" | "user",
  project: string,
  machine: Machine,
): string | undefined {
  if (scope === "project") return file.project && resolve(project, file.project);
  const path = file.user?.[machine.platform];
  if (path === undefined) return undefined;
  const appData = machine.appData ?? join(machine.home, "AppData", "Roaming");
  return join(path.replace(/^~/, () => machine.home).replace(/^%APPDATA%/, () => appData));
}

/** A configuration as its client's file holds it. */
export function printConfig({ format, content }: Pick<IdeConfig, "format" | "content">): string {
  return format === "toml" ? printToml(content) : printJson(content);
}

/** A configuration merged into what a file holds; the same text when it is all there. */
export function mergeConfig(text: string, { format, content }: Pick<IdeConfig, "format" | "content">): string {
  return format === "toml" ? mergeToml(text, content) : mergeJson(text, content);
}

/**
 * Merges a configuration into a file, which is made when it is missing. The file is replaced in one step, under its
 * own mode, and behind a symbolic link it is the link's target that changes, so dot files kept elsewhere stay there.
 *
 * @throws MergeError naming the file, when it cannot be merged into; it is then untouched.
 */
export async function writeConfig(path: string, config: IdeConfig): Promise<"created" | "changed" | "unchanged"> {
  const before = await readIfThere(path);
  let after: string;
  try {
    after = mergeConfig(before?.text ?? "", config);
  } catch (error) {
    if (error instanceof MergeError) throw new MergeError(`${path}: ${error.message}`);
    throw error;
  }
  if (before?.text === after) return "unchanged";
  await replaceFile(before?.path ?? path, after, before?.mode);
  return before ? "changed" : "created";
}

interface Present {
  /** The file itself, links followed. */
  readonly path: string;
  readonly text: string;
  readonly mode: number;
}

async function readIfThere(path: string): Promise<Present | undefined> {
  let target: string;
  try {
    target = await realpath(path);
  } catch (error) {
    if (!isMissing(error)) throw error;
    const link = await lstat(path).catch(() => undefined);
    if (link) throw new MergeError(`${path}: the symbolic link leads nowhere; mend or remove it first`);
    return undefined;
  }
  const [bytes, { mode }] = await Promise.all([readFile(target), lstat(target)]);
  try {
    return { path: target, text: new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes), mode };
  } catch {
    throw new MergeError(`${path}: it is not UTF-8 text; convert it first`);
  }
}

async function replaceFile(path: string, text: string, mode: number | undefined): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const draft = join(dirname(path), `.${basename(path)}.${process.pid}.tmp`);
  try {
    await writeFile(draft, text, { flush: true, ...(mode !== undefined && { mode: mode & 0o777 }) });
    // The umask has taken its part of the mode; a file that is being replaced keeps all of it.
    if (mode !== undefined) await chmod(draft, mode & 0o777);
    await rename(draft, path);
  } catch (error) {
    await rm(draft, { force: true });
    throw error;
  }
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "ENOENT";
}
