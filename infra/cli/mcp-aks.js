#!/usr/bin/env node
// The command's entry for any Node: plain JavaScript, for a Node below 22 cannot even read the message in main.ts.
const wanted = 24;
if (Number.parseInt(process.versions.node, 10) >= wanted) {
  import("./main.ts");
} else {
  console.error(
    `error: this is Node ${process.versions.node}, and mcp-aks needs Node ${wanted}, which "npm ci" installs into this checkout. ` +
      "Run npm ci, then npm run rehearse, npm run plan, npm run render or npm run connect, which use it.",
  );
  process.exitCode = 2;
}
