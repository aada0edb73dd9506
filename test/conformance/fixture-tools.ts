import { setTimeout } from "node:timers/promises";
import { createRequestStateCodec, type InputRequests, ProtocolError } from "@modelcontextprotocol/server";
import { type ClientChannel, InputNeeded } from "../../server/tools/client-channel.ts";
import { type Tool, type ToolContext, ToolFailure, type ToolResult } from "../../server/tools/define-tool.ts";

/*
 * The tools that the conformance suites call, by the names and with the answers that the suites prescribe (in each
 * scenario's description). They go through the server's own transports, plugins and protocol like any other tool.
 */

/** One red pixel. */
export const PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==";
/** A WAV file of no samples. */
const WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA=";

type Run = (args: Record<string, unknown>, context: ToolContext) => ToolResult | Promise<ToolResult>;
type JsonSchema = Record<string, unknown> & { type: "object" };

const NO_ARGUMENTS: JsonSchema = { type: "object", properties: {} };

function tool(name: string, description: string, run: Run, inputSchema: JsonSchema = NO_ARGUMENTS): Tool {
  return {
    name,
    role: "reader",
    listing: {
      name,
      title: name,
      description,
      inputSchema,
      annotations: { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false },
    },
    respond: async (args, context) => run((args ?? {}) as Record<string, unknown>, context),
  };
}

const text = (value: string): ToolResult => ({ content: [{ type: "text", text: value }] });
const pause = () => setTimeout(50);

const content: readonly Tool[] = [
  tool("test_simple_text", "Returns text.", () => text("This is a simple text response for testing.")),
  tool("test_image_content", "Returns an image.", () => ({
    content: [{ type: "image", data: PNG, mimeType: "image/png" }],
  })),
  tool("test_audio_content", "Returns a sound.", () => ({
    content: [{ type: "audio", data: WAV, mimeType: "audio/wav" }],
  })),
  tool("test_embedded_resource", "Returns a resource.", () => ({
    content: [
      {
        type: "resource",
        resource: {
          uri: "test://embedded-resource",
          mimeType: "text/plain",
          text: "This is an embedded resource content.",
        },
      },
    ],
  })),
  tool("test_multiple_content_types", "Returns text, an image and a resource.", () => ({
    content: [
      { type: "text", text: "Multiple content types test:" },
      { type: "image", data: PNG, mimeType: "image/png" },
      {
        type: "resource",
        resource: {
          uri: "test://mixed-content-resource",
          mimeType: "application/json",
          text: JSON.stringify({ test: "data", value: 123 }),
        },
      },
    ],
  })),
  tool("test_error_handling", "Fails.", () => {
    throw new ToolFailure("This tool intentionally returns an error for testing");
  }),
];

const whileRunning: readonly Tool[] = [
  tool("test_tool_with_logging", "Logs while it runs.", async (_args, { client }) => {
    await client.log("info", "Tool execution started");
    await pause();
    await client.log("info", "Tool processing data");
    await pause();
    await client.log("info", "Tool execution completed");
    return text("Logged three times.");
  }),
  tool("test_logging_tool", "Logs once.", async (_args, { client }) => {
    await client.log("info", "Logged");
    return text("Logged.");
  }),
  tool("test_tool_with_progress", "Reports progress.", async (_args, { client }) => {
    await client.progress({ progress: 0, total: 100 });
    await pause();
    await client.progress({ progress: 50, total: 100 });
    await pause();
    await client.progress({ progress: 100, total: 100 });
    return text("Done.");
  }),
  tool("test_reconnection", "Takes a while.", async () => {
    await pause();
    return text("Reconnection test completed successfully");
  }),
];

const NAME_FORM = { type: "object", properties: { name: { type: "string" } }, required: ["name"] } as const;
const OK_FORM = { type: "object", properties: { ok: { type: "boolean" } }, required: ["ok"] } as const;

type Form = { type: "object"; properties: Record<string, unknown>; required?: readonly string[] };

const form = (message: string, requestedSchema: Form): InputRequests[string] =>
  ({ method: "elicitation/create", params: { message, requestedSchema } }) as InputRequests[string];

const sampling = (question: string, maxTokens = 100): InputRequests[string] => ({
  method: "sampling/createMessage",
  params: { messages: [{ role: "user", content: { type: "text", text: question } }], maxTokens },
});

const roots: InputRequests[string] = { method: "roots/list", params: {} };

/** Asks until every key is answered by an object, and returns the answers. */
export function answersTo(client: ClientChannel, requests: InputRequests, state?: string): Record<string, object> {
  const answers: Record<string, object> = {};
  for (const key of Object.keys(requests)) {
    const answer = client.answers[key];
    if (typeof answer !== "object" || answer === null) {
      throw new InputNeeded({ requests, ...(state !== undefined && { state }) });
    }
    answers[key] = answer;
  }
  return answers;
}

/** A tool that asks once and says what it was told. */
function asking(name: string, requests: InputRequests, sentence: string, inputSchema?: JsonSchema): Tool {
  return tool(
    name,
    "Asks the client.",
    (_args, { client }) => text(`${sentence} ${JSON.stringify(answersTo(client, requests))}`),
    inputSchema,
  );
}

const olderQuestions: readonly Tool[] = [
  tool(
    "test_sampling",
    "Asks the client's model.",
    (args, { client }) => {
      const { answer } = answersTo(client, { answer: sampling(String(args.prompt)) });
      return text(`LLM response: ${JSON.stringify(answer)}`);
    },
    { type: "object", properties: { prompt: { type: "string" } }, required: ["prompt"] },
  ),
  tool(
    "test_elicitation",
    "Asks the user.",
    (args, { client }) => {
      const person = {
        type: "object",
        properties: {
          username: { type: "string", description: "User's response" },
          email: { type: "string", description: "User's email address" },
        },
        required: ["username", "email"],
      } as const;
      return text(
        `User response: ${JSON.stringify(answersTo(client, { user: form(String(args.message), person) }).user)}`,
      );
    },
    { type: "object", properties: { message: { type: "string" } }, required: ["message"] },
  ),
  asking(
    "test_elicitation_sep1034_defaults",
    {
      form: form("Please review", {
        type: "object",
        properties: {
          name: { type: "string", default: "John Doe" },
          age: { type: "integer", default: 30 },
          score: { type: "number", default: 95.5 },
          status: { type: "string", enum: ["active", "inactive", "pending"], default: "active" },
          verified: { type: "boolean", default: true },
        },
      }),
    },
    "Elicitation completed:",
  ),
  asking(
    "test_elicitation_sep1330_enums",
    {
      form: form("Please choose", {
        type: "object",
        properties: {
          untitledSingle: { type: "string", enum: ["option1", "option2", "option3"] },
          titledSingle: {
            type: "string",
            oneOf: [
              { const: "value1", title: "First Option" },
              { const: "value2", title: "Second Option" },
              { const: "value3", title: "Third Option" },
            ],
          },
          legacyEnum: {
            type: "string",
            enum: ["opt1", "opt2", "opt3"],
            enumNames: ["Option One", "Option Two", "Option Three"],
          },
          untitledMulti: { type: "array", items: { type: "string", enum: ["option1", "option2", "option3"] } },
          titledMulti: {
            type: "array",
            items: {
              anyOf: [
                { const: "value1", title: "First Choice" },
                { const: "value2", title: "Second Choice" },
                { const: "value3", title: "Third Choice" },
              ],
            },
          },
        },
      }),
    },
    "Elicitation completed:",
  ),
];

/** Signs what these tools have the client carry, as any tool should whose state decides something. */
const state = createRequestStateCodec<{ round: number }>({ key: "conformance-fixture-key-of-32-bytes-or-more" });

/** The round that the client's state tells of, 0 without one. Throws the protocol's error for a state not from here. */
async function roundOf(client: ClientChannel, context: ToolContext): Promise<number> {
  if (client.state === undefined) return 0;
  try {
    return (await state.verify(String(client.state), context as never)).round;
  } catch {
    throw new ProtocolError(-32602, "Invalid or expired requestState", { reason: "invalid_request_state" });
  }
}

const multiRound: readonly Tool[] = [
  asking("test_input_required_result_elicitation", { user_name: form("What is your name?", NAME_FORM) }, "Hello,"),
  asking(
    "test_input_required_result_sampling",
    { capital_question: sampling("What is the capital of France?") },
    "The answer:",
  ),
  asking("test_input_required_result_list_roots", { client_roots: roots }, "The roots:"),
  asking("test_streaming_elicitation", { user_name: form("What is your name?", NAME_FORM) }, "Hello,"),
  asking("test_missing_capability", { answer: sampling("Anything?") }, "The answer:"),
  ...["test_input_required_result_request_state", "test_input_required_result_tampered_state"].map((name) =>
    tool(name, "Asks, with a state.", async (_args, context) => {
      const { client } = context;
      await roundOf(client, context);
      answersTo(client, { confirm: form("Please confirm", OK_FORM) }, await state.mint({ round: 1 }));
      return text("state-ok");
    }),
  ),
  tool("test_input_required_result_multiple_inputs", "Asks for three things.", async (_args, context) => {
    const { client } = context;
    await roundOf(client, context);
    const requests = {
      user_name: form("What is your name?", NAME_FORM),
      greeting: sampling("Generate a greeting", 50),
      client_roots: roots,
    };
    return text(JSON.stringify(answersTo(client, requests, await state.mint({ round: 1 }))));
  }),
  tool("test_input_required_result_multi_round", "Asks twice.", async (_args, context) => {
    const { client } = context;
    if ((await roundOf(client, context)) < 2) {
      if (client.answers.step1 === undefined) {
        answersTo(client, { step1: form("Step 1: What is your name?", NAME_FORM) }, await state.mint({ round: 1 }));
      }
    }
    const color = { type: "object", properties: { color: { type: "string" } }, required: ["color"] } as const;
    const step2 = form("Step 2: What is your favorite color?", color);
    return text(JSON.stringify(answersTo(client, { step2 }, await state.mint({ round: 2 }))));
  }),
  tool("test_input_required_result_capabilities", "Asks for what the client can do.", (_args, { client }) => {
    const requests: InputRequests = {
      ...(client.capabilities.sampling && { answer: sampling("Anything?") }),
      ...(client.capabilities.elicitation && { user_name: form("What is your name?", NAME_FORM) }),
    };
    return text(JSON.stringify(answersTo(client, requests)));
  }),
];

const schemas: readonly Tool[] = [
  tool("json_schema_2020_12_tool", "Tool with JSON Schema 2020-12 features", () => text("Called."), {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    type: "object",
    $defs: {
      address: {
        $anchor: "addressDef",
        type: "object",
        properties: { street: { type: "string" }, city: { type: "string" } },
      },
    },
    properties: {
      name: { type: "string" },
      address: { $ref: "#/$defs/address" },
      contactMethod: { type: "string", enum: ["phone", "email"] },
      phone: { type: "string" },
      email: { type: "string" },
    },
    allOf: [{ anyOf: [{ required: ["phone"] }, { required: ["email"] }] }],
    if: { properties: { contactMethod: { const: "phone" } }, required: ["contactMethod"] },
    // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema.
    then: { required: ["phone"] },
    else: { required: ["email"] },
    additionalProperties: false,
  }),
  tool("test_custom_header", "Takes an argument that is repeated in a header.", () => text("Called."), {
    type: "object",
    properties: { region: { type: "string", "x-mcp-header": "Region" } },
    required: ["region"],
  }),
];

const SECONDS: JsonSchema = {
  type: "object",
  properties: { seconds: { type: "number" }, label: { type: "string" } },
};

/** Tools that the scenarios of the tasks extension call. */
const asTasks: readonly Tool[] = [
  tool("greet", "Greets.", ({ name }) => text(`Hello, ${name}!`), {
    type: "object",
    properties: { name: { type: "string" } },
    required: ["name"],
  }),
  {
    ...tool(
      "slow_compute",
      "Takes as many seconds as it is told.",
      async ({ seconds, label }, { signal }) => {
        await setTimeout(Number(seconds) * 1000, undefined, { signal });
        return text(`Computed ${label} in ${seconds} seconds.`);
      },
      SECONDS,
    ),
    job: true,
  },
  {
    ...tool("failing_job", "Fails after a second, and takes no plain calls.", async (_args, { signal }) => {
      await setTimeout(1000, undefined, { signal });
      throw new ToolFailure("This job always fails.");
    }),
    job: "only",
  },
  {
    ...asking("confirm_delete", { confirm: form("Delete it?", OK_FORM) }, "Deleted:", {
      type: "object",
      properties: { filename: { type: "string" } },
    }),
    job: true,
  },
  {
    ...tool("protocol_error_job", "Ends in an error of the protocol.", () => {
      throw new ProtocolError(-32603, "This job always breaks.");
    }),
    job: true,
  },
];

export const fixtureTools: readonly Tool[] = [
  ...content,
  ...whileRunning,
  ...olderQuestions,
  ...multiRound,
  ...schemas,
  ...asTasks,
];
