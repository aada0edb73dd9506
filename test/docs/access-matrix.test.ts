import { createHash } from "node:crypto";
import { expect, it } from "vitest";
import { createAccess } from "../../server/auth/access.ts";
import { parseAccessPolicy } from "../../server/auth/roles.ts";
import { ROLES, type Role } from "../../server/config.ts";
import { createJobTools } from "../../server/jobs/job-tools.ts";
import { createCallGate } from "../../server/mcp/call-gate.ts";
import { prompts } from "../../server/prompts/index.ts";
import { resourceSources } from "../../server/resources/index.ts";
import { createFileWatch } from "../../server/services/watch.ts";
import { tools } from "../../server/tools/index.ts";
import { testApp } from "../server/running-app.ts";
import { documents } from "./documents.ts";

const page = documents.find(({ path }) => path === "docs/security.md");
const section = /^## Who may do what\n([\s\S]*?)(?=^## |$(?![\s\S]))/m.exec(page?.text ?? "")?.[1] ?? "";

/** The rows of the table with this heading, as lists of cells. */
function table(heading: string): string[][] {
  const start = section.indexOf(`| ${heading} |`);
  expect(start, `a table headed ${heading}`).toBeGreaterThan(-1);
  const [, , ...rows] = (section.slice(start).split("\n\n")[0] ?? "").split("\n");
  return rows.map((row) =>
    row
      .split("|")
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
}

const access = createAccess({ tools, policy: parseAccessPolicy(undefined), facetContext: { shell: true } });

const gate = createCallGate({ tools, policy: parseAccessPolicy(undefined), facetContext: { shell: true } });
const { examine } = createJobTools(tools, gate);

/** The same for what is to be a job: refused where the call would be. */
function jobCells(tool: string, args: unknown): string[] {
  return ROLES.map((role) => {
    try {
      examine({ subject: "s", method: "entra", tenant: "t", role }, tool, args);
      return "yes";
    } catch {
      return "refused";
    }
  });
}

/** What each role gets for a call, by the decision itself. */
function cells(name: string, args: unknown): string[] {
  const tool = tools.find((each) => each.name === name);
  if (tool === undefined) throw new Error(`There is no ${name}.`);
  return ROLES.map((role) => {
    const decision = access.decide({ subject: "s", method: "entra", tenant: "t", role }, tool, args);
    if (decision.granted) return "yes";
    return decision.why === "hidden" ? "unknown" : "refused";
  });
}

const reached = (needed: Role) =>
  ROLES.map((role) => (ROLES.indexOf(role) >= ROLES.indexOf(needed) ? "yes" : "unknown"));

it("says of every tool, operation, prompt and resource what each role may", () => {
  const expected = new Map<string, string[]>();
  for (const { name, listing } of tools) {
    const { operation } = (listing.inputSchema.properties ?? {}) as { operation?: { enum: string[] } };
    if (name === "submit_job") expected.set(name, jobCells("execute_command", { command: "ls" }));
    else if (operation === undefined) expected.set(name, cells(name, { command: "ls" }));
    else
      for (const each of operation.enum) expected.set(`${name} ${each}`, cells(name, { operation: each, path: "a" }));
  }
  for (const { name, role } of prompts) expected.set(`prompt ${name}`, reached(role));
  for (const { scheme, role } of resourceSources(createFileWatch()))
    expected.set(`resources ${scheme}:`, reached(role));

  const written = new Map<string, string[]>();
  for (const [what = "", ...may] of table("what | reader | operator | admin")) {
    if (what.includes("serve --stdio")) continue;
    const [, kind = "", name = "", operations] = /^(prompt |resources )?`([^`]+)`(?:: (.*))?/.exec(what) ?? [];
    for (const operation of operations?.split(", ") ?? [""]) written.set(`${kind}${name} ${operation}`.trim(), may);
  }
  expect(Object.fromEntries(written)).toEqual(Object.fromEntries(expected));
});

it("names the facets of every tool", () => {
  const expected = tools.map(({ name, facetNames }) => [`\`${name}\``, facetNames?.join(", ") || "none"]);
  expect(table("tool | facets")).toEqual(expected);
});

it("says of every endpoint who may use it", async () => {
  const key = createHash("sha256").update("mcp_dev_key").digest("hex");
  const { app, operator } = await testApp({
    AUTH_MODE: "api-key",
    API_KEY_HASHES: `sha256:${key}`,
    OPENAPI_DOCS: "true",
  });
  const rows = table("endpoint | who");
  const who = new Map(
    rows.flatMap(([endpoints = "", may = ""]) =>
      [...endpoints.matchAll(/`([^`]+)`/g)].map(([, each]) => [each, may] as const),
    ),
  );
  const { paths } = (await app.inject("/docs/json")).json() as { paths: Record<string, Record<string, unknown>> };
  for (const [path, methods] of Object.entries(paths)) {
    for (const method of Object.keys(methods)) expect([...who.keys()]).toContain(`${method.toUpperCase()} ${path}`);
  }
  for (const [endpoint = "", may] of who) {
    const [method, path] = endpoint.startsWith("/") ? ["GET", endpoint] : endpoint.split(" ");
    const request = { method: method as "GET", url: path ?? "", headers: { host: "127.0.0.1" } };
    const { statusCode } = await app.inject(request);
    if (may.startsWith("callers")) expect([endpoint, statusCode]).toEqual([endpoint, 401]);
    else if (may.startsWith("everyone")) expect([401, 403, 404], endpoint).not.toContain(statusCode);
    else {
      expect([endpoint, statusCode]).toEqual([endpoint, 404]);
      expect((await operator.inject(request)).statusCode).toBe(200);
    }
  }
});

it("has a policy as its example that the server takes", () => {
  const example = page?.blocks.find(({ language, code }) => language === "json" && code.includes('"roles"'))?.code;
  const policy = parseAccessPolicy(example);
  expect(() => createAccess({ tools, policy, facetContext: { shell: true } })).not.toThrow();
});
