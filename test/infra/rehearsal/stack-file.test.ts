import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { stringify } from "yaml";
import { isEncrypted, readStackConfig, StackFileError, stackNames } from "../../../infra/rehearsal/stack-file.ts";
import { parseSettings, SECRET_KEYS, SETTING_KEYS } from "../../../infra/settings.ts";

const roots: string[] = [];
afterAll(() => {
  for (const root of roots) rmSync(root, { recursive: true });
});

function project(config: Record<string, unknown>, stacks: Record<string, unknown>): string {
  const root = mkdtempSync(join(tmpdir(), "stack-file-"));
  roots.push(root);
  mkdirSync(join(root, "stacks"));
  writeFileSync(
    join(root, "Pulumi.yaml"),
    stringify({ name: "mcp", runtime: "nodejs", stackConfigDir: "stacks", config }),
  );
  for (const [name, file] of Object.entries(stacks)) {
    writeFileSync(join(root, "stacks", `Pulumi.${name}.yaml`), typeof file === "string" ? file : stringify(file));
  }
  return root;
}

describe("a stack's configuration", () => {
  test("is the defaults of Pulumi.yaml under the stack's file, as the engine spells them", () => {
    const root = project(
      {
        location: { type: "string", default: "eastus2" },
        days: { type: "integer", default: 0 },
        tags: { type: "array", default: [] },
        none: { type: "string" },
        short: "as it is",
      },
      {
        dev: {
          config: { "mcp:location": "westeurope", "mcp:tags": ["a=b"], "mcp:on": true, "azure-native:location": "x" },
        },
      },
    );
    expect(readStackConfig("dev", root)).toEqual({
      "mcp:location": "westeurope",
      "mcp:days": "0",
      "mcp:tags": '["a=b"]',
      "mcp:short": "as it is",
      "mcp:on": "true",
      "azure-native:location": "x",
    });
  });

  test("survives any text, number or list in the file", () => {
    const value = fc.oneof(
      fc.string({ maxLength: 20 }),
      fc.integer(),
      fc.boolean(),
      fc.array(fc.string({ maxLength: 8 }), { maxLength: 4 }),
    );
    fc.assert(
      fc.property(value, (given) => {
        const config = readStackConfig("dev", project({}, { dev: { config: { "mcp:key": given } } }));
        expect(config["mcp:key"]).toBe(typeof given === "object" ? JSON.stringify(given) : String(given));
      }),
      { numRuns: 40 },
    );
  });

  test("has another value in place of a secret that only Pulumi can decrypt, of a form that settings take", () => {
    const config = readStackConfig(
      "dev",
      project({}, { dev: { config: { "mcp:alertWebhook": { secure: "v1:abc" } } } }),
    );
    expect(parseSettings("dev", config).alerts.webhook?.url).toMatch(/\.invalid\/$/);
    for (const key of SECRET_KEYS) expect(isEncrypted(`mcp:${key}`, config[`mcp:${key}`]), key).toBe(true);
    expect(isEncrypted("mcp:alertWebhook", "https://pager.example.com/x")).toBe(false);
  });

  test("of an empty file is the defaults", () => {
    expect(readStackConfig("dev", project({ a: { default: "b" } }, { dev: "# nothing\n" }))).toEqual({ "mcp:a": "b" });
  });

  test("of every shipped stack parses, with every setting that there is", () => {
    expect(stackNames()).toEqual(["dev", "prod", "staging"]);
    for (const stack of stackNames()) {
      const config = readStackConfig(stack);
      expect(Object.keys(config).sort()).toEqual(SETTING_KEYS.map((key) => `mcp:${key}`).sort());
      expect(parseSettings(stack, config).stack).toBe(stack);
    }
  });
});

describe("is refused", () => {
  const root = () => project({}, { dev: {}, prod: {} });

  test.each([
    [
      "a stack without a file",
      () => readStackConfig("test", root()),
      'there is no stack "test": stacks/ has "dev", "prod"',
    ],
    [
      "a stack nearly spelled right",
      () => readStackConfig("prd", root()),
      'there is no stack "prd": did you mean "prod"? stacks/ has "dev", "prod"',
    ],
    ["a file that is no YAML", () => readStackConfig("dev", project({}, { dev: "config: [" })), "Pulumi.dev.yaml: "],
    [
      "a file of another shape",
      () => readStackConfig("dev", project({}, { dev: "config: yes please\n" })),
      "Pulumi.dev.yaml: ",
    ],
    [
      "a value that only Pulumi can decrypt",
      () => readStackConfig("dev", project({}, { dev: { config: { "mcp:a": { secure: "v1:abc" } } } })),
      "mcp:a is encrypted, and only Pulumi has the key",
    ],
    ["a place without project", () => readStackConfig("dev", tmpdir()), "Pulumi.yaml does not exist"],
  ])("%s", (_, read, sentence) => {
    expect(read).toThrow(StackFileError);
    expect(read).toThrow(sentence);
  });
});
