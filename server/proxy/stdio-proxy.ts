import type { FastifyBaseLogger } from "fastify";
import { Counter, Gauge } from "prom-client";
import { z } from "zod";
import type { CallAudit, CallLimits } from "../mcp/call-gate.ts";
import type { Metrics } from "../observability/metrics.ts";
import { createRuntime } from "../services/runtime.ts";
import { type Child, type ChildCommand, type ServerDescription, startChild } from "./child.ts";
import { type ChildLimits, createChildren } from "./children.ts";
import { createProxyProtocol } from "./proxy-protocol.ts";

export interface StdioProxyOptions {
  readonly command: ChildCommand;
  readonly limits: ChildLimits;
  /** This server's own name and version, for operators; clients see those of the command. */
  readonly name: string;
  readonly version: string;
  /** What {@link lookAtCommand} has found. */
  readonly found: FoundServer;
  readonly metrics: Metrics;
  readonly callLimits: CallLimits;
  readonly audit: CallAudit;
  readonly log: FastifyBaseLogger;
}

/** What a stdio server says of itself. */
export interface FoundServer extends ServerDescription {
  /** Names of its tools, as many as get a metric's label of their own. */
  readonly tools: readonly string[];
}

/** Tools that get a metric's label of their own; the rest are counted together. */
const LABELLED_TOOLS = 200;

/** Puts a stdio server behind this one's listeners. */
export function createStdioProxy(options: StdioProxyOptions) {
  const { command, limits, name, version, found, metrics, callLimits, audit, log } = options;
  let description: ServerDescription = found;
  const registers = [metrics.registry];
  const starts = new Counter({
    name: "mcp_child_starts_total",
    help: "Starts of the stdio server that is served, one a caller and one after each end",
    registers,
  });
  const running = new Gauge({
    name: "mcp_children",
    help: "Processes of the stdio server that is served that run now",
    registers,
  });
  const children = createChildren(command, limits, log, {
    started(child: Child) {
      starts.inc();
      running.inc();
      description = { ...description, ...child.description };
    },
    ended: () => running.dec(),
  });
  return {
    description: () => description,
    protocol: createProxyProtocol({
      children,
      description: () => description,
      tools: found.tools,
      limits: callLimits,
      audit,
      metrics,
      log,
    }),
    runtime: createRuntime(name, version),
    work: {
      get running() {
        return children.running;
      },
      stopAll: () => children.killAllNow(),
      close: () => children.close(),
      killAllNow: () => children.killAllNow(),
    },
    details: async () => ({ children: { running: children.count, limit: limits.count, calls: children.running } }),
  };
}

/**
 * Starts the command once before it is served, so that one that does not work is told at once, to learn what it offers.
 *
 * @throws Error naming the command, when it cannot be started or does not speak the protocol.
 */
export async function lookAtCommand(command: ChildCommand, log: FastifyBaseLogger): Promise<FoundServer> {
  let child: Child;
  try {
    child = await startChild(command, {
      said: (stream, line) => log.info({ event: "child.said", subject: "start", stream, line }),
    });
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new Error(
      `The command ${JSON.stringify(command.program)} is no stdio MCP server that can be served: ${why}. ` +
        "Run it by hand; its environment here is PATH and what --env names.",
      { cause: error },
    );
  }
  try {
    return { ...child.description, tools: await toolNames(child) };
  } finally {
    await child.stop();
  }
}

const Page = z.object({ tools: z.array(z.object({ name: z.string() })), nextCursor: z.string().optional() });

async function toolNames(child: Child): Promise<string[]> {
  const names: string[] = [];
  if (!("tools" in child.description.capabilities)) return names;
  let cursor: string | undefined;
  do {
    const page = Page.parse(await child.request("tools/list", cursor === undefined ? {} : { cursor }));
    names.push(...page.tools.map(({ name }) => name));
    cursor = page.nextCursor;
  } while (cursor !== undefined && names.length < LABELLED_TOOLS);
  return names.slice(0, LABELLED_TOOLS);
}
