import type {
  CallToolResult,
  HandlerResultTypeMap,
  InputRequiredResult,
  LoggingLevel,
  RequestMethod,
  RequestTypeMap,
  Result,
  Server,
  ServerContext,
} from "@modelcontextprotocol/server";
import type { z } from "zod";
import type { CallContext, Caller } from "../tools/define-tool.ts";
import type { Subscriptions } from "./subscriptions.ts";

/** What clients of the older protocols may have remembered between their messages. */
export interface Connection {
  /** Least severe log message that the client wants; undefined until it says. */
  logLevel: LoggingLevel | undefined;
  readonly subscriptions: Subscriptions;
}

/** One request on its way, as the handlers of methods see it. */
export interface Exchange {
  readonly caller: Caller;
  /** What everything that is run for this request stands on; made when something is. */
  call(): Promise<CallContext>;
  /** W3C trace id, where it came with one. */
  traceId(): string | undefined;
  /** The SDK's side of it. */
  readonly context: ServerContext;
  readonly server: Server;
  /** Absent where nothing is remembered: over HTTP on the 2026-07-28 protocol, and on older ones without a session. */
  readonly connection: Connection | undefined;
  /** The call that is asked for, where it has run already. */
  ran(): Promise<CallToolResult | InputRequiredResult> | undefined;
}

/** Answers one method. */
export interface Answering {
  readonly method: string;
  /** Has `server` answer the method; `exchangeOf` completes what the SDK hands over. */
  register(server: Server, exchangeOf: (context: ServerContext) => Exchange): void;
}

type Answer<Method extends RequestMethod> = (
  request: RequestTypeMap[Method],
  exchange: Exchange,
) => HandlerResultTypeMap[Method] | Promise<HandlerResultTypeMap[Method]>;

/** Binds `answer`, which is made once, to its method; what is left for each request is one closure. */
export function answering<Method extends RequestMethod>(method: Method, answer: Answer<Method>): Answering {
  return {
    method,
    register: (server, exchangeOf) =>
      server.setRequestHandler(method, (request, context) => answer(request, exchangeOf(context))),
  };
}

/** As {@link answering}, for a method that the SDK has no schema for. */
export function answeringFor<Params>(
  method: string,
  params: z.ZodType<Params>,
  answer: (params: Params, exchange: Exchange) => Promise<Result>,
): Answering {
  return {
    method,
    register: (server, exchangeOf) =>
      server.setRequestHandler(method, { params }, (given, context) => answer(given, exchangeOf(context))),
  };
}
