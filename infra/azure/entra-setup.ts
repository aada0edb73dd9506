import { APP_ROLES } from "../../server/auth/roles.ts";
import type { AppRoleGrant, EntraSettings } from "../settings.ts";
import {
  APP_ROLE_DEFINITIONS,
  IDE_REDIRECT_URIS,
  identifierUri,
  SCOPE_DEFINITIONS,
  VS_CODE_CLIENT_ID,
} from "./entra-definition.ts";
import type { Principal } from "./principal.ts";

export interface EntraSetupArgs {
  readonly tenantId: string;
  readonly clientId: string;
  readonly ideClientId: string;
  readonly settings: Pick<EntraSettings, "allowedTenants" | "clientIds" | "roleAssignments">;
  /** Who gets the administrator's role where nobody is named. */
  readonly deployer: Pick<Principal, "principalType"> & { readonly principalId: string };
}

/**
 * What an administrator of the tenant has to see to for applications that the stack does not manage, a step a line, in
 * order. Ids are those that a stack's own application would have; others do as well, for only the values count.
 */
export function entraSetup({ tenantId, clientId, ideClientId, settings, deployer }: EntraSetupArgs): string[] {
  const uri = identifierUri(clientId);
  const scopeIds = SCOPE_DEFINITIONS.map(({ id }) => id).join(", ");
  const others = settings.allowedTenants.some((tenant) => tenant !== tenantId);
  return [
    `Application ${clientId}, in tenant ${tenantId}: accounts of ${others ? "any organisation (AzureADMultipleOrgs)" : "this organisation only (AzureADMyOrg)"}; no secret and no certificate.`,
    `Application ${clientId}, Manifest: api.requestedAccessTokenVersion 2; groupMembershipClaims "ApplicationGroup"; optional claim "idtyp" in access tokens, with include_user_token.`,
    `Application ${clientId}, Expose an API: Application ID URI ${uri}.`,
    ...SCOPE_DEFINITIONS.map(
      ({ id, value, type, title }) =>
        `Application ${clientId}, Expose an API: scope ${value} (id ${id}), consent by ${type === "Admin" ? "admins only" : "admins and users"}, "${title}".`,
    ),
    ...Object.values(APP_ROLE_DEFINITIONS).map(
      ({ id, value, title }) =>
        `Application ${clientId}, App roles: ${value} (id ${id}), "${title}", for users, groups and applications.`,
    ),
    `Enterprise application of ${clientId}, Properties: assignment required, Yes.`,
    `Application ${ideClientId}, Authentication, Mobile and desktop applications: ${IDE_REDIRECT_URIS.join(", ")}.`,
    `Application ${ideClientId}: an enterprise application in the tenant (az ad sp create --id ${ideClientId}); public client flows other than by redirect stay off; no secret.`,
    `Application ${ideClientId}, API permissions: delegated ${SCOPE_DEFINITIONS.map(({ value }) => value).join(", ")} of ${uri}.`,
    ...[
      ["Visual Studio Code", VS_CODE_CLIENT_ID],
      ["the IDEs' public client", ideClientId],
      ...settings.clientIds.map((id) => ["from mcp:clientIds", id]),
    ].map(
      ([who, id]) =>
        `Application ${clientId}, Expose an API, Authorized client applications: ${id} (${who}) for all three scopes (${scopeIds}).`,
    ),
    ...grants(settings.roleAssignments, deployer).map(
      ({ role, type, objectId }) =>
        `Enterprise application of ${clientId}, Users and groups: ${type} ${objectId} as ${APP_ROLES[role]}.`,
    ),
  ];
}

/** What the settings name, or the deployer alone, so that a first person can log in. */
export function grants(named: readonly AppRoleGrant[], deployer: EntraSetupArgs["deployer"]): readonly AppRoleGrant[] {
  if (named.length > 0) return named;
  return [{ role: "admin", type: deployer.principalType, objectId: deployer.principalId }];
}
