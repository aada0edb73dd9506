import { ROLES, type Role } from "../config.ts";
import { type Caller, effectiveRole, type FacetContext, isUnknown, type Tool } from "../tools/define-tool.ts";
import { type AccessPolicy, atLeast, forEachRole, policyFault, SCOPES, type ToolRules } from "./roles.ts";

/** Whether a call may be made. `message` is for its caller. */
export type Decision =
  | { readonly granted: true }
  | {
      readonly granted: false;
      /**
       * `hidden`: for this caller there is no such tool. `argument`: not with these arguments. `scope`: the caller's
       * role is enough, and its token has to be one with the scope `scope`.
       */
      readonly why: "hidden" | "argument" | "scope";
      readonly message: string;
      readonly scope?: string;
    };

export interface Access {
  /** For each role the tools that it may call, in the order of the list. */
  readonly shown: Readonly<Record<Role, readonly Tool[]>>;
  decide(caller: Caller, tool: Tool, args: unknown): Decision;
}

interface AccessOptions {
  readonly tools: readonly Tool[];
  readonly policy: AccessPolicy;
  /** What facets may depend on. */
  readonly facetContext: FacetContext;
}

type FacetRules = ReadonlyMap<string, readonly string[]>;

interface Held {
  readonly needed: Role;
  /** The rules that hold for each role; undefined where nothing but the role does. */
  readonly rules: Readonly<Record<Role, FacetRules | undefined>> | undefined;
}

const GRANTED: Decision = Object.freeze({ granted: true });

/**
 * What each role may call, by what the tools say of themselves and what the policy says over it.
 *
 * @throws EnvironmentError when the policy names a tool, or a facet, that there is not, or rules that nobody meets.
 */
export function createAccess({ tools, policy, facetContext }: AccessOptions): Access {
  const faults = faultsIn(policy, tools);
  if (faults.length > 0) throw policyFault(faults);
  const held = new Map(tools.map((tool) => [tool, heldFor(tool, policy.tools.get(tool.name))]));
  const neededFor = (tool: Tool): Role => held.get(tool)?.needed ?? tool.role;

  /** Why rules refuse the arguments; undefined when they do not. */
  const refusal = (tool: Tool, args: unknown, role: Role, rules: FacetRules | undefined): string | undefined => {
    if (rules === undefined) return undefined;
    const facets = tool.facets?.(args, facetContext);
    // No arguments of this tool, which says so itself and runs nothing.
    if (facets === undefined) return undefined;
    for (const [name, allowed] of rules) {
      const facet = facets[name];
      if (isUnknown(facet)) return `your role (${role}) is held to certain values of "${name}", and ${facet.unknown}.`;
      const values = facet === undefined ? [] : typeof facet === "string" ? [facet] : facet;
      const other = values.find((value) => !allowed.some((pattern) => matches(value, pattern)));
      if (values.length > 0 && other === undefined) continue;
      const given = other === undefined ? `"${name}" is not given` : `"${name}" is ${JSON.stringify(brief(other))}`;
      return `${given}, and your role (${role}) may have ${allowed.join(", ")}.`;
    }
    return undefined;
  };

  return {
    shown: forEachRole(tools, neededFor),
    decide(caller, tool, args) {
      const { role } = caller;
      const entry = held.get(tool);
      if (entry === undefined || !atLeast(role, entry.needed)) {
        return { granted: false, why: "hidden", message: `${tool.name} is nothing that your role (${role}) may call.` };
      }
      const effective = effectiveRole(caller);
      const { rules } = entry;
      // Nothing needs more than the highest role.
      if (
        rules === undefined &&
        (tool.roleFor === undefined ? atLeast(effective, entry.needed) : effective === "admin")
      ) {
        return GRANTED;
      }
      const wanted = tool.roleFor?.(args);
      const needed = wanted === undefined || atLeast(entry.needed, wanted) ? entry.needed : wanted;
      if (!atLeast(role, needed)) {
        const message = `${tool.name} was not run: with these arguments it needs the role ${needed}, and yours is ${role}.`;
        return { granted: false, why: "argument", message };
      }
      const refused = refusal(tool, args, role, rules?.[role]);
      if (refused !== undefined) {
        return { granted: false, why: "argument", message: `${tool.name} was not run: ${refused}` };
      }
      // The least role that would do, within the one that the caller has, and with it the scope to ask for.
      const fits = (each: Role) => refusal(tool, args, each, rules?.[each]) === undefined;
      const enough = ROLES.find((each) => atLeast(each, needed) && atLeast(each, effective) && fits(each)) ?? role;
      if (enough === effective) return GRANTED;
      const scope = SCOPES[enough];
      const message = `${tool.name} was not run: it needs a token with the scope ${scope}; sign in for it and call again.`;
      return { granted: false, why: "scope", message, scope };
    },
  };
}

function heldFor(tool: Tool, rules: ToolRules | undefined): Held {
  const needed = rules?.role ?? tool.role;
  if (rules === undefined || Object.keys(rules.allow).length === 0) return { needed, rules: undefined };
  // A rule holds for the roles below as well, unless they have their own: nobody may do more for being less.
  const { allow } = rules;
  const admin = allow.admin;
  const operator = allow.operator ?? admin;
  const reader = allow.reader ?? operator;
  return { needed, rules: { reader, operator, admin } };
}

function faultsIn(policy: AccessPolicy, tools: readonly Tool[]): string[] {
  const byName = new Map(tools.map((tool) => [tool.name, tool]));
  const faults: string[] = [];
  for (const [name, { role, allow }] of policy.tools) {
    const tool = byName.get(name);
    if (tool === undefined) {
      faults.push(`at tools names ${JSON.stringify(brief(name))}, and the tools are ${[...byName.keys()].join(", ")}`);
      continue;
    }
    for (const each of ROLES) {
      const rules = allow[each];
      if (rules === undefined) continue;
      const at = `at tools.${name}.allow.${each}`;
      const needed = role ?? tool.role;
      if (!atLeast(each, needed)) {
        faults.push(
          `${at} has rules for who may not call it at all: it needs ${needed}; give the tool the role ${each}`,
        );
      }
      for (const facet of rules.keys()) {
        if (tool.facetNames?.includes(facet)) continue;
        const known = tool.facetNames?.join(", ") || "no facets";
        faults.push(`${at} names the facet ${JSON.stringify(brief(facet))}, and ${name} has ${known}`);
      }
    }
  }
  return faults;
}

function matches(value: string, pattern: string): boolean {
  return pattern.endsWith("*") ? value.startsWith(pattern.slice(0, -1)) : value === pattern;
}

const brief = (text: string) => (text.length > 80 ? `${text.slice(0, 77)}...` : text);
