import type { IncomingHttpHeaders } from "node:http";
import {
  CLIENT_CAPABILITIES_META_KEY,
  CLIENT_INFO_META_KEY,
  type ClientCapabilities,
  classifyInboundRequest,
  PROTOCOL_VERSION_META_KEY,
  type RequestId,
  SUPPORTED_PROTOCOL_VERSIONS,
} from "@modelcontextprotocol/server";
import { traceIdOf } from "../observability/trace-context.ts";
import { type Session, sessionOf } from "./session.ts";

/** A request in the form that nearly all have: nothing in it but what every client sends. */
export interface PlainRequest {
  readonly id: RequestId;
  /** Set for `tools/call`; any other method is one whose answer never changes. */
  readonly call: { readonly tool: string; readonly args: unknown } | undefined;
  readonly method: string;
  readonly progressToken: string | number | undefined;
  /** W3C trace id, of the header or else of `_meta`. */
  readonly traceId: string | undefined;
  /** Whether it speaks the 2026-07-28 protocol. */
  readonly modern: boolean;
  /** What the client says with the request, on the 2026-07-28 protocol. */
  readonly capabilities: ClientCapabilities | undefined;
  /** What it says it is part of, on older ones. */
  readonly session: Session | undefined;
}

/** The one version so far that has no handshake. */
const MODERN_VERSION = "2026-07-28";
const JSON_TYPES: ReadonlySet<string> = new Set(["application/json", "application/json; charset=utf-8"]);
/** Keys of `_meta` that mean something to the protocol begin so. */
const RESERVED = "io.modelcontextprotocol/";
/** Envelopes remembered as good. A client sends the same with every request. */
const ENVELOPES_LIMIT = 1024;
/** Characters of one that is worth remembering. */
const ENVELOPE_LENGTH_LIMIT = 2048;

/**
 * Recognises plain requests by what they have and by everything that they have not: a key, a value or a header that is
 * not listed here makes a request one for the SDK, which checks and answers it. So nothing is refused here, and what is
 * recognised is known to be valid.
 */
export function createRecognise(
  methods: ReadonlySet<string>,
): (body: unknown, headers: IncomingHttpHeaders) => PlainRequest | undefined {
  const envelopes = new Set<string>();

  /** Envelopes are the SDK's to judge: one that it has not seen yet is shown to it. */
  function isGoodEnvelope(envelope: object, body: object, method: string): boolean {
    const text = JSON.stringify(envelope);
    if (envelopes.has(text)) return true;
    if (text.length > ENVELOPE_LENGTH_LIMIT) return false;
    const { kind } = classifyInboundRequest({
      httpMethod: "POST",
      protocolVersionHeader: MODERN_VERSION,
      mcpMethodHeader: method,
      body,
    });
    if (kind !== "modern") return false;
    if (envelopes.size >= ENVELOPES_LIMIT) envelopes.clear();
    envelopes.add(text);
    return true;
  }

  return (body, headers) => {
    if (!isObject(body)) return undefined;
    const { jsonrpc, id, method, params = {}, ...others } = body;
    if (jsonrpc !== "2.0" || !isEmpty(others) || !isObject(params)) return undefined;
    if (typeof method !== "string" || !methods.has(method)) return undefined;
    if (typeof id !== "string" && !Number.isSafeInteger(id)) return undefined;
    if (!JSON_TYPES.has(headers["content-type"] ?? "")) return undefined;

    const { _meta: meta = {}, name, arguments: args, ...rest } = params;
    if (!isEmpty(rest) || !isObject(meta)) return undefined;
    let call: PlainRequest["call"];
    if (method === "tools/call") {
      if (typeof name !== "string" || (args !== undefined && !isObject(args))) return undefined;
      call = { tool: name, args };
    } else if ("name" in params || "arguments" in params) return undefined;

    const { progressToken, traceparent, ...envelope } = meta;
    const isToken =
      progressToken === undefined || typeof progressToken === "string" || Number.isSafeInteger(progressToken);
    if (!isToken || ("progressToken" in meta && progressToken === undefined)) return undefined;
    // Another one with every request, so it is no part of what is remembered as a good envelope.
    if (traceparent !== undefined && typeof traceparent !== "string") return undefined;
    const common = {
      id: id as RequestId,
      method,
      call,
      progressToken: progressToken as string | number | undefined,
      traceId: traceIdOf(headers.traceparent) ?? traceIdOf(traceparent),
    };

    const version = headers["mcp-protocol-version"];
    if (version === MODERN_VERSION) {
      // Whatever is said before the result makes it a stream, which is the SDK's.
      if (progressToken !== undefined) return undefined;
      if (headers["mcp-method"] !== method || headers["mcp-name"] !== call?.tool) return undefined;
      if (envelope[PROTOCOL_VERSION_META_KEY] !== MODERN_VERSION) return undefined;
      for (const key in envelope) if (!ENVELOPE_KEYS.has(key)) return undefined;
      if (!isGoodEnvelope(envelope, body, method)) return undefined;
      const capabilities = envelope[CLIENT_CAPABILITIES_META_KEY] as ClientCapabilities;
      return { ...common, modern: true, capabilities, session: undefined };
    }

    for (const key in envelope) if (key.startsWith(RESERVED)) return undefined;
    if (version !== undefined && !(typeof version === "string" && SUPPORTED_PROTOCOL_VERSIONS.includes(version))) {
      return undefined;
    }
    if (!takesBoth(headers.accept)) return undefined;
    const sessionId = headers["mcp-session-id"];
    if (sessionId === undefined) return { ...common, modern: false, capabilities: undefined, session: undefined };
    const session = typeof sessionId === "string" ? sessionOf(sessionId) : undefined;
    return session && { ...common, modern: false, capabilities: undefined, session };
  };
}

const ENVELOPE_KEYS: ReadonlySet<string> = new Set([
  PROTOCOL_VERSION_META_KEY,
  CLIENT_CAPABILITIES_META_KEY,
  CLIENT_INFO_META_KEY,
]);

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isEmpty(object: object): boolean {
  for (const _ in object) return false;
  return true;
}

const BOTH = ["application/json", "text/event-stream"];

function takesBoth(accept: string | undefined): boolean {
  return BOTH.every((type) => accept?.includes(type));
}
