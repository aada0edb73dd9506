import { Application } from "@pulumi/azuread/application.js";
import { ApplicationIdentifierUri } from "@pulumi/azuread/applicationIdentifierUri.js";
import { ApplicationPreAuthorized } from "@pulumi/azuread/applicationPreAuthorized.js";
import { AppRoleAssignment } from "@pulumi/azuread/appRoleAssignment.js";
import { Provider } from "@pulumi/azuread/provider.js";
import { ServicePrincipal } from "@pulumi/azuread/servicePrincipal.js";
import {
  ComponentResource,
  type ComponentResourceOptions,
  type CustomResourceOptions,
  type Input,
  log,
  type Output,
  output,
  type Resource,
} from "@pulumi/pulumi";
import { applicationName } from "../naming.ts";
import type { EntraSettings } from "../settings.ts";
import {
  APP_ROLE_DEFINITIONS,
  IDE_REDIRECT_URIS,
  identifierUri,
  SCOPE_DEFINITIONS,
  scopesOf,
  VS_CODE_CLIENT_ID,
} from "./entra-definition.ts";
import { entraSetup, grants } from "./entra-setup.ts";
import type { Site } from "./site.ts";

export interface EntraAppArgs {
  readonly site: Pick<Site, "parts" | "tags" | "tenantId" | "deployer" | "protect">;
  readonly settings: EntraSettings;
}

/**
 * Who may call, as Entra knows it: the application that tokens are made out to, its roles and who has them, and the
 * public client by which IDEs log in. No secret anywhere. Where `mcp:entraClientId` names an application that stands
 * already, nothing is made, and `setup` lists what its administrator has to see to. Free; groups in the assignments
 * need Entra ID P1.
 *
 * First-deployment failure 15: it takes rights in the directory, Application Developer at least where the tenant keeps
 * its users from registering applications. Without them the first resource below ends in 403
 * Authorization_RequestDenied. Roles in the subscription, Owner among them, do not help.
 */
export class EntraApp extends ComponentResource {
  readonly tenantId: string;
  /** What tokens are made out to. */
  readonly clientId: Output<string>;
  /** The public client by which IDEs log in. */
  readonly ideClientId: Output<string>;
  /** In full, from the least to the most. */
  readonly scopes: Output<string[]>;
  /** Whose users may come. */
  readonly allowedTenants: readonly string[];
  /** What an administrator has to do; empty where the stack does it. */
  readonly setup: readonly string[];

  readonly #site: EntraAppArgs["site"];

  constructor(name: string, { site, settings }: EntraAppArgs, opts?: ComponentResourceOptions) {
    super("mcp:azure:EntraApp", name, {}, opts);
    this.#site = site;
    this.tenantId = site.tenantId;
    this.allowedTenants = settings.allowedTenants.length > 0 ? settings.allowedTenants : [site.tenantId];
    if (settings.existing) {
      this.clientId = output(settings.existing.clientId);
      this.ideClientId = output(settings.existing.ideClientId);
      this.setup = this.#listSetup(settings, settings.existing);
    } else {
      const manage = this.#manage(name);
      const api = this.#createApi(name, manage);
      this.#nameApi(name, api, manage);
      const principal = this.#createPrincipal(name, api, manage);
      const ide = settings.ideClientId ?? this.#createIdeClient(name, api, manage);
      this.#preAuthorise(api, { vscode: VS_CODE_CLIENT_ID, ide, ...byItself(others(settings)) }, manage);
      this.#assign(principal, settings, manage);
      this.clientId = api.clientId;
      this.ideClientId = output(ide);
      this.setup = [];
    }
    this.scopes = this.clientId.apply(scopesOf);
    this.registerOutputs({ clientId: this.clientId, ideClientId: this.ideClientId });
  }

  /** In the subscription's tenant, which need not be the one that the deployer's own account is of. */
  #manage(name: string): CustomResourceOptions {
    return { parent: this, provider: new Provider(`${name}-tenant`, { tenantId: this.tenantId }, { parent: this }) };
  }

  #createApi(name: string, manage: CustomResourceOptions): Application {
    const others = this.allowedTenants.some((tenant) => tenant !== this.tenantId);
    return new Application(
      `${name}-api`,
      {
        displayName: applicationName(this.#site.parts),
        description: "The MCP endpoint: who may call it, and as what.",
        signInAudience: others ? "AzureADMultipleOrgs" : "AzureADMyOrg",
        api: {
          // Tokens of version 1 name another issuer, and their audience in several forms.
          requestedAccessTokenVersion: 2,
          oauth2PermissionScopes: SCOPE_DEFINITIONS.map(({ title, description, ...scope }) => ({
            ...scope,
            enabled: true,
            adminConsentDisplayName: title,
            adminConsentDescription: description,
            userConsentDisplayName: title,
            userConsentDescription: description,
          })),
        },
        appRoles: Object.values(APP_ROLE_DEFINITIONS).map(({ title, ...role }) => ({
          ...role,
          displayName: title,
          enabled: true,
          // Pipelines have roles as well as people do.
          allowedMemberTypes: ["User", "Application"],
        })),
        // Only groups that are assigned here: all of a user's may be more than a token holds, and then it holds none.
        groupMembershipClaims: ["ApplicationGroup"],
        // Tells tokens of applications from those of people.
        optionalClaims: { accessTokens: [{ name: "idtyp", additionalProperties: ["include_user_token"] }] },
        owners: [this.#site.deployer.principalId],
        tags: this.#tags(),
      },
      {
        ...manage,
        protect: this.#site.protect,
        // The URI has a resource of its own, for it contains the id. Owners change hands in Entra: two people who take
        // turns would depose each other.
        ignoreChanges: ["identifierUris", "owners"],
      },
    );
  }

  #nameApi(name: string, api: Application, manage: CustomResourceOptions): void {
    new ApplicationIdentifierUri(
      `${name}-uri`,
      { applicationId: api.id, identifierUri: api.clientId.apply(identifierUri) },
      manage,
    );
  }

  #createPrincipal(name: string, api: Application, manage: CustomResourceOptions): ServicePrincipal {
    return new ServicePrincipal(
      `${name}-principal`,
      {
        clientId: api.clientId,
        // No token for anyone whom nobody has assigned: Entra refuses before the server has to.
        appRoleAssignmentRequired: true,
        owners: [this.#site.deployer.principalId],
      },
      { ...manage, ignoreChanges: ["owners"] },
    );
  }

  /** Returns the client id, known once the client stands in the tenant. */
  #createIdeClient(name: string, api: Application, manage: CustomResourceOptions): Output<string> {
    const client = new Application(
      `${name}-ide`,
      {
        displayName: applicationName(this.#site.parts, "ide"),
        description: "IDEs that log their users in to the MCP endpoint.",
        signInAudience: api.signInAudience,
        publicClient: { redirectUris: [...IDE_REDIRECT_URIS] },
        // Neither device codes nor passwords: both are ways to have somebody else's login.
        fallbackPublicClientEnabled: false,
        requiredResourceAccesses: [
          {
            resourceAppId: api.clientId,
            resourceAccesses: SCOPE_DEFINITIONS.map(({ id }) => ({ id, type: "Scope" })),
          },
        ],
        owners: [this.#site.deployer.principalId],
        tags: this.#tags(),
      },
      { ...manage, protect: this.#site.protect, ignoreChanges: ["owners"] },
    );
    // Without one the first login would have to make it, which takes a right to consent that many tenants keep.
    return new ServicePrincipal(
      `${name}-ide-principal`,
      { clientId: client.clientId, owners: [this.#site.deployer.principalId] },
      { ...manage, ignoreChanges: ["owners"] },
    ).clientId;
  }

  /** Clients that nobody is asked to consent to. */
  #preAuthorise(
    api: Application,
    clients: Readonly<Record<string, Input<string>>>,
    manage: CustomResourceOptions,
  ): void {
    for (const [client, authorizedClientId] of Object.entries(clients)) {
      new ApplicationPreAuthorized(
        `allow-${client}`,
        { applicationId: api.id, authorizedClientId, permissionIds: SCOPE_DEFINITIONS.map(({ id }) => id) },
        manage,
      );
    }
  }

  #assign(principal: ServicePrincipal, { roleAssignments }: EntraSettings, manage: CustomResourceOptions): void {
    const { deployer } = this.#site;
    if (roleAssignments.length === 0 && deployer.principalType === "ServicePrincipal") warnOfNobody(this);
    for (const { role, objectId } of grants(roleAssignments, deployer)) {
      const who = objectId === deployer.principalId ? deployer.name : objectId;
      new AppRoleAssignment(
        `${role}-${who}`,
        {
          appRoleId: APP_ROLE_DEFINITIONS[role].id,
          principalObjectId: objectId,
          resourceObjectId: principal.objectId,
        },
        manage,
      );
    }
  }

  #listSetup(settings: EntraSettings, ids: NonNullable<EntraSettings["existing"]>): readonly string[] {
    const { deployer } = this.#site;
    const steps = entraSetup({ tenantId: this.tenantId, ...ids, settings, deployer });
    const list = steps.map((step, i) => `  ${i + 1}. ${step}`).join("\n");
    void log.info(`Nothing is created in Entra. An administrator of the tenant sees to this:\n${list}`, this);
    return steps;
  }

  #tags(): string[] {
    return Object.entries(this.#site.tags).map(([key, value]) => `${key}=${value}`);
  }
}

function warnOfNobody(resource: Resource): void {
  void log.warn(
    "mcp:roleAssignments: names nobody, so that only the pipeline that deploys can call the endpoint; name people or a group",
    resource,
  );
}

/** Entra refuses a client that is listed twice. */
function others({ clientIds, ideClientId }: EntraSettings): readonly string[] {
  return clientIds.filter((id) => id !== VS_CODE_CLIENT_ID && id !== ideClientId);
}

function byItself(ids: readonly string[]): Record<string, string> {
  return Object.fromEntries(ids.map((id) => [id, id]));
}
