import { hash, randomBytes } from "node:crypto";
import { z } from "zod";
import { ROLES } from "../config.ts";
import type { SharedStore } from "../services/shared-store.ts";
import type { Caller } from "../tools/define-tool.ts";
import type { Admitted } from "./credentials.ts";

/** Tickets by which a web page opens a WebSocket, where it cannot send its credentials. */
export interface Tickets {
  /**
   * A new ticket for the caller: 256 random bits, in 43 letters, digits, dashes and underscores.
   *
   * @param admitted whoever asks for it. A connection by the ticket lasts no longer than what it was asked for with.
   * @param origin of the page that asked for it, as its Origin header has it; absent for what is no browser.
   */
  issue(admitted: Admitted, origin?: string): Promise<string>;
  /**
   * Whose ticket it is. It is used up by this, whatever comes of it: undefined for one that was used before, is too
   * old, was never issued, or was issued to a page of another origin.
   */
  redeem(ticket: string, origin?: string): Promise<Admitted | undefined>;
}

interface TicketsOptions {
  /** Shared by all replicas: a handshake may come to another one than the request for its ticket. */
  readonly store: Pick<SharedStore, "put" | "take">;
  /** Milliseconds since 1970, the same on every replica but for seconds. Default: the system's. */
  readonly clock?: () => number;
}

/** How long a ticket holds: time for a page to open a connection, and little more. */
export const TICKET_SECONDS = 30;

const TICKET_BYTES = 32;
/** 32 bytes in base64url. */
const TICKET = /^[\w-]{43}$/;

/** Callers that came by ticket and are known to be the same object each time. */
const CALLERS_LIMIT = 1000;

/** What is kept of a ticket. It has been in a store on the network since, so it is checked like anything from outside. */
const Kept = z.strictObject({
  caller: z.strictObject({
    subject: z.string().min(1),
    method: z.enum(["local", "none", "api-key", "entra"]),
    tenant: z.string().optional(),
    role: z.enum(ROLES),
    scopedRole: z.enum(ROLES).optional(),
    keyId: z.string().optional(),
    client: z.string().optional(),
  }),
  origin: z.string().optional(),
  expires: z.number(),
  /** When what the ticket was asked for with ends. */
  callerExpires: z.number().optional(),
});

export function createTickets({ store, clock = Date.now }: TicketsOptions): Tickets {
  /** Callers by all that is known of them, the last used last. */
  const callers = new Map<string, Caller>();
  const same = (caller: Caller): Caller => {
    const name = JSON.stringify(caller, Object.keys(caller).toSorted());
    const known = callers.get(name) ?? Object.freeze(caller);
    callers.delete(name);
    callers.set(name, known);
    for (const oldest of callers.keys()) {
      if (callers.size <= CALLERS_LIMIT) break;
      callers.delete(oldest);
    }
    return known;
  };

  return {
    async issue({ caller, expires }, origin) {
      const ticket = randomBytes(TICKET_BYTES).toString("base64url");
      const kept: z.input<typeof Kept> = {
        caller: { ...same(caller) },
        origin,
        expires: clock() + TICKET_SECONDS * 1000,
        callerExpires: expires,
      };
      await store.put(placeOf(ticket), JSON.stringify(kept), TICKET_SECONDS);
      return ticket;
    },
    async redeem(ticket, origin) {
      if (!TICKET.test(ticket)) return undefined;
      const text = await store.take(placeOf(ticket));
      if (text === undefined) return undefined;
      const { caller, expires, callerExpires, origin: issuedTo } = Kept.parse(JSON.parse(text));
      if (expires <= clock() || issuedTo?.toLowerCase() !== origin?.toLowerCase()) return undefined;
      return { caller: same(caller), ...(callerExpires !== undefined && { expires: callerExpires }) };
    },
  };
}

/** By its hash, so that who can look into the store finds nothing to open a connection with. */
const placeOf = (ticket: string): string => `ticket:${hash("sha256", ticket)}`;
