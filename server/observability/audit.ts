import { hostname } from "node:os";
import type { FastifyBaseLogger } from "fastify";
import { Counter, Gauge } from "prom-client";
import type { Config } from "../config.ts";
import type { Connectors } from "../services/resilience.ts";
import { type Caller, ToolFailure } from "../tools/define-tool.ts";
import { ANCHORED, AUDIT_SCHEMA, type ChainHead, createChain, type OUTCOMES } from "./audit-chain.ts";
import { createMask, isSecretName, maskedAddress, SECRET, safeText } from "./audit-mask.ts";
import { createFileSink, type FileSink } from "./audit-sinks/file.ts";
import { connectIngestion, createIngestionSink } from "./audit-sinks/ingestion.ts";
import { createLineSink } from "./audit-sinks/line-sink.ts";
import { joined, type Loss, type Sink, type SinkReports } from "./audit-sinks/sink.ts";
import { isoTime } from "./iso-time.ts";
import type { LineWriter } from "./line-writer.ts";
import type { Metrics } from "./metrics.ts";
import { newTraceId } from "./trace-context.ts";

/** `refused`: a request, by who sent it or for want of room. `denied`: a call, by what its caller may do. */
export interface Decision {
  readonly decision: "refused" | "denied";
  /** For the audit alone; callers are told less. */
  readonly reason: string;
  readonly caller?: Caller | undefined;
  readonly address?: string | undefined;
  /** HTTP's, or the protocol's. */
  readonly method?: string | undefined;
  readonly path?: string | undefined;
  readonly tool?: string | undefined;
  readonly traceId?: string | undefined;
}

/** A call that may run. */
export interface CallRecord {
  readonly caller: Caller;
  readonly tool: string;
  /** Whether it may change something, which a server that fails closed has on record before. */
  readonly changes: boolean;
  readonly argumentDigest: string;
  /** The arguments that the tool declares safe. They are masked all the same. */
  readonly safeArguments: Readonly<Record<string, string>>;
  readonly address?: string | undefined;
  readonly traceId?: string | undefined;
}

export type CallOutcome = (typeof OUTCOMES)[number];

export interface Begun {
  /** To be told once. */
  ended(how: { readonly outcome: CallOutcome; readonly durationMs: number }): void;
}

/** The audit trail: a line for each refusal, each denial and each call. */
export interface Audit {
  /** Whether every sink passes on what it gets. */
  readonly healthy: boolean;
  decided(decision: Decision): void;
  /** @throws AuditUnavailable when the call changes something, and would not be on record where it must be. */
  begin(call: CallRecord): Begun;
  flush(withinMs?: number): Promise<void>;
  /** Ends the chain and passes on what waits; gives up after `withinMs`, or 5 seconds. */
  close(withinMs?: number): Promise<void>;
  /** Opens the file anew, after its path was given to another. */
  reopen(): void;
  /** Passes on at once what can be, for the end of a process that has no time for {@link Audit.close}. */
  push(): void;
  /** For operators. */
  details(): Record<string, unknown>;
}

/** What the caller of a tool is told while a server that fails closed has no audit trail. */
export class AuditUnavailable extends ToolFailure {
  constructor(tool: string, { cause }: ErrorOptions = {}) {
    super(
      `${tool} was not run: it may change something, and this server has to put that on record and cannot at the ` +
        "moment. Tools that only read work; try again later, or tell the server's operator.",
    );
    this.cause = cause;
  }
}

export interface AuditOptions {
  readonly config: Pick<
    Config,
    "AUDIT_STREAM" | "AUDIT_FILE" | "AUDIT_INGESTION_ENDPOINT" | "AUDIT_INGESTION_RULE" | "AUDIT_FAILURE" | "AUDIT_MASK"
  >;
  readonly log: FastifyBaseLogger;
  readonly metrics: Pick<Metrics, "registry">;
  /** This server's version. */
  readonly version: string;
  /** The standard stream that the log goes to. Without one there is no sink of that name. */
  readonly stream?: LineWriter | undefined;
  /** Where it is told how the log service is. */
  readonly connectors?: Pick<Connectors, "watched"> | undefined;
  /** Made of the configuration unless given. */
  readonly ingestion?: (reports: SinkReports) => Sink;
}

/** Lines, and time with lines, after which the ordinary log is told where the chain stands. */
const ANCHOR_LINES = 1000;
const ANCHOR_MS = 5 * 60_000;

const FLUSH_MS = 5000;

/** Safe arguments of a call that are kept; with the length of each, the bound on a line, which a column of Log Analytics (64 KiB) has to hold. */
const MOST_ARGUMENTS = 8;
/** Values that were found to need no masking are remembered, so many of them and no longer ones. */
const MOST_REMEMBERED = 2000;
const LONGEST_REMEMBERED = 128;

/**
 * Builds the audit trail and begins its chain.
 *
 * @throws Error naming AUDIT_FILE when it cannot be opened.
 */
export function createAudit(options: AuditOptions): Audit {
  const { config, log, metrics, version, stream, connectors, ingestion } = options;
  const chain = createChain();
  const count = countersIn(metrics.registry);
  const closedOnFailure = config.AUDIT_FAILURE === "closed";
  const safe = createSafe(config.AUDIT_MASK);
  const replica = JSON.stringify(process.env.HOSTNAME ?? hostname());
  const states: SinkState[] = [];
  let ended = false;

  const healthy = () => states.every(({ failing }) => !failing);

  const add = (make: (reports: SinkReports) => Sink) => {
    states.push(
      createSinkState(make, {
        log,
        count,
        changed: () => count.healthy(healthy()),
        recovered: (sink, loss) => writeLoss(sink, loss),
      }),
    );
  };

  const write = (event: string, content: string) => {
    if (ended || states.length === 0) return;
    const time = isoTime();
    const seq = chain.next;
    const text = chain.seal(
      `{"schema":${AUDIT_SCHEMA},"stream":"audit","time":"${time}","event":"${event}","replica":${replica}${content}`,
    );
    for (const { sink } of states) sink.write({ seq, time, text });
    anchorIfDue();
  };

  const writeLoss = (sink: string, { from, to, lines }: Loss) => {
    write("audit.lost", `,"sink":"${sink}","from":${from},"to":${to},"lines":${lines}`);
  };

  let anchored: ChainHead | undefined;
  let anchorDue: NodeJS.Timeout | undefined;
  const anchor = () => {
    clearTimeout(anchorDue);
    anchorDue = undefined;
    const { head } = chain;
    if (head === undefined || head.seq === anchored?.seq) return;
    anchored = head;
    log.info({ event: ANCHORED, chain: head.id, seq: head.seq, hash: head.hash });
  };
  const anchorIfDue = () => {
    if (anchored === undefined || chain.next - anchored.seq > ANCHOR_LINES) anchor();
    else anchorDue ??= setTimeout(anchor, ANCHOR_MS).unref();
  };

  let file: FileSink | undefined;
  const { AUDIT_FILE: path, AUDIT_INGESTION_ENDPOINT: endpoint, AUDIT_INGESTION_RULE: rule } = config;
  if (config.AUDIT_STREAM && stream !== undefined) add((reports) => createLineSink("stream", stream, reports));
  if (path !== undefined) {
    add((reports) => {
      file = createFileSink(path, reports);
      return file;
    });
  }
  if (ingestion !== undefined) add(ingestion);
  else if (endpoint !== undefined && rule !== undefined) {
    const connector = connectors?.watched("log-ingestion");
    add((reports) => createIngestionSink({ connect: () => connectIngestion(endpoint), rule, connector }, reports));
  }
  write("audit.started", `,"version":${JSON.stringify(version)}`);

  const describeCall = ({ caller, tool, argumentDigest, safeArguments, address }: CallRecord, traceId: string) =>
    `,"traceId":"${traceId}"${whoIs(caller)}${addressOf(address)},"tool":${safe.json(tool)}` +
    `,"argumentDigest":${JSON.stringify(argumentDigest)},"arguments":${safe.object(safeArguments)}`;

  const addressOf = (address: string | undefined) =>
    address === undefined ? "" : `,"address":${JSON.stringify(maskedAddress(address, config.AUDIT_MASK))}`;

  const decided = ({ decision, reason, caller, address, method, path, tool, traceId }: Decision) => {
    write(
      decision === "refused" ? "request.refused" : "call.denied",
      `,"traceId":"${traceOf(traceId)}","reason":${safe.json(reason)}${caller === undefined ? "" : whoIs(caller)}` +
        `${addressOf(address)}${safe.member("requestMethod", method)}${safe.member("path", path)}${safe.member("tool", tool)}`,
    );
  };

  const flush = async (withinMs = FLUSH_MS) => {
    await Promise.all(states.map(({ sink }) => sink.flush(withinMs)));
  };

  return {
    get healthy() {
      return healthy();
    },
    decided,
    begin(call) {
      const traceId = traceOf(call.traceId);
      let described: string | undefined;
      if (closedOnFailure && call.changes) {
        if (healthy()) {
          described = describeCall(call, traceId);
          write("tool.calling", described);
          // On record means with the operating system, not about to be.
          for (const { sink } of states) sink.push();
        }
        if (!healthy()) {
          count.refused();
          decided({ decision: "denied", reason: "The audit trail was failing.", ...call, traceId });
          throw new AuditUnavailable(call.tool);
        }
      }
      let open = true;
      return {
        ended({ outcome, durationMs }) {
          if (!open) return;
          open = false;
          described ??= describeCall(call, traceId);
          write("tool.called", `${described},"outcome":"${outcome}","durationMs":${Math.round(durationMs * 10) / 10}`);
        },
      };
    },
    flush,
    async close(withinMs = FLUSH_MS) {
      if (ended) return;
      write("audit.ended", `,"lines":${chain.next + 1}`);
      ended = true;
      anchor();
      await Promise.all(states.map(({ sink }) => sink.close(withinMs)));
    },
    reopen: () => file?.reopen(),
    push: () => {
      for (const { sink } of states) sink.push();
    },
    details: () => ({
      healthy: healthy(),
      failure: config.AUDIT_FAILURE,
      chain: { id: chain.id, lines: chain.next },
      sinks: states.map((state) => state.details()),
    }),
  };
}

interface Counters {
  readonly lines: (sink: Sink["name"], outcome: "written" | "lost", lines: number) => void;
  readonly healthy: (healthy: boolean) => void;
  readonly refused: () => void;
}

function countersIn(registry: Metrics["registry"]): Counters {
  const registers = [registry];
  const lines = new Counter({
    name: "mcp_audit_lines_total",
    help: "Lines of the audit trail by sink and outcome: written, lost",
    labelNames: ["sink", "outcome"],
    registers,
  });
  const healthy = new Gauge({
    name: "mcp_audit_healthy",
    help: "1 while every sink of the audit trail passes on what it gets, else 0",
    registers,
  });
  const refused = new Counter({
    name: "mcp_audit_refused_calls_total",
    help: "Calls that were not run because they could not be put on record (AUDIT_FAILURE=closed)",
    registers,
  });
  healthy.set(1);
  return {
    lines: (sink, outcome, count) => lines.inc({ sink, outcome }, count),
    healthy: (value) => healthy.set(value ? 1 : 0),
    refused: () => refused.inc(),
  };
}

/** A sink, and what is known of it. */
interface SinkState {
  readonly sink: Sink;
  readonly failing: boolean;
  details(): Record<string, unknown>;
}

interface SinkStateOptions {
  readonly log: FastifyBaseLogger;
  readonly count: Counters;
  /** It fails, or works again. */
  changed(): void;
  /** It takes lines again after it lost some. */
  recovered(sink: Sink["name"], loss: Loss): void;
}

/** Counts what a sink tells, and logs its changes, once each. */
function createSinkState(
  make: (reports: SinkReports) => Sink,
  { log, count, changed, recovered }: SinkStateOptions,
): SinkState {
  let fault: Error | undefined;
  let written = 0;
  let lostInAll = 0;
  /** Since it last worked. */
  let loss: Loss | undefined;
  const sink = make({
    written(lines) {
      written += lines;
      count.lines(sink.name, "written", lines);
    },
    lost(more) {
      lostInAll += more.lines;
      loss = joined(loss, more);
      count.lines(sink.name, "lost", more.lines);
    },
    failing(error) {
      const first = fault === undefined;
      fault = error;
      if (!first) return;
      changed();
      log.error({ event: "audit.failing", sink: sink.name, err: error });
    },
    working() {
      if (fault === undefined && loss === undefined) return;
      const over = loss;
      fault = undefined;
      loss = undefined;
      changed();
      log.warn({ event: "audit.recovered", sink: sink.name, lost: over?.lines ?? 0 });
      if (over !== undefined) recovered(sink.name, over);
    },
  });
  return {
    sink,
    get failing() {
      return fault !== undefined;
    },
    details: () => ({
      name: sink.name,
      healthy: fault === undefined,
      written,
      waiting: sink.waiting,
      lost: lostInAll,
      ...(fault !== undefined && { fault: fault.message }),
    }),
  };
}

/** Text from outside as JSON, masked and bounded. */
function createSafe(what: AuditOptions["config"]["AUDIT_MASK"]) {
  const mask = createMask(what);
  const clean = new Map<string, string>();
  const json = (text: string): string => {
    const known = clean.get(text);
    if (known !== undefined) return known;
    const masked = safeText(text, mask);
    const written = JSON.stringify(masked);
    if (masked === text && text.length <= LONGEST_REMEMBERED) {
      if (clean.size >= MOST_REMEMBERED) clean.clear();
      clean.set(text, written);
    }
    return written;
  };
  return {
    json,
    member: (name: string, text: string | undefined) => (text === undefined ? "" : `,"${name}":${json(text)}`),
    object(values: Readonly<Record<string, string>>): string {
      let members = "";
      let more = 0;
      for (const name in values) {
        const value = values[name];
        if (value === undefined) continue;
        if (more++ === MOST_ARGUMENTS) break;
        const shown = isSecretName(name) ? `"${SECRET}"` : json(value);
        members += `${members === "" ? "" : ","}${json(name)}:${shown}`;
      }
      return `{${members}}`;
    },
  };
}

const TRACE_ID = /^[0-9a-f]{32}$/;

const traceOf = (given: string | undefined) => (given !== undefined && TRACE_ID.test(given) ? given : newTraceId());

/** What a line says of a caller, made once for each. */
const described = new WeakMap<Caller, string>();

function whoIs(caller: Caller): string {
  const known = described.get(caller);
  if (known !== undefined) return known;
  const { subject, tenant, method, role, scopedRole, keyId, client } = caller;
  const text = `,${JSON.stringify({ subject, tenant, method, role, scopedRole, keyId, client }).slice(1, -1)}`;
  described.set(caller, text);
  return text;
}
