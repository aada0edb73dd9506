import { beforeAll, describe, expect, test } from "vitest";
import { IDE_REDIRECT_URIS } from "../../../infra/azure/entra-definition.ts";
import { entraSetup } from "../../../infra/azure/entra-setup.ts";
import { type Plan, type PlannedResource, rehearsePlan } from "../../../infra/rehearsal/plan.ts";
import { planText } from "../../../infra/rehearsal/plan-view.ts";
import { isClientCallback } from "../../../server/auth/client-callbacks.ts";
import { APP_ROLES, SCOPES } from "../../../server/auth/roles.ts";

const [ONE, TWO, THREE] = [1, 2, 3].map((digit) => `${digit}`.repeat(8).concat("-1111-1111-1111-111111111111")) as [
  string,
  string,
  string,
];
const VS_CODE = "aebc6443-996d-45c2-90f0-388ff96faa56";
const GUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

const made = ({ resources }: Plan, kind: string): PlannedResource[] =>
  resources.filter(({ type }) => type.startsWith("azuread:") && type.endsWith(`:${kind}`));
const only = (plan: Plan, kind: string, name?: string) => {
  const found = made(plan, kind).filter((resource) => name === undefined || resource.name === name);
  expect(found).toHaveLength(1);
  return found[0] as PlannedResource;
};

describe("what dev makes in Entra", () => {
  let plan: Plan;
  beforeAll(async () => {
    plan = await rehearsePlan("dev", {
      overrides: {
        clientIds: JSON.stringify([ONE, VS_CODE]),
        roleAssignments: JSON.stringify([`operator:group:${TWO}`, `reader:servicePrincipal:${THREE}`]),
      },
    });
    expect(plan.faults).toEqual([]);
  });

  test("is the endpoint's application: one tenant, tokens of version 2, its groups alone, and no credential", () => {
    const { inputs, options } = only(plan, "Application", "entra-api");
    expect(inputs).toMatchObject({
      displayName: "mcp-dev",
      signInAudience: "AzureADMyOrg",
      groupMembershipClaims: ["ApplicationGroup"],
      optionalClaims: { accessTokens: [{ name: "idtyp", additionalProperties: ["include_user_token"] }] },
      api: { requestedAccessTokenVersion: 2 },
    });
    expect(JSON.stringify(inputs.tags)).toContain("workload=mcp");
    expect(inputs).not.toHaveProperty("password");
    expect(options?.ignoreChanges).toEqual(["identifierUris", "owners"]);
    expect(made(plan, "ApplicationPassword")).toEqual([]);
  });

  test("has the scopes and app roles that the server knows, under ids that never change", async () => {
    const { api, appRoles } = only(plan, "Application", "entra-api").inputs as {
      api: { oauth2PermissionScopes: { id: string; value: string; type: string }[] };
      appRoles: { id: string; value: string; allowedMemberTypes: string[] }[];
    };
    const scopes = api.oauth2PermissionScopes;
    expect(scopes.map(({ value }) => value)).toEqual(Object.values(SCOPES));
    expect(appRoles.map(({ value }) => value)).toEqual(Object.values(APP_ROLES));
    const ids = [...scopes, ...appRoles].map(({ id }) => id);
    expect(new Set(ids).size).toBe(6);
    for (const id of ids) expect(id).toMatch(GUID);
    // Whoever changes one takes a permission from every client and person that has it.
    expect(ids).toMatchInlineSnapshot(`
      [
        "8d3abda2-c20c-5df7-9969-f3cb2d215de0",
        "58051220-663e-5c37-85db-4bb34dff8a47",
        "3ffffcdd-466c-5794-9e54-85c2b1988193",
        "806a6d4e-e1cc-5e5e-81ae-b678f556f250",
        "704f93c8-646d-5f4b-9c6e-72751c734950",
        "8dcbbd25-6250-55f3-b9b4-af4ceeacc9ad",
      ]
    `);
    expect(scopes.map(({ type }) => type)).toEqual(["User", "User", "Admin"]);
    for (const { allowedMemberTypes } of appRoles) expect(allowedMemberTypes).toEqual(["User", "Application"]);
  });

  test("goes by api://<client id>, and gives tokens to those alone who are assigned", () => {
    const { clientId } = plan.outputs.entra as { clientId: string };
    expect(only(plan, "ApplicationIdentifierUri").inputs.identifierUri).toBe(`api://${clientId}`);
    expect(only(plan, "ServicePrincipal", "entra-principal").inputs).toMatchObject({
      clientId,
      appRoleAssignmentRequired: true,
    });
  });

  test("is a public client for IDEs, without codes for devices, which may be sent back where the server lets it", () => {
    const { inputs } = only(plan, "Application", "entra-ide");
    expect(inputs).toMatchObject({ displayName: "mcp-dev-ide", fallbackPublicClientEnabled: false });
    const { redirectUris } = inputs.publicClient as { redirectUris: string[] };
    expect(redirectUris).toEqual([...IDE_REDIRECT_URIS]);
    expect(redirectUris).toEqual(
      expect.arrayContaining(["http://localhost/callback", "http://127.0.0.1/oauth/callback", "http://127.0.0.1/"]),
    );
    for (const uri of redirectUris) expect(isClientCallback(uri), uri).toBe(true);
    // Known to the tenant before it is named, and before anyone logs in by it.
    const allowed = only(plan, "ApplicationPreAuthorized", "allow-ide");
    expect(allowed.dependsOn).toContain(only(plan, "ServicePrincipal", "entra-ide-principal").urn);
  });

  test("lets VS Code, the IDEs' client and those listed in without consent, each once, for every scope", () => {
    const { ideClientId } = plan.outputs.entra as { ideClientId: string };
    const allowed = made(plan, "ApplicationPreAuthorized").map(({ inputs }) => inputs);
    expect(allowed.map(({ authorizedClientId }) => authorizedClientId).sort()).toEqual(
      [VS_CODE, ideClientId, ONE].sort(),
    );
    for (const { permissionIds } of allowed) expect(permissionIds).toHaveLength(3);
  });

  test("assigns whom the settings name, and then nobody else", () => {
    const { appRoles } = only(plan, "Application", "entra-api").inputs as { appRoles: { id: string; value: string }[] };
    const given = made(plan, "AppRoleAssignment").map(({ inputs }) => [
      appRoles.find(({ id }) => id === inputs.appRoleId)?.value,
      inputs.principalObjectId,
    ]);
    expect(given.sort()).toEqual([
      [APP_ROLES.operator, TWO],
      [APP_ROLES.reader, THREE],
    ]);
  });

  test("is in the tenant that the subscription is in", () => {
    const provider = plan.resources.find(({ type }) => type === "pulumi:providers:azuread");
    expect(provider?.inputs.tenantId).toBe((plan.outputs.entra as { tenantId: string }).tenantId);
    for (const resource of plan.resources.filter(({ type }) => type.startsWith("azuread:"))) {
      expect(resource.dependsOn, resource.name).toContain(provider?.urn);
    }
  });

  test("stands in the outputs, with the scopes in full", () => {
    const { clientId, scopes } = plan.outputs.entra as { clientId: string; scopes: string[] };
    expect(scopes).toEqual(Object.values(SCOPES).map((scope) => `api://${clientId}/${scope}`));
    expect(plan.outputs).not.toHaveProperty("entraSetup");
  });
});

test("whoever deploys first is admin, where nobody is named", async () => {
  const plan = await rehearsePlan("dev");
  expect(made(plan, "AppRoleAssignment").map(({ name }) => name)).toEqual(["admin-deployer"]);
  expect(plan.warnings.join("\n")).toMatch(/"mcp-dev" and "mcp-dev-ide" are made in Entra.*mcp:entraClientId/);
});

test("users of other tenants make it an application for several, and the server is told which", async () => {
  const plan = await rehearsePlan("dev", { overrides: { allowedTenants: JSON.stringify([ONE]) } });
  for (const { inputs } of made(plan, "Application")) expect(inputs.signInAudience).toBe("AzureADMultipleOrgs");
});

test("prod guards its applications against deletion", async () => {
  const plan = await rehearsePlan("prod");
  for (const { options } of made(plan, "Application")) expect(options?.protect).toBe(true);
});

test("a client of one's own for IDEs takes the place of the stack's", async () => {
  const plan = await rehearsePlan("dev", { overrides: { oauthClientId: ONE } });
  expect(made(plan, "Application").map(({ name }) => name)).toEqual(["entra-api"]);
  expect(only(plan, "ApplicationPreAuthorized", "allow-ide").inputs.authorizedClientId).toBe(ONE);
  expect(plan.outputs.entra).toMatchObject({ ideClientId: ONE });
});

test("without Entra there is nothing of it", async () => {
  const plan = await rehearsePlan("dev", { overrides: { authentication: "api-key" } });
  expect(plan.faults).toEqual([]);
  expect(plan.resources.filter(({ type }) => type.includes("azuread"))).toEqual([]);
  expect(plan.outputs).not.toHaveProperty("entra");
});

describe("applications that stand already", () => {
  let plan: Plan;
  beforeAll(async () => {
    plan = await rehearsePlan("staging", {
      overrides: {
        entraClientId: ONE,
        oauthClientId: TWO,
        clientIds: JSON.stringify([THREE]),
        roleAssignments: JSON.stringify([`admin:user:${THREE}`]),
      },
    });
    expect(plan.faults).toEqual([]);
  });

  test("leave nothing to make in Entra, and no provider that would need rights there", () => {
    expect(plan.resources.filter(({ type }) => type.includes("azuread"))).toEqual([]);
    expect(plan.outputs.entra).toMatchObject({ clientId: ONE, ideClientId: TWO });
  });

  test("come with all that their administrator has to set, in the outputs and at the plan's end", () => {
    const setup = plan.outputs.entraSetup as string[];
    const text = setup.join("\n");
    for (const named of [
      `api://${ONE}`,
      ...Object.values(SCOPES),
      ...Object.values(APP_ROLES),
      ...IDE_REDIRECT_URIS,
      VS_CODE,
      `User ${THREE} as Mcp.Administrator`,
      "requestedAccessTokenVersion 2",
      "ApplicationGroup",
      "idtyp",
      "assignment required",
    ]) {
      expect(text).toContain(named);
    }
    // Every permission by the id that it has in the stack's own applications.
    expect(new Set(text.match(/\(id [0-9a-f-]{36}\)/g)).size).toBe(6);
    const printed = planText(plan, { color: false });
    expect(printed).toContain("For an administrator of Entra");
    for (const step of setup) expect(printed).toContain(step);
  });

  test("are for the deployer to begin with, and for one organisation", () => {
    const deployer = { principalType: "User", principalId: TWO } as const;
    const settings = { allowedTenants: [ONE], clientIds: [], roleAssignments: [] };
    const text = entraSetup({ tenantId: ONE, clientId: TWO, ideClientId: THREE, settings, deployer }).join("\n");
    expect(text).toContain(`User ${TWO} as Mcp.Administrator`);
    expect(text).toContain("AzureADMyOrg");
  });
});
