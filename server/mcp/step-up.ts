import { ProtocolError } from "@modelcontextprotocol/server";
import { atLeast, SCOPES } from "../auth/roles.ts";
import type { Role } from "../config.ts";
import { type Caller, effectiveRole } from "../tools/define-tool.ts";
import { INSUFFICIENT_SCOPE } from "./refusals.ts";

/*
 * What is within a caller's role but beyond the scopes of its token. Over HTTP that is a challenge, which clients answer
 * by signing in for more (MCP specification, Authorization, "Scope Challenge Handling"); elsewhere it is an error that
 * names the scope.
 */

/** The scope that the caller's token lacks for a request with these parameters; undefined when it lacks none. */
export type ScopeFor = (caller: Caller, params: Readonly<Record<string, unknown>>) => string | undefined;

/** The scope that the caller lacks for what needs a role; undefined when it lacks none, or a scope would not help. */
export function scopeForRole(caller: Caller, needed: Role): string | undefined {
  return atLeast(caller.role, needed) && !atLeast(effectiveRole(caller), needed) ? SCOPES[needed] : undefined;
}

export function scopeNeeded(message: string, scope: string): ProtocolError {
  return new ProtocolError(INSUFFICIENT_SCOPE, message, { error: "insufficient_scope", scope });
}

/** Throws when the caller's token lacks the scope for what needs that role. */
export function assertInScope(caller: Caller, what: string, needed: Role): void {
  const scope = scopeForRole(caller, needed);
  if (scope === undefined) return;
  throw scopeNeeded(`${what} needs a token with the scope ${scope}; sign in for it and ask again.`, scope);
}

/**
 * Looks through the body of an HTTP request for what its caller's token has no scope for.
 *
 * @returns all scopes that are lacking, separated by spaces; undefined when none is.
 */
export function createStepUp(
  byMethod: ReadonlyMap<string, ScopeFor>,
): (caller: Caller, body: unknown) => string | undefined {
  const lackingFor = (caller: Caller, message: unknown): string | undefined => {
    if (!isObject(message) || typeof message.method !== "string") return undefined;
    return byMethod.get(message.method)?.(caller, isObject(message.params) ? message.params : {});
  };
  return (caller, body) => {
    // Nearly all: keys, applications, and tokens with scopes for all that their role allows.
    if (caller.scopedRole === undefined || effectiveRole(caller) === caller.role) return undefined;
    const lacking = new Set((Array.isArray(body) ? body : [body]).map((message) => lackingFor(caller, message)));
    lacking.delete(undefined);
    return lacking.size === 0 ? undefined : [...lacking].join(" ");
  };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
