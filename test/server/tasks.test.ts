import type { JSONRPCMessage, Transport } from "@modelcontextprotocol/client";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import type { Transport as OlderTransport } from "@modelcontextprotocol/sdk/shared/transport.js";
import { CallToolResultSchema, TaskStatusNotificationSchema } from "@modelcontextprotocol/sdk/types.js";
import { ProtocolError } from "@modelcontextprotocol/server";
import { describe, test } from "vitest";
import { z } from "zod";
import { defineTool, type Tool, ToolFailure } from "../../server/tools/define-tool.ts";
import type { AtEnd } from "../infra/cli/server-process.ts";
import { authenticate, bearer } from "./callers.ts";
import { messageIn, rpc, type TestApp, testApp } from "./running-app.ts";
import { transports } from "./transports.ts";

/* Tasks, as the clients of both protocols that have them see them; what jobs are is tested elsewhere. */

const EXTENSION = "io.modelcontextprotocol/tasks";

/** Doors that a digger stands before until a test opens them, by name. */
const doors = new Map<string, PromiseWithResolvers<void>>();
const door = (name: string) => {
  const made = doors.get(name) ?? Promise.withResolvers<void>();
  doors.set(name, made);
  return made;
};

const annotations = { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false };
const definition = {
  title: "Dig",
  description: "Digs.",
  input: z.object({ depth: z.number(), door: z.string().optional() }),
  output: z.object({ found: z.string() }),
  annotations,
};
/** Depths at which a call ends in an error of the protocol, and in a result too long for an answer. */
const BEDROCK = 404;
const LONG = 20_000;
type Definition = Parameters<typeof defineTool<typeof definition.input, typeof definition.output>>[0];
const run: Definition["run"] = async ({ depth, door: name }, { client, signal }) => {
  await client.progress({ progress: depth, message: "digging" });
  signal.throwIfAborted();
  const aborted = new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve()));
  if (name !== undefined) await Promise.race([door(name).promise, aborted]);
  signal.throwIfAborted();
  if (depth < 0) throw new ToolFailure(`There is no depth ${depth}.`);
  if (depth === BEDROCK) throw new ProtocolError(-32_050, "Nobody digs there.");
  return { found: depth === LONG ? "mud ".repeat(LONG) : `water at ${depth}` };
};
const tools: readonly Tool[] = [
  defineTool({ ...definition, name: "dig", role: "reader", job: true, run }),
  defineTool({ ...definition, name: "dig_deep", role: "reader", job: true, asTask: ({ depth }) => depth > 9, run }),
  defineTool({ ...definition, name: "dig_always", role: "reader", job: "only", run }),
  defineTool({ ...definition, name: "dig_at_once", role: "reader", run }),
  defineTool({ ...definition, name: "blast", role: "operator", job: true, run }),
];

async function reach(name: string, atEnd: AtEnd): Promise<Transport> {
  const over = transports[name];
  if (over === undefined) throw new Error(`There is no transport ${name}.`);
  return (await over({}, atEnd, { tools })).transport;
}

describe.concurrent.each(Object.keys(transports))("over %s, protocol 2025-11-25", (name) => {
  const connected = async (atEnd: AtEnd) => {
    const client = new Client({ name: "test", version: "1" }, { enforceStrictCapabilities: true });
    await client.connect((await reach(name, atEnd)) as OlderTransport);
    atEnd(() => client.close());
    await client.listTools();
    return { client, tasks: client.experimental.tasks };
  };

  test("a call runs as a task from its beginning to its result", async ({ expect, onTestFinished: atEnd }) => {
    const { client, tasks } = await connected(atEnd);
    const { tools: listed } = await client.listTools();
    expect(Object.fromEntries(listed.map((tool) => [tool.name, tool.execution?.taskSupport]))).toEqual({
      dig: "optional",
      dig_deep: "optional",
      dig_always: "required",
      dig_at_once: undefined,
      blast: "optional",
    });
    const told: string[] = [];
    for await (const message of tasks.callToolStream({ name: "dig", arguments: { depth: 3 } }, CallToolResultSchema)) {
      told.push(message.type);
      if (message.type !== "result") continue;
      expect(message.result).toMatchObject({ structuredContent: { found: "water at 3" } });
      const [related] = Object.values(message.result._meta ?? {});
      expect(related).toEqual({ taskId: expect.stringMatching(/^\w{26}$/) });
    }
    expect(told[0]).toBe("taskCreated");
    expect(told.at(-1)).toBe("result");
    // The same tool without a task is a call as ever.
    expect(await client.callTool({ name: "dig", arguments: { depth: 4 } })).toMatchObject({
      structuredContent: { found: "water at 4" },
    });
  });

  test("whoever waits for a result hears of the task meanwhile", async ({ expect, onTestFinished: atEnd }) => {
    const { client, tasks } = await connected(atEnd);
    const key = `waits ${name}`;
    client.setNotificationHandler(TaskStatusNotificationSchema, ({ params }) => {
      statuses.push(params.statusMessage ?? "");
      if (params.statusMessage === "digging") door(key).resolve();
    });
    const statuses: string[] = [];
    const reports: number[] = [];
    const { task } = await begun(client, "dig", { depth: 5, door: key });
    expect(task).toMatchObject({ status: "working", ttl: 7 * 86_400_000, pollInterval: 500 });
    const onprogress = ({ progress }: { progress: number }) => void reports.push(progress);
    const result = await tasks.getTaskResult(task.taskId, CallToolResultSchema, { onprogress });
    expect(result).toMatchObject({ structuredContent: { found: "water at 5" } });
    expect(statuses).toContain("digging");
    expect(reports).toEqual([5]);
  });

  test("a task that is cancelled is so at once and for good", async ({ expect, onTestFinished: atEnd }) => {
    const { client, tasks } = await connected(atEnd);
    const { task } = await begun(client, "dig", { depth: 5, door: `cancelled ${name}` });
    expect(await tasks.cancelTask(task.taskId)).toMatchObject({ taskId: task.taskId, status: "cancelled" });
    expect(await tasks.getTask(task.taskId)).toMatchObject({ status: "cancelled" });
    expect(await tasks.getTaskResult(task.taskId, CallToolResultSchema)).toMatchObject({ isError: true });
    await expect(tasks.cancelTask(task.taskId)).rejects.toMatchObject({
      code: -32_602,
      message: expect.stringContaining("it is cancelled"),
    });
  });

  test("a tool that fails makes a failed task, whose result says why", async ({ expect, onTestFinished: atEnd }) => {
    const { client, tasks } = await connected(atEnd);
    const { task } = await begun(client, "dig", { depth: -1 });
    const result = await tasks.getTaskResult(task.taskId, CallToolResultSchema);
    expect(result).toMatchObject({ isError: true, content: [{ text: "There is no depth -1." }] });
    expect(await tasks.getTask(task.taskId)).toMatchObject({
      status: "failed",
      statusMessage: "There is no depth -1.",
    });
  });

  test("a tool takes tasks, or no others, or none", async ({ expect, onTestFinished: atEnd }) => {
    const { client } = await connected(atEnd);
    await expect(begun(client, "dig_at_once", { depth: 1 })).rejects.toMatchObject({ code: -32_601 });
    await expect(plain(client, "dig_always", { depth: 1 })).rejects.toMatchObject({ code: -32_601 });
    expect(await begun(client, "dig_always", { depth: 1 })).toMatchObject({ task: { status: "working" } });
    await expect(client.experimental.tasks.getTask("nothing")).rejects.toMatchObject({ code: -32_602 });
    await expect(request(client, "tasks/update", { taskId: "nothing" })).rejects.toMatchObject({ code: -32_601 });
  });
});

const Page = z.object({ tasks: z.array(z.object({ taskId: z.string() })), nextCursor: z.string().optional() });
const Created = z.object({ task: z.object({ taskId: z.string(), status: z.string() }).loose() });

const request = (client: Client, method: string, params: Record<string, unknown>) =>
  client.request({ method, params }, z.looseObject({}));
const plain = (client: Client, name: string, args: object) =>
  request(client, "tools/call", { name, arguments: { ...args } });
/** Calls as a task, and comes back when there is one. */
const begun = async (client: Client, name: string, args: object) =>
  Created.parse(await request(client, "tools/call", { name, arguments: { ...args }, task: {} }));

interface Answer {
  readonly result?: Record<string, unknown>;
  readonly error?: { readonly code: number; readonly message: string; readonly data?: unknown };
}

describe.concurrent.each(Object.keys(transports))("over %s, protocol 2026-07-28", (name) => {
  /** Messages as they are: the SDK's client takes no tasks. */
  const connected = async (atEnd: AtEnd) => {
    const transport = await reach(name, atEnd);
    const waiting = new Map<unknown, (answer: Answer) => void>();
    transport.onmessage = (message: JSONRPCMessage) => {
      if ("id" in message) waiting.get(message.id)?.(message as Answer);
    };
    transport.setProtocolVersion?.("2026-07-28");
    await transport.start();
    atEnd(() => transport.close());
    let last = 0;
    return (method: string, params: Record<string, unknown> = {}, tasks = true): Promise<Answer> => {
      last += 1;
      const id = last;
      const { promise, resolve, reject } = Promise.withResolvers<Answer>();
      waiting.set(id, resolve);
      const _meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": { name: "test", version: "1" },
        "io.modelcontextprotocol/clientCapabilities": tasks ? { extensions: { [EXTENSION]: {} } } : {},
      };
      transport.send({ jsonrpc: "2.0", id, method, params: { ...params, _meta } }).catch((error: unknown) => {
        // Over HTTP, an error that has a status of its own.
        const [body] = /\{.*\}$/s.exec(String(error)) ?? [];
        if (body === undefined) reject(error);
        else resolve(JSON.parse(body) as Answer);
      });
      return promise;
    };
  };

  test("the server makes a task of a call where its client allows that", async ({ expect, onTestFinished: atEnd }) => {
    const send = await connected(atEnd);
    const { capabilities } = (await send("server/discover")).result ?? {};
    expect(capabilities).toMatchObject({ extensions: { [EXTENSION]: {} } });
    expect(capabilities).not.toHaveProperty("tasks");

    const { result: task } = await send("tools/call", { name: "dig", arguments: { depth: 3 } });
    expect(task).toMatchObject({ resultType: "task", status: "working", ttlMs: 7 * 86_400_000, pollIntervalMs: 500 });
    expect(task).not.toHaveProperty("content");
    const { taskId } = task ?? {};
    await expect
      .poll(async () => (await send("tasks/get", { taskId })).result)
      .toMatchObject({
        resultType: "complete",
        taskId,
        status: "completed",
        result: { structuredContent: { found: "water at 3" } },
      });

    const { result: ran } = await send("tools/call", { name: "dig", arguments: { depth: 4 } }, false);
    expect(ran).toMatchObject({ resultType: "complete", structuredContent: { found: "water at 4" } });
    const shallow = await send("tools/call", { name: "dig_deep", arguments: { depth: 4 } });
    expect(shallow.result).toMatchObject({ resultType: "complete", structuredContent: { found: "water at 4" } });
    const deep = await send("tools/call", { name: "dig_deep", arguments: { depth: 40 } });
    expect(deep.result).toMatchObject({ resultType: "task" });
  });

  test("a tool's failure completes a task; cancelling is acknowledged", async ({ expect, onTestFinished: atEnd }) => {
    const send = await connected(atEnd);
    const failing = (await send("tools/call", { name: "dig", arguments: { depth: -1 } })).result?.taskId;
    await expect
      .poll(async () => (await send("tasks/get", { taskId: failing })).result)
      .toMatchObject({ status: "completed", result: { isError: true } });
    const args = { depth: 1, door: `newer ${name}` };
    const { taskId } = (await send("tools/call", { name: "dig", arguments: args })).result ?? {};
    for (const method of ["tasks/cancel", "tasks/update"]) {
      const { result } = await send(method, { taskId, inputResponses: { nobody: { action: "accept" } } });
      expect(Object.keys(result ?? {}).sort()).toEqual(["_meta", "resultType"]);
    }
    await expect.poll(async () => (await send("tasks/get", { taskId })).result).toMatchObject({ status: "cancelled" });
  });

  test("who does not speak tasks is told so", async ({ expect, onTestFinished: atEnd }) => {
    const send = await connected(atEnd);
    const missing = {
      code: -32_021,
      data: { requiredCapabilities: { extensions: { [EXTENSION]: {} } } },
    };
    for (const method of ["tasks/get", "tasks/cancel", "tasks/update"]) {
      const { error } = await send(method, { taskId: "x", inputResponses: {} }, false);
      expect(error, method).toMatchObject(missing);
    }
    const listening = { notifications: { taskIds: ["x"] } };
    expect((await send("subscriptions/listen", listening, false)).error).toMatchObject(missing);
    const always = { name: "dig_always", arguments: { depth: 1 } };
    expect((await send("tools/call", always, false)).error).toMatchObject(missing);
    expect((await send("tools/call", always)).result).toMatchObject({ resultType: "task" });
    for (const method of ["tasks/result", "tasks/list"]) {
      expect((await send(method, { taskId: "x" })).error, method).toMatchObject({ code: -32_601 });
    }
    expect((await send("tasks/get", { taskId: "x" })).error).toMatchObject({ code: -32_602 });
  });
});

describe("behind the gate", () => {
  const ask = async ({ app }: TestApp, who: string, method: string, params: Record<string, unknown>) =>
    messageIn((await app.inject(rpc(method, params, bearer(who)))).body);
  const dig = { name: "dig", arguments: { depth: 1 }, task: {} };

  test("a task is its caller's own, and for all others there is none", async ({ expect }) => {
    const app = await testApp({}, tools, { authenticate });
    const { result } = await ask(app, "one", "tools/call", dig);
    const { taskId } = Created.parse(result).task;
    expect((await ask(app, "one", "tasks/get", { taskId })).result).toMatchObject({ taskId });
    const nobodys = "0".repeat(26);
    for (const who of ["two", "neighbour", "key", "admin"]) {
      for (const method of ["tasks/get", "tasks/result", "tasks/cancel"]) {
        const { error: theirs } = await ask(app, who, method, { taskId });
        const { error: none } = await ask(app, who, method, { taskId: nobodys });
        expect(theirs?.code, `${who} ${method}`).toBe(-32_602);
        expect(theirs?.message.replace(taskId, nobodys)).toBe(none?.message);
      }
      expect((await ask(app, who, "tasks/list", {})).result).toEqual({ tasks: [] });
    }
  });

  test("a call that is not let in makes no task", async ({ expect }) => {
    const app = await testApp({}, tools, { authenticate });
    const blast = { name: "blast", arguments: { depth: 1 }, task: {} };
    const { error } = await ask(app, "reader", "tools/call", blast);
    expect(error).toEqual((await ask(app, "reader", "tools/call", { ...blast, task: undefined })).error);
    expect((await ask(app, "reader", "tasks/list", {})).result).toEqual({ tasks: [] });
    expect(app.events().filter(({ event }) => event === "call.denied")).toMatchObject([
      { tool: "blast", reason: "hidden" },
      { tool: "blast", reason: "hidden" },
    ]);
  });

  test("all of a caller's tasks are listed, page by page, the newest first", async ({ expect }) => {
    const app = await testApp({}, tools, { authenticate });
    const made: string[] = [];
    for (let count = 0; count < 53; count++) {
      const { result } = await ask(app, "one", "tools/call", { ...dig, arguments: { depth: count } });
      made.push(Created.parse(result).task.taskId);
    }
    const page = async (cursor?: string) => Page.parse((await ask(app, "one", "tasks/list", { cursor })).result);
    const first = await page();
    expect(first.tasks).toHaveLength(50);
    const second = await page(first.nextCursor);
    expect(second.nextCursor).toBeUndefined();
    const listed = [...first.tasks, ...second.tasks].map(({ taskId }) => taskId);
    expect(new Set(listed)).toEqual(new Set(made));
    expect(listed).toEqual(listed.toSorted());
  });

  test("a server that ends sends away who waits for a result, and the task goes on", async ({ expect }) => {
    const app = await testApp({}, tools, { authenticate });
    const { result } = await ask(app, "one", "tools/call", { ...dig, arguments: { depth: 1, door: "ending" } });
    const { taskId } = Created.parse(result).task;
    const waiting = app.app.inject(rpc("tasks/result", { taskId }, bearer("one")));
    await expect.poll(() => app.events().some(({ tool }) => tool === "tasks/result") || app.mcp.idle(0)).toBe(false);
    await app.mcp.endStreams();
    const messages = (await waiting).body.split("\n").filter((line) => line.startsWith("data:"));
    expect(JSON.parse(messages.at(-1)?.slice("data:".length) ?? "")).toMatchObject({ id: 1, error: { code: -32_000 } });
    expect((await ask(app, "one", "tasks/get", { taskId })).result).toMatchObject({ status: "working" });
  });

  test("a task gives what a call would have given: an error of the protocol, or a link to what is long", async ({
    expect,
  }) => {
    const app = await testApp({ RESULT_LIMIT_BYTES: "65536" }, tools, { authenticate });
    const answer = async (depth: number) => {
      const { result } = await ask(app, "one", "tools/call", { ...dig, arguments: { depth } });
      const { taskId } = Created.parse(result).task;
      const { body } = await app.app.inject(rpc("tasks/result", { taskId }, bearer("one")));
      const lines = body.split("\n").filter((line) => line.startsWith("data:"));
      return messageIn(lines.at(-1) ?? body);
    };
    expect((await answer(BEDROCK)).error).toMatchObject({ code: -32_050, message: "Nobody digs there." });
    expect((await answer(LONG)).result).toMatchObject({ content: [{ type: "text" }, { type: "resource_link" }] });
  });

  test("a task and what is asked of it are on record, and counted", async ({ expect }) => {
    const app = await testApp({ RATE_LIMIT_TOOL_PER_MINUTE: "2" }, tools, { authenticate });
    const { result } = await ask(app, "operator", "tools/call", dig);
    const { taskId } = Created.parse(result).task;
    for (let times = 0; times < 2; times++) await ask(app, "operator", "tasks/get", { taskId });
    expect((await ask(app, "operator", "tasks/get", { taskId })).error).toMatchObject({
      code: -32_000,
      message: expect.stringContaining("tasks/get was not run"),
    });
    const called = app.events().filter(({ event }) => event === "tool.called");
    expect(called.map(({ tool, outcome }) => [tool, outcome])).toEqual([
      ["dig", "queued"],
      ["tasks/get", "ok"],
      ["tasks/get", "ok"],
    ]);
    expect(called[1]?.arguments).toEqual({ task: taskId });
  });
});
