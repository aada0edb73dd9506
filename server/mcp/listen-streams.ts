import { createMcpHandler, type McpHttpHandler, type ServerEventBus } from "@modelcontextprotocol/server";
import type { FastifyReply, FastifyRequest } from "fastify";
import { z } from "zod";
import type { Admitted } from "../auth/credentials.ts";
import type { Caller } from "../tools/define-tool.ts";
import type { CredentialWatch } from "./credential-watch.ts";
import { serveOverNode } from "./over-node.ts";
import { authInfoOf, type Protocol } from "./protocol.ts";
import { refuse, TRANSPORT_ERROR } from "./refusals.ts";
import { createShares } from "./shares.ts";
import { Subscriptions } from "./subscriptions.ts";
import { newsFault } from "./task-news.ts";

/** The event streams of the 2026-07-28 protocol, `subscriptions/listen`. */
export interface ListenStreams {
  /** Serves one. It ends with the caller's credential, as with {@link endAll}. */
  open(request: FastifyRequest, reply: FastifyReply, admitted: Admitted): Promise<void>;
  /** Ends each as the protocol has it, with a last result. */
  endAll(): Promise<void>;
}

/** Streams open at once in one process. */
const LIMIT = 1024;

/**
 * Every stream has a handler of the SDK's to itself: closing a handler is the one way to end its streams, and a bus of
 * its own keeps one caller's events from another's stream, where both have a file of the same name.
 */
export function createListenStreams(protocol: Protocol, watch: CredentialWatch): ListenStreams {
  const open = new Set<McpHttpHandler>();
  const shares = createShares(LIMIT);
  return {
    async open(request, reply, admitted) {
      const fault = newsFault(request.body);
      if (fault !== undefined) {
        const { code, message, data } = fault;
        return void reply.code(400).send({ jsonrpc: "2.0", id: idIn(request.body), error: { code, message, data } });
      }
      const { caller } = admitted;
      const leave = shares.take(caller);
      if (leave === undefined) {
        return refuse(
          reply,
          503,
          TRANSPORT_ERROR,
          "This server, or you alone, have as many streams open as there may be; close some, or try later.",
        );
      }
      const bus = busOf(protocol, caller, urisIn(request.body));
      const handler = createMcpHandler(() => protocol.server({ caller, newer: true }), { legacy: "reject", bus });
      open.add(handler);
      const unwatch = watch(admitted, () => void handler.close());
      reply.raw.once("close", () => {
        unwatch();
        open.delete(handler);
        leave();
      });
      reply.hijack();
      await serveOverNode(handler, authInfoOf(caller), request, reply);
    },
    async endAll() {
      await Promise.all([...open].map((handler) => handler.close()));
    },
  };
}

/** Watches what the stream asks for, for as long as the SDK listens. */
function busOf(protocol: Protocol, caller: Caller, uris: readonly string[]): ServerEventBus {
  return {
    // Nothing is published but what the watch tells.
    publish() {},
    subscribe(listener) {
      const subscriptions = new Subscriptions(
        (uri, changed) => protocol.watch(uri, caller, changed),
        (uri) => listener({ kind: "resource_updated", uri }),
      );
      for (const uri of uris) {
        // The stream serves what it can; of this resource nothing will be heard.
        subscriptions.add(uri).catch(() => {});
      }
      return () => subscriptions.clear();
    },
  };
}

const Request = z.object({ id: z.union([z.string(), z.number()]) });
const idIn = (message: unknown) => Request.safeParse(message).data?.id ?? null;

const Listen = z.object({
  params: z.object({ notifications: z.object({ resourceSubscriptions: z.array(z.string()) }) }),
});

/** The resources that a `subscriptions/listen` names; what else is wrong with it, the SDK says. */
export function urisIn(message: unknown): readonly string[] {
  const { data } = Listen.safeParse(message);
  return data?.params.notifications.resourceSubscriptions ?? [];
}
