import { spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";

/** One command that a script ran: its name and arguments, as the shell passed them. */
export type Call = readonly [command: string, ...args: string[]];

export interface ShellRun {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly calls: readonly Call[];
  /** Files that the script left in its directory. */
  readonly read: (file: string) => string;
}

const CALL_END = "\u001e";

/**
 * Runs a bash script in a directory of its own, in which some commands are stand-ins that record how they were called.
 *
 * @param stubs command to the body of a bash script that answers for it; the body sees its arguments, and `$SANDBOX`,
 *   a directory that the stand-ins of one run share.
 */
export function runRecorded(
  script: string,
  options: {
    readonly stubs: Readonly<Record<string, string>>;
    readonly env?: Readonly<Record<string, string>>;
    /** Files that exist when the script starts. */
    readonly files?: Readonly<Record<string, string>>;
  },
): ShellRun {
  const sandbox = mkdtempSync(join(tmpdir(), "recorded-shell-"));
  try {
    const log = join(sandbox, ".calls");
    for (const [name, body] of Object.entries(options.stubs)) {
      const path = join(sandbox, name);
      writeFileSync(
        path,
        `#!/usr/bin/env bash\nset -euo pipefail\nprintf '%s\\0' ${name} "$@" '${CALL_END}' >> '${log}'\n${body}\n`,
      );
      chmodSync(path, 0o755);
    }
    for (const [name, content] of Object.entries(options.files ?? {})) writeFileSync(join(sandbox, name), content);
    const run = spawnSync("bash", ["--noprofile", "--norc", "-eo", "pipefail", "-c", script], {
      cwd: sandbox,
      encoding: "utf8",
      timeout: 15_000,
      env: {
        PATH: [sandbox, dirname(process.execPath), process.env.PATH].join(delimiter),
        HOME: sandbox,
        SANDBOX: sandbox,
        ...options.env,
        RUNNER_TEMP: sandbox,
        GITHUB_OUTPUT: join(sandbox, "output"),
        GITHUB_STEP_SUMMARY: join(sandbox, "summary"),
        GITHUB_ENV: join(sandbox, "env"),
        GITHUB_PATH: join(sandbox, "path"),
      },
    });
    const files = new Map(
      ["output", "summary", "env", "path", ".calls", "comment.md", "drift.md", "drift-role.json", "state"]
        .filter((name) => existsSync(join(sandbox, name)))
        .map((name) => [name, readFileSync(join(sandbox, name), "utf8")]),
    );
    return {
      code: run.status,
      stdout: run.stdout,
      stderr: run.stderr,
      calls: (files.get(".calls") ?? "")
        .split(`${CALL_END}\0`)
        .filter((call) => call !== "")
        .map((call) => call.split("\0").slice(0, -1) as unknown as Call),
      read: (file) => files.get(file) ?? "",
    };
  } finally {
    rmSync(sandbox, { recursive: true, force: true });
  }
}
