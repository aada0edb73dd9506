import { z } from "zod";
import { EnvironmentError, ROLES, type Role } from "../config.ts";

/*
 * Who has which role. Whoever the policy says nothing of has none, and is refused.
 */

/** Scopes of the application, which a delegated token has of its user's consent: what is left of a role without more. */
export const SCOPES: Readonly<Record<Role, string>> = Object.freeze({
  reader: "Mcp.Read",
  operator: "Mcp.Operate",
  admin: "Mcp.Admin",
});

/** App roles of the application, as people and applications are assigned to them in Entra. */
export const APP_ROLES: Readonly<Record<Role, string>> = Object.freeze({
  reader: "Mcp.Reader",
  operator: "Mcp.Operator",
  admin: "Mcp.Administrator",
});

/** Who has a role: any of these is enough. */
export interface RoleMembers {
  /** Values of app roles, as the claim `roles` has them. */
  readonly appRoles: readonly string[];
  /** Object ids of Entra groups, in lower case. */
  readonly groups: readonly string[];
}

/** What a policy says of one tool, over what the tool says of itself. */
export interface ToolRules {
  /** The role that it needs, in place of the tool's own. */
  readonly role: Role | undefined;
  /** By role and facet: the values that a call may have, exact or, with a `*` at the end, by their beginning. */
  readonly allow: Readonly<Partial<Record<Role, ReadonlyMap<string, readonly string[]>>>>;
}

export interface AccessPolicy {
  readonly roles: Readonly<Record<Role, RoleMembers>>;
  readonly tools: ReadonlyMap<string, ToolRules>;
}

/** What a credential says of its holder. */
export interface Credited {
  /** The claim `roles` of a token. */
  readonly appRoles?: readonly string[] | undefined;
  /** The groups that its subject is in. */
  readonly groups?: readonly string[] | undefined;
  /** The role in the record of an API key. */
  readonly key?: string | undefined;
}

/** Whether `role` is enough where `needed` is. */
export function atLeast(role: Role, needed: Role): boolean {
  return ROLES.indexOf(role) >= ROLES.indexOf(needed);
}

/** The highest role that the policy gives to who holds this; undefined: none, so nothing is allowed. */
export function roleOf({ roles }: AccessPolicy, { appRoles = [], groups = [], key }: Credited): Role | undefined {
  const member = new Set(groups.map((group) => group.toLowerCase()));
  return ROLES.findLast(
    (role) =>
      key === role ||
      roles[role].appRoles.some((value) => appRoles.includes(value)) ||
      roles[role].groups.some((group) => member.has(group)),
  );
}

/**
 * The highest role that the scopes of a delegated token leave room for; undefined when none of them is this
 * application's, and nothing is: a caller without the claim, an application, has no such bound at all.
 */
export function scopedRoleOf(scopes: readonly string[]): Role | undefined {
  return ROLES.findLast((role) => scopes.includes(SCOPES[role]));
}

/** For each role, what of `items` it may know of, in their order. */
export function forEachRole<Item>(
  items: readonly Item[],
  roleOf: (item: Item) => Role,
): Readonly<Record<Role, readonly Item[]>> {
  const shownTo = (role: Role) => Object.freeze(items.filter((item) => atLeast(role, roleOf(item))));
  return Object.freeze({ reader: shownTo("reader"), operator: shownTo("operator"), admin: shownTo("admin") });
}

const role = z.enum(ROLES, { error: `name one of the roles ${ROLES.join(", ")}` });

/** What Entra takes as the value of an app role (Microsoft Graph, appRole resource type, `value`). */
const appRole = z
  .string({ error: "give the value of an app role, such as Mcp.Reader" })
  .regex(/^(?!\.)[\x21-\x7e]{1,120}$/, "give the value of an app role, such as Mcp.Reader, not its display name");

const group = z
  .string({ error: "give the object id of an Entra group, which is a GUID" })
  .regex(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i, "give the object id of an Entra group, which is a GUID")
  .transform((id) => id.toLowerCase());

const listOf = <Item extends z.ZodType>(item: Item, what: string) =>
  z.array(item, { error: `give a list of ${what}` }).min(1, `name at least one of ${what}, or leave it out`);

const object = <Shape extends z.ZodRawShape>(shape: Shape, what: string) =>
  z.strictObject(shape, {
    error: (issue) =>
      issue.code === "unrecognized_keys"
        ? `${what} takes ${Object.keys(shape).join(", ")}, not ${issue.keys.map((key) => JSON.stringify(key)).join(", ")}`
        : `give an object with ${Object.keys(shape).join(", ")}`,
  });

const someOf = (value: object) => Object.values(value).some((part) => part !== undefined);

const members = object(
  { appRoles: listOf(appRole, "app roles").optional(), groups: listOf(group, "groups").optional() },
  "a role",
).refine(someOf, "name appRoles or groups that have the role, or leave the role out to keep its default");

const pattern = z
  .string({ error: "give a text" })
  .regex(/^[^*]+\*?$|^\*$/, "give a value, or the beginning of one with a * at its end and nowhere else");

const facetRules = z
  .record(z.string(), listOf(pattern, "values"), { error: "give an object of facets and their values" })
  .refine(someOf, "name a facet and its values, or leave the role out");

const eachRole = <Value extends z.ZodType>(value: Value) => ({
  reader: value.optional(),
  operator: value.optional(),
  admin: value.optional(),
});

const toolRules = object(
  { role: role.optional(), allow: object(eachRole(facetRules), "allow").refine(someOf, "name a role").optional() },
  "a tool",
).refine(someOf, "give the tool a role, or rules in allow, or leave it out");

const Policy = object(
  {
    roles: object(eachRole(members), "roles").optional(),
    tools: z.record(z.string(), toolRules, { error: "give an object of tools" }).optional(),
  },
  "the policy",
);

/**
 * Reads ACCESS_POLICY, JSON such as
 * `{"roles":{"admin":{"groups":["<guid>"]}},"tools":{"execute_command":{"allow":{"operator":{"program":["git"]}}}}}`.
 * A role that it names has exactly the members named; one that it leaves out has its default, its app role. Tools and
 * facets are checked where they are known, by `createAccess`.
 *
 * @throws EnvironmentError that names each wrong place, its value and the mend.
 */
export function parseAccessPolicy(json: string | undefined): AccessPolicy {
  const parsed = Policy.safeParse(json === undefined ? {} : jsonIn(json));
  if (!parsed.success) throw policyFault(parsed.error.issues.map((issue) => sentence(issue, json)));
  const { roles = {}, tools = {} } = parsed.data;
  const membersOf = (role: Role): RoleMembers => {
    const named = roles[role];
    return named === undefined
      ? { appRoles: [APP_ROLES[role]], groups: [] }
      : { appRoles: named.appRoles ?? [], groups: named.groups ?? [] };
  };
  const rulesOf = ({ role, allow = {} }: z.output<typeof toolRules>): ToolRules => {
    const byRole = ROLES.map((each) => [each, allow[each] && new Map(Object.entries(allow[each]))] as const);
    return { role, allow: Object.fromEntries(byRole.filter(([, rules]) => rules !== undefined)) };
  };
  return {
    roles: { reader: membersOf("reader"), operator: membersOf("operator"), admin: membersOf("admin") },
    tools: new Map(Object.entries(tools).map(([name, rules]) => [name, rulesOf(rules)])),
  };
}

/** What is wrong with ACCESS_POLICY, so that the server does not start. */
export function policyFault(mends: readonly string[]): EnvironmentError {
  return new EnvironmentError(mends.map((mend) => ({ variable: "ACCESS_POLICY", mend })));
}

function jsonIn(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw policyFault([`is no JSON (${error instanceof Error ? error.message : String(error)}); give one object`]);
  }
}

/** Longest part of a value that a message repeats. */
const SHOWN_CHARACTERS = 80;

function sentence({ path, message }: z.core.$ZodIssue, json: string | undefined): string {
  let value: unknown = json === undefined ? {} : JSON.parse(json);
  for (const key of path) value = typeof value === "object" && value !== null ? Reflect.get(value, key) : undefined;
  const text = JSON.stringify(value) ?? "nothing";
  const shown = text.length > SHOWN_CHARACTERS ? `${text.slice(0, SHOWN_CHARACTERS - 3)}...` : text;
  const at = path
    .map((key) => (typeof key === "number" ? `[${key}]` : `.${String(key)}`))
    .join("")
    .replace(/^\./, "");
  return `${at === "" ? "is" : `at ${at} is`} ${shown}: ${message}`;
}
