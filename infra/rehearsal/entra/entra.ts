import type { FakeAzure } from "../azure/azure.ts";
import { DEPLOYER } from "../azure/deployer.ts";
import { CloudError } from "../cloud-error.ts";
import type { CloudRequest, Created } from "../cloud-request.ts";
import { guidOf, objectsAt, type Properties, textAt, textsAt } from "../values.ts";

/** An object in the directory, by its Pulumi type and id. */
interface DirectoryObject {
  readonly type: string;
  readonly id: string;
  readonly inputs: Properties;
  readonly outputs: Properties;
}

const GUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

const APPLICATION = "azuread:index/application:Application";
const SERVICE_PRINCIPAL = "azuread:index/servicePrincipal:ServicePrincipal";
const IDENTIFIER_URI = "azuread:index/applicationIdentifierUri:ApplicationIdentifierUri";
const PRE_AUTHORIZED = "azuread:index/applicationPreAuthorized:ApplicationPreAuthorized";
const ROLE_ASSIGNMENT = "azuread:index/appRoleAssignment:AppRoleAssignment";

/** Properties whose change the provider answers with a replacement; source: terraform-provider-azuread, ForceNew. */
const REPLACED_BY: Readonly<Record<string, readonly string[]>> = {
  [APPLICATION]: [],
  [SERVICE_PRINCIPAL]: ["clientId"],
  [IDENTIFIER_URI]: ["applicationId", "identifierUri"],
  [PRE_AUTHORIZED]: ["applicationId", "authorizedClientId"],
  [ROLE_ASSIGNMENT]: ["appRoleId", "principalObjectId", "resourceObjectId"],
};

/** Microsoft Graph in memory, as far as applications go: refuses what it refuses, in its words. */
export class FakeEntra {
  readonly #objects = new Map<string, DirectoryObject>();
  readonly #azure: FakeAzure;
  #uses = new Set<string>();

  /** @param azure knows the people, groups and identities that roles are given to. */
  constructor(azure: FakeAzure) {
    this.#azure = azure;
  }

  create(request: CloudRequest): Created {
    return this.#write(request);
  }

  update(id: string, request: CloudRequest): Created {
    if (!this.#objects.has(id)) throw notFound(id);
    return this.#write(request, id);
  }

  read(id: string): Properties | undefined {
    return this.#objects.get(id)?.outputs;
  }

  /** An application takes with it what is of it alone. */
  delete(id: string): void {
    const gone = this.#objects.get(id);
    this.#objects.delete(id);
    if (gone?.type !== APPLICATION) return;
    for (const other of [...this.#objects.values()]) {
      const ofIt = other.inputs.applicationId === id || other.inputs.clientId === gone.outputs.clientId;
      if (ofIt) this.#objects.delete(other.id);
    }
  }

  #write({ type, name, inputs }: CloudRequest, before?: string): Created {
    this.#uses = new Set();
    const write = this.#writers[type];
    if (!write) {
      throw new CloudError(
        "NotRehearsed",
        `the rehearsal does not know the resource type ${type}; teach infra/rehearsal/entra`,
        501,
      );
    }
    const { id, outputs } = write(name, inputs, before);
    const made = { type, id: before ?? id, inputs, outputs: { ...inputs, ...outputs } };
    this.#objects.set(made.id, made);
    return { id: made.id, outputs: made.outputs, key: made.id.toLowerCase(), uses: [...this.#uses] };
  }

  readonly #writers: Readonly<
    Record<string, (name: string, inputs: Properties, before?: string) => { id: string; outputs: Properties }>
  > = {
    [APPLICATION]: (name, inputs) => {
      checkApplication(inputs);
      const objectId = guidOf("application object", name);
      const clientId = guidOf("application", name);
      for (const uri of textsAt(inputs, "identifierUris")) checkIdentifierUri(uri, clientId);
      return {
        id: `/applications/${objectId}`,
        outputs: {
          clientId,
          objectId,
          publisherDomain: "rehearsal.example.com",
          disabledByMicrosoft: "",
          oauth2PermissionScopeIds: idsByValue(objectsAt(inputs, "api.oauth2PermissionScopes")),
          appRoleIds: idsByValue(objectsAt(inputs, "appRoles")),
        },
      };
    },
    [SERVICE_PRINCIPAL]: (name, inputs, before) => {
      const clientId = textAt(inputs, "clientId") ?? "";
      const application = this.#find(APPLICATION, ({ outputs }) => outputs.clientId === clientId);
      if (!application) {
        throw graphError(
          "Request_BadRequest",
          `The appId '${clientId}' of the service principal does not reference a valid application object.`,
        );
      }
      if (before === undefined && this.#find(SERVICE_PRINCIPAL, ({ inputs: other }) => other.clientId === clientId)) {
        throw graphError(
          "Request_MultipleObjectsWithSameKeyValue",
          `The service principal cannot be created, updated, or restored because the service principal name ${clientId} is already in use.`,
          409,
        );
      }
      const objectId = guidOf("service principal", name);
      return {
        id: `/servicePrincipals/${objectId}`,
        outputs: { objectId, applicationTenantId: DEPLOYER.tenantId, displayName: application.inputs.displayName },
      };
    },
    [IDENTIFIER_URI]: (_name, inputs) => {
      const { id, outputs } = this.#needApplication(inputs);
      const uri = textAt(inputs, "identifierUri") ?? "";
      checkIdentifierUri(uri, String(outputs.clientId));
      return { id: `${id}/identifierUris/${Buffer.from(uri).toString("base64")}`, outputs: {} };
    },
    [PRE_AUTHORIZED]: (name, inputs, before) => {
      const application = this.#needApplication(inputs);
      const client = textAt(inputs, "authorizedClientId") ?? "";
      if (!GUID.test(client)) throw graphError("", `expected "authorized_client_id" to be a valid UUID, got ${client}`);
      // A client of this stack has to stand in the tenant before it is named; others' the directory takes at their word.
      this.#find(APPLICATION, ({ outputs }) => outputs.clientId === client);
      const known = objectsAt(application.inputs, "api.oauth2PermissionScopes").map(({ id }) => id);
      if (textsAt(inputs, "permissionIds").some((permission) => !known.includes(permission))) {
        throw graphError(
          "InvalidPreAuthorizedApplication",
          "Property PreAuthorizedApplications references PermissionIds which are not found in the application permissions list.",
        );
      }
      const id = `${application.id}/preAuthorizedApplication/${client}`;
      if (before === undefined && this.#objects.has(id)) throw alreadyExists(name, id);
      return { id, outputs: {} };
    },
    [ROLE_ASSIGNMENT]: (name, inputs, before) => {
      const resource = textAt(inputs, "resourceObjectId") ?? "";
      const principal = this.#find(SERVICE_PRINCIPAL, ({ outputs }) => outputs.objectId === resource);
      if (!principal) throw notFound(resource);
      const application = this.#find(APPLICATION, ({ outputs }) => outputs.clientId === principal.inputs.clientId);
      const role = objectsAt(application?.inputs, "appRoles").find(({ id }) => id === inputs.appRoleId);
      if (!role) {
        throw graphError("Request_BadRequest", "Permission being assigned was not found on application.");
      }
      const who = textAt(inputs, "principalObjectId") ?? "";
      this.#azure.takeUses();
      const kind = this.#azure.principalType(who);
      for (const used of this.#azure.takeUses()) this.#uses.add(used);
      if (kind === undefined) throw notFound(who);
      const member = kind === "ServicePrincipal" ? "Application" : "User";
      if (!textsAt(role, "allowedMemberTypes").includes(member)) {
        throw graphError(
          "Request_BadRequest",
          `The app role ${String(role.value)} cannot be assigned to a ${kind}: its allowed member types are ${textsAt(role, "allowedMemberTypes").join(", ")}.`,
        );
      }
      const id = `${principal.id}/appRoleAssignedTo/${guidOf("assignment", resource, who, String(inputs.appRoleId))}`;
      if (before === undefined && this.#objects.has(id)) {
        throw graphError("Request_BadRequest", `Permission being assigned already exists on the object (${name}).`);
      }
      return { id, outputs: { principalType: kind, principalDisplayName: who, resourceDisplayName: "" } };
    },
  };

  /** The object, and a note that whoever asks depends on it. */
  #find(type: string, matches: (object: DirectoryObject) => boolean): DirectoryObject | undefined {
    const found = [...this.#objects.values()].find((object) => object.type === type && matches(object));
    if (found) this.#uses.add(found.id.toLowerCase());
    return found;
  }

  #needApplication(inputs: Properties): DirectoryObject {
    const id = textAt(inputs, "applicationId") ?? "";
    const found = this.#find(APPLICATION, (object) => object.id === id);
    if (!found) throw notFound(id);
    return found;
  }
}

export function entraReplacedBy(type: string): readonly string[] {
  return REPLACED_BY[type] ?? [];
}

// Entra, "Validation differences by supported account types" and the application manifest's reference.
const AUDIENCES = [
  "AzureADMyOrg",
  "AzureADMultipleOrgs",
  "AzureADandPersonalMicrosoftAccount",
  "PersonalMicrosoftAccount",
];
const GROUP_CLAIMS = ["None", "All", "SecurityGroup", "DirectoryRole", "ApplicationGroup"];
const PERMISSION_VALUE =
  /^[A-Za-z0-9!#$%&'()*+,\-/:;<=>?@[\]^_`{|}~][A-Za-z0-9!#$%&'()*+,\-./:;<=>?@[\]^_`{|}~]{0,119}$/;
const MOST_REDIRECTS = 256;

function checkApplication(inputs: Properties): void {
  const name = textAt(inputs, "displayName") ?? "";
  if (name === "" || name.length > 256) {
    throw graphError(
      "Request_BadRequest",
      `Invalid value specified for property 'displayName' of resource 'Application'.`,
    );
  }
  const audience = textAt(inputs, "signInAudience") ?? "AzureADMyOrg";
  if (!AUDIENCES.includes(audience)) {
    throw graphError("", `expected sign_in_audience to be one of ${AUDIENCES.join(", ")}, got ${audience}`);
  }
  const scopes = objectsAt(inputs, "api.oauth2PermissionScopes");
  const roles = objectsAt(inputs, "appRoles");
  checkPermissions(scopes, roles);
  for (const role of roles) {
    const members = textsAt(role, "allowedMemberTypes");
    if (members.length === 0 || members.some((member) => !["User", "Application"].includes(member))) {
      throw graphError(
        "",
        `expected allowed_member_types to be User or Application, got ${members.join(", ") || "none"}`,
      );
    }
    if (!textAt(role, "displayName") || !textAt(role, "description")) {
      throw graphError("Request_BadRequest", `App role ${String(role.value)} has no display name or no description.`);
    }
  }
  for (const claim of textsAt(inputs, "groupMembershipClaims")) {
    if (!GROUP_CLAIMS.includes(claim)) {
      throw graphError("", `expected group_membership_claims to be one of ${GROUP_CLAIMS.join(", ")}, got ${claim}`);
    }
  }
  const redirects = [
    ...textsAt(inputs, "publicClient.redirectUris"),
    ...textsAt(inputs, "web.redirectUris"),
    ...textsAt(inputs, "singlePageApplication.redirectUris"),
  ];
  if (redirects.length > MOST_REDIRECTS) {
    throw graphError("Request_BadRequest", `More than ${MOST_REDIRECTS} redirect URIs are not supported.`);
  }
  redirects.forEach(checkRedirect);
}

function checkPermissions(scopes: readonly Properties[], roles: readonly Properties[]): void {
  const permissions = [...scopes, ...roles];
  for (const { id, value } of permissions) {
    if (!GUID.test(String(id))) throw graphError("", `expected "id" to be a valid UUID, got ${String(id)}`);
    if (!PERMISSION_VALUE.test(String(value))) {
      throw graphError(
        "InvalidValue",
        `Value '${String(value)}' of a permission is invalid: up to 120 characters, none of them a space, the first not a dot.`,
      );
    }
  }
  for (const property of ["id", "value"] as const) {
    const seen = new Set<string>();
    for (const permission of permissions) {
      const value = String(permission[property]);
      if (seen.has(value)) {
        throw graphError("DuplicateValue", `Request contains a property with duplicate values: ${property} ${value}.`);
      }
      seen.add(value);
    }
  }
}

/** Entra, "Redirect URI (reply URL) restrictions": http for loopback alone; a native client may have its own scheme. */
function checkRedirect(uri: string): void {
  const url = URL.parse(uri);
  const loopback = url !== null && ["localhost", "127.0.0.1"].includes(url.hostname);
  if (url === null || url.host === "" || uri.length > 256 || (url.protocol === "http:" && !loopback)) {
    throw graphError("InvalidReplyAddress", `The redirect URI '${uri}' is invalid.`);
  }
}

/** Entra, "Restrictions on identifier URIs of applications": the forms that need no verified domain. */
function checkIdentifierUri(uri: string, clientId: string): void {
  if (uri === `api://${clientId}` || uri === `api://${DEPLOYER.tenantId}/${clientId}`) return;
  throw graphError(
    "HostNameNotOnVerifiedDomain",
    `Failed to add identifier URI ${uri}. All newly added URIs must contain a tenant verified domain, tenant ID, or app ID, as per the default tenant policy of your organization.`,
  );
}

function idsByValue(permissions: readonly Properties[]): Record<string, string> {
  return Object.fromEntries(permissions.map(({ id, value }) => [String(value), String(id)]));
}

function notFound(id: string): CloudError {
  return graphError(
    "Request_ResourceNotFound",
    `Resource '${id}' does not exist or one of its queried reference-property objects are not present.`,
    404,
  );
}

function alreadyExists(name: string, id: string): CloudError {
  return graphError("ResourceAlreadyExists", `A resource with the ID "${id}" already exists (${name}).`, 409);
}

/** As the provider prints what Graph answers. Without a code: what the provider refuses by itself. */
function graphError(code: string, sentence: string, status = 400): CloudError {
  return new CloudError(
    code,
    code === "" ? sentence : `unexpected status ${status} with OData error: ${code}: ${sentence}`,
    status,
  );
}
