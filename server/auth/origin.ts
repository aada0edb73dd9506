import { isIPv6 } from "node:net";
import { type Config, isLoopback } from "../config.ts";

/** Why a request is refused before anything else about it matters; undefined when it is not. */
export type RefuseForeign = (headers: { host?: string | undefined; origin?: string | undefined }) => string | undefined;

/**
 * Keeps web pages out: a browser names the page's origin, which must be one of ours (MCP specification, Streamable
 * HTTP, "Security Warning"), and on loopback the Host must be this machine's own name, since a page may point a name
 * of its own at 127.0.0.1 (DNS rebinding). Beyond loopback a Host says nothing that the credentials do not say better.
 * Clients that are no browsers send no Origin.
 */
export function createRefuseForeign(config: Pick<Config, "HOST" | "PUBLIC_URL" | "ALLOWED_ORIGINS">): RefuseForeign {
  const local = isLoopback(config.HOST);
  const published = config.PUBLIC_URL === undefined ? undefined : new URL(config.PUBLIC_URL);
  const origins = new Set([...config.ALLOWED_ORIGINS.map((origin) => origin.toLowerCase()), published?.origin]);
  /** Hosts that were found to be ours. Clients send the same few. */
  const ours = new Set<string>();
  return ({ host, origin }) => {
    if (origin !== undefined && !origins.has(origin.toLowerCase())) {
      const originHost = URL.parse(origin)?.hostname;
      if (!(local && originHost !== undefined && isLoopbackName(originHost))) {
        return `Origin ${brief(origin)} is not allowed; add it to ALLOWED_ORIGINS if its pages may call this server.`;
      }
    }
    if (!local || (host !== undefined && ours.has(host))) return undefined;
    const name = URL.parse(`http://${host ?? ""}`)?.hostname;
    if (name !== undefined && (isLoopbackName(name) || name === published?.hostname)) {
      if (host !== undefined && ours.size < HOSTS_LIMIT) ours.add(host);
      return undefined;
    }
    return `Host ${brief(host ?? "")} is not this server's; call it by 127.0.0.1 or localhost.`;
  };
}

const HOSTS_LIMIT = 64;

/** As in a URL, where IPv6 addresses stand in brackets. */
function isLoopbackName(name: string): boolean {
  const bare = name.startsWith("[") ? name.slice(1, -1) : name;
  return isLoopback(isIPv6(bare) ? bare : name);
}

const brief = (value: string): string => JSON.stringify(value.length > 100 ? `${value.slice(0, 100)}...` : value);
