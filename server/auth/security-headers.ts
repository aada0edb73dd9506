import type { FastifyReply, FastifyRequest, HookHandlerDoneFunction } from "fastify";

/**
 * What helmet sets by default, with a content policy for answers that no browser renders: nothing may be loaded, and
 * nothing framed. helmet puts the same values together again for every request; here they stand, and a test compares.
 */
export const SECURITY_HEADERS: readonly (readonly [name: string, value: string])[] = [
  ["content-security-policy", "default-src 'none';frame-ancestors 'none'"],
  ["cross-origin-opener-policy", "same-origin"],
  ["cross-origin-resource-policy", "same-origin"],
  ["origin-agent-cluster", "?1"],
  ["referrer-policy", "no-referrer"],
  ["x-content-type-options", "nosniff"],
  ["x-dns-prefetch-control", "off"],
  ["x-download-options", "noopen"],
  ["x-frame-options", "SAMEORIGIN"],
  ["x-permitted-cross-domain-policies", "none"],
  ["x-xss-protection", "0"],
];

/**
 * RFC 6797: keeps a browser from ever coming by plain HTTP again, for a year. Only for a server that clients reach by
 * HTTPS: over HTTP it means nothing (section 8.1), and on a developer's localhost it would be in every server's way.
 */
export const HSTS = ["strict-transport-security", "max-age=31536000; includeSubDomains"] as const;

type Hook = (request: FastifyRequest, reply: FastifyReply, done: HookHandlerDoneFunction) => void;

/**
 * A hook that sets them on every answer, those that Fastify does not write itself included.
 *
 * @param publicUrl what clients call; absent for a listener that is not the public one.
 */
export function securityHeaders(publicUrl: string | undefined): Hook {
  const https = publicUrl !== undefined && new URL(publicUrl).protocol === "https:";
  const headers = https ? [...SECURITY_HEADERS, HSTS] : SECURITY_HEADERS;
  return (_request, reply, done) => {
    for (const [name, value] of headers) reply.raw.setHeader(name, value);
    done();
  };
}
