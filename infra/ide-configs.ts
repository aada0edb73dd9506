/*
 * How each MCP client is told about a server. Pure: names and URL in, the client's own configuration out. The key is
 * always a reference (a prompt, an environment variable, a file beside the configuration), never the key.
 */

/** A server as a client sees it. */
export interface IdeTarget {
  /** What the client calls the server, and what the key's references are named after: `mcp-dev`. */
  readonly name: string;
  /** The MCP endpoint: `https://mcp-dev.example.com/mcp`. */
  readonly url: string;
  /**
   * File of headers that a bridge sends, `Authorization: Bearer <key>`, by its absolute path. Default: `~`'s
   * `.mcp-on-aks/<name>.headers`, whose `~` the bridge does not expand: write it out.
   */
  readonly headerFile?: string;
  /** Command of the bridge, for clients that need one, up to the URL. Default: {@link BRIDGE}, by npx. */
  readonly bridge?: readonly [string, ...string[]];
}

/** The clients, in the order in which they are listed. */
export const CLIENTS = [
  "vscode",
  "cursor",
  "claude-code",
  "claude-desktop",
  "codex",
  "gemini",
  "windsurf",
  "zed",
] as const;

export type Client = (typeof CLIENTS)[number];

/** Where a client keeps its configuration. Paths of user files start with `~` or, on Windows, `%APPDATA%`. */
export interface ConfigFile {
  /** Relative to a project's root. Absent: the client has no such file, or reads no servers from it. */
  readonly project?: string;
  readonly user?: Readonly<Record<Platform, string>>;
}

export type Platform = "darwin" | "linux" | "win32";

export type JsonObject = { readonly [key: string]: JsonValue };
export type JsonValue = string | number | boolean | null | readonly JsonValue[] | JsonObject;

export interface IdeConfig {
  readonly client: Client;
  /** The client's own name: "VS Code". */
  readonly title: string;
  /** The target's name, so that whoever holds the configuration knows its entry. */
  readonly name: string;
  readonly file: ConfigFile;
  readonly format: "json" | "jsonc" | "toml";
  /** What the file holds for this server, to be merged with what is there. */
  readonly content: JsonObject;
  /** Environment variable that the configuration refers to; absent when the client asks, or reads a file. */
  readonly keyVariable?: string;
  /** File that the configuration refers to, in the form `Authorization: Bearer <key>`. */
  readonly headerFile?: string;
  /** A link that adds the server in one click. */
  readonly link?: string;
  /** What is left to do, in the order of doing it. */
  readonly howto: readonly string[];
}

/**
 * The bridge for clients that cannot take a header's value from anywhere but their own file: 0.15.1 is the newest on
 * npm and the first line whose `--header-file` keeps keys out of both configuration and process list.
 * People who are only handed a configuration have no checkout, so it is not this project's own, `mcp-aks bridge`, which
 * `connect --bridge local` writes for those who have one.
 */
export const BRIDGE = "mcp-remote@0.15.1";

/** A stack's name among an IDE's servers, and what its key's references derive from: two stacks, two keys. */
export function targetName({ name, stack }: { readonly name: string; readonly stack: string }): string {
  return `${name}-${stack}`;
}

/** `mcp-dev` -> `MCP_DEV_API_KEY`. */
export function keyVariable(name: string): string {
  return `${name.toUpperCase().replace(/[^A-Z0-9]+/g, "_")}_API_KEY`;
}

/** Where a bridge looks for the key of a server, unless told otherwise. */
export function defaultHeaderFile(name: string, home = "~"): string {
  return `${home.replace(/[\\/]+$/, "")}/.mcp-on-aks/${name}.headers`;
}

const everywhere = (path: string): Readonly<Record<Platform, string>> => ({ darwin: path, linux: path, win32: path });

interface ClientFacts {
  readonly title: string;
  readonly file: ConfigFile;
  readonly format: IdeConfig["format"];
  /** How the key is referred to. */
  readonly key: "prompt" | "variable" | "header-file";
  content(target: Required<IdeTarget>): JsonObject;
  link?(target: Required<IdeTarget>): string;
  readonly lastStep: string;
}

const bearer = (reference: string): JsonObject => ({ Authorization: `Bearer ${reference}` });
const promptId = (name: string): string => `${name}-api-key`;
const prompt = (name: string): JsonObject => ({
  type: "promptString",
  id: promptId(name),
  description: `API key of ${name}`,
  password: true,
});
const bridgeEntry = ({ url, headerFile, bridge: [command, ...args] }: Required<IdeTarget>): JsonObject => ({
  command,
  args: [...args, url, "--header-file", headerFile],
});

const FACTS: Readonly<Record<Client, ClientFacts>> = {
  // code.visualstudio.com/docs/copilot/reference/mcp-configuration: inputs are asked for once and kept encrypted.
  vscode: {
    title: "VS Code",
    file: {
      project: ".vscode/mcp.json",
      user: {
        darwin: "~/Library/Application Support/Code/User/mcp.json",
        linux: "~/.config/Code/User/mcp.json",
        win32: "%APPDATA%/Code/User/mcp.json",
      },
    },
    format: "jsonc",
    key: "prompt",
    content: ({ name, url }) => ({
      servers: { [name]: { type: "http", url, headers: bearer(`\${input:${promptId(name)}}`) } },
      inputs: [prompt(name)],
    }),
    link: ({ name, url }) => {
      const install = {
        name,
        type: "http",
        url,
        headers: bearer(`\${input:${promptId(name)}}`),
        inputs: [prompt(name)],
      };
      return `vscode:mcp/install?${encodeURIComponent(JSON.stringify(install))}`;
    },
    lastStep: "Start the server from the Command Palette (MCP: List Servers); VS Code asks for the key once.",
  },
  // cursor.com/docs/mcp: ${env:NAME} is resolved in url and headers.
  cursor: {
    title: "Cursor",
    file: { project: ".cursor/mcp.json", user: everywhere("~/.cursor/mcp.json") },
    format: "json",
    key: "variable",
    content: ({ name, url }) => ({
      mcpServers: { [name]: { url, headers: bearer(`\${env:${keyVariable(name)}}`) } },
    }),
    link: ({ name, url }) => {
      const config = Buffer.from(JSON.stringify({ url, headers: bearer(`\${env:${keyVariable(name)}}`) }));
      const query = new URLSearchParams({ name, config: config.toString("base64") });
      return `cursor://anysphere.cursor-deeplink/mcp/install?${query}`;
    },
    lastStep: "Start Cursor from a shell that has the variable, and switch the server on in Settings > MCP.",
  },
  // code.claude.com/docs/en/mcp: ${VAR} is expanded in a project's .mcp.json; ~/.claude.json is Claude Code's own.
  "claude-code": {
    title: "Claude Code",
    file: { project: ".mcp.json" },
    format: "json",
    key: "variable",
    content: ({ name, url }) => ({
      mcpServers: { [name]: { type: "http", url, headers: bearer(`\${${keyVariable(name)}}`) } },
    }),
    lastStep: "Start claude in the project from a shell that has the variable, and approve the server when asked.",
  },
  // Its file is for local commands, gets few of the user's variables and expands none: hence bridge and header file.
  "claude-desktop": {
    title: "Claude Desktop",
    file: {
      user: {
        darwin: "~/Library/Application Support/Claude/claude_desktop_config.json",
        linux: "~/.config/Claude/claude_desktop_config.json",
        win32: "%APPDATA%/Claude/claude_desktop_config.json",
      },
    },
    format: "json",
    key: "header-file",
    content: (target) => ({ mcpServers: { [target.name]: bridgeEntry(target) } }),
    lastStep: "Quit Claude Desktop altogether and start it again.",
  },
  // developers.openai.com/codex/mcp: the bearer token comes from the variable named, an inline one is refused.
  codex: {
    title: "Codex",
    file: { project: ".codex/config.toml", user: everywhere("~/.codex/config.toml") },
    format: "toml",
    key: "variable",
    content: ({ name, url }) => ({
      mcp_servers: { [name]: { url, bearer_token_env_var: keyVariable(name) } },
    }),
    lastStep:
      "Start codex from a shell that has the variable; /mcp lists the server. A project's own file counts once the project is trusted.",
  },
  // geminicli.com/docs/tools/mcp-server: $VAR and ${VAR} are resolved in every string of settings.json.
  gemini: {
    title: "Gemini CLI",
    file: { project: ".gemini/settings.json", user: everywhere("~/.gemini/settings.json") },
    format: "jsonc",
    key: "variable",
    content: ({ name, url }) => ({
      mcpServers: { [name]: { httpUrl: url, headers: bearer(`\${${keyVariable(name)}}`) } },
    }),
    lastStep: "Start gemini from a shell that has the variable; /mcp lists the server.",
  },
  // docs.windsurf.com/windsurf/cascade/mcp: ${env:NAME} is resolved in serverUrl and headers.
  windsurf: {
    title: "Windsurf",
    file: { user: everywhere("~/.codeium/windsurf/mcp_config.json") },
    format: "json",
    key: "variable",
    content: ({ name, url }) => ({
      mcpServers: { [name]: { serverUrl: url, headers: bearer(`\${env:${keyVariable(name)}}`) } },
    }),
    lastStep: "Start Windsurf from a shell that has the variable, and refresh the servers in the Cascade panel.",
  },
  // Zed sends a remote server's headers as they are written (zed-industries/zed#60459): hence bridge and header file.
  zed: {
    title: "Zed",
    file: {
      user: {
        darwin: "~/.config/zed/settings.json",
        linux: "~/.config/zed/settings.json",
        win32: "%APPDATA%/Zed/settings.json",
      },
    },
    format: "jsonc",
    key: "header-file",
    content: (target) => ({ context_servers: { [target.name]: { source: "custom", ...bridgeEntry(target) } } }),
    lastStep: "Zed starts the server as soon as the file is saved; the Agent Panel's settings show it.",
  },
};

/** Whether `value` names a client. */
export function isClient(value: string): value is Client {
  return Object.hasOwn(FACTS, value);
}

/** The name by which people know a client. */
export function clientTitle(client: Client): string {
  return FACTS[client].title;
}

/** One client's configuration for one server. */
export function ideConfig(client: Client, target: IdeTarget): IdeConfig {
  const facts = FACTS[client];
  const complete: Required<IdeTarget> = {
    ...target,
    headerFile: target.headerFile ?? defaultHeaderFile(target.name),
    bridge: target.bridge ?? ["npx", "-y", BRIDGE],
  };
  const place = facts.file.project ?? "your user settings file";
  const keySteps: Record<ClientFacts["key"], readonly string[]> = {
    prompt: [],
    variable: [`Put the key into the environment variable ${keyVariable(target.name)}.`],
    "header-file": [
      `Put the line "Authorization: Bearer <key>" into ${complete.headerFile}, readable by you alone` +
        `${complete.headerFile.startsWith("~") ? ", and write that path out in full here and there" : ""}.`,
    ],
  };
  return {
    client,
    title: facts.title,
    name: target.name,
    file: facts.file,
    format: facts.format,
    content: facts.content(complete),
    ...(facts.key === "variable" && { keyVariable: keyVariable(target.name) }),
    ...(facts.key === "header-file" && { headerFile: complete.headerFile }),
    ...(facts.link && { link: facts.link(complete) }),
    howto: [`Merge this into ${place}.`, ...keySteps[facts.key], facts.lastStep],
  };
}

/** Every client's configuration for one server. */
export function ideConfigs(target: IdeTarget): Readonly<Record<Client, IdeConfig>> {
  return Object.fromEntries(CLIENTS.map((client) => [client, ideConfig(client, target)])) as Record<Client, IdeConfig>;
}
