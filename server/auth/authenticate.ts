import type { Config, Role } from "../config.ts";
import type { Caller } from "../tools/define-tool.ts";
import type { ApiKeys } from "./api-keys.ts";

/** Tells who sends a request from its Authorization header; undefined when that proves nobody. */
export type Authenticate = (authorization: string | undefined) => Caller | undefined;

/** What callers may do until something says otherwise of them. */
const DEFAULT_ROLE: Role = "admin";

/** Whoever started this process and talks to it over its own pipes. */
export const LOCAL_CALLER: Caller = Object.freeze({ subject: "local", method: "local", role: DEFAULT_ROLE });

const ANONYMOUS: Caller = Object.freeze({ subject: "anonymous", method: "none", role: DEFAULT_ROLE });

export function createAuthenticate({ AUTH_MODE }: Pick<Config, "AUTH_MODE">, keys: ApiKeys): Authenticate {
  switch (AUTH_MODE) {
    case "none":
      return () => ANONYMOUS;
    case "api-key":
      return (authorization = "") => {
        // RFC 6750 section 2.1; the scheme is case-insensitive (RFC 9110 section 11.1).
        return keys.find(/^Bearer +(\S+)$/i.exec(authorization)?.[1] ?? "");
      };
  }
}
