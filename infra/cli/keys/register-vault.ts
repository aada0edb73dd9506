import { setTimeout as wait } from "node:timers/promises";
import type { TokenCredential } from "@azure/identity";
import type { SecretClient } from "@azure/keyvault-secrets";
import {
  EMPTY_REGISTER,
  parseRegister,
  type Register,
  RegisterFault,
  stateOf,
  USE_PARTITION,
  UseRow,
} from "../../../server/auth/key-register.ts";
import { azureLogin } from "../azure-login.ts";
import { CliError } from "../cli-error.ts";
import { merge, sound } from "./register-edits.ts";
import type { LastUses, RegisterStore } from "./register-store.ts";

/** Where a deployment keeps its register: what the stack's output `keyRegister` says. */
export interface VaultPlace {
  /** `https://<name>.vault.azure.net/` */
  readonly vaultUrl: string;
  readonly secretName: string;
  /** Where the servers note when keys were last used. */
  readonly lastUsed: { readonly tableEndpoint: string; readonly tableName: string };
}

/** Longest value of a Key Vault secret. Bytes. */
const SECRET_BYTES = 25_000;
/** How often a change is put together with others' that were made at the same time, before it is given up. */
const ROUNDS = 8;
const ROUND_WAIT_MS = 250;
/** Longest that reading last uses may take: the list of keys is worth having without. */
const USES_TIMEOUT_MS = 10_000;

/** A register in a Key Vault secret, read and written with the rights of whoever is logged in to Azure. */
export async function registerVault(place: VaultPlace): Promise<RegisterStore> {
  const [{ SecretClient }, credential] = await Promise.all([import("@azure/keyvault-secrets"), azureLogin()]);
  const register = new SecretRegister(new SecretClient(place.vaultUrl, credential), place);
  return {
    place: `the secret ${place.secretName} of ${place.vaultUrl}`,
    holds: "within a minute",
    read: () => register.read(),
    change: (edit) => register.change(edit),
    lastUses: () => lastUses(place, credential),
  };
}

class SecretRegister {
  readonly #client: SecretClient;
  readonly #place: VaultPlace;

  constructor(client: SecretClient, place: VaultPlace) {
    this.#client = client;
    this.#place = place;
  }

  async read(version?: string): Promise<Register> {
    const { secretName } = this.#place;
    let value: string | undefined;
    try {
      ({ value = "" } = await this.#client.getSecret(secretName, version === undefined ? {} : { version }));
    } catch (error) {
      if (statusOf(error) === 404) return EMPTY_REGISTER;
      throw unreachable(error, this.#place);
    }
    try {
      return parseRegister(value);
    } catch (error) {
      if (!(error instanceof RegisterFault)) throw error;
      throw new CliError(
        `The secret ${secretName} of ${this.#place.vaultUrl}: ${error.message} ` +
          "The servers go on with the version that they read before; set a good one again first.",
      );
    }
  }

  /**
   * Key Vault takes every write, whatever was written since the last read, but keeps every version. So after a write,
   * versions that nobody had seen before it are somebody else's changes, and are put together with this one.
   */
  async change(edit: (register: Register) => Register): Promise<Register> {
    const seen = new Set(await this.#versions());
    let mine = edit(await this.read());
    seen.add(await this.#write(mine));
    for (let round = 1; round <= ROUNDS; round++) {
      const others = (await this.#versions()).filter((version) => !seen.has(version));
      if (others.length === 0) return mine;
      for (const version of others) {
        mine = merge(mine, await this.read(version));
        seen.add(version);
      }
      // Whoever wrote last may have put both together already.
      if (textOf(merge(await this.read(), EMPTY_REGISTER)) === textOf(merge(mine, EMPTY_REGISTER))) return mine;
      await wait(Math.random() * ROUND_WAIT_MS * round);
      seen.add(await this.#write(mine));
    }
    throw new CliError(
      `Others keep changing the secret ${this.#place.secretName}; the last version has your change, and perhaps not ` +
        "all of theirs. See mcp-aks keys list.",
    );
  }

  async #versions(): Promise<string[]> {
    const versions: string[] = [];
    try {
      for await (const { version } of this.#client.listPropertiesOfSecretVersions(this.#place.secretName)) {
        if (version !== undefined) versions.push(version);
      }
    } catch (error) {
      if (statusOf(error) !== 404) throw unreachable(error, this.#place);
    }
    return versions;
  }

  /** Writes a version, and returns its name. */
  async #write(register: Register): Promise<string> {
    const value = textOf(sound(register));
    if (Buffer.byteLength(value) > SECRET_BYTES) {
      throw new CliError(
        `The register would be larger than a Key Vault secret may be, ${SECRET_BYTES} bytes, with its ` +
          `${register.keys.length} keys. Keys are dropped from it 90 days after they ended; have fewer, or longer-lived ones.`,
      );
    }
    try {
      const { properties } = await this.#client.setSecret(this.#place.secretName, value, {
        contentType: "application/json",
        // For the vault's own warnings of secrets that expire; it goes on answering for them after that.
        ...firstEnd(register),
      });
      return properties.version ?? "";
    } catch (error) {
      throw unreachable(error, this.#place);
    }
  }
}

const textOf = (register: Register): string => JSON.stringify(register);

/** When the first name is left without an active key, unless it is given one. */
function firstEnd({ keys }: Register): { expiresOn?: Date } {
  const now = Date.now();
  const ends = new Map<string, number>();
  for (const record of keys) {
    if (stateOf(record, now) !== "active") continue;
    ends.set(record.name, Math.max(ends.get(record.name) ?? 0, Date.parse(record.expires)));
  }
  return ends.size === 0 ? {} : { expiresOn: new Date(Math.min(...ends.values())) };
}

async function lastUses({ lastUsed }: VaultPlace, credential: TokenCredential): Promise<LastUses> {
  const { TableClient, odata } = await import("@azure/data-tables");
  const client = new TableClient(lastUsed.tableEndpoint, lastUsed.tableName, credential, {
    retryOptions: { maxRetries: 0 },
  });
  const times = new Map<string, number>();
  try {
    const rows = client.listEntities({
      queryOptions: { filter: odata`PartitionKey eq ${USE_PARTITION}` },
      abortSignal: AbortSignal.timeout(USES_TIMEOUT_MS),
    });
    for await (const row of rows) {
      const parsed = UseRow.safeParse(row);
      if (parsed.success) times.set(parsed.data.rowKey, parsed.data.lastUsed.getTime());
    }
  } catch {
    return {
      unknown:
        `When keys were last used is in table ${lastUsed.tableName} of ${lastUsed.tableEndpoint}, which only the ` +
        "cluster reaches; the audit trail tells it, too.",
    };
  }
  return { times };
}

const statusOf = (error: unknown): unknown =>
  error instanceof Error && "statusCode" in error ? error.statusCode : undefined;

/** What to do about a vault that does not do what it is asked. */
function unreachable(error: unknown, { vaultUrl }: VaultPlace): unknown {
  if (!(error instanceof Error)) return error;
  const [said = ""] = error.message.split("\n");
  const because = (mend: string) =>
    new CliError(`${vaultUrl} did not answer: ${said}\n${mend}`, undefined, { cause: error });
  if (error.name.includes("Authentication") || error.name.includes("CredentialUnavailable")) {
    return because("Log in first: az login.");
  }
  if (statusOf(error) === 403) {
    return because(
      "It takes the role Key Vault Secrets Officer on the vault (mcp:admins have it), from an address that the vault " +
        "lets in (mcp:authorizedRanges, or inside the network).",
    );
  }
  if ("code" in error && (error.code === "ENOTFOUND" || error.code === "REQUEST_SEND_ERROR")) {
    return because("A vault of a private stack is reached from inside its network only.");
  }
  return "statusCode" in error ? because("What it says is all that is known.") : error;
}
