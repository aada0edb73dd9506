import {
  ANCHORED,
  Anchor,
  AUDIT_SCHEMA,
  AuditLine,
  isUnchanged,
  NO_HASH,
} from "../../server/observability/audit-chain.ts";
import { CliError } from "./cli-error.ts";
import type { LogRecord } from "./log-records.ts";

export interface ChainReport {
  readonly id: string;
  readonly replica: string | undefined;
  readonly lines: number;
  /** Numbers and times of the first and the last line; undefined when there is none. */
  readonly first: number | undefined;
  readonly last: number | undefined;
  readonly from: string | undefined;
  readonly to: string | undefined;
  readonly ended: boolean;
  readonly sound: boolean;
  /** What is wrong, in the order found; no more than {@link MOST_FAULTS} of {@link ChainReport.faultCount}. */
  readonly faults: readonly string[];
  readonly faultCount: number;
}

export interface Verification {
  readonly sound: boolean;
  readonly chains: readonly ChainReport[];
  /** Lines that were of an audit trail once. */
  readonly unreadable: number;
  /** Lines of other logs. */
  readonly others: number;
}

export interface Verifier {
  /** Reads a record of the ordinary log. All anchors come before the first line. */
  anchor(record: LogRecord): void;
  /** Reads a record of the audit trail. */
  read(record: LogRecord): void;
  end(): Verification;
}

/** Faults told of each chain; one line that is out of place can make thousands. */
const MOST_FAULTS = 100;

/** What is remembered of a chain: a few values, its faults, and the anchors that were read. */
interface ChainState {
  readonly id: string;
  replica: string | undefined;
  lines: number;
  first: number | undefined;
  /** Number and hash that the next line is to follow. */
  last: number;
  hash: string;
  from: string | undefined;
  to: string | undefined;
  ended: boolean;
  readonly faults: string[];
  faultCount: number;
  /** Of the missing lines among the faults told, the numbers, and which fault it is. */
  readonly gaps: { readonly from: number; readonly to: number; readonly at: number }[];
  /** Hashes by number, of lines not read yet. */
  readonly anchors: Map<number, string>;
}

/** @param part whether chains may begin before and end after what is read. */
export function createVerifier({ part }: { readonly part: boolean }): Verifier {
  const chains = new Map<string, ChainState>();
  let unreadable = 0;
  let others = 0;

  const chainOf = (id: string): ChainState => {
    const known = chains.get(id);
    if (known !== undefined) return known;
    const chain: ChainState = {
      ...{ id, replica: undefined, lines: 0, first: undefined, last: -1, hash: NO_HASH },
      ...{ from: undefined, to: undefined, ended: false, faults: [], faultCount: 0, gaps: [], anchors: new Map() },
    };
    chains.set(id, chain);
    return chain;
  };

  return {
    anchor({ object }) {
      if (object?.event !== ANCHORED) return;
      const { data } = Anchor.safeParse(object);
      if (data === undefined) return;
      const { anchors } = chainOf(data.chain);
      const known = anchors.get(data.seq);
      if (known !== undefined && known !== data.hash) {
        fault(chainOf(data.chain), `the log was told two different hashes of line ${data.seq}`);
      }
      anchors.set(data.seq, data.hash);
    },
    read({ text, object }) {
      if (!isOfAudit(text, object)) {
        others += 1;
        return;
      }
      const { data: line } = AuditLine.safeParse(object);
      if (line === undefined) {
        unreadable += 1;
        return;
      }
      follow(chainOf(line.chain.id), line, text, part);
    },
    end() {
      const reports = [...chains.values()].map((chain) => reportOf(chain, part));
      const sound = unreadable === 0 && reports.length > 0 && reports.every((report) => report.sound);
      return { sound, chains: reports, unreadable, others };
    },
  };
}

/** Also when it is no JSON any more, as a line that was cut off. */
function isOfAudit(text: string, object: LogRecord["object"]): boolean {
  if (object === undefined) return text.includes('"stream":"audit"');
  if (object.stream === "audit" && typeof object.schema === "number" && object.schema > AUDIT_SCHEMA) {
    throw new CliError(
      `The audit trail has form ${object.schema}, and this version knows ${AUDIT_SCHEMA}; use a newer one.`,
    );
  }
  return object.stream === "audit";
}

function fault(chain: ChainState, what: string): void {
  chain.faultCount += 1;
  if (chain.faults.length < MOST_FAULTS) chain.faults.push(what);
}

function missing(chain: ChainState, from: number, to: number): void {
  fault(chain, `${between(from, to)} missing`);
  if (chain.faults.length === chain.faultCount) chain.gaps.push({ from, to, at: chain.faults.length - 1 });
}

type Lost = Extract<AuditLine, { event: "audit.lost" }>;

/** What a sink lost is missing in its copy, and in no other. It stays a fault: what the lines said is not known. */
function explain({ gaps, faults }: ChainState, { chain: { seq }, sink, from, to, lines }: Lost): void {
  for (const gap of gaps) {
    if (gap.to < from || gap.from > to) continue;
    faults[gap.at] += `; line ${seq} tells that the sink "${sink}" lost ${lines} of ${between(from, to)}`;
  }
}

const between = (first: number, last: number) => (first === last ? `line ${first}` : `lines ${first} to ${last}`);

function follow(chain: ChainState, line: AuditLine, text: string, part: boolean): void {
  const { seq, prev, hash } = line.chain;
  const expected = chain.last + 1;
  chain.lines += 1;
  chain.replica ??= line.replica;
  if (!isUnchanged(text, line)) fault(chain, `line ${seq} was changed`);
  checkAnchor(chain, seq, hash);
  if (line.event === "audit.lost") explain(chain, line);

  if (chain.first === undefined) {
    chain.first = seq;
    if (seq > 0 && !part) fault(chain, `${between(0, seq - 1)} missing, the beginning`);
  } else if (seq < expected) {
    fault(
      chain,
      seq === chain.last && hash === chain.hash ? `line ${seq} is there twice` : `line ${seq} is out of place`,
    );
    // What it follows was before; the chain goes on from where it was.
    return;
  } else if (seq > expected) {
    missing(chain, expected, seq - 1);
  }
  if (seq === expected && prev !== chain.hash) fault(chain, `line ${seq} does not follow the line before it`);
  if (chain.ended) fault(chain, `line ${seq} comes after the end`);
  if ((seq === 0) !== (line.event === "audit.started"))
    fault(chain, `line ${seq} is no beginning of a chain, or one in its middle`);
  if (line.event === "audit.ended" && line.lines !== seq + 1) {
    fault(chain, `line ${seq} ends the chain with ${line.lines} lines`);
  }
  chain.from ??= line.time;
  chain.to = line.time;
  chain.last = seq;
  chain.hash = hash;
  chain.ended ||= line.event === "audit.ended";
}

function checkAnchor(chain: ChainState, seq: number, hash: string): void {
  const anchor = chain.anchors.get(seq);
  if (anchor === undefined) return;
  if (anchor !== hash) fault(chain, `line ${seq} has another hash than the log was told`);
  chain.anchors.delete(seq);
}

function reportOf(chain: ChainState, part: boolean): ChainReport {
  const { id, replica, lines, first, last, from, to, ended } = chain;
  if (first === undefined) {
    fault(chain, "every line missing; the log was told of the chain");
  } else {
    const beyond = [...chain.anchors.keys()].filter((seq) => seq > last);
    if (beyond.length > 0) fault(chain, `${between(last + 1, Math.max(...beyond))} missing; the log was told of them`);
    else if (!ended && !part) {
      fault(chain, `no ending after line ${last}: the process still runs, was killed, or the rest is missing`);
    }
  }
  return {
    ...{ id, replica, lines, first, last: first === undefined ? undefined : last, from, to, ended },
    ...{ sound: chain.faultCount === 0, faults: chain.faults, faultCount: chain.faultCount },
  };
}
