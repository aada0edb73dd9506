import { UriTemplate } from "@modelcontextprotocol/server";
import { z } from "zod";
import { definePrompt, type Prompt } from "../../server/prompts/define-prompt.ts";
import { ResourceMissing, type ResourceSource } from "../../server/resources/resource-source.ts";
import { answersTo, fixtureTools, PNG } from "./fixture-tools.ts";

/* The prompts and resources that the conformance suites ask for, by the names and contents that they prescribe. */

const user = (content: Awaited<ReturnType<Prompt["render"]>>[number]["content"]) => ({
  role: "user" as const,
  content,
});

const prompts: readonly Prompt[] = [
  definePrompt({
    name: "test_simple_prompt",
    title: "Simple",
    description: "Says one thing.",
    arguments: z.object({}),
    render: () => [user({ type: "text", text: "This is a simple prompt for testing." })],
  }),
  definePrompt({
    name: "test_prompt_with_arguments",
    title: "With arguments",
    description: "Repeats its arguments.",
    arguments: z.object({ arg1: z.string().describe("First"), arg2: z.string().describe("Second") }),
    complete: { arg1: async (value) => ["paris", "park", "party", "testing"].filter((word) => word.startsWith(value)) },
    render: ({ arg1, arg2 }) => [user({ type: "text", text: `Prompt with arguments: arg1='${arg1}', arg2='${arg2}'` })],
  }),
  definePrompt({
    name: "test_prompt_with_embedded_resource",
    title: "With a resource",
    description: "Embeds a resource.",
    arguments: z.object({ resourceUri: z.string().describe("URI of the resource") }),
    render: ({ resourceUri }) => [
      user({
        type: "resource",
        resource: { uri: resourceUri, mimeType: "text/plain", text: "Embedded resource content for testing." },
      }),
      user({ type: "text", text: "Please process the embedded resource above." }),
    ],
  }),
  definePrompt({
    name: "test_prompt_with_image",
    title: "With an image",
    description: "Embeds an image.",
    arguments: z.object({}),
    render: () => [
      user({ type: "image", data: PNG, mimeType: "image/png" }),
      user({ type: "text", text: "Please analyze the image above." }),
    ],
  }),
  definePrompt({
    name: "test_input_required_result_prompt",
    title: "Asking",
    description: "Asks the user first.",
    arguments: z.object({}),
    render(_args, { client }) {
      const requestedSchema = {
        type: "object" as const,
        properties: { context: { type: "string" as const } },
        required: ["context"],
      };
      const answers = answersTo(client, {
        user_context: {
          method: "elicitation/create",
          params: { message: "What context should the prompt use?", requestedSchema },
        },
      });
      return [user({ type: "text", text: JSON.stringify(answers) })];
    },
  }),
];

const TEMPLATE = "test://template/{id}/data";
const template = new UriTemplate(TEMPLATE);

const source: ResourceSource = {
  scheme: "test",
  role: "reader",
  templates: [{ name: "template", uriTemplate: TEMPLATE, description: "Data by id", mimeType: "application/json" }],
  list: async () => ({
    resources: [
      { uri: "test://static-text", name: "Static text", description: "Text", mimeType: "text/plain" },
      { uri: "test://static-binary", name: "Static binary", description: "An image", mimeType: "image/png" },
      { uri: "test://watched-resource", name: "Watched", description: "Never changes", mimeType: "text/plain" },
    ],
  }),
  async read(uri) {
    const id = template.match(uri)?.id;
    if (typeof id === "string") {
      const data = JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` });
      return [{ uri, mimeType: "application/json", text: data }];
    }
    switch (uri) {
      case "test://static-text":
        return [{ uri, mimeType: "text/plain", text: "This is the content of the static text resource." }];
      case "test://static-binary":
        return [{ uri, mimeType: "image/png", blob: PNG }];
      case "test://watched-resource":
        return [{ uri, mimeType: "text/plain", text: "Watched." }];
      default:
        throw new ResourceMissing(`There is no ${uri}.`);
    }
  },
  complete: async () => [],
  watch: () => () => {},
};

/** What the server offers while the suites run, in place of its own. */
export const fixture = { tools: fixtureTools, prompts, sources: [source] };
