import { z } from "zod";
import { ROLES } from "../config.ts";
import { icons } from "../icons.ts";
import { defineTool, effectiveRole } from "./define-tool.ts";

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
    workspace: z.object({
      totalBytes: z.number(),
      freeBytes: z.number(),
      quotaBytes: z.number().optional().describe("bytes that your workspace may hold"),
      quotaFiles: z.number().optional().describe("files and directories that your workspace may hold"),
      usedBytes: z.number().optional(),
      usedFiles: z.number().optional(),
    }),
    commands: z.object({
      running: z.number(),
      concurrency: z.number().describe("commands at once, of all callers"),
      shell: z.boolean().describe("whether command lines are read by a shell"),
      programs: z.array(z.string()).optional().describe("programs that commands may be; absent: every program"),
      isolation: z.object({
        noNewRights: z.boolean(),
        namespaces: z.boolean(),
        ownProc: z.boolean(),
        landlock: z.boolean(),
        syscallFilter: z.boolean(),
        processLimit: z.enum(["command", "user", "none"]),
        network: z.enum(["open", "none"]),
      }),
    }),
    limits: z.object({
      role: z.enum(ROLES).describe("yours, whose limits these are"),
      commandTimeoutSeconds: z.number(),
      commandCpuSeconds: z.number(),
      commandMemoryBytes: z.number(),
      commandProcesses: z.number(),
      commandFileSizeBytes: z.number(),
      commandOutputBytes: z.number(),
      commandConcurrency: z.number().describe("your commands at once"),
      fileSizeBytes: z.number(),
    }),
  }),
  annotations: { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false },
  icons: icons.gauge,
  role: "reader",
  facets: {},
  async run(_input, { runtime, workspace, commands, caller }) {
    const role = effectiveRole(caller);
    const limits = commands.limits[role];
    const { facts, programs } = await commands.isolation;
    const { missing: _, ...isolation } = facts;
    const { limits: quota, holdings } = workspace.quota;
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
      workspace: {
        ...(await workspace.space()),
        ...(quota.bytes !== undefined && { quotaBytes: quota.bytes }),
        ...(quota.files !== undefined && { quotaFiles: quota.files }),
        ...(holdings && Number.isFinite(holdings.files) && { usedBytes: holdings.bytes, usedFiles: holdings.files }),
      },
      commands: {
        running: commands.running,
        concurrency: commands.concurrency,
        shell: commands.shell,
        ...(programs && { programs: [...programs.keys()] }),
        isolation,
      },
      limits: {
        role,
        commandTimeoutSeconds: limits.timeoutSeconds,
        commandCpuSeconds: limits.cpuSeconds,
        commandMemoryBytes: limits.memoryBytes,
        commandProcesses: limits.processes,
        commandFileSizeBytes: limits.fileBytes,
        commandOutputBytes: limits.outputBytes,
        commandConcurrency: limits.concurrency,
        fileSizeBytes: workspace.fileSizeLimit,
      },
    };
  },
});
