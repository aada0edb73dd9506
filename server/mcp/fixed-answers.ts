import {
  CLIENT_CAPABILITIES_META_KEY,
  createMcpHandler,
  PROTOCOL_VERSION_META_KEY,
} from "@modelcontextprotocol/server";
import { z } from "zod";
import { LOCAL_CALLER } from "../auth/authenticate.ts";
import { authInfoOf, type Protocol } from "./protocol.ts";

/** Methods that, asked without a cursor, have the same answer for everyone for as long as the process lives. */
export const FIXED_METHODS = ["tools/list", "prompts/list", "resources/templates/list"] as const;

/** Results that never change, as the SDK gave them once. */
export interface FixedAnswers {
  /** The result as JSON; undefined until the SDK has said it, which the first question has it do. */
  of(method: string, modern: boolean): string | undefined;
  /** What stands in every result of the 2026-07-28 protocol; undefined as above. */
  readonly common: Readonly<Record<string, unknown>> | undefined;
}

const MODERN_VERSION = "2026-07-28";
const Answer = z.object({ result: z.record(z.string(), z.unknown()) });
const Common = z.object({ resultType: z.literal("complete"), _meta: z.record(z.string(), z.unknown()) });

export function createFixedAnswers(protocol: Protocol, onerror: (error: unknown) => void): FixedAnswers {
  const known = new Map<string, string>();
  const asked = new Set<string>();
  let common: FixedAnswers["common"];

  const ask = (method: string, modern: boolean, key: string) => {
    if (asked.has(key)) return;
    asked.add(key);
    (modern ? askModern(protocol, method) : askOlder(protocol, method))
      .then((message) => {
        const { result } = Answer.parse(message);
        known.set(key, JSON.stringify(result));
        // Nothing of it is the list's own.
        if (modern) common = Common.parse(result);
      })
      // Without it every answer is the SDK's, which is slower and as right.
      .catch(onerror);
  };

  return {
    of(method, modern) {
      const key = modern ? method : `older ${method}`;
      const answer = known.get(key);
      if (answer === undefined) ask(method, modern, key);
      return answer;
    },
    get common() {
      if (common === undefined) ask(FIXED_METHODS[0], true, FIXED_METHODS[0]);
      return common;
    },
  };
}

async function askModern(protocol: Protocol, method: string): Promise<unknown> {
  const handler = createMcpHandler(() => protocol.server({ caller: LOCAL_CALLER, method }), { legacy: "reject" });
  const _meta = { [PROTOCOL_VERSION_META_KEY]: MODERN_VERSION, [CLIENT_CAPABILITIES_META_KEY]: {} };
  const request = new Request("http://localhost/mcp", {
    method: "POST",
    headers: {
      "content-type": "application/json",
      accept: "application/json, text/event-stream",
      "mcp-protocol-version": MODERN_VERSION,
      "mcp-method": method,
    },
    body: JSON.stringify({ jsonrpc: "2.0", id: 1, method, params: { _meta } }),
  });
  try {
    return await (await handler.fetch(request)).json();
  } finally {
    await handler.close();
  }
}

async function askOlder(protocol: Protocol, method: string): Promise<unknown> {
  const server = protocol.server({ method });
  const answered = Promise.withResolvers<unknown>();
  const transport: Parameters<typeof server.connect>[0] = {
    start: async () => {},
    // As it would arrive: the SDK marks its objects.
    send: async (message) => answered.resolve(JSON.parse(JSON.stringify(message))),
    close: async () => {},
  };
  await server.connect(transport);
  transport.onmessage?.({ jsonrpc: "2.0", id: 1, method }, { authInfo: authInfoOf(LOCAL_CALLER) });
  return answered.promise;
}
