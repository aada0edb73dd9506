/*
 * How each MCP client is told about a server. Pure: names and URL in, the client's own configuration out. Where people
 * log in, it holds ids, none of them secret; where a key opens the server, a reference to it (a prompt, an environment
 * variable, a file beside the configuration), never the key.
 */

/** How people log in at Entra. Nothing in it is secret. */
export interface Login {
  readonly tenantId: string;
  /** The application that tokens are made out to. */
  readonly clientId: string;
  /** The public client that IDEs are. */
  readonly ideClientId: string;
  /** In full, `api://<client id>/Mcp.Read`. */
  readonly scopes: readonly string[];
}

/** A server as a client sees it. */
export interface IdeTarget {
  /** What the client calls the server, and what the key's references are named after: `mcp-dev`. */
  readonly name: string;
  /** The MCP endpoint: `https://mcp-dev.example.com/mcp`. */
  readonly url: string;
  /** How people log in; absent: by key alone. */
  readonly login?: Login;
  /** By key although people can log in. */
  readonly byKey?: true;
  /**
   * File of headers that a bridge sends, `Authorization: Bearer <key>`, by its absolute path. Default: `~`'s
   * `.mcp-on-aks/<name>.headers`, whose `~` the bridge does not expand: write it out.
   */
  readonly headerFile?: string;
  /** Command of the bridge, for clients that need one, up to the URL. Default: {@link BRIDGE}, by npx. */
  readonly bridge?: readonly [string, ...string[]];
  /** What that bridge is told, after the URL, to have its user log in. Default: nothing, for {@link BRIDGE} does by itself. */
  readonly bridgeLogin?: readonly string[];
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
  /** How its user is known to the server. */
  readonly signIn: "login" | "key";
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

/** What the client's facts work from. */
type Target = Required<Pick<IdeTarget, "name" | "url" | "headerFile" | "bridge" | "bridgeLogin">>;

interface ClientFacts {
  readonly title: string;
  readonly file: ConfigFile;
  readonly format: IdeConfig["format"];
  readonly byKey: ByKey;
  readonly byLogin: ByLogin;
}

interface ByKey {
  /** How the key is referred to. */
  readonly key: "prompt" | "variable" | "header-file";
  content(target: Target): JsonObject;
  link?(target: Target): string;
  readonly lastStep: string;
  /** Instead, where the server offers a login as well. */
  readonly besideLogin?: ByKey;
}

interface ByLogin {
  content(target: Target, login: Login): JsonObject;
  link?(target: Target, login: Login): string;
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
const bridgeByKey = ({ url, headerFile, bridge: [command, ...args] }: Target): JsonObject => ({
  command,
  args: [...args, url, "--header-file", headerFile],
});
/** A bridge finds out where to log in from the server, which hands it the client id. */
const bridgeByLogin = ({ url, bridge: [command, ...args], bridgeLogin }: Target): JsonObject => ({
  command,
  args: [...args, url, ...bridgeLogin],
});
/** For clients that ask for exactly what they are told: everything, for roles decide, and a way to stay logged in. */
const wanted = ({ scopes }: Login): string[] => [...scopes, "offline_access"];

const vscodeLink = (server: JsonObject) => `vscode:mcp/install?${encodeURIComponent(JSON.stringify(server))}`;
const cursorLink = (name: string, server: JsonObject) => {
  const config = Buffer.from(JSON.stringify(server)).toString("base64");
  return `cursor://anysphere.cursor-deeplink/mcp/install?${new URLSearchParams({ name, config })}`;
};
const cursorByKey = ({ name, url }: Target): JsonObject => ({
  url,
  headers: bearer(`\${env:${keyVariable(name)}}`),
});
const cursorByLogin = ({ url }: Target, login: Login): JsonObject => ({
  url,
  auth: { CLIENT_ID: login.ideClientId, scopes: wanted(login) },
});

const FACTS: Readonly<Record<Client, ClientFacts>> = {
  // code.visualstudio.com/docs/copilot/reference/mcp-configuration: inputs are asked for once and kept encrypted; where
  // to log in it finds out from the server.
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
    byKey: {
      key: "prompt",
      content: ({ name, url }) => ({
        servers: { [name]: { type: "http", url, headers: bearer(`\${input:${promptId(name)}}`) } },
        inputs: [prompt(name)],
      }),
      link: ({ name, url }) =>
        vscodeLink({
          name,
          type: "http",
          url,
          headers: bearer(`\${input:${promptId(name)}}`),
          inputs: [prompt(name)],
        }),
      lastStep: "Start the server from the Command Palette (MCP: List Servers); VS Code asks for the key once.",
    },
    byLogin: {
      content: ({ name, url }) => ({ servers: { [name]: { type: "http", url } } }),
      link: ({ name, url }) => vscodeLink({ name, type: "http", url }),
      lastStep:
        "Start the server from the Command Palette (MCP: List Servers) and log in with your work account when VS Code asks.",
    },
  },
  // cursor.com/docs/mcp: ${env:NAME} is resolved in url and headers; auth is for a client that is registered already.
  cursor: {
    title: "Cursor",
    file: { project: ".cursor/mcp.json", user: everywhere("~/.cursor/mcp.json") },
    format: "json",
    byKey: {
      key: "variable",
      content: (target) => ({ mcpServers: { [target.name]: cursorByKey(target) } }),
      link: (target) => cursorLink(target.name, cursorByKey(target)),
      lastStep: "Start Cursor from a shell that has the variable, and switch the server on in Settings > MCP.",
      // Cursor ignores headers where a server offers a login.
      besideLogin: {
        key: "header-file",
        content: (target) => ({ mcpServers: { [target.name]: bridgeByKey(target) } }),
        lastStep: "Switch the server on in Settings > MCP.",
      },
    },
    byLogin: {
      content: (target, login) => ({ mcpServers: { [target.name]: cursorByLogin(target, login) } }),
      link: (target, login) => cursorLink(target.name, cursorByLogin(target, login)),
      lastStep: "Switch the server on in Settings > MCP, and log in from there.",
    },
  },
  // code.claude.com/docs/en/mcp: ${VAR} is expanded in a project's .mcp.json; ~/.claude.json is Claude Code's own.
  "claude-code": {
    title: "Claude Code",
    file: { project: ".mcp.json" },
    format: "json",
    byKey: {
      key: "variable",
      content: ({ name, url }) => ({
        mcpServers: { [name]: { type: "http", url, headers: bearer(`\${${keyVariable(name)}}`) } },
      }),
      lastStep: "Start claude in the project from a shell that has the variable, and approve the server when asked.",
    },
    byLogin: {
      content: ({ name, url }, { ideClientId }) => ({
        mcpServers: { [name]: { type: "http", url, oauth: { clientId: ideClientId } } },
      }),
      lastStep: "Start claude in the project, approve the server when asked, and log in by /mcp.",
    },
  },
  // Its file is for local commands, gets few of the user's variables and expands none: hence the bridge.
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
    byKey: {
      key: "header-file",
      content: (target) => ({ mcpServers: { [target.name]: bridgeByKey(target) } }),
      lastStep: "Quit Claude Desktop altogether and start it again.",
    },
    byLogin: {
      content: (target) => ({ mcpServers: { [target.name]: bridgeByLogin(target) } }),
      lastStep: "Quit Claude Desktop altogether, start it again, and log in in the browser that opens.",
    },
  },
  // developers.openai.com/codex/mcp: the bearer token comes from the variable named, an inline one is refused; oauth is
  // for a client that is registered already.
  codex: {
    title: "Codex",
    file: { project: ".codex/config.toml", user: everywhere("~/.codex/config.toml") },
    format: "toml",
    byKey: {
      key: "variable",
      content: ({ name, url }) => ({
        mcp_servers: { [name]: { url, bearer_token_env_var: keyVariable(name) } },
      }),
      lastStep:
        "Start codex from a shell that has the variable; /mcp lists the server. A project's own file counts once the project is trusted.",
    },
    byLogin: {
      content: ({ name, url }, { ideClientId }) => ({
        mcp_servers: { [name]: { url, oauth: { client_id: ideClientId, callback_url: "http://127.0.0.1/callback" } } },
      }),
      lastStep:
        "Log in by codex mcp login and the server's name; /mcp lists it. A project's own file counts once the project is trusted.",
    },
  },
  // geminicli.com/docs/tools/mcp-server: $VAR and ${VAR} are resolved in every string of settings.json.
  gemini: {
    title: "Gemini CLI",
    file: { project: ".gemini/settings.json", user: everywhere("~/.gemini/settings.json") },
    format: "jsonc",
    byKey: {
      key: "variable",
      content: ({ name, url }) => ({
        mcpServers: { [name]: { httpUrl: url, headers: bearer(`\${${keyVariable(name)}}`) } },
      }),
      lastStep: "Start gemini from a shell that has the variable; /mcp lists the server.",
    },
    byLogin: {
      content: ({ name, url }, login) => ({
        mcpServers: {
          [name]: { httpUrl: url, oauth: { enabled: true, clientId: login.ideClientId, scopes: wanted(login) } },
        },
      }),
      lastStep: "Start gemini and log in by /mcp auth and the server's name.",
    },
  },
  // docs.windsurf.com/windsurf/cascade/mcp: ${env:NAME} is resolved in serverUrl and headers; there is no place for the
  // id of a registered client, hence the bridge for a login.
  windsurf: {
    title: "Windsurf",
    file: { user: everywhere("~/.codeium/windsurf/mcp_config.json") },
    format: "json",
    byKey: {
      key: "variable",
      content: ({ name, url }) => ({
        mcpServers: { [name]: { serverUrl: url, headers: bearer(`\${env:${keyVariable(name)}}`) } },
      }),
      lastStep: "Start Windsurf from a shell that has the variable, and refresh the servers in the Cascade panel.",
    },
    byLogin: {
      content: (target) => ({ mcpServers: { [target.name]: bridgeByLogin(target) } }),
      lastStep: "Refresh the servers in the Cascade panel, and log in in the browser that opens.",
    },
  },
  // Zed sends a remote server's headers as they are written (zed-industries/zed#60459), and asks for the secret of a
  // client that has none (zed-industries/zed#62637): hence the bridge for both.
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
    byKey: {
      key: "header-file",
      content: (target) => ({ context_servers: { [target.name]: { source: "custom", ...bridgeByKey(target) } } }),
      lastStep: "Zed starts the server as soon as the file is saved; the Agent Panel's settings show it.",
    },
    byLogin: {
      content: (target) => ({ context_servers: { [target.name]: { source: "custom", ...bridgeByLogin(target) } } }),
      lastStep: "Zed starts the server as soon as the file is saved; log in in the browser that opens.",
    },
  },
};

/** Whether `value` names a client. */
export function isClient(value: string): value is Client {
  return Object.hasOwn(FACTS, value);
}

/** Whether the client reaches the server by a bridge, which it starts as a command. */
export function isBridged({ content }: Pick<IdeConfig, "content">): boolean {
  return JSON.stringify(content).includes('"command":');
}

/** The name by which people know a client. */
export function clientTitle(client: Client): string {
  return FACTS[client].title;
}

/** One client's configuration for one server: by login where the server offers one, unless the key is asked for. */
export function ideConfig(client: Client, target: IdeTarget): IdeConfig {
  const { title, file, format, byKey, byLogin } = FACTS[client];
  const complete: Target = {
    name: target.name,
    url: target.url,
    headerFile: target.headerFile ?? defaultHeaderFile(target.name),
    bridge: target.bridge ?? ["npx", "-y", BRIDGE],
    bridgeLogin: target.bridgeLogin ?? [],
  };
  const merge = `Merge this into ${file.project ?? "your user settings file"}.`;
  const who = { client, title, name: target.name, file, format };
  const { login } = target;
  if (login && !target.byKey) {
    return {
      ...who,
      content: byLogin.content(complete, login),
      signIn: "login",
      ...(byLogin.link && { link: byLogin.link(complete, login) }),
      howto: [merge, byLogin.lastStep],
    };
  }
  const way = (login && byKey.besideLogin) ?? byKey;
  const keySteps: Record<ByKey["key"], readonly string[]> = {
    prompt: [],
    variable: [`Put the key into the environment variable ${keyVariable(target.name)}.`],
    "header-file": [
      `Put the line "Authorization: Bearer <key>" into ${complete.headerFile}, readable by you alone` +
        `${complete.headerFile.startsWith("~") ? ", and write that path out in full here and there" : ""}.`,
    ],
  };
  return {
    ...who,
    content: way.content(complete),
    signIn: "key",
    ...(way.key === "variable" && { keyVariable: keyVariable(target.name) }),
    ...(way.key === "header-file" && { headerFile: complete.headerFile }),
    ...(way.link && { link: way.link(complete) }),
    howto: [merge, ...keySteps[way.key], way.lastStep],
  };
}

/** Every client's configuration for one server. */
export function ideConfigs(target: IdeTarget): Readonly<Record<Client, IdeConfig>> {
  return Object.fromEntries(CLIENTS.map((client) => [client, ideConfig(client, target)])) as Record<Client, IdeConfig>;
}
