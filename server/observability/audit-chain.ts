import { hash, randomUUID } from "node:crypto";
import { z } from "zod";

/*
 * The audit trail's lines, and how they hold together. A process writes one chain. Its lines are JSON objects without a
 * line break, each ending in
 *
 *   ,"chain":{"id":"<uuid>","seq":<n>,"prev":"<hash of line n-1>","hash":"<hash>"}}
 *
 * where the hash is the SHA-256, in hex, of the line's own UTF-8 text up to `,"hash":`. So it covers all that the line
 * says, its number and the hash before it, and whoever has the lines as they were written needs nothing else to check
 * them. Line 0 is `audit.started`, whose prev is 64 zeros; the last line of a clean end is `audit.ended`.
 */

/** Version of the lines' form. A reader that does not know it says so. */
export const AUDIT_SCHEMA = 1;

/** `prev` of a chain's first line. */
export const NO_HASH = "0".repeat(64);

const HASH = z.string().regex(/^[0-9a-f]{64}$/);
const Seq = z.int().min(0);

const Common = {
  schema: z.literal(AUDIT_SCHEMA),
  stream: z.literal("audit"),
  /** UTC, ISO 8601, with milliseconds. */
  time: z.iso.datetime({ precision: 3 }),
  /** The pod, or the machine, that wrote it. */
  replica: z.string(),
};

const Chained = { chain: z.strictObject({ id: z.uuid(), seq: Seq, prev: HASH, hash: HASH }) };

const Who = {
  subject: z.string().optional(),
  tenant: z.string().optional(),
  /** How the caller proved who it is. */
  method: z.enum(["local", "none", "api-key", "entra"]).optional(),
  role: z.string().optional(),
  scopedRole: z.string().optional(),
  keyId: z.string().optional(),
  client: z.string().optional(),
  /** Whole, or the network that it is of. */
  address: z.string().optional(),
};

const Call = {
  /** 32 hex digits, of the request's W3C trace context where it had one. */
  traceId: z.string().regex(/^[0-9a-f]{32}$/),
  ...Who,
  subject: z.string(),
  tool: z.string(),
  argumentDigest: z.string(),
  /** The arguments that the tool declares safe, masked. */
  arguments: z.record(z.string(), z.string()),
};

export const OUTCOMES = ["ok", "failed", "cancelled", "asked", "queued", "broken", "denied"] as const;

/** A line of the audit trail. */
export const AuditLine = z.discriminatedUnion("event", [
  /** The process began, and its chain with it. */
  z.strictObject({ ...Common, event: z.literal("audit.started"), version: z.string(), ...Chained }),
  /** A call that changes something is about to run; written where a server fails closed. */
  z.strictObject({ ...Common, event: z.literal("tool.calling"), ...Call, ...Chained }),
  /** A call ended. */
  z.strictObject({
    ...Common,
    event: z.literal("tool.called"),
    ...Call,
    outcome: z.enum(OUTCOMES),
    durationMs: z.number().min(0),
    ...Chained,
  }),
  /** A request was refused, by who sent it or for want of room; or a call denied, by what its caller may do. */
  z.strictObject({
    ...Common,
    event: z.enum(["request.refused", "call.denied"]),
    traceId: Call.traceId,
    reason: z.string(),
    ...Who,
    requestMethod: z.string().optional(),
    path: z.string().optional(),
    tool: z.string().optional(),
    ...Chained,
  }),
  /** A sink has lost lines, the first and the last of which are named, and takes lines again. */
  z.strictObject({
    ...Common,
    event: z.literal("audit.lost"),
    sink: z.string(),
    from: Seq,
    to: Seq,
    lines: z.int().min(1),
    ...Chained,
  }),
  /** The process ended as it should. Nothing of its chain follows. */
  z.strictObject({ ...Common, event: z.literal("audit.ended"), lines: z.int().min(1), ...Chained }),
]);
export type AuditLine = z.output<typeof AuditLine>;

/** Where a chain stands: what the ordinary log is told of it from time to time. */
export interface ChainHead {
  readonly id: string;
  readonly seq: number;
  readonly hash: string;
}

/** Event of the ordinary log that carries a {@link ChainHead}. */
export const ANCHORED = "audit.anchored";
export const Anchor = z.object({ event: z.literal(ANCHORED), chain: z.uuid(), seq: Seq, hash: HASH });

/** The chain of this process. */
export interface Chain {
  readonly id: string;
  /** The last line; undefined before the first. */
  readonly head: ChainHead | undefined;
  /** Number of the line that comes next. */
  readonly next: number;
  /** @param content a line's JSON text as far as its chain, without the brace at the end: `{"schema":1,...`. */
  seal(content: string): string;
}

export function createChain(id: string = randomUUID()): Chain {
  let next = 0;
  let last = NO_HASH;
  return {
    id,
    get head() {
      return next === 0 ? undefined : { id, seq: next - 1, hash: last };
    },
    get next() {
      return next;
    },
    seal(content) {
      const covered = `${content},"chain":{"id":"${id}","seq":${next},"prev":"${last}"`;
      last = hash("sha256", covered);
      next += 1;
      return `${covered},"hash":"${last}"}}`;
    },
  };
}

/** What stands behind the text that the hash covers: `,"hash":"` and 64 digits and `"}}`. */
const TAIL = /^,"hash":"[0-9a-f]{64}"\}\}$/;
const TAIL_LENGTH = 9 + 64 + 3;

/** Whether a line is as it was when its hash was made; `text` is the line without its line break. */
export function isUnchanged(text: string, { chain }: Pick<AuditLine, "chain">): boolean {
  return TAIL.test(text.slice(-TAIL_LENGTH)) && hash("sha256", text.slice(0, -TAIL_LENGTH)) === chain.hash;
}
