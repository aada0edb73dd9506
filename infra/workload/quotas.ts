import { LimitRange, ResourceQuota } from "@pulumi/kubernetes/core/v1/index.js";
import { PriorityClass } from "@pulumi/kubernetes/scheduling/v1/index.js";
import { ComponentResource, type ComponentResourceOptions, type Output } from "@pulumi/pulumi";
import type { Settings } from "../settings.ts";
import { JOB_WORKER, MCP_SERVER, type WorkloadNamespace } from "./namespace.ts";
import { SERVER_RESOURCES, WORKER_RESOURCES } from "./sizes.ts";

/**
 * Who goes first where nodes are full. The server has the priority of pods without a class, and so of its Gateway, which
 * it is nothing without: neither may evict the other. Workers come after everybody: a pod that finds no room takes a
 * worker's, which hands its jobs back. Below -10 the cluster autoscaler would make no node for them.
 */
const PRIORITIES = { server: 0, worker: -1 } as const;

/** Pods for each one that the settings allow: while a new one starts, the one before it may still be finishing. */
const GENERATIONS = 2;

export interface QuotasArgs {
  readonly settings: Pick<Settings, "server" | "jobs">;
  readonly namespace: WorkloadNamespace;
}

type Resources = typeof SERVER_RESOURCES | typeof WORKER_RESOURCES;

/**
 * What the server and the workers may take of the cluster, each for itself, so that no number of workers takes what is
 * the server's. Free.
 */
export class Quotas extends ComponentResource {
  /** For the server's pods. */
  readonly serverPriority: Output<string>;
  /** For the workers' pods. */
  readonly workerPriority: Output<string>;

  constructor(name: string, args: QuotasArgs, options: ComponentResourceOptions) {
    super("mcp:workload:Quotas", name, {}, options);
    this.serverPriority = this.#createPriority(MCP_SERVER.name, PRIORITIES.server, "MCP server");
    this.workerPriority = this.#createPriority(JOB_WORKER.name, PRIORITIES.worker, "Job workers: they give way");
    const { server, jobs } = args.settings;
    this.#bound(args.namespace, MCP_SERVER.name, this.serverPriority, server.replicas.max, SERVER_RESOURCES);
    if (jobs.workers) {
      this.#bound(args.namespace, JOB_WORKER.name, this.workerPriority, jobs.workers.max, WORKER_RESOURCES);
    }
    this.#boundContainers(args.namespace);
    this.registerOutputs({});
  }

  #createPriority(name: string, value: number, description: string): Output<string> {
    const priority = new PriorityClass(
      name,
      {
        metadata: { name },
        value,
        description,
        globalDefault: false,
        // Workers wait for room, or for the next node; they take nobody's.
        preemptionPolicy: value < 0 ? "Never" : "PreemptLowerPriority",
      },
      { parent: this },
    );
    return priority.metadata.name;
  }

  /** A quota of pods by their priority class: each kind of pod counts against its own. */
  #bound(
    namespace: WorkloadNamespace,
    name: string,
    priority: Output<string>,
    most: number,
    { requests, limits }: Resources,
  ): void {
    const pods = most * GENERATIONS;
    new ResourceQuota(
      name,
      {
        metadata: { name, namespace: namespace.name },
        spec: {
          hard: {
            pods: String(pods),
            "requests.cpu": times(requests.cpu, pods),
            "requests.memory": times(requests.memory, pods),
            "limits.memory": times(limits.memory, pods),
          },
          scopeSelector: {
            matchExpressions: [{ scopeName: "PriorityClass", operator: "In", values: [priority] }],
          },
        },
      },
      { parent: this },
    );
  }

  /** What a container gets that does not say, such as one for debugging, and the most that any may ask for. */
  #boundContainers(namespace: WorkloadNamespace): void {
    new LimitRange(
      "containers",
      {
        metadata: { name: "containers", namespace: namespace.name },
        spec: {
          limits: [
            {
              type: "Container",
              defaultRequest: { cpu: "50m", memory: "64Mi" },
              default: { cpu: "500m", memory: "256Mi" },
              max: { cpu: WORKER_RESOURCES.limits.cpu, memory: WORKER_RESOURCES.limits.memory },
            },
          ],
        },
      },
      { parent: this },
    );
  }
}

/** `times("250m", 4)` is `1000m`. */
function times(quantity: string, count: number): string {
  const [, number = "", unit = ""] = /^(\d+)(m|Mi|Gi)?$/.exec(quantity) ?? [];
  return `${Number(number) * count}${unit}`;
}
