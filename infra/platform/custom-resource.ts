import { CustomResource } from "@pulumi/kubernetes/apiextensions/customResource.js";
import type { CustomResourceOptions, Input } from "@pulumi/pulumi";

/** `T` with outputs allowed in place of any value, as Pulumi takes it. */
export type Declared<T> = T extends string | number | boolean
  ? Input<T>
  : T extends readonly (infer Item)[]
    ? Input<readonly Input<Declared<Item>>[]>
    : { [Key in keyof T]: Declared<T[Key]> };

interface Kind {
  apiVersion: string;
  kind: string;
}

/** What Pulumi reads off the object: everything but its kind may be an output. */
export type Manifest<T extends Kind> = Pick<T, "apiVersion" | "kind"> & Declared<Omit<T, "apiVersion" | "kind">>;

/**
 * An object of a custom kind, checked against the kind's own type: `customResource<ICertificate>(...)`. Pulumi's
 * CustomResource alone takes any properties at all.
 */
export function customResource<T extends Kind>(
  name: string,
  manifest: Manifest<T>,
  options: CustomResourceOptions,
): CustomResource {
  return new CustomResource(name, manifest, options);
}

/**
 * Makes Pulumi wait until a custom resource says so itself; without it, Pulumi takes one for ready as soon as it is
 * stored. `condition=...` as in `kubectl wait`.
 */
export function waitFor(condition: string, timeoutSeconds: number): Record<string, string> {
  return {
    "pulumi.com/waitFor": `condition=${condition}`,
    "pulumi.com/timeoutSeconds": String(timeoutSeconds),
  };
}
