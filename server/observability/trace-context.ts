import { randomFillSync } from "node:crypto";

/** Version, trace id, span id, flags; versions to come may have more (W3C Trace Context, section 3.2). */
const TRACEPARENT = /^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-|$)/;

/**
 * The trace id of a `traceparent`, whether a header of the request or of `_meta` in its parameters; undefined for
 * anything that is none.
 */
export function traceIdOf(traceparent: unknown): string | undefined {
  return typeof traceparent === "string" ? TRACEPARENT.exec(traceparent)?.[1] : undefined;
}

const ID_BYTES = 16;
/** Random bytes come cheaper by the page. */
const pool = Buffer.alloc(256 * ID_BYTES);
let used = pool.length;

/** A trace id for a request that has none. */
export function newTraceId(): string {
  if (used === pool.length) {
    randomFillSync(pool);
    used = 0;
  }
  used += ID_BYTES;
  return pool.toString("hex", used - ID_BYTES, used);
}
