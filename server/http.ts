import { buildApp } from "./app.ts";
import { run } from "./run.ts";

/* The HTTP server: this server's own tools. */

await run(async (config, log) => ({
  listeners: await buildApp({ config, log }),
  facts: { workspace: config.WORKSPACE_PATH },
}));
