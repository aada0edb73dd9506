import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { pino } from "pino";
import { Registry } from "prom-client";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Verification } from "../../../infra/cli/audit-verifier.ts";
import { runProgram } from "../../../infra/cli/program.ts";
import { parseEnvironment } from "../../../server/config.ts";
import { createAudit } from "../../../server/observability/audit.ts";
import { createChain } from "../../../server/observability/audit-chain.ts";
import { recordingTerminal } from "./recording-terminal.ts";

let directory: string;
/** Two processes' chains in one file, in turns, and what the ordinary log says of them. */
let mixed: string[];
let log: string[];
/** One process's chain. */
let single: string[];

const linesOf = (text: string) => text.split("\n").filter(Boolean);

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "mcp-audit-verify-"));
  log = [];
  const trail = (path: string, to: string[]) =>
    createAudit({
      config: parseEnvironment({ AUDIT_FILE: path, AUDIT_STREAM: "false" }),
      log: pino({ base: null }, { write: (line) => void to.push(line.trim()) }),
      metrics: { registry: new Registry() },
      version: "1.0.0",
    });
  const caller = { subject: "local", method: "local", role: "admin" } as const;
  const call = (audit: ReturnType<typeof createAudit>, path: string) =>
    audit
      .begin({ caller, tool: "file_operation", changes: false, argumentDigest: "d", safeArguments: { path } })
      .ended({ outcome: "ok", durationMs: 1 });

  const path = join(directory, "mixed.jsonl");
  const [one, two] = [trail(path, log), trail(path, log)];
  for (let at = 0; at < 1500; at++) {
    call(one, `a-${at} "quoted" 😀`);
    if (at % 3 === 0) call(two, `b-${at}`);
    if (at % 50 === 0) await Promise.all([one.flush(), two.flush()]);
  }
  two.decided({ decision: "refused", reason: "no token" });
  await Promise.all([one.close(), two.close()]);
  mixed = linesOf(await readFile(path, "utf8"));

  const short = trail(join(directory, "single.jsonl"), []);
  for (let at = 0; at < 20; at++) call(short, `c-${at}`);
  await short.close();
  single = linesOf(await readFile(join(directory, "single.jsonl"), "utf8"));
});

afterAll(() => rm(directory, { recursive: true }));

let files = 0;

async function file(content: readonly string[] | string): Promise<string> {
  const path = join(directory, `input-${files++}`);
  await writeFile(path, typeof content === "string" ? content : content.map((line) => `${line}\n`).join(""));
  return path;
}

async function run(...args: string[]) {
  const terminal = recordingTerminal();
  const code = await runProgram(["audit", "verify", ...args], terminal);
  return { code, text: terminal.text(), stdout: terminal.stdout() };
}

/** What the command finds in these lines, by --json. */
async function verified(
  content: readonly string[] | string,
  ...args: string[]
): Promise<Verification & { code: number }> {
  const { code, stdout } = await run(await file(content), "--json", ...args);
  return { code, ...(JSON.parse(stdout) as Verification) };
}

const faultsIn = ({ chains }: Verification) => chains.flatMap(({ faults }) => faults);

/** Numbers in a chain of these lines. */
const without = (...numbers: number[]) => single.filter((_, at) => !numbers.includes(at));

describe("a sound trail", () => {
  test("of two processes in turns is told to be, each with its extent", async () => {
    const found = await verified(mixed);
    expect(found).toMatchObject({ code: 0, sound: true, unreadable: 0, others: 0 });
    expect(found.chains.map(({ lines, first, last, ended }) => ({ lines, first, last, ended }))).toEqual([
      { lines: 1502, first: 0, last: 1501, ended: true },
      { lines: 503, first: 0, last: 502, ended: true },
    ]);
  });

  test("agrees with what the log was told", async () => {
    expect(await verified(mixed, "--anchors", await file(log))).toMatchObject({ code: 0, sound: true });
  });

  test("is found between the log's lines, behind a collector's stamps, and with other line ends", async () => {
    const stream = single.flatMap((line) => [line, '{"level":"info","event":"server.listening"}', "plain words"]);
    const found = await verified(stream.map((line) => `2026-01-02T03:04:05.678901234Z stdout F ${line}\r`));
    expect(found).toMatchObject({ code: 0, sound: true, others: 2 * single.length });
  });

  test.each(["Line", "RawData"])("is read from an export's column %s, in lines and as one array", async (column) => {
    const rows = single.map((line) => ({ TimeGenerated: "2026-01-01", [column]: line, Type: "McpAudit_CL" }));
    expect(await verified(rows.map((row) => JSON.stringify(row)))).toMatchObject({ code: 0, chains: [{ lines: 22 }] });
    for (const indent of [0, 2]) {
      expect(await verified(JSON.stringify(rows, null, indent))).toMatchObject({ code: 0, chains: [{ lines: 22 }] });
    }
  });

  test("may be in several files, the oldest first", async () => {
    const [older, newer] = [await file(single.slice(0, 9)), await file(single.slice(9))];
    expect(await run(older, newer)).toMatchObject({ code: 0 });
    expect(await run(newer, older)).toMatchObject({ code: 1 });
  });

  test("is told to people in a line or two for each process", async () => {
    const { text } = await run(await file(single));
    expect(text).toMatch(/^✔ \S+ [0-9a-f-]{36}\n {2}22 lines, 0 to 21, \d{4}-\S+Z to \d{4}-\S+Z: sound\n$/);
  });
});

describe("a trail that is not as it was written", () => {
  const brokenBy = (lines: readonly string[]) =>
    verified(lines).then((found) => ({ code: found.code, faults: faultsIn(found) }));

  test("tells which lines are missing", async () => {
    expect(await brokenBy(without(3))).toEqual({ code: 1, faults: ["line 3 missing"] });
    expect(await brokenBy(without(3, 4, 5, 11))).toEqual({
      code: 1,
      faults: ["lines 3 to 5 missing", "line 11 missing"],
    });
    expect(await brokenBy(without(0, 1))).toEqual({ code: 1, faults: ["lines 0 to 1 missing, the beginning"] });
    expect(await brokenBy(without(20, 21))).toEqual({
      code: 1,
      faults: ["no ending after line 19: the process still runs, was killed, or the rest is missing"],
    });
  });

  test("tells which line was changed, is there twice or is out of place", async () => {
    const changed = single.map((line, at) => (at === 7 ? line.replace("c-6", "c-x") : line));
    expect(await brokenBy(changed)).toEqual({ code: 1, faults: ["line 7 was changed"] });
    expect(await brokenBy(single.toSpliced(7, 0, single[7] ?? ""))).toEqual({
      code: 1,
      faults: ["line 7 is there twice"],
    });
    const swapped = single.with(7, single[8] ?? "").with(8, single[7] ?? "");
    expect(await brokenBy(swapped)).toEqual({ code: 1, faults: ["line 7 missing", "line 7 is out of place"] });
  });

  test("tells of a line that was written anew, hash and all", async () => {
    const forger = createChain(JSON.parse(single[0] ?? "").chain.id);
    const forged = single.slice(0, 8).map((line, at) => {
      const content = line.slice(0, line.indexOf(',"chain":'));
      return forger.seal(at === 7 ? content.replace("c-6", "c-x") : content);
    });
    expect(await brokenBy([...forged, ...single.slice(8)])).toEqual({
      code: 1,
      faults: ["line 8 does not follow the line before it"],
    });
  });

  test("tells of a chain that was written anew from there on, by what the log was told", async () => {
    const [id] = [JSON.parse(mixed[0] ?? "").chain.id];
    const own = mixed.filter((line) => JSON.parse(line).chain.id === id);
    const forger = createChain(id);
    const forged = own.map((line, at) => {
      const content = line.slice(0, line.indexOf(',"chain":'));
      return forger.seal(at === 700 ? content.replace("a-699", "a-x") : content);
    });
    const others = mixed.filter((line) => JSON.parse(line).chain.id !== id);
    const all = [...forged, ...others];
    expect(await verified(all)).toMatchObject({ code: 0 });
    const found = await verified(all, "--anchors", await file(log));
    expect(found.code).toBe(1);
    expect(faultsIn(found)).toEqual([
      "line 1000 has another hash than the log was told",
      "line 1501 has another hash than the log was told",
    ]);
  });

  test("tells of a chain that is missing as a whole, or cut short, by what the log was told", async () => {
    const id = JSON.parse(mixed[0] ?? "").chain.id;
    const anchors = await file(log);
    const gone = await verified(
      mixed.filter((line) => JSON.parse(line).chain.id !== id),
      "--anchors",
      anchors,
      "--part",
    );
    expect(faultsIn(gone)).toEqual(["every line missing; the log was told of the chain"]);
    const cut = await verified(
      mixed.filter((line) => JSON.parse(line).chain.id !== id || JSON.parse(line).chain.seq < 900),
      "--anchors",
      anchors,
      "--part",
    );
    expect(faultsIn(cut)).toEqual(["lines 900 to 1501 missing; the log was told of them"]);
  });

  test("shows, whatever single line is removed, changed, swapped or doubled", async () => {
    const owner = mixed.map((line) => JSON.parse(line).chain.id as string);
    const at = fc.nat(mixed.length - 1);
    const swapOf = (i: number, j: number) => mixed.with(i, mixed[j] ?? "").with(j, mixed[i] ?? "");
    const tampered = fc.oneof(
      at.map((i) => mixed.toSpliced(i, 1)),
      fc.tuple(at, at).map(([i, j]) => mixed.toSpliced(j, 0, mixed[i] ?? "")),
      fc
        .tuple(at, at)
        .filter(([i, j]) => i !== j && owner[i] === owner[j])
        .map(([i, j]) => swapOf(i, j)),
      fc.tuple(at, fc.nat(400), fc.constantFrom("x", "0", '"', "}", "\\", " ")).map(([i, k, character]) => {
        const line = mixed[i] ?? "";
        const place = k % line.length;
        const other = line[place] === character ? "y" : character;
        return mixed.with(i, line.slice(0, place) + other + line.slice(place + 1));
      }),
    );
    await fc.assert(
      fc.asyncProperty(tampered, async (lines) => {
        expect(await verified(lines)).toMatchObject({ code: 1, sound: false });
      }),
      { numRuns: 40 },
    );
  }, 120_000);

  test("has lines that are none any more, and says how many", async () => {
    const { code, text } = await run(await file([...single.slice(0, 21), (single[21] ?? "").slice(0, 200)]));
    expect(code).toBe(1);
    expect(text).toContain("unreadable lines: 1");
    expect(text).toContain(
      "error: The audit trail is not as it was written: the chain is broken, and a line is no line",
    );
    expect(text).not.toContain("not foreseen");
  });

  test("tells what the server itself said that a sink lost", async () => {
    const chain = createChain();
    const common = '"schema":1,"stream":"audit","time":"2026-01-02T03:04:05.678Z"';
    const refused = `{${common},"event":"request.refused","replica":"r","traceId":"${"a".repeat(32)}","reason":"x"`;
    const lines = [
      chain.seal(`{${common},"event":"audit.started","replica":"r","version":"1"`),
      ...[1, 2, 3].map(() => chain.seal(refused)),
      chain.seal(`{${common},"event":"audit.lost","replica":"r","sink":"file","from":1,"to":2,"lines":2`),
      chain.seal(`{${common},"event":"audit.ended","replica":"r","lines":6`),
    ];
    expect(await verified(lines)).toMatchObject({ code: 0 });
    expect(await brokenBy(lines.toSpliced(1, 2))).toEqual({
      code: 1,
      faults: ['lines 1 to 2 missing; line 4 tells that the sink "file" lost 2 of lines 1 to 2'],
    });
  });

  test("does not hide thousands of faults, nor print them", async () => {
    const found = await verified(mixed.filter((_, at) => at % 2 === 0));
    expect(found.chains[0]?.faults).toHaveLength(100);
    expect(found.chains[0]?.faultCount).toBeGreaterThan(300);
  });
});

describe("a part of a trail", () => {
  test("is sound as far as it goes, and only when it is asked for as one", async () => {
    const part = single.slice(5, 15);
    expect(await verified(part)).toMatchObject({ code: 1 });
    const found = await run(await file(part), "--part");
    expect(found.code).toBe(0);
    expect(found.text).toContain("10 lines, 5 to 14");
    expect(found.text).toContain("sound as far as it goes");
  });

  test("still shows what is missing inside", async () => {
    expect(faultsIn(await verified(without(0, 9, 21), "--part"))).toEqual(["line 9 missing"]);
  });
});

describe("the command line", () => {
  test("asks for a file, and for one that is there", async () => {
    expect(await run()).toMatchObject({ code: 2, text: expect.stringContaining("missing required argument 'files'") });
    expect(await run(join(directory, "nothing"))).toMatchObject({
      code: 2,
      text: expect.stringContaining("cannot be read (ENOENT); name a file of lines, or - for standard input."),
    });
    expect(await run("-", "-")).toMatchObject({ code: 2 });
  });

  test("takes nothing at all for no sound trail", async () => {
    for (const content of ["", "[]", "\n\n", '{"event":"other"}\n']) {
      expect(await run(await file(content))).toMatchObject({
        code: 1,
        text: expect.stringContaining("There is no line"),
      });
    }
  });

  test("says so of lines of a form to come", async () => {
    const { code, text } = await run(await file(single.map((line) => line.replace('"schema":1', '"schema":2'))));
    expect(code).toBe(1);
    expect(text).toContain("has form 2, and this version knows 1; use a newer one.");
  });
});
