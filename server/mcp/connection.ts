import {
  isJSONRPCNotification,
  isJSONRPCRequest,
  type JSONRPCMessage,
  type Server,
  type Transport,
} from "@modelcontextprotocol/server";
import { type StdioServerHandle, serveStdio } from "@modelcontextprotocol/server/stdio";
import { z } from "zod";
import type { Caller } from "../tools/define-tool.ts";
import type { Connection } from "./exchange.ts";
import { urisIn } from "./listen-streams.ts";
import type { Protocol } from "./protocol.ts";
import { Subscriptions } from "./subscriptions.ts";
import { newsFault } from "./task-news.ts";

interface ConnectionOptions {
  readonly protocol: Protocol;
  readonly transport: Transport;
  /** Who speaks on it, all the way. */
  readonly caller: Caller;
  readonly onerror: (error: Error) => void;
}

/**
 * Serves a transport that is one client's from its beginning to its end (stdio, WebSocket), in whichever version of
 * the protocol the client opens with.
 */
export function serveConnection({ protocol, transport, caller, onerror }: ConnectionOptions): StdioServerHandle {
  let server: Server | undefined;
  const watch = (uri: string, changed: () => void) => protocol.watch(uri, caller, changed);
  const updated = (uri: string) => {
    server?.sendResourceUpdated({ uri }).catch(() => {});
  };
  const connection: Connection = { logLevel: undefined, subscriptions: new Subscriptions(watch, updated) };

  const handle = serveStdio(
    ({ era }) => {
      // A client may try one version and go on with another; it then has another server object.
      server = protocol.server({ caller, connection, newer: era === "modern" });
      return server;
    },
    { transport, onerror },
  );
  watchListening(
    transport,
    () => new Subscriptions(watch, updated),
    () => connection.subscriptions.clear(),
  );
  return handle;
}

const Cancelled = z.object({ requestId: z.union([z.string(), z.number()]) });

/**
 * On the 2026-07-28 protocol the SDK keeps the subscriptions of a connection to itself, and sends on what the server
 * object tells of to those who want it. So what they want to hear of is read from the messages as they pass.
 */
function watchListening(transport: Transport, subscriptionsOfOne: () => Subscriptions, closed: () => void): void {
  const listening = new Map<string | number, Subscriptions>();
  const { onmessage, onclose } = transport;
  transport.onmessage = (message: JSONRPCMessage, extra) => {
    if (isJSONRPCRequest(message) && message.method === "subscriptions/listen") {
      const fault = newsFault(message);
      if (fault !== undefined) {
        const { code, message: why, data } = fault;
        transport.send({ jsonrpc: "2.0", id: message.id, error: { code, message: why, data } }).catch(() => {});
        return;
      }
      const subscriptions = subscriptionsOfOne();
      // Of what cannot be watched nothing will be heard.
      for (const uri of urisIn(message)) subscriptions.add(uri).catch(() => {});
      listening.get(message.id)?.clear();
      listening.set(message.id, subscriptions);
    } else if (isJSONRPCNotification(message) && message.method === "notifications/cancelled") {
      const { data } = Cancelled.safeParse(message.params);
      if (data !== undefined) listening.get(data.requestId)?.clear();
    }
    onmessage?.(message, extra);
  };
  transport.onclose = () => {
    for (const subscriptions of listening.values()) subscriptions.clear();
    listening.clear();
    closed();
    onclose?.();
  };
}
