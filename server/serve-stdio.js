import "./compile-cache.js";

/*
 * The entry that serves any stdio MCP server over HTTP:
 *   node serve-stdio.js [--env NAME]... [--max-children N] [--idle-seconds N] [--cwd DIR] -- COMMAND [ARGUMENT]...
 * Everything else comes from the environment, as for the HTTP entry.
 */
await import("./stdio-over-http.ts");
