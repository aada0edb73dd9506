import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  commandLimits,
  ENVIRONMENT_VARIABLES,
  Environment,
  EnvironmentError,
  parseEnvironment,
  type ServerEnvironment,
} from "../../server/config.ts";

const HASH = `sha256:${"ab".repeat(32)}`;

/** What `parseEnvironment` says of `env`; fails the test if it has nothing to say. */
function complaint(env: Record<string, string>): string {
  try {
    parseEnvironment(env);
  } catch (error) {
    if (error instanceof EnvironmentError) return error.message;
    throw error;
  }
  throw new Error("The environment was accepted.");
}

describe("the environment's defaults", () => {
  test("serve the local user without any variable", () => {
    expect(parseEnvironment({})).toMatchObject({
      HOST: "127.0.0.1",
      PORT: 8080,
      METRICS_PORT: 9090,
      LOG_LEVEL: "info",
      AUTH_MODE: "none",
      WORKSPACE_PATH: `${process.cwd()}/workspace`,
      SHUTDOWN_GRACE_SECONDS: 25,
      SHUTDOWN_DRAIN_SECONDS: 0,
    });
  });

  test("take an empty or blank value for an unset one", () => {
    const blank = Object.fromEntries(ENVIRONMENT_VARIABLES.map((name, at) => [name, at % 2 === 0 ? "" : "  "]));
    expect(parseEnvironment(blank)).toEqual(parseEnvironment({}));
  });

  test("ignore variables that are not the server's", () => {
    expect(parseEnvironment({ HOSTNAME: "pod-1", AZURE_CLIENT_ID: "x" })).toEqual(parseEnvironment({}));
  });

  test("show the OpenAPI pages to this machine alone", () => {
    const beyond = { HOST: "0.0.0.0", ALLOW_UNAUTHENTICATED: "true" };
    expect(parseEnvironment({}).OPENAPI_DOCS).toBe(true);
    expect(parseEnvironment(beyond).OPENAPI_DOCS).toBe(false);
    expect(parseEnvironment({ OPENAPI_DOCS: "false" }).OPENAPI_DOCS).toBe(false);
    expect(parseEnvironment({ ...beyond, OPENAPI_DOCS: "true" }).OPENAPI_DOCS).toBe(true);
  });

  test("drain before closing where something balances the load", () => {
    const env = { HOST: "0.0.0.0", AUTH_MODE: "api-key", API_KEY_HASHES: HASH };
    expect(parseEnvironment(env).SHUTDOWN_DRAIN_SECONDS).toBe(5);
    expect(parseEnvironment({ ...env, SHUTDOWN_GRACE_SECONDS: "3" }).SHUTDOWN_DRAIN_SECONDS).toBe(3);
  });
});

describe("Entra's variables", () => {
  const GUID = "ABCDEF00-1111-4111-8111-111111111111";
  const entra = {
    AUTH_MODE: "entra",
    ENTRA_TENANT_ID: GUID,
    ENTRA_CLIENT_ID: "33333333-3333-4333-8333-333333333333",
    PUBLIC_URL: "https://mcp.example.com/mcp",
  };

  test("are few: the tenant is the one that is allowed, in small letters, in the public cloud", () => {
    expect(parseEnvironment(entra)).toMatchObject({
      ENTRA_TENANT_ID: GUID.toLowerCase(),
      ENTRA_ALLOWED_TENANTS: [GUID.toLowerCase()],
      ENTRA_V1_TOKENS: false,
      AZURE_AUTHORITY_HOST: "https://login.microsoftonline.com/",
      TRUSTED_PROXY_HOPS: 0,
    });
    expect(parseEnvironment({ ...entra, AZURE_AUTHORITY_HOST: "https://login.microsoftonline.us" })).toMatchObject({
      AZURE_AUTHORITY_HOST: "https://login.microsoftonline.us/",
    });
    expect(
      parseEnvironment({ ...entra, AUTH_MODE: "entra,api-key", API_KEY_HASHES: HASH }).API_KEY_HASHES,
    ).toHaveLength(1);
  });

  test.each([
    [{ ENTRA_TENANT_ID: "" }, "ENTRA_TENANT_ID must be set when AUTH_MODE has entra; give the tenant's id, a GUID"],
    [{ ENTRA_CLIENT_ID: "" }, "ENTRA_CLIENT_ID must be set when AUTH_MODE has entra"],
    [{ PUBLIC_URL: "" }, "PUBLIC_URL must be set when AUTH_MODE has entra; clients find out by it where to sign in"],
    [
      { ENTRA_TENANT_ID: "contoso.onmicrosoft.com" },
      'ENTRA_TENANT_ID="contoso.onmicrosoft.com" must be a GUID such as',
    ],
    [{ ENTRA_TENANT_ID: "common" }, 'ENTRA_TENANT_ID="common" must be a GUID'],
    [{ ENTRA_ALLOWED_TENANTS: "*" }, 'ENTRA_ALLOWED_TENANTS="*" must be a GUID'],
    [{ ENTRA_ALLOWED_TENANTS: "," }, 'ENTRA_ALLOWED_TENANTS="," must name a tenant'],
    [{ OAUTH_CLIENT_ID: "vscode" }, 'OAUTH_CLIENT_ID="vscode" must be a GUID'],
    [{ AZURE_AUTHORITY_HOST: "http://login.example.com/" }, "must be an https:// URL without path or credentials"],
    [{ AZURE_AUTHORITY_HOST: `https://login.microsoftonline.com/${GUID}` }, "must be an https:// URL without path"],
    [{ TRUSTED_PROXY_HOPS: "5" }, 'TRUSTED_PROXY_HOPS="5" must be a whole number from 0 to 4'],
    [{ AUTH_MODE: "api-key,entra" }, "must be none, api-key, entra or entra,api-key"],
    [{ AUTH_MODE: "entra,api-key" }, "API_KEY_HASHES must be set when AUTH_MODE has api-key"],
    [
      { AUTH_MODE: "none" },
      'ENTRA_CLIENT_ID="33333333-3333-4333-8333-333333333333" is set, but AUTH_MODE takes no tokens',
    ],
    [{ API_KEY_HASHES: HASH }, "API_KEY_HASHES is set, but AUTH_MODE takes no keys"],
  ])("are refused with the mend: %j", (over, message) => {
    expect(complaint({ ...entra, ...over })).toContain(message);
  });
});

describe("limits of commands", () => {
  test("are the same for every role but where a role has its own", () => {
    const config = parseEnvironment({
      COMMAND_TIMEOUT_SECONDS: "30",
      COMMAND_ROLE_LIMITS: " reader: timeout=10, processes=16 ; admin:timeout=600,memory=2147483648,concurrency=8;",
    });
    const { reader, operator, admin } = commandLimits(config);
    expect(operator).toEqual({
      timeoutSeconds: 30,
      cpuSeconds: 60,
      memoryBytes: 1024 ** 3,
      processes: 128,
      fileBytes: 1024 ** 3,
      openFiles: 1024,
      outputBytes: 131_072,
      concurrency: 4,
    });
    expect(reader).toEqual({ ...operator, timeoutSeconds: 10, processes: 16 });
    expect(admin).toEqual({ ...operator, timeoutSeconds: 600, memoryBytes: 2 * 1024 ** 3, concurrency: 8 });
  });
});

describe("a deployment's environment", () => {
  test("parses", () => {
    const environment: ServerEnvironment = {
      HOST: "0.0.0.0",
      WORKSPACE_PATH: "/workspace",
      AUTH_MODE: "api-key",
      API_KEY_HASHES: `${HASH}, sha256:${"CD".repeat(32)}`,
      PUBLIC_URL: "https://mcp-dev.westeurope.cloudapp.azure.com/mcp",
      KEY_VAULT_URL: "https://kv-mcp-dev.vault.azure.net/",
      SERVICE_BUS_NAMESPACE: "sbns-mcp-dev.servicebus.windows.net",
      SERVICE_BUS_QUEUE: "mcp-jobs",
      SERVICE_BUS_ORDERED_QUEUE: "mcp-jobs-ordered",
      JOBS_TABLE_ENDPOINT: "https://stmcpdev.table.core.windows.net/",
      JOBS_TABLE_NAME: "jobs",
      JOBS_BLOB_ENDPOINT: "https://stmcpdev.blob.core.windows.net/",
      JOBS_BLOB_CONTAINER: "jobs",
      REDIS_HOST: "redis-mcp-dev.westeurope.redis.azure.net",
      APPLICATIONINSIGHTS_CONNECTION_STRING:
        "InstrumentationKey=0000;IngestionEndpoint=https://x.in.applicationinsights.azure.com/",
    };
    const config = Environment.parse(environment);
    expect(config.API_KEY_HASHES).toEqual(["ab".repeat(32), "cd".repeat(32)]);
    expect(config.REDIS_PORT).toBe(10_000);
  });

  test("fails the type check with a variable too many, or one too few", () => {
    // @ts-expect-error WORKSPACE_PATH is missing.
    const tooFew: ServerEnvironment = { HOST: "0.0.0.0", AUTH_MODE: "api-key", API_KEY_HASHES: HASH };
    // @ts-expect-error API keys are the point of the mode.
    const noKeys: ServerEnvironment = { HOST: "0.0.0.0", WORKSPACE_PATH: "/workspace", AUTH_MODE: "api-key" };
    // @ts-expect-error An open server must be asked for by name.
    const open: ServerEnvironment = { HOST: "0.0.0.0", WORKSPACE_PATH: "/workspace", AUTH_MODE: "none" };
    const fine = { HOST: "0.0.0.0", WORKSPACE_PATH: "/w", AUTH_MODE: "none", ALLOW_UNAUTHENTICATED: "true" } as const;
    // @ts-expect-error The server knows no such variable.
    const tooMany: ServerEnvironment = { ...fine, LOGLEVEL: "info" };
    // @ts-expect-error Whose tokens, and for which application, is the point of the mode.
    const noTenant: ServerEnvironment = { HOST: "0.0.0.0", WORKSPACE_PATH: "/w", AUTH_MODE: "entra", PUBLIC_URL: "x" };
    expect([tooFew, noKeys, open, tooMany, noTenant]).toHaveLength(5);
  });
});

describe("a wrong value is refused with its name, its value and what to do", () => {
  test.each<[Record<string, string>, string]>([
    [{ HOST: "http://127.0.0.1" }, 'HOST="http://127.0.0.1" must be an IP address or a host name, without a port'],
    [{ HOST: "127.0.0.1:80/x" }, "must be an IP address or a host name"],
    [{ HOST: "0.0.0.0" }, 'HOST="0.0.0.0" is beyond loopback, and AUTH_MODE is none: set AUTH_MODE=entra or api-key'],
    [{ HOST: "::" }, "or say ALLOW_UNAUTHENTICATED=true"],
    [{ PORT: "65536" }, 'PORT="65536" must be a whole number from 0 to 65535'],
    [{ PORT: "8080.5" }, 'PORT="8080.5" must be a whole number'],
    [{ PORT: "0x50" }, 'PORT="0x50" must be a whole number'],
    [{ METRICS_PORT: "-1" }, 'METRICS_PORT="-1" must be a whole number'],
    [{ PORT: "9090" }, "METRICS_PORT must differ from PORT"],
    [{ LOG_LEVEL: "verbose" }, 'LOG_LEVEL="verbose" must be one of fatal, error, warn, info'],
    [{ MCP_SERVER_NAME: "my server" }, 'MCP_SERVER_NAME="my server" must be 1 to 64 letters'],
    [{ WORKSPACE_PATH: "/" }, 'WORKSPACE_PATH="/" must be a directory other than the root'],
    [{ AUTH_MODE: "basic" }, 'AUTH_MODE="basic" must be none, api-key, entra or entra,api-key'],
    [{ AUTH_MODE: "api-key" }, "API_KEY_HASHES must be set when AUTH_MODE has api-key"],
    [{ AUTH_MODE: "api-key", API_KEY_HASHES: "," }, "API_KEY_HASHES must name at least one key"],
    [
      { AUTH_MODE: "api-key", API_KEY_HASHES: "sha256:abcd" },
      "API_KEY_HASHES must be a comma-separated list of sha256:<64 hex digits>",
    ],
    [{ API_KEY_HASHES: HASH }, "API_KEY_HASHES is set, but AUTH_MODE takes no keys"],
    [{ ALLOW_UNAUTHENTICATED: "yes" }, 'ALLOW_UNAUTHENTICATED="yes" must be true or false'],
    [{ PUBLIC_URL: "mcp.example.com" }, 'PUBLIC_URL="mcp.example.com" must be an http:// or https:// URL'],
    [{ ALLOWED_ORIGINS: "*" }, 'ALLOWED_ORIGINS="*" must be a comma-separated list of origins'],
    [{ ALLOWED_ORIGINS: "https://a.example/path" }, "with neither path nor *"],
    [{ COMMAND_TIMEOUT_SECONDS: "0" }, 'COMMAND_TIMEOUT_SECONDS="0" must be a whole number from 1 to 3600 (seconds)'],
    [{ COMMAND_OUTPUT_LIMIT_BYTES: "1k" }, 'COMMAND_OUTPUT_LIMIT_BYTES="1k" must be a whole number'],
    [{ COMMAND_CONCURRENCY: "0" }, 'COMMAND_CONCURRENCY="0" must be a whole number from 1 to 256'],
    [{ COMMAND_CPU_SECONDS: "0" }, 'COMMAND_CPU_SECONDS="0" must be a whole number from 1 to 14400 (seconds)'],
    [{ COMMAND_MEMORY_BYTES: "1G" }, 'COMMAND_MEMORY_BYTES="1G" must be a whole number from 16777216'],
    [{ COMMAND_PROCESSES: "-1" }, 'COMMAND_PROCESSES="-1" must be a whole number from 1 to 4096'],
    [{ COMMAND_OPEN_FILES: "3" }, 'COMMAND_OPEN_FILES="3" must be a whole number from 16'],
    [{ COMMAND_CALLER_CONCURRENCY: "0" }, 'COMMAND_CALLER_CONCURRENCY="0" must be a whole number from 1 to 256'],
    [{ COMMAND_ROLE_LIMITS: "guest:timeout=1" }, 'must name roles among reader, operator, admin, not "guest"'],
    [{ COMMAND_ROLE_LIMITS: "reader:time=1" }, 'concurrency for reader, not "time"'],
    [{ COMMAND_ROLE_LIMITS: "reader:__proto__=1" }, 'concurrency for reader, not "__proto__"'],
    [{ COMMAND_ROLE_LIMITS: "reader" }, 'concurrency for reader, not ""'],
    [
      { COMMAND_ROLE_LIMITS: "admin:timeout=9999" },
      "must give admin a timeout that is a whole number from 1 to 3600 (seconds)",
    ],
    [{ COMMAND_SHELL: "bash" }, 'COMMAND_SHELL="bash" must be true or false'],
    [{ COMMAND_SHELL: "false", COMMAND_ALLOWED_PROGRAMS: "," }, "must name at least one program"],
    [{ COMMAND_SHELL: "false", COMMAND_ALLOWED_PROGRAMS: "ls -l" }, "must be a comma-separated list of program names"],
    [{ COMMAND_SHELL: "false", COMMAND_ALLOWED_PROGRAMS: "bin/ls" }, "must be a comma-separated list of program names"],
    [{ COMMAND_SHELL: "false", COMMAND_ALLOWED_PROGRAMS: "/bin/../ls" }, "must be a comma-separated list of program"],
    [{ COMMAND_ALLOWED_PROGRAMS: "ls" }, "COMMAND_SHELL must be false with COMMAND_ALLOWED_PROGRAMS"],
    [{ COMMAND_ISOLATION: "on" }, 'COMMAND_ISOLATION="on" must be auto, required or off'],
    [{ COMMAND_ISOLATION: "off", COMMAND_NETWORK: "false" }, 'COMMAND_NETWORK="false" is false, which needs isolation'],
    [{ COMMAND_HIDDEN_PATHS: "secrets" }, "must be a comma-separated list of absolute directories other than /"],
    [{ COMMAND_HIDDEN_PATHS: "/run/.." }, "must be a comma-separated list of absolute directories other than /"],
    [{ WORKSPACE_QUOTA_BYTES: "1" }, 'WORKSPACE_QUOTA_BYTES="1" must be a whole number from 1048576'],
    [{ WORKSPACE_QUOTA_FILES: "0" }, 'WORKSPACE_QUOTA_FILES="0" must be a whole number from 10'],
    [{ WORKSPACE_RETENTION_DAYS: "never" }, 'WORKSPACE_RETENTION_DAYS="never" must be a whole number from 0 to 3650'],
    [{ FILE_SIZE_LIMIT_BYTES: "1" }, 'FILE_SIZE_LIMIT_BYTES="1" must be a whole number from 1024'],
    [{ REQUEST_BODY_LIMIT_BYTES: "1e6" }, 'REQUEST_BODY_LIMIT_BYTES="1e6" must be a whole number'],
    [{ SHUTDOWN_DRAIN_SECONDS: "30" }, 'SHUTDOWN_DRAIN_SECONDS="30" must not exceed SHUTDOWN_GRACE_SECONDS'],
    [
      { KEY_VAULT_URL: "http://kv.vault.azure.net" },
      'KEY_VAULT_URL="http://kv.vault.azure.net" must be an https:// URL',
    ],
    [
      { SERVICE_BUS_NAMESPACE: "sb://x", SERVICE_BUS_QUEUE: "q" },
      'SERVICE_BUS_NAMESPACE="sb://x" must be a full host name',
    ],
    [
      { SERVICE_BUS_NAMESPACE: "x.servicebus.windows.net" },
      "must be set together with SERVICE_BUS_QUEUE and SERVICE_BUS_ORDERED_QUEUE, or none of them",
    ],
    [{ JOBS_TABLE_NAME: "jobs" }, 'JOBS_TABLE_NAME="jobs" must be set together with JOBS_TABLE_ENDPOINT'],
    [{ REDIS_AUTH: "password" }, 'REDIS_AUTH="password" must be entra or none'],
    [{ REDIS_TLS: "false" }, 'REDIS_TLS="false" must be true with REDIS_AUTH=entra'],
    [{ RATE_LIMIT_PER_MINUTE: "-1" }, 'RATE_LIMIT_PER_MINUTE="-1" must be a whole number from 0'],
    [{ CALL_CONCURRENCY: "many" }, 'CALL_CONCURRENCY="many" must be a whole number from 0 to 65536'],
    [{ REDIS_PORT: "0" }, 'REDIS_PORT="0" must be a whole number from 1 to 65535'],
    [{ APPLICATIONINSIGHTS_CONNECTION_STRING: "secret" }, "must be an Application Insights connection string"],
  ])("%j", (env, sentence) => {
    expect(complaint(env)).toContain(sentence);
  });

  test("all faults at once, one a variable", () => {
    const message = complaint({
      HOST: "0.0.0.0",
      PORT: "x",
      LOG_LEVEL: "loud",
      API_KEY_HASHES: "nonsense",
      REDIS_PORT: "y",
    });
    expect(message.split("\n").map((line) => line.trim().split(/[= ]/)[0])).toEqual([
      "The",
      "PORT",
      "LOG_LEVEL",
      "API_KEY_HASHES",
      "REDIS_PORT",
      "HOST",
    ]);
  });

  test("secrets and credentials are not repeated", () => {
    const message = complaint({
      AUTH_MODE: "api-key",
      API_KEY_HASHES: "my-actual-key",
      APPLICATIONINSIGHTS_CONNECTION_STRING: "hush-hush",
      PUBLIC_URL: "https://user:swordfish@mcp.example.com",
    });
    expect(message).not.toMatch(/my-actual-key|hush-hush|swordfish/);
    expect(message).toContain("API_KEY_HASHES must be");
  });
});

describe("whatever the environment", () => {
  const environments = fc.dictionary(
    fc.constantFrom(...ENVIRONMENT_VARIABLES),
    fc.oneof(fc.string(), fc.webUrl(), fc.integer().map(String)),
  );

  test("it is read, or refused by a fault that names a variable of it or one it lacks", () => {
    fc.assert(
      fc.property(environments, (env) => {
        try {
          parseEnvironment(env);
        } catch (error) {
          if (!(error instanceof EnvironmentError)) throw error;
          for (const { variable, mend } of error.faults) {
            expect(ENVIRONMENT_VARIABLES).toContain(variable);
            expect(mend).toMatch(/^(must|is) /);
          }
        }
      }),
    );
  });

  test("no server without authentication listens beyond loopback unasked", () => {
    fc.assert(
      fc.property(fc.oneof(fc.ipV4(), fc.ipV6(), fc.domain()), (HOST) => {
        const accepted = Environment.safeParse({ HOST }).success;
        expect(accepted).toBe(/^127\./.test(HOST) || HOST === "::1");
      }),
    );
  });

  test("whole numbers within bounds are read as themselves, others never", () => {
    fc.assert(
      fc.property(fc.integer({ min: -1000, max: 100_000 }), (port) => {
        const result = Environment.safeParse({ PORT: String(port), METRICS_PORT: "0" });
        expect(result.success ? result.data.PORT : undefined).toBe(port >= 0 && port <= 65_535 ? port : undefined);
      }),
    );
  });
});
