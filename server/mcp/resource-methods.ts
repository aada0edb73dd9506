import { ProtocolError, ProtocolErrorCode, ResourceNotFoundError } from "@modelcontextprotocol/server";
import { forEachRole } from "../auth/roles.ts";
import type { Role } from "../config.ts";
import { ResourceFailure, ResourceMissing, type ResourceSource } from "../resources/resource-source.ts";
import type { Caller } from "../tools/define-tool.ts";
import { type Answering, answering, type Connection } from "./exchange.ts";
import { cursorOf, invalidCursor, pagesOf, positionOf } from "./pages.ts";
import { assertInScope, type ScopeFor, scopeForRole } from "./step-up.ts";

/** Says why a list has no more, where that is not because it ends. */
const INCOMPLETE_META_KEY = "mcp-on-aks/incomplete";

export interface ResourceMethods {
  readonly methods: readonly Answering[];
  /** The source that a URI belongs to, if the caller may know of it. Throws when the caller's token lacks the scope. */
  sourceOf(caller: Caller, uri: string): ResourceSource | undefined;
  /** For what names a URI: `resources/read` and `resources/subscribe`. */
  readonly scopeFor: ScopeFor;
}

/** Everything under `resources/`, over several sources, each with a URI scheme of its own. */
export function resourceMethods(sources: readonly ResourceSource[]): ResourceMethods {
  const byScheme = new Map(sources.map((source) => [source.scheme, source]));
  if (byScheme.size < sources.length) throw new Error("Two sources of resources have the same scheme.");
  const shown = forEachRole(sources, ({ role }) => role);
  const templatesFor = (role: Role) => pagesOf(shown[role].flatMap((source) => source.templates));
  const templates = {
    reader: templatesFor("reader"),
    operator: templatesFor("operator"),
    admin: templatesFor("admin"),
  };
  const find = (caller: Caller, uri: string): ResourceSource | undefined => {
    const source = byScheme.get(uri.slice(0, Math.max(0, uri.indexOf(":"))).toLowerCase());
    return source && shown[caller.role].includes(source) ? source : undefined;
  };
  const inScope = (caller: Caller, source: ResourceSource | undefined) => {
    if (source !== undefined) assertInScope(caller, `What is under ${source.scheme}:`, source.role);
    return source;
  };
  const sourceOf: ResourceMethods["sourceOf"] = (caller, uri) => inScope(caller, find(caller, uri));

  const methods = [
    answering("resources/list", async ({ params }, { call, caller }) => {
      const sources = shown[caller.role];
      // A cursor names the source that the page comes from, and where that source goes on.
      const [index, from] = params?.cursor === undefined ? [0, undefined] : placeIn(params.cursor);
      const source = sources[index];
      if (source === undefined) {
        if (params?.cursor !== undefined) throw invalidCursor(params.cursor);
        return { resources: [] };
      }
      inScope(caller, source);
      const { resources, next, incomplete } = await mendable(source.list(from, await call()));
      const nextCursor =
        next !== undefined
          ? cursorOf(`${index}:${next}`)
          : index + 1 < sources.length
            ? cursorOf(`${index + 1}`)
            : undefined;
      return {
        resources,
        ...(nextCursor !== undefined && { nextCursor }),
        ...(incomplete !== undefined && { _meta: { [INCOMPLETE_META_KEY]: incomplete } }),
      };
    }),
    answering("resources/templates/list", ({ params }, { caller }) => {
      const { items, ...rest } = templates[caller.role](params?.cursor);
      return { resourceTemplates: items, ...rest };
    }),
    answering("resources/read", async ({ params: { uri } }, { call, caller }) => {
      const source = sourceOf(caller, uri);
      if (source === undefined) throw new ResourceNotFoundError(uri, `Resource not found: ${uri}`);
      return { contents: await mendable(source.read(uri, await call()), uri) };
    }),
    answering("resources/subscribe", async ({ params: { uri } }, { connection }) => {
      await remembered(connection).subscriptions.add(uri);
      return {};
    }),
    answering("resources/unsubscribe", ({ params: { uri } }, { connection }) => {
      remembered(connection).subscriptions.remove(uri);
      return {};
    }),
  ];
  return {
    methods,
    sourceOf,
    scopeFor(caller, { uri }) {
      const source = typeof uri === "string" ? find(caller, uri) : undefined;
      return source && scopeForRole(caller, source.role);
    },
  };
}

function placeIn(cursor: string): [number, string | undefined] {
  const place = /^(\d{1,4})(?::(.*))?$/s.exec(positionOf(cursor));
  if (place === null) throw invalidCursor(cursor);
  return [Number(place[1]), place[2]];
}

/** Where a subscription belongs, which needs a session. */
export function remembered(connection: Connection | undefined): Connection {
  if (connection !== undefined) return connection;
  throw new ProtocolError(
    ProtocolErrorCode.InvalidRequest,
    "A subscription belongs to a session: send the Mcp-Session-Id that initialize answered with.",
  );
}

/** Passes on what a source refuses as the protocol's error. */
async function mendable<T>(operation: Promise<T>, uri?: string): Promise<T> {
  try {
    return await operation;
  } catch (error) {
    if (error instanceof ResourceMissing && uri !== undefined) throw new ResourceNotFoundError(uri, error.message);
    if (error instanceof ResourceMissing || error instanceof ResourceFailure) {
      throw new ProtocolError(ProtocolErrorCode.InvalidParams, error.message, uri === undefined ? undefined : { uri });
    }
    throw error;
  }
}
