import { PersistentVolume, PersistentVolumeClaim } from "@pulumi/kubernetes/core/v1/index.js";
import type { core } from "@pulumi/kubernetes/types/input.js";
import { ComponentResource, type ComponentResourceOptions, interpolate } from "@pulumi/pulumi";
import type { Storage } from "../azure/storage.ts";
import type { Settings } from "../settings.ts";
import type { WorkloadNamespace } from "./namespace.ts";

const NAME = "workspace";

/** Azure Files' CSI driver, part of every AKS node. */
const DRIVER = "file.csi.azure.com";

/** Room for scratch files on a node's disk, which the pod shares with its neighbours. */
const EMPTY_DIR_LIMIT = "10Gi";

export interface WorkspaceArgs {
  readonly settings: Settings["workspace"];
  /** The NFS share, where the settings ask for one. */
  readonly share: Storage["workspaceShare"];
  readonly namespace: WorkloadNamespace;
}

/**
 * Where tools keep files: one NFS share for every replica of server and worker, or a directory that lives and dies
 * with its pod. The share is counted with the storage account.
 */
export class Workspace extends ComponentResource {
  /** What a container names to mount it. */
  readonly volumeName = NAME;
  /** What a pod mounts. The volume belongs to the group that the pod names as its `fsGroup`. */
  readonly volume: core.v1.Volume;
  /** The claim behind it, when there is a share. */
  readonly claim?: PersistentVolumeClaim;

  constructor(name: string, { settings, share, namespace }: WorkspaceArgs, options: ComponentResourceOptions) {
    super("mcp:workload:Workspace", name, {}, options);
    if (share) {
      this.claim = this.#claimShare(
        this.#describeShare(share, settings.sizeGiB, namespace),
        settings.sizeGiB,
        namespace,
      );
      this.volume = { name: NAME, persistentVolumeClaim: { claimName: this.claim.metadata.name } };
    } else {
      this.volume = { name: NAME, emptyDir: { sizeLimit: EMPTY_DIR_LIMIT } };
    }
    this.registerOutputs({});
  }

  /**
   * NFS, because the network admits the nodes and nothing has to hold a key: mounting over SMB takes the account's key
   * as a Secret.
   */
  #describeShare(
    share: NonNullable<Storage["workspaceShare"]>,
    sizeGiB: number,
    namespace: WorkloadNamespace,
  ): PersistentVolume {
    return new PersistentVolume(
      NAME,
      {
        metadata: { name: `mcp-${NAME}` },
        spec: {
          capacity: { storage: `${sizeGiB}Gi` },
          accessModes: ["ReadWriteMany"],
          // The share is Pulumi's to delete, not the driver's.
          persistentVolumeReclaimPolicy: "Retain",
          storageClassName: "",
          // For this claim and no other.
          claimRef: { apiVersion: "v1", kind: "PersistentVolumeClaim", namespace: namespace.name, name: NAME },
          // Microsoft, "Improve performance for NFS Azure file shares"; attributes may be half a minute old.
          mountOptions: ["nconnect=4", "noresvport", "actimeo=30"],
          csi: {
            driver: DRIVER,
            // Any text that no other volume of the cluster has; this form the driver can also read.
            volumeHandle: interpolate`${share.resourceGroupName}#${share.accountName}#${share.shareName}`,
            volumeAttributes: {
              resourceGroup: share.resourceGroupName,
              storageAccount: share.accountName,
              shareName: share.shareName,
              protocol: "nfs",
              // A new share belongs to root. The driver opens it to the pod's fsGroup, and to nobody else.
              mountPermissions: "0770",
              fsGroupChangePolicy: "OnRootMismatch",
            },
          },
        },
      },
      { parent: this },
    );
  }

  #claimShare(volume: PersistentVolume, sizeGiB: number, namespace: WorkloadNamespace): PersistentVolumeClaim {
    return new PersistentVolumeClaim(
      NAME,
      {
        metadata: { name: NAME, namespace: namespace.name },
        spec: {
          accessModes: ["ReadWriteMany"],
          // Empty and not absent: the default class would make another volume.
          storageClassName: "",
          volumeName: volume.metadata.name,
          resources: { requests: { storage: `${sizeGiB}Gi` } },
        },
      },
      { parent: this },
    );
  }
}
