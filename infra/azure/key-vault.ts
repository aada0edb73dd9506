import type { RoleAssignment } from "@pulumi/azure-native/authorization/index.js";
import { Secret, Vault, type VaultArgs } from "@pulumi/azure-native/keyvault/index.js";
import {
  ComponentResource,
  type ComponentResourceOptions,
  type Input,
  type Output,
  secret,
  type Unwrap,
} from "@pulumi/pulumi";
import { globalName } from "../naming.ts";
import type { Settings } from "../settings.ts";
import type { Network } from "./network.ts";
import type { Principal } from "./principal.ts";
import { onceReachable, PrivateEndpoint } from "./private-endpoint.ts";
import { assignRole } from "./role-assignment.ts";
import type { Site } from "./site.ts";
import { ALL_METRICS, type Telemetry } from "./telemetry.ts";

export interface KeyVaultArgs {
  readonly site: Site;
  readonly settings: Pick<Settings, "keyVault" | "managementPlanes">;
  readonly telemetry: Telemetry;
  readonly network: Pick<Network, "nodeSubnetId" | "privateLink">;
}

/** Where the stack's secrets are. Below 1 USD a month. */
export class KeyVault extends ComponentResource {
  readonly name: Output<string>;
  /** `https://<name>.vault.azure.net/` */
  readonly uri: Output<string>;

  readonly #site: Site;
  readonly #vault: Vault;

  constructor(name: string, args: KeyVaultArgs, opts?: ComponentResourceOptions) {
    super("mcp:azure:KeyVault", name, {}, opts);
    this.#site = args.site;
    this.#vault = this.#createVault(name, args);
    const { privateLink } = args.network;
    const endpoint =
      privateLink &&
      new PrivateEndpoint(
        `${name}-link`,
        { site: args.site, link: privateLink, service: "vault", targetId: this.#vault.id },
        { parent: this },
      );
    args.telemetry.collect(name, this.#vault.id, ["AuditEvent"], [ALL_METRICS]);
    for (const admin of args.site.admins) this.#grant(admin, "key-vault-secrets-officer");

    this.name = this.#vault.name;
    this.uri = onceReachable(
      this.#vault.properties.apply(({ vaultUri }) => vaultUri ?? ""),
      endpoint,
    );
    this.registerOutputs({ name: this.name, uri: this.uri });
  }

  /**
   * Keeps a secret. It is written through the management plane, which a closed vault still answers and for which being
   * Contributor is enough; its value is never read back (first-deployment failure 10).
   */
  addSecret(name: string, value: Input<string>): Secret {
    return new Secret(
      `secret-${name}`,
      {
        resourceGroupName: this.#site.resourceGroupName,
        vaultName: this.#vault.name,
        secretName: name,
        properties: { value: secret(value), attributes: { enabled: true } },
        tags: this.#site.tags,
      },
      {
        parent: this,
        // Goes with its vault. Deleting it alone would need the data plane, its role and a way into the network, and
        // would leave its name held for the vault's retention.
        retainOnDelete: true,
      },
    );
  }

  /** Lets `principal` read the secrets' values, and nothing else. */
  grantReadSecrets(principal: Principal): RoleAssignment {
    return this.#grant(principal, "key-vault-secrets-user");
  }

  #createVault(name: string, { site, settings, network }: KeyVaultArgs): Vault {
    const { retentionDays, purgeProtection } = settings.keyVault;
    return new Vault(
      name,
      {
        resourceGroupName: site.resourceGroupName,
        vaultName: site.suffix.apply((suffix) => globalName("keyVault", site.parts, suffix)),
        location: site.location,
        tags: site.tags,
        properties: {
          tenantId: site.tenantId,
          sku: { family: "A", name: "standard" },
          // Azure RBAC, not access policies, which nobody's role review shows.
          enableRbacAuthorization: true,
          enableSoftDelete: true,
          softDeleteRetentionInDays: retentionDays,
          // true or absent: Azure refuses false, and true cannot be taken back.
          enablePurgeProtection: purgeProtection ? true : undefined,
          // Ways for Azure's own services to read secrets; none of them is used here.
          enabledForDeployment: false,
          enabledForDiskEncryption: false,
          enabledForTemplateDeployment: false,
          ...networkAccess(settings.managementPlanes, network),
          // createMode stays unset: "recover" fails when no deleted vault has the name.
        },
      },
      { parent: this, protect: site.protect },
    );
  }

  #grant(principal: Principal, role: "key-vault-secrets-officer" | "key-vault-secrets-user"): RoleAssignment {
    return assignRole(
      { site: this.#site, principal, role, on: { name: "vault", id: this.#vault.id } },
      { parent: this },
    );
  }
}

type Access = Pick<Unwrap<VaultArgs["properties"]>, "publicNetworkAccess"> & {
  networkAcls: {
    bypass: "AzureServices";
    defaultAction: "Allow" | "Deny";
    ipRules: { value: string }[];
    virtualNetworkRules: { id: Input<string>; ignoreMissingVnetServiceEndpoint: boolean }[];
  };
};

/** Who reaches the vault. */
function networkAccess(planes: Settings["managementPlanes"], network: KeyVaultArgs["network"]): Access {
  // Secrets arrive through Azure Resource Manager, a trusted service. Being let through is not being let in: every
  // caller still needs a role.
  const bypass = "AzureServices";
  // The cluster's own way in, where no private endpoint is.
  const nodes = network.privateLink ? [] : [{ id: network.nodeSubnetId, ignoreMissingVnetServiceEndpoint: false }];
  switch (planes.access) {
    case "private":
      return {
        publicNetworkAccess: "Disabled",
        networkAcls: { bypass, defaultAction: "Deny", ipRules: [], virtualNetworkRules: [] },
      };
    case "ranges":
      return {
        publicNetworkAccess: "Enabled",
        networkAcls: {
          bypass,
          defaultAction: "Deny",
          ipRules: planes.ranges.map((value) => ({ value })),
          virtualNetworkRules: nodes,
        },
      };
    case "public":
      return {
        publicNetworkAccess: "Enabled",
        networkAcls: { bypass, defaultAction: "Allow", ipRules: [], virtualNetworkRules: [] },
      };
  }
}
