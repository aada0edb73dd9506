import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { closest, distance } from "fastest-levenshtein";
import { parseDocument } from "yaml";
import { z } from "zod";

/** The checkout that this file is part of. */
export const ROOT = join(import.meta.dirname, "../..");

/** What is wrong with Pulumi.yaml or a stack's file, in words for whoever wrote it. */
export class StackFileError extends Error {
  override readonly name = "StackFileError";
}

/**
 * What stands in a plan for a setting that only Pulumi can decrypt: a value of the same form. RFC 2606 keeps the name
 * from leading anywhere.
 */
const STAND_INS: Readonly<Record<string, string>> = { "mcp:alertWebhook": "https://encrypted.invalid/" };

/** Whether a value of a stack's configuration, as `readStackConfig` gives it, stands encrypted in the file. */
export function isEncrypted(key: string, value: string | undefined): boolean {
  return value !== undefined && value === STAND_INS[key];
}

const Scalar = z.union([z.string(), z.number(), z.boolean()]);
const Value = z.union([Scalar, z.array(z.unknown()), z.record(z.string(), z.unknown())]);

const Project = z.looseObject({
  name: z.string(),
  main: z.string().optional(),
  stackConfigDir: z.string().default("."),
  config: z
    .record(
      z.string(),
      z.union([
        Value.transform((value) => ({ default: value })).refine((declared) => typeof declared.default !== "object"),
        z.looseObject({ type: z.string().optional(), default: Value.optional(), value: Value.optional() }),
      ]),
    )
    .default({}),
});
const StackFile = z.looseObject({ config: z.record(z.string(), Value).nullish() });

export type Project = z.infer<typeof Project>;

/** Reads Pulumi.yaml. @throws StackFileError */
export function readProject(root: string = ROOT): Project {
  return parse(join(root, "Pulumi.yaml"), Project);
}

/** Names of the stacks that have a file, in alphabetical order. */
export function stackNames(root: string = ROOT): string[] {
  const directory = join(root, readProject(root).stackConfigDir);
  if (!existsSync(directory)) return [];
  return readdirSync(directory)
    .flatMap((file) => /^Pulumi\.(.+)\.ya?ml$/.exec(file)?.[1] ?? [])
    .sort();
}

/**
 * A stack's configuration as the engine hands it to the program: the defaults of Pulumi.yaml, over them the stack's
 * file; text as it is, other scalars as text, lists and maps as JSON. A secret that the file holds encrypted is another
 * value of its form.
 *
 * @throws StackFileError for a stack without a file, or a file that does not parse.
 */
export function readStackConfig(stack: string, root: string = ROOT): Record<string, string> {
  const project = readProject(root);
  const stacks = stackNames(root);
  if (!stacks.includes(stack)) {
    const near = stacks.length > 0 ? closest(stack, stacks) : "";
    const hint = near !== "" && distance(stack, near) <= 2 ? `did you mean "${near}"? ` : "";
    throw new StackFileError(
      `there is no stack "${stack}": ${hint}${project.stackConfigDir}/ has ${stacks.map((name) => `"${name}"`).join(", ") || "none"}`,
    );
  }
  const defaults = Object.entries(project.config).flatMap(([key, declared]) => {
    const value = "value" in declared && declared.value !== undefined ? declared.value : declared.default;
    return value === undefined ? [] : [[namespaced(key, project.name), text(value)] as const];
  });
  const file = ["yaml", "yml"]
    .map((ending) => join(root, project.stackConfigDir, `Pulumi.${stack}.${ending}`))
    .find(existsSync);
  const own = file === undefined ? {} : (parse(file, StackFile).config ?? {});
  const given = Object.entries(own).map(([key, value]) => {
    const full = namespaced(key, project.name);
    if (typeof value !== "object" || Array.isArray(value) || !("secure" in value)) return [full, text(value)] as const;
    const standIn = STAND_INS[full];
    if (standIn === undefined) {
      throw new StackFileError(
        `${file}: ${key} is encrypted, and only Pulumi has the key; it is no secret, so write it in the clear`,
      );
    }
    return [full, standIn] as const;
  });
  return { ...Object.fromEntries(defaults), ...Object.fromEntries(given) };
}

/** `location` and `mcp:location` are the same key. */
export function namespaced(key: string, project: string): string {
  return key.includes(":") ? key : `${project}:${key}`;
}

function text(value: z.infer<typeof Value>): string {
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function parse<T extends z.ZodType>(file: string, schema: T): z.infer<T> {
  if (!existsSync(file)) throw new StackFileError(`${file} does not exist`);
  const document = parseDocument(readFileSync(file, "utf8"));
  const [error] = document.errors;
  if (error) throw new StackFileError(`${file}: ${error.message}`);
  const parsed = schema.safeParse(document.toJS() ?? {});
  if (!parsed.success) throw new StackFileError(`${file}: ${z.prettifyError(parsed.error)}`);
  return parsed.data;
}
