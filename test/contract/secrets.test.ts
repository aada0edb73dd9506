import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { planJson, planText } from "../../infra/rehearsal/plan-view.ts";
import { renderKubernetes } from "../../infra/rehearsal/render.ts";
import { at, planAndInputsOf, planOf, STACKS } from "./planned-stacks.ts";

/** Every secret that a plan makes: what goes into Key Vault, and what Kubernetes Secrets hold. */
async function secretsOf(stack: string): Promise<Map<string, string>> {
  const { given } = await planAndInputsOf(stack);
  const secrets = given.flatMap(({ type, inputs }): [string, unknown][] => {
    if (type === "azure-native:keyvault:Secret") {
      return [[`vault secret ${inputs.secretName}`, at(inputs, "properties", "value")]];
    }
    if (type !== "kubernetes:core/v1:Secret") return [];
    const values = { ...asRecord(inputs.stringData), ...asRecord(inputs.data) };
    return Object.entries(values).map(([key, value]) => [`Secret ${at(inputs, "metadata", "name")}, ${key}`, value]);
  });
  // A user's name is in a Secret only because its password is.
  return new Map(
    secrets.filter(([name]) => !name.endsWith("admin-user")).map(([name, value]) => [name, String(value)]),
  );
}

function asRecord(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null ? { ...value } : {};
}

/** The stacks that open to a key as well; the others have no key that could leak. */
const WITH_KEY: readonly string[] = ["dev"];

describe.each(STACKS)("the secrets of stack %s", (stack) => {
  test("are the ones that are known, each worth guarding", async () => {
    const secrets = await secretsOf(stack);
    const withKey = WITH_KEY.includes(stack);
    expect([...secrets.keys()].toSorted()).toEqual([
      "Secret grafana-admin, admin-password",
      "Secret job-worker, APPLICATIONINSIGHTS_CONNECTION_STRING",
      ...(withKey ? ["Secret mcp-server, API_KEY_HASHES"] : []),
      "Secret mcp-server, APPLICATIONINSIGHTS_CONNECTION_STRING",
      "vault secret grafana-admin-password",
      ...(withKey ? ["vault secret mcp-api-key"] : []),
    ]);
  });

  test.each([
    ["JSON", planJson],
    ["text", planText],
  ])("appear nowhere in the plan as %s", async (_, view) => {
    const text = view(await planOf(stack));
    for (const [name, value] of await secretsOf(stack)) expect(text.includes(value), `${name} is in it`).toBe(false);
  });

  test("are in no output, no ConfigMap, no Deployment and no annotation", async () => {
    const { plan, given } = await planAndInputsOf(stack);
    // A chart's values may hold a secret, which Pulumi then masks; nothing else may.
    const guarded = given.filter(
      ({ type }) => /^(kubernetes|azure-native):/.test(type) && !/:(Secret|Release)$/.test(type),
    );
    expect(guarded.length).toBeGreaterThan(50);
    expect(plan.outputs).toEqual(plan.revealedOutputs);
    for (const [name, value] of await secretsOf(stack)) {
      expect(JSON.stringify(plan.revealedOutputs).includes(value), `${name} is in the outputs`).toBe(false);
      for (const { type, name: resource, inputs } of guarded) {
        expect(JSON.stringify(inputs).includes(value), `${name} is in the inputs of ${type} ${resource}`).toBe(false);
      }
    }
  });

  test("are in no rendered file", async () => {
    const directory = await mkdtemp(join(tmpdir(), "mcp-render-test-"));
    onTestFinished(() => rm(directory, { recursive: true, force: true }));
    const files = await renderKubernetes(await planOf(stack), directory);
    const texts = await Promise.all(files.map((file) => readFile(join(directory, file), "utf8")));
    expect(texts.length).toBeGreaterThan(10);
    for (const [name, value] of await secretsOf(stack)) {
      for (const text of texts) {
        expect(
          text.includes(value) || text.includes(Buffer.from(value).toString("base64")),
          `${name} is rendered`,
        ).toBe(false);
      }
    }
  });

  test("outputs name commands that fetch them instead", async () => {
    const { outputs } = await planOf(stack);
    const keys = WITH_KEY.includes(stack) ? [at(outputs.apiKey, "command")] : [];
    for (const command of [...keys, at(outputs.grafana, "passwordCommand")]) {
      expect(command).toMatch(/^az keyvault secret show --vault-name kv-mcp-\w+-\w{5} --name [\w-]+ /);
    }
  });
});

test.each(WITH_KEY)("the key in the vault of stack %s is the one that its server accepts", async (stack) => {
  const secrets = await secretsOf(stack);
  const key = secrets.get("vault secret mcp-api-key") ?? "";
  expect(key).toMatch(new RegExp(`^mcp_${stack}_[A-Za-z0-9_-]{43}$`));
  const hash = createHash("sha256").update(key).digest("hex");
  expect(secrets.get("Secret mcp-server, API_KEY_HASHES")).toBe(`sha256:${hash}`);
});
