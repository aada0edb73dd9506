#!/usr/bin/env node
// The command's entry for any Node: plain JavaScript, for a Node below 22 cannot even read the message in main.ts.
import { fileURLToPath } from "node:url";

const wanted = 24;
if (Number.parseInt(process.versions.node, 10) >= wanted) {
  // Half of the time to the first word would go into compiling, so what was compiled once is kept, with the packages:
  // where only those who decide what runs here may write. By a dynamic import, since an older Node has no such export.
  const { enableCompileCache } = await import("node:module");
  enableCompileCache(fileURLToPath(new URL("../../node_modules/.cache/compiled/", import.meta.url)));
  await import("./main.ts");
} else {
  console.error(
    `error: this is Node ${process.versions.node}, and mcp-aks needs Node ${wanted}, which "npm ci" installs into this checkout. ` +
      "Run npm ci, then npm run rehearse, npm run plan, npm run render or npm run connect, which use it.",
  );
  process.exitCode = 2;
}
