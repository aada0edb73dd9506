import type { ServerResponse } from "node:http";
import type { CallToolResult, InputRequiredResult, JSONRPCNotification, RequestId } from "@modelcontextprotocol/server";
import type { ClientChannel, Progress } from "../tools/client-channel.ts";
import type { CallContext, ToolContext } from "../tools/define-tool.ts";
import { wants } from "./channel.ts";
import { eventIdOf } from "./cut-off-calls.ts";
import { EventStream } from "./event-stream.ts";
import type { Connection } from "./exchange.ts";
import type { PlainRequest } from "./plain-requests.ts";
import { writeJson, writeText } from "./write-json.ts";

/** Characters of a result beyond which it is written in pieces. */
const PIECES_ABOVE = 64 * 1024;

interface PlainExchangeOptions {
  readonly request: PlainRequest;
  readonly response: ServerResponse;
  readonly connection: Connection | undefined;
  /** What stands in every result of the 2026-07-28 protocol, and in none of the older ones. */
  readonly common: Readonly<Record<string, unknown>> | undefined;
}

/** One plain `tools/call`, from the tool's context to the HTTP answer. Nothing is made that the call does not use. */
export class PlainExchange implements ClientChannel {
  readonly #options: PlainExchangeOptions;
  #controller: AbortController | undefined;
  #stream: EventStream | undefined;
  #progress = Number.NEGATIVE_INFINITY;
  #ended = false;
  #cancelled = false;

  constructor(options: PlainExchangeOptions) {
    this.#options = options;
  }

  get id(): RequestId {
    return this.#options.request.id;
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** Aborts when the caller cancels or goes away. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#cancelled) this.#controller.abort();
    }
    return this.#controller.signal;
  }

  contextOn(base: Omit<CallContext, "signal" | "traceId">): ToolContext {
    const exchange = this;
    return {
      ...base,
      client: this,
      traceId: this.#options.request.traceId,
      get signal() {
        return exchange.signal;
      },
    };
  }

  /** The client wants no answer any more: its stream ends, with nothing in it. */
  cancel(): void {
    if (this.#ended) return;
    this.#abort();
    const stream = this.#stream ?? new EventStream(this.#options.response);
    stream.end();
  }

  /** The client went away, or is cut off. */
  close(): void {
    if (this.#ended) return;
    this.#abort();
    this.#options.response.destroy();
  }

  /**
   * Answers with the result; false when it is not of the form that is known to be valid, and the SDK must have it.
   */
  answer(result: CallToolResult | InputRequiredResult): boolean {
    if (this.#ended) return true;
    const length = lengthOfPlain(result);
    if (length === undefined) return false;
    const { request, response, common } = this.#options;
    const { id } = request;
    this.#ended = true;
    const message = () => ({ result: common ? { ...result, ...common } : result, jsonrpc: "2.0" as const, id });
    if (this.#stream !== undefined) {
      this.#stream.send(message()).catch(() => {});
      this.#stream.end();
    } else if (length > PIECES_ABOVE) {
      writeJson(response, message());
    } else {
      writeText(response, JSON.stringify(message()));
    }
    return true;
  }

  /** Leaves the rest to the SDK; gives the stream, where something has been said. */
  release(): EventStream | undefined {
    this.#ended = true;
    return this.#stream;
  }

  get wantsProgress(): boolean {
    return this.#options.request.progressToken !== undefined;
  }

  async progress(report: Progress): Promise<void> {
    const { progressToken } = this.#options.request;
    if (progressToken === undefined || report.progress <= this.#progress) return;
    this.#progress = report.progress;
    await this.#say({ jsonrpc: "2.0", method: "notifications/progress", params: { progressToken, ...report } });
  }

  async log(...[level, data]: Parameters<ClientChannel["log"]>): Promise<void> {
    // On the 2026-07-28 protocol a plain request is one that names no level, and wants nothing of it.
    if (this.#options.request.modern || !wants(this.#options.connection, level)) return;
    await this.#say({ jsonrpc: "2.0", method: "notifications/message", params: { level, data } });
  }

  get capabilities(): ClientChannel["capabilities"] {
    const { capabilities, session } = this.#options.request;
    return capabilities ?? session?.capabilities ?? {};
  }

  /** A request that brings answers is no plain one. */
  readonly answers = {};
  readonly state = undefined;

  async #say(notification: JSONRPCNotification): Promise<void> {
    if (this.#ended) return;
    if (this.#stream !== undefined) return this.#stream.send(notification).catch(() => {});
    this.#stream = new EventStream(this.#options.response);
    const { id, session } = this.#options.request;
    await this.#stream.send(notification, session && eventIdOf(id)).catch(() => {});
  }

  #abort(): void {
    this.#ended = true;
    this.#cancelled = true;
    this.#controller?.abort();
  }
}

/** Length of a result that is text and an object; undefined for any other, which is the SDK's to check. */
function lengthOfPlain(result: CallToolResult | InputRequiredResult): number | undefined {
  let length = 0;
  for (const key in result) {
    const value: unknown = Reflect.get(result, key);
    switch (key) {
      case "content": {
        if (!Array.isArray(value)) return undefined;
        for (const block of value) {
          const text = lengthOfText(block);
          if (text === undefined) return undefined;
          length += text;
        }
        break;
      }
      case "structuredContent":
        if (typeof value !== "object" || value === null || Array.isArray(value)) return undefined;
        // As much again as its text, which stands beside it.
        break;
      case "isError":
        if (typeof value !== "boolean") return undefined;
        break;
      default:
        return undefined;
    }
  }
  return "content" in result ? length : undefined;
}

function lengthOfText(block: unknown): number | undefined {
  if (typeof block !== "object" || block === null) return undefined;
  for (const key in block) if (key !== "type" && key !== "text") return undefined;
  if (!("type" in block && block.type === "text" && "text" in block)) return undefined;
  return typeof block.text === "string" ? block.text.length : undefined;
}
