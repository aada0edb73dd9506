import type { RequestId } from "@modelcontextprotocol/server";
import type { FastifyBaseLogger, FastifyReply, FastifyRequest } from "fastify";
import type { Caller } from "../tools/define-tool.ts";
import type { EventStream } from "./event-stream.ts";
import type { Connection } from "./exchange.ts";
import { createFixedAnswers, FIXED_METHODS } from "./fixed-answers.ts";
import { PlainExchange } from "./plain-exchange.ts";
import { createRecognise, type PlainRequest } from "./plain-requests.ts";
import type { DirectCalls, Protocol, Ran } from "./protocol.ts";
import type { Session } from "./session.ts";
import { writeText } from "./write-json.ts";

/**
 * The short way of plain requests, which are nearly all: `tools/call` and the lists that never change, past the SDK's
 * dispatch. The SDK stays the authority: it judges each envelope and makes each list once, whatever is not plain goes
 * to it, and so does a result that is more than text and an object. `test/server/plain.test.ts` holds both ways to the
 * same answers.
 */
export interface PlainHttp {
  /** Takes the request if it is a plain one. */
  take(request: FastifyRequest, reply: FastifyReply, caller: Caller): boolean;
  /** Cuts off calls in progress. */
  abort(): void;
}

interface BegunCall {
  readonly modern: boolean;
  readonly ran: Ran;
  readonly stream: EventStream | undefined;
}

interface PlainHttpOptions {
  readonly protocol: Protocol;
  readonly direct: DirectCalls;
  readonly log: FastifyBaseLogger;
  /** What is remembered of a session of the older protocols. */
  connectionOf(caller: Caller, session: Session): Connection;
  /** Has the call found by who wants to cancel it; returns how to end that. */
  cancellable(caller: Caller, session: Session | undefined, id: RequestId, exchange: PlainExchange): () => void;
  /** Goes on the SDK's way, with a call that has run already. */
  goOn(request: FastifyRequest, reply: FastifyReply, caller: Caller, begun: BegunCall): Promise<void>;
}

export function createPlainHttp({
  protocol,
  direct,
  log,
  connectionOf,
  cancellable,
  goOn,
}: PlainHttpOptions): PlainHttp {
  const onerror = (error: unknown) => log.error({ event: "request.failed", err: error });
  const recognise = createRecognise(new Set(["tools/call", ...FIXED_METHODS]));
  const fixed = createFixedAnswers(protocol, onerror);
  const running = new Set<PlainExchange>();

  const serve = async (
    request: FastifyRequest,
    reply: FastifyReply,
    caller: Caller,
    plain: PlainRequest,
    { tool, args }: NonNullable<PlainRequest["call"]>,
    exchange: PlainExchange,
  ) => {
    const settle = plain.modern ? undefined : cancellable(caller, plain.session, plain.id, exchange);
    running.add(exchange);
    let ran: Ran;
    try {
      const base = await direct.contextOf(caller);
      ran = direct.call(tool, args, exchange.contextOn(base));
      if (exchange.answer(await ran)) return;
    } catch (error) {
      ran = Promise.reject(error);
      // Looked at below, or by nobody.
      ran.catch(() => {});
    } finally {
      running.delete(exchange);
      settle?.();
    }
    if (exchange.ended) return;
    await goOn(request, reply, caller, { modern: plain.modern, ran, stream: exchange.release() });
  };

  return {
    take(request, reply, caller) {
      const { body, headers } = request;
      const plain = recognise(body, headers);
      if (plain === undefined) return false;
      const { call, modern, method, id, session } = plain;
      if (call === undefined) {
        const answer = fixed.of(method, modern, caller.role);
        if (answer === undefined) return false;
        reply.hijack();
        writeText(reply.raw, `{"result":${answer},"jsonrpc":"2.0","id":${JSON.stringify(id)}}`);
        return true;
      }
      if (!direct.isPlain(caller, call.tool, call.args, plain.capabilities)) return false;
      const common = modern ? fixed.common : undefined;
      if (modern && (common === undefined || protocol.parameterHeaders.faultOf(body, headers, caller) !== undefined))
        return false;
      reply.hijack();
      // Gone already: nothing would tell the exchange any more.
      if (reply.raw.destroyed) return true;
      const connection = session && connectionOf(caller, session);
      const exchange = new PlainExchange({ request: plain, response: reply.raw, connection, common });
      reply.raw.once("close", () => exchange.close());
      serve(request, reply, caller, plain, call, exchange).catch((error: unknown) => {
        onerror(error);
        reply.raw.destroy();
      });
      return true;
    },
    abort() {
      for (const exchange of running) exchange.close();
    },
  };
}
