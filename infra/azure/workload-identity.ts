import { FederatedIdentityCredential, UserAssignedIdentity } from "@pulumi/azure-native/managedidentity/index.js";
import { all, ComponentResource, type ComponentResourceOptions, type Input, type Output } from "@pulumi/pulumi";
import { identityName } from "../naming.ts";
import type { Principal } from "./principal.ts";
import type { Site } from "./site.ts";

export interface WorkloadIdentityArgs {
  readonly site: Site;
  /** The cluster's OIDC issuer, `https://...`. */
  readonly issuer: Input<string>;
  /** The one Kubernetes account that may act as this identity. */
  readonly serviceAccount: { readonly namespace: string; readonly name: string };
}

/** What Entra wants in the `aud` of tokens it trusts (Entra: "Workload identity federation"). */
const AUDIENCE = "api://AzureADTokenExchange";

/** Who a workload is to Azure: an identity without any secret, which one Kubernetes service account can take. Free. */
export class WorkloadIdentity extends ComponentResource implements Principal {
  readonly name: string;
  readonly principalId: Output<string>;
  readonly principalType = "ServicePrincipal";
  /** For the service account's `azure.workload.identity/client-id`; known once the account is trusted. */
  readonly clientId: Output<string>;
  readonly serviceAccount: WorkloadIdentityArgs["serviceAccount"];

  constructor(name: string, args: WorkloadIdentityArgs, opts?: ComponentResourceOptions) {
    super("mcp:azure:WorkloadIdentity", name, {}, opts);
    this.name = name;
    this.serviceAccount = args.serviceAccount;
    const identity = this.#createIdentity(args.site);
    const credential = this.#trust(args, identity);
    this.principalId = identity.principalId;
    // Held back until the credential exists: pods that ask for a token before get AADSTS70021, and the answer sticks
    // for minutes (first-deployment failure 11).
    this.clientId = all([identity.clientId, credential.id]).apply(([clientId]) => clientId);
    this.registerOutputs({ clientId: this.clientId });
  }

  #createIdentity(site: Site): UserAssignedIdentity {
    return new UserAssignedIdentity(
      `${this.name}-identity`,
      {
        resourceGroupName: site.resourceGroupName,
        resourceName: identityName(this.name, site.parts),
        location: site.location,
        tags: site.tags,
      },
      { parent: this },
    );
  }

  /** First-deployment failure 11: no wildcards, and a wrong subject shows only when a pod asks for its token. */
  #trust(
    { site, issuer, serviceAccount }: WorkloadIdentityArgs,
    identity: UserAssignedIdentity,
  ): FederatedIdentityCredential {
    return new FederatedIdentityCredential(
      `${this.name}-trust`,
      {
        resourceGroupName: site.resourceGroupName,
        resourceName: identity.name,
        federatedIdentityCredentialResourceName: `${serviceAccount.namespace}-${serviceAccount.name}`,
        issuer,
        subject: `system:serviceaccount:${serviceAccount.namespace}:${serviceAccount.name}`,
        audiences: [AUDIENCE],
      },
      { parent: this },
    );
  }
}
