import { buildListeners, createShared, packageVersion } from "./app.ts";
import { parseAccessPolicy, policyFault } from "./auth/roles.ts";
import { createAudit } from "./observability/audit.ts";
import { createMetrics } from "./observability/metrics.ts";
import { readArguments, type ServeArguments, UsageError } from "./proxy/arguments.ts";
import { createStdioProxy, lookAtCommand } from "./proxy/stdio-proxy.ts";
import { run } from "./run.ts";

/* The proxy that serves a stdio MCP server over HTTP, as the command line says. */

const options = readOptions();

await run(async (config, log, stream) => {
  const policy = parseAccessPolicy(config.ACCESS_POLICY);
  if (policy.tools.size > 0) {
    throw policyFault(["at tools has rules, and what tools another server has is not known here; leave tools out"]);
  }
  const version = packageVersion();
  const found = await lookAtCommand(options.command, log);
  const metrics = createMetrics(found.tools);
  const shared = createShared(config, metrics, log);
  const audit = createAudit({ config, log, metrics, version, stream, connectors: shared.connectors });
  const proxy = createStdioProxy({
    ...options,
    name: config.MCP_SERVER_NAME,
    version,
    found,
    metrics,
    callLimits: shared.limits,
    audit,
    log,
  });
  return {
    listeners: await buildListeners({ config, log }, { ...proxy, metrics, shared, policy, audit }),
    facts: { command: options.command.program, server: found.info.name },
  };
});

function readOptions(): ServeArguments {
  try {
    return readArguments(process.argv.slice(2), process.env);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    console.error(error.message);
    process.exit(2);
  }
}
