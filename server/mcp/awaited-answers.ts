import { randomUUID } from "node:crypto";
import {
  isJSONRPCErrorResponse,
  isJSONRPCResultResponse,
  type JSONRPCErrorResponse,
  type JSONRPCResultResponse,
} from "@modelcontextprotocol/server";
import type { LeftAnswers } from "../services/left-answers.ts";
import { type Caller, callerKey } from "../tools/define-tool.ts";

export type JSONRPCAnswer = JSONRPCResultResponse | JSONRPCErrorResponse;

/** Questions that were put to clients of the older protocols and that are not answered yet. */
export interface AwaitedAnswers {
  /** Expects an answer from `caller`; resolves to the id to ask under. `cancel` ends the wait. */
  expect(caller: Caller, deliver: (answer: JSONRPCAnswer) => void): Promise<{ id: string; cancel(): void }>;
  /** Hands an answer to whoever waits for it; false when nobody does. */
  deliver(caller: Caller, answer: JSONRPCAnswer): Promise<boolean>;
}

/**
 * On the older protocols a client answers a question by a request of its own, which says nothing but the question's id.
 * So ids are such as no two exchanges share and nobody guesses, and only who was asked may answer.
 *
 * The wait is in this process. An answer that reaches another replica is left there for this one; where nothing is
 * shared to leave it in, it is as good as not given. On the 2026-07-28 protocol answers come with the call itself.
 */
export function createAwaitedAnswers(left: LeftAnswers | undefined): AwaitedAnswers {
  const awaited = new Map<string, (answer: JSONRPCAnswer) => void>();
  const keyOf = (caller: Caller, id: unknown) => JSON.stringify([callerKey(caller), id]);
  return {
    async expect(caller, deliver) {
      const id = randomUUID();
      const key = keyOf(caller, id);
      const take = (answer: JSONRPCAnswer) => {
        if (!awaited.delete(key)) return;
        forget?.();
        deliver(answer);
      };
      awaited.set(key, take);
      const forget = await left?.expect(key, (text) => {
        const answer: unknown = JSON.parse(text);
        if (isJSONRPCResultResponse(answer) || isJSONRPCErrorResponse(answer)) take(answer);
      });
      return {
        id,
        cancel() {
          awaited.delete(key);
          forget?.();
        },
      };
    },
    async deliver(caller, answer) {
      const key = keyOf(caller, answer.id);
      const take = awaited.get(key);
      if (take === undefined) return (await left?.leave(key, JSON.stringify(answer))) ?? false;
      take(answer);
      return true;
    },
  };
}
