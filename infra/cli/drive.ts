import { randomBytes } from "node:crypto";
import { CliError } from "./cli-error.ts";
import { type McpSession, openSession, SDKS, type Sdk } from "./mcp-session.ts";
import type { Steps } from "./terminal.ts";

/** A server to be driven, and what opens it. */
export interface Driven {
  readonly url: string;
  readonly metricsUrl: string;
  readonly key: string;
}

/** The tools that the rehearsal calls, and how often one client calls each. */
const CALLS: Readonly<Record<string, number>> = { system_info: 1, file_operation: 4, execute_command: 1 };

/** Uses the server as its users will: refused without the key, then every tool by each client library, then counted. */
export async function drive(server: Driven, steps: Steps): Promise<void> {
  const before = await toolCalls(server.metricsUrl);
  await steps.step("Without the key, and with a wrong one, it is refused", () => refusesStrangers(server));
  for (const sdk of SDKS) await driveBy(sdk, server, steps);
  await steps.step("The metrics have counted the calls", () => countsCalls(server, before));
}

async function driveBy(sdk: Sdk, { url, key }: Driven, steps: Steps): Promise<void> {
  let session: McpSession | undefined;
  try {
    await steps.step(`A client of SDK ${sdk} connects`, async () => {
      session = await openSession(sdk, { url, headers: { Authorization: `Bearer ${key}` } });
      return { note: `protocol ${session.version}` };
    });
    const opened = session;
    if (!opened) return;
    await steps.step("  lists the tools with their schemas", () => listsTools(opened));
    await steps.step("  calls system_info", () => asksForSystemInfo(opened));
    await steps.step("  writes, reads, lists and deletes a file", () => worksWithFile(opened));
    await steps.step("  runs a command", () => runsCommand(opened));
  } finally {
    await session?.close();
  }
}

async function refusesStrangers({ url, key }: Driven): Promise<{ note: string }> {
  const wrong = `${key.slice(0, -4)}${key.endsWith("AAAA") ? "BBBB" : "AAAA"}`;
  for (const authorization of [undefined, `Bearer ${wrong}`]) {
    const response = await fetch(url, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        accept: "application/json, text/event-stream",
        ...(authorization && { authorization }),
      },
      body: JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/list", params: {} }),
      signal: AbortSignal.timeout(10_000),
    });
    await response.body?.cancel();
    const what = authorization ? "a wrong key" : "no key";
    expect(response.status === 401, `A request with ${what} was answered ${response.status}; it must be 401.`);
    expect(
      /^Bearer\b/i.test(response.headers.get("www-authenticate") ?? ""),
      `The refusal of ${what} does not say how to authenticate (WWW-Authenticate: Bearer).`,
    );
  }
  return { note: "401" };
}

async function listsTools(session: McpSession): Promise<{ note: string }> {
  const tools = await session.listTools();
  const names = tools.map(({ name }) => name);
  for (const name of Object.keys(CALLS))
    expect(names.includes(name), `Tool ${name} is not listed; listed are ${names.join(", ")}.`);
  for (const tool of tools) {
    expect(tool.input === "object", `Tool ${tool.name} is listed without a schema of its input.`);
    expect(tool.output === "object", `Tool ${tool.name} is listed without a schema of its output.`);
  }
  return { note: names.join(", ") };
}

async function asksForSystemInfo(session: McpSession): Promise<{ note: string }> {
  const { server } = await call(session, "system_info", {});
  const { name, version } = asRecord(server);
  expect(typeof name === "string" && name !== "", "system_info does not tell the server's name.");
  return { note: `${name} ${version}` };
}

async function worksWithFile(session: McpSession): Promise<undefined> {
  const path = `rehearsal-${randomBytes(4).toString("hex")}.txt`;
  const content = "written by the rehearsal: ä€😀\n";
  await call(session, "file_operation", { operation: "write", path, content });
  const read = await call(session, "file_operation", { operation: "read", path });
  expect(read.content === content, `${path} was read back as ${JSON.stringify(read.content)}.`);
  const { entries } = await call(session, "file_operation", { operation: "list", path: "." });
  const listed = Array.isArray(entries) && entries.some((entry) => asRecord(entry).path === path);
  expect(listed, `${path} was written and is not listed.`);
  await call(session, "file_operation", { operation: "delete", path });
  return undefined;
}

async function runsCommand(session: McpSession): Promise<undefined> {
  const { exitCode, stdout } = await call(session, "execute_command", { command: "echo rehearsed" });
  expect(
    exitCode === 0 && stdout === "rehearsed\n",
    `echo ended with ${exitCode} and wrote ${JSON.stringify(stdout)}.`,
  );
  return undefined;
}

async function countsCalls({ metricsUrl }: Driven, before: ReadonlyMap<string, number>): Promise<{ note: string }> {
  const after = await toolCalls(metricsUrl);
  const notes = Object.entries(CALLS).map(([tool, times]) => {
    const counted = (after.get(tool) ?? 0) - (before.get(tool) ?? 0);
    const made = times * SDKS.length;
    expect(counted === made, `mcp_tool_calls_total says ${counted} successful calls of ${tool}; ${made} were made.`);
    return `${tool} ${counted}`;
  });
  return { note: notes.join(", ") };
}

/** Successful calls of each tool, by `mcp_tool_calls_total` in the text format of Prometheus. */
async function toolCalls(metricsUrl: string): Promise<Map<string, number>> {
  const response = await fetch(metricsUrl, { signal: AbortSignal.timeout(10_000) });
  expect(response.ok, `${metricsUrl} answered ${response.status}.`);
  const text = await response.text();
  return new Map(
    [...text.matchAll(/^mcp_tool_calls_total\{([^}]*)\} (\S+)$/gm)].flatMap(([, labels = "", value]) => {
      const tool = /tool="([^"]*)"/.exec(labels)?.[1];
      return tool !== undefined && labels.includes('status="ok"') ? [[tool, Number(value)] as const] : [];
    }),
  );
}

/** Calls a tool; its structured result, or a failure with what the tool said. */
async function call(
  session: McpSession,
  name: string,
  args: Record<string, unknown>,
): Promise<Record<string, unknown>> {
  const { isError, structuredContent, content } = await session.callTool(name, args);
  expect(isError !== true, `${name} ${JSON.stringify(args)} failed: ${JSON.stringify(content)}`);
  expect(structuredContent !== undefined, `${name} answered without structured content.`);
  return asRecord(structuredContent);
}

function asRecord(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null ? { ...value } : {};
}

function expect(condition: boolean, otherwise: string): asserts condition {
  if (!condition) throw new CliError(otherwise);
}
