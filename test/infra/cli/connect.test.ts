import { createHash } from "node:crypto";
import { chmod, mkdir, mkdtemp, readFile, realpath, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { writeConfig } from "../../../infra/cli/config-file.ts";
import { runProgram } from "../../../infra/cli/program.ts";
import { announceRehearsal, forgetRehearsal, runningRehearsal } from "../../../infra/cli/rehearsal-state.ts";
import { stackSource } from "../../../infra/cli/stack-source.ts";
import { CLIENTS, ideConfig, ideConfigs } from "../../../infra/ide-configs.ts";
import { recordingTerminal } from "./recording-terminal.ts";
import { startServer } from "./server-process.ts";

const target = { name: "mcp-dev", url: "https://mcp-dev.example.com/mcp" };
const outputs = {
  endpoint: target.url,
  apiKey: { command: "az keyvault secret show --vault-name kv-mcp-dev-x7k2p --name mcp-api-key" },
  ideConfigs: ideConfigs(target),
};

const entra = {
  tenantId: "11111111-1111-1111-1111-111111111111",
  clientId: "22222222-2222-2222-2222-222222222222",
  ideClientId: "33333333-3333-3333-3333-333333333333",
  scopes: ["api://22222222-2222-2222-2222-222222222222/Mcp.Read"],
};

let directory: string;
beforeEach(async () => {
  directory = await realpath(await mkdtemp(join(tmpdir(), "mcp-connect-test-")));
  vi.stubEnv("INIT_CWD", directory);
  return () => rm(directory, { recursive: true, force: true });
});
afterEach(() => {
  vi.unstubAllEnvs();
});

/** Puts a command called pulumi first on PATH. */
async function pulumiSays(script: string): Promise<void> {
  const bin = join(directory, "bin");
  await mkdir(bin);
  await writeFile(join(bin, "pulumi"), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  vi.stubEnv("PATH", bin + delimiter + process.env.PATH);
}
const pulumiHasDeployed = (deployed: object = outputs) =>
  pulumiSays(`cat <<'OUTPUTS'\n${JSON.stringify(deployed)}\nOUTPUTS`);

async function run(...args: string[]) {
  const terminal = recordingTerminal();
  const code = await runProgram(["connect", ...args], terminal);
  return { code, text: terminal.text(), stdout: terminal.stdout() };
}

describe("connect", () => {
  test("without a client lists them all with their files", async () => {
    const { code, stdout } = await run();
    expect(code).toBe(0);
    for (const client of CLIENTS) expect(stdout).toContain(client);
    expect(stdout).toContain(".vscode/mcp.json");
  });

  test("prints the configuration from the stack's outputs, alone on standard output", async () => {
    await pulumiHasDeployed();
    const { code, stdout, text } = await run("cursor", "--deployed");
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toEqual(ideConfig("cursor", target).content);
    expect(text).toContain("export MCP_DEV_API_KEY=");
    expect(text).toContain(outputs.apiKey.command);
  });

  test("configures a login where the stack has one, and then speaks of no key", async () => {
    await pulumiHasDeployed({ ...outputs, entra });
    const { code, stdout, text } = await run("claude-code", "--deployed");
    expect(code).toBe(0);
    expect(JSON.parse(stdout).mcpServers["mcp-dev"]).toEqual({
      type: "http",
      url: target.url,
      oauth: { clientId: entra.ideClientId },
    });
    expect(text).toContain("log in by /mcp");
    expect(text).not.toContain("az keyvault");
  });

  test("--key is by the key all the same, and refused where the stack takes none", async () => {
    await pulumiHasDeployed({ ...outputs, entra });
    const { stdout, text } = await run("claude-code", "--deployed", "--key");
    expect(JSON.parse(stdout)).toEqual(ideConfig("claude-code", target).content);
    expect(text).toContain(outputs.apiKey.command);
  });

  test("a stack that takes no keys says so, and what to do", async () => {
    const { apiKey: _, ...keyless } = outputs;
    await pulumiHasDeployed({ ...keyless, entra });
    const { code, text } = await run("vscode", "--deployed", "--key");
    expect(code).toBe(2);
    expect(text).toMatch(/Stack dev takes no keys.*"entra".*Leave out --key/);
    expect((await run("vscode", "--deployed")).code).toBe(0);
  });

  test("this checkout's bridge logs in where people do, and has the key where that is asked for", async () => {
    await pulumiHasDeployed({ ...outputs, entra });
    const { code, stdout } = await run("zed", "--deployed", "--bridge", "local");
    expect(code).toBe(0);
    expect(stdout).toMatch(/"bridge",\s+"https:[^"]+\/mcp",\s+"--login"\s/);
    const keyed = await run("zed", "--deployed", "--bridge", "local", "--key");
    expect(keyed.stdout).toContain('"--header-file"');
    expect(keyed.stdout).not.toContain("--login");
    expect((await run("vscode", "--deployed", "--bridge", "local")).text).toContain("needs no bridge");
  });

  test("--write merges into the project's file, and a second time changes nothing", async () => {
    await pulumiHasDeployed();
    const file = join(directory, ".mcp.json");
    await writeFile(file, '{\n  "mcpServers": { "docs": { "command": "docs" } }\n}\n');
    expect((await run("claude-code", "--deployed", "--write")).code).toBe(0);
    const merged = await readFile(file, "utf8");
    expect(Object.keys(JSON.parse(merged).mcpServers)).toEqual(["docs", "mcp-dev"]);
    expect((await run("claude-code", "--deployed", "--write")).text).toContain("Nothing to change");
    expect(await readFile(file, "utf8")).toBe(merged);
  });

  test("--file names another file, --json reports what was done", async () => {
    await pulumiHasDeployed();
    const { stdout } = await run("codex", "--deployed", "--json", "--file", "sub/config.toml");
    const report = JSON.parse(stdout);
    expect(report).toMatchObject({ client: "codex", source: "deployment", outcome: "created", url: target.url });
    expect(await readFile(join(directory, "sub", "config.toml"), "utf8")).toBe(report.text);
  });

  test("a bridge's header file is written out in full", async () => {
    await pulumiHasDeployed();
    vi.stubEnv("HOME", "/home/ada");
    const { stdout, text } = await run("zed", "--deployed");
    expect(JSON.parse(stdout).context_servers["mcp-dev"].args.at(-1)).toBe("/home/ada/.mcp-on-aks/mcp-dev.headers");
    expect(text).toContain("umask 077");
  });

  test("--bridge local is this checkout's own, which reaches the server with the header file's key", async () => {
    const key = "mcp_dev_of-the-header-file";
    const hash = createHash("sha256").update(key).digest("hex");
    const server = await startServer({ AUTH_MODE: "api-key", API_KEY_HASHES: `sha256:${hash}` });
    await pulumiSays(`cat <<'OUTPUTS'\n${JSON.stringify({ ...outputs, endpoint: server.url })}\nOUTPUTS`);
    vi.stubEnv("HOME", directory);
    const { stdout } = await run("claude-desktop", "--deployed", "--bridge", "local");
    const { command, args } = JSON.parse(stdout).mcpServers["mcp-dev"];
    await mkdir(join(directory, ".mcp-on-aks"));
    await writeFile(args.at(-1), `Authorization: Bearer ${key}\n`, { mode: 0o600 });
    const client = new Client({ name: "test-client", version: "1.0.0" });
    onTestFinished(() => client.close());
    await client.connect(new StdioClientTransport({ command, args, stderr: "ignore" }));
    expect((await client.listTools()).tools.map(({ name }) => name)).toContain("system_info");
  });

  test("--bridge is refused for a client that needs none", async () => {
    await pulumiHasDeployed();
    const { code, text } = await run("vscode", "--deployed", "--bridge", "local");
    expect(code).toBe(2);
    expect(text).toContain("VS Code speaks HTTP itself and needs no bridge; leave out --bridge.");
  });

  test("a file that does not parse is named with its line, and left as it is", async () => {
    await pulumiHasDeployed();
    const file = join(directory, ".mcp.json");
    const broken = '{\n  "mcpServers": {\n}\n';
    await writeFile(file, broken);
    const { code, text } = await run("claude-code", "--deployed", "--write");
    expect(code).toBe(1);
    expect(text).toMatch(/\.mcp\.json: line \d is not JSON/);
    expect(await readFile(file, "utf8")).toBe(broken);
  });

  test.each([
    [["vscod"], /"vscod" is no client that connect knows; did you mean vscode\?/],
    [["vscode", "--stack", "prd"], /There is no stack "prd"; did you mean prod\?; stacks\/ has dev, prod, staging/],
    [["claude-code", "--deployed", "--user"], /keeps no user file of its own/],
    [["vscode", "--wirte"], /unknown option '--wirte'[\s\S]*Did you mean --write/],
  ])("%j is a mistake on the command line", async (args, message) => {
    await pulumiHasDeployed();
    const { code, text } = await run(...args);
    expect(code).toBe(2);
    expect(text).toMatch(message);
    expect(text).not.toMatch(/\n\s+at /);
  });

  test("without pulumi, without a login and without a deployment, it says what to do", async () => {
    const path = process.env.PATH;
    vi.stubEnv("PATH", directory);
    expect((await run("vscode", "--deployed")).text).toMatch(/no pulumi on PATH[\s\S]*npm run rehearse -- dev/);
    vi.stubEnv("PATH", path);
    await pulumiSays('echo "error: no stack named dev found" >&2; exit 255');
    const failed = await run("vscode", "--deployed");
    expect(failed.code).toBe(1);
    expect(failed.text).toMatch(/no stack named dev found[\s\S]*pulumi up -s dev/);
    await writeFile(join(directory, "bin", "pulumi"), "#!/bin/sh\necho '{}'\n");
    expect((await run("vscode", "--deployed")).text).toMatch(/does not have the outputs[\s\S]*pulumi up -s dev/);
  });
});

describe("writing a client's file", () => {
  const config = ideConfig("cursor", target);

  test("keeps the file's mode and writes through a symbolic link", async () => {
    const real = join(directory, "dotfiles.json");
    await writeFile(real, "{}");
    await chmod(real, 0o640);
    const link = join(directory, "mcp.json");
    await symlink(real, link);
    expect(await writeConfig(link, config)).toBe("changed");
    expect((await stat(real)).mode & 0o777).toBe(0o640);
    expect(JSON.parse(await readFile(real, "utf8"))).toEqual(config.content);
    expect(await realpath(link)).toBe(real);
  });

  test("makes missing directories, and keeps a byte order mark", async () => {
    const file = join(directory, "a", "b", "mcp.json");
    expect(await writeConfig(file, config)).toBe("created");
    await writeFile(file, '\uFEFF{"a": 1}');
    await writeConfig(file, config);
    expect((await readFile(file, "utf8")).startsWith("\uFEFF{")).toBe(true);
  });

  test("refuses what is no text, and a link that leads nowhere", async () => {
    const file = join(directory, "mcp.json");
    await writeFile(file, Buffer.from([0xff, 0xfe, 0x7b, 0x00]));
    await expect(writeConfig(file, config)).rejects.toThrow(/not UTF-8/);
    const link = join(directory, "link.json");
    await symlink(join(directory, "absent.json"), link);
    await expect(writeConfig(link, config)).rejects.toThrow(/leads nowhere/);
  });
});

describe("the rehearsal as a source", () => {
  const key = "mcp_dev_not-for-others";
  const state = {
    stack: "dev",
    pid: process.pid,
    name: "mcp-dev",
    url: "http://127.0.0.1:8080/mcp",
    metricsUrl: "http://127.0.0.1:9090/metrics",
    plannedUrl: target.url,
    startedAt: new Date(0).toISOString(),
  };

  test("counts while its process lives, with the key for its owner's eyes only", async () => {
    const announced = await announceRehearsal(state, key, directory);
    onTestFinished(() => forgetRehearsal("dev", directory));
    const source = await stackSource("dev", { rehearsals: directory });
    expect(source).toMatchObject({ kind: "rehearsal", url: state.url, name: "mcp-dev" });
    expect(await readFile(announced.headerFile, "utf8")).toBe(`Authorization: Bearer ${key}\n`);
    for (const file of [announced.keyFile, announced.headerFile]) expect((await stat(file)).mode & 0o777).toBe(0o600);
    expect(await readFile(join(directory, "dev.json"), "utf8")).not.toContain(key);
  });

  test("does not count when its process has gone, or the file is no state", async () => {
    // The largest process id that Linux gives is 2^22.
    await announceRehearsal({ ...state, pid: 2 ** 22 + 1 }, key, directory);
    expect(await runningRehearsal("dev", directory)).toBeUndefined();
    await writeFile(join(directory, "dev.json"), "{");
    expect(await runningRehearsal("dev", directory)).toBeUndefined();
  });

  test("leaves nothing when it ends", async () => {
    await announceRehearsal(state, key, directory);
    await forgetRehearsal("dev", directory);
    await expect(stat(join(directory, "dev.key"))).rejects.toThrow(/ENOENT/);
    expect(await runningRehearsal("dev", directory)).toBeUndefined();
  });
});
