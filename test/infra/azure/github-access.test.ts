import { expect, test } from "vitest";
import { ROLES } from "../../../infra/azure/role-assignment.ts";
import { type Plan, rehearsePlan } from "../../../infra/rehearsal/plan.ts";

const REPOSITORY = "acme@1234/mcp@98765432";

const planned = (plan: Plan, type: string) => plan.resources.filter((resource) => resource.type.endsWith(`:${type}`));
const textOf = (value: unknown) => (typeof value === "string" ? value : "");

/** What each of the two may do, as "<role> on <the last part of the scope>". */
function rolesOf(plan: Plan, purpose: string): string[] {
  const byId = new Map<string, string>(Object.entries(ROLES).map(([name, id]) => [id, name]));
  return planned(plan, "RoleAssignment")
    .filter(({ name }) => name.startsWith(`${purpose}-`) && !name.startsWith(`${purpose}-preview-`))
    .map(({ inputs }) => {
      const role = byId.get(textOf(inputs.roleDefinitionId).split("/").at(-1) ?? "");
      return `${role} on ${textOf(inputs.scope).split("/").at(-1)}`;
    })
    .toSorted();
}

test("a repository has an identity that deploys and one that looks, each for one environment's jobs alone", async () => {
  const plan = await rehearsePlan("dev", { overrides: { githubRepository: REPOSITORY } });
  expect(plan.faults).toEqual([]);
  const subjects = planned(plan, "FederatedIdentityCredential")
    .filter(({ inputs }) => textOf(inputs.issuer) === "https://token.actions.githubusercontent.com")
    .map(({ inputs }) => inputs.subject);
  expect(subjects.toSorted()).toEqual([`repo:${REPOSITORY}:environment:dev`, `repo:${REPOSITORY}:environment:preview`]);
  expect(rolesOf(plan, "github")).toEqual(["contributor on rg-mcp-dev", "user-access-administrator on rg-mcp-dev"]);
  expect(rolesOf(plan, "github-preview")).toEqual([
    "aks-cluster-user on aks-mcp-dev",
    "aks-rbac-reader on aks-mcp-dev",
    "reader on rg-mcp-dev",
  ]);
  expect(plan.outputs.github).toEqual({
    clientId: expect.any(String),
    previewClientId: expect.any(String),
    principalId: expect.any(String),
    tenantId: expect.any(String),
    subscriptionId: expect.any(String),
  });
});

test("a pipeline can assign every role that its stack assigns, and none by which it would own the group", async () => {
  const stacks: Record<string, string>[] = [
    { githubRepository: "acme/mcp", kedaRole: "queue-reader", auditImmutable: "on" },
    { githubRepository: "acme/mcp", kedaRole: "receiver", authorizedRanges: '["8.8.8.8"]' },
  ];
  for (const overrides of stacks) {
    const plan = await rehearsePlan("prod", { overrides });
    const assignments = planned(plan, "RoleAssignment");
    const own = assignments.filter(({ name }) => name.startsWith("github-"));
    const [held] = own.filter(({ inputs }) => inputs.condition !== undefined);
    const allowed = new Set(textOf(held?.inputs.condition).match(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g));
    for (const { name, inputs } of assignments.filter((each) => !own.includes(each))) {
      expect(allowed, name).toContain(textOf(inputs.roleDefinitionId).split("/").at(-1));
    }
    for (const role of ["contributor", "rbac-administrator", "user-access-administrator"] as const) {
      expect(allowed).not.toContain(ROLES[role]);
    }
    expect(held?.inputs).toMatchObject({
      conditionVersion: "2.0",
      condition: expect.stringMatching(/roleAssignments\/write.* AND .*roleAssignments\/delete/),
    });
  }
});

test("what defines no role and sets no lock needs no User Access Administrator", async () => {
  const plan = await rehearsePlan("staging", { overrides: { githubRepository: "acme/mcp", kedaRole: "receiver" } });
  expect(rolesOf(plan, "github")).toEqual(["contributor on rg-mcp-staging", "rbac-administrator on rg-mcp-staging"]);
});

test("without a repository there is nobody but people", async () => {
  const plan = await rehearsePlan("dev");
  expect(
    planned(plan, "FederatedIdentityCredential")
      .map(({ inputs }) => textOf(inputs.issuer))
      .join(),
  ).not.toContain("github");
  expect(plan.outputs).not.toHaveProperty("github");
});
