import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ParseError, parse as parseJsonc } from "jsonc-parser";
import { parse as parseToml } from "smol-toml";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { z } from "zod";
import { printConfig } from "../../infra/cli/config-file.ts";
import { type Endpoint, openSession, SDKS } from "../../infra/cli/mcp-session.ts";
import { LoginFacts } from "../../infra/cli/rehearsal-state.ts";
import { BRIDGE, CLIENTS, type Client, ideConfig } from "../../infra/ide-configs.ts";
import { planOf, type StartedServer, startPlanned } from "./planned-stacks.ts";

/** What a client has beside its file: the variables of the shell it was started from, and answers to its prompts. */
interface Surroundings {
  readonly variables: Readonly<Record<string, string>>;
  readonly answers: Readonly<Record<string, string>>;
}

const Outputs = z.object({
  endpoint: z.url(),
  entra: LoginFacts,
  ideConfigs: z.record(
    z.enum(CLIENTS),
    z.object({ format: z.enum(["json", "jsonc", "toml"]), content: z.record(z.string(), z.json()) }),
  ),
});

let directory: string;
let server: StartedServer;
let key: string;
let outputs: z.output<typeof Outputs>;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "mcp-ide-test-"));
  const plan = await planOf("dev");
  outputs = Outputs.parse(plan.outputs);
  server = await startPlanned(plan);
  key = server.identity.key ?? "";
});
afterAll(async () => {
  await server?.stop();
  await rm(directory, { recursive: true, force: true });
});

describe.each(CLIENTS)("the configuration of %s", (client) => {
  test("from the stack's outputs holds what a login needs, and nothing that it does not know", () => {
    const { url, clientId, scopes } = loginAs[client](printConfig(outputs.ideConfigs[client]), "mcp-dev");
    expect(url).toBe(outputs.endpoint);
    // A client that finds out the id from the server is told none.
    if (clientId !== undefined) expect(clientId).toBe(outputs.entra.ideClientId);
    if (scopes !== undefined) expect(scopes).toEqual([...outputs.entra.scopes, "offline_access"]);
  });

  test.each(SDKS)("by key, as connect makes it, a client of SDK %s lists and calls the tools with it", async (sdk) => {
    const headerFile = join(directory, `${client}-${sdk}.headers`);
    await writeFile(headerFile, `Authorization: Bearer ${key}\n`);
    const target = { name: "mcp-dev", url: outputs.endpoint, login: outputs.entra, headerFile };
    const { url, headers } = await readAs[client](
      printConfig(ideConfig(client, { ...target, byKey: true })),
      "mcp-dev",
      {
        variables: { MCP_DEV_API_KEY: key },
        answers: { "mcp-dev-api-key": key },
      },
    );
    expect(url).toBe(outputs.endpoint);

    // The same server, which answers here to another name.
    const session = await openSession(sdk, { url: server.url, headers });
    try {
      const names = (await session.listTools()).map(({ name }) => name);
      expect(names).toEqual(expect.arrayContaining(["execute_command", "file_operation", "system_info"]));
      const { structuredContent } = await session.callTool("execute_command", { command: "echo hello" });
      expect(structuredContent).toMatchObject({ exitCode: 0, stdout: "hello\n" });
    } finally {
      await session.close();
    }
  });

  test("is what connect makes for this server, and without the key it opens nothing", async () => {
    const text = printConfig(
      ideConfig(client, { name: "mcp-dev", url: server.url, headerFile: join(directory, "wrong.headers") }),
    );
    await writeFile(join(directory, "wrong.headers"), "Authorization: Bearer wrong\n");
    const endpoint = await readAs[client](text, "mcp-dev", {
      variables: { MCP_DEV_API_KEY: "wrong" },
      answers: { "mcp-dev-api-key": "wrong" },
    });
    expect(endpoint.url).toBe(server.url);
    await expect(openSession("1.x", endpoint)).rejects.toThrow(/401|Unauthorized|Authentication/i);
  });
});

interface LoginConfig {
  readonly url: string;
  readonly clientId?: string;
  readonly scopes?: readonly string[];
}

/** How each client reads a server that its user logs in to, by its documentation. */
const loginAs: Readonly<Record<Client, (text: string, name: string) => LoginConfig>> = {
  vscode: (text, name) => {
    const Remote = z.strictObject({ type: z.literal("http"), url: z.url() });
    return entryOf(z.strictObject({ servers: z.record(z.string(), Remote) }).parse(jsonc(text)).servers, name);
  },
  cursor: (text, name) => {
    const auth = z.strictObject({ CLIENT_ID: z.guid(), scopes: z.array(z.string()) });
    const Remote = z.strictObject({ url: z.url(), auth });
    const file = z.strictObject({ mcpServers: z.record(z.string(), Remote) }).parse(JSON.parse(text));
    const entry = entryOf(file.mcpServers, name);
    return { url: entry.url, clientId: entry.auth.CLIENT_ID, scopes: entry.auth.scopes };
  },
  "claude-code": (text, name) => {
    const oauth = z.strictObject({ clientId: z.guid() });
    const Remote = z.strictObject({ type: z.literal("http"), url: z.url(), oauth });
    const file = z.strictObject({ mcpServers: z.record(z.string(), Remote) }).parse(JSON.parse(text));
    const entry = entryOf(file.mcpServers, name);
    return { url: entry.url, clientId: entry.oauth.clientId };
  },
  "claude-desktop": (text, name) => {
    const file = z.strictObject({ mcpServers: z.record(z.string(), Bridge) }).parse(JSON.parse(text));
    return { url: urlOfBridge(entryOf(file.mcpServers, name)) };
  },
  codex: (text, name) => {
    const oauth = z.strictObject({ client_id: z.guid(), callback_url: z.literal("http://127.0.0.1/callback") });
    const Remote = z.strictObject({ url: z.url(), oauth });
    const file = z.strictObject({ mcp_servers: z.record(z.string(), Remote) }).parse(parseToml(text));
    const entry = entryOf(file.mcp_servers, name);
    return { url: entry.url, clientId: entry.oauth.client_id };
  },
  gemini: (text, name) => {
    const oauth = z.strictObject({ enabled: z.literal(true), clientId: z.guid(), scopes: z.array(z.string()) });
    const Remote = z.strictObject({ httpUrl: z.url(), oauth });
    const file = z.strictObject({ mcpServers: z.record(z.string(), Remote) }).parse(jsonc(text));
    const entry = entryOf(file.mcpServers, name);
    return { url: entry.httpUrl, clientId: entry.oauth.clientId, scopes: entry.oauth.scopes };
  },
  windsurf: (text, name) => {
    const file = z.strictObject({ mcpServers: z.record(z.string(), Bridge) }).parse(JSON.parse(text));
    return { url: urlOfBridge(entryOf(file.mcpServers, name)) };
  },
  zed: (text, name) => {
    const Custom = Bridge.extend({ source: z.literal("custom") });
    const file = z.strictObject({ context_servers: z.record(z.string(), Custom) }).parse(jsonc(text));
    return { url: urlOfBridge(entryOf(file.context_servers, name)) };
  },
};

/** mcp-remote that logs in: the address and no more. */
function urlOfBridge({ args }: z.output<typeof Bridge>): string {
  const [yes, bridge, url = "", ...rest] = args;
  expect([yes, bridge, ...rest]).toEqual(["-y", BRIDGE]);
  return url;
}

/** How each client reads its file for a key, by its documentation: which keys, and which references it resolves. */
const readAs: Readonly<Record<Client, (text: string, name: string, around: Surroundings) => Promise<Endpoint>>> = {
  vscode: async (text, name, { answers }) => {
    const Remote = z.strictObject({ type: z.literal("http"), url: z.url(), headers: z.record(z.string(), z.string()) });
    const Input = z.strictObject({
      type: z.literal("promptString"),
      id: z.string(),
      description: z.string(),
      password: z.literal(true),
    });
    const file = z.object({ servers: z.record(z.string(), Remote), inputs: z.array(Input) }).parse(jsonc(text));
    const asked = new Set(file.inputs.map(({ id }) => id));
    return resolved(entryOf(file.servers, name), /\$\{input:([^}]+)\}/g, (id) =>
      asked.has(id) ? answers[id] : undefined,
    );
  },
  cursor: async (text, name, { variables }) => {
    const Remote = z.strictObject({ url: z.url(), headers: z.record(z.string(), z.string()) });
    const file = z.object({ mcpServers: z.record(z.string(), z.union([Remote, Bridge])) }).parse(JSON.parse(text));
    const entry = entryOf(file.mcpServers, name);
    return "command" in entry ? throughBridge(entry) : resolved(entry, /\$\{env:([^}]+)\}/g, (id) => variables[id]);
  },
  "claude-code": async (text, name, { variables }) => {
    const Remote = z.strictObject({ type: z.literal("http"), url: z.url(), headers: z.record(z.string(), z.string()) });
    const file = z.object({ mcpServers: z.record(z.string(), Remote) }).parse(JSON.parse(text));
    return resolved(entryOf(file.mcpServers, name), /\$\{([A-Z_][A-Z0-9_]*)\}/g, (id) => variables[id]);
  },
  "claude-desktop": async (text, name) => {
    const file = z.object({ mcpServers: z.record(z.string(), Bridge) }).parse(JSON.parse(text));
    return throughBridge(entryOf(file.mcpServers, name));
  },
  codex: async (text, name, { variables }) => {
    const Remote = z.strictObject({ url: z.url(), bearer_token_env_var: z.string() });
    const file = z.object({ mcp_servers: z.record(z.string(), Remote) }).parse(parseToml(text));
    const { url, bearer_token_env_var: variable } = entryOf(file.mcp_servers, name);
    return { url, headers: { Authorization: `Bearer ${variables[variable]}` } };
  },
  gemini: async (text, name, { variables }) => {
    const Remote = z.strictObject({ httpUrl: z.url(), headers: z.record(z.string(), z.string()) });
    const file = z.object({ mcpServers: z.record(z.string(), Remote) }).parse(jsonc(text));
    const { httpUrl, headers } = entryOf(file.mcpServers, name);
    return resolved({ url: httpUrl, headers }, /\$(?:(\w+)|\{([^}]+)\})/g, (id) => variables[id]);
  },
  windsurf: async (text, name, { variables }) => {
    const Remote = z.strictObject({ serverUrl: z.url(), headers: z.record(z.string(), z.string()) });
    const file = z.object({ mcpServers: z.record(z.string(), Remote) }).parse(JSON.parse(text));
    const { serverUrl, headers } = entryOf(file.mcpServers, name);
    return resolved({ url: serverUrl, headers }, /\$\{env:([^}]+)\}/g, (id) => variables[id]);
  },
  zed: async (text, name) => {
    const Custom = Bridge.extend({ source: z.literal("custom") });
    const file = z.object({ context_servers: z.record(z.string(), Custom) }).parse(jsonc(text));
    return throughBridge(entryOf(file.context_servers, name));
  },
};

const Bridge = z.strictObject({ command: z.literal("npx"), args: z.array(z.string()) });

/** What mcp-remote makes of its arguments; spaces in them would be split by some clients on Windows. */
async function throughBridge({ args }: z.output<typeof Bridge>): Promise<Endpoint> {
  const [yes, bridge, url = "", flag, file = ""] = args;
  expect([yes, bridge, flag]).toEqual(["-y", BRIDGE, "--header-file"]);
  expect(args).toHaveLength(5);
  expect(args.join("")).not.toMatch(/\s/);
  const lines = (await readFile(file, "utf8")).split("\n").filter((line) => line.trim() !== "");
  const headers = lines.map((line) => [
    line.slice(0, line.indexOf(":")).trim(),
    line.slice(line.indexOf(":") + 1).trim(),
  ]);
  return { url, headers: Object.fromEntries(headers) };
}

function resolved({ url, headers }: Endpoint, reference: RegExp, lookUp: (id: string) => string | undefined): Endpoint {
  const resolve = (text: string) =>
    text.replace(reference, (whole, ...groups: unknown[]) => {
      // Behind the groups come the match's offset and the whole text.
      const id = groups.slice(0, -2).find((group) => typeof group === "string");
      const value = lookUp(String(id));
      if (value === undefined) throw new Error(`${whole} refers to nothing`);
      return value;
    });
  return { url, headers: Object.fromEntries(Object.entries(headers).map(([key, value]) => [key, resolve(value)])) };
}

function entryOf<T>(servers: Readonly<Record<string, T>>, name: string): T {
  const entry = servers[name];
  if (entry === undefined) throw new Error(`there is no server ${name}`);
  return entry;
}

function jsonc(text: string): unknown {
  const errors: ParseError[] = [];
  const value: unknown = parseJsonc(text, errors);
  expect(errors).toEqual([]);
  return value;
}
