import { Namespace, ServiceAccount } from "@pulumi/kubernetes/core/v1/index.js";
import { ComponentResource, type ComponentResourceOptions, type Output } from "@pulumi/pulumi";
import type { WorkloadIdentity } from "../azure/workload-identity.ts";
import { podSecurity } from "../platform/pod-security.ts";

const NAMESPACE = "mcp-system";

/** Who the server is in the cluster: its ServiceAccount, and so the subject its identity is federated with. */
export const MCP_SERVER = { namespace: NAMESPACE, name: "mcp-server" } as const;
/** The same for the job worker. */
export const JOB_WORKER = { namespace: NAMESPACE, name: "job-worker" } as const;

const PART_OF = { "app.kubernetes.io/part-of": "mcp-on-aks" };

/**
 * Labels of the workloads' pods. Policies select by component, which stays the same on the copies of a gradual
 * rollout, whose names change.
 */
export const SERVER_LABELS = {
  ...PART_OF,
  "app.kubernetes.io/name": MCP_SERVER.name,
  "app.kubernetes.io/component": "server",
};
export const WORKER_LABELS = {
  ...PART_OF,
  "app.kubernetes.io/name": JOB_WORKER.name,
  "app.kubernetes.io/component": "worker",
};

export interface WorkloadNamespaceArgs {
  /** Federated with {@link MCP_SERVER}. */
  readonly server: Pick<WorkloadIdentity, "clientId">;
  /** Federated with {@link JOB_WORKER}. */
  readonly worker: Pick<WorkloadIdentity, "clientId">;
}

/** The product's namespace, and in it the accounts that carry the workloads' identities. */
export class WorkloadNamespace extends ComponentResource {
  readonly name: Output<string>;
  /** ServiceAccount of the server's pods. */
  readonly serverAccount: Output<string>;
  /** ServiceAccount of the worker's pods. */
  readonly workerAccount: Output<string>;

  constructor(name: string, args: WorkloadNamespaceArgs, options: ComponentResourceOptions) {
    super("mcp:workload:WorkloadNamespace", name, {}, options);
    const namespace = this.#createNamespace();
    this.name = namespace.metadata.name;
    this.serverAccount = this.#createAccount(MCP_SERVER.name, args.server);
    this.workerAccount = this.#createAccount(JOB_WORKER.name, args.worker);
    this.registerOutputs({ name: this.name });
  }

  #createNamespace(): Namespace {
    return new Namespace(
      NAMESPACE,
      { metadata: { name: NAMESPACE, labels: podSecurity("restricted") } },
      { parent: this },
    );
  }

  /** No token for the Kubernetes API, which neither calls; the one for Entra comes as a volume of its own. */
  #createAccount(name: string, { clientId }: WorkloadNamespaceArgs["server"]): Output<string> {
    const account = new ServiceAccount(
      name,
      {
        metadata: {
          name,
          namespace: this.name,
          annotations: { "azure.workload.identity/client-id": clientId },
        },
        automountServiceAccountToken: false,
      },
      { parent: this },
    );
    return account.metadata.name;
  }
}
