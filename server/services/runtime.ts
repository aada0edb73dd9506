import { availableParallelism, loadavg, totalmem } from "node:os";

/** What the process says of itself: nothing that names the host, its environment or its neighbours. */
export interface Runtime {
  readonly name: string;
  readonly version: string;
  readonly startedAt: Date;
  usage(): RuntimeUsage;
}

export interface RuntimeUsage {
  readonly uptimeSeconds: number;
  readonly cpu: {
    readonly available: number;
    readonly loadAverage: readonly number[];
    readonly processSeconds: number;
  };
  /** Bytes. `limit` is the container's where there is one, the machine's otherwise. */
  readonly memory: {
    readonly limit: number;
    readonly available: number;
    readonly resident: number;
    readonly heap: number;
  };
}

export function createRuntime(name: string, version: string): Runtime {
  const startedAt = new Date();
  return {
    name,
    version,
    startedAt,
    usage() {
      const { rss, heapUsed } = process.memoryUsage();
      const { user, system } = process.cpuUsage();
      return {
        uptimeSeconds: Math.round((Date.now() - startedAt.getTime()) / 1000),
        cpu: {
          // Node takes a container's CPU quota into account here.
          available: availableParallelism(),
          loadAverage: loadavg().map((load) => Math.round(load * 100) / 100),
          processSeconds: Math.round((user + system) / 10_000) / 100,
        },
        memory: {
          limit: memoryLimit() ?? totalmem(),
          available: process.availableMemory(),
          resident: rss,
          heap: heapUsed,
        },
      };
    },
  };
}

/** The container's memory limit in bytes, if it has one; without a limit the kernel reports an absurdly large one. */
function memoryLimit(): number | undefined {
  const limit = process.constrainedMemory();
  return limit > 0 && limit < totalmem() ? limit : undefined;
}
