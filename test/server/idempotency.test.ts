import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { CallToolResult } from "@modelcontextprotocol/server";
import { pino } from "pino";
import { afterAll, describe, expect, onTestFinished, test } from "vitest";
import { z } from "zod";
import { Azurite } from "../../infra/rehearsal/azurite.ts";
import { parseAccessPolicy } from "../../server/auth/roles.ts";
import { createCallGate } from "../../server/mcp/call-gate.ts";
import { createIdempotentCalls, REPEATED } from "../../server/mcp/idempotent-calls.ts";
import { toolMethods } from "../../server/mcp/tool-methods.ts";
import { createMetrics } from "../../server/observability/metrics.ts";
import {
  ANSWER_BYTES_LIMIT,
  type IdempotencyStore,
  type KeyedRef,
  PROPERTY_BYTES,
} from "../../server/services/idempotency.ts";
import { createMemoryIdempotency } from "../../server/services/idempotency-memory.ts";
import { createTableIdempotency } from "../../server/services/idempotency-table.ts";
import { connectJobsTable } from "../../server/services/jobs-table.ts";
import { openWorkspace } from "../../server/services/workspace.ts";
import { InputNeeded } from "../../server/tools/client-channel.ts";
import { defineTool, type Tool, ToolBusy, type ToolContext, ToolFailure } from "../../server/tools/define-tool.ts";
import type { AtEnd } from "../infra/cli/server-process.ts";
import { authenticate, bearer, callerNamed } from "./callers.ts";
import { quietConnectors } from "./quiet-connectors.ts";
import { messageIn, rpc, temporaryDirectory, testApp } from "./running-app.ts";
import { contextWith, SILENT_CLIENT, toolCallsBehind } from "./tool-context.ts";

const azurite = await Azurite.start();
const TABLE = "jobs";
await azurite.createTable(TABLE);
afterAll(() => azurite.close());
const table = { endpoint: azurite.tableEndpoint, table: TABLE, auth: "emulator" } as const;

const inTable = (keepMs?: number): IdempotencyStore =>
  createTableIdempotency({
    connect: () => connectJobsTable(table),
    connector: quietConnectors().of("tables"),
    onSweepFailed: (error) => expect.unreachable(String(error)),
    ...(keepMs !== undefined && { keepMs }),
  });

/** A store as each of two replicas has it. */
const subjects: [string, () => readonly [IdempotencyStore, IdempotencyStore]][] = [
  [
    "memory",
    () => {
      const store = createMemoryIdempotency();
      return [store, store];
    },
  ],
  ["Azure Table storage", () => [inTable(), inTable()]],
];

/** Of no other test. */
const newRef = (): KeyedRef => ({ owner: "ab".repeat(16), tool: "note", key: randomUUID() });
const record = (answer?: Uint8Array) => ({ digest: "d", holder: randomUUID(), answer });

describe.each(subjects)("records in %s", (_name, make) => {
  test("are written by one of all who would be the first, and changed by who has read them last", async () => {
    const [one, two] = make();
    const ref = newRef();
    const written = await Promise.all(
      Array.from({ length: 8 }, (_, at) => (at % 2 ? one : two).write(ref, undefined, record())),
    );
    expect(written.filter((version) => version !== undefined)).toHaveLength(1);
    const [first = ""] = written.filter((version) => version !== undefined);
    expect(await two.read(ref)).toMatchObject({ version: first, digest: "d" });
    expect((await two.read(ref))?.answer).toBeUndefined();

    const second = await one.write(ref, first, record(Buffer.from("done")));
    expect(second).toEqual(expect.any(String));
    expect(await two.write(ref, first, record())).toBeUndefined();
    await two.remove(ref, first);
    expect(Buffer.from((await two.read(ref))?.answer ?? []).toString()).toBe("done");
    await two.remove(ref, second ?? "");
    expect(await one.read(ref)).toBeUndefined();
    expect(await one.write(ref, second, record())).toBeUndefined();
  });

  test("are told apart by caller, tool and key", async () => {
    const [one] = make();
    const ref = newRef();
    await one.write(ref, undefined, record());
    for (const other of [{ owner: "cd".repeat(16) }, { tool: "not" }, { key: "e" }]) {
      expect(await one.read({ ...ref, ...other })).toBeUndefined();
    }
    // However they are put together.
    expect(await one.read({ ...ref, tool: `${ref.tool}${ref.key[0]}`, key: ref.key.slice(1) })).toBeUndefined();
  });

  test("hold answers of every length up to the limit", async () => {
    const [one, two] = make();
    for (const length of [0, 1, PROPERTY_BYTES, PROPERTY_BYTES + 1, ANSWER_BYTES_LIMIT]) {
      const ref = newRef();
      const answer = Buffer.alloc(length, "äß");
      await one.write(ref, undefined, record(answer));
      expect(answer.equals((await two.read(ref))?.answer ?? Buffer.from("none"))).toBe(true);
    }
  });
});

test("records in memory are forgotten when their time is over, and never for want of room", async () => {
  let now = 0;
  const store = createMemoryIdempotency(() => now, 2000);
  const ref = newRef();
  await store.write(ref, undefined, record());
  now = 23 * 3_600_000;
  await expect(
    (async () => {
      for (;;) await store.write(newRef(), undefined, record(Buffer.alloc(100)));
    })(),
  ).rejects.toThrow(/as many idempotency keys/);
  expect(await store.read(ref)).toMatchObject({ idleMs: now });
  now = 24 * 3_600_000;
  expect(await store.read(ref)).toBeUndefined();
  expect(await store.write(newRef(), undefined, record())).toEqual(expect.any(String));
});

test("records in the table go when their time is over, asked for or not, and nobody else's rows with them", async () => {
  const rows = await connectJobsTable(table);
  await rows.upsertEntity({ partitionKey: "tenant-1", rowKey: "job" });
  const before = [newRef(), newRef()];
  for (const ref of before) await inTable().write(ref, undefined, record());
  // Dates have whole seconds.
  await sleep(1100);
  const soon = inTable(1);
  await soon.write(newRef(), undefined, record());
  const left = async () => {
    const found = [];
    for await (const row of rows.listEntities({ queryOptions: { select: ["PartitionKey"] } })) {
      if (row.partitionKey === "tenant-1") found.push("job");
    }
    return [...found, ...(await Promise.all(before.map((ref) => inTable().read(ref)))).filter(Boolean)];
  };
  await expect.poll(left, { interval: 20 }).toEqual(["job"]);
});

/** What the tool below has done, and is told to do. */
interface World {
  readonly runs: string[];
  act(text: string, context: ToolContext): Promise<void>;
}

function noteTool(world: World, idempotentHint: boolean): Tool {
  return defineTool({
    name: "note",
    title: "Note",
    description: "Notes.",
    input: z.object({ text: z.string() }),
    output: z.object({ text: z.string(), run: z.number() }),
    annotations: { readOnlyHint: false, destructiveHint: false, idempotentHint, openWorldHint: false },
    role: "reader",
    async run(input, context) {
      expect(input).toEqual({ text: input.text });
      const run = world.runs.push(input.text);
      await world.act(input.text, context);
      return { text: input.text, run };
    },
  });
}

/** Two replicas that offer the tool, and the way to call it at one of them. */
async function replicas(
  atEnd: AtEnd,
  stores: readonly [IdempotencyStore, IdempotencyStore],
  {
    idempotentHint = false,
    leaseMs = 30_000,
    act = async () => {},
  }: Partial<Pick<World, "act">> & {
    idempotentHint?: boolean;
    leaseMs?: number;
  } = {},
) {
  const runs: string[] = [];
  const tools = [noteTool({ runs, act }, idempotentHint)];
  const workspace = await openWorkspace(await temporaryDirectory(atEnd), { fileSizeLimit: 1024 });
  const log = pino({ level: "silent" });
  const metrics = createMetrics(["note"]);
  const gate = createCallGate({ tools, policy: parseAccessPolicy(undefined), facetContext: { shell: true } });
  const made = stores.map((store) =>
    toolMethods({
      gate,
      carryOut: toolCallsBehind(gate, {
        metrics,
        idempotentCalls: createIdempotentCalls({ store, metrics, log, leaseMs }),
      }),
    }),
  );
  const call = (args: unknown, { replica = 0, caller = "one", ...context }: CallOptions = {}) =>
    (made[replica] ?? made[0])?.call(
      "note",
      args,
      contextWith({ workspace, caller: callerNamed(caller), resultLimit: 4 * 1024 * 1024, ...context }),
    ) as Promise<CallToolResult>;
  const counted = async () => {
    const [hits, misses] = await Promise.all(
      ["hits", "misses"].map((each) => metrics.registry.getSingleMetric(`mcp_idempotency_${each}_total`)?.get()),
    );
    return [hits?.values[0]?.value, misses?.values[0]?.value];
  };
  return { call, runs, counted };
}

interface CallOptions extends Partial<Pick<ToolContext, "signal" | "client">> {
  readonly replica?: number;
  readonly caller?: string;
}

const keyed = (text = "hello", idempotency_key: string = randomUUID()) => ({ text, idempotency_key });
const textOf = ({ content }: CallToolResult) => content.map((block) => ("text" in block ? block.text : "")).join("\n");

// Most of the time is spent waiting for leases.
describe.concurrent.each(subjects)("calls with a key, remembered in %s", (_name, make) => {
  test("have the first answer again, marked as such, through whichever replica", async ({
    expect,
    onTestFinished: atEnd,
  }) => {
    const { call, runs, counted } = await replicas(atEnd, make());
    const args = keyed();
    const first = await call(args);
    expect(first).toMatchObject({ structuredContent: { text: "hello", run: 1 } });
    expect(first._meta).toBeUndefined();
    for (const replica of [0, 1]) {
      expect(await call({ ...args }, { replica })).toEqual({ ...first, _meta: { [REPEATED]: true } });
    }
    expect(await call({ text: "hello" })).toMatchObject({ structuredContent: { run: 2 } });
    expect(runs).toHaveLength(2);
    expect(await counted()).toEqual([2, 1]);
  });

  test("run once, however many come at once, and all get its answer", async ({ expect, onTestFinished: atEnd }) => {
    const { promise: goOn, resolve } = Promise.withResolvers<void>();
    const { call, runs } = await replicas(atEnd, make(), { act: () => goOn });
    const args = keyed();
    const calls = Array.from({ length: 12 }, (_, at) => call({ ...args }, { replica: at % 2 }));
    setTimeout(resolve, 100);
    const answers = await Promise.all(calls);
    expect(runs).toHaveLength(1);
    expect(answers.map(({ structuredContent }) => structuredContent)).toEqual(
      Array.from({ length: 12 }, () => ({ text: "hello", run: 1 })),
    );
    expect(answers.filter(({ _meta }) => _meta === undefined)).toHaveLength(1);
  });

  test("are refused with other arguments, and are other callers' with another caller", async ({
    expect,
    onTestFinished: atEnd,
  }) => {
    const { call, runs } = await replicas(atEnd, make());
    const args = keyed("first", "deploy:2026-11-03.1");
    await call(args);
    const refused = await call({ ...args, text: "other" }, { replica: 1 });
    expect(refused.isError).toBe(true);
    expect(textOf(refused)).toContain(
      '"deploy:2026-11-03.1", which you have used for a call of note with other arguments',
    );
    for (const caller of ["two", "neighbour", "key"]) {
      expect((await call({ ...args, text: "other" }, { caller }))._meta).toBeUndefined();
    }
    expect(runs).toEqual(["first", "other", "other", "other"]);
  });

  test("that fail are remembered as having failed, and those with wrong arguments are not", async ({
    expect,
    onTestFinished: atEnd,
  }) => {
    const { call, runs } = await replicas(atEnd, make(), {
      act: async () => {
        throw new ToolFailure("Not like this.", { because: [1, null] });
      },
    });
    const args = keyed();
    const wrong = await call({ ...args, txt: "hello" });
    expect(textOf(wrong)).toContain('Unknown argument "txt"');
    const first = await call(args);
    expect(await call(args, { replica: 1 })).toEqual({ ...first, _meta: { [REPEATED]: true } });
    expect(runs).toHaveLength(1);
    expect(textOf(await call({ text: "a", idempotency_key: "a b" }))).toMatch(/"idempotency_key" is "a b": a key has/);
  });

  test("that find no room are not remembered", async ({ expect, onTestFinished: atEnd }) => {
    let full = true;
    const { call } = await replicas(atEnd, make(), {
      act: async () => {
        if (full) throw new ToolBusy("Try again when one has ended.");
      },
    });
    const args = keyed();
    expect(await call(args)).toMatchObject({ isError: true });
    full = false;
    expect(await call(args, { replica: 1 })).toMatchObject({ structuredContent: { run: 2 } });
  });

  test("that ask first are run with the answer", async ({ expect, onTestFinished: atEnd }) => {
    const { call, runs } = await replicas(atEnd, make(), {
      act: async (_text, { client }) => {
        if (client.answers.sure === undefined) throw new InputNeeded({ state: "asked" });
      },
    });
    const args = keyed();
    expect(await call(args)).toMatchObject({ requestState: "asked" });
    const client = { ...SILENT_CLIENT, answers: { sure: true } };
    expect(await call(args, { replica: 1, client })).toMatchObject({ structuredContent: { run: 2 } });
    expect(await call(args, { client })).toMatchObject({ structuredContent: { run: 2 } });
    expect(runs).toHaveLength(2);
  });

  test("that are cancelled or break off in the middle are not run again unless that does no harm", async ({
    expect,
    onTestFinished: atEnd,
  }) => {
    for (const idempotentHint of [false, true]) {
      let breaks = true;
      const cancelling = new AbortController();
      const { call, runs } = await replicas(atEnd, make(), {
        idempotentHint,
        act: async (text) => {
          if (!breaks) return;
          if (text === "cancel") cancelling.abort();
          throw new Error("inside");
        },
      });
      const [cancelled, broken] = [keyed("cancel"), keyed("break")];
      expect(textOf(await call(cancelled, { signal: cancelling.signal }))).toBe("The call was cancelled.");
      expect(textOf(await call(broken))).toContain("failed by a fault of its own");
      breaks = false;
      const again = [await call(cancelled, { replica: 1 }), await call(broken, { replica: 1 })];
      if (idempotentHint) {
        expect(again).toMatchObject([{ structuredContent: { run: 3 } }, { structuredContent: { run: 4 } }]);
      } else {
        expect(again.map(textOf)).toEqual([
          expect.stringMatching(/was cancelled while it ran: its outcome is not known/),
          expect.stringMatching(/broke off by a fault of its own: its outcome is not known/),
        ]);
        expect(runs).toHaveLength(2);
      }
    }
  });

  test("that were cancelled before they began have never been", async ({ expect, onTestFinished: atEnd }) => {
    const { call, runs } = await replicas(atEnd, make());
    const args = keyed();
    expect(textOf(await call(args, { signal: AbortSignal.abort() }))).toBe("The call was cancelled.");
    expect(runs).toEqual([]);
    expect((await call(args))._meta).toBeUndefined();
    expect(runs).toHaveLength(1);
  });

  test("outlast their lease while they are at work, and are waited for", async ({ expect, onTestFinished: atEnd }) => {
    const { promise: goOn, resolve } = Promise.withResolvers<void>();
    const { call, runs } = await replicas(atEnd, make(), { leaseMs: 1000, act: () => goOn });
    const args = keyed();
    const first = call(args);
    await expect.poll(() => runs.length).toBe(1);
    const second = call(args, { replica: 1 });
    const impatient = new AbortController();
    const third = call(args, { replica: 1, signal: impatient.signal });
    await sleep(1300);
    impatient.abort();
    expect(textOf(await third)).toBe("The call was cancelled.");
    resolve();
    expect((await second).structuredContent).toEqual((await first).structuredContent);
    expect(runs).toHaveLength(1);
  });

  test("that were lost with their replica are run again only where that does no harm", async ({
    expect,
    onTestFinished: atEnd,
  }) => {
    for (const idempotentHint of [false, true]) {
      const [store, other] = make();
      const args = keyed();
      // A replica that ends in the middle: of its call nothing more is heard.
      const gone: IdempotencyStore = {
        ...store,
        write: async (ref, before, written) =>
          before === undefined ? store.write(ref, before, written) : new Promise(() => {}),
      };
      const { call, runs } = await replicas(atEnd, [gone, other], { idempotentHint, leaseMs: 300, act: hangFirst() });
      void call(args);
      await expect.poll(() => runs.length).toBe(1);
      const again = await call(args, { replica: 1 });
      if (idempotentHint) {
        expect(again).toMatchObject({ structuredContent: { run: 2 } });
      } else {
        expect(textOf(again)).toMatch(/lost with the replica that ran it: its outcome is not known, and it is not run/);
        expect(again.isError).toBe(true);
        expect(runs).toHaveLength(1);
      }
    }
  });

  test("whose answer is too long to be kept say so when they come again", async ({ expect, onTestFinished: atEnd }) => {
    const stores = make();
    const { call, runs } = await replicas(atEnd, stores);
    // What no compression makes shorter.
    const text = Array.from({ length: 1_200_000 }, () => String.fromCharCode(33 + Math.random() * 94)).join("");
    const args = keyed(text);
    expect(await call(args)).toMatchObject({ structuredContent: { run: 1 } });
    const again = await call(args, { replica: 1 });
    expect(textOf(again)).toMatch(/carried out by an earlier call .* answer of \d+ characters was too long to be kept/);
    expect(runs).toHaveLength(1);
  });
});

/** Does not end the first time. */
function hangFirst(): () => Promise<void> {
  let first = true;
  return () => {
    if (!first) return Promise.resolve();
    first = false;
    return new Promise(() => {});
  };
}

test("without their store calls with a key are refused, with when to come back, and the others go on", async () => {
  const down: IdempotencyStore = {
    kind: "azure",
    read: () => Promise.reject(new Error("connect ECONNREFUSED")),
    write: () => Promise.reject(new Error("connect ECONNREFUSED")),
    remove: () => Promise.reject(new Error("connect ECONNREFUSED")),
  };
  const { call, runs } = await replicas(onTestFinished, [down, down]);
  const refused = await call(keyed());
  expect(refused).toMatchObject({ isError: true, structuredContent: { retryAfterSeconds: 5 } });
  expect(textOf(refused)).toMatch(/note was not run: .*Try again with the same key in 5 seconds/);
  expect(await call({ text: "hello" })).toMatchObject({ structuredContent: { run: 1 } });
  expect(runs).toHaveLength(1);
});

test("a write whose answer was lost on the way is known again", async () => {
  const store = createMemoryIdempotency();
  // As a client has it that tries again by itself.
  const deaf: IdempotencyStore = {
    ...store,
    write: async (ref, before, written) => {
      await store.write(ref, before, written);
      return store.write(ref, before, written);
    },
  };
  const { call, runs } = await replicas(onTestFinished, [deaf, deaf]);
  const args = keyed();
  expect((await call(args))._meta).toBeUndefined();
  expect(await call(args)).toMatchObject({ structuredContent: { run: 1 }, _meta: { [REPEATED]: true } });
  expect(runs).toHaveLength(1);
});

describe("a server", () => {
  const env = {
    JOBS_TABLE_ENDPOINT: azurite.tableEndpoint,
    JOBS_TABLE_NAME: TABLE,
    JOBS_AUTH: "emulator",
  };

  test("has its replicas append to a file once, and every call on record", async () => {
    const workspace = await temporaryDirectory();
    const apps = [
      await testApp({ ...env, WORKSPACE_PATH: workspace }, undefined, { authenticate }),
      await testApp({ ...env, WORKSPACE_PATH: workspace }, undefined, { authenticate }),
    ];
    const args = { operation: "append", path: "log.txt", content: "once\n", idempotency_key: randomUUID() };
    const call = async (at: number, caller: string, given: Record<string, unknown> = args) => {
      const request = rpc("tools/call", { name: "file_operation", arguments: given }, bearer(caller));
      return messageIn((await apps[at]?.app.inject(request))?.body ?? "").result as CallToolResult | undefined;
    };
    const answers = await Promise.all([0, 1, 0, 1].map((at) => call(at, "one")));
    expect(new Set(answers.map((answer) => JSON.stringify(answer?.structuredContent))).size).toBe(1);
    expect(answers.filter((answer) => answer?._meta?.[REPEATED])).toHaveLength(3);
    // The same person's id in another tenant has a file of its own, and an append of its own.
    expect((await call(0, "two"))?._meta?.[REPEATED]).toBeUndefined();
    for (const caller of ["one", "two"]) {
      const read = await call(1, caller, { operation: "read", path: "log.txt" });
      expect(read?.structuredContent).toMatchObject({ content: "once\n" });
    }
    const records = apps.flatMap((app) => app.events()).filter(({ event }) => event === "tool.called");
    expect(records).toHaveLength(4 + 1 + 2);
    const details = (await apps[0]?.operator.inject("/health/detailed"))?.json();
    expect(details.connectors.tables).toMatchObject({ circuit: "closed", healthy: true, errors: 0 });
    const { body = "" } = (await apps[0]?.operator.inject("/metrics")) ?? {};
    expect(body).toMatch(/^mcp_connector_healthy\{connector="tables"\} 1$/m);
    expect(body).toMatch(/^mcp_connector_requests_total\{connector="tables"\} [1-9]/m);
  });

  test("whose table is gone refuses calls with a key, answers the others, and stays in service", async () => {
    // Nothing listens there.
    const { app, operator } = await testApp({ ...env, JOBS_TABLE_ENDPOINT: "http://127.0.0.1:1/devstoreaccount1" });
    const call = async (more: Record<string, unknown>) => {
      const args = { operation: "mkdir", path: "made", ...more };
      return messageIn((await app.inject(rpc("tools/call", { name: "file_operation", arguments: args }))).body).result;
    };
    expect(await call({ idempotency_key: "1" })).toMatchObject({
      isError: true,
      structuredContent: { retryAfterSeconds: expect.any(Number) },
    });
    expect(await call({})).toMatchObject({ structuredContent: { created: true } });
    expect((await app.inject("/health/ready")).statusCode).toBe(200);
    expect((await operator.inject("/health/detailed")).json().connectors.tables).toMatchObject({
      healthy: false,
      lastError: expect.stringContaining("ECONNREFUSED"),
    });
    expect((await operator.inject("/metrics")).body).toMatch(/^mcp_connector_healthy\{connector="tables"\} 0$/m);
  });

  test("tells models of the key with every tool that has effects, and with no other", async () => {
    const { app } = await testApp();
    const { result } = messageIn((await app.inject(rpc("tools/list"))).body);
    const tools = result?.tools as { inputSchema: { properties?: object }; annotations: { readOnlyHint: boolean } }[];
    expect(
      tools.map(
        ({ inputSchema, annotations }) =>
          "idempotency_key" in (inputSchema.properties ?? {}) !== annotations.readOnlyHint,
      ),
    ).toEqual(tools.map(() => true));
  });
});
