import { createRequire } from "node:module";

const require = createRequire(import.meta.url);

/** A package that only the bench uses, found also where NODE_PATH says; undefined when it is not installed. */
export function benchPackage<T>(name: string): T | undefined {
  let path: string;
  try {
    path = require.resolve(name);
  } catch {
    return undefined;
  }
  return require(path) as T;
}
