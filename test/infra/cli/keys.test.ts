import { spawn } from "node:child_process";
import { chmod, mkdir, mkdtemp, readdir, readFile, realpath, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { CHECKOUT } from "../../../infra/cli/checkout.ts";
import { duration } from "../../../infra/cli/duration.ts";
import { merge, newKey, pruned, revoked, rotated } from "../../../infra/cli/keys/register-edits.ts";
import { runProgram } from "../../../infra/cli/program.ts";
import { createKeyRing } from "../../../server/auth/api-keys.ts";
import { parseRegister, REGISTER_SECRET, type Register, stateOf } from "../../../server/auth/key-register.ts";
import { type AzureServices, startAzureServices } from "../../server/azure-services.ts";
import { longAgo, recordOf, registerOf } from "../../server/keys.ts";
import { recordingTerminal } from "./recording-terminal.ts";
import { startServer, statusOf, temporaryDirectory } from "./server-process.ts";

const HOUR = 60 * 60_000;
const DAY = 24 * HOUR;

interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly text: string;
}

async function run(args: readonly string[], ask?: (question: string) => Promise<string>): Promise<Ran> {
  const terminal = { ...recordingTerminal(), ...(ask && { ask }) };
  const code = await runProgram(["keys", ...args], terminal);
  return { code, text: terminal.text(), stdout: terminal.stdout() };
}

/** Whom a key is, to a server that has read the register. */
function callerOf(key: string, register: string) {
  const ring = createKeyRing({ deployment: [] });
  ring.replace(parseRegister(register));
  return ring.find(key);
}

describe("a register in a file", () => {
  let file: string;
  beforeEach(async () => {
    const directory = await mkdtemp(join(tmpdir(), "mcp-keys-test-"));
    file = join(directory, "keys.json");
    return () => rm(directory, { recursive: true, force: true });
  });
  const here = (...args: string[]) => run([...args, "--file", file]);
  const text = () => readFile(file, "utf8");

  test("gets a key whose line is all there is on standard output, and keeps its hash", async () => {
    const { code, stdout, text: said } = await here("create", "--name", "ci", "--role", "operator");
    expect(code).toBe(0);
    expect(stdout).toMatch(/^mcp_local_[A-Za-z0-9]{43}\n$/);
    const key = stdout.trim();
    expect(said.split(key)).toHaveLength(2);
    expect(await text()).not.toContain(key);
    expect(callerOf(key, await text())).toMatchObject({ subject: "key:ci", role: "operator" });
    expect((await stat(file)).mode & 0o077).toBe(0);
    const [record] = parseRegister(await text()).keys;
    expect(Date.parse(record?.expires ?? "") - Date.parse(record?.created ?? "")).toBe(90 * DAY);
  });

  test("serves a server that runs: a created key passes, both of a rotation do, a revoked one does not", async () => {
    const first = (await here("create", "--name", "ci", "--role", "reader")).stdout.trim();
    const server = await startServer({ AUTH_MODE: "api-key", API_KEYS_FILE: file });
    const statusWith = (key: string) => statusOf(server.url, key);
    // A server on a busy machine says that it is overloaded, now and then.
    await expect.poll(() => statusWith(first)).toBe(200);
    const second = (await here("rotate", "ci")).stdout.trim();
    await expect.poll(() => statusWith(second)).toBe(200);
    await expect.poll(() => statusWith(first)).toBe(200);
    const [old] = parseRegister(await text()).keys;
    await here("revoke", old?.id ?? "", "--yes");
    await expect.poll(() => statusWith(first)).toBe(401);
    await expect.poll(() => statusWith(second)).toBe(200);
    await expect
      .poll(async () => (await here("list", "--json")).stdout)
      .toMatch(/"lastUsed": "20[\s\S]*"lastUsed": "20/);
  });

  test("rotates the newest of a name: the same name and role, and the old one ends after the overlap", async () => {
    await here("create", "--name", "ci", "--role", "operator", "--expires", "30d");
    const { stdout } = await here("rotate", "ci", "--overlap", "2d", "--json");
    const report = JSON.parse(stdout);
    expect(report).toMatchObject({ name: "ci", role: "operator", register: file });
    expect(callerOf(report.key, await text())).toMatchObject({ subject: "key:ci", role: "operator", keyId: report.id });
    const [old, next] = parseRegister(await text()).keys;
    expect(report.replaced).toEqual({ id: old?.id, expires: old?.expires });
    expect(Date.parse(old?.expires ?? "") - Date.parse(next?.created ?? "")).toBe(2 * DAY);
    await here("rotate", "ci", "--overlap", "0d");
    const ids = parseRegister(await text()).keys.map((record) => stateOf(record, Date.now()));
    expect(ids).toEqual(["active", "expired", "active"]);
  });

  test("an overlap never makes a key live longer", async () => {
    await here("create", "--name", "ci", "--role", "reader", "--expires", "1d");
    const [before] = parseRegister(await text()).keys;
    await here("rotate", "ci", "--overlap", "30d");
    expect(parseRegister(await text()).keys[0]).toEqual(before);
  });

  test("lists what there is, and warns of what ends soon and has no successor", async () => {
    const end = (days: number) => new Date(Date.now() + days * DAY + HOUR).toISOString();
    await writeFile(
      file,
      registerOf(
        recordOf("a", { name: "ci", expires: end(3) }),
        recordOf("b", { name: "ci", expires: end(80) }),
        recordOf("c", { name: "build", expires: end(13) }),
        recordOf("d", { name: "far", expires: end(14) }),
        recordOf("e", { name: "gone", expires: longAgo }),
        recordOf("f", { name: "lost", revoked: longAgo }),
      ),
    );
    const { stdout, text: said } = await here("list");
    expect(stdout).toMatch(/ci .* \(3 days\) +never +active\n/);
    expect(stdout).toMatch(/gone .* expired\n/);
    expect(stdout).toMatch(/lost .* revoked\n/);
    expect(said.match(/^! .*/gm)).toEqual([
      expect.stringMatching(/^! build \([0-9a-f]{8}\) ends in 13 days: mcp-aks keys rotate build$/),
    ]);
    const { keys } = JSON.parse((await here("list", "--json")).stdout);
    expect(keys.map(({ name, state, daysLeft }: Record<string, unknown>) => [name, state, daysLeft])).toEqual([
      ["ci", "active", 3],
      ["ci", "active", 80],
      ["build", "active", 13],
      ["far", "active", 14],
      ["gone", "expired", undefined],
      ["lost", "revoked", undefined],
    ]);
    expect(JSON.stringify(keys)).not.toContain("sha256");
  });

  test("revokes after asking, and all keys of a name", async () => {
    await writeFile(file, registerOf(recordOf("a"), recordOf("b"), recordOf("c", { name: "other" })));
    const states = async () => parseRegister(await text()).keys.map((record) => stateOf(record, Date.now()));
    const unasked = await here("revoke", "ci");
    expect(unasked.code).toBe(2);
    expect(unasked.text).toMatch(/would revoke ci \([0-9a-f]{8}, reader\) and ci .* say --yes/);
    const questions: string[] = [];
    const answer = (said: string) => (question: string) => {
      questions.push(question);
      return Promise.resolve(said);
    };
    expect((await run(["revoke", "ci", "--file", file], answer(""))).text).toContain("Nothing was revoked.");
    expect(await states()).toEqual(["active", "active", "active"]);
    expect((await run(["revoke", "ci", "--file", file], answer("y"))).code).toBe(0);
    expect(questions[0]).toMatch(/^Revoke ci .*\? Whoever uses it is refused within seconds\./);
    expect(await states()).toEqual(["revoked", "revoked", "active"]);
    const again = await here("revoke", "ci", "--yes");
    expect([again.code, again.text]).toEqual([0, "The key ci was revoked before.\n"]);
  });

  test("keeps what several commands change at the same time", async () => {
    const names = Array.from({ length: 8 }, (_, at) => `ci-${at}`);
    const ran = await Promise.all(names.map((name) => here("create", "--name", name, "--role", "reader")));
    expect(ran.map(({ code }) => code)).toEqual(names.map(() => 0));
    expect(
      parseRegister(await text())
        .keys.map(({ name }) => name)
        .toSorted(),
    ).toEqual(names);
    expect(await readdir(join(file, ".."))).toEqual(["keys.json"]);
  });

  test("with a fault is left as it is, and named", async () => {
    await writeFile(file, '{"version":1,"keys":[{}]}');
    const { code, text: said } = await here("create", "--name", "ci", "--role", "reader");
    expect(code).toBe(1);
    expect(said).toMatch(/keys\.json: The register of keys has faults: keys\.0\.id/);
    expect(await text()).toBe('{"version":1,"keys":[{}]}');
  });

  test("that cannot be written prints no key", async () => {
    const {
      code,
      stdout,
      text: said,
    } = await run(["create", "--name", "ci", "--role", "reader", "--file", "/proc/keys.json"]);
    expect([code, stdout]).toEqual([1, ""]);
    expect(said).toMatch(/\/proc\/keys\.json cannot be used \(E[A-Z]+\); see to its rights/);
  });

  test.each([
    [["create", "--role", "reader"], /required option '--name <name>'/],
    [["create", "--name", "ci"], /required option '--role <role>'/],
    [["create", "--name", "ci", "--role", "root"], /Allowed choices are reader, operator, admin/],
    [["create", "--name", "deadbeef", "--role", "reader"], /not 8 hex digits, which would be a key's id/],
    [["create", "--name", "ci", "--role", "reader", "--expires", "never"], /hours, days or weeks such as 12h/],
    [["rotate", "nobody"], /There is no key "nobody"; there are ci \([0-9a-f]{8}\)/],
    [["revoke", "nobody", "--yes"], /There is no key "nobody"/],
    [["list", "--stack", "prd"], /There is no stack "prd"; did you mean prod\?/],
    [["rotat"], /unknown command 'rotat'[\s\S]*Did you mean rotate/],
  ])("%j is a mistake on the command line", async (args, message) => {
    await writeFile(file, registerOf(recordOf("a")));
    const { code, text: said } = await here(...args);
    expect(code).toBe(2);
    expect(said).toMatch(message);
    expect(said).not.toMatch(/\n\s+at /);
  });

  test("a name is one caller: it has a second key by rotation only", async () => {
    await here("create", "--name", "ci", "--role", "reader");
    const { code, text: said } = await here("create", "--name", "ci", "--role", "admin");
    expect(code).toBe(1);
    expect(said).toMatch(/There is an active key named ci already .* keys rotate ci/);
  });
});

describe("a register in a deployed stack's vault", () => {
  let azure: AzureServices;
  let directory: string;
  let env: Record<string, string>;
  beforeAll(async () => {
    const ends: (() => Promise<void>)[] = [];
    directory = await realpath(await temporaryDirectory((end) => ends.push(end)));
    azure = await startAzureServices(directory);
    env = await azure.personEnv();
    const bin = join(directory, "bin");
    await mkdir(bin);
    const outputs = {
      keyRegister: {
        vaultUrl: azure.vaultUrl,
        secretName: REGISTER_SECRET,
        lastUsed: { tableEndpoint: azure.tableEndpoint, tableName: "jobs" },
      },
    };
    await writeFile(join(bin, "pulumi"), `#!/bin/sh\necho '${JSON.stringify(outputs)}'\n`);
    await chmod(join(bin, "pulumi"), 0o755);
    env = { ...env, PATH: bin + delimiter + env.PATH };
    return async () => {
      for (const end of ends) await end();
    };
  });
  afterAll(() => azure.close());
  beforeEach(() => {
    azure.secrets.clear();
    azure.rows.clear();
    azure.onRequest = undefined;
  });

  /** The command as a process, with its own trust in certificates. */
  async function there(...args: string[]): Promise<Ran> {
    const child = spawn(process.execPath, [join(CHECKOUT, "infra/cli/main.ts"), "keys", ...args, "--stack", "dev"], {
      env: { HOME: directory, ...env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let [stdout, text] = ["", ""];
    child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
      stdout += chunk;
      text += chunk;
    });
    child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk;
    });
    const code = await new Promise<number>((resolve) => child.once("close", (ended) => resolve(ended ?? -1)));
    return { code, stdout, text };
  }
  const newest = () => azure.secrets.get(REGISTER_SECRET)?.at(-1);

  test("takes its first key, whose end is the secret's, and lists it with its last use", async () => {
    const { code, stdout, text } = await there("create", "--name", "ci", "--role", "operator", "--expires", "10d");
    expect(code, text).toBe(0);
    expect(stdout).toMatch(/^mcp_dev_[A-Za-z0-9]{43}\n$/);
    expect(text).toContain("It works within a minute.");
    const value = newest()?.value ?? "";
    expect(value).not.toContain(stdout.trim());
    const [record] = parseRegister(value).keys;
    expect(callerOf(stdout.trim(), value)?.subject).toBe("key:ci");
    expect(newest()?.attributes.exp).toBe(Math.floor(Date.parse(record?.expires ?? "") / 1000));
    azure.rows.set("jobs/1", { PartitionKey: "jobs", RowKey: "1" });
    azure.rows.set("used", {
      PartitionKey: "api-keys",
      RowKey: record?.id,
      lastUsed: "2026-01-31T12:34:56.000Z",
      "lastUsed@odata.type": "Edm.DateTime",
    });
    const list = await there("list");
    expect(list.text).toMatch(/ci +operator .* \(9 days\) +2026-01-31 12:34 UTC +active/);
    expect(list.text).toMatch(/! ci .* ends in 9 days: mcp-aks keys rotate ci/);
  });

  test("is listed without last uses where the table is closed, and that is said", async () => {
    azure.set(REGISTER_SECRET, registerOf(recordOf("a")));
    azure.onRequest = (line) => (line.includes("/jobs") ? 403 : undefined);
    const { code, stdout } = await there("list", "--json");
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      keys: [{ name: "ci", state: "active" }],
      lastUsedUnknown: expect.stringContaining("which only the cluster reaches"),
    });
  });

  test.each([
    ["before the write", /^PUT /, 1],
    ["right after it", /^GET .*\/versions/, 2],
  ])("loses nothing that somebody else changes %s", async (_when, pattern, time) => {
    const [kept, mine] = [recordOf("a", { name: "kept" }), recordOf("b", { name: "mine" })];
    azure.set(REGISTER_SECRET, registerOf(kept, mine));
    // The third page and more of older versions do not hide the new ones.
    for (let at = 0; at < 4; at++) azure.set(REGISTER_SECRET, registerOf(kept, mine));
    let seen = 0;
    azure.onRequest = (line) => {
      // Pages of versions are requests of their own: three for five of them.
      if (pattern.test(line) && ++seen === (time === 1 ? 1 : 4)) {
        const theirs = [{ ...kept, revoked: new Date().toISOString() }, mine, recordOf("c", { name: "theirs" })];
        azure.set(REGISTER_SECRET, registerOf(...theirs));
      }
      return undefined;
    };
    const { code, text } = await there("revoke", "mine", "--yes");
    expect(code, text).toBe(0);
    const register = parseRegister(newest()?.value ?? "");
    const states = register.keys.map((record) => [record.name, stateOf(record, Date.now())]);
    expect(Object.fromEntries(states)).toEqual({ kept: "revoked", mine: "revoked", theirs: "active" });
  });

  test("that refuses the person says which role it takes, and prints no key", async () => {
    azure.onRequest = () => 403;
    const { code, stdout, text } = await there("create", "--name", "ci", "--role", "reader");
    expect([code, stdout]).toEqual([1, ""]);
    expect(text).toMatch(/did not answer: .*403\nIt takes the role Key Vault Secrets Officer/);
    expect(text).not.toMatch(/token-of|\n\s+at /);
  });
});

describe("durations", () => {
  test("are hours, days or weeks, a year at most", () => {
    expect(["12h", "90d", "2w"].map((each) => duration(each))).toEqual([12 * HOUR, 90 * DAY, 14 * DAY]);
    for (const wrong of ["", "90", "d", "1.5d", "-1d", "0d", "367d", "53w", "9999h", "90D", "90 d", "1y", "90d "]) {
      expect(() => duration(wrong), wrong).toThrow("give hours, days or weeks");
    }
    expect(duration("0d", { least: 0 })).toBe(0);
    fc.assert(
      fc.property(fc.string(), (text) => {
        if (!/^\d+[hdw]$/.test(text)) expect(() => duration(text)).toThrow("give hours, days or weeks");
      }),
    );
  });
});

describe("edits made at the same time", () => {
  const now = Date.now();
  const start: Register = { version: 1, keys: ["a", "b", "c"].map((name) => recordOf(name, { name: `key-${name}` })) };
  const edit = fc.array(
    fc.oneof(
      fc.record({ revoke: fc.nat(2), at: fc.nat(1000) }),
      fc.record({ rotate: fc.nat(2), overlap: fc.nat(100 * DAY) }),
    ),
    { maxLength: 5 },
  );
  type Edits = typeof edit extends fc.Arbitrary<infer T> ? T : never;
  const apply = (edits: Edits) =>
    edits.reduce<Register>((register, each) => {
      const { id = "", name = "" } = start.keys["revoke" in each ? each.revoke : each.rotate] ?? {};
      if ("revoke" in each) return revoked(register, new Set([id]), now + each.at);
      const made = newKey({ stack: "dev", name, role: "reader", now, lifetime: DAY });
      return rotated(register, id, made, now + each.overlap);
    }, start);
  const byId = ({ keys }: Register) => Object.fromEntries(keys.map((record) => [record.id, record]));

  test("come to the same whoever puts them together, and no key gains by it", () => {
    fc.assert(
      fc.property(edit, edit, (ones, others) => {
        const [one, other] = [apply(ones), apply(others)];
        const merged = merge(one, other);
        expect(byId(merged)).toEqual(byId(merge(other, one)));
        expect(byId(merge(merged, one))).toEqual(byId(merged));
        for (const each of [one, other]) {
          for (const record of each.keys) {
            const after = byId(merged)[record.id];
            expect(Date.parse(after?.expires ?? "")).toBeLessThanOrEqual(Date.parse(record.expires));
            if (record.revoked !== undefined) expect(after?.revoked).toBeDefined();
          }
        }
      }),
    );
  });

  test("keys stay in the register for 90 days after their end", () => {
    const ended = (days: number) => new Date(now - days * DAY).toISOString();
    const kept = recordOf("x", { expires: ended(89) });
    const gone = [recordOf("y", { expires: ended(91) }), recordOf("z", { revoked: ended(91) })];
    expect(pruned({ version: 1, keys: [kept, ...gone] }, now).keys).toEqual([kept]);
  });
});
