import { randomBytes } from "node:crypto";
import { type ClientCapabilities, SUPPORTED_PROTOCOL_VERSIONS, specTypeSchemas } from "@modelcontextprotocol/server";
import { z } from "zod";

/**
 * A session of an older protocol, as told by its own id: what the client said of itself when it began, and a name that
 * no other session has. The server keeps nothing that the client must have back, so a session outlives any restart and
 * every replica knows it.
 *
 * The id is not signed, because it opens nothing: each request proves its caller by itself, and a client that makes up
 * an id only makes up what it can do.
 */
export interface Session {
  readonly name: string;
  /** What the client asked for; the server answers as it would have to the first request. */
  readonly protocolVersion: string;
  readonly capabilities: ClientCapabilities;
}

const FORMAT = "1.";
/** Longer than any id that was made here. */
const LENGTH_LIMIT = 1024;

const Nothing = z.object({}).optional().catch(undefined);

/** The capabilities that change what the server does; whatever else a client says of itself is dropped here. */
const Capabilities = z
  .object({
    elicitation: z.object({ form: Nothing, url: Nothing }).optional().catch(undefined),
    sampling: z.object({ tools: Nothing, context: Nothing }).optional().catch(undefined),
    roots: z.object({}).optional().catch(undefined),
  })
  .catch({});

const Content = z.object({
  n: z.string().regex(/^[\w-]{16}$/),
  v: z.string().max(32),
  c: Capabilities,
});

/** The id of a new session, for the client whose `initialize` parameters these are. */
export function mintSession(params: { protocolVersion: string; capabilities: unknown }): string {
  const known = SUPPORTED_PROTOCOL_VERSIONS.includes(params.protocolVersion);
  const content: z.input<typeof Content> = {
    n: randomBytes(12).toString("base64url"),
    v: known ? params.protocolVersion : (SUPPORTED_PROTOCOL_VERSIONS[0] ?? ""),
    c: Capabilities.parse(params.capabilities),
  };
  return FORMAT + Buffer.from(JSON.stringify(content), "utf8").toString("base64url");
}

/** Reads an id; undefined when it is none of {@link mintSession}'s making. */
export function readSession(id: string): Session | undefined {
  if (!id.startsWith(FORMAT) || id.length > LENGTH_LIMIT) return undefined;
  try {
    const json: unknown = JSON.parse(Buffer.from(id.slice(FORMAT.length), "base64url").toString("utf8"));
    const { data } = Content.safeParse(json);
    return data && { name: data.n, protocolVersion: data.v, capabilities: definedOnly(data.c) };
  } catch {
    return undefined;
  }
}

/** Sessions read before. What is in an id never changes, so this only saves reading it again. */
const read = new Map<string, Session>();
const READ_LIMIT = 1024;

/** As {@link readSession}, for ids that come again and again. */
export function sessionOf(id: string): Session | undefined {
  const known = read.get(id);
  if (known !== undefined) return known;
  const session = readSession(id);
  if (session === undefined) return undefined;
  if (read.size >= READ_LIMIT) read.clear();
  read.set(id, session);
  return session;
}

/** Whether the client can be asked for anything. */
export function canBeAsked({ capabilities }: Session): boolean {
  return Object.keys(capabilities).length > 0;
}

/** zod leaves `undefined` where something was dropped; to the SDK a key that is there is a capability. */
function definedOnly(capabilities: z.output<typeof Capabilities>): ClientCapabilities {
  const defined: unknown = JSON.parse(JSON.stringify(capabilities));
  // As the SDK reads them in a handshake, where an elicitation that says nothing is one by form.
  const read = specTypeSchemas.ClientCapabilities["~standard"].validate(defined);
  return read.issues === undefined ? read.value : {};
}
