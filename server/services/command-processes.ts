import { randomInt } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";

/*
 * Finding a command's processes, wherever they went. Each command runs with a number of its own for a resource limit
 * that Linux has kept but not used since 2.4.25, the count of file locks: children inherit it, `setsid` and a cleared
 * environment do not change it, /proc shows it to everyone, and it can be lowered but never raised or removed. So what
 * bears the number belongs to the command, and what bears a lowered one belongs to none that runs.
 */

/** The number that marks a command's processes. */
export type Tag = number;

/**
 * Tags lie beyond any limit that somebody else would set and within what every shell's `ulimit` reads. Their upper
 * bits are this server's own, so that two servers of one user on one machine do not take each other's for strays.
 */
const LOWEST = 2 ** 46;
const PER_SERVER = 2 ** 26;
const FIRST = LOWEST + randomInt(2 ** 20) * PER_SERVER;

/** Of commands that are running. */
const inUse = new Set<Tag>();

/** A tag for one command, in use until {@link releaseTag}. */
export function takeTag(): Tag {
  const tag = FIRST + randomInt(PER_SERVER);
  if (inUse.has(tag)) return takeTag();
  inUse.add(tag);
  return tag;
}

/** From here on, whatever bears the tag is left over. */
export function releaseTag(tag: Tag): void {
  inUse.delete(tag);
}

/** What a command's processes have used and hold. */
export interface Usage {
  readonly processes: number;
  /** CPU time, those that ended included once their parents have noticed. Seconds. */
  readonly cpuSeconds: number;
  /** Bytes resident; pages that several share are counted for each. */
  readonly residentBytes: number;
}

/** Linux counts CPU time for user space in hundredths of a second, whatever the kernel's own rate (`USER_HZ`). */
const TICKS_PER_SECOND = 100;
const PAGE_BYTES = process.arch === "arm64" ? pageBytes() : 4096;

const linux = process.platform === "linux";

/** Processes by the tag they bear; those without one are left out. Empty elsewhere than on Linux. */
export function taggedProcesses(): Map<Tag, number[]> {
  const found = new Map<Tag, number[]>();
  if (!linux) return found;
  for (const pid of processIds()) {
    const tag = tagOf(pid);
    if (tag === undefined) continue;
    const pids = found.get(tag);
    if (pids) pids.push(pid);
    else found.set(tag, [pid]);
  }
  return found;
}

/** What these processes use together; undefined when none of them is left. */
export function usageOf(pids: readonly number[]): Usage | undefined {
  let processes = 0;
  let ticks = 0;
  let pages = 0;
  for (const pid of pids) {
    const stat = read(`/proc/${pid}/stat`);
    // The name comes in parentheses and may hold anything; the fields behind it are counted from the third.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    if (fields.length < 22) continue;
    processes += Number(fields[17]);
    for (const field of [11, 12, 13, 14]) ticks += Number(fields[field]);
    pages += Math.max(0, Number(fields[21]));
  }
  return processes === 0
    ? undefined
    : { processes, cpuSeconds: ticks / TICKS_PER_SECOND, residentBytes: pages * PAGE_BYTES };
}

/** Bytes that these processes hold, shared pages divided among those that share them. Slower than {@link usageOf}. */
export function proportionalBytes(pids: readonly number[]): number {
  let kibibytes = 0;
  for (const pid of pids) {
    const rollup = read(`/proc/${pid}/smaps_rollup`);
    const share = /^Pss:\s+(\d+) kB$/m.exec(rollup)?.[1];
    // Programs that may not be read do not show their maps either; then what is resident has to do.
    kibibytes += share === undefined ? (usageOf([pid])?.residentBytes ?? 0) / 1024 : Number(share);
  }
  return kibibytes * 1024;
}

/**
 * Kills every process whose tag is no running command's. One round: a process may fork between being seen and being
 * killed, so it is to be called until it returns 0, the number of those killed.
 */
export function killLeftovers(): number {
  let killed = 0;
  for (const [found, pids] of taggedProcesses()) {
    if (inUse.has(found) || !(alone() || isOurs(found))) continue;
    for (const pid of pids) killed += kill(pid) ? 1 : 0;
  }
  return killed;
}

const isOurs = (tag: Tag) => tag >= FIRST && tag < FIRST + PER_SERVER;

/**
 * Whether this is a container with one server in it, as the image has it: then a tag that is no running command's was
 * lowered by somebody who meant to stay.
 */
function alone(): boolean {
  return process.pid === 1 || (process.ppid === 1 && read("/proc/1/comm").trim() === "tini");
}

/** Processes that are not zombies waiting for their parent. */
function kill(pid: number): boolean {
  if (/^State:\s+[ZX]/m.test(read(`/proc/${pid}/status`))) return false;
  try {
    process.kill(pid, "SIGKILL");
    return true;
  } catch {
    // Gone in the meantime, or not ours.
    return false;
  }
}

function tagOf(pid: number): Tag | undefined {
  const limit = /^Max file locks\s+\S+\s+(\d+)/m.exec(read(`/proc/${pid}/limits`))?.[1];
  if (limit === undefined) return undefined;
  const tag = Number(limit);
  return tag >= 0 && tag < 2 * LOWEST && tag !== ownLimit() ? tag : undefined;
}

let own: number | undefined | "unread" = "unread";

/** The server's own limit, in case it has one: then it is everybody's here, and no tag. */
function ownLimit(): number | undefined {
  if (own === "unread") {
    const limit = /^Max file locks\s+\S+\s+(\d+)/m.exec(read("/proc/self/limits"))?.[1];
    own = limit === undefined ? undefined : Number(limit);
  }
  return own;
}

function processIds(): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

/** Files in /proc are made as they are read, from memory: reading them takes no longer than asking for it would. */
function read(path: string): string {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return "";
  }
}

function pageBytes(): number {
  return Number(/^KernelPageSize:\s+(\d+) kB$/m.exec(read("/proc/self/smaps"))?.[1] ?? 4) * 1024;
}
