import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { CallToolResultSchema } from "@modelcontextprotocol/sdk/types.js";
import { expect, test } from "vitest";
import { z } from "zod";
import { defineTool, type Tool, ToolFailure } from "../../server/tools/define-tool.ts";
import { listening, testApp } from "./running-app.ts";
import { jobsOf } from "./tasks-jobs.ts";

const annotations = { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false };
const tools: readonly Tool[] = [
  defineTool({
    name: "dig",
    title: "Dig",
    description: "Digs.",
    input: z.object({ depth: z.number() }),
    output: z.object({ found: z.string() }),
    annotations,
    role: "reader",
    job: true,
    async run({ depth }, { client }) {
      await client.progress({ progress: 1, message: "digging" });
      if (depth < 0) throw new ToolFailure("There is no such depth.");
      return { found: `water at ${depth}` };
    },
  }),
];

test("a client of 2025-11-25", async () => {
  const app = await testApp({}, tools, { jobs: jobsOf(tools) });
  const client = new Client({ name: "c", version: "1" }, { enforceStrictCapabilities: true } as never);
  await client.connect(new StreamableHTTPClientTransport(await listening(app)) as never);
  const { tools: listed } = await client.listTools();
  console.log(JSON.stringify(client.getServerCapabilities()), listed[0]?.execution);
  const seen = [];
  for await (const message of client.experimental.tasks.callToolStream(
    { name: "dig", arguments: { depth: 3 } },
    CallToolResultSchema,
  ))
    seen.push(message);
  console.log(JSON.stringify(seen, null, 1));
  const page = await client.experimental.tasks.listTasks();
  console.log(page);
  console.log(await client.experimental.tasks.getTaskResult(page.tasks[0]?.taskId ?? "", CallToolResultSchema));
  await client.close();
  expect(1).toBe(1);
});
