import { resolve } from "node:path";
import { Argument, Command, InvalidArgumentError, Option } from "commander";
import { z } from "zod";
import {
  isKeyName,
  KEY_NAME_RULE,
  type KeyRecord,
  type KeyState,
  type Register,
  stateOf,
} from "../../server/auth/key-register.ts";
import { ROLES, type Role } from "../../server/config.ts";
import { knownStack } from "./checkout.ts";
import { CliError } from "./cli-error.ts";
import { duration } from "./duration.ts";
import { keysMeant, type NewKey, newKey, pruned, revoked, rotated, withKey } from "./keys/register-edits.ts";
import { registerFile } from "./keys/register-file.ts";
import type { LastUses, RegisterStore } from "./keys/register-store.ts";
import { registerVault } from "./keys/register-vault.ts";
import { deployedOutputs } from "./stack-source.ts";
import { confirm, type Terminal, table } from "./terminal.ts";

interface PlaceOptions {
  readonly stack?: string;
  readonly file?: string;
  readonly json?: true;
}

interface CreateOptions extends PlaceOptions {
  readonly name: string;
  readonly role: Role;
  readonly expires: number;
}

interface RotateOptions extends PlaceOptions {
  readonly overlap: number;
  readonly expires: number;
}

interface RevokeOptions extends PlaceOptions {
  readonly yes?: true;
}

const DAY_MS = 24 * 60 * 60_000;
const LIFETIME = "90d";
const OVERLAP = "7d";
/** Days before its end from which a key is to be rotated. */
const WARN_DAYS = 14;

/** What `keys` needs of the outputs in outputs.ts. */
const Outputs = z.object({
  keyRegister: z.object({
    vaultUrl: z.url(),
    secretName: z.string().min(1),
    lastUsed: z.object({ tableEndpoint: z.url(), tableName: z.string().min(1) }),
  }),
});

/** `keys create|list|rotate|revoke`: the API keys of a server, while it runs. */
export function keysCommand(terminal: Terminal): Command {
  const withPlace = (command: Command) =>
    command
      .option("-s, --stack <stack>", "the deployed stack whose keys they are (default: dev)")
      .option("--file <path>", "a register on this machine instead: the server's API_KEYS_FILE")
      .option("--json", "print one JSON object instead of text");
  const expires = () =>
    new Option("--expires <duration>", "how long the new key holds, such as 12h, 90d or 26w")
      .argParser((text: string) => duration(text))
      .default(duration(LIFETIME), LIFETIME);

  const create = withPlace(new Command("create"))
    .summary("make a key")
    .description(
      "Makes a key and prints it, once: it is kept nowhere, only its hash is. Standard output has the key alone, so " +
        "that it can be piped to where it is needed.",
    )
    .requiredOption("--name <name>", "whose key it is, such as ci", keyName)
    .addOption(new Option("--role <role>", "what it may do").choices(ROLES).makeOptionMandatory())
    .addOption(expires())
    .action((options: CreateOptions) => createKey(options, terminal));
  const list = withPlace(new Command("list"))
    .summary("show the keys, when they end and when they were last used")
    .action((options: PlaceOptions) => listKeys(options, terminal));
  const rotate = withPlace(new Command("rotate"))
    .summary("give a key a successor; both work for a while")
    .description(
      "Makes a new key of the same name and role and prints it, as create does. The old one ends after the overlap. " +
        "To the server both are the same caller, with one workspace and one set of limits.",
    )
    .addArgument(new Argument("<id|name>", "the key; of a name, the newest"))
    .addOption(
      new Option("--overlap <duration>", "how long the old key goes on working; 0d ends it at once")
        .argParser((text: string) => duration(text, { least: 0 }))
        .default(duration(OVERLAP), OVERLAP),
    )
    .addOption(expires())
    .action((which: string, options: RotateOptions) => rotateKey(which, options, terminal));
  const revoke = withPlace(new Command("revoke"))
    .summary("end a key now")
    .description("Ends a key, or all keys of a name, as soon as the servers have read it: within a minute.")
    .addArgument(new Argument("<id|name>", "the key, or the name of all that are meant"))
    .option("-y, --yes", "do not ask")
    .action((which: string, options: RevokeOptions) => revokeKey(which, options, terminal));

  const keys = new Command("keys")
    .summary("create, list, rotate and revoke API keys")
    .description(
      "The API keys by which machines call a server. Servers read changes while they run. A deployed stack's register " +
        "of keys is in its Key Vault; it is changed with your own rights (az login).",
    )
    .helpCommand(false)
    .addHelpText(
      "after",
      `
Examples:
  mcp-aks keys create --name ci --role operator --stack prod | gh secret set MCP_API_KEY --env prod
  mcp-aks keys list --stack prod
  mcp-aks keys rotate ci --stack prod --overlap 2d | gh secret set MCP_API_KEY --env prod
  mcp-aks keys revoke 1f0c2a9b --stack prod
  mcp-aks keys create --name me --role admin --file keys.json`,
    );
  for (const command of [create, list, rotate, revoke]) keys.addCommand(command);
  return keys;
}

async function createKey(options: CreateOptions, terminal: Terminal): Promise<void> {
  const { store, stack } = await registerOf(options);
  const now = Date.now();
  const made = newKey({ stack, name: options.name, role: options.role, now, lifetime: options.expires });
  await store.change((register) => pruned(withKey(register, made, now), now));
  show(made, { did: "Created", store, options, terminal });
}

async function rotateKey(which: string, options: RotateOptions, terminal: Terminal): Promise<void> {
  const { store, stack } = await registerOf(options);
  const now = Date.now();
  const rotation = Promise.withResolvers<{ made: NewKey; old: KeyRecord }>();
  const after = await store.change((register) => {
    const old = keyToRotate(register, which);
    const made = newKey({ stack, name: old.name, role: old.role, now, lifetime: options.expires });
    rotation.resolve({ made, old });
    return pruned(rotated(register, old.id, made, now + options.overlap), now);
  });
  const { made, old } = await rotation.promise;
  const before = after.keys.find(({ id }) => id === old.id) ?? old;
  show(made, { did: "Rotated", store, options, terminal, before });
}

function keyToRotate(register: Register, which: string): KeyRecord {
  const [old] = keysMeant(register, which);
  if (old !== undefined && old.revoked === undefined) return old;
  throw new CliError(`The key ${which} was revoked; make a new one by mcp-aks keys create.`);
}

/** The key goes to standard output, alone; all that is said of it to standard error. */
function show(
  { key, record }: NewKey,
  told: { did: string; store: RegisterStore; options: PlaceOptions; terminal: Terminal; before?: KeyRecord },
): void {
  const { did, store, options, terminal, before } = told;
  const { hash: _, ...shown } = record;
  if (options.json) {
    const replaced = before && { id: before.id, expires: before.expires };
    terminal.out(
      `${JSON.stringify({ key, ...shown, register: store.place, ...(replaced && { replaced }) }, null, 2)}\n`,
    );
    return;
  }
  const { bold, dim, green } = terminal.colours;
  terminal.out(`${key}\n`);
  terminal.err(
    `${green("✔")} ${did} ${bold(record.name)} (${record.id}), ${record.role}, until ${dateOf(record.expires)}. ` +
      `It works ${store.holds}.\n` +
      (before ? `  The old key (${before.id}) ${endOf(before)}.\n` : "") +
      dim(
        "  The line on standard output is the key; it is shown this once. Clients send it as Authorization: Bearer <key>.\n" +
          `  Its hash is in ${store.place}.\n`,
      ),
  );
}

async function revokeKey(which: string, options: RevokeOptions, terminal: Terminal): Promise<void> {
  const { store } = await registerOf(options);
  const meant = keysMeant(await store.read(), which).filter(({ revoked }) => revoked === undefined);
  if (meant.length === 0) {
    if (options.json) terminal.out(`${JSON.stringify({ register: store.place, revoked: [] }, null, 2)}\n`);
    else terminal.err(`The key ${which} was revoked before.\n`);
    return;
  }
  const names = meant.map(({ name, id, role }) => `${name} (${id}, ${role})`).join(" and ");
  if (!options.yes) {
    await confirm(terminal, {
      would: `revoke ${names}`,
      question: `Revoke ${names}? Whoever uses it is refused ${store.holds}.`,
      otherwise: "Nothing was revoked.",
    });
  }
  const now = Date.now();
  const ids = new Set(meant.map(({ id }) => id));
  await store.change((register) => pruned(revoked(register, ids, now), now));
  if (options.json) {
    terminal.out(`${JSON.stringify({ register: store.place, revoked: [...ids] }, null, 2)}\n`);
    return;
  }
  terminal.err(`${terminal.colours.green("✔")} Revoked ${names}: refused ${store.holds}.\n`);
}

interface Row {
  readonly id: string;
  readonly name: string;
  readonly role: Role;
  readonly created: string;
  readonly expires: string;
  /** Whole days until it ends; absent when it has. */
  readonly daysLeft?: number;
  /** Absent: never, or not known. */
  readonly lastUsed?: string;
  readonly state: KeyState;
}

async function listKeys(options: PlaceOptions, terminal: Terminal): Promise<void> {
  const { store } = await registerOf(options);
  const register = await store.read();
  const uses: LastUses = register.keys.length === 0 ? { times: new Map() } : await store.lastUses();
  const now = Date.now();
  const rows = register.keys.map((record): Row => {
    const state = stateOf(record, now);
    const used = "times" in uses ? uses.times.get(record.id) : undefined;
    const { id, name, role, created, expires } = record;
    return {
      id,
      name,
      role,
      created,
      expires,
      ...(state === "active" && { daysLeft: Math.floor((Date.parse(expires) - now) / DAY_MS) }),
      ...(used !== undefined && { lastUsed: new Date(used).toISOString() }),
      state,
    };
  });
  if (options.json) {
    const unknown = "unknown" in uses && { lastUsedUnknown: uses.unknown };
    terminal.out(`${JSON.stringify({ register: store.place, keys: rows, ...unknown }, null, 2)}\n`);
    return;
  }
  const { bold, dim, red, yellow } = terminal.colours;
  terminal.err(dim(`Keys in ${store.place}\n`));
  if (rows.length === 0) {
    terminal.err("There are none; mcp-aks keys create --name NAME --role ROLE makes one.\n");
    return;
  }
  const never = "unknown" in uses ? "unknown" : "never";
  const cells = rows.map((row) => [
    row.id,
    row.name,
    row.role,
    dateOf(row.created),
    row.daysLeft === undefined ? dateOf(row.expires) : `${dateOf(row.expires)} (${days(row.daysLeft)})`,
    row.lastUsed === undefined ? never : timeOf(row.lastUsed),
    row.state,
  ]);
  const heads = ["ID", "NAME", "ROLE", "CREATED", "EXPIRES", "LAST USED", "STATE"];
  const [title = "", ...lines] = table(heads, cells);
  terminal.out(`${bold(title)}\n`);
  const soon = rows.filter(({ daysLeft }) => daysLeft !== undefined && daysLeft < WARN_DAYS);
  rows.forEach((row, at) => {
    const line = lines[at] ?? "";
    terminal.out(`${row.state !== "active" ? dim(line) : soon.includes(row) ? yellow(line) : line}\n`);
  });
  if ("unknown" in uses) terminal.err(dim(`${uses.unknown}\n`));
  for (const { id, name, daysLeft = 0 } of soon) {
    // A rotated key is to end soon; its successor is there.
    if (rows.some((other) => other.name === name && other.id !== id && (other.daysLeft ?? 0) >= WARN_DAYS)) continue;
    terminal.err(`${red("!")} ${name} (${id}) ends in ${days(daysLeft)}: mcp-aks keys rotate ${name}\n`);
  }
}

/** Where the keys are, and what stands in them for the stack. */
async function registerOf({ stack, file }: PlaceOptions): Promise<{ store: RegisterStore; stack: string }> {
  if (file !== undefined) {
    const path = resolve(process.env.INIT_CWD ?? process.cwd(), file);
    return { store: registerFile(path), stack: stack === undefined ? "local" : knownStack(stack) };
  }
  const known = knownStack(stack ?? "dev");
  const { keyRegister } = await deployedOutputs(known, Outputs, {
    reader: "keys",
    otherwise: "For a register on this machine: --file PATH.",
  });
  return { store: await registerVault(keyRegister), stack: known };
}

function keyName(text: string): string {
  if (isKeyName(text)) return text;
  throw new InvalidArgumentError(`It ${KEY_NAME_RULE}.`);
}

const endOf = ({ expires }: KeyRecord): string =>
  Date.parse(expires) > Date.now() ? `works until ${timeOf(expires)}` : "has ended";
const dateOf = (time: string): string => time.slice(0, 10);
/** To the minute, in UTC. */
const timeOf = (time: string): string => `${time.slice(0, 10)} ${time.slice(11, 16)} UTC`;
const days = (count: number): string => (count === 1 ? "1 day" : `${count} days`);
