import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { brotliCompress, brotliDecompress, constants } from "node:zlib";
import { type CallToolResult, ProtocolError } from "@modelcontextprotocol/server";
import type { FastifyBaseLogger } from "fastify";
import type { Metrics } from "../observability/metrics.ts";
import { digestOf } from "../services/arguments-digest.ts";
import { ANSWER_BYTES_LIMIT, type IdempotencyStore, type KeyedRef, rowOf } from "../services/idempotency.ts";
import { ownerOf } from "../services/jobs/job.ts";
import { ConnectorUnavailable } from "../services/resilience.ts";
import { unlessAborted } from "../services/unless-aborted.ts";
import { callerKey, IDEMPOTENCY_KEY, type Tool, ToolBusy, type ToolContext } from "../tools/define-tool.ts";
import { failure, type Outcome } from "./outcome.ts";

/** A call of a tool with effects that came with an idempotency key. */
export interface KeyedCall {
  readonly tool: Tool;
  readonly args: unknown;
  readonly key: string;
  readonly context: ToolContext;
}

/**
 * Has calls with an idempotency key run once: whoever calls again with it gets the first answer, at the same time or a day
 * later, through whichever replica. What cannot be promised is refused.
 */
export interface IdempotentCalls {
  run(call: KeyedCall, execute: () => Promise<Outcome>): Promise<Outcome>;
}

interface IdempotentCallsOptions {
  readonly store: IdempotencyStore;
  readonly metrics: Pick<Metrics, "keyedCall">;
  readonly log: Pick<FastifyBaseLogger, "warn" | "error">;
  /** How long a call is held to be running without a sign of life from who runs it. Milliseconds. */
  readonly leaseMs?: number;
}

/** Long enough for a replica that is busy, short enough for a client that waits for one that is gone. */
const LEASE_MS = 30_000;
/** Between two looks at a call that another replica runs: doubled each time up to the longest. */
const FIRST_LOOK_MS = 50;
const LONGEST_LOOK_MS = 1000;

/** Marks an answer that was given before (MCP specification, "_meta": names of one's own have a prefix). */
export const REPEATED = "mcp-on-aks/repeated";

/** What becomes of a claim to run a call: it is ours, or there is an answer for it already. */
type Claim = { readonly version: string } | { readonly answered: Outcome; readonly hit: boolean };

export function createIdempotentCalls({
  store,
  metrics,
  log,
  leaseMs = LEASE_MS,
}: IdempotentCallsOptions): IdempotentCalls {
  /** What this process has under way; resolves with what is remembered of it, undefined if nothing is. */
  const running = new Map<string, { readonly digest: string; readonly kept: Promise<Outcome | undefined> }>();

  /** Finds out, with the other replicas, whose the call is. */
  const claim = async (call: KeyedCall, ref: KeyedRef, digest: string, holder: string): Promise<Claim> => {
    const { tool, key, context } = call;
    const { signal } = context;
    const record = { digest, holder };
    for (let look = FIRST_LOOK_MS; ; ) {
      const version = await store.write(ref, undefined, record);
      if (version !== undefined) return { version };
      const kept = await store.read(ref);
      // Gone since, or too old to be remembered.
      if (kept === undefined) continue;
      // Its client has tried again, since the first answer was lost on the way.
      if (kept.holder === holder) return { version: kept.version };
      if (kept.digest !== digest) return { answered: otherArguments(tool, key), hit: false };
      if (kept.answer !== undefined) return { answered: repeated(await unpack(kept.answer, tool)), hit: true };
      if (kept.idleMs > leaseMs) {
        if (!tool.listing.annotations.idempotentHint) return { answered: lost(tool), hit: true };
        const taken = await store.write(ref, kept.version, record);
        if (taken !== undefined) return { version: taken };
        continue;
      }
      await sleep(look, undefined, { signal }).catch(() => {});
      if (signal.aborted) return { answered: cancelled(), hit: false };
      look = Math.min(LONGEST_LOOK_MS, look * 2);
    }
  };

  /** Runs the call, which is ours, and has it remembered. Gives its outcome, and what is remembered of it. */
  const carryOut = async (
    { tool, context }: KeyedCall,
    execute: () => Promise<Outcome>,
    ref: KeyedRef,
    digest: string,
    holder: string,
    claimed: string,
  ): Promise<{ outcome: Outcome; kept: Outcome | undefined }> => {
    /** Undefined: the record is another's, who took it over since this replica gave no sign of life. */
    let version: string | undefined = claimed;
    const write = async (answer?: Uint8Array) => {
      if (version === undefined) return;
      const record = { digest, holder, answer };
      let written = await store.write(ref, version, record);
      if (written === undefined) {
        // It may have been this write, or one before it, whose answer was lost on the way.
        const there = await store.read(ref);
        const isOurs = there?.holder === holder;
        if (isOurs && there.answer !== undefined) written = there.version;
        else if (isOurs) written = await store.write(ref, there.version, record);
      }
      version = written;
    };
    const forget = async () => {
      if (version !== undefined) await store.remove(ref, version).catch(unkept);
    };
    const unkept = (error: unknown) =>
      log.warn({ event: "idempotency.unkept", tool: tool.name, reason: reasonOf(error) });
    if (context.signal.aborted) {
      await forget();
      return { outcome: cancelled(), kept: undefined };
    }

    let renewal: Promise<void> | undefined;
    const renewing = setInterval(() => {
      // A failure leaves the rest of the lease to try again in.
      renewal ??= write()
        .catch(() => {})
        .finally(() => {
          renewal = undefined;
        });
    }, leaseMs / 3).unref();
    let outcome: Outcome;
    try {
      outcome = await execute();
    } finally {
      clearInterval(renewing);
      await renewal;
    }

    const kept = remembered(tool, outcome);
    if (kept === undefined) {
      await forget();
    } else {
      await pack(kept).then(write).catch(unkept);
    }
    return { outcome, kept };
  };

  return {
    async run(call, execute) {
      const { tool, args, key, context } = call;
      const ref: KeyedRef = { owner: ownerOf(callerKey(context.caller)), tool: tool.name, key };
      const { [IDEMPOTENCY_KEY]: _key, ...rest } = args as Record<string, unknown>;
      const digest = digestOf(rest);
      const name = `${ref.owner} ${rowOf(ref)}`;
      for (;;) {
        if (context.signal.aborted) return cancelled();
        const first = running.get(name);
        if (first === undefined) break;
        if (first.digest !== digest) return otherArguments(tool, key);
        const kept = await unlessAborted(first.kept, context.signal);
        if (kept === undefined) continue;
        metrics.keyedCall("hit");
        return repeated(kept);
      }

      const { promise, resolve } = Promise.withResolvers<Outcome | undefined>();
      running.set(name, { digest, kept: promise });
      let kept: Outcome | undefined;
      try {
        const holder = randomUUID();
        let claimed: Claim;
        try {
          claimed = await claim(call, ref, digest, holder);
        } catch (error) {
          log.error({ event: "idempotency.unavailable", tool: tool.name, err: error });
          // The record may have been written all the same, for a call that is not made.
          void store
            .read(ref)
            .then((record) => (record?.holder === holder ? store.remove(ref, record.version) : undefined))
            .catch(() => {});
          return unavailable(tool, error);
        }
        if ("answered" in claimed) {
          if (claimed.hit) metrics.keyedCall("hit");
          return claimed.answered;
        }
        metrics.keyedCall("miss");
        const done = await carryOut(call, execute, ref, digest, holder, claimed.version);
        kept = done.kept;
        return done.outcome;
      } finally {
        running.delete(name);
        resolve(kept);
      }
    },
  };
}

/** What whoever calls again is told; undefined: the call may be run again. */
function remembered(tool: Tool, outcome: Outcome): Outcome | undefined {
  const { idempotentHint } = tool.listing.annotations;
  switch (outcome.status) {
    case "ok":
      return outcome;
    case "failed":
      // Where nothing was done, it may be another time.
      return outcome.error instanceof ToolBusy ? undefined : outcome;
    case "asked":
      // Nothing was changed yet: it is run anew with the answers.
      return undefined;
    case "cancelled":
      return idempotentHint ? undefined : unknown(tool, "was cancelled while it ran");
    case "broken":
      return idempotentHint ? undefined : unknown(tool, "broke off by a fault of its own");
  }
}

function unknown(tool: Tool, what: string): Outcome {
  return failed(
    `The first call of ${tool.name} with this ${IDEMPOTENCY_KEY} ${what}: its outcome is not known, and it is not run ` +
      "again. Look at what it was to change; then, if it is still to be done, call again with another key.",
  );
}

const lost = (tool: Tool) => unknown(tool, "was lost with the replica that ran it");

function otherArguments(tool: Tool, key: string): Outcome {
  return failed(
    `${tool.name} was not run: argument "${IDEMPOTENCY_KEY}" is ${JSON.stringify(key)}, which you have used for a call of ` +
      `${tool.name} with other arguments. Choose another key for another call.`,
  );
}

function unavailable(tool: Tool, error: unknown): Outcome {
  const retryAfterSeconds = error instanceof ConnectorUnavailable ? error.retryAfterSeconds : 5;
  return failed(
    `${tool.name} was not run: calls cannot be remembered by their "${IDEMPOTENCY_KEY}" at the moment, so it could happen ` +
      `twice. Try again with the same key in ${retryAfterSeconds} seconds, or without a key if twice would do no harm.`,
    { retryAfterSeconds },
  );
}

const cancelled = (): Outcome => ({ ...failed("The call was cancelled."), status: "cancelled" });

function failed(sentence: string, output?: Record<string, unknown>): Outcome {
  return { status: "failed", result: failure(sentence, output) };
}

/** The same answer, marked as one that was given before. */
function repeated(outcome: Outcome): Outcome {
  const { result } = outcome;
  if (result === undefined) return outcome;
  return { ...outcome, result: { ...result, _meta: { ...result._meta, [REPEATED]: true } } as CallToolResult };
}

const compress = promisify(brotliCompress);
const decompress = promisify(brotliDecompress);
/** Fast, and still with the window that finds a result's text again in its structured content. */
const QUALITY = { params: { [constants.BROTLI_PARAM_QUALITY]: 3 } };

/** What is kept of an outcome: its JSON, smaller. An error is the protocol's own, as a tool may throw it. */
interface Packed extends Omit<Outcome, "error"> {
  readonly error?: { readonly code: number; readonly message: string; readonly data?: unknown };
  /** The answer was too long to be kept: so many characters of JSON. */
  readonly left?: number;
}

async function pack({ status, result, error }: Outcome): Promise<Uint8Array> {
  const thrown = error instanceof ProtocolError && { code: error.code, message: error.message, data: error.data };
  const packed: Packed = { status, ...(result && { result }), ...(thrown && { error: thrown }) };
  const text = JSON.stringify(packed);
  const whole = await compress(text, QUALITY);
  if (whole.byteLength <= ANSWER_BYTES_LIMIT) return whole;
  const without: Packed = { status, left: text.length };
  return compress(JSON.stringify(without), QUALITY);
}

async function unpack(answer: Uint8Array, tool: Tool): Promise<Outcome> {
  const { error, left, ...outcome } = JSON.parse((await decompress(answer)).toString("utf8")) as Packed;
  if (left !== undefined) {
    return failed(
      `${tool.name} was carried out by an earlier call with this ${IDEMPOTENCY_KEY}, and is not run again. Its answer ` +
        `of ${left} characters was too long to be kept; look at what it has changed.`,
    );
  }
  return error === undefined
    ? outcome
    : { ...outcome, error: new ProtocolError(error.code, error.message, error.data) };
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? (error.message.split("\n", 1)[0] ?? "") : String(error);
}
