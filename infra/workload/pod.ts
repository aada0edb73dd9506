import type { core, meta } from "@pulumi/kubernetes/types/input.js";
import type { Input, Output } from "@pulumi/pulumi";
import { CONTAINER_USER, PORTS, WORKSPACE_PATH } from "./container.ts";
import type { Environment } from "./environment.ts";
import type { ServerImage } from "./image.ts";
import type { Workspace } from "./workspace.ts";

/**
 * Seconds that the kubelet waits beyond a process's own grace before it kills it: closing connections and flushing
 * telemetry.
 */
const MARGIN = 10;

export interface PodArgs {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly serviceAccount: Output<string>;
  readonly priorityClass: Input<string>;
  readonly image: Pick<ServerImage, "reference">;
  /** The process behind the image's entry point: `main.js`, `worker.js`. */
  readonly program: string;
  readonly environment: Environment;
  readonly workspace: Workspace;
  readonly resources: core.v1.ResourceRequirements;
  /** SHUTDOWN_GRACE_SECONDS. */
  readonly graceSeconds: number;
}

/** A pod of the server's image, as Pod Security "restricted" wants it, spread over zones and nodes. */
export function podTemplate(args: PodArgs): core.v1.PodTemplateSpec {
  const metadata: meta.v1.ObjectMeta = {
    labels: { ...args.labels, "azure.workload.identity/use": "true" },
    annotations: { "mcp-on-aks/environment": args.environment.checksum },
  };
  return { metadata, spec: podSpec(args) };
}

function podSpec(args: PodArgs): core.v1.PodSpec {
  const { environment, workspace } = args;
  return {
    serviceAccountName: args.serviceAccount,
    // Nothing in here calls the Kubernetes API; the token for Entra is a volume of its own.
    automountServiceAccountToken: false,
    // The environment is the server's contract, not a list of the namespace's Services.
    enableServiceLinks: false,
    priorityClassName: args.priorityClass,
    terminationGracePeriodSeconds: args.graceSeconds + MARGIN,
    securityContext: {
      runAsNonRoot: true,
      runAsUser: CONTAINER_USER,
      runAsGroup: CONTAINER_USER,
      // Makes the workspace's files the group's.
      fsGroup: CONTAINER_USER,
      fsGroupChangePolicy: "OnRootMismatch",
      seccompProfile: { type: "RuntimeDefault" },
    },
    topologySpreadConstraints: ["topology.kubernetes.io/zone", "kubernetes.io/hostname"].map((topologyKey) => ({
      topologyKey,
      maxSkew: 1,
      // Better two replicas on one node than one replica and a pending one.
      whenUnsatisfiable: "ScheduleAnyway",
      // Nodes that the pods cannot run on are not places to spread to.
      nodeTaintsPolicy: "Honor",
      labelSelector: { matchLabels: args.labels },
      matchLabelKeys: ["pod-template-hash"],
    })),
    containers: [
      {
        name: args.name,
        image: args.image.reference,
        // Arguments and no command: the image's entry point stays process 1 and reaps what tools' commands leave behind,
        // which Node would keep as zombies.
        args: ["node", args.program],
        envFrom: [
          { configMapRef: { name: environment.configMap.metadata.name } },
          { secretRef: { name: environment.secret.metadata.name } },
        ],
        ports: [
          { name: "http", containerPort: PORTS.http, protocol: "TCP" },
          { name: "metrics", containerPort: PORTS.metrics, protocol: "TCP" },
        ],
        // Two minutes for a cold start; after it, only a process that no longer answers at all is restarted.
        startupProbe: probe("/health/live", { periodSeconds: 2, failureThreshold: 60 }),
        livenessProbe: probe("/health/live", { periodSeconds: 10, failureThreshold: 6 }),
        readinessProbe: probe("/health/ready", { periodSeconds: 5, failureThreshold: 2 }),
        resources: args.resources,
        securityContext: {
          allowPrivilegeEscalation: false,
          privileged: false,
          readOnlyRootFilesystem: true,
          runAsNonRoot: true,
          capabilities: { drop: ["ALL"] },
          seccompProfile: { type: "RuntimeDefault" },
        },
        volumeMounts: [
          { name: workspace.volumeName, mountPath: WORKSPACE_PATH },
          { name: "tmp", mountPath: "/tmp" },
        ],
      },
    ],
    volumes: [workspace.volume, { name: "tmp", emptyDir: { sizeLimit: "1Gi" } }],
  };
}

function probe(path: string, { periodSeconds, failureThreshold }: { periodSeconds: number; failureThreshold: number }) {
  return { httpGet: { path, port: "http" }, timeoutSeconds: 3, periodSeconds, failureThreshold };
}
