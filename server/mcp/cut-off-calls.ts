import type { JSONRPCResultResponse, RequestId } from "@modelcontextprotocol/server";
import { z } from "zod";

/*
 * On the older protocols a client whose answer comes as a stream learns nothing when that breaks off, as when the replica
 * is killed, and waits until it gives up. But it asks for a stream whose events had an id to be resumed, of any replica.
 * There is nothing to resume, which is an answer: so the id is the call's own, and the call ends with a clear failure.
 */

const PREFIX = "call.";
/** Characters of an id that is worth sending; the client would wait for a call with a longer one. */
const LENGTH_LIMIT = 1024;

const Id = z.union([z.string(), z.number()]);

/** The id of the first event in the stream that answers the call. */
export function eventIdOf(call: RequestId): string | undefined {
  const id = PREFIX + Buffer.from(JSON.stringify(call), "utf8").toString("base64url");
  return id.length > LENGTH_LIMIT ? undefined : id;
}

/** The answer to a call whose stream broke off; undefined when `lastEventId` is of no such stream. */
export function answerToCutOff(lastEventId: string | undefined): JSONRPCResultResponse | undefined {
  if (lastEventId === undefined || !lastEventId.startsWith(PREFIX) || lastEventId.length > LENGTH_LIMIT)
    return undefined;
  const id = idIn(lastEventId.slice(PREFIX.length));
  if (id === undefined) return undefined;
  const text =
    "The call was cut off before its answer: the connection broke, or the replica that ran it ended. Whether it was " +
    "carried out is not known; look before you call again.";
  return { jsonrpc: "2.0", id, result: { content: [{ type: "text", text }], isError: true } };
}

function idIn(encoded: string): RequestId | undefined {
  try {
    return Id.safeParse(JSON.parse(Buffer.from(encoded, "base64url").toString("utf8"))).data;
  } catch {
    return undefined;
  }
}
