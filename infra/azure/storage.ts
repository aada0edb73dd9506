import {
  BlobContainer,
  FileShare,
  ManagementPolicy,
  StorageAccount,
  type StorageAccountArgs,
  Table,
} from "@pulumi/azure-native/storage/index.js";
import { ComponentResource, type ComponentResourceOptions, interpolate, type Output } from "@pulumi/pulumi";
import { storageName } from "../naming.ts";
import type { Settings } from "../settings.ts";
import type { Network } from "./network.ts";
import type { Principal } from "./principal.ts";
import { onceReachable, PrivateEndpoint } from "./private-endpoint.ts";
import { assignRole, type RoleGrant, type RoleName } from "./role-assignment.ts";
import type { Site } from "./site.ts";

/** Table names: letters and digits, 3 to 63. */
export const JOB_TABLE = "jobs";
/** Arguments and results of jobs that are too long for a row. */
export const JOB_CONTAINER = "jobs";
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

/**
 * Days that blobs of jobs are kept beyond the retention, which the server sees to itself. It counts from a job's end and
 * blobs from their writing: a week of deadline is between the two, and as often again as somebody replays a dead job.
 */
const BLOB_MARGIN_DAYS = 30;

export interface StorageArgs {
  readonly site: Site;
  readonly settings: Pick<Settings, "workspace" | "cluster" | "jobs" | "managementPlanes">;
  readonly network: Pick<Network, "nodeSubnetId" | "privateLink">;
}

/** An NFS share, as the file CSI driver names it. */
export interface WorkspaceShare {
  readonly resourceGroupName: Output<string>;
  readonly accountName: Output<string>;
  readonly shareName: Output<string>;
}

/**
 * Job state in a table and a blob container, the tools' workspace on an NFS share: 16 to 20 USD a month for 100 GiB, the
 * table next to nothing, blobs 0.02 a GB.
 */
export class Storage extends ComponentResource {
  /** `https://<account>.table.core.windows.net` */
  readonly tableEndpoint: Output<string>;
  readonly tableName: Output<string>;
  /** `https://<account>.blob.core.windows.net` */
  readonly blobEndpoint: Output<string>;
  readonly containerName: Output<string>;
  /** Absent when the workspace is an emptyDir. */
  readonly workspaceShare?: WorkspaceShare;

  readonly #name: string;
  readonly #args: StorageArgs;
  readonly #table: Table;
  readonly #container: BlobContainer;

  constructor(name: string, args: StorageArgs, opts?: ComponentResourceOptions) {
    super("mcp:azure:Storage", name, {}, opts);
    this.#name = name;
    this.#args = args;
    const jobs = this.#createAccount("job", {
      kind: "StorageV2",
      sku: { name: args.settings.cluster.zones.length > 0 ? "Standard_ZRS" : "Standard_LRS" },
      accessTier: "Hot",
      enableHttpsTrafficOnly: true,
      ...jobAccess(args),
    });
    this.#table = this.#createTable(jobs);
    this.#container = this.#createContainer(jobs);
    this.#deleteOldBlobs(jobs);
    const endpoint = (service: "table" | "blob") =>
      onceReachable(interpolate`https://${jobs.name}.${service}.core.windows.net`, this.#linkTo(jobs, service));
    this.tableEndpoint = endpoint("table");
    this.tableName = this.#table.name;
    this.blobEndpoint = endpoint("blob");
    this.containerName = this.#container.name;
    this.workspaceShare = args.settings.workspace.kind === "nfs" ? this.#createWorkspace() : undefined;
    this.registerOutputs({ tableEndpoint: this.tableEndpoint, blobEndpoint: this.blobEndpoint });
  }

  /** Lets `principal` read and write rows of the job table and blobs of the job container, and nothing else. */
  grantJobState(principal: Principal): void {
    const grant = (role: RoleName, on: RoleGrant["on"]) =>
      assignRole({ site: this.#args.site, principal, role, on }, { parent: this });
    grant("storage-table-data-contributor", { name: "job-table", id: this.#table.id });
    grant("storage-blob-data-contributor", { name: "job-container", id: this.#container.id });
  }

  /**
   * A second account, for premium file storage holds no tables. NFS rather than SMB, because it needs no account key:
   * who reaches the subnet's way in may mount, and nobody else.
   */
  #createWorkspace(): WorkspaceShare {
    const { site, settings, network } = this.#args;
    const account = this.#createAccount("wsp", {
      kind: "FileStorage",
      sku: { name: settings.cluster.zones.length > 0 ? "Premium_ZRS" : "Premium_LRS" },
      // NFS has no TLS of its own, and Azure refuses to mount while this is on. Packets stay within the network.
      enableHttpsTrafficOnly: false,
      // Who reaches it may mount it. The share itself is created through the management plane.
      ...nodesAlone(network, "None"),
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
    args: Pick<StorageAccountArgs, "kind" | "sku" | "accessTier" | "enableHttpsTrafficOnly"> & NetworkAccess,
  ): StorageAccount {
    const { site } = this.#args;
    return new StorageAccount(
      `${this.#name}-${purpose}`,
      {
        resourceGroupName: site.resourceGroupName,
        accountName: site.suffix.apply((suffix) => storageName(purpose, site.parts, suffix)),
        location: site.location,
        tags: site.tags,
        ...args,
        ...ENTRA_ONLY,
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

  #createContainer(account: StorageAccount): BlobContainer {
    const { site } = this.#args;
    return new BlobContainer(
      `${this.#name}-job-blobs`,
      {
        resourceGroupName: site.resourceGroupName,
        accountName: account.name,
        containerName: JOB_CONTAINER,
        publicAccess: "None",
      },
      { parent: this, protect: site.protect },
    );
  }

  /** What workers were to remove, and did not: a backstop, for what callers gave and got must not lie here for ever. */
  #deleteOldBlobs(account: StorageAccount): void {
    const { site, settings } = this.#args;
    new ManagementPolicy(
      `${this.#name}-job-retention`,
      {
        resourceGroupName: site.resourceGroupName,
        accountName: account.name,
        managementPolicyName: "default",
        policy: {
          rules: [
            {
              name: "old-jobs",
              type: "Lifecycle",
              enabled: true,
              definition: {
                filters: { blobTypes: ["blockBlob"], prefixMatch: [`${JOB_CONTAINER}/`] },
                actions: {
                  baseBlob: {
                    delete: { daysAfterModificationGreaterThan: settings.jobs.retentionDays + BLOB_MARGIN_DAYS },
                  },
                },
              },
            },
          ],
        },
      },
      { parent: this },
    );
  }

  #linkTo(account: StorageAccount, service: "table" | "blob" | "file"): PrivateEndpoint | undefined {
    const { site, network } = this.#args;
    if (network.privateLink === undefined) return undefined;
    return new PrivateEndpoint(
      `${this.#name}-${service}-link`,
      { site, link: network.privateLink, service, targetId: account.id },
      { parent: this },
    );
  }
}

type NetworkAccess = Required<Pick<StorageAccountArgs, "publicNetworkAccess" | "networkRuleSet">>;
type Bypass = "None" | "AzureServices";

/** Nobody but the cluster's nodes: by their subnet, or by private endpoints. */
function nodesAlone(network: StorageArgs["network"], bypass: Bypass, ranges: readonly string[] = []): NetworkAccess {
  return {
    publicNetworkAccess: network.privateLink ? "Disabled" : "Enabled",
    networkRuleSet: {
      defaultAction: "Deny",
      bypass,
      ipRules: network.privateLink
        ? []
        : ranges.flatMap(storageRanges).map((iPAddressOrRange) => ({ action: "Allow", iPAddressOrRange })),
      virtualNetworkRules: network.privateLink
        ? []
        : [{ virtualNetworkResourceId: network.nodeSubnetId, action: "Allow" }],
    },
  };
}

/**
 * Who reaches the state of jobs: the nodes, and whoever operates the stack (`mcp-aks jobs`), from where the settings say
 * that it is managed. Being let through is not being let in: every caller still needs a role.
 */
function jobAccess({ settings: { managementPlanes }, network }: StorageArgs): NetworkAccess {
  // What deletes blobs after their time is one of Azure's trusted services; the rules would keep it out.
  const bypass = "AzureServices";
  if (network.privateLink || managementPlanes.access !== "public") {
    return nodesAlone(network, bypass, managementPlanes.access === "ranges" ? managementPlanes.ranges : []);
  }
  return {
    publicNetworkAccess: "Enabled",
    networkRuleSet: { defaultAction: "Allow", bypass, ipRules: [], virtualNetworkRules: [] },
  };
}

/** Storage takes no /31 and no /32 ("Configure Azure Storage firewalls"): one address or two stand by themselves. */
function storageRanges(range: string): string[] {
  const [address = "", bits] = range.split("/");
  if (bits === "32") return [address];
  if (bits !== "31") return [range];
  const last = address.lastIndexOf(".") + 1;
  return [address, `${address.slice(0, last)}${Number(address.slice(last)) + 1}`];
}
