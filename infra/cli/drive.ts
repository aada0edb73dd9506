import { randomBytes } from "node:crypto";
import { driveJobs } from "./drive-jobs.ts";
import { asRecord, call, type Driven, expect, toolCalls } from "./driven-tools.ts";
import { credentialOf } from "./local-identity.ts";
import { type McpSession, openSession, SDKS, type Sdk } from "./mcp-session.ts";
import type { Steps } from "./terminal.ts";

/** The tools that the rehearsal calls, and how often one client calls each. */
const CALLS: Readonly<Record<string, number>> = { system_info: 1, file_operation: 4, execute_command: 1 };

/** A tool that readers must not know of, and one that they may. */
const OPERATORS_TOOL = "execute_command";
const READERS_TOOL = "system_info";

/**
 * Uses the server as its users will: strangers are refused and told where to log in, then tools are called by each client
 * library, then it is seen that roles hold, then that all was counted.
 */
export async function drive(server: Driven, steps: Steps): Promise<void> {
  const { key, tokens } = server;
  const before = await toolCalls(server.metricsUrl);
  const what = [key !== undefined && "key", tokens && "token"].filter(Boolean).join(" or ");
  await steps.step(`Without a ${what}, and with a wrong one, it is refused`, () => refusesStrangers(server));
  if (tokens) await steps.step("The refusal tells where to log in", () => tellsWhereToLogIn(server));
  const opener = tokens?.admin ?? credentialOf(server).value;
  for (const sdk of SDKS) await driveBy(sdk, server, opener, steps);
  if (tokens && key !== undefined) await steps.step("It opens to its API key as well", () => opensTo(server, key));
  if (tokens) {
    await steps.step("A reader is shown no tool that runs commands, and cannot call one", () =>
      keepsReaderOut(server, tokens.reader),
    );
  }
  await steps.step("The metrics have counted the calls", () => countsCalls(server, before));
  await driveJobs(server, opener, steps);
}

async function driveBy(sdk: Sdk, { url }: Driven, credential: string, steps: Steps): Promise<void> {
  let session: McpSession | undefined;
  try {
    await steps.step(`A client of SDK ${sdk} connects`, async () => {
      session = await openSession(sdk, { url, headers: bearing(credential) });
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

const bearing = (credential: string) => ({ Authorization: `Bearer ${credential}` });

async function refusesStrangers({ url, key, tokens }: Driven): Promise<{ note: string }> {
  const strangers: [what: string, credential: string | undefined][] = [["nothing", undefined]];
  if (key !== undefined)
    strangers.push(["a wrong key", `${key.slice(0, -4)}${key.endsWith("AAAA") ? "BBBB" : "AAAA"}`]);
  if (tokens) strangers.push(["a token that Entra has not signed", tokens.forged]);
  for (const [what, credential] of strangers) {
    const { status, challenge } = await refusal(url, credential);
    expect(status === 401, `A request with ${what} was answered ${status}; it must be 401.`);
    expect(
      /^Bearer\b/i.test(challenge),
      `The refusal of ${what} does not say how to authenticate (WWW-Authenticate: Bearer).`,
    );
  }
  return { note: "401" };
}

async function refusal(url: string, credential?: string): Promise<{ status: number; challenge: string }> {
  const response = await fetch(url, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      accept: "application/json, text/event-stream",
      ...(credential !== undefined && bearing(credential)),
    },
    body: JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/list", params: {} }),
    signal: AbortSignal.timeout(10_000),
  });
  await response.body?.cancel();
  return { status: response.status, challenge: response.headers.get("www-authenticate") ?? "" };
}

/** By RFC 9728: the challenge names the metadata, at the deployed address, and the metadata names Entra and scopes. */
async function tellsWhereToLogIn({ url }: Driven): Promise<{ note: string }> {
  const { challenge } = await refusal(url);
  const [, named = ""] = /resource_metadata="([^"]+)"/.exec(challenge) ?? [];
  expect(named !== "", `WWW-Authenticate names no resource_metadata: ${challenge}`);
  const here = new URL(new URL(named).pathname, url);
  const response = await fetch(here, { signal: AbortSignal.timeout(10_000) });
  expect(response.ok, `${here} answered ${response.status}.`);
  const { authorization_servers: servers, scopes_supported: scopes } = asRecord(await response.json());
  expect(Array.isArray(servers) && servers.length > 0, `${here} names no authorization server.`);
  expect(Array.isArray(scopes) && scopes.length > 0, `${here} names no scopes.`);
  return { note: new URL(named).pathname };
}

async function opensTo({ url }: Driven, credential: string): Promise<undefined> {
  const session = await openSession("2.x", { url, headers: bearing(credential) });
  try {
    await listsTools(session);
    return undefined;
  } finally {
    await session.close();
  }
}

async function keepsReaderOut({ url }: Driven, token: string): Promise<{ note: string }> {
  const session = await openSession("2.x", { url, headers: bearing(token) });
  try {
    const names = (await session.listTools()).map(({ name }) => name);
    expect(names.includes(READERS_TOOL), `A reader is not shown ${READERS_TOOL}; shown are ${names.join(", ")}.`);
    expect(!names.includes(OPERATORS_TOOL), `A reader is shown ${OPERATORS_TOOL}.`);
    const ran = await session.callTool(OPERATORS_TOOL, { command: "echo" }).then(
      ({ isError }) => isError !== true,
      () => false,
    );
    expect(!ran, `A reader has run ${OPERATORS_TOOL}.`);
    return { note: names.join(", ") };
  } finally {
    await session.close();
  }
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
