import { mkdir, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import fc from "fast-check";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import { createKeyRing } from "../../server/auth/api-keys.ts";
import { hashOfKey, type KeyRecord, parseRegister } from "../../server/auth/key-register.ts";
import { createApiKeys } from "../../server/auth/key-sources.ts";
import { parseEnvironment } from "../../server/config.ts";
import { createLogger } from "../../server/observability/logging.ts";
import { startServer, statusOf } from "../infra/cli/server-process.ts";
import { longAgo, recordOf, registerOf } from "./keys.ts";
import { quietConnectors } from "./quiet-connectors.ts";
import { temporaryDirectory, testApp } from "./running-app.ts";
import { websocketUrl } from "./websocket-client.ts";

const KEY = "mcp_dev_first";
const OTHER = "mcp_dev_second";
const OWN = "mcp_dev_made-with-the-deployment";

function ring(...records: readonly KeyRecord[]) {
  const made = createKeyRing({ deployment: [hashOfKey(OWN).slice("sha256:".length)] });
  made.replace(parseRegister(registerOf(...records)));
  return made;
}

describe("finding who holds a key", () => {
  test("gives the same frozen caller each time, registers read later included", () => {
    const record = recordOf(KEY, { role: "operator" });
    const keys = ring(record);
    const caller = keys.find(KEY);
    expect(caller).toEqual({ subject: "key:ci", method: "api-key", role: "operator", keyId: record.id });
    expect(Object.isFrozen(caller)).toBe(true);
    keys.replace(parseRegister(registerOf(recordOf(OTHER, { name: "other" }), record)));
    expect(keys.find(KEY)).toBe(caller);
    keys.replace(parseRegister(registerOf({ ...record, role: "reader" })));
    expect(keys.find(KEY)?.role).toBe("reader");
  });

  test("the deployment's own key is an admin's, under its id", () => {
    const id = hashOfKey(OWN).slice("sha256:".length, "sha256:".length + 8);
    expect(ring().find(OWN)).toEqual({ subject: `key:${id}`, method: "api-key", role: "admin", keyId: id });
  });

  test("a rotated key and its successor are one caller, by two keys", () => {
    const keys = ring(recordOf(KEY), recordOf(OTHER));
    expect(keys.find(KEY)?.subject).toBe(keys.find(OTHER)?.subject);
    expect(keys.find(KEY)?.keyId).not.toBe(keys.find(OTHER)?.keyId);
  });

  test("a key ends when it says so, whatever was found before", () => {
    const record = recordOf(KEY);
    const keys = ring(record);
    const end = Date.parse(record.expires);
    expect(keys.find(KEY, end - 1)?.subject).toBe("key:ci");
    expect(keys.find(KEY, end)).toBeUndefined();
  });

  test("a revoked key is none, one of the deployment's that the register revokes included", () => {
    expect(ring(recordOf(KEY, { revoked: longAgo })).find(KEY)).toBeUndefined();
    expect(ring(recordOf(OWN, { revoked: longAgo })).find(OWN)).toBeUndefined();
  });

  test("each of many keys is found as itself", () => {
    const records = Array.from({ length: 100 }, (_, at) => recordOf(`mcp_dev_${at}`, { name: `ci-${at}` }));
    const keys = ring(...records);
    expect(records.map((_, at) => keys.find(`mcp_dev_${at}`)?.keyId)).toEqual(records.map(({ id }) => id));
    expect(keys.find(OWN)?.role).toBe("admin");
    expect(createKeyRing({ deployment: [] }).find(KEY)).toBeUndefined();
  });

  test("nothing but the key itself is the key", () => {
    const keys = ring(recordOf(KEY), recordOf("x".repeat(512), { name: "long" }));
    const near = fc.oneof(
      fc.string({ unit: "binary" }),
      fc.constantFrom("", KEY.toUpperCase(), `${KEY} `, ` ${KEY}`, `${KEY}\0`, KEY.slice(0, -1), hashOfKey(KEY)),
      fc.string().map((more) => `${"x".repeat(512)}x${more}`),
    );
    fc.assert(
      fc.property(near, (guess) => {
        expect(guess === KEY ? undefined : keys.find(guess)).toBeUndefined();
      }),
    );
  });
});

/** Keys of a register in a file, looked at all the time. */
async function watched(path: string) {
  const lines: string[] = [];
  const destination = new PassThrough();
  destination.on("data", (chunk: Buffer) => lines.push(...chunk.toString().split("\n").filter(Boolean)));
  const config = parseEnvironment({ AUTH_MODE: "api-key", API_KEYS_FILE: path });
  const keys = createApiKeys({
    config,
    log: createLogger(config, destination),
    connectors: quietConnectors(),
    intervalMs: 10,
  });
  onTestFinished(() => keys.close());
  const said = (event: string) =>
    lines.filter((line) => (JSON.parse(line) as { event: string }).event === event).length;
  return { keys, said };
}

describe("whether a key still holds", () => {
  test("follows the register, and is nothing to those who came without a key", () => {
    const record = recordOf(KEY);
    const keys = ring(record);
    const [caller, own] = [keys.find(KEY), keys.find(OWN)];
    if (caller === undefined || own === undefined) throw new Error("Both keys are known.");
    // As one that comes by ticket from another replica.
    expect(keys.holds({ ...caller })).toBe(true);
    expect(keys.holds(caller, Date.parse(record.expires))).toBe(false);
    expect(keys.holds(own)).toBe(true);
    keys.replace(parseRegister(registerOf({ ...record, revoked: longAgo })));
    expect(keys.holds(caller)).toBe(false);
    keys.replace(parseRegister(registerOf()));
    expect(keys.holds(caller)).toBe(false);
    expect(keys.holds({ subject: "local", method: "local", role: "admin" })).toBe(true);
  });
});

/** Writes a file at once: who looks meanwhile finds the one text or the other. */
async function replace(path: string, text: string): Promise<void> {
  await writeFile(`${path}.new`, text);
  await rename(`${path}.new`, path);
}

describe("what the metrics tell of keys", () => {
  test("is when the last key in use of each name ends, by its id, of at most a hundred", async () => {
    const soon = new Date(Date.now() + 60_000).toISOString();
    const later = new Date(Date.now() + 120_000).toISOString();
    const rotatedAway = recordOf(KEY, { name: "ci", expires: soon });
    const successor = recordOf(OTHER, { name: "ci", expires: later });
    const path = join(await temporaryDirectory(), "keys.json");
    await writeFile(
      path,
      registerOf(
        successor,
        rotatedAway,
        recordOf("mcp_dev_revoked", { name: "revoked", revoked: longAgo }),
        recordOf("mcp_dev_ended", { name: "ended", expires: longAgo }),
        ...Array.from({ length: 120 }, (_, at) => recordOf(`mcp_dev_many-${at}`, { name: `many-${at}` })),
      ),
    );
    const { operator } = await testApp({ AUTH_MODE: "api-key", API_KEYS_FILE: path });
    const { body } = await operator.inject({ url: "/metrics", headers: { host: "127.0.0.1" } });
    const series = body.split("\n").filter((line) => line.startsWith("mcp_api_key_expiry_timestamp_seconds"));
    expect(series).toHaveLength(100);
    expect(series).toContain(
      `mcp_api_key_expiry_timestamp_seconds{id="${successor.id}"} ${Date.parse(successor.expires) / 1000}`,
    );
    expect(series.join()).not.toContain(rotatedAway.id);
    expect(body).not.toMatch(/revoked|many-/);
  });
});

describe("a register in a file", () => {
  test("is reread when it changes, and kept when it is gone or has a fault", async () => {
    const path = join(await temporaryDirectory(), "keys.json");
    await replace(path, registerOf(recordOf(KEY)));
    const { keys, said } = await watched(path);
    await keys.ready;
    expect(keys.find(KEY)?.subject).toBe("key:ci");
    await replace(path, registerOf(recordOf(OTHER)));
    await expect.poll(() => keys.find(KEY)).toBeUndefined();
    await replace(path, "{");
    await expect.poll(() => said("keys.refused")).toBe(1);
    await rm(path);
    await expect.poll(() => said("keys.unreachable")).toBe(1);
    expect(keys.find(OTHER)?.subject).toBe("key:ci");
    await replace(path, registerOf(recordOf(KEY)));
    await expect.poll(() => keys.find(KEY)?.subject).toBe("key:ci");
  });

  test("is reread when Kubernetes turns the link of its volume", async () => {
    const volume = await temporaryDirectory();
    const turn = async (to: string, register: string) => {
      await mkdir(join(volume, to));
      await writeFile(join(volume, to, "keys.json"), register);
      await symlink(to, join(volume, "..data_tmp"));
      await rename(join(volume, "..data_tmp"), join(volume, "..data"));
    };
    await turn("..2026_01_01", registerOf(recordOf(KEY)));
    await symlink(join("..data", "keys.json"), join(volume, "keys.json"));
    const { keys } = await watched(join(volume, "keys.json"));
    await keys.ready;
    expect(keys.find(KEY)?.subject).toBe("key:ci");
    await turn("..2026_01_02", registerOf(recordOf(OTHER)));
    await expect.poll(() => keys.find(OTHER)?.subject).toBe("key:ci");
    expect(keys.find(KEY)).toBeUndefined();
  });

  test.each([
    ["is not there", undefined, /API_KEYS_FILE=.*keys\.json cannot be used: ENOENT/],
    ["has a fault", '{"version":1}', /cannot be used: The register of keys has faults: keys: /],
  ])("that %s at the start is no register to start with", async (_what, text, message) => {
    const path = join(await temporaryDirectory(), "keys.json");
    if (text !== undefined) await writeFile(path, text);
    const { keys } = await watched(path);
    await expect(keys.ready).rejects.toThrow(message);
  });

  test("has its keys' last use beside it, with what other servers have noted", async () => {
    const path = join(await temporaryDirectory(), "keys.json");
    const [record, other] = [recordOf(KEY), recordOf(OTHER, { name: "other" })];
    await writeFile(path, registerOf(record, other));
    await writeFile(`${path}.used`, JSON.stringify({ version: 1, used: { [other.id]: longAgo } }));
    const { keys } = await watched(path);
    await keys.ready;
    const start = Date.now();
    keys.find(KEY);
    await keys.close();
    const { used } = JSON.parse(await readFile(`${path}.used`, "utf8")) as { used: Record<string, string> };
    expect(used[other.id]).toBe(longAgo);
    expect(Date.parse(used[record.id] ?? "")).toBeGreaterThanOrEqual(start);
  });
});

test("a running server takes a rotated key, and refuses the old one once it is revoked, without a restart", async () => {
  const path = join(await temporaryDirectory(), "keys.json");
  const old = recordOf(KEY);
  await replace(path, registerOf(old));
  const server = await startServer({ AUTH_MODE: "api-key", API_KEYS_FILE: path });
  const statusWith = (key: string) => statusOf(server.url, key);
  const statuses = () => Promise.all([statusWith(KEY), statusWith(OTHER)]);
  // A server on a busy machine says that it is overloaded, now and then.
  await expect.poll(statuses).toEqual([200, 401]);
  await replace(path, registerOf(old, recordOf(OTHER)));
  await expect.poll(statuses).toEqual([200, 200]);
  const socket = await vi.waitFor(() => open(new URL(server.url)), { timeout: 20_000 });
  const closed = new Promise<number>((resolve) => socket.addEventListener("close", ({ code }) => resolve(code)));
  await replace(path, registerOf({ ...old, revoked: new Date().toISOString() }, recordOf(OTHER)));
  await expect.poll(statuses).toEqual([401, 200]);
  // A connection that was opened with it is of no more use.
  socket.send('{"jsonrpc":"2.0","id":1,"method":"ping"}');
  expect(await closed).toBe(1008);
  expect(await server.stop()).toBe(0);
  expect(JSON.parse(await readFile(`${path}.used`, "utf8"))).toHaveProperty(`used.${old.id}`);
});

/** A WebSocket with the first key. */
function open(url: URL): Promise<WebSocket> {
  const options = { protocols: ["mcp"], headers: { authorization: `Bearer ${KEY}` } };
  const socket = new WebSocket(websocketUrl(url), options as unknown as string[]);
  return new Promise((resolve, reject) => {
    socket.addEventListener("open", () => resolve(socket));
    socket.addEventListener("error", () => reject(new Error("The connection was refused.")));
  });
}
