import { CLIENT_CALLBACKS, LOOPBACK_CALLBACK_PATHS } from "../../server/auth/client-callbacks.ts";
import { APP_ROLES, SCOPES } from "../../server/auth/roles.ts";
import { ROLES, type Role } from "../../server/config.ts";
import { stableGuid } from "./role-assignment.ts";

/*
 * What the endpoint's application in Entra is, whoever makes it: the stack (entra-app.ts), or an administrator from the
 * list that the stack prints (entra-setup.ts).
 */

/** What a delegated token is limited to, beneath its user's role. */
export interface ScopeDefinition {
  /** The same in every stack; Entra wants it unique within an application. */
  readonly id: string;
  readonly value: string;
  /** Whether users may consent for themselves to a client that is not pre-authorised. */
  readonly type: "User" | "Admin";
  readonly title: string;
  readonly description: string;
}

/** What someone is assigned to. */
export interface AppRoleDefinition {
  readonly id: string;
  readonly value: string;
  readonly title: string;
  readonly description: string;
}

const MAY: Readonly<Record<Role, string>> = {
  reader: "read, and call tools that change nothing",
  operator: "call tools that work: write files, run commands",
  admin: "call every tool",
};

const capitalised = (text: string) => text.charAt(0).toUpperCase() + text.slice(1);

/** By role, from the least to the most. */
export const SCOPE_DEFINITIONS: readonly ScopeDefinition[] = ROLES.map((role) => ({
  id: stableGuid("entra scope", SCOPES[role]),
  value: SCOPES[role],
  type: role === "admin" ? "Admin" : "User",
  title: `Use the MCP server as ${role}`,
  description: `Lets the application ${MAY[role]}, as far as the signed-in user may.`,
}));

export const APP_ROLE_DEFINITIONS: Readonly<Record<Role, AppRoleDefinition>> = {
  reader: appRole("reader"),
  operator: appRole("operator"),
  admin: appRole("admin"),
};

function appRole(role: Role): AppRoleDefinition {
  return {
    id: stableGuid("entra app role", APP_ROLES[role]),
    value: APP_ROLES[role],
    title: `MCP ${role}`,
    description: `${capitalised(role)}s may ${MAY[role]}.`,
  };
}

/** By what the application is called in scopes: the one form that tenants accept whatever their policy (Entra). */
export function identifierUri(clientId: string): string {
  return `api://${clientId}`;
}

/** The scopes in full, as clients ask for them: `api://<client id>/Mcp.Read`. */
export function scopesOf(clientId: string): string[] {
  return SCOPE_DEFINITIONS.map(({ value }) => `${identifierUri(clientId)}/${value}`);
}

/** VS Code's own application, by which it signs in to Entra. Source: Microsoft, "Secure MCP calls to App Service". */
export const VS_CODE_CLIENT_ID = "aebc6443-996d-45c2-90f0-388ff96faa56";

/**
 * Where IDEs wait for the answer of a login. Entra ignores the port of a loopback address and compares the path
 * (Entra: "Redirect URI restrictions", RFC 8252), so one entry serves each path.
 */
export const IDE_REDIRECT_URIS: readonly string[] = [
  ...["localhost", "127.0.0.1"].flatMap((host) => LOOPBACK_CALLBACK_PATHS.map((path) => `http://${host}${path}`)),
  ...CLIENT_CALLBACKS,
];
