import { type ChildProcess, spawn } from "node:child_process";
import {
  closeSync,
  constants,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { access, mkdir, mkdtemp, realpath, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, dirname, join, sep } from "node:path";
import type { CommandLimits } from "../config.ts";
import { syscallFilter } from "./syscall-filter.ts";

/** What keeps commands apart from the server and from one another: found out by trying, once. */
export interface IsolationFacts {
  /** Commands and what they start gain no rights by what they run, such as programs of the superuser's (no_new_privs). */
  readonly noNewRights: boolean;
  /** User, process, mount and IPC namespaces of the command's own: what it starts ends with it, by the kernel. */
  readonly namespaces: boolean;
  /** Whether /proc shows the command its own processes only. */
  readonly ownProc: boolean;
  /** Landlock: files outside the workspace cannot be written, and none but the system's read. */
  readonly landlock: boolean;
  /** A seccomp filter keeps signals from the server, and the network off where that is asked for. */
  readonly syscallFilter: boolean;
  /** Whom the limit of processes counts: the command's, all of the user's, or nobody (the superuser's have none). */
  readonly processLimit: "command" | "user" | "none";
  /** What commands reach: everything, or nothing. */
  readonly network: "open" | "none";
  /** Why each of the above that is missing is missing. */
  readonly missing: readonly string[];
}

/** How a command is started. */
export interface Launch {
  /** Program, absolute or by name, and its arguments. */
  readonly words: readonly [string, ...string[]];
  /** Root of the caller's workspace, absolute. */
  readonly workspace: string;
  /** Directory to run in, absolute, inside the workspace. */
  readonly directory: string;
  readonly limits: CommandLimits;
  /** Bytes of the largest file that the command may write; at most the limit's. */
  readonly fileBytes: number;
  /** Number that marks the command's processes. */
  readonly tag: number;
  /** Directory for temporary files, made for this command, where its namespaces have none. */
  readonly temporary: string | undefined;
}

export interface Isolation {
  readonly facts: IsolationFacts;
  /** Paths of the programs that commands may be, by the names they are given by; undefined when all may be. */
  readonly programs: ReadonlyMap<string, string> | undefined;
  /** Program and arguments that start `launch` under everything that works here. */
  wrap(launch: Launch): readonly [string, ...string[]];
  /** Environment of every command, but for what is the command's own. */
  readonly path: string;
  /** Whether the command's end ends all that it started, without anybody looking for it. */
  readonly endsAll: boolean;
  /** Whether a launch needs `temporary`. */
  readonly needsTemporary: boolean;
  /** Removes what isolation itself keeps on disk. */
  close(): void;
}

export interface IsolationOptions {
  readonly mode: "auto" | "required" | "off";
  readonly network: boolean;
  /** All workspaces lie here; others than the command's own are hidden. */
  readonly workspaces: string;
  /** Directories that commands find empty or cannot read. */
  readonly hidden: readonly string[];
  /** Names and absolute paths of the programs that commands may be. */
  readonly programs?: readonly string[] | undefined;
  /** Where util-linux is looked for before {@link COMMAND_PATH}; for tests. */
  readonly toolPath?: string | undefined;
}

/** What was asked for by name does not work here. The message says what to do. */
export class IsolationError extends Error {
  override readonly name = "IsolationError";
}

/** PATH of commands, the same whatever the server's own. */
export const COMMAND_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** Bytes of a command's own /tmp; in memory, so it counts towards the container's. */
const TEMPORARY_BYTES = 64 * 1024 * 1024;

/** Longest that one trial of a feature may take. */
const TRIAL_MS = 10_000;

/** Virtual address space to memory: programs reserve more than they use, and the limit is only to end the absurd. */
const ADDRESS_SPACE_FACTOR = 4;

/**
 * Sets the limits, and becomes what the rest of the arguments say. Shells name the limits of processes and of locks
 * differently. A limit that the hard one forbids is stricter already. When memory runs out, the kernel is to take the
 * command first.
 */
const LIMITS_SCRIPT = `
tag=$1 cpu=$2 data=$3 space=$4 file=$5 files=$6 processes=$7
shift 7
{
  ulimit -c 0
  ulimit -w "$tag" || ulimit -x "$tag"
  ulimit -S -t "$cpu"; ulimit -H -t $((cpu + 2))
  ulimit -d "$data"; ulimit -v "$space"; ulimit -f "$file"; ulimit -n "$files"
  [ "$processes" = - ] || ulimit -u "$processes" || ulimit -p "$processes"
  [ ! -w /proc/self/oom_score_adj ] || echo 1000 >/proc/self/oom_score_adj
} 2>/dev/null
exec "$@"
`;

/**
 * Runs in the new namespaces, but for that of processes, which only children enter. The first child is its process 1:
 * it reaps, and when it ends the kernel kills all the others. The second is the command, whose end, signal included,
 * is passed on. Both die with their parent, so that killing one process ends everything.
 */
const NAMESPACE_SCRIPT = `
inside=$1
shift
@setpriv@ --pdeathsig KILL -- /bin/sh -c 'trap "" HUP INT QUIT TERM; sleep 2147483647 & wait' <&- >/dev/null 2>&1 &
exec @setpriv@ --pdeathsig KILL @filter@ -- @unshare@ --fork --kill-child -- /bin/sh -c "$inside" command "$@"
`;

/**
 * Runs as the command's process before it is the command, with all rights inside the namespaces: hides what is to be
 * hidden, puts the workspace back where it was, makes the root file system read-only where the kernel lets it (some of
 * its flags may be locked; in the image it is read-only and the superuser's anyway), and gives the rights away. Without its own /proc, a command still sees
 * the ids of other processes, and no more of them.
 */
const MOUNTS_SCRIPT = `
workspace=$1 directory=$2 processes=$3
shift 3
failed() { echo "The command's view of the file system could not be made." >&2; exit 125; }
exec 3<"$workspace" || failed
@proc@
for hidden in "$@"; do
  shift
  [ "$hidden" != -- ] || break
  @mount@ -t tmpfs -o "nosuid,nodev,size=\${hidden%%:*}" none "\${hidden#*:}" || failed
done
[ -d "$workspace" ] || mkdir -p "$workspace"
@mount@ -c --bind /proc/self/fd/3 "$workspace" || failed
@mount@ -o remount,bind,ro / 2>/dev/null
exec 3<&-
cd "$directory" || failed
unset OLDPWD
ulimit -u "$processes" 2>/dev/null || ulimit -p "$processes"
exec @setpriv@ --no-new-privs --inh-caps=-all --ambient-caps=-all --bounding-set=-all @landlock@ -- "$@"
`;
/** Processes of the scaffolding above that live as long as the command: the waiting one, process 1, its sleeper. */
const SCAFFOLDING = 3;

const LOOK = ["read-file", "read-dir"];
const RUN = ["execute", ...LOOK];
const CHANGE = [
  ...LOOK,
  ...["write-file", "truncate", "remove-dir", "remove-file", "make-dir", "make-reg"],
  ...["make-sock", "make-fifo", "make-sym", "refer"],
];
const OF_FILES: ReadonlySet<string> = new Set(["execute", "read-file", "write-file", "truncate"]);

/** What programs need of the system, as far as it is there. */
const PROGRAMS = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix"];
const CONFIGURATION = ["/etc", "/proc", "/sys"];
const DEVICES = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];
/** What starts dynamically linked programs. */
const LOADERS = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1", "/lib/ld-musl-x86_64.so.1"];

const SHARED_MEMORY = "/dev/shm";
const TEMPORARY = "/tmp";

/**
 * What `unshare --fork` says, and ends with 1, where its child was ended by SIGKILL and util-linux is older than 2.39,
 * which cannot pass just that signal on.
 */
export const KILLED_INSIDE = "unshare: sigprocmask unblock failed: Invalid argument\n";

/** What has been found to work; beside the options, all that {@link Wrapper} depends on. */
type Features = Pick<
  IsolationFacts,
  "noNewRights" | "namespaces" | "ownProc" | "landlock" | "syscallFilter" | "processLimit"
>;
const NOTHING: Features = {
  noNewRights: false,
  namespaces: false,
  ownProc: false,
  landlock: false,
  syscallFilter: false,
  processLimit: "none",
};

/** Tries what the kernel allows this process, and makes of it the isolation that all commands get. */
export async function createIsolation(options: IsolationOptions): Promise<Isolation> {
  const programs = options.programs && (await resolvePrograms(options.programs));
  const { tools, features, missing } = await findOnce(options);
  assertEnough(options, features, missing);
  const wrapper = new Wrapper(tools, features, { ...options, programs });
  return {
    facts: Object.freeze({ ...features, network: options.network ? "open" : "none", missing }),
    programs,
    wrap: (launch) => wrapper.wrap(launch),
    path: COMMAND_PATH,
    endsAll: features.namespaces,
    needsTemporary: !features.namespaces,
    close: () => wrapper.close(),
  };
}

interface Findings {
  readonly tools: Tools;
  readonly features: Features;
  readonly missing: readonly string[];
}

const findings = new Map<string, Promise<Findings>>();

/** What works here; a kernel does not change its mind about a process, so one look is enough for all its life. */
function findOnce({ mode, network, toolPath }: IsolationOptions): Promise<Findings> {
  const key = JSON.stringify([mode === "off", network, toolPath]);
  let found = findings.get(key);
  if (found === undefined) {
    found = mode === "off" ? findNothing("COMMAND_ISOLATION is off") : find(network, toolPath);
    findings.set(key, found);
  }
  return found;
}

async function findNothing(why: string): Promise<Findings> {
  return { tools: NO_TOOLS, features: NOTHING, missing: [why] };
}

async function find(network: boolean, toolPath: string | undefined): Promise<Findings> {
  if (process.platform !== "linux") return findNothing(`isolation is for Linux, not for ${process.platform}`);
  const home = await makeDirectory("mcp-isolation-trial-");
  if (home === undefined) return findNothing(`${tmpdir()} cannot be written to`);
  const remove = () => rmSync(home, { recursive: true, force: true });
  // A process may end before it has found out.
  process.once("exit", remove);
  try {
    const missing: string[] = [];
    const tools = await findTools(toolPath);
    return { tools, features: await findFeatures(tools, home, network, missing), missing };
  } finally {
    process.off("exit", remove);
    remove();
  }
}

async function makeDirectory(prefix: string): Promise<string | undefined> {
  return mkdtemp(join(tmpdir(), prefix)).then(
    (path) => realpath(path),
    () => undefined,
  );
}

function assertEnough({ mode, network }: IsolationOptions, features: Features, missing: readonly string[]): void {
  const reasons = missing.length === 0 ? "" : ` (${missing.join("; ")})`;
  if (!network && !features.namespaces && !features.syscallFilter) {
    throw new IsolationError(
      `COMMAND_NETWORK is false, and nothing here can keep commands off the network${reasons}; ` +
        "allow user namespaces, or install util-linux 2.41, or set COMMAND_NETWORK=true and restrict the network outside.",
    );
  }
  if (mode === "required" && !features.namespaces && !(features.landlock && features.syscallFilter)) {
    throw new IsolationError(
      `COMMAND_ISOLATION is required, and commands cannot be kept from other callers and the server here${reasons}; ` +
        "allow user namespaces, or Landlock with util-linux 2.41, or set COMMAND_ISOLATION=auto.",
    );
  }
}

interface Tools {
  readonly unshare: string | undefined;
  readonly mount: string | undefined;
  readonly setpriv: string | undefined;
  /** Options of setpriv that came with util-linux 2.40 and 2.41. */
  readonly landlock: boolean;
  readonly seccomp: boolean;
}

const NO_TOOLS: Tools = {
  unshare: undefined,
  mount: undefined,
  setpriv: undefined,
  landlock: false,
  seccomp: false,
};

async function findTools(toolPath: string | undefined): Promise<Tools> {
  const path = toolPath === undefined ? COMMAND_PATH : `${toolPath}${delimiter}${COMMAND_PATH}`;
  const [unshare, mount, setpriv] = await Promise.all(
    ["unshare", "mount", "setpriv"].map((name) => findProgram(name, path)),
  );
  const { output = "" } = setpriv === undefined ? {} : await attempt([setpriv, "--help"], "/");
  return {
    ...{ unshare, mount, setpriv },
    landlock: output.includes("--landlock-rule"),
    seccomp: output.includes("--seccomp-filter"),
  };
}

/** Finds a program by name, as a shell would. */
export async function findProgram(name: string, path: string = COMMAND_PATH): Promise<string | undefined> {
  for (const directory of path.split(delimiter)) {
    const candidate = join(directory, name);
    if (await isExecutable(candidate)) return candidate;
  }
  return undefined;
}

const isExecutable = (path: string) =>
  access(path, constants.X_OK).then(
    () => true,
    () => false,
  );

async function resolvePrograms(names: readonly string[]): Promise<ReadonlyMap<string, string>> {
  const found = new Map<string, string>();
  for (const name of names) {
    const path = name.startsWith("/") ? ((await isExecutable(name)) ? name : undefined) : await findProgram(name);
    if (path === undefined) {
      throw new IsolationError(
        `COMMAND_ALLOWED_PROGRAMS names ${JSON.stringify(name)}, which is not installed here; install it, or leave it out.`,
      );
    }
    found.set(name, path);
  }
  return found;
}

/** Tries the features, each by a command that shows whether it holds. */
async function findFeatures(tools: Tools, home: string, network: boolean, missing: string[]): Promise<Features> {
  const workspace = join(home, "own");
  const secret = join(home, "other", "secret");
  await mkdir(workspace, { recursive: true });
  await mkdir(dirname(secret));
  await writeFile(secret, "secret");
  const trial = async (features: Features, script: string, limits: Partial<CommandLimits> = {}) => {
    const options = { network, workspaces: home, hidden: [], programs: undefined, filters: home };
    const launch: Launch = {
      words: ["/bin/sh", "-c", script],
      ...{ workspace, directory: workspace, temporary: undefined },
      ...{ tag: TRIAL_TAG, fileBytes: 1024 * 1024, limits: { ...TRIAL_LIMITS, ...limits } },
    };
    return attempt(new Wrapper(tools, features, options).wrap(launch), workspace);
  };
  const hides = `cat '${secret}' >/dev/null 2>&1 || echo hidden`;

  let features: Features = NOTHING;
  if (tools.setpriv !== undefined) {
    const plain = { ...features, noNewRights: true };
    const { output, error } = await trial(plain, "echo fine");
    if (output === "fine\n") features = plain;
    else missing.push(`setpriv: ${error}`);
  } else missing.push("setpriv (util-linux) is not installed");
  if (features.noNewRights && tools.seccomp) {
    const filtered = { ...features, syscallFilter: true };
    const { output, error } = await trial(filtered, `kill -0 ${process.pid} 2>/dev/null || echo refused`);
    if (output === "refused\n") features = filtered;
    else missing.push(`system call filter: ${error}`);
  } else missing.push("system call filter: setpriv of util-linux 2.41 is not installed");
  if (features.noNewRights && tools.landlock) {
    const landlocked = { ...features, landlock: true };
    const { output, error } = await trial(landlocked, hides);
    if (output === "hidden\n") features = landlocked;
    else missing.push(`Landlock: ${error}`);
  } else missing.push("Landlock: setpriv of util-linux 2.40 is not installed");

  if (features.noNewRights && tools.unshare !== undefined && tools.mount !== undefined) {
    const alone = `[ $(ls -d /proc/[0-9]* | wc -l) -lt 10 ] && ${hides}`;
    const own = { ...features, namespaces: true, ownProc: true };
    const shared = { ...own, ownProc: false };
    const first = await trial(own, alone);
    if (first.output === "hidden\n") features = own;
    else if ((await trial(shared, hides)).output === "hidden\n") {
      features = shared;
      missing.push("own /proc: the container masks parts of its own; procMount: Unmasked allows it");
    } else missing.push(`namespaces: ${first.error}`);
  } else missing.push("namespaces: unshare, mount and setpriv (util-linux) are not installed");

  // Twelve small processes at most, where the limit turns out not to hold.
  const many = "i=0; while [ $i -lt 12 ]; do sleep 1 & i=$((i+1)); done; echo all";
  const limited = { ...features, processLimit: features.namespaces ? "command" : "user" } as const;
  const [tight, wide] = await Promise.all([
    trial(limited, many, { processes: 4 }),
    trial(limited, many, { processes: 64 }),
  ]);
  if (tight.output === "" && wide.output === "all\n") return { ...features, processLimit: limited.processLimit };
  missing.push(
    tight.output === ""
      ? "limit of processes: it counts processes of this user that are out of sight, in other containers"
      : `limit of processes: ${process.getuid?.() === 0 ? "the kernel exempts the superuser from it" : "it did not hold in a trial"}`,
  );
  return features;
}

/** Of no command: trials are over before there are any, and clean up by their process group. */
const TRIAL_TAG = 2 ** 45;
const TRIAL_LIMITS: CommandLimits = {
  timeoutSeconds: 3,
  cpuSeconds: 3,
  memoryBytes: 256 * 1024 * 1024,
  processes: 64,
  fileBytes: 1024 * 1024,
  openFiles: 256,
  outputBytes: 1024,
  concurrency: 1,
};

/** Runs something short to its end. `error` is the last line of its errors, or how it ended. */
function attempt(argv: readonly [string, ...string[]], directory: string): Promise<{ output: string; error: string }> {
  return new Promise((resolve) => {
    const [program, ...args] = argv;
    const child = spawn(program, args, {
      cwd: directory,
      env: { PATH: COMMAND_PATH },
      stdio: ["ignore", "pipe", "pipe"],
      detached: true,
    });
    let output = "";
    let errors = "";
    child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString("latin1")));
    child.stderr.on("data", (chunk: Buffer) => (errors += chunk.toString("latin1")));
    const timer = setTimeout(() => endGroup(child), TRIAL_MS);
    const done = (how: string) => {
      clearTimeout(timer);
      resolve({ output, error: errors.trim().split("\n").at(-1) || how });
    };
    child.once("error", (error) => done(error.message));
    // What it left running would keep the pipes open; what it wrote is read to the end.
    child.once("exit", () => endGroup(child));
    child.once("close", (code, signal) => done(`it ended with ${signal ?? code}`));
  });
}

function endGroup({ pid }: ChildProcess): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // Nobody is left in the group.
  }
}

interface WrapperOptions {
  readonly network: boolean;
  readonly workspaces: string;
  readonly hidden: readonly string[];
  readonly programs: ReadonlyMap<string, string> | undefined;
  /** Directory for filter files; without one, one is made when the first is written. */
  readonly filters?: string;
}

/** Makes command lines of the features that work. */
class Wrapper {
  readonly #tools: Tools;
  readonly #features: Features;
  readonly #options: WrapperOptions;
  readonly #namespaceScript: string;
  readonly #mountsScript: string;
  #directory: string | undefined;
  #filter: { readonly file: string; readonly protects: string } | undefined;

  constructor(tools: Tools, features: Features, options: WrapperOptions) {
    this.#tools = tools;
    this.#features = features;
    const hidden = options.hidden.filter((path) => existsSync(path)).map((path) => realpathSync(path));
    this.#options = { ...options, hidden: [...new Set([...options.hidden, ...hidden])] };
    const { setpriv = "setpriv", unshare = "unshare", mount = "mount" } = tools;
    const fill = (script: string, parts: Record<string, string>) =>
      script.replace(/@(\w+)@/g, (whole, name: string) => parts[name] ?? whole);
    const filter = features.namespaces ? this.#filterArguments().map(quoted).join(" ") : "";
    this.#namespaceScript = fill(NAMESPACE_SCRIPT, { setpriv: quoted(setpriv), unshare: quoted(unshare), filter });
    const proc = `@mount@ -t proc -o nosuid,nodev,noexec proc /proc || failed`;
    // In the script's words, so that it is the same for every command.
    const landlock = features.landlock
      ? [
          ...this.#landlockArguments([
            [TEMPORARY, CHANGE],
            [SHARED_MEMORY, CHANGE],
          ]).map(quoted),
          ...["--landlock-rule", `"path-beneath:${this.#workspaceRights().join(",")}:$workspace"`],
        ].join(" ")
      : "";
    this.#mountsScript = fill(MOUNTS_SCRIPT.replace("@proc@", features.ownProc ? proc : ""), {
      ...{ setpriv: quoted(setpriv), mount: quoted(mount), landlock },
    });
  }

  wrap(launch: Launch): readonly [string, ...string[]] {
    const { limits, tag, fileBytes } = launch;
    const kibibytes = (bytes: number) => String(Math.ceil(bytes / 1024));
    return [
      "/bin/sh",
      ...["-c", LIMITS_SCRIPT, "limits", String(tag), String(limits.cpuSeconds)],
      ...[kibibytes(limits.memoryBytes), kibibytes(limits.memoryBytes * ADDRESS_SPACE_FACTOR)],
      // In units of 512 bytes (POSIX, `ulimit`).
      ...[String(Math.floor(fileBytes / 512)), String(limits.openFiles), this.#userProcesses(limits)],
      ...(this.#features.namespaces ? this.#inNamespaces(launch) : this.#inPlace(launch)),
    ];
  }

  #inNamespaces({ words, workspace, directory, limits }: Launch): string[] {
    const { network } = this.#options;
    const processes = String(limits.processes + SCAFFOLDING);
    return [
      ...[this.#tools.unshare ?? "unshare", "--user", "--map-current-user", "--keep-caps"],
      ...["--mount", "--pid", "--ipc", ...(network ? [] : ["--net"]), "--"],
      ...["/bin/sh", "-c", this.#namespaceScript, "namespace", this.#mountsScript],
      ...[workspace, directory, processes, ...this.#mounts(workspace), "--", ...words],
    ];
  }

  #inPlace({ words, workspace, temporary }: Launch): string[] {
    const { setpriv = "setpriv" } = this.#tools;
    const { syscallFilter: filtered, landlock } = this.#features;
    const landlocked = () =>
      this.#landlockArguments([
        [workspace, this.#workspaceRights()],
        ...(temporary === undefined ? [] : ([[temporary, CHANGE]] as const)),
      ]);
    if (!this.#features.noNewRights) return [...words];
    // The superuser's commands are to have a user's rights: with the superuser's, Landlock would not hold them.
    const capabilities = process.geteuid?.() === 0 ? ["--inh-caps=-all", "--bounding-set=-all"] : [];
    return [
      // The filter first: under Landlock its file could not be read.
      ...(filtered ? [setpriv, ...this.#filterArguments(), "--"] : []),
      ...[setpriv, "--no-new-privs", "--pdeathsig", "KILL", ...capabilities, ...(landlock ? landlocked() : []), "--"],
      ...words,
    ];
  }

  /** What is covered with an empty file system, each with its size, none inside another. */
  #mounts(workspace: string): string[] {
    const { workspaces, hidden } = this.#options;
    const covered = [TEMPORARY, SHARED_MEMORY, ...(workspace === workspaces ? [] : [workspaces]), ...hidden].filter(
      (path) => existsSync(path),
    );
    const real = [...new Set(covered.map((path) => realpathSync(path)))];
    return (
      real
        .filter((path) => !real.some((other) => other !== path && isInside(path, other)))
        // A workspace's own directories are its caller's.
        .filter((path) => path !== workspace && !isInside(path, workspace))
        .map((path) => `${path === TEMPORARY ? TEMPORARY_BYTES : 1024 * 1024}:${path}`)
    );
  }

  /** With a list of programs, what a command writes it cannot run. */
  #workspaceRights(): readonly string[] {
    return this.#options.programs === undefined ? ["execute", ...CHANGE] : CHANGE;
  }

  #landlockArguments(more: readonly (readonly [string, readonly string[]])[]): string[] {
    const { programs, hidden } = this.#options;
    const grants: (readonly [string, readonly string[]])[] = [
      ...PROGRAMS.map((path) => [path, programs === undefined ? RUN : LOOK] as const),
      ...CONFIGURATION.map((path) => [path, LOOK] as const),
      ...DEVICES.map((path) => [path, ["read-file", "write-file"]] as const),
    ];
    if (programs !== undefined) {
      const needed = [...new Set(programs.values())].flatMap((path) => [path, ...interpretersOf(path)]);
      for (const path of [...needed, ...LOADERS]) grants.push([path, ["execute", "read-file"]]);
    }
    const around = grants.flatMap(([path, rights]) => without(path, hidden).map((each) => [each, rights] as const));
    const rules = [...around, ...more].flatMap(([path, rights]) => {
      const directory = isDirectory(path);
      if (directory === undefined) return [];
      const fitting = directory ? rights : rights.filter((right) => OF_FILES.has(right));
      return ["--landlock-rule", `path-beneath:${fitting.join(",")}:${path}`];
    });
    return ["--landlock-access", "fs", ...rules];
  }

  #filterArguments(): string[] {
    if (!this.#features.syscallFilter) return [];
    // In namespaces of its own a command cannot name the server, and has a network of its own where it has none.
    const outside = this.#features.namespaces;
    const protectedIds = outside ? [] : [process.ppid, ...threadIds()].slice(0, MOST_PROTECTED);
    const protects = protectedIds.join();
    if (this.#filter?.protects !== protects) {
      const filter = syscallFilter({ protectedIds, network: this.#options.network || outside, ...ownGroup() });
      if (filter === undefined) throw new Error("No system call filter can be made for this processor.");
      const directory = this.#options.filters ?? this.#ownDirectory();
      const file = join(directory, `filter-${process.hrtime.bigint()}`);
      writeFileSync(file, filter, { mode: 0o600 });
      this.#filter = { file, protects };
    }
    return ["--no-new-privs", "--seccomp-filter", this.#filter.file];
  }

  #ownDirectory(): string {
    this.#directory ??= mkdtempSync(join(tmpdir(), "mcp-isolation-"));
    return this.#directory;
  }

  /** Removes what was written; nothing can be wrapped from here on. */
  close(): void {
    if (this.#directory !== undefined) rmSync(this.#directory, { recursive: true, force: true });
  }

  /**
   * The limit of processes where it counts the user's. What the user has running already, this server and its threads
   * among it, is added, so that a command gets about its own number.
   */
  #userProcesses({ processes }: CommandLimits): string {
    return this.#features.processLimit === "user" ? String(processes + userThreads()) : "-";
  }
}

/** As many as a filter has room for; a server has some twenty threads. */
const MOST_PROTECTED = 100;

/** Ids of this process and its threads: a signal to any of them is one to the process. */
function threadIds(): number[] {
  return readdirSync("/proc/self/task").map(Number);
}

function ownGroup(): { protectedGroup?: number } {
  const stat = readFileSync("/proc/self/stat", "latin1");
  const group = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[2]);
  return group > 1 ? { protectedGroup: group } : {};
}

function userThreads(): number {
  const user = process.getuid?.();
  let threads = 0;
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const status = readFileSync(`/proc/${name}/status`, "latin1");
      if (Number(/^Uid:\s+(\d+)/m.exec(status)?.[1]) !== user) continue;
      threads += Number(/^Threads:\s+(\d+)/m.exec(status)?.[1] ?? 1);
    } catch {
      // Ended in the meantime.
    }
  }
  return threads;
}

/** Interpreters that a script's first line names. */
function interpretersOf(path: string): string[] {
  const file = openSync(path, "r");
  try {
    const head = Buffer.alloc(256);
    const first = head.subarray(0, readSync(file, head)).toString("latin1").split("\n")[0] ?? "";
    if (!first.startsWith("#!")) return [];
    const [interpreter = "", argument = ""] = first.slice(2).trim().split(/\s+/);
    if (!interpreter.endsWith("/env")) return [interpreter];
    const named = COMMAND_PATH.split(delimiter).map((directory) => join(directory, argument));
    return [interpreter, ...named.filter((each) => existsSync(each)).slice(0, 1)];
  } finally {
    closeSync(file);
  }
}

/** `path`, or what is in it but for the hidden directories, since Landlock can allow and never take back. */
function without(path: string, hidden: readonly string[]): string[] {
  if (hidden.includes(path)) return [];
  if (!hidden.some((each) => isInside(each, path)) || isDirectory(path) !== true) return [path];
  return readdirSync(path).flatMap((name) => without(join(path, name), hidden));
}

function isDirectory(path: string): boolean | undefined {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory();
}

const isInside = (path: string, directory: string) => path.startsWith(directory + sep);

/** A word of a shell script. */
const quoted = (word: string) => `'${word.replaceAll("'", `'\\''`)}'`;
