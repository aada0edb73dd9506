import { z } from "zod";
import { ROLES, type Role } from "../config.ts";

/** What a delegated token of Entra may carry in `scp`, by the role that it leaves to its bearer. */
export const SCOPES: Readonly<Record<Role, string>> = {
  reader: "Mcp.Read",
  operator: "Mcp.Operate",
  admin: "Mcp.Admin",
};

/** What Entra says in `roles` of someone who was assigned to the application, by the role that it gives. */
export const APP_ROLES: Readonly<Record<Role, string>> = {
  reader: "Mcp.Reader",
  operator: "Mcp.Operator",
  admin: "Mcp.Administrator",
};

const names = z.array(z.string().min(1)).min(1);
const role = z.enum(ROLES);
const AccessPolicySchema = z.strictObject({
  roles: z.partialRecord(role, z.strictObject({ appRoles: names.optional(), groups: names.optional() })).optional(),
  tools: z
    .record(
      z.string(),
      z.strictObject({
        role: role.optional(),
        allow: z.partialRecord(role, z.record(z.string(), names)).optional(),
      }),
    )
    .optional(),
});

/** Which app roles and groups carry which role, and what a tool asks beyond its own word. */
export type AccessPolicy = z.output<typeof AccessPolicySchema>;

/**
 * Reads ACCESS_POLICY.
 *
 * @throws Error with a sentence that names the value and the mend.
 */
export function parseAccessPolicy(json: string | undefined): AccessPolicy {
  if (json === undefined) return {};
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch {
    throw new Error(`${JSON.stringify(json)} is not JSON; write an object with "roles" and "tools"`);
  }
  const parsed = AccessPolicySchema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const place = issue?.path.join(".") || "the whole";
  throw new Error(
    `${JSON.stringify(value)} is no access policy at ${place}: ${issue?.message}; ` +
      `write {"roles":{"admin":{"groups":["<object id>"]}},"tools":{"<tool>":{"role":"operator"}}} with roles among ${ROLES.join(", ")}`,
  );
}
