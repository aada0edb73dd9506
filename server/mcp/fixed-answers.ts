import {
  CLIENT_CAPABILITIES_META_KEY,
  createMcpHandler,
  PROTOCOL_VERSION_META_KEY,
} from "@modelcontextprotocol/server";
import { z } from "zod";
import type { Role } from "../config.ts";
import type { Caller } from "../tools/define-tool.ts";
import { authInfoOf, type Protocol } from "./protocol.ts";

/** Methods that, asked without a cursor, have the same answer for everyone of a role for as long as the process lives. */
export const FIXED_METHODS = ["tools/list", "prompts/list", "resources/templates/list"] as const;

/** Results that never change, as the SDK gave them once. */
export interface FixedAnswers {
  /** The result as JSON; undefined until the SDK has said it, which the first question has it do. */
  of(method: string, modern: boolean, role: Role): string | undefined;
  /** What stands in every result of the 2026-07-28 protocol; undefined as above. */
  readonly common: Readonly<Record<string, unknown>> | undefined;
}

const MODERN_VERSION = "2026-07-28";
const Answer = z.object({ result: z.record(z.string(), z.unknown()) });
const Common = z.object({ resultType: z.literal("complete"), _meta: z.record(z.string(), z.unknown()) });

const LEAST: Role = "reader";
/** Joined once a request, so by the cheapest means. */
const keyOf = (method: string, modern: boolean, role: Role) => `${role} ${modern ? "" : "older "}${method}`;

export function createFixedAnswers(protocol: Protocol, onerror: (error: unknown) => void): FixedAnswers {
  const known = new Map<string, string>();
  const asked = new Set<string>();
  let common: FixedAnswers["common"];

  const ask = (method: string, modern: boolean, role: Role, key: string) => {
    if (asked.has(key)) return;
    asked.add(key);
    (modern ? askModern : askOlder)(protocol, method, { subject: "local", method: "local", role })
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
    of(method, modern, role) {
      const key = keyOf(method, modern, role);
      const answer = known.get(key);
      if (answer === undefined) ask(method, modern, role, key);
      return answer;
    },
    get common() {
      const [method] = FIXED_METHODS;
      if (common === undefined) ask(method, true, LEAST, keyOf(method, true, LEAST));
      return common;
    },
  };
}

async function askModern(protocol: Protocol, method: string, caller: Caller): Promise<unknown> {
  const handler = createMcpHandler(() => protocol.server({ caller, method }), { legacy: "reject" });
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

async function askOlder(protocol: Protocol, method: string, caller: Caller): Promise<unknown> {
  const server = protocol.server({ method });
  const answered = Promise.withResolvers<unknown>();
  const transport: Parameters<typeof server.connect>[0] = {
    start: async () => {},
    // As it would arrive: the SDK marks its objects.
    send: async (message) => answered.resolve(JSON.parse(JSON.stringify(message))),
    close: async () => {},
  };
  await server.connect(transport);
  transport.onmessage?.({ jsonrpc: "2.0", id: 1, method }, { authInfo: authInfoOf(caller) });
  return answered.promise;
}
