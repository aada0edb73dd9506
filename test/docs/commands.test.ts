import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Command } from "commander";
import pico from "picocolors";
import { beforeAll, describe, expect, it } from "vitest";
import { parse } from "yaml";
import { z } from "zod";
import { knownStack } from "../../infra/cli/checkout.ts";
import { buildProgram } from "../../infra/cli/program.ts";
import { isClient } from "../../infra/ide-configs.ts";
import { parseSettings } from "../../infra/settings.ts";
import { type Call, runRecorded, type ShellRun } from "../workflows/recorded-shell.ts";
import { documents, ROOT } from "./documents.ts";

const GUID = "00000000-0000-0000-0000-000000000000";

/** Every command that the documents may use, and what it answers: enough for the commands after it. */
const STUBS = {
  az: `echo ${GUID}`,
  gh: "echo owner/repository",
  npm: "true",
  npx: "echo https://mcp.example.com/mcp",
  pulumi: "echo https://mcp.example.com/mcp",
  curl: "true",
  git: "true",
  kubectl: "true",
  openssl: "echo a1b2c3",
  jq: "true",
};

/** The documents' blocks, in order in one shell, as a reader runs them; `set -u` finds what was never set. */
function follow(blocks: readonly string[]): ShellRun {
  const steps = blocks.map((block, i) => `step=${i + 1}\n${block}`);
  return runRecorded(
    [
      "set -u",
      `trap 'echo "block $step stopped" >&2' ERR`,
      "cd() { :; }",
      'command_not_found_handle() { echo "unexpected command: $*" >&2; return 127; }',
      ...steps,
    ].join("\n"),
    { stubs: STUBS, env: {} },
  );
}

/** Commands in running text, with a stack for `<stack>`; those with other gaps are not commands yet. */
function inlineCommands(spans: readonly string[]): string[] {
  return spans
    .filter((span) => /^((npm|pulumi|az|gh) |npx \S+ )/.test(span))
    .map((span) => span.replaceAll("<stack>", "dev"))
    .filter((span) => !/[<>]|\.\.\./.test(span));
}

const runs = new Map<string, ShellRun>();
let calls: readonly { readonly path: string; readonly call: Call }[] = [];
const of = (...commands: string[]) =>
  calls
    .filter(({ call }) => commands.includes(call[0]))
    .map(({ path, call }) => ({ where: `${path}: ${call.join(" ")}`, call }));

beforeAll(() => {
  for (const { path, blocks, spans } of documents) {
    const shell = blocks.filter(({ language }) => language === "sh").map(({ code }) => code);
    runs.set(path, follow(shell));
    runs.set(`${path}, in the text`, follow(inlineCommands(spans)));
  }
  calls = [...runs].flatMap(([path, { calls }]) => calls.map((call) => ({ path, call })));
});

describe("commands in the documents", () => {
  it("run one after the other, with everything set that they use", () => {
    for (const [path, { code, stderr }] of runs) expect([path, code, stderr]).toEqual([path, 0, ""]);
  });

  it("are marked as shell wherever they are", () => {
    for (const { path, blocks } of documents) {
      for (const { language, code } of blocks) {
        if (/^(npm|npx|pulumi|az|gh) /m.test(code)) expect([path, language, code]).toEqual([path, "sh", code]);
      }
    }
  });

  it("are found", () => {
    for (const command of ["npm", "npx", "az", "gh"]) expect(of(command).length, command).toBeGreaterThan(3);
  });
});

describe("npm commands", () => {
  const { scripts } = z
    .object({ scripts: z.record(z.string(), z.string()) })
    .parse(JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")));

  /** A call's script and what npm hands on to it. */
  function script([, ...words]: Call): { name: string | undefined; args: string[]; eaten: string[] } {
    const end = words.indexOf("--");
    const before = (end === -1 ? words : words.slice(0, end)).filter((word) => word !== "--silent");
    const [first, second] = before;
    const name = first === "run" ? second : first;
    return { name, args: end === -1 ? [] : words.slice(end + 1), eaten: before.slice(first === "run" ? 2 : 1) };
  }

  it("name scripts of package.json", () => {
    for (const { where, call } of of("npm")) {
      const { name, eaten } = script(call);
      expect(["ci", ...Object.keys(scripts)], where).toContain(name);
      expect(eaten, `${where} (npm keeps what stands before "--" for itself)`).toEqual([]);
    }
  });

  it("give the mcp-aks command what it takes", async () => {
    const program = buildProgram({ out: () => {}, err: () => {}, live: false, colours: pico.createColors(false) });
    const subcommands = program.commands.map((command) => command.name());
    for (const command of program.commands) {
      command.action((first: string | undefined) => {
        if (first === undefined) return;
        if (command.name() === "connect") expect(isClient(first), first).toBe(true);
        else expect(knownStack(first)).toBe(first);
      });
    }
    for (const { where, call } of of("npm")) {
      const { name = "", args } = script(call);
      if (!subcommands.includes(name) || args.includes("--help")) continue;
      await expect(program.parseAsync([name, ...args], { from: "user" }), where).resolves.toBeDefined();
    }
  });

  it("give npx mcp-aks what it takes, and stacks that there are", async () => {
    const program = buildProgram({ out: () => {}, err: () => {}, live: false, colours: pico.createColors(false) });
    const stacks: string[] = [];
    const inert = (command: Command): void => {
      for (const under of command.commands) inert(under);
      if (command.commands.length > 0) return;
      command.action((...given: unknown[]) => {
        const options: unknown = given.at(-2);
        if (typeof options === "object" && options !== null && "stack" in options) stacks.push(String(options.stack));
      });
    };
    for (const command of program.commands) inert(command);
    // Running text names commands without all that they take.
    const inBlocks = ({ where }: { where: string }) => !where.includes(", in the text:");
    const commands = of("npx").filter((each) => each.call[1] === "mcp-aks" && inBlocks(each));
    expect(commands.length).toBeGreaterThan(5);
    for (const { where, call } of commands) {
      await expect(program.parseAsync(call.slice(2), { from: "user" }), where).resolves.toBeDefined();
    }
    for (const stack of stacks) expect(knownStack(stack)).toBe(stack);
  });

  it("name tests that exist", () => {
    for (const { where, call } of of("npx")) {
      if (call[1] !== "vitest") continue;
      for (const file of call.slice(3)) expect(existsSync(join(ROOT, file)), where).toBe(true);
    }
  });
});

describe("pulumi commands", () => {
  /** What the documents use of the Pulumi CLI, with the flags that they may give. */
  const KNOWN: Readonly<Record<string, readonly string[]>> = {
    cancel: ["--stack"],
    "config set": ["--stack", "--secret"],
    destroy: ["--stack"],
    login: ["--local"],
    preview: ["--stack"],
    refresh: ["--stack"],
    "stack init": ["--secrets-provider"],
    "stack output": ["--stack", "--json"],
    "stack rm": ["--stack"],
    up: ["--stack", "--replace"],
    version: [],
  };

  interface PulumiCall {
    readonly where: string;
    readonly command: string;
    readonly operands: readonly string[];
    readonly flags: readonly string[];
    readonly stack: string;
  }

  /** The documents' pulumi commands, taken apart. Every flag that takes a value takes it as the next word. */
  function pulumi(): PulumiCall[] {
    return of("npx", "pulumi").flatMap(({ where, call }) => {
      const words: readonly string[] = call[0] === "pulumi" ? call.slice(1) : call.slice(2);
      if (call[0] === "npx" && call[1] !== "pulumi") return [];
      const group = ["config", "stack"].includes(words[0] ?? "") ? 2 : 1;
      const flags: string[] = [];
      const operands: string[] = [];
      let stack = "dev";
      for (let i = group; i < words.length; i++) {
        const word = (words[i] ?? "").replace(/^-s$/, "--stack");
        if (!word.startsWith("-")) operands.push(word);
        else flags.push(word);
        if (word === "--stack") stack = words[++i] ?? "";
        if (word === "--secrets-provider") i++;
      }
      return [{ where, command: words.slice(0, group).join(" "), operands, flags, stack }];
    });
  }

  it("are ones that the CLI has, about stacks that the project has", () => {
    for (const { where, command, flags, stack } of pulumi()) {
      expect(Object.keys(KNOWN), where).toContain(command);
      for (const flag of flags) expect(KNOWN[command], where).toContain(flag);
      expect(knownStack(stack), where).toBe(stack);
    }
  });

  it("set settings that exist to values that the program accepts", () => {
    const sets = pulumi().filter(({ command }) => command === "config set");
    expect(sets.length).toBeGreaterThan(3);
    for (const { where, stack, operands } of sets) {
      const [key = "", value = ""] = operands;
      expect(() => parseSettings(stack, { ...shipped(stack), [key]: value }), where).not.toThrow();
    }
  });

  it("ask for outputs that every stack has", async () => {
    const { rehearsePlan } = await import("../../infra/rehearsal/plan.ts");
    const { outputs } = await rehearsePlan("dev");
    const asked = pulumi().filter(({ command, operands }) => command === "stack output" && operands.length > 0);
    expect(asked.length).toBeGreaterThan(2);
    for (const { where, operands } of asked) expect(Object.keys(outputs), where).toContain(operands[0]);
  });
});

describe("stack files in the documents", () => {
  it("are accepted for the stack that they are about", () => {
    const examples = documents.flatMap(({ path, blocks }) =>
      blocks.filter(({ language }) => language === "yaml").map(({ code }) => ({ path, code })),
    );
    expect(examples.length).toBeGreaterThan(2);
    for (const { path, code } of examples) {
      const config = engineForm(parse(code));
      // Only prod has private planes to begin with.
      const stack = "mcp:runnerNetworkId" in config ? "prod" : "dev";
      expect(() => parseSettings(stack, config), `${path}:\n${code}`).not.toThrow();
    }
  });
});

describe("other commands", () => {
  /** Commands and options, checked against Microsoft's reference of the Azure CLI (2026-08). */
  const AZ: Readonly<Record<string, readonly string[]>> = {
    "account set": ["--subscription"],
    "account show": ["--query", "--output"],
    "ad signed-in-user show": ["--query", "--output"],
    "aks install-cli": [],
    "group create": ["--name", "--location"],
    "group show": ["--name", "--query", "--output"],
    "identity create": ["--name", "--resource-group"],
    "identity federated-credential create": [
      "--name",
      "--identity-name",
      "--resource-group",
      "--issuer",
      "--audiences",
      "--subject",
    ],
    "identity show": ["--name", "--resource-group", "--query", "--output"],
    "keyvault create": ["--name", "--resource-group", "--enable-rbac-authorization", "--enable-purge-protection"],
    "keyvault key create": ["--vault-name", "--name", "--kty", "--size"],
    "keyvault purge": ["--name"],
    login: [],
    "network vnet show": ["--query"],
    "provider register": ["--namespace"],
    "role assignment create": ["--assignee-object-id", "--assignee-principal-type", "--role", "--scope"],
    "role definition create": ["--role-definition"],
    "storage account blob-service-properties update": ["--account-name", "--resource-group", "--enable-versioning"],
    "storage account create": [
      "--name",
      "--resource-group",
      "--sku",
      "--min-tls-version",
      "--allow-blob-public-access",
      "--allow-shared-key-access",
    ],
    "storage account list": ["--resource-group", "--query", "--output"],
    "storage account update": [
      "--resource-group",
      "--name",
      "--immutability-period",
      "--immutability-state",
      "--allow-append",
    ],
    "storage container create": ["--name", "--account-name", "--auth-mode"],
    "vm list-usage": ["--location", "--query", "--output"],
  };
  const GH: Readonly<Record<string, readonly string[]>> = {
    api: ["--method", "--silent", "--jq"],
    "repo view": ["--json", "--jq"],
    "variable set": ["--env", "--body"],
  };

  it.each([
    ["az", AZ],
    ["gh", GH],
  ])("%s has them, with these options", (command, known) => {
    for (const { where, call } of of(command)) {
      const words = call.slice(1);
      const name = Object.keys(known).find((name) => words.join(" ").concat(" ").startsWith(`${name} `));
      expect(name, where).toBeDefined();
      for (const option of words.filter((word) => word.startsWith("--")))
        expect(known[name ?? ""], where).toContain(option);
    }
  });

  it("write a role that changes nothing", () => {
    const role = z
      .object({ Actions: z.array(z.string()), DataActions: z.array(z.string()), AssignableScopes: z.array(z.string()) })
      .parse(JSON.parse(runs.get("docs/first-deployment.md")?.read("drift-role.json") ?? ""));
    for (const action of [...role.Actions, ...role.DataActions]) expect(action).toMatch(/\/read$/);
    expect(role.AssignableScopes).toEqual([`/subscriptions/${GUID}`]);
  });

  it("trust each environment by its own subject and none by a wildcard", () => {
    const subjects = of("az").flatMap(({ call }) =>
      call.includes("federated-credential") ? [call[call.indexOf("--subject") + 1]] : [],
    );
    // The other environments' identities are their stacks' own (infra/azure/github-access.ts).
    expect(subjects).toEqual([expect.stringMatching(/^[^*]+:environment:drift$/)]);
  });

  it("let the identities of previews and drift checks read, and nothing else", () => {
    const grants = of("az").filter(({ call }) => call[1] === "role" && call[2] === "assignment");
    const roles = grants.map(({ call }) => call[call.indexOf("--role") + 1] ?? "");
    expect(roles.filter((role) => /Contributor|Administrator|Officer/.test(role))).toEqual([
      ...["Storage Blob Data Contributor", "Key Vault Crypto Officer"], // whoever sets it up
      ...Array(3).fill("Storage Blob Data Contributor"), // dev, staging, prod: the state
    ]);
  });
});

const StackFile = z.object({
  config: z.record(
    z.string(),
    z.union([z.string(), z.number(), z.boolean(), z.array(z.string()), z.record(z.string(), z.json())]),
  ),
});

/** A stack file's values as the engine hands them to the program: text, lists as JSON. */
function engineForm(file: unknown): Record<string, string> {
  return Object.fromEntries(
    Object.entries(StackFile.parse(file).config).map(([key, value]) => [
      key,
      typeof value === "object" ? JSON.stringify(value) : String(value),
    ]),
  );
}

function shipped(stack: string): Record<string, string> {
  return engineForm(parse(readFileSync(join(ROOT, `stacks/Pulumi.${stack}.yaml`), "utf8")));
}
