import { describe, expect, test } from "vitest";
import { DEPLOYER } from "../../../infra/rehearsal/azure/deployer.ts";
import { FakeCloud } from "../../../infra/rehearsal/cloud.ts";
import type { Properties } from "../../../infra/rehearsal/values.ts";

const TYPES = {
  application: "azuread:index/application:Application",
  principal: "azuread:index/servicePrincipal:ServicePrincipal",
  uri: "azuread:index/applicationIdentifierUri:ApplicationIdentifierUri",
  allowed: "azuread:index/applicationPreAuthorized:ApplicationPreAuthorized",
  assignment: "azuread:index/appRoleAssignment:AppRoleAssignment",
} as const;

const [ID, OTHER, STRANGER] = ["1", "2", "3"].map((digit) => `${digit.repeat(8)}-1111-1111-1111-111111111111`) as [
  string,
  string,
  string,
];

const SCOPE = { id: ID, value: "Mcp.Read", type: "User", enabled: true };
const ROLE = {
  id: OTHER,
  value: "Mcp.Reader",
  displayName: "Reader",
  description: "Reads.",
  allowedMemberTypes: ["User"],
};
const APPLICATION = { displayName: "mcp", api: { oauth2PermissionScopes: [SCOPE] }, appRoles: [ROLE] };

/** A directory with one application, its principal, and a way to ask for more. */
function directory() {
  const cloud = new FakeCloud({ principals: { [STRANGER]: "ServicePrincipal" } });
  const create = (kind: keyof typeof TYPES, inputs: Properties, name = kind as string) =>
    cloud.create({ type: TYPES[kind], name, inputs });
  const application = create("application", APPLICATION);
  const clientId = String(application.outputs.clientId);
  const principal = create("principal", { clientId });
  return { cloud, create, application, clientId, principal };
}

describe("an application is refused", () => {
  test.each<[string, Properties, RegExp]>([
    ["without a name", { displayName: "" }, /displayName/],
    ["for an audience that there is not", { signInAudience: "Everyone" }, /sign_in_audience.*Everyone/],
    [
      "with a scope whose id is no UUID",
      { api: { oauth2PermissionScopes: [{ ...SCOPE, id: "read" }] } },
      /valid UUID, got read/,
    ],
    ["with a role whose id is no UUID", { appRoles: [{ ...ROLE, id: "1" }] }, /valid UUID, got 1/],
    [
      "with two scopes of one value",
      { api: { oauth2PermissionScopes: [SCOPE, { ...SCOPE, id: STRANGER }] } },
      /duplicate values: value Mcp\.Read/,
    ],
    ["with a role that has a scope's id", { appRoles: [{ ...ROLE, id: ID }] }, /duplicate values: id/],
    ["with a value that has a space", { appRoles: [{ ...ROLE, value: "Mcp Reader" }] }, /'Mcp Reader'.*invalid/],
    [
      "with a role for robots",
      { appRoles: [{ ...ROLE, allowedMemberTypes: ["Robot"] }] },
      /User or Application, got Robot/,
    ],
    ["with a role that says nothing of itself", { appRoles: [{ ...ROLE, description: "" }] }, /no description/],
    ["with group claims that there are not", { groupMembershipClaims: ["Some"] }, /group_membership_claims.*Some/],
    [
      "with plain http elsewhere",
      { publicClient: { redirectUris: ["http://a.example/callback"] } },
      /http:\/\/a\.example/,
    ],
    ["with a redirect to nowhere", { publicClient: { redirectUris: ["callback"] } }, /'callback' is invalid/],
    ["named for a domain that is not the tenant's", { identifierUris: ["https://a.example"] }, /verified domain/],
  ])("%s", (_, change, words) => {
    expect(() => directory().create("application", { ...APPLICATION, ...change }, "another")).toThrow(words);
  });
});

describe("what belongs to an application is refused", () => {
  test("where the application is not there, or has been named for somebody else", () => {
    const { create, application, clientId } = directory();
    expect(() => create("uri", { applicationId: "/applications/none", identifierUri: "api://x" })).toThrow(
      /does not exist/,
    );
    expect(() => create("uri", { applicationId: application.id, identifierUri: `api://${OTHER}` })).toThrow(/app ID/);
    create("uri", { applicationId: application.id, identifierUri: `api://${clientId}` });
  });

  test("a principal of no application, and a second one of the same", () => {
    const { create, clientId } = directory();
    expect(() => create("principal", { clientId: OTHER }, "x")).toThrow(
      /does not reference a valid application object/,
    );
    expect(() => create("principal", { clientId }, "x")).toThrow(/already in use/);
  });

  test("a client that is listed twice, is no id, or for a scope that there is not", () => {
    const { create, application } = directory();
    const allow = (change: Properties, name: string) =>
      create(
        "allowed",
        { applicationId: application.id, authorizedClientId: OTHER, permissionIds: [ID], ...change },
        name,
      );
    expect(() => allow({ permissionIds: [OTHER] }, "a")).toThrow(/not found in the application permissions list/);
    expect(() => allow({ authorizedClientId: "vscode" }, "b")).toThrow(/valid UUID, got vscode/);
    allow({}, "c");
    expect(() => allow({}, "d")).toThrow(/already exists/);
  });

  test("a role for nobody, of nothing, for the wrong kind, and a second time", () => {
    const { create, principal } = directory();
    const assign = (change: Properties, name: string) =>
      create(
        "assignment",
        {
          appRoleId: OTHER,
          principalObjectId: DEPLOYER.objectId,
          resourceObjectId: principal.outputs.objectId,
          ...change,
        },
        name,
      );
    expect(() => assign({ principalObjectId: ID }, "a")).toThrow(/does not exist/);
    expect(() => assign({ resourceObjectId: ID }, "b")).toThrow(/does not exist/);
    expect(() => assign({ appRoleId: ID }, "c")).toThrow(/not found on application/);
    expect(() => assign({ principalObjectId: STRANGER }, "d")).toThrow(/cannot be assigned to a ServicePrincipal/);
    assign({}, "e");
    expect(() => assign({}, "f")).toThrow(/already exists on the object/);
  });
});

test("an application takes with it what is of it alone", () => {
  const { cloud, create, application, principal, clientId } = directory();
  const uri = create("uri", { applicationId: application.id, identifierUri: `api://${clientId}` });
  cloud.delete(TYPES.application, application.id);
  for (const { id } of [application, principal, uri]) expect(cloud.read(TYPES.application, id)).toBeUndefined();
});

test("a type that it does not know is said to be unknown, with the place to teach it", () => {
  const cloud = new FakeCloud();
  const request = { type: "azuread:index/group:Group", name: "g", inputs: {} };
  expect(() => cloud.create(request)).toThrow(/does not know the resource type.*infra\/rehearsal\/entra/);
});
