import { kubernetesError } from "../cloud-error.ts";
import { at, isProperties } from "../values.ts";
import type { Kind, SchemaError } from "./kinds.ts";

/** What makes the validators strips descriptions off schemas, and with them the properties that are called so. */
const LOST = "description";

/**
 * Validates an object against its kind's schema, strictly: fields that the schema does not have are refused, as
 * `kubectl apply` and Pulumi's provider have the API server do.
 *
 * @throws CloudError in the API server's words.
 */
export function checkSchema(kind: Kind, object: Record<string, unknown>): void {
  const name = String(at(object, "metadata.name"));
  const { watched, unread } = watch(object);
  const valid = kind.validate(watched);
  const unknown = unread();
  if (unknown.length > 0) {
    const fields = unknown.map((field) => `unknown field "${field}"`).join(", ");
    throw kubernetesError(
      "BadRequest",
      `${kind.kind} in version "${kind.version}" cannot be handled as a ${kind.kind}: strict decoding error: ${fields}`,
    );
  }
  if (valid) return;
  const faults = [...new Set((kind.validate.errors ?? []).map((error) => sentence(error, object)))];
  const list = faults.length === 1 ? faults[0] : `[${faults.join(", ")}]`;
  throw invalid(kind, name, list ?? "");
}

/** `Deployment.apps "x" is invalid: <details>`. */
export function invalid(kind: Pick<Kind, "kind" | "group">, name: string, details: string): Error {
  const qualified = kind.group === "" ? kind.kind : `${kind.kind}.${kind.group}`;
  return kubernetesError("Invalid", `${qualified} "${name}" is invalid: ${details}`);
}

function sentence({ instancePath, keyword, params, message }: SchemaError, object: unknown): string {
  const segments = instancePath
    .split("/")
    .slice(1)
    .map((s) => s.replaceAll("~1", "/").replaceAll("~0", "~"));
  const value = segments.reduce<unknown>(
    (v, key) => (v === null || typeof v !== "object" ? undefined : Reflect.get(v, key)),
    object,
  );
  const path = segments.map((s, i) => (/^\d+$/.test(s) ? `[${s}]` : i === 0 ? s : `.${s}`)).join("");
  const shown = JSON.stringify(value) ?? "null";
  if (keyword === "required") return `${[path, params.missingProperty].filter(Boolean).join(".")}: Required value`;
  if (keyword === "enum" && Array.isArray(params.allowedValues)) {
    return `${path}: Unsupported value: ${shown}: supported values: ${params.allowedValues.map((v) => JSON.stringify(v)).join(", ")}`;
  }
  if (keyword === "type") return `${path}: Invalid value: ${shown}: must be of type ${String(params.type)}`;
  if (keyword === "pattern") return `${path}: Invalid value: ${shown}: must match ${String(params.pattern)}`;
  if (keyword === "format") return `${path}: Invalid value: ${shown}: must be a ${String(params.format)}`;
  return `${path}: Invalid value: ${shown}: ${message ?? keyword}${params.limit === undefined ? "" : ` ${String(params.limit)}`}`;
}

/**
 * The compiled validators look at every property that their schema names, whether the object has it or not, and go
 * over all keys of maps. So what an object has and the validator never looked at is unknown to the schema; objects
 * that it never looked into are free-form.
 */
function watch(root: Record<string, unknown>): { watched: unknown; unread: () => string[] } {
  const objects: { path: string; value: object; read: Set<string>; all: boolean }[] = [];
  const wrap = (value: unknown, path: string): unknown => {
    if (value === null || typeof value !== "object") return value;
    const record = { path, value, read: new Set<string>(), all: Array.isArray(value) };
    objects.push(record);
    const wrapped = new Map<string, unknown>();
    return new Proxy(value, {
      get(target, key) {
        const inner: unknown = Reflect.get(target, key);
        if (typeof key !== "string") return inner;
        record.read.add(key);
        if (inner === null || typeof inner !== "object") return inner;
        if (!wrapped.has(key)) {
          wrapped.set(
            key,
            wrap(inner, Array.isArray(target) ? `${path}[${key}]` : path === "" ? key : `${path}.${key}`),
          );
        }
        return wrapped.get(key);
      },
      ownKeys(target) {
        record.all = true;
        return Reflect.ownKeys(target);
      },
    });
  };
  return {
    watched: wrap(root, ""),
    unread: () =>
      objects
        .filter(({ value, read, all }) => !all && read.size > 0 && isProperties(value))
        .flatMap(({ value, path, read }) =>
          Object.keys(value)
            .filter((key) => !read.has(key) && key !== LOST)
            .map((key) => (path === "" ? key : `${path}.${key}`)),
        ),
  };
}
