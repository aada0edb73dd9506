import { readFile, stat } from "node:fs/promises";
import type { FastifyBaseLogger } from "fastify";
import type { Config } from "../config.ts";
import type { Metrics } from "../observability/metrics.ts";
import { azureCredential } from "../services/azure-credential.ts";
import { jobsTableOf } from "../services/jobs-table.ts";
import type { Connectors, WatchedConnector } from "../services/resilience.ts";
import { type ApiKeys, createKeyRing } from "./api-keys.ts";
import { EMPTY_REGISTER, parseRegister, type Register, RegisterFault, stateOf } from "./key-register.ts";
import { createKeyUse, type KeyUse, useFile, useTable } from "./key-use.ts";

/** API keys that are reread while the server runs. */
export interface WatchedApiKeys extends ApiKeys {
  /** Resolves when the keys have been looked for once; rejects when a register in a file cannot be used at the start. */
  readonly ready: Promise<void>;
  /** Looks no more, and writes which keys were last used when. */
  close(): Promise<void>;
}

interface ApiKeysOptions {
  readonly config: Pick<
    Config,
    | "API_KEY_HASHES"
    | "API_KEYS_FILE"
    | "API_KEYS_SECRET"
    | "KEY_VAULT_URL"
    | "JOBS_TABLE_ENDPOINT"
    | "JOBS_TABLE_NAME"
    | "JOBS_AUTH"
  >;
  readonly log: FastifyBaseLogger;
  readonly metrics?: Pick<Metrics, "keysExpire"> | undefined;
  readonly connectors: Connectors;
  /** Time between two looks at the register, instead of the source's own. */
  readonly intervalMs?: number;
}

/** A register as it was found. */
interface Found {
  /** Another one for another text. */
  readonly version: string;
  /** Absent: there is none, and so there are no keys. */
  readonly text?: string;
}

/** Where a register is. */
interface RegisterSource {
  /** For the log. */
  readonly place: string;
  readonly intervalMs: number;
  /** Whether a server must not start without the register. */
  readonly required: boolean;
  /** What is there; undefined: still the version that is known. Rejects when the place cannot be reached. */
  read(known: string | undefined, signal: AbortSignal): Promise<Found | undefined>;
}

/**
 * The keys of the configuration: the deployment's own by their hashes, and those of a register, in a file or in a Key
 * Vault secret, which is looked at again and again. A register that cannot be read, or is not right in all of it,
 * changes nothing: the last good one stays, and the log tells, once, that it is so and once that it is over.
 */
export function createApiKeys({ config, log, metrics, connectors, intervalMs }: ApiKeysOptions): WatchedApiKeys {
  const source = sourceOf(config, connectors);
  const use = useOf(config, connectors, log);
  const ring = createKeyRing({ deployment: config.API_KEY_HASHES, ...(use && { onFound: use.noted }) });
  const close = async () => use?.close();
  if (source === undefined) return { find: ring.find, holds: ring.holds, ready: Promise.resolve(), close };

  const ending = new AbortController();
  let seen: string | undefined;
  let said = "";
  /** Whether the register that was last seen has faults. */
  let refused = false;

  const look = async () => {
    const found = await source.read(seen, ending.signal);
    if (found !== undefined) {
      seen = found.version;
      refused = true;
      const register = found.text === undefined ? EMPTY_REGISTER : parseRegister(found.text);
      refused = false;
      ring.replace(register);
      metrics?.keysExpire(endsOf(register, Date.now()));
      const now = Date.now();
      const active = register.keys.filter((record) => stateOf(record, now) === "active").length;
      log.info({ event: "keys.read", register: source.place, keys: register.keys.length, active });
      said = "";
    } else if (said.startsWith("unreachable")) {
      log.info({ event: "keys.reachable", register: source.place });
      said = refused ? `refused ${seen}` : "";
    }
  };
  const tell = (error: unknown) => {
    const fault = error instanceof RegisterFault;
    const state = fault ? `refused ${seen}` : "unreachable";
    if (state === said) return;
    said = state;
    const event = fault ? "keys.refused" : "keys.unreachable";
    log.error(
      { event, register: source.place, reason: reasonOf(error) },
      "The register of keys that was last read stays.",
    );
  };
  const again = () => {
    if (ending.signal.aborted) return;
    // A server without any register yet looks sooner.
    const wait =
      intervalMs ?? (seen === undefined ? Math.min(FIRST_INTERVAL_MS, source.intervalMs) : source.intervalMs);
    setTimeout(() => void look().catch(tellUnlessEnding).then(again), wait).unref();
  };
  const tellUnlessEnding = (error: unknown) => {
    if (!ending.signal.aborted) tell(error);
  };

  const ready = look()
    .catch((error: unknown) => {
      if (source.required) throw new Error(`${source.place} cannot be used: ${reasonOf(error)}`, { cause: error });
      tellUnlessEnding(error);
    })
    .then(again);
  // Whoever awaits it hears of it; nobody has to.
  ready.catch(() => {});
  return {
    find: ring.find,
    holds: ring.holds,
    ready,
    close() {
      ending.abort();
      return close();
    },
  };
}

/**
 * When the keys in use end: of each name's the last, since a rotated key that runs out has a successor. One that has
 * ended, or was revoked, is nobody's to replace any more.
 */
function endsOf({ keys }: Register, now: number): readonly { id: string; expires: number }[] {
  const active = keys.filter((record) => stateOf(record, now) === "active");
  const ends = active.map(({ id, name, expires }) => ({ id, name, expires: Date.parse(expires) }));
  const last = new Map(ends.toSorted((a, b) => a.expires - b.expires).map((end) => [end.name, end]));
  return [...last.values()];
}

const FIRST_INTERVAL_MS = 5000;

function sourceOf(
  config: ApiKeysOptions["config"],
  connectors: ApiKeysOptions["connectors"],
): RegisterSource | undefined {
  const { API_KEYS_FILE: file, API_KEYS_SECRET: secret, KEY_VAULT_URL: vault } = config;
  if (file !== undefined) return registerFile(file);
  return secret !== undefined && vault !== undefined
    ? registerSecret(vault, secret, connectors.watched("key-vault"))
    : undefined;
}

function useOf(
  config: ApiKeysOptions["config"],
  connectors: ApiKeysOptions["connectors"],
  log: FastifyBaseLogger,
): KeyUse | undefined {
  const { API_KEYS_FILE: file, API_KEYS_SECRET: secret } = config;
  if (file !== undefined) return createKeyUse({ write: useFile(file), log });
  const table = jobsTableOf(config);
  if (secret === undefined || table === undefined) return undefined;
  return createKeyUse({ write: useTable(table, connectors.of("tables")), log });
}

const FILE_INTERVAL_MS = 2000;

/**
 * A register in a file. Looked at rather than watched: a Secret's or ConfigMap's volume changes by turning a symbolic
 * link two directories up, and a network share without any notice.
 */
function registerFile(path: string): RegisterSource {
  return {
    place: `API_KEYS_FILE=${path}`,
    intervalMs: FILE_INTERVAL_MS,
    required: true,
    async read(known) {
      const { dev, ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true });
      const version = [dev, ino, size, mtimeNs, ctimeNs].join(" ");
      // The text may be newer than the version: then it is read once more, which changes nothing.
      return version === known ? undefined : { version, text: await readFile(path, "utf8") };
    },
  };
}

/** How soon a change to a register in Key Vault holds. `mcp-aks keys` promises it. */
const SECRET_INTERVAL_MS = 60_000;
/** Longest that one look may take, retries included. */
const SECRET_TIMEOUT_MS = 10_000;

/** Of a secret that is not there. */
const NO_SECRET = "none";

/**
 * A register in a Key Vault secret. Key Vault knows no conditional GET (its answers have no ETag), so a look is always a
 * read; a version that is known already goes no further. The client tries again by itself, a look at a time is
 * its bulkhead, and the time between two its circuit: no call waits for it.
 */
function registerSecret(vault: string, name: string, connector: WatchedConnector): RegisterSource {
  const client = async () => {
    const { SecretClient } = await import("@azure/keyvault-secrets");
    const retryOptions = { maxRetries: 2, retryDelayInMs: 300, maxRetryDelayInMs: 3000 };
    return new SecretClient(vault, await azureCredential(), { retryOptions });
  };
  let made: ReturnType<typeof client> | undefined;
  return {
    place: `the secret ${name} of ${vault}`,
    intervalMs: SECRET_INTERVAL_MS,
    required: false,
    async read(known, signal) {
      made ??= client();
      const secrets = await made;
      try {
        connector.requested();
        const abortSignal = AbortSignal.any([signal, AbortSignal.timeout(SECRET_TIMEOUT_MS)]);
        const { value = "", properties } = await secrets.getSecret(name, { abortSignal });
        connector.answered();
        const version = properties.version ?? "";
        return version === known ? undefined : { version, text: value };
      } catch (error) {
        if (!isNoSecret(error)) {
          if (!signal.aborted) connector.failed(error);
          throw error;
        }
        connector.answered();
        return known === NO_SECRET ? undefined : { version: NO_SECRET };
      }
    },
  };
}

/** Before the first key was created, there is no secret. A vault that is not there is no answer at all, but a name that does not resolve. */
function isNoSecret(error: unknown): boolean {
  return error instanceof Error && "statusCode" in error && error.statusCode === 404;
}

/** What went wrong, in the words of whoever says it first: no answer of Azure's, nor a register's fault, holds a secret. */
function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const [line = ""] = error.message.split("\n");
  return line.slice(0, 500);
}
