import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parse } from "yaml";
import { z } from "zod";

/** As much of a workflow's shape as the tests read. https://docs.github.com/actions, "Workflow syntax". */
const Permissions = z.record(z.string(), z.enum(["read", "write", "none"]));
const Step = z.object({
  name: z.string().optional(),
  id: z.string().optional(),
  if: z.string().optional(),
  uses: z.string().optional(),
  run: z.string().optional(),
  env: z.record(z.string(), z.coerce.string()).default({}),
  with: z.record(z.string(), z.unknown()).default({}),
});
const Job = z.object({
  if: z.string().optional(),
  uses: z.string().optional(),
  needs: z.string().optional(),
  environment: z.union([z.string(), z.object({ name: z.string() })]).optional(),
  permissions: Permissions.optional(),
  concurrency: z.object({ group: z.string(), "cancel-in-progress": z.unknown() }).optional(),
  "runs-on": z.string().optional(),
  "timeout-minutes": z.number().optional(),
  outputs: z.record(z.string(), z.string()).default({}),
  env: z.record(z.string(), z.coerce.string()).default({}),
  with: z.record(z.string(), z.unknown()).default({}),
  steps: z.array(Step).default([]),
});
const Workflow = z.object({
  on: z.unknown(),
  permissions: Permissions.optional(),
  concurrency: z.object({ group: z.string(), "cancel-in-progress": z.unknown() }).optional(),
  jobs: z.record(z.string(), Job),
});
const Action = z.object({ runs: z.object({ using: z.string(), steps: z.array(Step) }) });

export type Step = z.output<typeof Step>;
export type Job = z.output<typeof Job>;

const root = fileURLToPath(new URL("../../", import.meta.url));
const read = (path: string) => readFileSync(`${root}${path}`, "utf8");

/** Each workflow by its file name, with its text. */
export const workflows = Object.fromEntries(
  readdirSync(`${root}.github/workflows`).map((file) => {
    const text = read(`.github/workflows/${file}`);
    return [file, { text, ...Workflow.parse(parse(text)) }];
  }),
);

/** The composite actions by the path that workflows use. */
export const actions = Object.fromEntries(
  readdirSync(`${root}.github/actions`).map((name) => {
    const text = read(`.github/actions/${name}/action.yml`);
    return [`./.github/actions/${name}`, { text, ...Action.parse(parse(text)) }];
  }),
);

export function job(file: string, name: string): Job {
  const found = workflows[file]?.jobs[name];
  if (!found) throw new Error(`${file} has no job ${name}`);
  return found;
}

export function step(file: string, jobName: string, name: string): Step & { run: string } {
  const found = job(file, jobName).steps.find((s) => s.name === name);
  if (found?.run === undefined) throw new Error(`${file}, ${jobName} has no step "${name}" with a script`);
  return { ...found, run: found.run };
}

/** Names of a workflow's triggers. */
export function triggers(on: unknown): string[] {
  if (typeof on === "string") return [on];
  return Array.isArray(on) ? on.map(String) : Object.keys(on ?? {});
}

/** What expressions see: `inputs`, `vars`, `github`, `steps`, `needs`, `matrix`. */
export type Context = Readonly<Record<string, unknown>>;

const CONTEXTS = ["inputs", "vars", "github", "steps", "needs", "matrix"];

/**
 * The value of a GitHub expression, for the operators that these workflows use: they are JavaScript's, but for names
 * with hyphens and for what is missing, which is the empty string.
 */
export function evaluate(expression: string, context: Context): unknown {
  const inner = expression.replace(/^\s*\$\{\{([\s\S]*)\}\}\s*$/, "$1");
  const javascript = inner
    .replace(/\.([a-z]+(?:-[a-z]+)+)/g, '["$1"]')
    .replace(/cancelled\(\)/g, "false")
    .trim();
  return new Function(...CONTEXTS, `return (${javascript})`)(...CONTEXTS.map((name) => lenient(context[name] ?? {})));
}

/** Text in which every expression is replaced by its value. */
export function interpolate(text: string, context: Context): string {
  return text.replace(/\$\{\{[\s\S]*?\}\}/g, (expression) => String(evaluate(expression, context)));
}

function lenient(value: unknown): unknown {
  if (typeof value !== "object" || value === null) return value;
  return new Proxy(value, { get: (target, key) => lenient(Reflect.get(target, key) ?? "") });
}

/** What a step wrote to $GITHUB_OUTPUT, read as GitHub's runner reads it. */
export function stepOutputs(text: string): Record<string, string> {
  const outputs: Record<string, string> = {};
  const lines = text.split("\n");
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i] ?? "";
    const [, name = "", end] = /^([\w-]+)<<(.+)$/.exec(line) ?? [];
    if (end !== undefined) {
      const stop = lines.indexOf(end, i + 1);
      outputs[name] = lines.slice(i + 1, stop).join("\n");
      i = stop;
    } else if (line !== "") {
      outputs[line.slice(0, line.indexOf("="))] = line.slice(line.indexOf("=") + 1);
    }
  }
  return outputs;
}
