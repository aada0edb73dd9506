import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { closeSync, existsSync, openSync, readFileSync } from "node:fs";
import { mkdtemp, readFile, rename, rm } from "node:fs/promises";
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gunzipSync } from "node:zlib";
import { LogsIngestionClient } from "@azure/monitor-ingestion";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import fc from "fast-check";
import { pino } from "pino";
import { Registry } from "prom-client";
import { beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { parseEnvironment } from "../../server/config.ts";
import { AuditUnavailable, type CallRecord, createAudit } from "../../server/observability/audit.ts";
import { AuditLine, isUnchanged, NO_HASH } from "../../server/observability/audit-chain.ts";
import { createIngestionSink } from "../../server/observability/audit-sinks/ingestion.ts";
import { createLineWriter } from "../../server/observability/line-writer.ts";
import { traceIdOf } from "../../server/observability/trace-context.ts";
import type { Caller } from "../../server/tools/define-tool.ts";
import { SECRETS } from "./audit-corpus.ts";
import { temporaryDirectory } from "./running-app.ts";

const ADA: Caller = Object.freeze({
  subject: "0e7a61b2-1111-2222-3333-444455556666",
  tenant: "0e7a61b2-aaaa-bbbb-cccc-444455556666",
  method: "entra",
  role: "operator",
  scopedRole: "reader",
  client: "0e7a61b2-dddd-eeee-ffff-444455556666",
});

const TRACE = "0af7651916cd43dd8448eb211c80319c";

const call = (parts: Partial<CallRecord> = {}): CallRecord => ({
  caller: ADA,
  tool: "file_operation",
  changes: false,
  argumentDigest: "ab".repeat(32),
  safeArguments: { operation: "read", path: "src/index.ts" },
  ...parts,
});

const OK = { outcome: "ok", durationMs: 1.2345 } as const;

/** An audit trail with what it told the log and counted. */
async function audited(
  env: Record<string, string> = {},
  more: Pick<Parameters<typeof createAudit>[0], "stream" | "ingestion"> = {},
) {
  const events: Record<string, unknown>[] = [];
  const registry = new Registry();
  const audit = createAudit({
    config: parseEnvironment(env),
    log: pino({ base: null }, { write: (line) => void events.push(JSON.parse(line)) }),
    metrics: { registry },
    version: "1.2.3",
    ...more,
  });
  onTestFinished(() => audit.close(0));
  const metric = async (name: string, labels: Record<string, string> = {}) => {
    const { values = [] } = (await registry.getSingleMetric(name)?.get()) ?? {};
    return values.find((value) => Object.entries(labels).every(([key, wanted]) => value.labels[key] === wanted))?.value;
  };
  const eventsOf = (event: string) => events.filter((each) => each.event === event);
  return { audit, events, eventsOf, metric };
}

/** One that writes to a file. */
async function inFile(env: Record<string, string> = {}) {
  const path = join(await temporaryDirectory(), "audit.jsonl");
  const trail = await audited({ AUDIT_FILE: path, AUDIT_STREAM: "false", ...env });
  return { ...trail, path, lines: () => linesOf(readFileSync(path, "utf8")) };
}

function linesOf(text: string): AuditLine[] {
  const lines = text.split("\n");
  expect(lines.pop()).toBe("");
  return lines.map((line) => {
    const parsed = AuditLine.parse(JSON.parse(line));
    expect(isUnchanged(line, parsed)).toBe(true);
    return parsed;
  });
}

describe("a line", () => {
  test("tells who called what, how it ended, and when", async () => {
    const { audit, lines } = await inFile();
    audit.begin(call({ traceId: TRACE, address: "203.0.113.9" })).ended(OK);
    await audit.flush();
    const { chain, time, replica, ...line } = lines()[1] ?? {};
    expect(line).toEqual({
      schema: 1,
      stream: "audit",
      event: "tool.called",
      traceId: TRACE,
      ...ADA,
      address: "203.0.113.0/24",
      tool: "file_operation",
      argumentDigest: "ab".repeat(32),
      arguments: { operation: "read", path: "src/index.ts" },
      outcome: "ok",
      durationMs: 1.2,
    });
    expect(Math.abs(Date.parse(String(time)) - Date.now())).toBeLessThan(60_000);
    expect(replica).not.toBe("");
  });

  test("tells of a refused request and a denied call, with what is known of them", async () => {
    const { audit, lines } = await inFile({ AUDIT_MASK: "email" });
    audit.decided({ decision: "refused", reason: "no token", address: "203.0.113.9", method: "POST", path: "/mcp" });
    audit.decided({ decision: "denied", reason: "hidden", caller: ADA, tool: "execute_command", traceId: TRACE });
    await audit.flush();
    const [, refused, denied] = lines();
    expect(refused).toMatchObject({
      ...{ event: "request.refused", reason: "no token", address: "203.0.113.9", requestMethod: "POST", path: "/mcp" },
      traceId: expect.stringMatching(/^[0-9a-f]{32}$/),
    });
    expect(denied).toMatchObject({ event: "call.denied", reason: "hidden", tool: "execute_command", ...ADA });
  });

  test("holds no secret, wherever it comes from", async () => {
    const { audit, path } = await inFile();
    for (const { text } of SECRETS) {
      const [name = ""] = text.split("=");
      audit.begin(call({ safeArguments: { command: text, [name]: "x" } })).ended(OK);
      audit.begin(call({ tool: text })).ended(OK);
      audit.decided({
        decision: "refused",
        reason: text,
        path: `/mcp?${text}`,
        method: text,
        tool: text,
        address: text,
      });
    }
    audit
      .begin(call({ safeArguments: { password: "swordfish", apiKey: "swordfish", author: "ada@example.com" } }))
      .ended(OK);
    await audit.flush();
    const written = readFileSync(path, "utf8");
    // The names of arguments are the tools' own; here some are whole secrets all the same.
    for (const { secret } of SECRETS) expect(written.includes(JSON.stringify(secret).slice(1, -1)), secret).toBe(false);
    expect(written).not.toMatch(/swordfish|ada@example/);
  });

  test("stays within a column of Log Analytics, whatever a caller sends", async () => {
    const { audit, lines, path } = await inFile();
    const strings = fc.string({
      unit: fc.constantFrom("\u0000", "\n", '"', "\ud800", "😀", "a", " "),
      maxLength: 5000,
    });
    const records = fc.sample(fc.dictionary(fc.string({ maxLength: 40 }), strings, { maxKeys: 20 }), 60);
    for (const safeArguments of records) audit.begin(call({ safeArguments })).ended(OK);
    for (const text of fc.sample(strings, 60)) {
      audit.decided({
        decision: "refused",
        reason: text,
        path: text,
        method: text,
        tool: text,
        traceId: text,
        address: text,
      });
    }
    await audit.flush();
    expect(lines()).toHaveLength(121);
    for (const line of readFileSync(path, "utf8").split("\n")) expect(Buffer.byteLength(line)).toBeLessThan(64 * 1024);
  });

  test("has the trace id of a W3C traceparent, and of nothing else", () => {
    expect(traceIdOf(`00-${TRACE}-b7ad6b7169203331-01`)).toBe(TRACE);
    expect(traceIdOf(`01-${TRACE}-b7ad6b7169203331-01-more`)).toBe(TRACE);
    const none = [
      `ff-${TRACE}-b7ad6b7169203331-01`,
      `00-${"0".repeat(32)}-b7ad6b7169203331-01`,
      `00-${TRACE}`,
      TRACE.toUpperCase(),
      "",
      undefined,
      7,
    ];
    for (const each of none) expect(traceIdOf(each)).toBeUndefined();
  });
});

describe("the chain", () => {
  test("begins with the process, links every line, and ends once", async () => {
    const { audit, lines } = await inFile();
    for (let at = 0; at < 5; at++) audit.begin(call()).ended(OK);
    const late = audit.begin(call());
    await audit.close();
    await audit.close();
    late.ended(OK);
    audit.decided({ decision: "refused", reason: "late" });
    const written = lines();
    expect(written.map(({ event }) => event)).toEqual([
      "audit.started",
      ...Array(5).fill("tool.called"),
      "audit.ended",
    ]);
    expect(written.map(({ chain }) => chain.seq)).toEqual([0, 1, 2, 3, 4, 5, 6]);
    expect(written.map(({ chain }) => chain.prev)).toEqual(
      [NO_HASH, ...written.map(({ chain }) => chain.hash)].slice(0, 7),
    );
    expect(new Set(written.map(({ chain }) => chain.id)).size).toBe(1);
    expect(written.at(-1)).toMatchObject({ lines: 7 });
  });

  test("is told to the log at its beginning, every thousand lines, and at its end", async () => {
    const { audit, lines, eventsOf } = await inFile();
    for (let at = 0; at < 2500; at++) audit.begin(call()).ended(OK);
    await audit.close();
    const written = lines();
    const anchors = eventsOf("audit.anchored");
    expect(anchors.map(({ seq }) => seq)).toEqual([0, 1000, 2000, 2501]);
    for (const { chain, seq, hash } of anchors) {
      expect(written[Number(seq)]?.chain).toMatchObject({ id: chain, seq, hash });
    }
  });

  test("tells of each call once", async () => {
    const { audit, lines } = await inFile();
    const begun = audit.begin(call());
    begun.ended(OK);
    begun.ended({ outcome: "broken", durationMs: 2 });
    await audit.flush();
    expect(lines().map(({ event }) => event)).toEqual(["audit.started", "tool.called"]);
  });
});

describe("a file", () => {
  test("is its owner's alone, and is appended to", async () => {
    const directory = await temporaryDirectory();
    const path = join(directory, "audit.jsonl");
    for (let process = 0; process < 2; process++) {
      const { audit } = await audited({ AUDIT_FILE: path, AUDIT_STREAM: "false" });
      await audit.close();
    }
    const lines = linesOf(await readFile(path, "utf8"));
    expect(lines.map(({ event }) => event)).toEqual(["audit.started", "audit.ended", "audit.started", "audit.ended"]);
    expect(execFileSync("stat", ["-c", "%a", path], { encoding: "utf8" }).trim()).toBe("600");
  });

  test.each(["noticed", "told"])("that was renamed is opened anew, the change %s, and no line is lost", async (how) => {
    const { audit, path } = await inFile();
    audit.begin(call()).ended(OK);
    await audit.flush();
    await rename(path, `${path}.1`);
    if (how === "told") audit.reopen();
    audit.begin(call()).ended(OK);
    await expect
      .poll(() =>
        readFile(path).then(
          () => true,
          () => false,
        ),
      )
      .toBe(true);
    audit.begin(call()).ended(OK);
    await audit.close();
    const lines = linesOf((await readFile(`${path}.1`, "utf8")) + (await readFile(path, "utf8")));
    expect(lines.map(({ chain }) => chain.seq)).toEqual([0, 1, 2, 3, 4]);
  });

  test("that cannot be opened is a fault at the start that names it", async () => {
    await expect(audited({ AUDIT_FILE: "/nonexistent/audit.jsonl" })).rejects.toThrow(
      "AUDIT_FILE=/nonexistent/audit.jsonl cannot be opened (ENOENT); name a file that this user may append to.",
    );
  });
});

describe("a full disk", () => {
  test("lets calls go on, and is counted and told once, by default", async () => {
    const { audit, eventsOf, metric } = await audited({ AUDIT_FILE: "/dev/full", AUDIT_STREAM: "false" });
    for (let at = 0; at < 3; at++) {
      audit.begin(call({ changes: true })).ended(OK);
      await audit.flush();
    }
    expect(audit.healthy).toBe(false);
    expect(await metric("mcp_audit_healthy")).toBe(0);
    expect(eventsOf("audit.failing")).toEqual([
      expect.objectContaining({ sink: "file", err: expect.objectContaining({ code: "ENOSPC" }) }),
    ]);
    expect(audit.details()).toMatchObject({
      healthy: false,
      failure: "open",
      sinks: [{ name: "file", healthy: false, written: 0, waiting: 4, fault: expect.stringContaining("ENOSPC") }],
    });
  });

  test("stops calls that change something, and no others, under closed", async () => {
    const { audit, metric } = await audited({
      AUDIT_FILE: "/dev/full",
      AUDIT_STREAM: "false",
      AUDIT_FAILURE: "closed",
    });
    expect(() => audit.begin(call({ changes: true, tool: "execute_command" }))).toThrow(AuditUnavailable);
    expect(() => audit.begin(call({ changes: true }))).toThrow(
      "file_operation was not run: it may change something, and this server has to put that on record and cannot",
    );
    audit.begin(call()).ended(OK);
    expect(await metric("mcp_audit_refused_calls_total")).toBe(2);
  });

  test("does not take the server's memory: what no more fits is lost, counted, and told in the trail", async () => {
    const directory = await temporaryDirectory();
    const path = join(directory, "audit.jsonl");
    const writer = createLineWriter(openSync("/dev/full", "w"));
    const { audit, eventsOf, metric } = await audited({}, { stream: writer });
    const path512 = "p/".repeat(200);
    for (let at = 0; at < 12_000; at++) audit.begin(call({ safeArguments: { path: path512 } })).ended(OK);
    const lost = (await metric("mcp_audit_lines_total", { sink: "stream", outcome: "lost" })) ?? 0;
    expect(lost).toBeGreaterThan(1000);
    // There is room again.
    writer.redirect(openSync(path, "a"));
    expect(audit.healthy).toBe(true);
    await audit.close();
    const lines = linesOf(await readFile(path, "utf8"));
    const told = lines.find(({ event }) => event === "audit.lost");
    expect(told).toMatchObject({ sink: "stream", lines: lost, to: 12_000 });
    expect(await metric("mcp_audit_lines_total", { sink: "stream", outcome: "written" })).toBe(lines.length);
    expect(eventsOf("audit.failing")).toHaveLength(1);
    expect(eventsOf("audit.recovered")).toEqual([expect.objectContaining({ sink: "stream", lost })]);
  });
});

describe("under closed", () => {
  test("a call that changes something is on record before it runs", async () => {
    const { audit, lines } = await inFile({ AUDIT_FAILURE: "closed" });
    const begun = audit.begin(call({ changes: true, traceId: TRACE }));
    // Nothing was waited for: it is in the file.
    expect(lines().at(-1)).toMatchObject({ event: "tool.calling", traceId: TRACE, tool: "file_operation", ...ADA });
    begun.ended(OK);
    audit.begin(call()).ended(OK);
    await audit.flush();
    expect(lines().map(({ event }) => event)).toEqual(["audit.started", "tool.calling", "tool.called", "tool.called"]);
  });
});

test("a reader of the log that goes away costs the stream's lines, and nothing else", async () => {
  const fifo = join(await temporaryDirectory(), "pipe");
  execFileSync("mkfifo", [fifo]);
  const read = openSync(fifo, "r+");
  const write = openSync(fifo, "w");
  closeSync(read);
  const { audit, metric, eventsOf } = await audited({}, { stream: createLineWriter(write) });
  audit.begin(call()).ended(OK);
  await audit.flush();
  audit.begin(call()).ended(OK);
  expect(await metric("mcp_audit_lines_total", { sink: "stream", outcome: "lost" })).toBe(3);
  expect(eventsOf("audit.failing")).toEqual([
    expect.objectContaining({ err: expect.objectContaining({ code: "EPIPE" }) }),
  ]);
});

/** Logs Ingestion as Azure serves it, as far as the client sees. */
async function ingestionDouble(
  answer: (upload: number, rows: number) => { status: number; headers?: Record<string, string> },
) {
  const uploads: { path: string; authorization: string | undefined; rows: Record<string, string>[]; status: number }[] =
    [];
  const handle = async (request: IncomingMessage, response: ServerResponse) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    const rows = JSON.parse((request.headers["content-encoding"] === "gzip" ? gunzipSync(body) : body).toString());
    const { status, headers = {} } = answer(uploads.length, rows.length);
    uploads.push({
      path: request.url?.split("?")[0] ?? "",
      authorization: request.headers.authorization,
      rows,
      status,
    });
    response.writeHead(status, { "content-type": "application/json", ...headers });
    response.end(
      status === 204 ? undefined : JSON.stringify({ error: { code: "Fault", message: `status ${status}` } }),
    );
  };
  const taken = () => uploads.filter(({ status }) => status === 204).flatMap(({ rows }) => rows);
  return { uploads, taken, handle: (...args: Parameters<typeof handle>) => void handle(...args) };
}

const RULE = `dcr-${"0a".repeat(16)}`;

/** A certificate of localhost, and its key. */
let certificate: { readonly key: string; readonly cert: string; readonly path: string };

beforeAll(async () => {
  const directory = await mkdtemp(join(tmpdir(), "mcp-audit-test-"));
  const [keyPath, path] = [join(directory, "key.pem"), join(directory, "cert.pem")];
  const args = [
    ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"],
    ...["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", keyPath, "-out", path],
  ];
  execFileSync("openssl", args, { stdio: "ignore" });
  certificate = { key: await readFile(keyPath, "utf8"), cert: await readFile(path, "utf8"), path };
  return () => rm(directory, { recursive: true });
});

/** Listens with TLS, as the client sends tokens nowhere else. */
async function secured(handle: RequestListener): Promise<string> {
  const server = createTlsServer(certificate, handle).listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  return `https://localhost:${(server.address() as AddressInfo).port}`;
}

/** The audit trail with the real client in front of the double. */
async function ingested(answer: Parameters<typeof ingestionDouble>[0], env: Record<string, string> = {}) {
  const double = await ingestionDouble(answer);
  const endpoint = await secured(double.handle);
  const credential = { getToken: async () => ({ token: "test-token", expiresOnTimestamp: Date.now() + 3_600_000 }) };
  const options = { retryOptions: { maxRetries: 0 }, tlsOptions: { ca: certificate.cert } };
  const connect = async () => new LogsIngestionClient(endpoint, credential, options);
  const trail = await audited(env, {
    ingestion: (reports) => createIngestionSink({ connect, rule: RULE, retryMs: 10 }, reports),
  });
  return { ...trail, ...double };
}

describe("Log Analytics", () => {
  test("gets every line, whole and in order, in batches", async () => {
    const { audit, uploads, taken, metric } = await ingested(() => ({ status: 204 }));
    for (let at = 0; at < 1200; at++) audit.begin(call()).ended(OK);
    await audit.close();
    const lines = linesOf(
      taken()
        .map(({ Line }) => `${Line}\n`)
        .join(""),
    );
    expect(lines.map(({ chain }) => chain.seq)).toEqual(Array.from({ length: 1202 }, (_, seq) => seq));
    expect(taken().map(({ TimeGenerated }) => TimeGenerated)).toEqual(lines.map(({ time }) => time));
    expect(uploads[0]).toMatchObject({
      path: `/dataCollectionRules/${RULE}/streams/Custom-McpAudit`,
      authorization: "Bearer test-token",
    });
    expect(uploads.length).toBeLessThan(8);
    expect(Math.max(...uploads.map(({ rows }) => rows.length))).toBeLessThanOrEqual(500);
    expect(await metric("mcp_audit_lines_total", { sink: "ingestion", outcome: "written" })).toBe(1202);
  });

  test.each([429, 500, 503, 403])(
    "that answers %d gets everything later, and one such answer is no failure",
    async (status) => {
      const { audit, taken, eventsOf } = await ingested((upload) => ({ status: upload === 0 ? status : 204 }));
      audit.begin(call()).ended(OK);
      await audit.flush();
      expect(taken()).toHaveLength(2);
      expect(eventsOf("audit.failing")).toEqual([]);
    },
  );

  test("is waited for as long as it asks", async () => {
    const { audit, uploads } = await ingested((upload) => ({
      status: upload === 0 ? 429 : 204,
      headers: { "retry-after": "1" },
    }));
    const started = performance.now();
    await audit.flush();
    expect(uploads).toHaveLength(2);
    expect(performance.now() - started).toBeGreaterThan(900);
  });

  test("that takes smaller uploads only gets them", async () => {
    const { audit, taken, uploads, metric } = await ingested((_upload, rows) => ({ status: rows > 100 ? 413 : 204 }));
    for (let at = 0; at < 499; at++) audit.begin(call()).ended(OK);
    await audit.close();
    expect(taken()).toHaveLength(501);
    expect(uploads.filter(({ status }) => status === 413).length).toBeGreaterThan(1);
    expect(await metric("mcp_audit_lines_total", { sink: "ingestion", outcome: "lost" })).toBeUndefined();
  });

  test("that stays away is failing, under closed stops what changes something, and recovers", async () => {
    let there = false;
    const { audit, taken, eventsOf, metric } = await ingested(() => ({ status: there ? 204 : 503 }), {
      AUDIT_FAILURE: "closed",
    });
    audit.begin(call({ changes: true })).ended(OK);
    const flushed = audit.flush();
    await expect.poll(() => audit.healthy).toBe(false);
    expect(() => audit.begin(call({ changes: true }))).toThrow(AuditUnavailable);
    expect(await metric("mcp_audit_healthy")).toBe(0);
    there = true;
    await flushed;
    expect(audit.healthy).toBe(true);
    audit.begin(call({ changes: true })).ended(OK);
    await audit.close();
    expect(
      linesOf(
        taken()
          .map(({ Line }) => `${Line}\n`)
          .join(""),
      ).map(({ event }) => event),
    ).toEqual([
      ...["audit.started", "tool.calling", "tool.called", "call.denied", "tool.calling", "tool.called", "audit.ended"],
    ]);
    expect(eventsOf("audit.failing")).toHaveLength(1);
    expect(eventsOf("audit.recovered")).toHaveLength(1);
  });

  test("that does not come back before the end is given up within the time there is, and what is lost is told", async () => {
    const { audit, metric, eventsOf } = await ingested(() => ({ status: 503 }));
    for (let at = 0; at < 8; at++) audit.begin(call()).ended(OK);
    const started = performance.now();
    await audit.close(300);
    expect(performance.now() - started).toBeLessThan(5000);
    expect(await metric("mcp_audit_lines_total", { sink: "ingestion", outcome: "lost" })).toBe(10);
    expect(eventsOf("audit.failing")).toHaveLength(1);
  });

  test("that stays away for long costs a bounded number of lines in memory", async () => {
    const { audit, metric } = await ingested(() => ({ status: 503 }), { AUDIT_FAILURE: "closed" });
    for (let at = 0; at < 10_500; at++) audit.begin(call()).ended(OK);
    expect(audit.details()).toMatchObject({ sinks: [{ waiting: 10_000, lost: 501, healthy: false }] });
    expect(await metric("mcp_audit_lines_total", { sink: "ingestion", outcome: "lost" })).toBe(501);
    expect(() => audit.begin(call({ changes: true }))).toThrow(AuditUnavailable);
  });
});

describe("a server's process", () => {
  const main = fileURLToPath(new URL("../../server/main.js", import.meta.url));
  const command = fileURLToPath(new URL("../../infra/cli/mcp-aks.js", import.meta.url));

  /** Starts a server, waits until it listens, ends it after what is done `during` its life, and gives back what it wrote. */
  async function life(
    env: Record<string, string>,
    during: (url: string, child: ChildProcess) => Promise<void> = async () => {},
  ): Promise<string> {
    const workspace = await temporaryDirectory();
    const child = spawn(process.execPath, [main], {
      env: { WORKSPACE_PATH: workspace, PORT: "0", METRICS_PORT: "0", SHUTDOWN_GRACE_SECONDS: "10", ...env },
      stdio: ["ignore", "pipe", "inherit"],
    });
    onTestFinished(() => void child.kill("SIGKILL"));
    let output = "";
    child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
      output += chunk;
    });
    await expect.poll(() => output).toMatch(/"server\.listening".*\n/);
    await during(/"url":"([^"]+)"/.exec(output)?.[1] ?? "", child);
    child.kill("SIGTERM");
    expect(await once(child, "close")).toEqual([0, null]);
    return output;
  }

  const auditIn = (output: string) =>
    linesOf(
      output
        .split("\n")
        .filter((line) => line.includes('"stream":"audit"'))
        .map((line) => `${line}\n`)
        .join(""),
    );

  test("begins and ends its chain, in the stream and the file alike, named for its pod", async () => {
    const path = join(await temporaryDirectory(), "audit.jsonl");
    const output = await life({ AUDIT_FILE: path, HOSTNAME: "mcp-server-7d9f-x2x4z" });
    const lines = auditIn(output);
    expect(lines.map(({ event, replica }) => [event, replica])).toEqual([
      ["audit.started", "mcp-server-7d9f-x2x4z"],
      ["audit.ended", "mcp-server-7d9f-x2x4z"],
    ]);
    expect(linesOf(await readFile(path, "utf8"))).toEqual(lines);
  });

  test("writes a stream that mcp-aks audit verify finds sound, log and all, and not without one of its lines", async () => {
    const output = await life({}, async (url) => {
      const client = new Client({ name: "test-client", version: "1.0.0" });
      await client.connect(new StreamableHTTPClientTransport(new URL(url)));
      await client.callTool({ name: "system_info", arguments: {} });
      await client.callTool({ name: "execute_command", arguments: { command: "echo hi" } });
      await expect(client.callTool({ name: "no_such", arguments: {} })).rejects.toThrow();
      await client.close();
    });
    expect(auditIn(output).map(({ event }) => event)).toEqual([
      ...["audit.started", "tool.called", "tool.called", "call.denied", "audit.ended"],
    ]);
    const verify = (input: string) =>
      spawnSync(process.execPath, [command, "audit", "verify", "-"], { input, encoding: "utf8" });
    expect(output).toContain('"event":"server.listening"');
    expect(verify(output)).toMatchObject({ status: 0, stdout: expect.stringContaining("5 lines") });
    const without = output.split("\n").filter((line) => !line.includes("execute_command"));
    expect(verify(without.join("\n")).status).toBe(1);
  });

  test("opens its file anew at SIGHUP", async () => {
    const path = join(await temporaryDirectory(), "audit.jsonl");
    await life({ AUDIT_FILE: path }, async (_url, child) => {
      // The file is looked at once after a line was written, and not again before the next one: this uses that up.
      await rename(path, `${path}.1`);
      await expect.poll(() => existsSync(path), { timeout: 5000 }).toBe(true);
      await rename(path, `${path}.2`);
      child.kill("SIGHUP");
      await expect.poll(() => existsSync(path), { timeout: 5000 }).toBe(true);
    });
    expect(linesOf(await readFile(`${path}.1`, "utf8")).map(({ event }) => event)).toEqual(["audit.started"]);
    expect(linesOf(await readFile(path, "utf8")).map(({ event }) => event)).toEqual(["audit.ended"]);
  });

  test("reaches Log Analytics with an identity of its platform's", async () => {
    const double = await ingestionDouble(() => ({ status: 204 }));
    const endpoint = await secured(double.handle);
    // As App Service and Container Apps give identities to their workloads; a pod's needs Entra itself.
    const asked: string[] = [];
    const identity = createServer((request, response) => {
      asked.push(String(request.url));
      response.setHeader("content-type", "application/json");
      const soon = Math.floor(Date.now() / 1000) + 3600;
      response.end(
        JSON.stringify({
          access_token: "platform-token",
          expires_on: String(soon),
          token_type: "Bearer",
          resource: "x",
        }),
      );
    }).listen(0, "127.0.0.1");
    await once(identity, "listening");
    onTestFinished(() => void identity.close());
    const output = await life({
      AUDIT_INGESTION_ENDPOINT: endpoint,
      AUDIT_INGESTION_RULE: RULE,
      NODE_EXTRA_CA_CERTS: certificate.path,
      IDENTITY_ENDPOINT: `http://127.0.0.1:${(identity.address() as AddressInfo).port}/msi/token`,
      IDENTITY_HEADER: "header",
    });
    expect(output).not.toContain("audit.failing");
    expect(double.taken().map(({ Line }) => Line)).toEqual(
      output.split("\n").filter((line) => line.includes('"stream":"audit"')),
    );
    expect(double.uploads[0]?.authorization).toBe("Bearer platform-token");
    expect(asked.join()).toContain(encodeURIComponent("https://monitor.azure.com"));
  });
});
