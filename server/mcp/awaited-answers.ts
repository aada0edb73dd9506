import { randomUUID } from "node:crypto";
import type { JSONRPCErrorResponse, JSONRPCResultResponse } from "@modelcontextprotocol/server";
import { type Caller, callerKey } from "../tools/define-tool.ts";

export type JSONRPCAnswer = JSONRPCResultResponse | JSONRPCErrorResponse;

/** Questions that this replica put to clients of the older protocols and that are not answered yet. */
export interface AwaitedAnswers {
  /** Expects an answer from `caller`; returns the id to ask under. `cancel` ends the wait. */
  expect(caller: Caller, deliver: (answer: JSONRPCAnswer) => void): { id: string; cancel(): void };
  /** Hands an answer to whoever waits for it; false when nobody does. */
  deliver(caller: Caller, answer: JSONRPCAnswer): boolean;
}

/**
 * On the older protocols a client answers a question by a request of its own, which says nothing but the question's id.
 * So ids are such as no two exchanges share and nobody guesses, and only who was asked may answer.
 *
 * The wait is in this process: the answer must reach the replica that asked. It does with one replica, and with several
 * when what stands in front sends a session to where it was before (by `Mcp-Session-Id`); else the question is as good
 * as not answered. On the 2026-07-28 protocol answers come with the call itself, to any replica.
 */
export function createAwaitedAnswers(): AwaitedAnswers {
  const awaited = new Map<string, { caller: string; deliver(answer: JSONRPCAnswer): void }>();
  return {
    expect(caller, deliver) {
      const id = randomUUID();
      awaited.set(id, { caller: callerKey(caller), deliver });
      return { id, cancel: () => awaited.delete(id) };
    },
    deliver(caller, answer) {
      const id = String(answer.id);
      const waiting = awaited.get(id);
      if (waiting === undefined || waiting.caller !== callerKey(caller)) return false;
      awaited.delete(id);
      waiting.deliver(answer);
      return true;
    },
  };
}
