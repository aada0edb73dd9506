import { parseWorkerEnvironment } from "../../server/config.ts";
import { run } from "../../server/run.ts";
import { buildWorker, withoutDraining } from "../../server/worker-app.ts";
import { createChaosTool } from "./chaos-tool.ts";

/* The worker as it is deployed, with a tool of the suite's own in place of the server's. */

const { CHAOS_DIRECTORY: directory, CHAOS_SKEW_MS: _skew, ...environment } = process.env;
if (directory === undefined) throw new Error("CHAOS_DIRECTORY must be set: effects are put there.");
const tools = [createChaosTool(directory)];

await run(async (config, log, stream) => ({ listeners: await buildWorker({ config, log, stream, tools }) }), {
  name: "worker",
  path: "",
  parse: () => withoutDraining(parseWorkerEnvironment(environment)),
});
