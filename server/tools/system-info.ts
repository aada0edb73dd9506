import { z } from "zod";
import { icons } from "../icons.ts";
import { defineTool } from "./define-tool.ts";

const bytes = z.number().describe("bytes");

export const systemInfo = defineTool({
  name: "system_info",
  title: "System information",
  description:
    "Tells what this server is and how it does: name, version, uptime, platform, CPU, memory, space in the workspace, " +
    "commands running, and the limits that hold for the other tools. Takes no arguments.",
  input: z.object({}),
  output: z.object({
    server: z.object({ name: z.string(), version: z.string(), startedAt: z.string(), uptimeSeconds: z.number() }),
    runtime: z.object({ node: z.string(), platform: z.string(), architecture: z.string() }),
    cpu: z.object({
      available: z.number().describe("CPUs that the process may use at once"),
      loadAverage: z.array(z.number()).describe("over 1, 5 and 15 minutes"),
      processSeconds: z.number().describe("CPU time that the process has used"),
    }),
    memory: z.object({ limit: bytes, available: bytes, resident: bytes, heap: bytes }),
    workspace: z.object({ totalBytes: z.number(), freeBytes: z.number() }),
    commands: z.object({ running: z.number(), concurrency: z.number() }),
    limits: z.object({
      commandTimeoutSeconds: z.number(),
      commandOutputBytes: z.number(),
      fileSizeBytes: z.number(),
    }),
  }),
  annotations: { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false },
  icons: icons.gauge,
  role: "reader",
  async run(_input, { runtime, workspace, commands }) {
    const { uptimeSeconds, cpu, memory } = runtime.usage();
    return {
      server: {
        name: runtime.name,
        version: runtime.version,
        startedAt: runtime.startedAt.toISOString(),
        uptimeSeconds,
      },
      runtime: { node: process.version, platform: process.platform, architecture: process.arch },
      cpu: { ...cpu, loadAverage: [...cpu.loadAverage] },
      memory,
      workspace: await workspace.space(),
      commands: { running: commands.running, concurrency: commands.limits.concurrency },
      limits: {
        commandTimeoutSeconds: commands.limits.timeoutSeconds,
        commandOutputBytes: commands.limits.outputBytes,
        fileSizeBytes: workspace.fileSizeLimit,
      },
    };
  },
});
