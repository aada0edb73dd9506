import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { createAccess } from "../../server/auth/access.ts";
import {
  APP_ROLES,
  atLeast,
  forEachRole,
  parseAccessPolicy,
  roleOf,
  SCOPES,
  scopedRoleOf,
} from "../../server/auth/roles.ts";
import { EnvironmentError, ROLES, type Role } from "../../server/config.ts";
import { tools } from "../../server/tools/index.ts";

const role = fc.constantFrom(...ROLES);
const group = fc.uuid();
const appRole = fc.stringMatching(/^[A-Za-z][A-Za-z0-9.]{0,20}$/);
const value = fc.stringMatching(/^[^*]{1,12}\*?$/);

const members = fc
  .record(
    {
      appRoles: fc.array(appRole, { minLength: 1, maxLength: 3 }),
      groups: fc.array(group, { minLength: 1, maxLength: 3 }),
    },
    { requiredKeys: [] },
  )
  .filter((each) => Object.keys(each).length > 0);

const facets = fc
  .record(
    {
      operation: fc.array(value, { minLength: 1, maxLength: 3 }),
      path: fc.array(value, { minLength: 1, maxLength: 3 }),
    },
    { requiredKeys: [] },
  )
  .filter((each) => Object.keys(each).length > 0);

/** Everything that a policy may be: of the tools, those rules that somebody can meet. */
const policies = fc.record(
  {
    roles: fc.record({ reader: members, operator: members, admin: members }, { requiredKeys: [] }),
    tools: fc.record(
      {
        system_info: fc.record({ role }),
        file_operation: fc
          .record(
            {
              role: fc.constant<Role>("reader"),
              allow: fc.record({ reader: facets, operator: facets }, { requiredKeys: [] }),
            },
            { requiredKeys: [] },
          )
          .map(({ allow = {}, ...rest }) => ({ ...rest, ...(Object.keys(allow).length > 0 && { allow }) }))
          .filter((each) => Object.keys(each).length > 0),
        execute_command: fc.record({ role }),
      },
      { requiredKeys: [] },
    ),
  },
  { requiredKeys: [] },
);

describe("a policy", () => {
  test("of any sound form is read, and gives each role exactly the members it names, or its default", () => {
    fc.assert(
      fc.property(policies, (written) => {
        const policy = parseAccessPolicy(JSON.stringify(written));
        for (const each of ROLES) {
          const named = written.roles?.[each];
          const expected = named
            ? { appRoles: named.appRoles ?? [], groups: named.groups ?? [] }
            : { appRoles: [APP_ROLES[each]], groups: [] };
          expect(policy.roles[each]).toEqual(expected);
        }
        expect([...policy.tools.keys()].sort()).toEqual(Object.keys(written.tools ?? {}).sort());
      }),
    );
  });

  test("with one thing changed that it does not know is refused, in words that name it", () => {
    const fault = fc.constantFrom<[unknown, RegExp]>(
      [{ roles: { owner: { groups: ["x"] } } }, /at roles is .*roles takes reader, operator, admin, not "owner"/],
      [{ rolls: {} }, /the policy takes roles, tools, not "rolls"/],
      [{ roles: { admin: { groups: ["Platform team"] } } }, /at roles\.admin\.groups\[0\] is "Platform team": .*GUID/],
      [{ roles: { admin: { groups: [] } } }, /at roles\.admin\.groups is \[\]: name at least one of groups/],
      [{ roles: { admin: { appRoles: ["My role"] } } }, /at roles\.admin\.appRoles\[0\] is "My role": .*display name/],
      [{ roles: { admin: {} } }, /at roles\.admin is \{\}: name appRoles or groups/],
      [{ roles: { admin: { users: ["x"] } } }, /a role takes appRoles, groups, not "users"/],
      [{ roles: { admin: "everyone" } }, /at roles\.admin is "everyone": give an object with appRoles, groups/],
      [{ roles: [] }, /at roles is \[\]: give an object/],
      [
        { tools: { execute_command: { role: "root" } } },
        /at tools\.execute_command\.role is "root": name one of the roles/,
      ],
      [{ tools: { execute_command: {} } }, /at tools\.execute_command is \{\}: give the tool a role/],
      [{ tools: { execute_command: { allow: {} } } }, /allow is \{\}: name a role/],
      [{ tools: { execute_command: { allow: { owner: {} } } } }, /allow takes reader, operator, admin, not "owner"/],
      [{ tools: { execute_command: { allow: { admin: {} } } } }, /name a facet and its values/],
      [{ tools: { execute_command: { allow: { admin: { program: [] } } } } }, /program is \[\]: name at least one/],
      [{ tools: { execute_command: { allow: { admin: { program: ["a*b"] } } } } }, /is "a\*b": .* a \* at its end/],
      [{ tools: { execute_command: { allow: { admin: { program: "git" } } } } }, /is "git": give a list of values/],
      [[], /is \[\]: give an object/],
      ["x", /is "x": give an object/],
      [null, /is null: give an object/],
    );
    fc.assert(
      fc.property(fault, ([written, sentence]) => {
        const reading = () => parseAccessPolicy(JSON.stringify(written));
        expect(reading).toThrow(EnvironmentError);
        expect(reading).toThrow(/ACCESS_POLICY/);
        expect(reading).toThrow(sentence);
      }),
      { numRuns: 200 },
    );
  });

  test("that is no JSON is refused, and so is any that is nearly one", () => {
    expect(() => parseAccessPolicy("{roles:")).toThrow(/ACCESS_POLICY is no JSON .*give one object/);
    fc.assert(
      fc.property(fc.jsonValue(), (written) => {
        try {
          parseAccessPolicy(JSON.stringify(written));
        } catch (error) {
          expect(error).toBeInstanceOf(EnvironmentError);
        }
      }),
    );
  });

  test("cannot be widened by names that every object has", () => {
    for (const written of ['{"__proto__":{"roles":{}}}', '{"roles":{"__proto__":{"admin":{"groups":["x"]}}}}']) {
      expect(() => parseAccessPolicy(written)).toThrow(EnvironmentError);
    }
    expect(roleOf(parseAccessPolicy(undefined), { key: "constructor" })).toBeUndefined();
    expect(roleOf(parseAccessPolicy(undefined), { appRoles: ["__proto__", "toString"] })).toBeUndefined();
  });
});

describe("the role of a caller", () => {
  const policy = parseAccessPolicy(undefined);

  test("is none where nothing says otherwise", () => {
    expect(roleOf(policy, {})).toBeUndefined();
    fc.assert(
      fc.property(fc.array(fc.string()), fc.array(group), fc.string(), (appRoles, groups, key) => {
        fc.pre(
          !appRoles.some((each) => Object.values(APP_ROLES).includes(each)) &&
            !(ROLES as readonly string[]).includes(key),
        );
        expect(roleOf(policy, { appRoles, groups, key })).toBeUndefined();
      }),
    );
  });

  test("is the highest of those that it has", () => {
    fc.assert(
      fc.property(fc.subarray([...ROLES], { minLength: 1 }), fc.option(role, { nil: undefined }), (had, key) => {
        const highest = [...had, ...(key ? [key] : [])].reduce((a, b) => (atLeast(a, b) ? a : b));
        expect(roleOf(policy, { appRoles: had.map((each) => APP_ROLES[each]), ...(key && { key }) })).toBe(highest);
      }),
    );
  });

  test("comes from groups in whichever case their ids are written", () => {
    fc.assert(
      fc.property(group, role, (id, each) => {
        const grouped = parseAccessPolicy(JSON.stringify({ roles: { [each]: { groups: [id.toUpperCase()] } } }));
        expect(roleOf(grouped, { groups: [id.toLowerCase()] })).toBe(each);
        expect(roleOf(grouped, { groups: [id.toUpperCase()] })).toBe(each);
      }),
    );
  });

  test("of a policy that names a group for a role is no longer the default app role's", () => {
    const grouped = parseAccessPolicy('{"roles":{"admin":{"groups":["11111111-1111-1111-1111-111111111111"]}}}');
    expect(roleOf(grouped, { appRoles: [APP_ROLES.admin] })).toBeUndefined();
    expect(roleOf(grouped, { appRoles: [APP_ROLES.operator] })).toBe("operator");
  });
});

test("scopes leave room for the highest role that one of them names, and others for none", () => {
  expect(scopedRoleOf(["openid", "Mcp.Read", "Mcp.Operate"])).toBe("operator");
  expect(scopedRoleOf(Object.values(SCOPES))).toBe("admin");
  expect(scopedRoleOf(["openid", "mcp.admin", "Mcp.Admin2", APP_ROLES.admin])).toBeUndefined();
});

test("a higher role is shown whatever a lower one is, and in the same order", () => {
  fc.assert(
    fc.property(fc.array(fc.record({ name: fc.string(), role })), (items) => {
      const shown = forEachRole(items, (item) => item.role);
      for (const each of ROLES) expect(shown[each]).toEqual(items.filter((item) => shown[each].includes(item)));
      expect(shown.operator).toEqual(expect.arrayContaining([...shown.reader]));
      expect(shown.admin).toEqual(items);
    }),
  );
});

const args = fc.record(
  {
    operation: fc.constantFrom("read", "write", "list", "stat", "search", "delete", "copy", "nonsense"),
    path: fc.oneof(fc.constantFrom(".", "src/a", "src/../b", "b"), fc.string({ minLength: 1 })),
    content: fc.string(),
    destination: fc.string({ minLength: 1 }),
  },
  { requiredKeys: ["operation", "path"] },
);

test("a higher role may do whatever a lower one may, unless a rule of its own says otherwise", () => {
  fc.assert(
    fc.property(policies, args, (written, given) => {
      const access = createAccess({
        tools,
        policy: parseAccessPolicy(JSON.stringify(written)),
        facetContext: { shell: true },
      });
      for (const tool of tools) {
        const allow = Object.entries(written.tools ?? {}).find(([name]) => name === tool.name)?.[1];
        const ruled = (each: Role) =>
          allow !== undefined && "allow" in allow && allow.allow?.[each as "reader"] !== undefined;
        const input = tool.name === "system_info" ? {} : tool.name === "execute_command" ? { command: "ls" } : given;
        const granted = (each: Role) =>
          access.decide({ subject: "s", method: "entra", tenant: "t", role: each }, tool, input).granted;
        if (granted("reader") && !ruled("operator")) expect(granted("operator")).toBe(true);
        if (granted("operator") && !ruled("admin")) expect(granted("admin")).toBe(true);
        if (granted("reader") && !ruled("admin")) expect(granted("admin") || ruled("operator")).toBe(true);
      }
    }),
  );
});

test("scopes only ever take away, and a call beyond them names a scope that is enough", () => {
  fc.assert(
    fc.property(policies, args, role, role, (written, given, assigned, scopedRole) => {
      const access = createAccess({
        tools,
        policy: parseAccessPolicy(JSON.stringify(written)),
        facetContext: { shell: true },
      });
      const caller = { subject: "s", method: "entra", tenant: "t", role: assigned } as const;
      for (const tool of tools) {
        const input = tool.name === "system_info" ? {} : tool.name === "execute_command" ? { command: "ls" } : given;
        const whole = access.decide(caller, tool, input);
        const part = access.decide({ ...caller, scopedRole }, tool, input);
        if (!whole.granted) expect(part).toEqual(whole);
        if (part.granted || part.why !== "scope") continue;
        const enough = scopedRoleOf([part.scope ?? ""]);
        expect(enough).toBeDefined();
        if (enough) expect(access.decide({ ...caller, scopedRole: enough }, tool, input)).toEqual({ granted: true });
      }
    }),
  );
});
