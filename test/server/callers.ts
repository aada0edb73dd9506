import type { Authenticate } from "../../server/auth/authenticate.ts";
import { ROLES } from "../../server/config.ts";
import type { Caller } from "../../server/tools/define-tool.ts";

/* Callers as a server finds them to be, without the proof of it: who is who is tested elsewhere. */

const TENANTS = ["11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"] as const;
const SUBJECT = "99999999-9999-4999-8999-999999999999";

/** By the name that {@link bearer} sends. */
export const CALLERS: ReadonlyMap<string, Caller> = new Map(
  Object.entries({
    ...Object.fromEntries(ROLES.map((role) => [role, caller(`the ${role}`, TENANTS[0], { role })])),
    /** The same person's id in two tenants, another person in one of them, and a key called as the person is. */
    one: caller(SUBJECT, TENANTS[0]),
    two: caller(SUBJECT, TENANTS[1]),
    neighbour: caller("88888888-8888-4888-8888-888888888888", TENANTS[0]),
    key: Object.freeze<Caller>({ subject: SUBJECT, method: "api-key", role: "operator" }),
    /** Whose token has less than their role. */
    "scoped-admin": caller("scoped admin", TENANTS[0], { role: "admin", scopedRole: "reader" }),
    "scoped-operator": caller("scoped operator", TENANTS[0], { role: "operator", scopedRole: "reader" }),
    "over-scoped": caller("over-scoped", TENANTS[0], { role: "reader", scopedRole: "admin" }),
  }),
);

function caller(subject: string, tenant: string, rest: Partial<Caller> = {}): Caller {
  return Object.freeze<Caller>({ subject, tenant, method: "entra", role: "operator", ...rest });
}

export function callerNamed(name: string): Caller {
  const found = CALLERS.get(name);
  if (found === undefined) throw new Error(`There is no caller ${name}.`);
  return found;
}

export const bearer = (name: string) => ({ authorization: `Bearer ${name}` });

/** Takes everyone at their word. */
export const authenticate = ((sent: string | undefined | { authorization: string | undefined }) => {
  const authorization = typeof sent === "object" ? sent.authorization : sent;
  const found = CALLERS.get(authorization?.slice("Bearer ".length) ?? "");
  if (typeof sent !== "object") return found;
  return found ? { caller: found } : { refusal: { status: 401, reason: "nobody" } };
}) as unknown as Authenticate;
