import type { Caller } from "../tools/define-tool.ts";

/** One request that was not let through. */
export interface Decision {
  /** `refused`: nobody knows who asked, or they may not be here at all. `denied`: known, but this is not theirs. */
  readonly decision: "refused" | "denied";
  readonly reason: string;
  readonly caller?: Caller;
  readonly address?: string;
  readonly method?: string;
  readonly path?: string;
  readonly tool?: string;
  readonly traceId?: string;
}

export interface Audit {
  decided(decision: Decision): void;
}
