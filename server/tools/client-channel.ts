import type { ClientCapabilities, InputRequests, LoggingLevel } from "@modelcontextprotocol/server";

/** One report of how far a call has come. `progress` only ever rises; what it counts is the tool's choice. */
export interface Progress {
  readonly progress: number;
  readonly total?: number;
  /** For people: what happens now, or what was written since the report before. */
  readonly message?: string;
}

/** What a call may tell its client, and ask of it, while it runs. */
export interface ClientChannel {
  /** Whether the client asked to hear of this call's progress. */
  readonly wantsProgress: boolean;
  /** Reports progress; does nothing when nobody asked. Resolves when the transport has room again. Never throws. */
  progress(report: Progress): Promise<void>;
  /** Sends a log message to the client, if it wants those of that level. Never throws. */
  log(level: LoggingLevel, data: unknown): Promise<void>;
  /** What the client says it can do. */
  readonly capabilities: ClientCapabilities;
  /** Answers to what this call asked before, by the keys it asked under. From the client, so to be checked. */
  readonly answers: Readonly<Record<string, unknown>>;
  /** What this call gave to {@link InputNeeded} as its state, as the client returned it: to be checked as well. */
  readonly state: unknown;
}

/**
 * Thrown by a call that cannot go on without an answer from the client's side. The call is run anew once the answers
 * are there, on whichever replica they reach, so nothing may have been changed before.
 *
 * On the 2026-07-28 protocol this becomes an `input_required` result (MCP specification, "Multi Round-Trip Requests");
 * on older ones the SDK asks by requests of its own and calls again.
 */
export class InputNeeded extends Error {
  override readonly name = "InputNeeded";
  readonly requests: InputRequests | undefined;
  readonly state: string | undefined;

  constructor({ requests, state }: { requests?: InputRequests; state?: string }) {
    super("The call needs an answer from its client.");
    this.requests = requests;
    this.state = state;
  }
}
