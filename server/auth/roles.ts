import { z } from "zod";
import { ROLES, type Role } from "../config.ts";

/** Delegated scopes of the Entra application, by the role that each leaves its bearer. */
export const SCOPES: Readonly<Record<Role, string>> = {
  reader: "Mcp.Read",
  operator: "Mcp.Operate",
  admin: "Mcp.Admin",
};

/** Application roles of the same application. */
export const APP_ROLES: Readonly<Record<Role, string>> = {
  reader: "Mcp.Reader",
  operator: "Mcp.Operator",
  admin: "Mcp.Administrator",
};

const Bearers = z.strictObject({
  appRoles: z.array(z.string().min(1)).min(1).optional(),
  groups: z.array(z.guid()).min(1).optional(),
});
const Policy = z.strictObject({ roles: z.partialRecord(z.enum(ROLES), Bearers) });

/** Which app roles and groups carry which role. */
export type AccessPolicy = z.output<typeof Policy>;

const DEFAULT_POLICY: AccessPolicy = {
  roles: {
    reader: { appRoles: [APP_ROLES.reader] },
    operator: { appRoles: [APP_ROLES.operator] },
    admin: { appRoles: [APP_ROLES.admin] },
  },
};

export function parseAccessPolicy(json: string | undefined): AccessPolicy {
  return json === undefined ? DEFAULT_POLICY : Policy.parse(JSON.parse(json));
}

interface Bearer {
  readonly appRoles?: readonly string[];
  readonly groups?: readonly string[] | undefined;
  readonly key?: string;
}

/** The highest role that anything about the caller carries; undefined: none, which is to refuse. */
export function roleOf(policy: AccessPolicy, { appRoles = [], groups = [], key }: Bearer): Role | undefined {
  return ROLES.findLast(
    (role) =>
      key === role ||
      policy.roles[role]?.appRoles?.some((name) => appRoles.includes(name)) ||
      policy.roles[role]?.groups?.some((id) => groups.includes(id)),
  );
}

/** The highest role that the scopes allow. */
export function scopedRoleOf(scopes: readonly string[]): Role | undefined {
  return ROLES.findLast((role) => scopes.includes(SCOPES[role]));
}

export function atLeast(role: Role, needed: Role): boolean {
  return ROLES.indexOf(role) >= ROLES.indexOf(needed);
}
