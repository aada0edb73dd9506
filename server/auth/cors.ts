import type { FastifyReply, FastifyRequest } from "fastify";
import type { Config } from "../config.ts";

/**
 * Lets the pages of ALLOWED_ORIGINS read answers, and ask whether they may send (Fetch Standard, "CORS protocol"). For a
 * page of any other origin a browser keeps answers to itself, and sends nothing that a form could not send. There is no
 * credentials mode: tokens are in a header that the page sets, and there are no cookies.
 *
 * Not @fastify/cors, which sets headers of Fastify's answers: most answers of the endpoint are written past Fastify.
 */
export interface Cors {
  /** Marks an answer as one that the page may read, if it may. */
  admit(request: FastifyRequest, reply: FastifyReply): void;
  /** Whether a request is a preflight of a page that may call, and has been answered. It comes without credentials. */
  answered(request: FastifyRequest, reply: FastifyReply): boolean;
}

/** What pages may read of an answer beside what every page may. */
const EXPOSED = ["Mcp-Session-Id", "WWW-Authenticate", "RateLimit", "RateLimit-Policy", "Retry-After"].join(", ");
const METHODS = "GET, POST, DELETE";
/** What clients of the protocol send; `mcp-` stands for Mcp-Session-Id, Mcp-Method, Mcp-Param-..., now and later. */
const HEADERS: ReadonlySet<string> = new Set([
  "accept",
  "authorization",
  "content-type",
  "last-event-id",
  "traceparent",
  "tracestate",
]);
const OWN_HEADER = /^mcp-[a-z0-9-]{1,64}$/;
/** Until a browser asks again: Chromium's most. Seconds. */
const MAX_AGE = "7200";

export function createCors({ ALLOWED_ORIGINS }: Pick<Config, "ALLOWED_ORIGINS">): Cors {
  const allowed = new Set(ALLOWED_ORIGINS.map((origin) => origin.toLowerCase()));
  const isAllowed = (origin: string | undefined): origin is string =>
    origin !== undefined && allowed.has(origin.toLowerCase());
  return {
    admit({ headers: { origin } }, { raw }) {
      if (!isAllowed(origin)) return;
      raw.setHeader("access-control-allow-origin", origin);
      raw.setHeader("access-control-expose-headers", EXPOSED);
      raw.setHeader("vary", "Origin");
    },
    answered({ method, headers }, reply) {
      const { origin, "access-control-request-method": wanted, "access-control-request-headers": names } = headers;
      if (method !== "OPTIONS" || wanted === undefined || !isAllowed(origin)) return false;
      const asked = (names ?? "").split(",").map((name) => name.trim().toLowerCase());
      const permitted = asked.filter((name) => HEADERS.has(name) || OWN_HEADER.test(name));
      reply.raw.setHeader("access-control-allow-methods", METHODS);
      if (permitted.length > 0) reply.raw.setHeader("access-control-allow-headers", permitted.join(", "));
      reply.raw.setHeader("access-control-max-age", MAX_AGE);
      reply.raw.setHeader("vary", "Origin, Access-Control-Request-Headers");
      reply.code(204).send();
      return true;
    },
  };
}
