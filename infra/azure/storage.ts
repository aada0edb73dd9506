import type { RoleAssignment } from "@pulumi/azure-native/authorization/index.js";
import { FileShare, StorageAccount, type StorageAccountArgs, Table } from "@pulumi/azure-native/storage/index.js";
import { ComponentResource, type ComponentResourceOptions, interpolate, type Output } from "@pulumi/pulumi";
import { storageName } from "../naming.ts";
import type { Settings } from "../settings.ts";
import type { Network } from "./network.ts";
import type { Principal } from "./principal.ts";
import { onceReachable, PrivateEndpoint } from "./private-endpoint.ts";
import { assignRole } from "./role-assignment.ts";
import type { Site } from "./site.ts";

/** Table names: letters and digits, 3 to 63. */
export const JOB_TABLE = "jobs";
export const WORKSPACE_SHARE = "workspace";

/** What every storage account refuses. */
export const ENTRA_ONLY = {
  minimumTlsVersion: "TLS1_2",
  // Entra identities only: account keys open everything in the account to whoever holds them.
  allowSharedKeyAccess: false,
  defaultToOAuthAuthentication: true,
  allowBlobPublicAccess: false,
  allowCrossTenantReplication: false,
  isLocalUserEnabled: false,
  isSftpEnabled: false,
} as const;

export interface StorageArgs {
  readonly site: Site;
  readonly settings: Pick<Settings, "workspace" | "cluster">;
  readonly network: Pick<Network, "nodeSubnetId" | "privateLink">;
}

/** An NFS share, as the file CSI driver names it. */
export interface WorkspaceShare {
  readonly resourceGroupName: Output<string>;
  readonly accountName: Output<string>;
  readonly shareName: Output<string>;
}

/** Job state in a table, the tools' workspace on an NFS share: 16 to 20 USD a month for 100 GiB, the table next to nothing. */
export class Storage extends ComponentResource {
  /** `https://<account>.table.core.windows.net` */
  readonly tableEndpoint: Output<string>;
  readonly tableName: Output<string>;
  /** Absent when the workspace is an emptyDir. */
  readonly workspaceShare?: WorkspaceShare;

  readonly #name: string;
  readonly #args: StorageArgs;
  readonly #table: Table;

  constructor(name: string, args: StorageArgs, opts?: ComponentResourceOptions) {
    super("mcp:azure:Storage", name, {}, opts);
    this.#name = name;
    this.#args = args;
    const jobs = this.#createAccount("job", {
      kind: "StorageV2",
      sku: { name: args.settings.cluster.zones.length > 0 ? "Standard_ZRS" : "Standard_LRS" },
      accessTier: "Hot",
      enableHttpsTrafficOnly: true,
    });
    this.#table = this.#createTable(jobs);
    this.tableEndpoint = onceReachable(
      interpolate`https://${jobs.name}.table.core.windows.net`,
      this.#linkTo(jobs, "table"),
    );
    this.tableName = this.#table.name;
    this.workspaceShare = args.settings.workspace.kind === "nfs" ? this.#createWorkspace() : undefined;
    this.registerOutputs({ tableEndpoint: this.tableEndpoint, tableName: this.tableName });
  }

  /** Lets `principal` read and write rows of the job table, and nothing else. */
  grantJobState(principal: Principal): RoleAssignment {
    return assignRole(
      {
        site: this.#args.site,
        principal,
        role: "storage-table-data-contributor",
        on: { name: "job-table", id: this.#table.id },
      },
      { parent: this },
    );
  }

  /**
   * A second account, for premium file storage holds no tables. NFS rather than SMB, because it needs no account key:
   * who reaches the subnet's way in may mount, and nobody else.
   */
  #createWorkspace(): WorkspaceShare {
    const { site, settings } = this.#args;
    const account = this.#createAccount("wsp", {
      kind: "FileStorage",
      sku: { name: settings.cluster.zones.length > 0 ? "Premium_ZRS" : "Premium_LRS" },
      // NFS has no TLS of its own, and Azure refuses to mount while this is on. Packets stay within the network.
      enableHttpsTrafficOnly: false,
    });
    const share = new FileShare(
      `${this.#name}-workspace`,
      {
        resourceGroupName: site.resourceGroupName,
        accountName: account.name,
        shareName: WORKSPACE_SHARE,
        shareQuota: settings.workspace.sizeGiB,
        enabledProtocols: "NFS",
        // The CSI driver sets the root directory's mode, as root, when it mounts. Pods never are root: Pod Security
        // "restricted" holds in their namespace.
        rootSquash: "NoRootSquash",
      },
      { parent: this, protect: site.protect },
    );
    return {
      resourceGroupName: site.resourceGroupName,
      accountName: account.name,
      shareName: onceReachable(share.name, this.#linkTo(account, "file")),
    };
  }

  #createAccount(
    purpose: "job" | "wsp",
    args: Pick<StorageAccountArgs, "kind" | "sku" | "accessTier" | "enableHttpsTrafficOnly">,
  ): StorageAccount {
    const { site, network } = this.#args;
    return new StorageAccount(
      `${this.#name}-${purpose}`,
      {
        resourceGroupName: site.resourceGroupName,
        accountName: site.suffix.apply((suffix) => storageName(purpose, site.parts, suffix)),
        location: site.location,
        tags: site.tags,
        ...args,
        ...ENTRA_ONLY,
        // Nobody but the cluster uses the data, in no stack: table and share are created through the management plane.
        publicNetworkAccess: network.privateLink ? "Disabled" : "Enabled",
        networkRuleSet: {
          defaultAction: "Deny",
          bypass: "None",
          ipRules: [],
          virtualNetworkRules: network.privateLink
            ? []
            : [{ virtualNetworkResourceId: network.nodeSubnetId, action: "Allow" }],
        },
      },
      { parent: this, protect: site.protect },
    );
  }

  #createTable(account: StorageAccount): Table {
    const { site } = this.#args;
    return new Table(
      `${this.#name}-jobs`,
      { resourceGroupName: site.resourceGroupName, accountName: account.name, tableName: JOB_TABLE },
      { parent: this, protect: site.protect },
    );
  }

  #linkTo(account: StorageAccount, service: "table" | "file"): PrivateEndpoint | undefined {
    const { site, network } = this.#args;
    if (network.privateLink === undefined) return undefined;
    return new PrivateEndpoint(
      `${this.#name}-${service}-link`,
      { site, link: network.privateLink, service, targetId: account.id },
      { parent: this },
    );
  }
}
