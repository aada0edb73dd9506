import type { ServerResponse } from "node:http";
import type { JSONRPCNotification } from "@modelcontextprotocol/server";
import { z } from "zod";
import { type Caller, callerKey } from "../tools/define-tool.ts";
import { EventStream } from "./event-stream.ts";
import type { Connection } from "./exchange.ts";
import type { Protocol } from "./protocol.ts";
import type { Session } from "./session.ts";
import { shareOf } from "./shares.ts";
import { Subscriptions } from "./subscriptions.ts";

/** What this replica remembers of a session: conveniences, none of which a client must have back. */
export interface RememberedSession extends Connection {
  /** Opens the stream of what the server says unasked; one that was open before ends. Returns how to end it. */
  open(response: ServerResponse, lastEventId: string | undefined): () => void;
}

export interface SessionMemory {
  /** What is remembered, which is nothing at first. */
  of(caller: Caller, session: Session): RememberedSession;
  /** Streams that are open now. */
  readonly streams: number;
  /** Ends every stream; clients open them anew, on another replica. */
  endStreams(): void;
}

/** Sessions remembered at once, of all callers; a caller's own that is unused for longest is forgotten for a new one. */
const LIMIT = 4096;
/** URIs kept in an event id; a client that has more subscribes again after a reconnect. */
const CURSOR_BYTES = 4096;
/** The first version whose clients take an event without data, which carries the id alone. */
const EMPTY_EVENTS_SINCE = "2025-11-25";

/**
 * Log levels, subscriptions and streams of sessions, in this process. A subscription outlives the process all the
 * same: the ids of a stream's events name what the session subscribed to, and a client that reconnects with
 * `Last-Event-ID`, to whichever replica, brings them along.
 */
export function createSessionMemory(protocol: Pick<Protocol, "watch">): SessionMemory {
  /** Maps keep the order of insertion: the first is the one unused for longest. */
  const byCaller = new Map<string, Map<string, { remembered: RememberedSession; forget(): void }>>();
  let count = 0;
  const streams = new Set<EventStream>();

  const remember = (caller: Caller, session: Session) => {
    let stream: EventStream | undefined;
    const sendsCursor = session.protocolVersion >= EMPTY_EVENTS_SINCE;
    const tellUpdated = (uri: string) => {
      const message: JSONRPCNotification = {
        jsonrpc: "2.0",
        method: "notifications/resources/updated",
        params: { uri },
      };
      stream?.send(message).catch(() => {});
    };
    const subscriptions: Subscriptions = new Subscriptions(
      (uri, changed) => protocol.watch(uri, caller, changed),
      tellUpdated,
      () => tellCursor(),
    );
    const tellCursor = () => {
      if (sendsCursor) stream?.sendId(cursorOf(subscriptions.uris)).catch(() => {});
    };
    const remembered: RememberedSession = {
      logLevel: undefined,
      subscriptions,
      open(response, lastEventId) {
        stream?.end();
        const opened = new EventStream(response);
        stream = opened;
        streams.add(opened);
        response.once("close", () => {
          streams.delete(opened);
          if (stream === opened) stream = undefined;
        });
        for (const uri of urisIn(lastEventId)) {
          // What changed between the streams nobody saw, so all of it may have. What cannot be watched here is not, as on
          // a first try that was refused.
          subscriptions.add(uri).then(
            () => tellUpdated(uri),
            () => {},
          );
        }
        tellCursor();
        return () => opened.end();
      },
    };
    return {
      remembered,
      forget: () => {
        stream?.end();
        subscriptions.clear();
      },
    };
  };

  const forgetOldest = (key: string) => {
    const own = byCaller.get(key);
    const oldest = own?.entries().next().value;
    if (own === undefined || oldest === undefined) return;
    const [name, { forget }] = oldest;
    own.delete(name);
    if (own.size === 0) byCaller.delete(key);
    count--;
    forget();
  };

  return {
    of(caller, session) {
      // By the caller as well: a session's name is known to whoever reads it, and each remembers their own.
      const key = callerKey(caller);
      const own = byCaller.get(key) ?? new Map();
      const known = own.get(session.name);
      const entry = known ?? remember(caller, session);
      own.delete(session.name);
      own.set(session.name, entry);
      byCaller.delete(key);
      byCaller.set(key, own);
      if (known !== undefined) return entry.remembered;
      count++;
      if (own.size > shareOf(caller, LIMIT)) forgetOldest(key);
      else if (count > LIMIT) forgetOldest(byCaller.keys().next().value ?? key);
      return entry.remembered;
    },
    get streams() {
      return streams.size;
    },
    endStreams() {
      for (const stream of streams) stream.end();
    },
  };
}

function cursorOf(uris: readonly string[]): string {
  const cursor = Buffer.from(JSON.stringify(uris), "utf8").toString("base64url");
  return cursor.length > CURSOR_BYTES ? "W10" : cursor;
}

const Uris = z.array(z.string().max(CURSOR_BYTES)).max(100).catch([]);

function urisIn(cursor: string | undefined): readonly string[] {
  if (cursor === undefined || cursor.length > CURSOR_BYTES) return [];
  try {
    return Uris.parse(JSON.parse(Buffer.from(cursor, "base64url").toString("utf8")));
  } catch {
    return [];
  }
}
