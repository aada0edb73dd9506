import type { IncomingHttpHeaders } from "node:http";
import { z } from "zod";
import type { Caller, Tool } from "../tools/define-tool.ts";

/**
 * Arguments that a tool's schema marks with `x-mcp-header` are repeated in a header `Mcp-Param-<name>`, for gateways to
 * route by; a request in which the two differ is refused (MCP specification 2026-07-28, Transports, "Custom Headers").
 */
export interface ParameterHeaders {
  /**
   * Why the request is refused, and the id to answer under; undefined when header and body agree, and for a tool that
   * there is not for the caller.
   */
  faultOf(
    body: unknown,
    headers: IncomingHttpHeaders,
    caller: Caller,
  ): { id: string | number; reason: string } | undefined;
}

interface Declaration {
  readonly path: readonly string[];
  /** In lower case, as Node has it. */
  readonly header: string;
}

const Call = z.object({
  id: z.union([z.string(), z.number()]),
  method: z.literal("tools/call"),
  params: z.object({ name: z.string(), arguments: z.record(z.string(), z.unknown()).default({}) }),
});

export function createParameterHeaders(
  tools: readonly Tool[],
  mayKnow: (caller: Caller, tool: string) => boolean,
): ParameterHeaders {
  const byTool = new Map(
    tools
      .map((tool) => [tool.name, declarationsIn(tool.listing.inputSchema, [])] as const)
      .filter(([, declarations]) => declarations.length > 0),
  );
  // Most servers have no such tool, and their calls are not looked at twice.
  if (byTool.size === 0) return { faultOf: () => undefined };
  return {
    faultOf(body, headers, caller) {
      const call = Call.safeParse(body).data;
      if (call === undefined || !mayKnow(caller, call.params.name)) return undefined;
      for (const { path, header } of byTool.get(call.params.name) ?? []) {
        const reason = faultIn(valueAt(call.params.arguments, path), path, header, headers[header]);
        if (reason !== undefined) return { id: call.id, reason };
      }
      return undefined;
    },
  };
}

/** Headers can be declared on properties only, at any depth of plain objects. */
function declarationsIn(schema: unknown, path: readonly string[]): Declaration[] {
  if (typeof schema !== "object" || schema === null) return [];
  const found: Declaration[] = [];
  const name: unknown = Reflect.get(schema, "x-mcp-header");
  if (typeof name === "string" && path.length > 0) found.push({ path, header: `mcp-param-${name.toLowerCase()}` });
  const properties: unknown = Reflect.get(schema, "properties");
  if (typeof properties !== "object" || properties === null) return found;
  return found.concat(Object.entries(properties).flatMap(([key, child]) => declarationsIn(child, [...path, key])));
}

function faultIn(value: unknown, path: readonly string[], header: string, sent: string | string[] | undefined) {
  // What is not in the body need not be in a header, and what is no single value has no form there.
  if (typeof value !== "string" && typeof value !== "number" && typeof value !== "boolean") return undefined;
  const argument = path.join(".");
  if (sent === undefined) return `the body has the argument ${argument}, and the header ${header} is missing`;
  const decoded = decode(Array.isArray(sent) ? sent.join(", ") : sent);
  if (decoded === undefined) return `the header ${header} is not valid Base64`;
  const same =
    typeof value === "number" ? decoded.trim() !== "" && Number(decoded) === value : decoded === String(value);
  return same ? undefined : `the header ${header} differs from the argument ${argument}`;
}

/** Text that a header cannot carry comes as `=?base64?...?=`; whatever looks otherwise is meant literally. */
function decode(sent: string): string | undefined {
  const encoded = /^=\?base64\?(.*)\?=$/s.exec(sent)?.[1];
  if (encoded === undefined) return sent;
  if (!/^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/.test(encoded)) return undefined;
  return Buffer.from(encoded, "base64").toString("utf8");
}

function valueAt(args: Record<string, unknown>, path: readonly string[]): unknown {
  let at: unknown = args;
  for (const key of path) {
    if (typeof at !== "object" || at === null || !Object.hasOwn(at, key)) return undefined;
    at = Reflect.get(at, key);
  }
  return at;
}
