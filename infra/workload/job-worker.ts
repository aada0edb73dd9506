import type { IScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";
import type { ITriggerAuthentication } from "@kubernetes-models/keda/keda.sh/v1alpha1/TriggerAuthentication";
import type { IPodMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor";
import { Deployment } from "@pulumi/kubernetes/apps/v1/index.js";
import { PodDisruptionBudget } from "@pulumi/kubernetes/policy/v1/index.js";
import { ComponentResource, type ComponentResourceOptions, type Input } from "@pulumi/pulumi";
import type { WorkerEnvironment } from "../../server/config.ts";
import type { ServiceBus } from "../azure/service-bus.ts";
import { customResource } from "../platform/custom-resource.ts";
import type { Range, Settings } from "../settings.ts";
import {
  type Backing,
  createEnvironment,
  type Environment,
  type JobQueues,
  queueVariables,
  toolVariables,
} from "./environment.ts";
import type { ServerImage } from "./image.ts";
import { JOB_WORKER, WORKER_LABELS, type WorkloadNamespace } from "./namespace.ts";
import { podTemplate } from "./pod.ts";
import type { Quotas } from "./quotas.ts";
import { WORKER_RESOURCES, WORKER_SCALING } from "./sizes.ts";
import type { Workspace } from "./workspace.ts";

const NAME = JOB_WORKER.name;

/** A Deployment's selector can never be changed, so it is no more than the name. */
const SELECTOR = { "app.kubernetes.io/name": NAME };

/**
 * Seconds from SIGTERM for jobs to end in. Together with the pod's margin it is what the cluster autoscaler grants a pod
 * on a node that it empties: ten minutes (AKS, "Cluster autoscaler profile", max-graceful-termination-sec); an upgrade
 * grants thirty.
 */
const GRACE = 590;

/** Jobs may take long: nobody holds a connection open for them. Seconds, of a command and of all its processes' CPU. */
const COMMAND_TIMEOUT = 1800;
const COMMAND_CPU = 3600;

/** Failures in a row of asking for a queue's length before KEDA stops believing that it will get an answer. */
const FAILED_POLLS = 3;
/** Then there are as many workers as there were, and at least this share of the most. */
const FALLBACK_SHARE = 5;

/** The first worker may have to wait for the autoscaler's next node. */
const FIRST_POD = { create: "15m", update: "15m" };

export interface JobWorkerArgs {
  readonly settings: Pick<Settings, "server" | "jobs">;
  readonly workers: Range;
  readonly namespace: WorkloadNamespace;
  readonly quotas: Pick<Quotas, "workerPriority">;
  readonly image: ServerImage;
  readonly workspace: Workspace;
  /** ACCESS_POLICY: a job's caller may do what it may do by a call. */
  readonly accessPolicy?: string | undefined;
  readonly backing: Backing & { readonly jobs: JobQueues & Pick<ServiceBus, "namespaceName"> };
}

/**
 * Runs jobs: the server's image under another entry, with an identity of its own. Half a vCPU and one GiB of the nodes
 * for each worker that there is, and nothing where there is none.
 */
export class JobWorker extends ComponentResource {
  constructor(name: string, args: JobWorkerArgs, options: ComponentResourceOptions) {
    super("mcp:workload:JobWorker", name, {}, options);
    const environment = this.#createEnvironment(args);
    const deployment = this.#createDeployment(args, environment);
    this.#scrape(args);
    this.#limitDisruption(args);
    this.#scale(args, deployment);
    this.registerOutputs({});
  }

  #createEnvironment(args: JobWorkerArgs): Environment {
    const { namespace, settings, accessPolicy, backing } = args;
    const { jobsPerWorker } = WORKER_SCALING;
    const variables: WorkerEnvironment<Input<string>> = {
      ...toolVariables({ settings, accessPolicy }, backing),
      ...queueVariables(backing.jobs),
      JOB_CONCURRENCY: String(jobsPerWorker),
      // All of a worker's jobs may be one caller's.
      COMMAND_CALLER_CONCURRENCY: String(jobsPerWorker),
      COMMAND_TIMEOUT_SECONDS: String(COMMAND_TIMEOUT),
      COMMAND_CPU_SECONDS: String(COMMAND_CPU),
      SHUTDOWN_GRACE_SECONDS: String(GRACE),
      // No load balancer has to take notice.
      SHUTDOWN_DRAIN_SECONDS: "0",
    };
    return createEnvironment(NAME, { namespace, labels: WORKER_LABELS, variables }, this);
  }

  #createDeployment(args: JobWorkerArgs, environment: Environment): Deployment {
    return new Deployment(
      NAME,
      {
        metadata: { name: NAME, namespace: args.namespace.name, labels: WORKER_LABELS },
        spec: {
          // No replicas: KEDA decides, and every `pulumi up` would set its number back.
          revisionHistoryLimit: 5,
          selector: { matchLabels: SELECTOR },
          // Old workers finish their jobs while new ones begin with theirs.
          strategy: { type: "RollingUpdate", rollingUpdate: { maxUnavailable: 0, maxSurge: "25%" } },
          template: podTemplate({
            name: NAME,
            labels: WORKER_LABELS,
            serviceAccount: args.namespace.workerAccount,
            priorityClass: args.quotas.workerPriority,
            image: args.image,
            program: "worker.ts",
            environment,
            workspace: args.workspace,
            resources: WORKER_RESOURCES,
            graceSeconds: GRACE,
          }),
        },
      },
      { parent: this, customTimeouts: FIRST_POD },
    );
  }

  /** By pods: a Service would be one more thing to reach workers by, and nobody has to. */
  #scrape({ namespace }: JobWorkerArgs): void {
    customResource<IPodMonitor>(
      `${NAME}-metrics`,
      {
        apiVersion: "monitoring.coreos.com/v1",
        kind: "PodMonitor",
        metadata: { name: NAME, namespace: namespace.name, labels: WORKER_LABELS },
        spec: {
          selector: { matchLabels: SELECTOR },
          podMetricsEndpoints: [{ port: "metrics", path: "/metrics", interval: "30s" }],
        },
      },
      { parent: this },
    );
  }

  /**
   * Half of them at a time, so that draining one node after the other goes on whatever a worker's grace is: one at a time
   * would take longer than AKS waits for a node.
   */
  #limitDisruption({ workers, namespace }: JobWorkerArgs): void {
    if (workers.max === 1) return;
    new PodDisruptionBudget(
      NAME,
      {
        metadata: { name: NAME, namespace: namespace.name, labels: WORKER_LABELS },
        spec: {
          maxUnavailable: "50%",
          selector: { matchLabels: SELECTOR },
          unhealthyPodEvictionPolicy: "AlwaysAllow",
        },
      },
      { parent: this },
    );
  }

  /** By the length of each queue; the longer one decides. */
  #scale({ workers, namespace, backing }: JobWorkerArgs, deployment: Deployment): void {
    const { jobsPerWorker, pollingSeconds, cooldownSeconds, scaleDown } = WORKER_SCALING;
    const metadata = { name: NAME, namespace: namespace.name, labels: WORKER_LABELS };
    const authentication = customResource<ITriggerAuthentication>(
      `${NAME}-scaling-identity`,
      {
        apiVersion: "keda.sh/v1alpha1",
        kind: "TriggerAuthentication",
        metadata,
        // The operator's own identity, which may read the queues' lengths and nothing else.
        spec: { podIdentity: { provider: "azure-workload" } },
      },
      { parent: this },
    );
    const trigger = (queueName: Input<string>) => ({
      type: "azure-servicebus",
      authenticationRef: { name: NAME },
      metadata: { namespace: backing.jobs.namespaceName, queueName, messageCount: String(jobsPerWorker) },
    });
    customResource<IScaledObject>(
      `${NAME}-scaling`,
      {
        apiVersion: "keda.sh/v1alpha1",
        kind: "ScaledObject",
        metadata,
        spec: {
          scaleTargetRef: { apiVersion: "apps/v1", kind: "Deployment", name: deployment.metadata.name },
          minReplicaCount: workers.min,
          maxReplicaCount: workers.max,
          pollingInterval: pollingSeconds,
          cooldownPeriod: cooldownSeconds,
          fallback: {
            failureThreshold: FAILED_POLLS,
            replicas: Math.max(workers.min, Math.ceil(workers.max / FALLBACK_SHARE)),
            behavior: "currentReplicasIfHigher",
          },
          advanced: {
            horizontalPodAutoscalerConfig: {
              behavior: {
                scaleDown: {
                  stabilizationWindowSeconds: scaleDown.stabilizationSeconds,
                  policies: [{ type: "Pods", value: scaleDown.pods, periodSeconds: scaleDown.periodSeconds }],
                },
              },
            },
          },
          triggers: [trigger(backing.jobs.queueName), trigger(backing.jobs.orderedQueueName)],
        },
      },
      { parent: this, dependsOn: [deployment, authentication] },
    );
  }
}
