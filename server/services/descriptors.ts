import { closeSync, readdirSync, readFileSync } from "node:fs";

/** Set on descriptors that end with `exec` (Linux, `asm-generic/fcntl.h`); Node sets it on all of its own. */
const CLOSE_ON_EXEC = 0o2000000;
const STANDARD = 2;

/**
 * Closes what whoever started this process left open in it, beside the standard streams: it would be open in every
 * command as well. To be called first thing by an entry, and by nothing else. Linux only, where /proc tells.
 */
export function closeInheritedDescriptors(): void {
  if (process.platform !== "linux") return;
  for (const name of readdirSync("/proc/self/fd")) {
    const descriptor = Number(name);
    if (descriptor <= STANDARD || !isInherited(descriptor)) continue;
    try {
      closeSync(descriptor);
    } catch {
      // Closed already: the one that the directory was read through.
    }
  }
}

function isInherited(descriptor: number): boolean {
  try {
    const flags = /^flags:\s+0?(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${descriptor}`, "latin1"))?.[1];
    return flags !== undefined && (Number.parseInt(flags, 8) & CLOSE_ON_EXEC) === 0;
  } catch {
    return false;
  }
}
