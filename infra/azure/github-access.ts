import { FederatedIdentityCredential, UserAssignedIdentity } from "@pulumi/azure-native/managedidentity/index.js";
import { all, ComponentResource, type ComponentResourceOptions, type Input, type Output } from "@pulumi/pulumi";
import { identityName } from "../naming.ts";
import type { Settings } from "../settings.ts";
import type { Cluster } from "./cluster.ts";
import type { Principal } from "./principal.ts";
import { assignRole, ROLES, type RoleName } from "./role-assignment.ts";
import type { Site } from "./site.ts";

export interface GithubAccessArgs {
  readonly site: Site;
  readonly settings: Pick<Settings, "stack" | "keda" | "audit">;
  /** As GitHub's tokens name it: `owner/repo`, or `owner@id/repo@id` for one made or renamed since 15 July 2026. */
  readonly repository: string;
  readonly cluster: Pick<Cluster, "id">;
  /** Roles of the stack's own making that a deployment assigns, by the GUID of each. */
  readonly ownRoles: readonly string[];
}

/** GitHub: "OpenID Connect reference". */
const ISSUER = "https://token.actions.githubusercontent.com";
const AUDIENCE = "api://AzureADTokenExchange";

/** The GitHub environment that preview.yml's jobs run in. With it, a job's subject names it and nothing else. */
const PREVIEW_ENVIRONMENT = "preview";

/** What this program assigns (role-assignment.ts); a deployment must be able to, and to nothing beyond. */
const ASSIGNED: readonly RoleName[] = [
  "acr-pull",
  "acr-push",
  "aks-cluster-admin",
  "aks-cluster-user",
  "key-vault-secrets-officer",
  "key-vault-secrets-user",
  "managed-identity-operator",
  "monitoring-metrics-publisher",
  "network-contributor",
  "service-bus-data-receiver",
  "service-bus-data-sender",
  "storage-blob-data-contributor",
  "storage-table-data-contributor",
];

/**
 * Who GitHub's workflows are to Azure: an identity that deploys this stack, for jobs of the environment of its name, and
 * one that looks, for previews. Neither has a secret, and neither any right beyond the stack's resource group; what a
 * pipeline needs outside of it is in docs/first-deployment.md. Free.
 */
export class GithubAccess extends ComponentResource {
  /** For the variable AZURE_CLIENT_ID of the environment that deploys. */
  readonly clientId: Output<string>;
  /** Object id of the same identity, for `mcp:admins`. */
  readonly principalId: Output<string>;
  /** For the variable AZURE_CLIENT_ID_<STACK> of the environment `preview`. */
  readonly previewClientId: Output<string>;

  readonly #args: GithubAccessArgs;

  constructor(name: string, args: GithubAccessArgs, opts?: ComponentResourceOptions) {
    super("mcp:azure:GithubAccess", name, {}, opts);
    this.#args = args;
    const deployer = this.#createIdentity("github", args.settings.stack);
    const previewer = this.#createIdentity("github-preview", PREVIEW_ENVIRONMENT);
    this.#letDeploy(deployer);
    this.#letLook(previewer);
    this.clientId = deployer.clientId;
    this.principalId = deployer.principalId;
    this.previewClientId = previewer.clientId;
    this.registerOutputs({ clientId: this.clientId, previewClientId: this.previewClientId });
  }

  /**
   * An identity of one environment. Not of pull requests as such (`repo:...:pull_request`): a job that names an
   * environment never has that subject, and one that names none would pass by the environment's reviewers.
   */
  #createIdentity(purpose: string, environment: string) {
    const { site, repository } = this.#args;
    const identity = new UserAssignedIdentity(
      `${purpose}-identity`,
      {
        resourceGroupName: site.resourceGroupName,
        resourceName: identityName(purpose, site.parts),
        location: site.location,
        tags: site.tags,
      },
      { parent: this },
    );
    const trust = new FederatedIdentityCredential(
      `${purpose}-trust`,
      {
        resourceGroupName: site.resourceGroupName,
        resourceName: identity.name,
        federatedIdentityCredentialResourceName: `github-${environment}`,
        issuer: ISSUER,
        subject: `repo:${repository}:environment:${environment}`,
        audiences: [AUDIENCE],
      },
      { parent: this },
    );
    return {
      name: purpose,
      principalType: "ServicePrincipal" as const,
      principalId: identity.principalId,
      clientId: all([identity.clientId, trust.id]).apply(([clientId]) => clientId),
    };
  }

  /**
   * Creates and changes what is in the resource group, and gives roles there, those of this program and no others: it
   * cannot make itself or anybody an owner. Defining KEDA's role and locking the log workspace take User Access
   * Administrator, who may also redefine the stack's custom role; without both, Role Based Access Control Administrator
   * is enough.
   */
  #letDeploy(deployer: Principal): void {
    const { settings, ownRoles } = this.#args;
    this.#grant(deployer, "contributor");
    const definesOrLocks = settings.keda.role === "queue-reader" || settings.audit.immutable;
    const may = [...ASSIGNED.map((role) => ROLES[role]), ...ownRoles];
    this.#grant(deployer, definesOrLocks ? "user-access-administrator" : "rbac-administrator", onlyRoles(may));
  }

  /** Reads the resource group, and of the cluster everything but Secrets. */
  #letLook(previewer: Principal): void {
    const on = { name: "cluster", id: this.#args.cluster.id };
    this.#grant(previewer, "reader");
    this.#grant(previewer, "aks-cluster-user", undefined, on);
    this.#grant(previewer, "aks-rbac-reader", undefined, on);
  }

  #grant(principal: Principal, role: RoleName, condition?: string, on?: { name: string; id: Input<string> }): void {
    const { site } = this.#args;
    const scope = on ?? { name: "group", id: site.resourceGroupId };
    assignRole({ site, principal, role, on: scope, ...(condition !== undefined && { condition }) }, { parent: this });
  }
}

/** Source: Microsoft, "Examples to delegate Azure role assignment management with conditions", "Constrain roles". */
function onlyRoles(roleIds: readonly string[]): string {
  const attribute = "Microsoft.Authorization/roleAssignments";
  const among = `ForAnyOfAnyValues:GuidEquals {${roleIds.join(", ")}}`;
  const clause = (action: "write" | "delete", source: "Request" | "Resource") =>
    `((!(ActionMatches{'${attribute}/${action}'})) OR (@${source}[${attribute}:RoleDefinitionId] ${among}))`;
  return `${clause("write", "Request")} AND ${clause("delete", "Resource")}`;
}
