import { PassThrough } from "node:stream";
import { Client as ModernClient } from "@modelcontextprotocol/client";
import { StdioServerTransport } from "@modelcontextprotocol/server/stdio";
import fc from "fast-check";
import { pino } from "pino";
import { describe, expect, onTestFinished, test } from "vitest";
import { z } from "zod";
import { buildCore } from "../../server/app.ts";
import { parseAccessPolicy } from "../../server/auth/roles.ts";
import { parseEnvironment } from "../../server/config.ts";
import { type Admission, type CallAudit, type CallGateOptions, createCallGate } from "../../server/mcp/call-gate.ts";
import { serveConnection } from "../../server/mcp/connection.ts";
import { createToolCalls } from "../../server/mcp/tool-calls.ts";
import { toolMethods } from "../../server/mcp/tool-methods.ts";
import { createMetrics } from "../../server/observability/metrics.ts";
import { definePrompt } from "../../server/prompts/define-prompt.ts";
import { digestOf } from "../../server/services/arguments-digest.ts";
import { openWorkspace } from "../../server/services/workspace.ts";
import { defineTool, type Tool } from "../../server/tools/define-tool.ts";
import { tools as ownTools } from "../../server/tools/index.ts";
import { authenticate, bearer, callerNamed } from "./callers.ts";
import { PipeClientTransport } from "./pipe-client.ts";
import { messageIn, rpc, temporaryDirectory, testApp } from "./running-app.ts";
import { contextWith } from "./tool-context.ts";

const annotations = { readOnlyHint: false, destructiveHint: true, idempotentHint: false, openWorldHint: false };

/** A tool that tells of its runs; `needed` is asked for by an argument. */
function noting(events: string[]): Tool {
  return defineTool({
    name: "note",
    title: "Note",
    description: "Notes.",
    input: z.object({ text: z.string(), secret: z.string().optional(), change: z.boolean().optional() }),
    output: z.object({ text: z.string() }),
    annotations,
    role: "reader",
    roleFor: ({ change }) => (change ? "operator" : "reader"),
    facets: { text: ({ text }) => text, both: ({ text }) => [text, "b"], never: () => ({ unknown: "nobody knows" }) },
    run({ text }) {
      events.push("run");
      if (text === "break") throw new Error("inside");
      return { text };
    },
  });
}

type Audited = Parameters<CallAudit["begin"]>[0];

/** A gate with limits and an audit that tell of what they are asked. */
async function gated({
  admission,
  refuseRecords = false,
  policy,
}: {
  admission?: Admission | Promise<Admission>;
  refuseRecords?: boolean;
  policy?: string;
} = {}) {
  const events: string[] = [];
  const records: Audited[] = [];
  const decisions: unknown[] = [];
  const limits: CallGateOptions["limits"] = {
    admit(_caller, tool) {
      events.push(`admit ${tool}`);
      return admission ?? { release: (bytes) => void events.push(`release ${bytes}`) };
    },
  };
  const audit: CallAudit = {
    decided: ({ caller, decision, reason, tool }) =>
      void decisions.push({ decision, reason, tool, subject: caller?.subject }),
    begin(record) {
      if (refuseRecords && record.changes) throw new Error("the disk is full");
      events.push("begin");
      records.push(record);
      return { ended: ({ outcome }) => void events.push(`ended ${outcome}`) };
    },
  };
  const tools = [noting(events), ...ownTools];
  const gate = createCallGate({
    tools,
    policy: parseAccessPolicy(policy),
    facetContext: { shell: true },
    limits,
    audit,
  });
  const methods = toolMethods({
    gate,
    carryOut: createToolCalls({ gate, metrics: createMetrics([]), log: pino({ level: "silent" }) }),
  });
  const workspace = await openWorkspace(await temporaryDirectory(), { fileSizeLimit: 1024 * 1024 });
  const call = (caller: string, args: unknown, name = "note") =>
    methods.call(name, args, contextWith({ workspace, caller: callerNamed(caller) }));
  return { events, records, decisions, call, gate };
}

describe("a call", () => {
  test("passes decision, limits and record before it runs, and leaves in reverse, its answer's bytes told", async () => {
    const { call, events } = await gated();
    expect(await call("reader", { text: "hello" })).toMatchObject({ structuredContent: { text: "hello" } });
    expect(events).toEqual(["admit note", "begin", "run", "ended ok", `release ${'{"text":"hello"}'.length}`]);
  });

  test.each([
    ["fails", { text: 5 }, ["admit note", "begin", "ended failed"]],
    ["breaks", { text: "break" }, ["admit note", "begin", "run", "ended broken"]],
  ])("that %s leaves as well", async (_how, args, expected) => {
    const { call, events } = await gated();
    expect(await call("reader", args)).toMatchObject({ isError: true });
    expect(events.slice(0, -1)).toEqual(expected);
    expect(events.at(-1)).toMatch(/^release \d+$/);
  });

  test("may wait for its limits", async () => {
    const { promise, resolve } = Promise.withResolvers<Admission>();
    const { call, events } = await gated({ admission: promise });
    const result = call("reader", { text: "late" });
    await new Promise((done) => setImmediate(done));
    expect(events).toEqual(["admit note"]);
    resolve({ release: () => void events.push("released") });
    await result;
    expect(events).toEqual(["admit note", "begin", "run", "ended ok", "released"]);
  });

  test("is on record by its digest and by what the tool lets be seen, and by nothing else", async () => {
    const { call, records } = await gated();
    await call("operator", { text: "a", secret: "s3cret", change: true });
    await call("operator", { change: true, secret: "s3cret", text: "a" });
    await call("reader", { text: "a" });
    expect(records[0]).toEqual({
      caller: callerNamed("operator"),
      tool: "note",
      changes: true,
      argumentDigest: digestOf({ text: "a", secret: "s3cret", change: true }),
      safeArguments: { text: "a", both: "a -> b" },
    });
    expect(records[1]?.argumentDigest).toBe(records[0]?.argumentDigest);
    expect(records[2]).toMatchObject({ changes: false });
    expect(JSON.stringify(records)).not.toContain("s3cret");
  });

  test("that cannot be recorded does not run if it changes something, and runs if it only looks", async () => {
    const { call, events } = await gated({ refuseRecords: true });
    const refused = await call("operator", { text: "a", change: true });
    expect(refused).toMatchObject({ isError: true });
    expect(JSON.stringify(refused)).toMatch(/note was not run: this server cannot record calls .*try again later/);
    expect(JSON.stringify(refused)).not.toContain("disk");
    expect(events).toEqual(["admit note", "release 0"]);
    expect(await call("operator", { text: "a" })).not.toHaveProperty("isError");
  });

  test.each<[Admission, string]>([
    [
      { refused: "tool", what: "calls", retryAfterSeconds: 3 },
      "as many calls of note by you as may be made in a while have been made. Try again in 3 seconds.",
    ],
    [
      { refused: "caller", what: "concurrency", retryAfterSeconds: 0.2 },
      "as many calls by you as may run at once are running. Try again in 1 second.",
    ],
    [
      { refused: "global", what: "bytes", retryAfterSeconds: 59.1 },
      "have had as many bytes as they may in a while. Try again in 60 seconds.",
    ],
  ])("refused by a limit says which, and when to try again: %o", async (admission, sentence) => {
    const { call, events, decisions } = await gated({ admission });
    const result = await call("reader", { text: "a" });
    expect(result).toMatchObject({ isError: true });
    expect(JSON.stringify(result)).toContain(sentence);
    expect(events).toEqual(["admit note"]);
    expect(decisions).toEqual([
      {
        decision: "refused",
        reason: `limit:${"refused" in admission && admission.refused}:${"what" in admission && admission.what}`,
        subject: "the reader",
        tool: "note",
      },
    ]);
  });

  test("that is denied is on record as that, costs no limit, and never runs", async () => {
    const policy = JSON.stringify({ tools: { note: { allow: { reader: { text: ["ok*"] } } } } });
    const { call, events, decisions } = await gated({ policy });
    await expect(call("reader", { command: "ls" }, "execute_command")).rejects.toThrow(
      'Unknown tool "execute_command"',
    );
    await expect(call("reader", {}, "nothing")).rejects.toThrow(
      'Unknown tool "nothing"; there are note, file_operation, system_info, submit_job, get_job, list_jobs, cancel_job.',
    );
    await expect(call("scoped-operator", { text: "ok", change: true })).rejects.toMatchObject({
      code: -32003,
      data: { error: "insufficient_scope", scope: "Mcp.Operate" },
    });
    expect(await call("reader", { text: "no" })).toMatchObject({ isError: true });
    expect(await call("reader", { text: "ok", change: true })).toMatchObject({ isError: true });
    expect(events).toEqual([]);
    expect(decisions.map((each) => Object.values(each as object).join(" "))).toEqual([
      "denied hidden execute_command the reader",
      "denied hidden nothing the reader",
      "denied scope note scoped operator",
      "denied argument note the reader",
      "denied argument note the reader",
    ]);
  });

  test("by a rule on a facet that nobody can tell is refused with the reason", async () => {
    const { call } = await gated({
      policy: JSON.stringify({ tools: { note: { allow: { reader: { never: ["x"] } } } } }),
    });
    expect(JSON.stringify(await call("reader", { text: "a" }))).toContain("nobody knows");
  });
});

test("the same arguments have the same digest in whatever order they come, and others another", () => {
  const shuffled = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(shuffled);
    if (typeof value !== "object" || value === null) return value;
    return Object.fromEntries(
      Object.entries(value)
        .reverse()
        .map(([key, each]) => [key, shuffled(each)]),
    );
  };
  const json = fc.jsonValue();
  fc.assert(
    fc.property(json, json, (a, b) => {
      expect(digestOf(shuffled(a))).toBe(digestOf(a));
      expect(digestOf(a)).toMatch(/^[0-9a-f]{64}$/);
      expect(digestOf({ a }) === digestOf({ a: b })).toBe(JSON.stringify(sorted(a)) === JSON.stringify(sorted(b)));
    }),
  );
});

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, each]) => [key, sorted(each)]),
  );
}

const governing = definePrompt({
  name: "govern",
  title: "Govern",
  description: "Says what to do.",
  role: "admin",
  arguments: z.object({ how: z.string() }),
  complete: { how: async () => ["well"] },
  render: () => [],
});

describe("a step up", () => {
  test("is named for what a token lacks, and for nothing else", async () => {
    const config = parseEnvironment({ WORKSPACE_PATH: await temporaryDirectory() });
    const { protocol } = await buildCore({ config, log: pino({ level: "silent" }), prompts: [governing] });
    const call = (name: string, args: object = {}) => ({
      jsonrpc: "2.0",
      id: 1,
      method: "tools/call",
      params: { name, arguments: args },
    });
    const prompt = { jsonrpc: "2.0", id: 2, method: "prompts/get", params: { name: "govern" } };
    const stepUp = (caller: string, body: unknown) => protocol.stepUp?.(callerNamed(caller), body);
    const write = call("file_operation", { operation: "write", path: "a", content: "" });

    expect(stepUp("scoped-operator", call("execute_command", { command: "ls" }))).toBe("Mcp.Operate");
    expect(stepUp("scoped-operator", write)).toBe("Mcp.Operate");
    expect(stepUp("scoped-operator", call("file_operation", { operation: "read", path: "a" }))).toBeUndefined();
    expect(stepUp("scoped-operator", prompt)).toBeUndefined();
    expect(stepUp("scoped-admin", prompt)).toBe("Mcp.Admin");
    expect(stepUp("scoped-admin", [write, prompt, write])).toBe("Mcp.Operate Mcp.Admin");
    expect(stepUp("over-scoped", call("execute_command", { command: "ls" }))).toBeUndefined();
    expect(stepUp("reader", write)).toBeUndefined();
    expect(stepUp("admin", [write, prompt])).toBeUndefined();
    for (const body of [null, 5, [], {}, { method: 5 }, { method: "tools/call" }, call("nothing"), [null]]) {
      expect(stepUp("scoped-admin", body)).toBeUndefined();
    }
  });

  test("where there is no HTTP, is an error that names the scope", async () => {
    const config = parseEnvironment({ WORKSPACE_PATH: await temporaryDirectory() });
    const { protocol } = await buildCore({ config, log: pino({ level: "silent" }), prompts: [governing] });
    const [input, output] = [new PassThrough(), new PassThrough()];
    const served = serveConnection({
      protocol,
      transport: new StdioServerTransport(input, output),
      caller: callerNamed("scoped-admin"),
      onerror: () => {},
    });
    onTestFinished(() => served.close());
    const client = new ModernClient({ name: "test", version: "1" });
    await client.connect(new PipeClientTransport(output, input));
    expect((await client.listTools()).tools.map(({ name }) => name)).toContain("execute_command");
    const lacks = (scope: string) => ({ code: -32003, data: { error: "insufficient_scope", scope } });
    await expect(client.callTool({ name: "execute_command", arguments: { command: "ls" } })).rejects.toMatchObject(
      lacks("Mcp.Operate"),
    );
    await expect(client.getPrompt({ name: "govern", arguments: { how: "x" } })).rejects.toMatchObject(
      lacks("Mcp.Admin"),
    );
    const ref = { type: "ref/prompt", name: "govern" } as const;
    await expect(client.complete({ ref, argument: { name: "how", value: "" } })).rejects.toMatchObject(
      lacks("Mcp.Admin"),
    );
    expect(await client.callTool({ name: "system_info" })).toMatchObject({
      structuredContent: { limits: { role: "reader" } },
    });
  });
});

test("what a caller may not know of answers like what there is not", async () => {
  const server = await testApp({}, undefined, { authenticate, prompts: [governing] });
  const answer = async (caller: string, method: string, params: object) =>
    messageIn((await server.app.inject(rpc(method, { ...params }, bearer(caller)))).body).error?.message;
  const complete = (name: string) => ({ ref: { type: "ref/prompt", name }, argument: { name: "how", value: "" } });
  for (const [method, params] of [
    ["tools/call", (name: string) => ({ name })],
    ["prompts/get", (name: string) => ({ name })],
    ["completion/complete", complete],
  ] as const) {
    const hidden = method === "tools/call" ? "execute_command" : "govern";
    const made = "x".repeat(hidden.length);
    const told = await answer("reader", method, params(hidden));
    expect(told).toMatch(/^Unknown /);
    expect(told?.replace(hidden, made)).toBe(await answer("reader", method, params(made)));
  }
});

test("commands have the limits of the role that a token leaves, and of the role where it leaves all", async () => {
  const server = await testApp({ COMMAND_ROLE_LIMITS: "operator:timeout=7;admin:timeout=9" }, undefined, {
    authenticate,
  });
  const limit = async (caller: string) => {
    const { body } = await server.app.inject(rpc("tools/call", { name: "system_info", arguments: {} }, bearer(caller)));
    const timeout = rpc(
      "tools/call",
      { name: "execute_command", arguments: { command: "true", timeout: 3600 } },
      bearer(caller),
    );
    const refused = messageIn((await server.app.inject(timeout)).body).result;
    const Info = z.object({ structuredContent: z.object({ limits: z.object({ commandTimeoutSeconds: z.number() }) }) });
    const { limits } = Info.parse(messageIn(body).result).structuredContent;
    if (refused !== undefined)
      expect(JSON.stringify(refused)).toContain(`at most ${limits.commandTimeoutSeconds} seconds`);
    return limits.commandTimeoutSeconds;
  };
  expect([await limit("operator"), await limit("admin"), await limit("scoped-admin")]).toEqual([7, 9, 60]);
});

test("a policy that does not fit stops the start, and says so", async () => {
  for (const [policy, sentence] of [
    ['{"tools":{"shell":{"role":"admin"}}}', 'ACCESS_POLICY at tools names "shell"'],
    ['{"roles":{"owner":{"groups":["x"]}}}', "ACCESS_POLICY at roles is"],
  ] as const) {
    await expect(testApp({ ACCESS_POLICY: policy })).rejects.toThrow(sentence);
  }
});
