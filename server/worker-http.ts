import { parseWorkerEnvironment } from "./config.ts";
import { run } from "./run.ts";
import { buildWorker, withoutDraining } from "./worker-app.ts";

/* The worker: runs jobs, and listens for probes and operators alone. */

await run(
  async (config, log, stream) => ({
    listeners: await buildWorker({ config, log, stream }),
    facts: { workspace: config.WORKSPACE_PATH, queue: config.SERVICE_BUS_QUEUE, concurrency: config.JOB_CONCURRENCY },
  }),
  { name: "worker", path: "", parse: (env) => withoutDraining(parseWorkerEnvironment(env)) },
);
