import { readFileSync, writeFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StdioServerTransport } from "@modelcontextprotocol/sdk/server/stdio.js";
import { SubscribeRequestSchema, UnsubscribeRequestSchema } from "@modelcontextprotocol/sdk/types.js";
import { z } from "zod";

/* A stdio server of the older era, as most in the world are, with tools that show what a proxy must get right. */

const [mode, marker = ""] = process.argv.slice(2);
if (mode === "mute") await delay(86_400_000);
if (mode === "once") {
  // Works at the first start, and never again.
  try {
    readFileSync(marker);
    process.exit(3);
  } catch {
    writeFileSync(marker, "started");
  }
}

const server = new McpServer(
  { name: "older", version: "1.2.3" },
  { instructions: "Be kind.", capabilities: { logging: {}, resources: { subscribe: true } } },
);
const text = (value: unknown) => ({ content: [{ type: "text" as const, text: String(value) }] });
let cancelled = 0;
let waiting = 0;
/** Reports of progress that the client has told to have heard of: `<run> <step>`. */
const heard = new Set<string>();
let calls = 0;

server.registerTool("pid", { description: "who answers" }, () => text(process.pid));
server.registerTool("count", { description: "calls so far" }, () => text(++calls));
server.registerTool("env", { description: "the environment" }, () => text(JSON.stringify(process.env)));
server.registerTool("echo", { description: "says it again", inputSchema: { word: z.string() } }, ({ word }) =>
  text(word),
);
server.registerTool("structured", { description: "structured", outputSchema: { n: z.number() } }, () => ({
  content: [],
  structuredContent: { n: 1 },
}));
server.registerTool("wait", { description: "until it is cancelled" }, async ({ signal }) => {
  waiting++;
  await delay(86_400_000, undefined, { signal }).catch(() => {
    cancelled++;
  });
  waiting--;
  return text("cancelled");
});
server.registerTool("waiting", { description: "how many wait" }, () => text(waiting));
server.registerTool("cancelled", { description: "how many were" }, () => text(cancelled));
server.registerTool("die", { description: "ends the process" }, () => process.exit(7));
server.registerTool("slow", { description: "takes a second" }, async () => text(await delay(1000, "done")));
server.registerTool("farewell", { description: "answers and ends the process" }, () => {
  setImmediate(() => process.exit(0));
  return text("farewell");
});
const run = z.string();
server.registerTool("heard", { description: "of a step", inputSchema: { run, step: z.number() } }, ({ run, step }) => {
  heard.add(`${run} ${step}`);
  return text("noted");
});
const steps = { description: "reports progress, and goes on when that was heard", inputSchema: { run } };
server.registerTool("steps", steps, async ({ run }, extra) => {
  const progressToken = extra._meta?.progressToken;
  for (const progress of [1, 2, 3]) {
    if (progressToken === undefined) break;
    await extra.sendNotification({
      method: "notifications/progress",
      params: { progressToken, progress, total: 3, message: `step ${progress}` },
    });
    // The 1.x client drops progress that comes together with the result.
    while (!heard.has(`${run} ${progress}`)) await delay(5);
  }
  return text("done");
});
server.registerTool("ask", { description: "asks the client" }, async () => {
  const schema = { type: "object" as const, properties: {} };
  return text(
    await server.server
      .elicitInput({ message: "?", requestedSchema: schema })
      .then(({ action, content }) => `${action} ${JSON.stringify(content)}`, String),
  );
});
server.registerTool("think", { description: "has the client's model think" }, async () => {
  const messages = [{ role: "user" as const, content: { type: "text" as const, text: "6 * 7" } }];
  return text(
    await server.server
      .createMessage({ messages, maxTokens: 10 })
      .then(({ content }) => JSON.stringify(content), String),
  );
});
server.registerTool("may", { description: "what the client can be asked for" }, () =>
  text(Object.keys(server.server.getClientCapabilities() ?? {}).sort()),
);
server.registerTool("say", { description: "logs" }, async () => {
  for (const level of ["debug", "error"] as const) await server.server.sendLoggingMessage({ level, data: level });
  return text("said");
});
const subscribed = new Set<string>();
server.server.setRequestHandler(SubscribeRequestSchema, ({ params }) => {
  subscribed.add(params.uri);
  return {};
});
server.server.setRequestHandler(UnsubscribeRequestSchema, ({ params }) => {
  subscribed.delete(params.uri);
  return {};
});
server.registerTool("touch", { description: "changes the note, and tells who subscribed" }, async () => {
  for (const uri of subscribed) await server.server.sendResourceUpdated({ uri });
  return text([...subscribed]);
});
server.registerTool("noise", { description: "writes to its output what is no message" }, () => {
  process.stdout.write("ready to serve!\n{}\n");
  process.stderr.write("a line for the log\n");
  return text("quiet again");
});
server.registerResource("note", "note://one", {}, () => ({ contents: [{ uri: "note://one", text: "noted" }] }));
server.registerPrompt("greet", { argsSchema: { name: z.string() } }, ({ name }) => ({
  messages: [{ role: "user", content: { type: "text", text: `Hello ${name}` } }],
}));

await server.connect(new StdioServerTransport());
