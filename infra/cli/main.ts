#!/usr/bin/env node

const OLDEST_NODE = 24;

// Before anything else is loaded: an older Node fails in the middle of another file, with a message about that file.
if (Number.parseInt(process.versions.node, 10) < OLDEST_NODE) {
  give(
    `this is Node ${process.versions.node}, and mcp-aks needs Node ${OLDEST_NODE}, which "npm ci" installs into this ` +
      "checkout. Run it as npm run rehearse, npm run plan, npm run render or npm run connect, which use that one.",
  );
}

const { runProgram, processTerminal } = await load();
// A reader that has seen enough (`| head`) closes the pipe; that is no failure.
process.stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 0 : 1));
process.exitCode = await runProgram(process.argv.slice(2), processTerminal());

async function load() {
  try {
    return { ...(await import("./program.ts")), ...(await import("./terminal.ts")) };
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : undefined;
    if (code !== "ERR_MODULE_NOT_FOUND" || !String(error).includes("Cannot find package")) throw error;
    return give("the packages that this command is made of are not installed; run npm ci first.");
  }
}

function give(message: string): never {
  process.stderr.write(`error: ${message}\n`);
  process.exit(2);
}
