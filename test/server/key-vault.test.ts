import { mkdtemp, realpath, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { REGISTER_SECRET } from "../../server/auth/key-register.ts";
import { createApiKeys } from "../../server/auth/key-sources.ts";
import { parseEnvironment } from "../../server/config.ts";
import { createLogger } from "../../server/observability/logging.ts";
import { startServer, statusOf } from "../infra/cli/server-process.ts";
import { type AzureServices, startAzureServices } from "./azure-services.ts";
import { longAgo, recordOf, registerOf } from "./keys.ts";
import { quietConnectors } from "./quiet-connectors.ts";

const KEY = "mcp_dev_first-of-its-name";
const OTHER = "mcp_dev_second-of-its-name";

let azure: AzureServices;
let directory: string;
beforeAll(async () => {
  directory = await realpath(await mkdtemp(join(tmpdir(), "mcp-vault-test-")));
  azure = await startAzureServices(directory);
  azure.trustHere();
  for (const [name, value] of Object.entries(azure.podEnv)) vi.stubEnv(name, value);
});
afterAll(async () => {
  vi.unstubAllEnvs();
  await azure.close();
  await rm(directory, { recursive: true, force: true });
});

/** A secret of each test's own. */
let secret: string;
let count = 0;
beforeEach(() => {
  secret = `${REGISTER_SECRET}-${++count}`;
  azure.reachable = true;
  azure.onRequest = undefined;
});

function environment(): Record<string, string> {
  return {
    AUTH_MODE: "api-key",
    API_KEYS_SECRET: secret,
    KEY_VAULT_URL: azure.vaultUrl,
    JOBS_TABLE_ENDPOINT: azure.tableEndpoint,
    JOBS_TABLE_NAME: "jobs",
  };
}

/** The keys as a server has them, but looked at all the time. */
function watched() {
  const lines: string[] = [];
  const destination = new PassThrough();
  destination.on("data", (chunk: Buffer) => lines.push(...chunk.toString().split("\n").filter(Boolean)));
  const config = parseEnvironment(environment());
  const keys = createApiKeys({
    config,
    log: createLogger(config, destination),
    connectors: quietConnectors(),
    intervalMs: 20,
  });
  onTestFinished(() => keys.close());
  const events = () => lines.map((line) => JSON.parse(line) as Record<string, unknown>);
  return { keys, events, said: (event: string) => events().filter((each) => each.event === event).length };
}

/** Resolves when the register has been looked at so many times more. */
async function looks(times: number): Promise<void> {
  const before = azure.requests.length;
  await expect.poll(() => azure.requests.length, { interval: 5 }).toBeGreaterThanOrEqual(before + times);
}

describe("a register in Key Vault", () => {
  test("is read by workload identity, and has its keys' names, roles and ends", async () => {
    azure.set(
      secret,
      registerOf(
        recordOf(KEY, { role: "operator" }),
        recordOf(OTHER, { name: "old", expires: longAgo, created: longAgo }),
        recordOf("mcp_dev_lost", { name: "lost", revoked: longAgo }),
      ),
    );
    const { keys, events } = watched();
    await keys.ready;
    expect(keys.find(KEY)).toMatchObject({ subject: "key:ci", method: "api-key", role: "operator" });
    expect(keys.find(OTHER)).toBeUndefined();
    expect(keys.find("mcp_dev_lost")).toBeUndefined();
    expect(events()).toContainEqual(expect.objectContaining({ event: "keys.read", keys: 3, active: 1 }));
  });

  test("that is not there has no keys, until there is one", async () => {
    const { keys } = watched();
    await keys.ready;
    expect(keys.find(KEY)).toBeUndefined();
    azure.set(secret, registerOf(recordOf(KEY)));
    await expect.poll(() => keys.find(KEY)?.subject).toBe("key:ci");
  });

  test("is reread while the server runs: both keys of a rotation work, and the revoked one ends", async () => {
    const old = recordOf(KEY);
    azure.set(secret, registerOf(old));
    const { keys } = watched();
    await keys.ready;
    const caller = keys.find(KEY);
    azure.set(secret, registerOf(old, recordOf(OTHER)));
    await expect.poll(() => keys.find(OTHER)?.subject).toBe("key:ci");
    // The same object as before: what is kept by caller stays with it.
    expect(keys.find(KEY)).toBe(caller);
    azure.set(secret, registerOf({ ...old, revoked: new Date().toISOString() }, recordOf(OTHER)));
    await expect.poll(() => keys.find(KEY)).toBeUndefined();
    expect(keys.find(OTHER)?.role).toBe("reader");
  });

  test("that cannot be reached stays as it was, and the log says so once", async () => {
    azure.set(secret, registerOf(recordOf(KEY)));
    const { keys, said, events } = watched();
    await keys.ready;
    azure.onRequest = () => 403;
    await expect.poll(() => said("keys.unreachable")).toBe(1);
    await looks(5);
    azure.onRequest = undefined;
    await expect.poll(() => said("keys.reachable")).toBe(1);
    await looks(3);
    expect([said("keys.unreachable"), said("keys.reachable"), said("keys.read")]).toEqual([1, 1, 1]);
    expect(keys.find(KEY)?.subject).toBe("key:ci");
    expect(JSON.stringify(events())).not.toMatch(/token-of|sha256:/);
  });

  test("survives a network that leads nowhere, from the start on", async () => {
    azure.set(secret, registerOf(recordOf(KEY)));
    azure.reachable = false;
    const { keys, said } = watched();
    await keys.ready;
    expect(keys.find(KEY)).toBeUndefined();
    expect(said("keys.unreachable")).toBe(1);
    azure.reachable = true;
    await expect.poll(() => keys.find(KEY)?.subject).toBe("key:ci");
  });

  test("with one fault is refused whole, and the last good one kept", async () => {
    azure.set(secret, registerOf(recordOf(KEY)));
    const { keys, said, events } = watched();
    await keys.ready;
    azure.set(secret, JSON.stringify({ version: 1, keys: [recordOf(OTHER), { ...recordOf(KEY), role: "root" }] }));
    await expect.poll(() => said("keys.refused")).toBe(1);
    await looks(3);
    expect(said("keys.refused")).toBe(1);
    expect(events().find(({ event }) => event === "keys.refused")?.reason).toContain(
      "keys.1.role: must be one of reader, operator, admin",
    );
    expect(keys.find(KEY)?.subject).toBe("key:ci");
    expect(keys.find(OTHER)).toBeUndefined();
    azure.set(secret, registerOf(recordOf(OTHER)));
    await expect.poll(() => keys.find(OTHER)?.subject).toBe("key:ci");
  });

  test("has its keys' last use written to the table of job state, once in a while", async () => {
    const key = "mcp_dev_whose-use-is-noted";
    const record = recordOf(key);
    azure.set(secret, registerOf(record));
    const { keys } = watched();
    await keys.ready;
    const start = Date.now();
    for (let at = 0; at < 100; at++) keys.find(key);
    const row = () => azure.rows.get(`api-keys/${record.id}`);
    await expect.poll(row).toBeDefined();
    expect(Date.parse(String(row()?.lastUsed))).toBeGreaterThanOrEqual(start);
    expect(row()?.["lastUsed@odata.type"]).toBe("Edm.DateTime");
    keys.find(key);
    await looks(3);
    expect(azure.requests.filter((line) => line.startsWith("PATCH") && line.includes(record.id))).toHaveLength(1);
  });

  test("is no less good for a last use that cannot be written", async () => {
    azure.set(secret, registerOf(recordOf(KEY)));
    const { keys, said } = watched();
    await keys.ready;
    azure.onRequest = (line) => (line.startsWith("PATCH") ? 403 : undefined);
    keys.find(KEY);
    await expect.poll(() => said("keys.use.unwritten")).toBe(1);
    expect(keys.find(KEY)?.subject).toBe("key:ci");
  });
});

test("a server's process takes the keys of its vault from its first request on", async () => {
  const record = recordOf(KEY, { role: "admin" });
  azure.set(secret, registerOf(record, recordOf(OTHER, { name: "lost", revoked: longAgo })));
  const server = await startServer({ ...azure.podEnv, ...environment() });
  const statusWith = (key: string) => statusOf(server.url, key);
  // A server on a busy machine says that it is overloaded, now and then.
  await expect.poll(() => statusWith(KEY)).toBe(200);
  await expect.poll(() => statusWith(OTHER)).toBe(401);
  expect(await server.stop()).toBe(0);
  // Uses that were not written yet are written at the end.
  expect(azure.rows.get(`api-keys/${record.id}`)).toBeDefined();
});
