import { readdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { closest, distance } from "fastest-levenshtein";
import { CliError, EXIT } from "./cli-error.ts";

/** The checkout that this command belongs to. */
export const CHECKOUT = resolve(fileURLToPath(new URL("../..", import.meta.url)));

/** Stacks that have a file, in alphabetical order. */
export function stacks(checkout = CHECKOUT): string[] {
  return readdirSync(join(checkout, "stacks"))
    .flatMap((file) => /^Pulumi\.(.+)\.yaml$/.exec(file)?.[1] ?? [])
    .toSorted();
}

/** `name`, if it is a stack's. */
export function knownStack(name: string, checkout = CHECKOUT): string {
  const known = stacks(checkout);
  if (known.includes(name)) return name;
  throw new CliError(
    `There is no stack "${name}"${didYouMean(name, known)}; stacks/ has ${known.join(", ")}.` +
      ` For a new one, add stacks/Pulumi.${/^[\w-]+$/.test(name) ? name : "<name>"}.yaml.`,
    EXIT.usage,
  );
}

/** `; did you mean prod?`, if anything is near. */
export function didYouMean(value: string, known: readonly string[]): string {
  if (known.length === 0) return "";
  const near = closest(value, [...known]);
  return distance(value, near) <= Math.max(1, Math.floor(near.length / 2)) ? `; did you mean ${near}?` : "";
}
