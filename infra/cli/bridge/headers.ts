import { readFile, stat } from "node:fs/promises";
import { validateHeaderName, validateHeaderValue } from "node:http";
import { CliError, EXIT } from "../cli-error.ts";

/** Header names, in lower case, to values. */
export type HeaderValues = Readonly<Record<string, string>>;

/** Where the headers of every request come from. Values are secrets: no message and no log shows one. */
export interface HeaderOptions {
  /** `NAME:VALUE`; `${VARIABLE}` in the value stands for an environment variable. */
  readonly header: readonly string[];
  /** File of such lines; blank lines and lines that begin with `#` do not count. */
  readonly headerFile?: string;
  /** Environment variable that holds a key, to be sent as `Authorization: Bearer <key>`. */
  readonly keyEnv?: string;
}

/** Headers that the protocol or HTTP itself sets for each message. */
const RESERVED: ReadonlySet<string> = new Set([
  "accept",
  "connection",
  "content-length",
  "content-type",
  "host",
  "last-event-id",
  "mcp-method",
  "mcp-name",
  "mcp-protocol-version",
  "mcp-session-id",
  "transfer-encoding",
]);

/**
 * Reads the headers, the file anew at each call, so that a key can be changed while the bridge runs.
 *
 * @throws CliError naming the option and what is wrong with it.
 */
export async function readHeaders(options: HeaderOptions, env: NodeJS.ProcessEnv): Promise<HeaderValues> {
  const headers: Record<string, string> = {};
  const add = (line: string, from: string) => {
    const { name, value } = parseHeader(line, from, env);
    if (name in headers) throw usage(`${from} gives the header ${name} a second time; give it once.`);
    headers[name] = value;
  };
  for (const [at, line] of options.header.entries()) {
    add(line, options.header.length === 1 ? "--header" : `--header (number ${at + 1})`);
  }
  if (options.headerFile !== undefined) {
    const lines = (await readHeaderFile(options.headerFile)).split("\n");
    for (const [at, line] of lines.entries()) {
      if (/^\s*(#|$)/.test(line)) continue;
      add(line, `${options.headerFile}, line ${at + 1},`);
    }
  }
  if (options.keyEnv !== undefined) {
    add(`authorization:Bearer ${variable(options.keyEnv, "--key-env", env)}`, "--key-env");
  }
  return headers;
}

function parseHeader(line: string, from: string, env: NodeJS.ProcessEnv): { name: string; value: string } {
  const colon = line.indexOf(":");
  if (colon < 1) throw usage(`${from} is no header; write it as NAME:VALUE, such as Authorization:Bearer <key>.`);
  const name = line.slice(0, colon).trim().toLowerCase();
  const value = line
    .slice(colon + 1)
    .trim()
    .replace(/\$\{([^}]*)\}/g, (_whole, name: string) => variable(name, from, env));
  try {
    validateHeaderName(name);
  } catch {
    throw usage(`${from} has no name of a header before its colon; write it as NAME:VALUE.`);
  }
  if (RESERVED.has(name)) throw usage(`${from} names ${name}, which the bridge sets itself; leave it out.`);
  if (value === "") throw usage(`${from} gives the header ${name} no value.`);
  try {
    validateHeaderValue(name, value);
  } catch {
    throw usage(`${from} gives the header ${name} a value with characters that no header may have.`);
  }
  return { name, value };
}

function variable(name: string, from: string, env: NodeJS.ProcessEnv): string {
  const value = env[name]?.trim();
  if (value) return value;
  throw usage(
    `${from} reads the environment variable ${JSON.stringify(name)}, which is not set; set it where the client starts.`,
  );
}

async function readHeaderFile(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : "unreadable";
    throw new CliError(
      `--header-file ${path} cannot be read (${code}); it has lines such as: Authorization: Bearer <key>`,
      code === "ENOENT" ? EXIT.usage : EXIT.failed,
    );
  }
}

/** Whether others on this machine may read the file. Windows has rights of another kind, which are not looked at. */
export async function isOpenToOthers(path: string): Promise<boolean> {
  return process.platform !== "win32" && ((await stat(path)).mode & 0o077) !== 0;
}

const usage = (message: string) => new CliError(message, EXIT.usage);
