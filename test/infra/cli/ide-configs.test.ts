import { describe, expect, test } from "vitest";
import { configPath, type Machine, printConfig } from "../../../infra/cli/config-file.ts";
import { BRIDGE, CLIENTS, ideConfig, ideConfigs, keyVariable } from "../../../infra/ide-configs.ts";

const target = { name: "mcp-dev", url: "https://mcp-dev.example.com/mcp" };
const login = {
  tenantId: "11111111-1111-1111-1111-111111111111",
  clientId: "22222222-2222-2222-2222-222222222222",
  ideClientId: "33333333-3333-3333-3333-333333333333",
  scopes: ["api://22222222-2222-2222-2222-222222222222/Mcp.Read"],
};
const withFile = { ...target, headerFile: "/home/ada/.mcp-on-aks/mcp-dev.headers" };

describe("each client's configuration, as its file holds it", () => {
  test.each(CLIENTS)("%s", (client) => {
    expect(printConfig(ideConfig(client, withFile))).toMatchSnapshot();
  });
});

describe("each client's configuration by login, as its file holds it", () => {
  test.each(CLIENTS)("%s", (client) => {
    expect(printConfig(ideConfig(client, { ...withFile, login }))).toMatchSnapshot();
  });
});

test("where people log in, no configuration speaks of a key, and each says how to log in", () => {
  for (const client of CLIENTS) {
    const config = ideConfig(client, { ...target, login });
    expect(config).toMatchObject({ signIn: "login" });
    expect(config.keyVariable ?? config.headerFile).toBeUndefined();
    expect(JSON.stringify([config.content, config.link ?? ""])).not.toMatch(/authorization|bearer|_API_KEY/i);
    expect(config.howto.at(-1)).toMatch(/log in/i);
  }
});

test("a key takes the login's place where it is asked for, by a bridge where the client would not send it", () => {
  for (const client of CLIENTS) {
    const beside = ideConfig(client, { ...withFile, login, byKey: true });
    expect(beside.signIn).toBe("key");
    const alone = ideConfig(client, withFile).content;
    // Cursor ignores headers where the server offers a login.
    if (client === "cursor") expect(JSON.stringify(beside.content)).toContain(BRIDGE);
    else expect(beside.content).toEqual(alone);
  }
});

test("links to a server where people log in carry ids and no more", () => {
  const vscode = decodeURIComponent(
    ideConfig("vscode", { ...target, login }).link?.replace("vscode:mcp/install?", "") ?? "",
  );
  expect(JSON.parse(vscode)).toEqual({ name: "mcp-dev", type: "http", url: target.url });
  const cursor = new URL(ideConfig("cursor", { ...target, login }).link ?? "");
  expect(JSON.parse(Buffer.from(cursor.searchParams.get("config") ?? "", "base64").toString())).toEqual({
    url: target.url,
    auth: { CLIENT_ID: login.ideClientId, scopes: [...login.scopes, "offline_access"] },
  });
});

test("the key is referred to in the client's own way", () => {
  const configs = ideConfigs(withFile);
  const references = Object.fromEntries(
    CLIENTS.map((client) => {
      const { keyVariable: variable, headerFile } = configs[client];
      return [client, variable ?? headerFile ?? "asked for"];
    }),
  );
  expect(references).toEqual({
    vscode: "asked for",
    cursor: "MCP_DEV_API_KEY",
    "claude-code": "MCP_DEV_API_KEY",
    "claude-desktop": withFile.headerFile,
    codex: "MCP_DEV_API_KEY",
    gemini: "MCP_DEV_API_KEY",
    windsurf: "MCP_DEV_API_KEY",
    zed: withFile.headerFile,
  });
});

test("two stacks live side by side in every client: neither entry, variable, prompt nor file is shared", () => {
  const dev = ideConfigs(target);
  const prod = ideConfigs({ name: "mcp-prod", url: "https://mcp.example.com/mcp" });
  for (const client of CLIENTS) {
    expect(JSON.stringify(prod[client].content)).not.toContain("mcp-dev");
    expect(JSON.stringify(dev[client].content)).not.toContain("mcp-prod");
  }
  expect(keyVariable("mcp-prod")).not.toBe(keyVariable("mcp-dev"));
});

test("a bridge is pinned, and gets the key by file, so that neither configuration nor process list shows it", () => {
  for (const client of ["claude-desktop", "zed"] as const) {
    const servers = Object.values(ideConfig(client, withFile).content)[0];
    const entry = servers && typeof servers === "object" && "mcp-dev" in servers ? servers["mcp-dev"] : undefined;
    expect(entry).toMatchObject({
      command: "npx",
      args: ["-y", BRIDGE, target.url, "--header-file", withFile.headerFile],
    });
  }
  expect(BRIDGE).toMatch(/^mcp-remote@\d+\.\d+\.\d+$/);
});

test("install links carry the configuration, and the reference in place of the key", () => {
  const vscode = decodeURIComponent(ideConfig("vscode", target).link?.replace("vscode:mcp/install?", "") ?? "");
  expect(JSON.parse(vscode)).toMatchObject({ name: "mcp-dev", type: "http", url: target.url });
  const cursor = new URL(ideConfig("cursor", target).link ?? "");
  expect(cursor.searchParams.get("name")).toBe("mcp-dev");
  const config = Buffer.from(cursor.searchParams.get("config") ?? "", "base64").toString();
  // biome-ignore lint/suspicious/noTemplateCurlyInString: Cursor's own syntax
  expect(JSON.parse(config)).toEqual({ url: target.url, headers: { Authorization: "Bearer ${env:MCP_DEV_API_KEY}" } });
});

describe("the file of each client", () => {
  const linux: Machine = { platform: "linux", home: "/home/ada" };
  const mac: Machine = { platform: "darwin", home: "/Users/ada" };

  test.each([
    ["vscode", "/p/.vscode/mcp.json", "/home/ada/.config/Code/User/mcp.json"],
    ["cursor", "/p/.cursor/mcp.json", "/home/ada/.cursor/mcp.json"],
    ["claude-code", "/p/.mcp.json", undefined],
    ["claude-desktop", undefined, "/home/ada/.config/Claude/claude_desktop_config.json"],
    ["codex", "/p/.codex/config.toml", "/home/ada/.codex/config.toml"],
    ["gemini", "/p/.gemini/settings.json", "/home/ada/.gemini/settings.json"],
    ["windsurf", undefined, "/home/ada/.codeium/windsurf/mcp_config.json"],
    ["zed", undefined, "/home/ada/.config/zed/settings.json"],
  ] as const)("%s", (client, project, user) => {
    const config = ideConfig(client, target);
    expect(configPath(config, "project", "/p", linux)).toBe(project);
    expect(configPath(config, "user", "/p", linux)).toBe(user);
  });

  test("depends on the system where the client's does", () => {
    const config = ideConfig("claude-desktop", target);
    expect(configPath(config, "user", "/p", mac)).toBe(
      "/Users/ada/Library/Application Support/Claude/claude_desktop_config.json",
    );
    const windows: Machine = { platform: "win32", home: "C:/Users/ada", appData: "C:/Users/ada/AppData/Roaming" };
    expect(configPath(config, "user", "/p", windows)?.replaceAll("\\", "/")).toBe(
      "C:/Users/ada/AppData/Roaming/Claude/claude_desktop_config.json",
    );
  });
});
