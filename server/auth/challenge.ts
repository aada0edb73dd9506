import type { Config } from "../config.ts";
import type { Refusal } from "./credentials.ts";
import { SCOPES } from "./roles.ts";

/** What a refused request is told, and how to do better. */
export interface Challenge {
  /** Value of WWW-Authenticate; undefined where credentials are not what is missing. */
  header(refusal: Refusal): string | undefined;
  message(refusal: Refusal): string;
}

/** Where the protected resource's metadata is: RFC 9728, section 3.1 puts the resource's own path behind. */
export const RESOURCE_METADATA_PATH = "/.well-known/oauth-protected-resource";

export type ChallengeConfig = Pick<Config, "AUTH_MODE" | "PUBLIC_URL" | "ENTRA_CLIENT_ID">;

/**
 * RFC 6750, section 3, with the metadata of RFC 9728 and the scope that a client should ask for (MCP specification,
 * Authorization, "Protected Resource Metadata Discovery Requirements" and "Runtime Insufficient Scope Errors"). No
 * error_description: it would tell a guesser which part of a guess was right.
 */
export function createChallenge({ AUTH_MODE, PUBLIC_URL, ENTRA_CLIENT_ID }: ChallengeConfig): Challenge {
  const url = PUBLIC_URL === undefined ? undefined : new URL(PUBLIC_URL);
  const oauth = ENTRA_CLIENT_ID !== undefined && url !== undefined;
  const metadata = oauth && `resource_metadata="${url.origin}${RESOURCE_METADATA_PATH}${url.pathname}"`;
  return {
    header({ status, error, scope = SCOPES.reader }) {
      if (status === 429 || status === 503 || (status === 403 && error === undefined)) return undefined;
      const parts = ['realm="mcp"', error && `error="${error}"`, metadata];
      if (oauth && error !== "invalid_request") parts.push(`scope="${qualified(ENTRA_CLIENT_ID, scope)}"`);
      return `Bearer ${parts.filter(Boolean).join(", ")}`;
    },
    message({ status, scope, retryAfterSeconds }) {
      switch (status) {
        case 400:
          return "Credentials must come once, in one Authorization header.";
        case 401:
          return `Authentication required: send ${WANTED[AUTH_MODE]}.`;
        case 403:
          return scope === undefined
            ? "No role on this server is assigned to the caller; ask whoever runs it for one."
            : `The token's scopes do not reach this far; ask for ${scope}.`;
        case 429:
          return `Too many failed attempts; try again in ${Math.ceil(retryAfterSeconds ?? 1)} seconds.`;
        case 503:
          return "Tokens and tickets cannot be checked or issued now; try again in a few seconds.";
      }
    },
  };
}

/** Scopes as Entra wants them asked for: each with the application that defines it in front. */
export function qualified(clientId: string, scopes: string): string {
  return scopes
    .split(" ")
    .map((scope) => `api://${clientId}/${scope}`)
    .join(" ");
}

const KEY = "a valid key as Authorization: Bearer <key>";
const TOKEN = "a valid access token as Authorization: Bearer <token>";
const WANTED: Readonly<Record<Config["AUTH_MODE"], string>> = {
  none: KEY,
  "api-key": KEY,
  entra: TOKEN,
  "entra,api-key": `${TOKEN}, or a key in its place`,
};
