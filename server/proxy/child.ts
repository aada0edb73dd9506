import { type ChildProcess, spawn } from "node:child_process";
import { setTimeout as delay } from "node:timers/promises";
import {
  CLIENT_CAPABILITIES_META_KEY,
  CLIENT_INFO_META_KEY,
  isJSONRPCErrorResponse,
  isJSONRPCNotification,
  isJSONRPCRequest,
  isJSONRPCResultResponse,
  type JSONRPCMessage,
  type JSONRPCNotification,
  type JSONRPCRequest,
  PROTOCOL_VERSION_META_KEY,
  ProtocolError,
  ProtocolErrorCode,
  ReadBuffer,
  type RequestId,
  SERVER_INFO_META_KEY,
  serializeMessage,
} from "@modelcontextprotocol/server";
import { z } from "zod";

type JsonObject = Record<string, unknown>;

/** The command that is a stdio MCP server. */
export interface ChildCommand {
  readonly program: string;
  readonly args: readonly string[];
  readonly directory: string;
  /** The child's whole environment. */
  readonly environment: Readonly<Record<string, string>>;
}

/** What a server says of itself when a connection begins. */
export interface ServerDescription {
  readonly info: { readonly name: string; readonly version: string } & JsonObject;
  readonly capabilities: JsonObject;
  readonly instructions: string | undefined;
}

/** The client behind a call, for what the server says to it or asks of it meanwhile. */
export interface CallClient {
  /** The session or connection that the call came over. */
  readonly session: object;
  /** Asks the client; rejects with a ProtocolError when it cannot, or will not, answer. */
  ask(method: AskedMethod, params: JsonObject, signal: AbortSignal): Promise<JsonObject>;
  /** Passes on the parameters of a log message. */
  log(params: JsonObject): void;
}

/**
 * What a server may ask a client for. Not for its roots: they are directories of the client's own machine, and there are
 * servers that serve whatever directories a client names, which here would be this server's.
 */
const ASKED_METHODS = ["elicitation/create", "sampling/createMessage"] as const;
type AskedMethod = (typeof ASKED_METHODS)[number];

export interface CallOptions {
  /** Absent where nothing can be said or asked: the call came without a session. */
  readonly client?: CallClient | undefined;
  /** Aborts when the caller cancels or goes away; the server is told. */
  readonly signal?: AbortSignal;
  /** Gets the progress that the server reports, without the token. */
  readonly onProgress?: (progress: JsonObject) => void;
}

/** One running stdio server, with the protocol's connection to it open. */
export interface Child {
  readonly pid: number;
  readonly description: ServerDescription;
  /** Calls that have no answer yet. */
  readonly pending: number;
  /** Resolves, with words for a message, when the process has ended. */
  readonly ended: Promise<string>;
  /** @throws ProtocolError as the server answers it, or {@link ChildEnded}. */
  request(method: string, params: JsonObject, options?: CallOptions): Promise<JsonObject>;
  /** Ends it as the specification has it: end of input, then SIGTERM, then SIGKILL. */
  stop(): Promise<void>;
  /** Kills it and everything that it has started. */
  killNow(): void;
}

/** The process ended before it had answered. */
export class ChildEnded extends Error {
  override readonly name = "ChildEnded";
}

/** The process could not be started, or does not speak the protocol. */
export class ChildNotStarted extends Error {
  override readonly name = "ChildNotStarted";
}

export interface ChildEvents {
  /** A line that the process wrote to standard error, or to standard output without being a message. */
  said(stream: "stderr" | "stdout", line: string): void;
  /** A resource that was subscribed to has changed. */
  updated?(uri: string): void;
}

/** Time for the first exchange: `npx` and `uvx` may have to download the server first. */
const START_TIMEOUT_MS = 60_000;
/** What each step of an end waits for the next (MCP specification, stdio, "Shutdown"). */
const STOP_STEP_MS = 2000;
/** How long the output of a process that has ended is still read. */
const LAST_WORDS_MS = 500;
/** Largest message that a child may send, bytes. */
const MESSAGE_LIMIT = 64 * 1024 * 1024;
/** Longest line of a child that is logged. */
const LINE_LIMIT = 2000;

/** Newest version of the older era, whose servers make up nearly all that speak stdio; they answer with their own. */
const OLDER_VERSION = "2025-11-25";
/** For servers that know nothing older. */
const NEWER_VERSION = "2026-07-28";
const CLIENT_INFO = { name: "mcp-aks-serve", version: "1.0.0" };

/** Both eras' first answers; a server of the newer one names itself in the result's `_meta`. */
const Introduction = z.looseObject({
  capabilities: z.record(z.string(), z.unknown()).default({}),
  serverInfo: z.looseObject({ name: z.string(), version: z.string() }).optional(),
  instructions: z.string().optional(),
  _meta: z.record(z.string(), z.unknown()).optional(),
});

/**
 * Starts the command and opens the connection.
 *
 * @param capabilities what its client can be asked for.
 * @throws ChildNotStarted
 */
export async function startChild(
  command: ChildCommand,
  events: ChildEvents,
  capabilities: JsonObject = {},
): Promise<Child> {
  const process = spawn(command.program, command.args, {
    cwd: command.directory,
    env: { ...command.environment },
    stdio: ["pipe", "pipe", "pipe"],
    // A group of its own, so that nothing that it has started outlives it.
    detached: true,
  });
  const connection = new Connection(process, events);
  try {
    const description = await connection.introduce(capabilities, AbortSignal.timeout(START_TIMEOUT_MS));
    return Object.assign(connection, { pid: process.pid ?? 0, description });
  } catch (error) {
    connection.killNow();
    const late = error instanceof Error && error.name === "TimeoutError";
    const why = late ? `it did not answer within ${START_TIMEOUT_MS / 1000} seconds` : messageOf(error);
    throw new ChildNotStarted(why, { cause: error });
  }
}

interface Pending {
  resolve(result: JsonObject): void;
  reject(error: Error): void;
  readonly onProgress: CallOptions["onProgress"];
  readonly client: CallClient | undefined;
}

class Connection {
  readonly ended: Promise<string>;
  readonly #process: ChildProcess;
  readonly #events: ChildEvents;
  readonly #pending = new Map<number, Pending>();
  /** Questions of the server's that have no answer yet, by its own ids. */
  readonly #questions = new Map<RequestId, AbortController>();
  /** The bridge to many callers: their ids and progress tokens are theirs, and these are this connection's. */
  #ids = 0;
  #envelope: JsonObject | undefined;
  #over: string | undefined;

  constructor(process: ChildProcess, events: ChildEvents) {
    this.#process = process;
    this.#events = events;
    this.ended = new Promise((resolve) => {
      process.once("error", (error: NodeJS.ErrnoException) => {
        if (process.pid !== undefined) return;
        resolve(this.#end(`could not be started (${error.code})`));
        this.#rejectPending();
      });
      process.once("exit", (code, signal) => {
        resolve(this.#end(signal ? `was ended by ${signal}` : `ended with exit code ${code}`));
        // Its last words may still be in the pipe, which what it has left behind would hold open.
        this.#killGroup();
        const timer = setTimeout(() => this.#rejectPending(), LAST_WORDS_MS).unref();
        process.once("close", () => {
          clearTimeout(timer);
          this.#rejectPending();
        });
      });
    });
    // What it no longer reads is told by its end.
    process.stdin?.on("error", () => {});
    this.#readMessages();
    this.#readLines();
  }

  get pending(): number {
    return this.#pending.size;
  }

  /** Opens the connection: as an older client, which nearly every server knows, or else as a newer one. */
  async introduce(capabilities: JsonObject, signal: AbortSignal): Promise<ServerDescription> {
    const older = { protocolVersion: OLDER_VERSION, capabilities, clientInfo: CLIENT_INFO };
    try {
      const introduction = Introduction.parse(await this.request("initialize", older, { signal }));
      this.#write({ jsonrpc: "2.0", method: "notifications/initialized" });
      return describe(introduction);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#envelope = {
        [PROTOCOL_VERSION_META_KEY]: NEWER_VERSION,
        [CLIENT_CAPABILITIES_META_KEY]: {},
        [CLIENT_INFO_META_KEY]: CLIENT_INFO,
      };
      return describe(Introduction.parse(await this.request("server/discover", {}, { signal })));
    }
  }

  request(method: string, params: JsonObject, { signal, onProgress, client }: CallOptions = {}): Promise<JsonObject> {
    return new Promise((resolve, reject) => {
      if (this.#over !== undefined) return reject(new ChildEnded(`the server process ${this.#over}`));
      if (signal?.aborted) return reject(signal.reason);
      const id = ++this.#ids;
      const settle = () => {
        this.#pending.delete(id);
        signal?.removeEventListener("abort", cancel);
      };
      const cancel = () => {
        settle();
        this.#write({ jsonrpc: "2.0", method: "notifications/cancelled", params: { requestId: id } });
        reject(signal?.reason);
      };
      signal?.addEventListener("abort", cancel);
      this.#pending.set(id, {
        resolve: (result) => {
          settle();
          resolve(result);
        },
        reject: (error) => {
          settle();
          reject(error);
        },
        onProgress,
        client,
      });
      this.#write({ jsonrpc: "2.0", id, method, params: this.#paramsOf(params, id) });
    });
  }

  async stop(): Promise<void> {
    this.#process.stdin?.end();
    if (await this.#endsWithin(STOP_STEP_MS)) return;
    this.#process.kill("SIGTERM");
    if (await this.#endsWithin(STOP_STEP_MS)) return;
    this.killNow();
    await this.ended;
  }

  killNow(): void {
    this.#killGroup();
  }

  #end(how: string): string {
    this.#over = how;
    return how;
  }

  #rejectPending(): void {
    for (const { reject } of this.#pending.values()) reject(new ChildEnded(`the server process ${this.#over}`));
  }

  async #endsWithin(ms: number): Promise<boolean> {
    return Promise.race([this.ended.then(() => true), delay(ms, false, { ref: false })]);
  }

  #killGroup(): void {
    const { pid } = this.#process;
    if (pid === undefined) return;
    try {
      globalThis.process.kill(-pid, "SIGKILL");
    } catch {
      // It has ended, and nothing of it is left.
    }
  }

  /** The caller's parameters, with this connection's progress token and, in the newer era, its envelope. */
  #paramsOf(params: JsonObject, id: number): JsonObject {
    const meta = params._meta as JsonObject | undefined;
    const wantsProgress = meta?.progressToken !== undefined;
    if (this.#envelope === undefined && !wantsProgress) return params;
    return { ...params, _meta: { ...meta, ...(wantsProgress && { progressToken: id }), ...this.#envelope } };
  }

  #write(message: JSONRPCMessage): void {
    if (this.#process.stdin?.writable) this.#process.stdin.write(serializeMessage(message));
  }

  #readMessages(): void {
    const buffer = new ReadBuffer({ maxBufferSize: MESSAGE_LIMIT });
    this.#process.stdout?.on("data", (chunk: Buffer) => {
      try {
        buffer.append(chunk);
      } catch {
        this.#events.said("stdout", `a message of more than ${MESSAGE_LIMIT} bytes; the process is ended`);
        return this.killNow();
      }
      for (;;) {
        try {
          const message = buffer.readMessage();
          if (message === null) return;
          this.#received(message);
        } catch {
          this.#events.said("stdout", "a line that is no JSON-RPC message");
        }
      }
    });
  }

  #received(message: JSONRPCMessage): void {
    if (isJSONRPCRequest(message)) {
      const { id } = message;
      const answer = message.method === "ping" ? Promise.resolve({}) : this.#ask(message);
      answer.then(
        (result) => this.#write({ jsonrpc: "2.0", id, result }),
        (error: unknown) => this.#write({ jsonrpc: "2.0", id, error: errorOf(error) }),
      );
    } else if (isJSONRPCNotification(message)) {
      this.#notified(message);
    } else if (isJSONRPCResultResponse(message)) {
      this.#pending.get(Number(message.id))?.resolve(message.result);
    } else if (isJSONRPCErrorResponse(message)) {
      const { code, message: text, data } = message.error;
      this.#pending.get(Number(message.id))?.reject(new ProtocolError(code, text, data));
    }
  }

  #notified({ method, params = {} }: JSONRPCNotification): void {
    if (method === "notifications/progress") {
      const { progressToken, ...progress } = params;
      this.#pending.get(Number(progressToken))?.onProgress?.(progress);
    } else if (method === "notifications/message") {
      this.#client()?.log(params);
    } else if (method === "notifications/resources/updated") {
      if (typeof params.uri === "string") this.#events.updated?.(params.uri);
    } else if (method === "notifications/cancelled") {
      const { data } = z.object({ requestId: z.union([z.string(), z.number()]) }).safeParse(params);
      if (data !== undefined) this.#questions.get(data.requestId)?.abort();
    }
  }

  /**
   * Whose calls are in progress. The protocol over stdio does not tell which call a question or a log message is about;
   * while calls over several sessions are in progress it is nobody's, so that nobody is told or asked what is another's.
   */
  #client(): CallClient | undefined {
    const clients = [...this.#pending.values()].map(({ client }) => client);
    const last = clients.at(-1);
    return clients.every((client) => client?.session === last?.session) ? last : undefined;
  }

  async #ask({ id, method, params = {} }: JSONRPCRequest): Promise<JsonObject> {
    const asked = ASKED_METHODS.find((each) => each === method);
    if (asked === undefined) throw new ProtocolError(ProtocolErrorCode.MethodNotFound, "Method not found");
    const client = this.#client();
    if (client === undefined) {
      throw new ProtocolError(
        ProtocolErrorCode.InvalidRequest,
        "There is no one client to ask: no call is in progress over a session, or calls over several are.",
      );
    }
    const question = new AbortController();
    this.#questions.set(id, question);
    try {
      return await client.ask(asked, params, question.signal);
    } finally {
      this.#questions.delete(id);
    }
  }

  #readLines(): void {
    let rest = "";
    this.#process.stderr?.setEncoding("utf8").on("data", (text: string) => {
      const lines = `${rest}${text}`.split("\n");
      rest = (lines.pop() ?? "").slice(0, LINE_LIMIT);
      for (const line of lines) {
        if (line.trim() !== "") this.#events.said("stderr", line.slice(0, LINE_LIMIT));
      }
    });
  }
}

function messageOf(error: unknown): string {
  if (error instanceof z.ZodError) return `its first answer is not the protocol's: ${z.prettifyError(error)}`;
  return error instanceof Error ? error.message : String(error);
}

/** What the server is told of a question that has no answer: the client's own words, where it said some. */
function errorOf(error: unknown): { code: number; message: string; data?: unknown } {
  if (!(error instanceof ProtocolError)) {
    return { code: ProtocolErrorCode.InternalError, message: "The client gave no answer." };
  }
  const { code, message, data } = error;
  return { code, message, ...(data !== undefined && { data }) };
}

function describe(introduction: z.output<typeof Introduction>): ServerDescription {
  const named = introduction.serverInfo ?? introduction._meta?.[SERVER_INFO_META_KEY];
  const info = z.looseObject({ name: z.string(), version: z.string() }).safeParse(named);
  return {
    info: info.success ? info.data : { name: "stdio-server", version: "unknown" },
    capabilities: introduction.capabilities,
    instructions: introduction.instructions,
  };
}
