import { dirname, join, resolve } from "node:path";
import { Argument, Command, Option } from "commander";
import {
  CLIENTS,
  type Client,
  clientTitle,
  defaultHeaderFile,
  type IdeConfig,
  ideConfig,
  isBridged,
  isClient,
} from "../ide-configs.ts";
import { CHECKOUT, didYouMean, knownStack } from "./checkout.ts";
import { CliError, EXIT } from "./cli-error.ts";
import { MergeError } from "./config-edits.ts";
import { configPath, type Machine, printConfig, thisMachine, writeConfig } from "./config-file.ts";
import { shortPath } from "./rehearsal-state.ts";
import { type StackSource, shellWord, stackSource } from "./stack-source.ts";
import type { Terminal } from "./terminal.ts";

interface Options {
  readonly stack: string;
  readonly write?: true;
  readonly file?: string;
  readonly user?: true;
  readonly deployed?: true;
  readonly key?: true;
  readonly bridge?: "mcp-remote" | "local";
  readonly json?: true;
}

/** `connect CLIENT`: prints a client's configuration, or merges it into the client's file. */
export function connectCommand(terminal: Terminal): Command {
  return new Command("connect")
    .summary("configure an IDE or another MCP client for a stack")
    .description(
      "Prints the configuration by which an MCP client reaches a stack's server, or merges it into the client's file. " +
        "The server is the running rehearsal's, if there is one, else the deployed stack's. Where people log in to it, the " +
        "configuration holds no more than ids; where a key opens it, a reference to the key, which is never written. What " +
        "is left to do is said.",
    )
    .addArgument(new Argument("[client]", `one of ${CLIENTS.join(", ")}; without one, they are listed`))
    .option("-s, --stack <stack>", "the stack whose server it is", "dev")
    .option("-w, --write", "merge into the client's file; other entries and comments stay")
    .option("--file <path>", "merge into this file instead (implies --write)")
    .option("--user", "the user's own file, for clients that have one in a project, too")
    .option("--deployed", "the deployed stack, even while a rehearsal runs")
    .option("--key", "by API key, where people could log in as well")
    .addOption(
      new Option(
        "--bridge <which>",
        "for clients that only speak stdio: mcp-remote from npm (default), or this checkout's own",
      ).choices(["mcp-remote", "local"]),
    )
    .option("--json", "print one JSON object instead of text")
    .addHelpText(
      "after",
      `
Examples:
  npm run connect -- vscode                       print the configuration of VS Code for stack dev
  npm run connect -- claude-code --write          merge it into .mcp.json of this directory
  npm run connect -- codex --stack prod --write --user
  npm run connect -- zed --file ~/dotfiles/zed.json
  npm run connect -- cursor --key                 with the stack's API key rather than a login
  npm run connect -- claude-desktop --bridge local --write`,
    )
    .action(async (client: string | undefined, options: Options) => {
      if (client === undefined) listClients(terminal, options);
      else await connect(knownClient(client), options, terminal);
    });
}

async function connect(client: Client, options: Options, terminal: Terminal): Promise<void> {
  const stack = knownStack(options.stack);
  const source = await stackSource(stack, { ...(options.deployed && { deployed: true }) });
  const machine = thisMachine();
  const headerFile = source.headerFile ?? defaultHeaderFile(source.name, machine.home);
  const byKey = opensByKey(source, options, stack);
  const config = ideConfig(client, {
    name: source.name,
    url: source.url,
    login: source.login,
    ...(byKey && { byKey }),
    headerFile,
    ...(options.bridge === "local" && { bridge: LOCAL_BRIDGE, bridgeLogin: ["--login"] }),
  });
  if (options.bridge !== undefined && !isBridged(config)) {
    throw new CliError(`${config.title} speaks HTTP itself and needs no bridge; leave out --bridge.`, EXIT.usage);
  }
  const path = fileOf(config, options, machine);
  const outcome = options.write || options.file !== undefined ? await write(path, config) : undefined;
  const left = whatIsLeft(config, source, machine, outcome !== undefined);
  if (options.json) {
    const { howto: _, ...facts } = config;
    const report = {
      stack,
      source: source.kind,
      url: source.url,
      path,
      ...(outcome && { outcome }),
      ...facts,
      text: printConfig(config),
      howto: left,
    };
    terminal.out(`${JSON.stringify(report, null, 2)}\n`);
    return;
  }
  const { bold, dim, green } = terminal.colours;
  terminal.err(dim(`From ${source.description}: ${source.url}\n`));
  const shown = shortPath(path);
  if (outcome) {
    const words = { created: "Wrote", changed: "Merged into", unchanged: "Nothing to change in" };
    terminal.err(`${green("✔")} ${words[outcome]} ${bold(shown)}\n`);
  } else {
    terminal.err(`${bold(config.title)}, ${shown} ${dim("(--write merges it in)")}\n\n`);
    terminal.out(printConfig(config));
  }
  terminal.err(`\n${left.map((line) => `- ${line}`).join("\n")}\n`);
}

/**
 * Whether the configuration is to refer to a key. A rehearsal's always does, for Entra knows nothing of its server.
 *
 * @throws CliError where the server takes no keys and one is wanted.
 */
function opensByKey(source: StackSource, { key }: Options, stack: string): true | undefined {
  if (key && source.keyCommand === undefined) {
    throw new CliError(
      `Stack ${stack} takes no keys: its mcp:authentication is "entra". Leave out --key to log in, or set it to "entra,api-key".`,
      EXIT.usage,
    );
  }
  return key || source.kind === "rehearsal" || !source.login ? true : undefined;
}

/** By full paths: a client starts it anywhere, and its own Node may be an older one. */
const LOCAL_BRIDGE = [process.execPath, join(CHECKOUT, "infra/cli/mcp-aks.js"), "bridge"] as const;

async function write(path: string, config: IdeConfig): Promise<"created" | "changed" | "unchanged"> {
  try {
    return await writeConfig(path, config);
  } catch (error) {
    if (error instanceof MergeError) throw new CliError(error.message, EXIT.failed, { cause: error });
    const code = error instanceof Error && "code" in error ? String(error.code) : undefined;
    if (code === undefined) throw error;
    throw new CliError(`${path} cannot be written (${code}); see to its rights, or name another file by --file.`);
  }
}

/** The file that is meant: the one named, the user's, or the project's where the client has one. */
function fileOf(config: IdeConfig, { file, user }: Options, machine: Machine): string {
  const project = process.env.INIT_CWD ?? process.cwd();
  if (file !== undefined)
    return resolve(
      project,
      file.replace(/^~(?=[\\/])/, () => machine.home),
    );
  const scopes = user ? (["user"] as const) : (["project", "user"] as const);
  const path = scopes.map((scope) => configPath(config, scope, project, machine)).find((p) => p !== undefined);
  if (path !== undefined) return path;
  throw new CliError(
    `${config.title} keeps no user file of its own for servers; leave out --user, or name a file by --file.`,
    EXIT.usage,
  );
}

/** What the person has to do after the configuration is in place, or to put it there. */
export function whatIsLeft(
  config: IdeConfig,
  source: Pick<StackSource, "kind" | "keyCommand">,
  machine: Machine,
  written: boolean,
): string[] {
  if (config.signIn === "login") return config.howto.slice(written ? 1 : 0);
  const steps = config.howto.slice(1, -1);
  const done = config.howto.at(-1) ?? "";
  const key = `"$(${source.keyCommand})"`;
  let keyStep: string[];
  if (config.keyVariable !== undefined) {
    keyStep =
      machine.platform === "win32"
        ? [...steps, `The key is what this prints: ${source.keyCommand}`]
        : [`Give the key to the shell that starts it: export ${config.keyVariable}=${key}`];
  } else if (config.headerFile === undefined) {
    keyStep = [`When asked for the key, give what this prints: ${source.keyCommand}`];
  } else if (source.kind === "rehearsal") {
    keyStep = [`The key is in ${config.headerFile} while the rehearsal runs.`];
  } else {
    keyStep =
      machine.platform === "win32"
        ? [...steps, `The key is what this prints: ${source.keyCommand}`]
        : [
            "Put the key where the bridge reads it: " +
              `(umask 077; mkdir -p ${shellWord(dirname(config.headerFile))}; ` +
              `printf 'Authorization: Bearer %s\\n' ${key} > ${shellWord(config.headerFile)})`,
          ];
  }
  return [...(written ? [] : [config.howto[0] ?? ""]), ...keyStep, done];
}

function listClients(terminal: Terminal, { json }: Options): void {
  const machine = thisMachine();
  const rows = CLIENTS.map((client) => {
    const config = ideConfig(client, { name: "mcp-dev", url: "https://mcp.example.com/mcp" });
    const user = configPath(config, "user", ".", machine);
    return { client, title: clientTitle(client), project: config.file.project, user, format: config.format };
  });
  if (json) {
    terminal.out(`${JSON.stringify(rows, null, 2)}\n`);
    return;
  }
  const { bold, dim } = terminal.colours;
  for (const { client, title, project, user } of rows) {
    terminal.out(
      `${bold(client.padEnd(16))}${title.padEnd(16)}${project ?? user}${dim(project && user ? ` or ${user}` : "")}\n`,
    );
  }
  terminal.out("\nnpm run connect -- <client> prints the configuration; --write merges it into the file.\n");
}

function knownClient(name: string): Client {
  if (isClient(name)) return name;
  throw new CliError(
    `"${name}" is no client that connect knows${didYouMean(name, CLIENTS)}; it knows ${CLIENTS.join(", ")}.`,
    EXIT.usage,
  );
}
