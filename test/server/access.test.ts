import { describe, expect, test } from "vitest";
import { createAccess, type Decision } from "../../server/auth/access.ts";
import { parseAccessPolicy } from "../../server/auth/roles.ts";
import { EnvironmentError, type Role } from "../../server/config.ts";
import type { Caller } from "../../server/tools/define-tool.ts";
import { tools } from "../../server/tools/index.ts";

function accessBy(policy: object = {}, shell = false) {
  const access = createAccess({ tools, policy: parseAccessPolicy(JSON.stringify(policy)), facetContext: { shell } });
  return (role: Role | Partial<Caller>, name: string, args: unknown): Decision => {
    const tool = tools.find((each) => each.name === name);
    if (tool === undefined) throw new Error(`There is no ${name}.`);
    const who = typeof role === "string" ? { role } : role;
    return access.decide({ subject: "s", method: "entra", tenant: "t", role: "reader", ...who }, tool, args);
  };
}

const granted = { granted: true };
const file = (operation: string, path = "a", rest: object = {}) => ({ operation, path, ...rest });

describe("without a policy", () => {
  const decide = accessBy();

  test.each(["read", "list", "stat", "search"])("a reader may %s", (operation) => {
    expect(decide("reader", "file_operation", file(operation))).toEqual(granted);
  });

  test.each(["write", "append", "mkdir", "copy", "move", "delete"])(
    "a reader may not %s, an operator may",
    (operation) => {
      expect(decide("reader", "file_operation", file(operation))).toEqual({
        granted: false,
        why: "argument",
        message: "file_operation was not run: with these arguments it needs the role operator, and yours is reader.",
      });
      expect(decide("operator", "file_operation", file(operation))).toEqual(granted);
    },
  );

  test("commands are not there for a reader", () => {
    expect(decide("reader", "execute_command", { command: "ls" })).toMatchObject({ granted: false, why: "hidden" });
    expect(decide("operator", "execute_command", { command: "ls" })).toEqual(granted);
  });

  test("arguments that are none of the tool's are left to the tool, which runs nothing", () => {
    for (const args of [undefined, null, 5, {}, [], { operation: "write" }, { operation: ["write"], path: "a" }]) {
      expect(decide("reader", "file_operation", args)).toEqual(granted);
    }
  });

  test("a token with less than its holder's role is asked for the scope, and no more than it needs", () => {
    const scoped = { role: "admin", scopedRole: "reader" } as const;
    expect(decide(scoped, "file_operation", file("read"))).toEqual(granted);
    expect(decide(scoped, "file_operation", file("write"))).toMatchObject({ why: "scope", scope: "Mcp.Operate" });
    expect(decide(scoped, "execute_command", { command: "ls" })).toMatchObject({ why: "scope", scope: "Mcp.Operate" });
  });

  test("scopes beyond the role give nothing", () => {
    const scoped = { role: "reader", scopedRole: "admin" } as const;
    expect(decide(scoped, "execute_command", { command: "ls" })).toMatchObject({ why: "hidden" });
    expect(decide(scoped, "file_operation", file("write"))).toMatchObject({ why: "argument" });
  });
});

describe("rules on programs", () => {
  const rules = { tools: { execute_command: { allow: { operator: { program: ["git", "ls", "/opt/lint/*"] } } } } };
  const decide = accessBy(rules);

  test.each([
    { command: "git status" },
    { command: "'git' log" },
    { command: "g\\it log" },
    { command: "ls", args: ["-l"] },
    { command: "/opt/lint/run" },
  ])("%o is let through", (args) => {
    expect(decide("operator", "execute_command", args)).toEqual(granted);
  });

  test.each([
    [{ command: "rm -rf ." }, '"program" is "rm", and your role (operator) may have git, ls, /opt/lint/*.'],
    [{ command: "git status", args: [] }, '"program" is "git status"'],
    [{ command: "./git" }, '"program" is "./git"'],
    [{ command: "git/../rm" }, '"program" is "./rm"'],
    [{ command: "/opt/lint/../../bin/sh" }, '"program" is "/bin/sh"'],
    [{ command: "Git" }, '"program" is "Git"'],
    [{ command: "ｇit" }, '"program" is "ｇit"'],
    [{ command: "git\u200b" }, '"program" is'],
    [{ command: " " }, '"program" is ""'],
    [{ command: "git; rm x" }, "the command line is none that this server runs"],
    [{ command: "git $(rm x)" }, "the command line is none that this server runs"],
  ])("%o is refused, with what may be", (args, sentence) => {
    const decision = decide("operator", "execute_command", args);
    expect(decision).toMatchObject({ granted: false, why: "argument" });
    expect(decision).toHaveProperty("message", expect.stringContaining(sentence));
  });

  test("leave the roles above free", () => {
    expect(decide("admin", "execute_command", { command: "rm -rf ." })).toEqual(granted);
  });

  test("with a shell refuse command lines, with the reason, and take a program with its arguments", () => {
    const withShell = accessBy(rules, true);
    expect(withShell("operator", "execute_command", { command: "git status" })).toMatchObject({
      why: "argument",
      message: expect.stringMatching(/the shell .* may start any program; give the program's name as command/),
    });
    expect(withShell("operator", "execute_command", { command: "git", args: ["status"] })).toEqual(granted);
    expect(withShell("operator", "execute_command", { command: "rm", args: ["x"] })).toMatchObject({ why: "argument" });
  });

  test("of the role that a token leaves are stepped up out of", () => {
    const scoped = { role: "admin", scopedRole: "operator" } as const;
    expect(decide(scoped, "execute_command", { command: "git log" })).toEqual(granted);
    expect(decide(scoped, "execute_command", { command: "rm x" })).toMatchObject({ why: "scope", scope: "Mcp.Admin" });
  });
});

describe("rules on files", () => {
  const decide = accessBy({
    tools: {
      file_operation: {
        allow: { operator: { path: ["docs", "docs/*"], operation: ["read", "write", "copy", "move"] } },
      },
    },
  });

  test.each([
    file("read", "docs/a"),
    file("write", "docs/a", { content: "x" }),
    file("read", "./docs//a"),
    file("read", "docs/"),
    file("read", "x/../docs/a"),
    file("copy", "docs/a", { destination: "docs/b" }),
  ])("%o is let through", (args) => {
    expect(decide("operator", "file_operation", args)).toEqual(granted);
  });

  test.each([
    file("read", "docs-private/a"),
    file("read", "docs/../secret"),
    file("read", "docs/../../outside"),
    file("read", "."),
    file("read", "/docs/a"),
    file("copy", "docs/a", { destination: "elsewhere" }),
    file("move", "docs/a", { destination: "docs/../elsewhere" }),
    file("delete", "docs/a"),
  ])("%o is refused", (args) => {
    expect(decide("operator", "file_operation", args)).toMatchObject({ granted: false, why: "argument" });
  });

  test("hold for the roles below as well, unless they have their own", () => {
    expect(decide("reader", "file_operation", file("read", "secret"))).toMatchObject({ why: "argument" });
    const own = accessBy({
      tools: { file_operation: { allow: { operator: { path: ["docs/*"] }, reader: { path: ["public/*"] } } } },
    });
    expect(own("reader", "file_operation", file("read", "public/a"))).toEqual(granted);
    expect(own("reader", "file_operation", file("read", "docs/a"))).toMatchObject({ why: "argument" });
    expect(own("operator", "file_operation", file("read", "public/a"))).toMatchObject({ why: "argument" });
  });
});

describe("a policy's role for a tool", () => {
  test("takes the place of the tool's own", () => {
    const decide = accessBy({ tools: { execute_command: { role: "reader" }, system_info: { role: "admin" } } });
    expect(decide("reader", "execute_command", { command: "ls" })).toEqual(granted);
    expect(decide("operator", "system_info", {})).toMatchObject({ why: "hidden" });
    expect(decide({ role: "admin", scopedRole: "operator" }, "system_info", {})).toMatchObject({ scope: "Mcp.Admin" });
  });

  test("makes no argument need less", () => {
    const decide = accessBy({ tools: { file_operation: { role: "reader" } } });
    expect(decide("reader", "file_operation", file("write"))).toMatchObject({ why: "argument" });
  });
});

describe("a policy that does not fit the tools stops the start", () => {
  test.each([
    [
      { shell: { role: "admin" } },
      'ACCESS_POLICY at tools names "shell", and the tools are execute_command, file_operation',
    ],
    [{ toString: { role: "admin" } }, 'names "toString"'],
    [
      { execute_command: { allow: { admin: { path: ["x"] } } } },
      'names the facet "path", and execute_command has program',
    ],
    [{ system_info: { allow: { admin: { x: ["x"] } } } }, 'names the facet "x", and system_info has no facets'],
    [{ execute_command: { allow: { reader: { program: ["ls"] } } } }, "who may not call it at all: it needs operator"],
  ])("%o", (written, sentence) => {
    expect(() => accessBy({ tools: written })).toThrow(EnvironmentError);
    expect(() => accessBy({ tools: written })).toThrow(sentence);
  });
});
