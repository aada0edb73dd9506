import type {
  BlobResourceContents,
  Icon,
  Resource,
  ResourceTemplateType,
  TextResourceContents,
} from "@modelcontextprotocol/server";
import type { Role } from "../config.ts";
import type { CallContext } from "../tools/define-tool.ts";

export type ResourceContents = TextResourceContents | BlobResourceContents;

/** One page of a list. */
export interface ResourcePage {
  readonly resources: Resource[];
  /** Where the next page begins, in the source's own words; absent at the end. */
  readonly next?: string;
  /** Why the list ends before its end, when it does. */
  readonly incomplete?: string;
}

export type ResourceTemplate = ResourceTemplateType & { icons?: Icon[] };

/** Resources that share a URI scheme. */
export interface ResourceSource {
  /** As in `workspace://`, without colon. */
  readonly scheme: string;
  /** Without it, there are no such resources for a caller. */
  readonly role: Role;
  readonly templates: readonly ResourceTemplate[];
  /** A page of the resources that have a URI of their own, always in the same order. */
  list(from: string | undefined, context: CallContext): Promise<ResourcePage>;
  /** Throws {@link ResourceMissing}, or {@link ResourceFailure} for anything else that the caller can mend. */
  read(uri: string, context: CallContext): Promise<ResourceContents[]>;
  /** What a variable of a template may be, beginning with `value`. */
  complete(template: string, variable: string, value: string, context: CallContext): Promise<readonly string[]>;
  /** Calls `changed` whenever the resource is not what it was, until the returned function is called. */
  watch?(uri: string, context: Omit<CallContext, "signal">, changed: () => void): () => void;
}

/** There is no such resource. */
export class ResourceMissing extends Error {
  override readonly name = "ResourceMissing";
}

/** The resource cannot be had that way; the message says why and how. */
export class ResourceFailure extends Error {
  override readonly name = "ResourceFailure";
}
