import { dirname, resolve, sep } from "node:path";
import { z } from "zod";

/*
 * The server's environment: what a deployment may say to it, and the contract with `infra`, which takes its
 * types from here. Importing this file reads nothing and starts nothing.
 */

const KIBIBYTE = 1024;
const MEBIBYTE = 1024 * KIBIBYTE;
const GIBIBYTE = 1024 * MEBIBYTE;

/** What callers may be, from the least to the most. */
export const ROLES = ["reader", "operator", "admin"] as const;
export type Role = (typeof ROLES)[number];

/** Bounds on each of a role's commands, and on how many it may run. */
export interface CommandLimits {
  /** Longest run, and the one of a command that names no time. Seconds. */
  readonly timeoutSeconds: number;
  /** CPU time of all processes of the command together. Seconds. */
  readonly cpuSeconds: number;
  /** Memory of all processes of the command together. Bytes. */
  readonly memoryBytes: number;
  /** Processes and threads at once. */
  readonly processes: number;
  /** Largest file that it may write. Bytes. */
  readonly fileBytes: number;
  /** Open files of each process. */
  readonly openFiles: number;
  /** Bytes kept of each output stream. */
  readonly outputBytes: number;
  /** Commands of one caller at once. */
  readonly concurrency: number;
}

/** Names of the limits in COMMAND_ROLE_LIMITS, the range of each, and the variable that sets it for every role. */
const LIMITS = {
  timeout: { limit: "timeoutSeconds", min: 1, max: 3600, unit: "(seconds)" },
  cpu: { limit: "cpuSeconds", min: 1, max: 14_400, unit: "(seconds)" },
  memory: { limit: "memoryBytes", min: 16 * MEBIBYTE, max: 1024 * GIBIBYTE, unit: "(bytes)" },
  processes: { limit: "processes", min: 1, max: 4096, unit: "" },
  "file-size": { limit: "fileBytes", min: 1024, max: 1024 * GIBIBYTE, unit: "(bytes)" },
  "open-files": { limit: "openFiles", min: 16, max: 65_536, unit: "" },
  output: { limit: "outputBytes", min: 1024, max: 16 * MEBIBYTE, unit: "(bytes)" },
  concurrency: { limit: "concurrency", min: 1, max: 256, unit: "" },
} as const satisfies Record<string, { limit: keyof CommandLimits; min: number; max: number; unit: string }>;
type LimitName = keyof typeof LIMITS;

/** Parses `reader:timeout=10,processes=16;admin:timeout=600`. Returns the fault as a sentence instead, if there is one. */
function parseRoleLimits(value: string): Partial<Record<Role, Partial<CommandLimits>>> | string {
  const byRole: Partial<Record<Role, Partial<CommandLimits>>> = {};
  for (const part of value.split(";").map((each) => each.trim())) {
    if (part === "") continue;
    const [name = "", ...rest] = part.split(":");
    const role = ROLES.find((each) => each === name.trim());
    if (role === undefined) return `must name roles among ${ROLES.join(", ")}, not ${JSON.stringify(name.trim())}`;
    const limits: Partial<Record<keyof CommandLimits, number>> = {};
    for (const item of rest.join(":").split(",")) {
      const [key = "", amount = ""] = item.split("=").map((each) => each.trim());
      const known = Object.hasOwn(LIMITS, key) ? LIMITS[key as LimitName] : undefined;
      if (known === undefined) {
        return `must set limits among ${Object.keys(LIMITS).join(", ")} for ${role}, not ${JSON.stringify(key)}`;
      }
      const { limit, min, max, unit } = known;
      if (!/^\d{1,15}$/.test(amount) || Number(amount) < min || Number(amount) > max) {
        return `must give ${role} a ${key} that is a whole number from ${min} to ${max}${unit && ` ${unit}`}`;
      }
      limits[limit] = Number(amount);
    }
    byRole[role] = { ...byRole[role], ...limits };
  }
  return byRole;
}

/** Variables whose values never appear in a message, a log line or a page. */
export const SECRET_VARIABLES: ReadonlySet<string> = new Set([
  "API_KEY_HASHES",
  "APPLICATIONINSIGHTS_CONNECTION_STRING",
]);

/** Trims, and takes an empty string for an unset variable: Kubernetes and shells can hardly express the difference. */
const blankAsUnset = (value: unknown): unknown => {
  if (typeof value !== "string") return value;
  const trimmed = value.trim();
  return trimmed === "" ? undefined : trimmed;
};

const text = (mend: string, accepts: (value: string) => boolean) => z.string({ error: mend }).refine(accepts, mend);

const optional = <T extends z.ZodType>(inner: T) => z.preprocess(blankAsUnset, inner.optional());

const withDefault = <T extends z.ZodType>(inner: T, value: string) =>
  z.preprocess((raw) => blankAsUnset(raw) ?? value, inner);

const wholeNumber = (min: number, max: number, unit = "") => {
  const mend = `must be a whole number from ${min} to ${max}${unit && ` ${unit}`}`;
  return z
    .string({ error: mend })
    .regex(/^\d{1,15}$/, mend)
    .transform(Number)
    .refine((value) => value >= min && value <= max, mend);
};

/** Far above what one process can serve. */
const MOST_A_MINUTE = 1_000_000_000;

const flag = z.enum(["true", "false"], { error: "must be true or false" }).transform((value) => value === "true");

const withinLimit = (name: LimitName) => wholeNumber(LIMITS[name].min, LIMITS[name].max, LIMITS[name].unit);

const roleLimits = z.string().transform((value, context) => {
  const parsed = parseRoleLimits(value);
  if (typeof parsed !== "string") return parsed;
  context.addIssue({ code: "custom", message: parsed });
  return z.NEVER;
});

const commaList = <T extends z.ZodType<string, string>>(item: T) =>
  z
    .string()
    .transform((value) =>
      value
        .split(",")
        .map((part) => part.trim())
        .filter((part) => part !== ""),
    )
    .pipe(z.array(item));

/** A list of nothing, as distinct from a variable that is not set. */
const NO_ITEMS = ",";

const parsedUrl = (value: string): URL | undefined => {
  const url = URL.parse(value);
  return url !== null && url.username === "" && url.password === "" ? url : undefined;
};

/** A fully qualified host name: no scheme, no port, no path. */
const HOST_NAME = /^(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/i;
const ADDRESS = /^(?:[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?|[0-9a-f:.]*:[0-9a-f:.]*)$/i;

const httpsEndpoint = text(
  "must be an https:// URL without credentials, such as https://name.example.net",
  (value) => parsedUrl(value)?.protocol === "https:",
);

/** An emulator's, on this machine. */
const LOOPBACK_WITH_PORT = /^(?:localhost|127\.0\.0\.1):\d{1,5}$/;

const storageEndpoint = text(
  "must be an https:// URL without credentials, such as https://name.example.net; http:// is for an emulator on loopback",
  (value) => {
    const url = parsedUrl(value);
    return url?.protocol === "https:" || (url?.protocol === "http:" && isLoopback(url.hostname));
  },
);

const queueName = text(
  "must be a queue name of 1 to 260 letters, digits, dots, dashes, underscores or slashes",
  (value) => /^[\w./-]{1,260}$/.test(value),
);

const guid = z
  .guid("must be a GUID such as 11111111-2222-3333-4444-555555555555")
  // Tokens have them in small letters, and are compared as they are.
  .transform((value) => value.toLowerCase());

const variables = {
  /** Address to listen on, for both ports. Default 127.0.0.1; `0.0.0.0` in a container. */
  HOST: withDefault(
    text("must be an IP address or a host name, without a port", (value) => ADDRESS.test(value)),
    "127.0.0.1",
  ),
  /** Port of the MCP endpoint and the probes. Default 8080; 0 takes any free port. */
  PORT: withDefault(wholeNumber(0, 65_535), "8080"),
  /** Port of `/metrics` and `/health/detailed`, on the same address. Default 9090; 0 takes any free port. */
  METRICS_PORT: withDefault(wholeNumber(0, 65_535), "9090"),
  /** Least severe level to log. Default `info`. */
  LOG_LEVEL: withDefault(
    z.enum(["fatal", "error", "warn", "info", "debug", "trace", "silent"], {
      error: "must be one of fatal, error, warn, info, debug, trace, silent",
    }),
    "info",
  ),
  /** Name the server gives itself in the protocol. Default `mcp-on-aks`. */
  MCP_SERVER_NAME: withDefault(
    text("must be 1 to 64 letters, digits, dots, dashes or underscores", (value) => /^[\w.-]{1,64}$/.test(value)),
    "mcp-on-aks",
  ),
  /** Directory that the tools work in, made if missing. Default `workspace`, in the current directory. */
  WORKSPACE_PATH: withDefault(
    text("must be a directory other than the root of the file system", (value) => {
      return !value.includes("\0") && resolve(value) !== resolve("/");
    }).transform((value) => resolve(value)),
    "workspace",
  ),
  /** How callers prove who they are. Default `none`, which is for loopback. */
  AUTH_MODE: withDefault(
    z.enum(["none", "api-key", "entra", "entra,api-key"], { error: "must be none, api-key, entra or entra,api-key" }),
    "none",
  ),
  /** Entra tenant that people and applications sign in to: a GUID. */
  ENTRA_TENANT_ID: optional(guid),
  /** Entra application that this server is, by its client id: a GUID. Tokens must be issued for it. */
  ENTRA_CLIENT_ID: optional(guid),
  /** Tenants whose tokens are accepted, comma-separated GUIDs. Default: ENTRA_TENANT_ID alone. */
  ENTRA_ALLOWED_TENANTS: optional(commaList(guid).refine((tenants) => tenants.length > 0, "must name a tenant")),
  /** `true` accepts tokens of version 1.0 too, which applications without requestedAccessTokenVersion 2 get. Default false. */
  ENTRA_V1_TOKENS: withDefault(flag, "false"),
  /** Entra's address in this cloud, set in pods by workload identity. Default https://login.microsoftonline.com/. */
  AZURE_AUTHORITY_HOST: withDefault(
    text("must be an https:// URL without path or credentials; http:// is for loopback", (value) => {
      const url = parsedUrl(value);
      if (url === undefined || url.pathname !== "/" || url.search !== "" || url.hash !== "") return false;
      return url.protocol === "https:" || (url.protocol === "http:" && isLoopback(url.hostname));
    }).transform((value) => new URL(value).href),
    "https://login.microsoftonline.com/",
  ),
  /**
   * Public client of the same tenant, by its client id, that IDEs without a registration of their own sign in as.
   * Unset, every client has to bring one.
   */
  OAUTH_CLIENT_ID: optional(guid),
  /** Proxies in front that append the client's address to X-Forwarded-For, 0 to 4. Default 0: the header is not read. */
  TRUSTED_PROXY_HOPS: withDefault(wholeNumber(0, 4), "0"),
  /** Keys accepted by `api-key`: comma-separated `sha256:` and 64 hex digits, each the SHA-256 of a whole key. */
  API_KEY_HASHES: optional(
    commaList(
      z.string().regex(/^sha256:[0-9a-f]{64}$/i, "must be a comma-separated list of sha256:<64 hex digits>, one a key"),
    ).transform((hashes) => hashes.map((hash) => hash.slice("sha256:".length).toLowerCase())),
  ),
  /**
   * Who has which role, and what roles may do beside what the tools say, as JSON: see `server/auth/roles.ts`. Default: the
   * application's app roles carry the roles, and each tool needs its own.
   */
  ACCESS_POLICY: optional(z.string()),
  /** JSON file with the register of API keys, written by `mcp-aks keys`; reread when it changes. */
  API_KEYS_FILE: optional(
    text("must be the path of a file", (value) => !value.includes("\0")).transform((value) => resolve(value)),
  ),
  /** Secret of KEY_VAULT_URL with the register of API keys; reread every minute. A secret that is not there has no keys. */
  API_KEYS_SECRET: optional(
    text("must be the name of a Key Vault secret: 1 to 127 letters, digits or dashes", (value) =>
      /^[a-z0-9-]{1,127}$/i.test(value),
    ),
  ),
  /** `true` lets a server without authentication listen beyond loopback. Default false. */
  ALLOW_UNAUTHENTICATED: withDefault(flag, "false"),
  /** The MCP endpoint as clients see it; its host and origin are allowed beside loopback's. */
  PUBLIC_URL: optional(
    text("must be an http:// or https:// URL without credentials, such as https://mcp.example.com/mcp", (value) =>
      ["http:", "https:"].includes(parsedUrl(value)?.protocol ?? ""),
    ),
  ),
  /** Web origins whose pages may call the endpoint, comma-separated. Default none. */
  ALLOWED_ORIGINS: withDefault(
    commaList(
      text(
        "must be a comma-separated list of origins such as https://app.example.com, with neither path nor *",
        (value) => isOrigin(value),
      ),
    ),
    NO_ITEMS,
  ),
  /** Longest that a command may run, and how long it runs when its caller names no time. Seconds, default 60. */
  COMMAND_TIMEOUT_SECONDS: withDefault(withinLimit("timeout"), "60"),
  /** CPU time that a command's processes may use together. Seconds, default 60. */
  COMMAND_CPU_SECONDS: withDefault(withinLimit("cpu"), "60"),
  /**
   * Memory that a command's processes may use together. Bytes, default 1073741824 (1 GiB). Node itself does not start
   * with less than 600 MiB. A container needs room for COMMAND_CONCURRENCY times this, or kills what exceeds it.
   */
  COMMAND_MEMORY_BYTES: withDefault(withinLimit("memory"), String(GIBIBYTE)),
  /** Processes and threads that a command may have at once. Default 128. */
  COMMAND_PROCESSES: withDefault(withinLimit("processes"), "128"),
  /** Largest file that a command may write. Bytes, default 1073741824 (1 GiB). */
  COMMAND_FILE_SIZE_BYTES: withDefault(withinLimit("file-size"), String(GIBIBYTE)),
  /** Files that each process of a command may have open. Default 1024. */
  COMMAND_OPEN_FILES: withDefault(withinLimit("open-files"), "1024"),
  /** Bytes kept of each of a command's output streams. Default 131072 (128 KiB). */
  COMMAND_OUTPUT_LIMIT_BYTES: withDefault(withinLimit("output"), String(128 * KIBIBYTE)),
  /** Commands that may run at once in one process, whoever called them. Default 8. */
  COMMAND_CONCURRENCY: withDefault(wholeNumber(1, 256), "8"),
  /** Commands that one caller may run at once in one process. Default 4. */
  COMMAND_CALLER_CONCURRENCY: withDefault(withinLimit("concurrency"), "4"),
  /**
   * Other limits for some roles, such as `reader:timeout=10,processes=16;admin:timeout=600`. Limits are timeout, cpu,
   * memory, processes, file-size, open-files, output and concurrency (of one caller); what a role does not name is as
   * the variables above have it.
   */
  COMMAND_ROLE_LIMITS: withDefault(roleLimits, ";"),
  /** `false`: commands are one program and its arguments, run without a shell. Default true. */
  COMMAND_SHELL: withDefault(flag, "true"),
  /**
   * Programs that commands may be, comma-separated names or absolute paths; only without a shell, which could run
   * anything. Default: every program.
   */
  COMMAND_ALLOWED_PROGRAMS: optional(
    commaList(
      text(
        "must be a comma-separated list of program names or absolute paths, such as git,grep,/opt/tools/lint",
        (value) => /^(?:\/(?:[\w.+-]+\/)*)?[\w.+-]+$/.test(value) && !/(?:^|\/)\.\.?(?:\/|$)/.test(value),
      ),
    ).refine((programs) => programs.length > 0, "must name at least one program; unset, every program is allowed"),
  ),
  /** `false` keeps commands off the network, loopback included. A server that cannot see to that does not start. */
  COMMAND_NETWORK: withDefault(flag, "true"),
  /**
   * `auto`: commands are isolated as well as the kernel lets this user. `required`: the same, but the server does not
   * start unless commands can be kept from other callers' files and from the server's own processes. `off`: no
   * isolation beyond limits, for debugging. Default auto.
   */
  COMMAND_ISOLATION: withDefault(
    z.enum(["auto", "required", "off"], { error: "must be auto, required or off" }),
    "auto",
  ),
  /**
   * Directories that isolated commands find empty, or cannot read, comma-separated; where pods have their tokens.
   * Default `/var/run/secrets,/run/secrets`. The directory of AZURE_FEDERATED_TOKEN_FILE is always one of them.
   */
  COMMAND_HIDDEN_PATHS: withDefault(
    commaList(
      text("must be a comma-separated list of absolute directories other than /", (value) => {
        return /^\/[^\0]*$/.test(value) && resolve(value) !== "/";
      }).transform((value) => resolve(value)),
    ),
    "/var/run/secrets,/run/secrets",
  ),
  /**
   * Bytes that one workspace may hold. Default 1073741824 (1 GiB) for each caller's own workspace, and no bound for
   * the plain one of a server without callers.
   */
  WORKSPACE_QUOTA_BYTES: optional(wholeNumber(MEBIBYTE, 1024 * GIBIBYTE, "(bytes)")),
  /** Files and directories that one workspace may hold. Default 100000, under the same condition. */
  WORKSPACE_QUOTA_FILES: optional(wholeNumber(10, 100_000_000)),
  /** Days after its last use that a caller's workspace is removed. Default 30; 0 keeps them for ever. */
  WORKSPACE_RETENTION_DAYS: withDefault(wholeNumber(0, 3650, "(days)"), "30"),
  /** Largest file content written, copied, searched or returned by one call. Bytes, default 2097152 (2 MiB). */
  FILE_SIZE_LIMIT_BYTES: withDefault(wholeNumber(1024, 64 * MEBIBYTE, "(bytes)"), String(2 * MEBIBYTE)),
  /**
   * Longest result of one tool call; a longer one is kept in the workspace, and its caller gets a link to it. Bytes,
   * default 1048576 (1 MiB), some 250,000 tokens.
   */
  RESULT_LIMIT_BYTES: withDefault(wholeNumber(64 * 1024, 64 * MEBIBYTE, "(bytes)"), String(MEBIBYTE)),
  /** Largest request body. Bytes, default 4194304 (4 MiB), room for the default file limit in base64. */
  REQUEST_BODY_LIMIT_BYTES: withDefault(wholeNumber(1024, 128 * MEBIBYTE, "(bytes)"), String(4 * MEBIBYTE)),
  /**
   * From SIGTERM to the moment when running commands are killed. Seconds, default 25; a pod's
   * terminationGracePeriodSeconds must be at least five more.
   */
  SHUTDOWN_GRACE_SECONDS: withDefault(wholeNumber(0, 3600, "(seconds)"), "25"),
  /**
   * How much of the grace is spent answering new requests as before, with readiness already failing, while load
   * balancers take notice. Seconds; default 5, and 0 on loopback, where nothing balances.
   */
  SHUTDOWN_DRAIN_SECONDS: optional(wholeNumber(0, 600, "(seconds)")),
  /**
   * `true` serves the OpenAPI document of the HTTP surface, and a page to read it, at `/docs`, to everyone who can reach
   * the port. Default: true on loopback, false elsewhere.
   */
  OPENAPI_DOCS: optional(flag),
  /** `false` keeps the audit trail off the standard stream that the log goes to. Default true. */
  AUDIT_STREAM: withDefault(flag, "true"),
  /** File that the audit trail is appended to. Commands do not see its directory. Default none. */
  AUDIT_FILE: optional(
    text(
      "must be an absolute path of a file in a directory other than /, such as /var/log/mcp/audit.jsonl",
      (value) => {
        return /^\/[^\0]+$/.test(value) && !value.endsWith("/") && dirname(resolve(value)) !== "/";
      },
    ).transform((value) => resolve(value)),
  ),
  /** Where Azure takes logs for the rule (Logs Ingestion API), such as https://name-x1y2.westeurope-1.ingest.monitor.azure.com. */
  AUDIT_INGESTION_ENDPOINT: optional(httpsEndpoint),
  /** Immutable id of the data collection rule that takes the audit trail: `dcr-` and 32 hex digits. */
  AUDIT_INGESTION_RULE: optional(
    text("must be the immutable id of a data collection rule: dcr- and 32 hex digits", (value) =>
      /^dcr-[0-9a-f]{32}$/i.test(value),
    ),
  ),
  /**
   * What becomes of calls that change something while the audit trail cannot be kept. `open`: they go on, and what is
   * lost is counted. `closed`: they are refused. Default open.
   */
  AUDIT_FAILURE: withDefault(z.enum(["open", "closed"], { error: "must be open or closed" }), "open"),
  /**
   * Personal data that is masked in the audit trail, comma-separated: `email`, and `ip`, which leaves of a caller's
   * address its network. Or `none`; secrets are masked always. Default `email,ip`.
   */
  AUDIT_MASK: withDefault(
    commaList(z.enum(["email", "ip", "none"], { error: "must be email, ip, email,ip or none" }))
      .refine(
        (masks) => masks.length > 0 && (masks.length === 1 || !masks.includes("none")),
        "must be email, ip, email,ip or none",
      )
      .transform((masks) => masks.filter((mask) => mask !== "none")),
    "email,ip",
  ),
  /** Key Vault that holds the server's secrets, such as https://name.vault.azure.net. */
  KEY_VAULT_URL: optional(httpsEndpoint),
  /** Service Bus namespace, by its full host name. Unset, jobs run in the server itself, and end with it. */
  SERVICE_BUS_NAMESPACE: optional(
    text(
      "must be a full host name such as name.servicebus.windows.net, without a scheme; a port is for an emulator",
      (value) => HOST_NAME.test(value) || LOOPBACK_WITH_PORT.test(value),
    ),
  ),
  /** Queue that jobs go to. */
  SERVICE_BUS_QUEUE: optional(queueName),
  /** Queue with sessions that jobs go to whose submitter wants them in order. */
  SERVICE_BUS_ORDERED_QUEUE: optional(queueName),
  /** Table service that job state is kept in, such as https://name.table.core.windows.net. */
  JOBS_TABLE_ENDPOINT: optional(storageEndpoint),
  /** Table of job state. */
  JOBS_TABLE_NAME: optional(
    text("must be a table name: a letter, then 2 to 62 letters or digits", (value) =>
      /^[a-z][a-z0-9]{2,62}$/i.test(value),
    ),
  ),
  /** Blob service that long arguments and results of jobs are kept in, such as https://name.blob.core.windows.net. */
  JOBS_BLOB_ENDPOINT: optional(storageEndpoint),
  /** Container of those. */
  JOBS_BLOB_CONTAINER: optional(
    text(
      "must be a container name: 3 to 63 small letters, digits and single dashes, letter or digit at both ends",
      (value) => /^(?=.{3,63}$)[a-z0-9]+(?:-[a-z0-9]+)*$/.test(value),
    ),
  ),
  /**
   * How server and workers prove themselves to the queue and the store of jobs. `entra`: by their workload's identity.
   * `emulator`: by the keys that everybody knows, of the Service Bus emulator and of Azurite on this machine. Default
   * entra.
   */
  JOBS_AUTH: withDefault(z.enum(["entra", "emulator"], { error: "must be entra or emulator" }), "entra"),
  /** Jobs that one worker runs at once. Default 4. */
  JOB_CONCURRENCY: withDefault(wholeNumber(1, 256), "4"),
  /** Runs of one job that may be lost or break before it is set aside. Default 5. */
  JOB_ATTEMPTS: withDefault(wholeNumber(1, 100), "5"),
  /** From a job's submission to its end, when its submitter names no time. Seconds, default 3600. */
  JOB_DEADLINE_SECONDS: withDefault(wholeNumber(1, 7 * 86_400, "(seconds)"), "3600"),
  /** How long a job is its worker's without a sign of life. Seconds, default 60. */
  JOB_LEASE_SECONDS: withDefault(wholeNumber(2, 3600, "(seconds)"), "60"),
  /** Days after its end that a job is removed, with its result. Default 7. */
  JOB_RETENTION_DAYS: withDefault(wholeNumber(1, 3650, "(days)"), "7"),
  /** Redis for the cache and the rate limits, by host name. */
  REDIS_HOST: optional(
    text("must be a host name or an IP address, without a scheme or port", (value) => ADDRESS.test(value)),
  ),
  /** Redis port. Default 10000, Azure Managed Redis's. */
  REDIS_PORT: withDefault(wholeNumber(1, 65_535), "10000"),
  /**
   * How the server proves itself to Redis. `entra`: by its workload's identity, as Azure Managed Redis wants it. `none`:
   * not at all, for a Redis of one's own. Default entra.
   */
  REDIS_AUTH: withDefault(z.enum(["entra", "none"], { error: "must be entra or none" }), "entra"),
  /** `false` speaks to Redis in the clear, for one of one's own on this machine. Default true. */
  REDIS_TLS: withDefault(flag, "true"),
  /**
   * Requests a minute of one caller, on all replicas together; 0 for no limit, here and below. Default 600. Who was
   * quiet may send a minute's worth at once, and more as it fills up again, evenly. Callers are counted by tenant and
   * subject. The local user is not limited: over stdio, and without authentication on loopback.
   */
  RATE_LIMIT_PER_MINUTE: withDefault(wholeNumber(0, MOST_A_MINUTE), "600"),
  /** Calls a minute of one tool by one caller. Default 300. */
  RATE_LIMIT_TOOL_PER_MINUTE: withDefault(wholeNumber(0, MOST_A_MINUTE), "300"),
  /** Requests a minute of all callers together. Default 6000. */
  RATE_LIMIT_GLOBAL_PER_MINUTE: withDefault(wholeNumber(0, MOST_A_MINUTE), "6000"),
  /** Bytes a minute of one caller, requests and answers together. Default 67108864 (64 MiB). */
  RATE_LIMIT_BYTES_PER_MINUTE: withDefault(wholeNumber(0, 1024 * GIBIBYTE, "(bytes)"), String(64 * MEBIBYTE)),
  /** Tool calls of one caller at once in one process. Default 16. */
  CALL_CONCURRENCY: withDefault(wholeNumber(0, 65_536), "16"),
  /** Tool calls of all callers at once in one process. Default 256. */
  CALL_GLOBAL_CONCURRENCY: withDefault(wholeNumber(0, 65_536), "256"),
  /** Where telemetry goes. Never printed, though Azure does not call it a secret. */
  APPLICATIONINSIGHTS_CONNECTION_STRING: optional(
    text("must be an Application Insights connection string, with its InstrumentationKey", (value) =>
      /(?:^|;)\s*InstrumentationKey=/i.test(value),
    ),
  ),
};

export type EnvironmentVariable = keyof typeof variables;

/** Every variable that the server reads. */
export const ENVIRONMENT_VARIABLES = Object.keys(variables) as readonly EnvironmentVariable[];

/** Where API keys may come from; one is enough. */
const KEY_SOURCES = ["API_KEY_HASHES", "API_KEYS_FILE", "API_KEYS_SECRET"] as const satisfies EnvironmentVariable[];
/** What makes a queue of jobs, and what keeps what is in it. */
const QUEUE = ["SERVICE_BUS_NAMESPACE", "SERVICE_BUS_QUEUE", "SERVICE_BUS_ORDERED_QUEUE"] as const;
const JOB_STATE = ["JOBS_TABLE_ENDPOINT", "JOBS_TABLE_NAME", "JOBS_BLOB_ENDPOINT", "JOBS_BLOB_CONTAINER"] as const;
/** Compared with care, as above: a faulty value comes here as undefined, or as something else. */
const isEmulator = (place: unknown) =>
  typeof place === "string" && (LOOPBACK_WITH_PORT.test(place) || isLoopback(parsedUrl(place)?.hostname));
/** Whether callers may prove themselves by API key. Compared with care: a faulty AUTH_MODE comes here as undefined. */
const takesKeys = (env: { AUTH_MODE?: unknown }) => env.AUTH_MODE === "api-key" || env.AUTH_MODE === "entra,api-key";
/** Whether they may by an Entra access token. */
const takesTokens = (env: { AUTH_MODE?: unknown }) => env.AUTH_MODE === "entra" || env.AUTH_MODE === "entra,api-key";

/** A rule over several variables; it is checked even when others have faults, so that one start lists them all. */
const rule = (path: EnvironmentVariable, message: string) => ({ path: [path], error: message, when: () => true });

/**
 * The environment as one schema: variable names to strings in, a {@link Config} out. Unknown variables are dropped,
 * since every process has many.
 */
export const Environment = z
  .object(variables)
  .refine(
    (env) => !takesKeys(env) || env.API_KEY_HASHES === undefined || env.API_KEY_HASHES.length > 0,
    rule("API_KEY_HASHES", "must name at least one key; AUTH_MODE=api-key refuses everyone without"),
  )
  .refine(
    (env) => !takesKeys(env) || KEY_SOURCES.some((source) => env[source] !== undefined),
    rule(
      "API_KEY_HASHES",
      "must be set when AUTH_MODE has api-key; give sha256:<64 hex digits> of each key, or a register of keys by " +
        "API_KEYS_FILE or API_KEYS_SECRET",
    ),
  )
  .refine(
    (env) => env.API_KEYS_FILE === undefined || env.API_KEYS_SECRET === undefined,
    rule("API_KEYS_FILE", "is set, and so is API_KEYS_SECRET: there is one register of keys, so remove one of them"),
  )
  .refine(
    (env) => env.API_KEYS_SECRET === undefined || env.KEY_VAULT_URL !== undefined,
    rule("API_KEYS_SECRET", "is set, and KEY_VAULT_URL is not: name the vault that the secret is in"),
  )
  .refine(
    (env) => takesKeys(env) || env.API_KEY_HASHES === undefined,
    rule("API_KEY_HASHES", "is set, but AUTH_MODE takes no keys; set AUTH_MODE=api-key, or remove the keys"),
  )
  .refine(
    (env) => !takesTokens(env) || env.ENTRA_TENANT_ID !== undefined,
    rule("ENTRA_TENANT_ID", "must be set when AUTH_MODE has entra; give the tenant's id, a GUID"),
  )
  .refine(
    (env) => !takesTokens(env) || env.ENTRA_CLIENT_ID !== undefined,
    rule("ENTRA_CLIENT_ID", "must be set when AUTH_MODE has entra; give the application's client id, a GUID"),
  )
  .refine(
    (env) => !takesTokens(env) || env.PUBLIC_URL !== undefined,
    rule("PUBLIC_URL", "must be set when AUTH_MODE has entra; clients find out by it where to sign in"),
  )
  .refine(
    (env) => takesTokens(env) || env.ENTRA_CLIENT_ID === undefined,
    rule("ENTRA_CLIENT_ID", "is set, but AUTH_MODE takes no tokens; set AUTH_MODE=entra, or remove it"),
  )
  .refine(
    (env) => takesKeys(env) || env.API_KEYS_FILE === undefined,
    rule("API_KEYS_FILE", "is set, but AUTH_MODE takes no keys; set AUTH_MODE=api-key, or remove the keys"),
  )
  .refine(
    (env) => takesKeys(env) || env.API_KEYS_SECRET === undefined,
    rule("API_KEYS_SECRET", "is set, but AUTH_MODE takes no keys; set AUTH_MODE=api-key, or remove the keys"),
  )
  .refine(
    (env) => env.AUTH_MODE !== "none" || env.ALLOW_UNAUTHENTICATED === true || isLoopback(env.HOST),
    rule(
      "HOST",
      "is beyond loopback, and AUTH_MODE is none: set AUTH_MODE=entra or api-key, or listen on 127.0.0.1, " +
        "or say ALLOW_UNAUTHENTICATED=true if everyone who can reach it may run commands",
    ),
  )
  .refine(
    (env) => env.PORT === 0 || env.PORT !== env.METRICS_PORT,
    rule("METRICS_PORT", "must differ from PORT, so that metrics stay off the public listener"),
  )
  .refine(
    (env) =>
      typeof env.SHUTDOWN_DRAIN_SECONDS !== "number" ||
      typeof env.SHUTDOWN_GRACE_SECONDS !== "number" ||
      env.SHUTDOWN_DRAIN_SECONDS <= env.SHUTDOWN_GRACE_SECONDS,
    rule("SHUTDOWN_DRAIN_SECONDS", "must not exceed SHUTDOWN_GRACE_SECONDS, of which it is a part"),
  )
  .refine(
    (env) => env.COMMAND_ALLOWED_PROGRAMS === undefined || env.COMMAND_SHELL === false,
    rule("COMMAND_SHELL", "must be false with COMMAND_ALLOWED_PROGRAMS, since a shell runs any program it is told to"),
  )
  .refine(
    (env) => env.COMMAND_ISOLATION !== "off" || env.COMMAND_NETWORK !== false,
    rule("COMMAND_NETWORK", "is false, which needs isolation: set COMMAND_ISOLATION=auto, or COMMAND_NETWORK=true"),
  )
  .refine(
    (env) => env.AUDIT_STREAM !== false || env.AUDIT_FILE !== undefined || env.AUDIT_INGESTION_ENDPOINT !== undefined,
    rule("AUDIT_STREAM", "is false, and the audit trail goes nowhere else; set AUDIT_FILE or AUDIT_INGESTION_ENDPOINT"),
  )
  .refine(
    (env) =>
      typeof env.AUDIT_FILE !== "string" ||
      typeof env.WORKSPACE_PATH !== "string" ||
      !within(env.WORKSPACE_PATH, env.AUDIT_FILE),
    rule("AUDIT_FILE", "must not lie in WORKSPACE_PATH, where callers write"),
  )
  .refine(
    (env) => (env.AUDIT_INGESTION_ENDPOINT === undefined) === (env.AUDIT_INGESTION_RULE === undefined),
    rule("AUDIT_INGESTION_RULE", "must be set together with AUDIT_INGESTION_ENDPOINT, or neither"),
  )
  .refine(
    (env) => QUEUE.every((variable) => (env[variable] === undefined) === (env.SERVICE_BUS_NAMESPACE === undefined)),
    rule("SERVICE_BUS_NAMESPACE", `must be set together with ${QUEUE.slice(1).join(" and ")}, or none of them`),
  )
  .refine(
    (env) => (env.JOBS_TABLE_ENDPOINT === undefined) === (env.JOBS_TABLE_NAME === undefined),
    rule("JOBS_TABLE_NAME", "must be set together with JOBS_TABLE_ENDPOINT, or neither"),
  )
  .refine(
    (env) => (env.JOBS_BLOB_ENDPOINT === undefined) === (env.JOBS_BLOB_CONTAINER === undefined),
    rule("JOBS_BLOB_CONTAINER", "must be set together with JOBS_BLOB_ENDPOINT, or neither"),
  )
  .refine(
    (env) => env.SERVICE_BUS_NAMESPACE === undefined || JOB_STATE.every((variable) => env[variable] !== undefined),
    rule("SERVICE_BUS_NAMESPACE", `is set, and jobs need a place to be kept as well: set ${JOB_STATE.join(", ")}`),
  )
  .refine(
    (env) =>
      [env.SERVICE_BUS_NAMESPACE, env.JOBS_TABLE_ENDPOINT, env.JOBS_BLOB_ENDPOINT].every(
        (place) => place === undefined || isEmulator(place) === (env.JOBS_AUTH === "emulator"),
      ),
    rule(
      "JOBS_AUTH",
      "must be emulator for a queue and a store on this machine (SERVICE_BUS_NAMESPACE=localhost:5672, " +
        "JOBS_TABLE_ENDPOINT=http://127.0.0.1:10002/devstoreaccount1), and entra for all others",
    ),
  )
  .refine(
    (env) => env.REDIS_AUTH !== "entra" || env.REDIS_TLS !== false,
    rule("REDIS_TLS", "must be true with REDIS_AUTH=entra, since a token is no thing to send in the clear"),
  )
  .transform((env) => ({
    ...env,
    API_KEY_HASHES: env.API_KEY_HASHES ?? [],
    ENTRA_ALLOWED_TENANTS:
      env.ENTRA_ALLOWED_TENANTS ?? (env.ENTRA_TENANT_ID === undefined ? [] : [env.ENTRA_TENANT_ID]),
    OPENAPI_DOCS: env.OPENAPI_DOCS ?? isLoopback(env.HOST),
    SHUTDOWN_DRAIN_SECONDS:
      env.SHUTDOWN_DRAIN_SECONDS ?? (isLoopback(env.HOST) ? 0 : Math.min(5, env.SHUTDOWN_GRACE_SECONDS)),
  }));

/** The limits of each role's commands. */
export function commandLimits(config: Config): Readonly<Record<Role, CommandLimits>> {
  const everyone: CommandLimits = {
    timeoutSeconds: config.COMMAND_TIMEOUT_SECONDS,
    cpuSeconds: config.COMMAND_CPU_SECONDS,
    memoryBytes: config.COMMAND_MEMORY_BYTES,
    processes: config.COMMAND_PROCESSES,
    fileBytes: config.COMMAND_FILE_SIZE_BYTES,
    openFiles: config.COMMAND_OPEN_FILES,
    outputBytes: config.COMMAND_OUTPUT_LIMIT_BYTES,
    concurrency: config.COMMAND_CALLER_CONCURRENCY,
  };
  const { reader, operator, admin } = config.COMMAND_ROLE_LIMITS;
  return {
    reader: { ...everyone, ...reader },
    operator: { ...everyone, ...operator },
    admin: { ...everyone, ...admin },
  };
}

/** The environment, read and checked. The names stay the variables' own, so that one search finds both ends. */
export type Config = Readonly<z.output<typeof Environment>>;

const within = (directory: string, path: string) => path.startsWith(directory + sep);

type Always = "HOST" | "WORKSPACE_PATH";
type KeySource = (typeof KEY_SOURCES)[number];
type Unauthenticated = { AUTH_MODE: "none"; ALLOW_UNAUTHENTICATED: "true" } & WithoutKeys & WithoutEntra;
type Authenticated<Value> = { ALLOW_UNAUTHENTICATED?: never } & (
  | ({ AUTH_MODE: "api-key" } & WithKeys<Value> & WithoutEntra)
  | ({ AUTH_MODE: "entra" } & WithoutKeys & WithEntra<Value>)
  | ({ AUTH_MODE: "entra,api-key" } & WithKeys<Value> & WithEntra<Value>)
);
type WithKeys<Value> = Partial<Record<KeySource, Value>> &
  (
    | { API_KEY_HASHES: Value }
    | { API_KEYS_FILE: Value; API_KEYS_SECRET?: never }
    | { API_KEYS_SECRET: Value; API_KEYS_FILE?: never; KEY_VAULT_URL: Value }
  );
type WithoutKeys = Partial<Record<KeySource, never>>;
type WithEntra<Value> = { ENTRA_TENANT_ID: Value; ENTRA_CLIENT_ID: Value; PUBLIC_URL: Value };
type WithoutEntra = { ENTRA_TENANT_ID?: never; ENTRA_CLIENT_ID?: never };
/** What only some of the ways to authenticate have, or must have. */
type ByMode = "AUTH_MODE" | "ALLOW_UNAUTHENTICATED" | KeySource | "ENTRA_TENANT_ID" | "ENTRA_CLIENT_ID";

/**
 * What a deployment gives its container: a variable that the server does not know, or one that it needs and does not
 * get, fails the type check. `Value` is `string`, or whatever stands for one before the deployment is rendered.
 */
export type ServerEnvironment<Value = string> = Record<Always, Value> &
  Partial<Record<Exclude<EnvironmentVariable, Always | ByMode>, Value>> &
  (Unauthenticated | Authenticated<Value>);

/** What a worker cannot do without: it takes no calls, but jobs. */
const WORKER_NEEDS = [...QUEUE, ...JOB_STATE] as const;

/** The same for a worker's container. */
export type WorkerEnvironment<Value = string> = Record<Always | (typeof WORKER_NEEDS)[number], Value> &
  Partial<Record<Exclude<EnvironmentVariable, Always | ByMode | (typeof WORKER_NEEDS)[number]>, Value>>;

/** One wrong variable. `value` is absent when there was none, or when it must not be shown. */
export interface EnvironmentFault {
  readonly variable: string;
  readonly value?: string;
  readonly mend: string;
}

/** Every fault of an environment, one a line in the message. */
export class EnvironmentError extends Error {
  override readonly name = "EnvironmentError";
  readonly faults: readonly EnvironmentFault[];

  constructor(faults: readonly EnvironmentFault[]) {
    const lines = faults.map(({ variable, value, mend }) => {
      return `  ${variable}${value === undefined ? "" : `=${JSON.stringify(value)}`} ${mend}`;
    });
    super(`The environment has ${faults.length === 1 ? "a fault" : `${faults.length} faults`}:\n${lines.join("\n")}`);
    this.faults = faults;
  }
}

/** Reads the server's variables out of `env`. Throws one {@link EnvironmentError} that lists every fault. */
export function parseEnvironment(env: Readonly<Record<string, string | undefined>>): Config {
  const result = Environment.safeParse(env);
  if (result.success) return result.data;
  const faults = new Map<string, EnvironmentFault>();
  for (const issue of result.error.issues) {
    const variable = String(issue.path[0]);
    // One fault a variable: a value that is wrong by itself need not be weighed against the others.
    if (faults.has(variable)) continue;
    const value = env[variable]?.trim();
    const shown = value !== undefined && value !== "" && !SECRET_VARIABLES.has(variable);
    faults.set(variable, { variable, mend: issue.message, ...(shown && { value: withoutCredentials(value) }) });
  }
  throw new EnvironmentError([...faults.values()]);
}

/** What a worker has no use for, since nobody calls it. */
const CALLERS_VARIABLES: readonly EnvironmentVariable[] = [
  "AUTH_MODE",
  ...KEY_SOURCES,
  "ENTRA_TENANT_ID",
  "ENTRA_CLIENT_ID",
];

/** Reads a worker's variables out of `env`: the server's, but for who may call. Throws as {@link parseEnvironment} does. */
export function parseWorkerEnvironment(env: Readonly<Record<string, string | undefined>>): Config {
  const missing = WORKER_NEEDS.filter((variable) => blankAsUnset(env[variable]) === undefined);
  if (missing.length > 0) {
    throw new EnvironmentError(
      missing.map((variable) => ({
        variable,
        mend: "must be set: a worker has a queue to take jobs from, and a store",
      })),
    );
  }
  const unread = Object.fromEntries(CALLERS_VARIABLES.map((variable) => [variable, undefined]));
  return parseEnvironment({ ...env, ...unread, ALLOW_UNAUTHENTICATED: "true" });
}

/** Whether only this machine can reach what listens on `host`. */
export function isLoopback(host: unknown): boolean {
  return typeof host === "string" && /^(localhost|127(\.\d{1,3}){3}|::1)$/i.test(host);
}

function isOrigin(value: string): boolean {
  const url = parsedUrl(value);
  return url !== undefined && ["http:", "https:"].includes(url.protocol) && url.origin === value.toLowerCase();
}

function withoutCredentials(value: string): string {
  return value.replace(/\/\/[^/@\s]*@/g, "//***@");
}
