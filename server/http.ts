import { buildApp } from "./app.ts";
import { run } from "./run.ts";

/* The HTTP server: this server's own tools. */

await run(async (config, log, stream) => ({
  listeners: await buildApp({ config, log, stream }),
  facts: { workspace: config.WORKSPACE_PATH },
}));
