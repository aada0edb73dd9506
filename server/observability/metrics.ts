import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";

/** How a job ended. */
export type JobOutcome = "succeeded" | "failed" | "cancelled" | "expired" | "dead";
/** Why a message was set aside. */
export type DeadLetterReason = "lost" | "attempts" | "unreadable" | "unknown-job";

export type ToolStatus = "ok" | "failed" | "asked" | "cancelled" | "broken";

/** What the server counts. Every label is bounded: names from the network become `other`, never a new series. */
export interface Metrics {
  readonly registry: Registry;
  /** `failed`: the caller can mend it. `asked`: its user was asked first. `broken`: the tool has a fault. */
  toolCalled(tool: string, status: ToolStatus, seconds: number): void;
  /** `method` is the JSON-RPC method, or undefined when there was none to read. */
  requestServed(method: string | undefined, httpStatus: number, seconds: number): void;
  connectionOpened(): void;
  connectionClosed(): void;
  /** `caller` is a hash of who it was. */
  limitExceeded(limit: "calls" | "bytes" | "concurrency", scope: "tool" | "caller" | "global", caller: string): void;
  /** Whether limits are counted where they should be: shared with the other replicas, where there may be some. */
  limitsStoreHealthy(healthy: boolean): void;
  jobEnded(tool: string, outcome: JobOutcome): void;
  /** A run begins; `waitSeconds` since the job was submitted, for its first. */
  jobStarted(tool: string, waitSeconds: number | undefined): void;
  /** The run is over, whatever became of the job. */
  jobStopped(tool: string, seconds: number): void;
  jobRetried(tool: string): void;
  jobDeadLettered(reason: DeadLetterReason): void;
  /** Which API keys end when (milliseconds since 1970), by their ids; in place of what was told before. */
  keysExpire(keys: readonly { readonly id: string; readonly expires: number }[]): void;
}

/** The protocol's methods and notifications, of both eras. */
const METHODS: ReadonlySet<string> = new Set([
  "initialize",
  "ping",
  "server/discover",
  "tools/list",
  "tools/call",
  "resources/list",
  "resources/templates/list",
  "resources/read",
  "resources/subscribe",
  "resources/unsubscribe",
  "prompts/list",
  "prompts/get",
  "completion/complete",
  "logging/setLevel",
  "subscriptions/listen",
  "notifications/initialized",
  "notifications/cancelled",
  "notifications/progress",
  "notifications/roots/list_changed",
]);

/** Hexadecimal digits of a caller's hash in a label: as many as tell some thousands apart. */
const CALLER_DIGITS = 8;
/** Callers with series of their own, the first who exceed a limit; the others are `other`. */
const CALLERS = 100;

/** API keys with series of their own: those that end soonest. */
const KEYS = 100;

/** From a cached answer to a command at its default time limit. Seconds. */
const BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

/** Jobs wait and run for longer than calls: to the longest deadline that stacks commonly have. Seconds. */
const JOB_BUCKETS = [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600];

/** Metrics in a registry of their own, so that a process, or a test, may have several servers. */
export function createMetrics(toolNames: readonly string[]): Metrics {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  const toolCalls = new Counter({
    name: "mcp_tool_calls_total",
    help: "Tool calls by outcome: ok, failed (the caller can mend it), asked (the user was asked first), cancelled, broken (a fault of the tool)",
    labelNames: ["tool", "status"],
    registers,
  });
  const toolDuration = new Histogram({
    name: "mcp_tool_duration_seconds",
    help: "Time that tool calls took",
    labelNames: ["tool"],
    buckets: BUCKETS,
    registers,
  });
  const requests = new Counter({
    name: "mcp_requests_total",
    help: "Requests to the MCP endpoint by JSON-RPC method and HTTP status",
    labelNames: ["method", "status"],
    registers,
  });
  const requestDuration = new Histogram({
    name: "mcp_request_duration_seconds",
    help: "Time from a request's arrival to the end of its answer, streams excepted",
    labelNames: ["method"],
    buckets: BUCKETS,
    registers,
  });
  const connections = new Gauge({
    name: "mcp_active_connections",
    help: "Requests and streams of the MCP endpoint that are open now",
    registers,
  });
  const limitsExceeded = new Counter({
    name: "mcp_rate_limit_exceeded_total",
    help: "Requests and calls refused by a limit (calls, bytes, concurrency) of a scope (tool, caller, global), by a hash of the caller",
    labelNames: ["limit", "scope", "caller"],
    registers,
  });
  const limitsStore = new Gauge({
    name: "mcp_limits_store_healthy",
    help: "1 while limits are counted for all replicas together, 0 while each counts by itself because Redis does not answer",
    registers,
  });
  const keyExpiry = new Gauge({
    name: "mcp_api_key_expiry_timestamp_seconds",
    help: "When each API key of the register ends, by its id: of those with the same name the last, of all the 100 that end soonest",
    labelNames: ["id"],
    registers,
  });
  const jobs = new Counter({
    name: "mcp_jobs_total",
    help: "Jobs that ended, by tool and outcome: succeeded, failed, cancelled, expired (its deadline passed), dead (set aside)",
    labelNames: ["tool", "outcome"],
    registers,
  });
  const jobWait = new Histogram({
    name: "mcp_job_wait_seconds",
    help: "Time from a job's submission to its first run",
    labelNames: ["tool"],
    buckets: JOB_BUCKETS,
    registers,
  });
  const jobDuration = new Histogram({
    name: "mcp_job_duration_seconds",
    help: "Time that runs of jobs took",
    labelNames: ["tool"],
    buckets: JOB_BUCKETS,
    registers,
  });
  const jobsRunning = new Gauge({ name: "mcp_jobs_running", help: "Jobs that this process runs now", registers });
  const jobRetries = new Counter({
    name: "mcp_job_retries_total",
    help: "Runs of jobs that were lost, broke or were handed back, so that the job goes back to the queue",
    labelNames: ["tool"],
    registers,
  });
  const deadLettered = new Counter({
    name: "mcp_jobs_dead_lettered_total",
    help: "Messages set aside: lost (a worker was, and the job is not to be repeated), attempts (all of them), unreadable, unknown-job",
    labelNames: ["reason"],
    registers,
  });
  const tools = new Set(toolNames);
  const toolLabel = (tool: string) => (tools.has(tool) ? tool : "other");
  const callers = new Set<string>();
  // Every series is looked up once: by its labels that takes longer than to count.
  const toolCall = kept((tool, status) => toolCalls.labels({ tool, status }));
  const toolTime = kept((tool) => toolDuration.labels({ tool }));
  const request = kept((method, status) => requests.labels({ method, status }));
  const requestTime = kept((method) => requestDuration.labels({ method }));
  return {
    registry,
    toolCalled(tool, status, seconds) {
      const label = toolLabel(tool);
      toolCall(label, status).inc();
      toolTime(label).observe(seconds);
    },
    requestServed(method, httpStatus, seconds) {
      const label = method === undefined ? "none" : METHODS.has(method) ? method : "other";
      request(label, String(httpStatus)).inc();
      // How long a stream stays open is its client's choice and would drown the rest.
      if (method !== "subscriptions/listen") requestTime(label).observe(seconds);
    },
    connectionOpened: () => connections.inc(),
    connectionClosed: () => connections.dec(),
    limitExceeded(limit, scope, hash) {
      const caller = hash.slice(0, CALLER_DIGITS);
      if (callers.size < CALLERS) callers.add(caller);
      limitsExceeded.inc({ limit, scope, caller: callers.has(caller) ? caller : "other" });
    },
    limitsStoreHealthy: (healthy) => limitsStore.set(healthy ? 1 : 0),
    jobEnded: (tool, outcome) => jobs.inc({ tool: toolLabel(tool), outcome }),
    jobStarted(tool, waitSeconds) {
      jobsRunning.inc();
      if (waitSeconds !== undefined) jobWait.observe({ tool: toolLabel(tool) }, waitSeconds);
    },
    jobStopped(tool, seconds) {
      jobsRunning.dec();
      jobDuration.observe({ tool: toolLabel(tool) }, seconds);
    },
    jobRetried: (tool) => jobRetries.inc({ tool: toolLabel(tool) }),
    jobDeadLettered: (reason) => deadLettered.inc({ reason }),
    keysExpire(keys) {
      keyExpiry.reset();
      const soonest = keys.toSorted((a, b) => a.expires - b.expires).slice(0, KEYS);
      for (const { id, expires } of soonest) keyExpiry.set({ id }, expires / 1000);
    },
  };
}

/** Makes a thing of one or two labels once. Both are bounded, and so is what is kept. */
function kept<Thing>(make: (first: string, second: string) => Thing): (first: string, second?: string) => Thing {
  const made = new Map<string, Map<string, Thing>>();
  return (first, second = "") => {
    let bySecond = made.get(first);
    if (bySecond === undefined) {
      bySecond = new Map();
      made.set(first, bySecond);
    }
    let thing = bySecond.get(second);
    if (thing === undefined) {
      thing = make(first, second);
      bySecond.set(second, thing);
    }
    return thing;
  };
}
