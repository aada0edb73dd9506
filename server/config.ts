import { resolve } from "node:path";
import { z } from "zod";

/*
 * The server's environment: what a deployment may say to it, and the contract with `infra`, which takes its
 * types from here. Importing this file reads nothing and starts nothing.
 */

const MEBIBYTE = 1024 * 1024;

/** Variables whose values never appear in a message, a log line or a page. */
const SECRET_VARIABLES: ReadonlySet<string> = new Set(["API_KEY_HASHES", "APPLICATIONINSIGHTS_CONNECTION_STRING"]);

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

const flag = z.enum(["true", "false"], { error: "must be true or false" }).transform((value) => value === "true");

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
  AUTH_MODE: withDefault(z.enum(["none", "api-key"], { error: "must be none or api-key" }), "none"),
  /** Keys accepted by `api-key`: comma-separated `sha256:` and 64 hex digits, each the SHA-256 of a whole key. */
  API_KEY_HASHES: optional(
    commaList(
      z.string().regex(/^sha256:[0-9a-f]{64}$/i, "must be a comma-separated list of sha256:<64 hex digits>, one a key"),
    ).transform((hashes) => hashes.map((hash) => hash.slice("sha256:".length).toLowerCase())),
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
  COMMAND_TIMEOUT_SECONDS: withDefault(wholeNumber(1, 3600, "(seconds)"), "60"),
  /** Bytes kept of each of a command's output streams. Default 131072 (128 KiB). */
  COMMAND_OUTPUT_LIMIT_BYTES: withDefault(wholeNumber(1024, 16 * MEBIBYTE, "(bytes)"), String(MEBIBYTE / 8)),
  /** Commands that may run at once in one process. Default 8. */
  COMMAND_CONCURRENCY: withDefault(wholeNumber(1, 256), "8"),
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
  /** Key Vault that holds the server's secrets, such as https://name.vault.azure.net. */
  KEY_VAULT_URL: optional(httpsEndpoint),
  /** Service Bus namespace, by its full host name. */
  SERVICE_BUS_NAMESPACE: optional(
    text("must be a full host name such as name.servicebus.windows.net, without a scheme", (value) =>
      HOST_NAME.test(value),
    ),
  ),
  /** Queue that jobs go to. */
  SERVICE_BUS_QUEUE: optional(
    text("must be a queue name of 1 to 260 letters, digits, dots, dashes, underscores or slashes", (value) =>
      /^[\w./-]{1,260}$/.test(value),
    ),
  ),
  /** Table service that job state is kept in, such as https://name.table.core.windows.net. */
  JOBS_TABLE_ENDPOINT: optional(httpsEndpoint),
  /** Table of job state. */
  JOBS_TABLE_NAME: optional(
    text("must be a table name: a letter, then 2 to 62 letters or digits", (value) =>
      /^[a-z][a-z0-9]{2,62}$/i.test(value),
    ),
  ),
  /** Redis for the cache and the rate limits, by host name. */
  REDIS_HOST: optional(
    text("must be a host name or an IP address, without a scheme or port", (value) => ADDRESS.test(value)),
  ),
  /** Redis port, TLS. Default 10000, Azure Managed Redis's. */
  REDIS_PORT: withDefault(wholeNumber(1, 65_535), "10000"),
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

/** A rule over several variables; it is checked even when others have faults, so that one start lists them all. */
const rule = (path: EnvironmentVariable, message: string) => ({ path: [path], error: message, when: () => true });

/**
 * The environment as one schema: variable names to strings in, a {@link Config} out. Unknown variables are dropped,
 * since every process has many.
 */
export const Environment = z
  .object(variables)
  .refine(
    (env) => env.AUTH_MODE !== "api-key" || env.API_KEY_HASHES === undefined || env.API_KEY_HASHES.length > 0,
    rule("API_KEY_HASHES", "must name at least one key; AUTH_MODE=api-key refuses everyone without"),
  )
  .refine(
    (env) => env.AUTH_MODE !== "api-key" || env.API_KEY_HASHES !== undefined,
    rule("API_KEY_HASHES", "must be set when AUTH_MODE is api-key; give sha256:<64 hex digits> of each key"),
  )
  .refine(
    (env) => env.AUTH_MODE !== "none" || env.API_KEY_HASHES === undefined,
    rule("API_KEY_HASHES", "is set, but AUTH_MODE is none; set AUTH_MODE=api-key, or remove the keys"),
  )
  .refine(
    (env) => env.AUTH_MODE !== "none" || env.ALLOW_UNAUTHENTICATED === true || isLoopback(env.HOST),
    rule(
      "HOST",
      "is beyond loopback, and AUTH_MODE is none: set AUTH_MODE=api-key, or listen on 127.0.0.1, " +
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
    (env) => (env.SERVICE_BUS_NAMESPACE === undefined) === (env.SERVICE_BUS_QUEUE === undefined),
    rule("SERVICE_BUS_QUEUE", "must be set together with SERVICE_BUS_NAMESPACE, or neither"),
  )
  .refine(
    (env) => (env.JOBS_TABLE_ENDPOINT === undefined) === (env.JOBS_TABLE_NAME === undefined),
    rule("JOBS_TABLE_NAME", "must be set together with JOBS_TABLE_ENDPOINT, or neither"),
  )
  .transform((env) => ({
    ...env,
    API_KEY_HASHES: env.API_KEY_HASHES ?? [],
    SHUTDOWN_DRAIN_SECONDS:
      env.SHUTDOWN_DRAIN_SECONDS ?? (isLoopback(env.HOST) ? 0 : Math.min(5, env.SHUTDOWN_GRACE_SECONDS)),
  }));

/** The environment, read and checked. The names stay the variables' own, so that one search finds both ends. */
export type Config = Readonly<z.output<typeof Environment>>;

type Always = "HOST" | "WORKSPACE_PATH";
type Unauthenticated = { AUTH_MODE: "none"; ALLOW_UNAUTHENTICATED: "true"; API_KEY_HASHES?: never };
type WithKeys<Value> = { AUTH_MODE: "api-key"; API_KEY_HASHES: Value; ALLOW_UNAUTHENTICATED?: never };

/**
 * What a deployment gives its container: a variable that the server does not know, or one that it needs and does not
 * get, fails the type check. `Value` is `string`, or whatever stands for one before the deployment is rendered.
 */
export type ServerEnvironment<Value = string> = Record<Always, Value> &
  Partial<Record<Exclude<EnvironmentVariable, Always | keyof WithKeys<Value>>, Value>> &
  (Unauthenticated | WithKeys<Value>);

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
