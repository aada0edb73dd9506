import fc from "fast-check";
import { expect, test } from "vitest";
import { z } from "zod";
import { createRecognise } from "../../server/mcp/plain-requests.ts";
import { mintSession } from "../../server/mcp/session.ts";
import { definePrompt } from "../../server/prompts/define-prompt.ts";
import { InputNeeded } from "../../server/tools/client-channel.ts";
import { defineTool, type Tool, ToolFailure } from "../../server/tools/define-tool.ts";
import { fileOperation } from "../../server/tools/file-operation.ts";
import { systemInfo } from "../../server/tools/system-info.ts";
import { authenticate, bearer, CALLERS } from "./callers.ts";
import { type TestApp, testApp } from "./running-app.ts";

/*
 * Plain requests go a way of their own, past the SDK's dispatch. These tests send the same requests, sound ones and
 * others, to a server that has this way and to one that has not, and expect the same answers.
 */

const annotations = { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false };
const schema = { type: "object" as const };

function raw(name: string, respond: Tool["respond"]): Tool {
  const listing = { name, title: name, description: name, inputSchema: schema, annotations };
  return { name, role: "reader", listing, respond };
}

const text = (value: unknown) => [{ type: "text" as const, text: JSON.stringify(value) }];

const tools: readonly Tool[] = [
  defineTool({
    name: "echo",
    title: "Echo",
    description: "Says it again.",
    input: z.object({ text: z.string(), times: z.number().optional() }),
    output: z.object({ text: z.string() }),
    annotations,
    role: "reader",
    run: (input) => ({ text: input.text }),
  }),
  // With a key the second time another answer, and other arguments with the same one are refused.
  defineTool({
    name: "does",
    title: "Do",
    description: "Does something.",
    input: z.object({ text: z.string().optional() }),
    output: z.object({ text: z.string() }),
    annotations: { ...annotations, readOnlyHint: false },
    role: "reader",
    run({ text = "" }) {
      if (text === "fail") throw new ToolFailure("Not like this.");
      return { text };
    },
  }),
  defineTool({
    name: "recalls",
    title: "Recall",
    description: "Says it again, of what is kept.",
    input: z.object({ text: z.string() }),
    output: z.object({ text: z.string() }),
    annotations,
    role: "reader",
    cacheSeconds: 60,
    run: ({ text }) => ({ text }),
  }),
  raw("says", async (args, { client, caller, signal }) => {
    await client.log("debug", { args });
    await client.progress({ progress: 1, message: "one" });
    await client.progress({ progress: 1, message: "no more than before" });
    await client.progress({ progress: 2, total: 2 });
    const { wantsProgress, capabilities, answers, state } = client;
    return {
      content: text({ wantsProgress, capabilities, answers, state, caller, aborted: signal.aborted }),
      structuredContent: { capabilities },
    };
  }),
  raw("image", async (_args, { client }) => {
    await client.progress({ progress: 1 });
    return { content: [{ type: "image", data: "AAAA", mimeType: "image/png" }, ...text("beside")] };
  }),
  raw("long", async () => ({ content: [{ type: "text", text: "\u{1f600} \u0001".repeat(40_000) }] })),
  raw("empty", async () => ({ content: [] })),
  raw("annotated", async () => ({ content: [{ type: "text", text: "x", annotations: { priority: 1 } }] })),
  // Not what the protocol allows, so it is for the SDK to say so.
  raw("wrong", async () => ({ content: [{ type: "text", text: 5 as unknown as string }] })),
  raw("fails", async () => {
    throw new ToolFailure("Not like this.", { because: [1, null] });
  }),
  raw("breaks", async () => {
    throw new Error("inside");
  }),
  raw("asks", async (_args, { client }) => {
    if (client.answers.sure !== undefined) return { content: text(client.answers) };
    throw new InputNeeded({
      requests: {
        sure: {
          method: "elicitation/create",
          params: { message: "Sure?", requestedSchema: { type: "object", properties: {} } },
        },
      },
    });
  }),
  // For some callers only, and for some of them only with some arguments.
  { ...raw("operators", async () => ({ content: text("only operators") })), role: "operator" },
  { ...raw("admins", async () => ({ content: text("only admins") })), role: "admin" },
  {
    ...raw("routed", async () => ({ content: text("routed") })),
    role: "operator",
    listing: {
      ...raw("routed", async () => ({ content: [] })).listing,
      inputSchema: { ...schema, properties: { text: { type: "string", "x-mcp-header": "Text" } } },
    },
  },
  { ...fileOperation, respond: async (args) => ({ content: text(args) }) },
];

const prompts = [
  definePrompt({
    name: "govern",
    title: "Govern",
    description: "Says what to do.",
    role: "admin",
    arguments: z.object({}),
    render: () => [],
  }),
];

/** Rules that hold for some. */
const ACCESS_POLICY = JSON.stringify({
  tools: {
    echo: { role: "reader" },
    image: { role: "operator" },
    file_operation: { allow: { operator: { path: ["docs/*"] } } },
  },
});

const NEWEST = "2026-07-28";
const META = "io.modelcontextprotocol/";

type Json = Record<string, unknown>;

interface Message {
  readonly headers: Record<string, string>;
  readonly body: unknown;
}

/** A request as clients send it, in one of the versions. */
const sound: fc.Arbitrary<Message> = fc
  .record({
    modern: fc.boolean(),
    method: fc.constantFrom("tools/call", "tools/call", "tools/list", "prompts/list", "resources/templates/list"),
    tool: fc.constantFrom(...tools.map(({ name }) => name), "nonsense"),
    args: fc.option(
      fc.oneof(
        fc.record({ text: fc.string() }),
        fc.record({
          text: fc.constantFrom("a", "b", "fail"),
          idempotency_key: fc.constantFrom<unknown>("1", "2", "3", "not a key", 4),
        }),
        fc.record({
          operation: fc.constantFrom("read", "write", "delete", "list"),
          path: fc.constantFrom("docs/a", "docs/../a", "b", "."),
        }),
        fc.dictionary(fc.string(), fc.jsonValue()),
      ),
      { nil: undefined },
    ),
    id: fc.oneof(fc.string(), fc.integer()),
    token: fc.option(fc.oneof(fc.string(), fc.integer()), { nil: undefined }),
    trace: fc.option(fc.constantFrom("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "x"), {
      nil: undefined,
    }),
    capabilities: fc.constantFrom<Json>({}, { roots: {} }, { elicitation: {} }, { sampling: {}, unknown: { x: 1 } }),
    session: fc.constantFrom(undefined, "none", "some"),
    caller: fc.constantFrom(...CALLERS.keys()),
  })
  .map(({ modern, method, tool, args, id, token, trace, capabilities, session, caller }) => {
    const isCall = method === "tools/call";
    const extra = {
      ...(token !== undefined && { progressToken: token }),
      ...(trace !== undefined && { traceparent: trace }),
    };
    const envelope = {
      [`${META}protocolVersion`]: NEWEST,
      [`${META}clientCapabilities`]: capabilities,
      [`${META}clientInfo`]: { name: "test", version: "1" },
    };
    const meta = modern ? { ...envelope, ...extra } : token !== undefined || trace !== undefined ? extra : undefined;
    const params = {
      ...(meta && { _meta: meta }),
      ...(isCall && { name: tool, ...(args !== undefined && { arguments: args }) }),
    };
    // On older versions the SDK would ask a client that can be asked, and none here answers.
    const asked = session === "some" && tool !== "asks" ? { ...capabilities, elicitation: {} } : {};
    return {
      headers: {
        host: "127.0.0.1",
        "content-type": "application/json",
        accept: "application/json, text/event-stream",
        ...bearer(caller),
        ...(modern && { "mcp-protocol-version": NEWEST, "mcp-method": method, ...(isCall && { "mcp-name": tool }) }),
        ...(!modern &&
          session !== undefined && {
            "mcp-protocol-version": "2025-11-25",
            "mcp-session-id": mintSession({ protocolVersion: "2025-11-25", capabilities: asked }),
          }),
      },
      body: { jsonrpc: "2.0", id, method, params },
    };
  });

const anything = fc.oneof(
  fc.jsonValue(),
  fc.constantFrom<unknown>(null, "", "2.0", "tools/call", "tools/list", "echo", NEWEST, "2025-11-25", 1.5, -1, {}, []),
);

/** One thing in the body put in, changed or taken out; the path says where. */
const bodyFault = fc
  .record({
    path: fc.constantFrom<string[]>(
      ["jsonrpc"],
      ["id"],
      ["method"],
      ["params"],
      ["extra"],
      ["result"],
      ["params", "name"],
      ["params", "arguments"],
      ["params", "cursor"],
      ["params", "task"],
      ["params", "inputResponses"],
      ["params", "requestState"],
      ["params", "_meta"],
      ["params", "_meta", "progressToken"],
      ["params", "_meta", "traceparent"],
      ["params", "_meta", `${META}protocolVersion`],
      ["params", "_meta", `${META}clientCapabilities`],
      ["params", "_meta", `${META}clientInfo`],
      ["params", "_meta", `${META}logLevel`],
      ["params", "_meta", `${META}related-task`],
    ),
    value: fc.option(anything, { nil: undefined }),
  })
  .map(({ path, value }) => (message: Message): Message => {
    const body = structuredClone(message.body);
    let at = body as Json;
    for (const key of path.slice(0, -1)) {
      const next = at?.[key];
      if (typeof next !== "object" || next === null) return message;
      at = next as Json;
    }
    const last = path.at(-1) ?? "";
    if (value === undefined) delete at[last];
    else at[last] = value;
    return { ...message, body };
  });

const headerFault = fc
  .record({
    name: fc.constantFrom(
      "content-type",
      "accept",
      "mcp-protocol-version",
      "mcp-method",
      "mcp-name",
      "mcp-session-id",
      "origin",
      "mcp-param-text",
    ),
    value: fc.option(
      fc.constantFrom(
        "",
        "x",
        NEWEST,
        ` ${NEWEST} `,
        "2025-06-18",
        "tools/call",
        "tools/list",
        "echo",
        " echo ",
        "=?base64?ZWNobw==?=",
        "application/json",
        "application/json;charset=UTF-8",
        "Application/JSON",
        "text/plain",
        "*/*",
        "text/event-stream",
        "1.e30",
      ),
      { nil: undefined },
    ),
  })
  .map(({ name, value }) => (message: Message): Message => {
    const { [name]: _removed, ...headers } = message.headers;
    return { ...message, headers: value === undefined ? headers : { ...headers, [name]: value } };
  });

const batched = fc.constant((message: Message): Message => ({ ...message, body: [message.body] }));

const message = fc
  .tuple(
    sound,
    fc.array(fc.oneof({ arbitrary: bodyFault, weight: 3 }, headerFault, { arbitrary: batched, weight: 1 }), {
      maxLength: 2,
    }),
  )
  .map(([first, faults]) => faults.reduce((so, fault) => fault(so), first));

const HEADERS = ["content-type", "allow", "www-authenticate", "cache-control", "x-accel-buffering", "mcp-session-id"];

/** What of an answer a client sees; the session's id is new each time. */
async function answerOf({ app }: TestApp, { headers, body }: Message): Promise<unknown> {
  const response = await app.inject({ method: "POST", url: "/mcp", headers, payload: JSON.stringify(body) });
  const shown = HEADERS.map((name) => [
    name,
    name === "mcp-session-id" ? name in response.headers : response.headers[name],
  ]);
  const events = response.body.split("\n\n").filter((event) => event.startsWith("event: message\ndata: "));
  const said = events.length > 0 ? events.map((event) => JSON.parse(event.slice(event.indexOf("{")))) : response.body;
  const json = typeof said === "string" && said.startsWith("{") ? JSON.parse(said) : said;
  return { status: response.statusCode, headers: shown, body: json };
}

/** Tools that run forever on neither way; the lists are asked for once, so that they are known. */
async function both(): Promise<{ plain: TestApp; sdk: TestApp }> {
  const plain = await testApp({ ACCESS_POLICY }, tools, { authenticate, prompts });
  const sdk = await testApp({ ACCESS_POLICY }, tools, { authenticate, prompts, plainOff: true });
  // Both, since calls with an idempotency key are remembered.
  for (const list of fc.sample(sound, 200)) await Promise.all([answerOf(plain, list), answerOf(sdk, list)]);
  return { plain, sdk };
}

test("sound requests have the same answers on both ways", async () => {
  const { plain, sdk } = await both();
  await fc.assert(
    fc.asyncProperty(sound, async (request) => {
      expect(await answerOf(plain, request)).toEqual(await answerOf(sdk, request));
    }),
    { numRuns: 400, endOnFailure: true },
  );
});

test("a trace context makes no request one for the SDK", () => {
  const recognise = createRecognise(new Set(["tools/call"]));
  fc.assert(
    fc.property(sound, fc.constantFrom("header", "_meta"), ({ headers, body }, where) => {
      const traced = structuredClone(body) as { params: { _meta?: Json } };
      const { traceparent: _without, ...meta } = traced.params._meta ?? {};
      const without = recognise({ ...traced, params: { ...traced.params, _meta: meta } }, headers);
      const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
      traced.params._meta = where === "_meta" ? { ...meta, traceparent } : meta;
      const traceId = "0af7651916cd43dd8448eb211c80319c";
      expect(recognise(traced, where === "header" ? { ...headers, traceparent } : headers)).toEqual(
        without && { ...without, traceId },
      );
    }),
  );
});

test("requests with faults have the same answers on both ways", async () => {
  const { plain, sdk } = await both();
  await fc.assert(
    fc.asyncProperty(message, async (request) => {
      expect(await answerOf(plain, request)).toEqual(await answerOf(sdk, request));
    }),
    { numRuns: 1000, endOnFailure: true },
  );
});

test("each call is on record once, whichever way it goes", async () => {
  const { plain } = await both();
  const [before, asked] = [plain.events().length, ["echo", "image", "fails", "asks", "breaks"]];
  for (const tool of asked) {
    const body = { jsonrpc: "2.0", id: 1, method: "tools/call", params: { name: tool, arguments: { text: "x" } } };
    const headers = {
      host: "127.0.0.1",
      "content-type": "application/json",
      accept: "application/json, text/event-stream",
      ...bearer("admin"),
    };
    await answerOf(plain, { headers, body });
  }
  const logged = plain
    .events()
    .slice(before)
    .filter(({ event }) => String(event).startsWith("tool."))
    .map(({ event, tool, outcome }) => [event, tool, outcome]);
  expect(logged).toEqual([
    ["tool.called", "echo", "ok"],
    ["tool.called", "image", "ok"],
    ["tool.called", "fails", "failed"],
    ["tool.called", "asks", "asked"],
    ["tool.called", "breaks", "broken"],
    ["tool.broken", "breaks", undefined],
  ]);
});

test("a tool that a caller may not know of answers like one that there is not, on both ways", async () => {
  const { plain, sdk } = await both();
  const hidden = ["operators", "admins", "routed", "image"];
  await fc.assert(
    fc.asyncProperty(
      sound,
      fc.constantFrom(...hidden),
      fc.constantFrom("reader", "over-scoped"),
      async (request, tool, caller) => {
        const named = (name: string): Message => {
          const { method = "", params = {} } = request.body as { method?: string; params?: Json };
          fc.pre(method === "tools/call");
          const { "mcp-name": sent, ...headers }: Record<string, string> = { ...request.headers, ...bearer(caller) };
          return {
            headers: { ...headers, ...(sent !== undefined && { "mcp-name": name }) },
            body: { ...(request.body as Json), params: { ...params, name } },
          };
        };
        for (const server of [plain, sdk]) {
          const made = "x".repeat(tool.length);
          const [hidden, none] = [await answerOf(server, named(tool)), await answerOf(server, named(made))];
          expect(JSON.stringify(hidden).replaceAll(tool, made)).toEqual(JSON.stringify(none));
        }
      },
    ),
    { numRuns: 200, endOnFailure: true },
  );
});

test("each role has lists of its own on both ways, and they stay its own", async () => {
  const { plain, sdk } = await both();
  const list = (method: string, caller: string): Message => ({
    headers: {
      host: "127.0.0.1",
      "content-type": "application/json",
      accept: "application/json, text/event-stream",
      ...bearer(caller),
    },
    body: { jsonrpc: "2.0", id: 1, method },
  });
  const names = async (server: TestApp, method: string, caller: string) => {
    const { body } = (await answerOf(server, list(method, caller))) as {
      body: { result: Record<string, { name: string }[]> };
    };
    return (body.result.tools ?? body.result.prompts ?? []).map(({ name }) => name);
  };
  const expected = {
    reader: [
      "echo",
      "does",
      "recalls",
      "says",
      "long",
      "empty",
      "annotated",
      "wrong",
      "fails",
      "breaks",
      "asks",
      "file_operation",
    ],
    operator: tools.map(({ name }) => name).filter((name) => name !== "admins"),
    admin: tools.map(({ name }) => name),
  };
  for (const server of [plain, sdk, plain]) {
    for (const [caller, shown] of Object.entries(expected)) {
      expect(await names(server, "tools/list", caller)).toEqual(shown);
      expect(await names(server, "prompts/list", caller)).toEqual(caller === "admin" ? ["govern"] : []);
    }
    expect(await names(server, "tools/list", "scoped-admin")).toEqual(expected.admin);
    expect(await names(server, "tools/list", "over-scoped")).toEqual(expected.reader);
  }
});

test("the server's own tools answer alike", async () => {
  const plain = await testApp();
  const sdk = await testApp({}, undefined, { plainOff: true });
  for (const version of ["2025-06-18", "2025-11-25"]) {
    const call = { jsonrpc: "2.0", id: "a", method: "tools/call", params: { name: systemInfo.name } };
    const request = {
      headers: {
        host: "127.0.0.1",
        "content-type": "application/json",
        accept: "application/json, text/event-stream",
        "mcp-protocol-version": version,
      },
      body: call,
    };
    expect(shapeOf(await answerOf(plain, request))).toEqual(shapeOf(await answerOf(sdk, request)));
  }
});

/** What there is, without what differs from moment to moment. */
function shapeOf(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(shapeOf);
  if (typeof value !== "object" || value === null) return typeof value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, shapeOf(item)]));
}
