import type { Role } from "../config.ts";
import type { Caller } from "../tools/define-tool.ts";
import { atLeast, SCOPES } from "./roles.ts";

/**
 * Tells the scope that a token lacks for the tool that it is sent to call, where its bearer has the role for it: the
 * client can then sign in for more (MCP specification, Authorization, "Step-Up Authorization Flow"). A tool beyond the
 * role is none of this: no scope would help.
 */
export function createStepUp(
  tools: readonly { readonly name: string; readonly role: Role }[],
): (caller: Caller, body: unknown) => string | undefined {
  const needed = new Map(tools.map(({ name, role }) => [name, role]));
  return ({ role, scopedRole = role }, body) => {
    // The protocol of 2025-03-26 has batches.
    for (const message of [body].flat()) {
      const tool = needed.get(toolIn(message) ?? "");
      if (tool !== undefined && atLeast(role, tool) && !atLeast(scopedRole, tool)) return SCOPES[tool];
    }
    return undefined;
  };
}

function toolIn(message: unknown): string | undefined {
  if (typeof message !== "object" || message === null || !("method" in message) || message.method !== "tools/call") {
    return undefined;
  }
  const params = "params" in message ? message.params : undefined;
  if (typeof params !== "object" || params === null || !("name" in params)) return undefined;
  return typeof params.name === "string" ? params.name : undefined;
}
