import { RoleDefinition } from "@pulumi/azure-native/authorization/index.js";
import { MetricAlert } from "@pulumi/azure-native/monitor/index.js";
import { Namespace, Queue } from "@pulumi/azure-native/servicebus/index.js";
import { ComponentResource, type ComponentResourceOptions, type Input, interpolate, type Output } from "@pulumi/pulumi";
import { globalName, localName } from "../naming.ts";
import type { Settings } from "../settings.ts";
import type { Principal } from "./principal.ts";
import { onceReachable, PrivateEndpoint, type PrivateLink } from "./private-endpoint.ts";
import { assignRole, type RoleGrant, settled, stableGuid } from "./role-assignment.ts";
import type { Site } from "./site.ts";
import { ALL_METRICS, type Telemetry } from "./telemetry.ts";

/** The queue that `submit_job` sends to and job-worker receives from. */
export const JOB_QUEUE = "mcp-jobs";
/** The same for jobs that their submitters want one after the other. */
export const ORDERED_JOB_QUEUE = "mcp-jobs-ordered";

const DEFINITION_MINUTES = 1;

export interface ServiceBusArgs {
  readonly site: Site;
  readonly settings: Pick<Settings, "serviceBus">;
  readonly telemetry: Telemetry;
  /** Present with private endpoints, which only a Premium namespace has. */
  readonly privateLink?: PrivateLink;
  /** Resource id of the action group that is told of dead letters; absent: the portal alone shows them. */
  readonly actionGroupId?: Input<string> | undefined;
}

/**
 * GUID of the custom role that reads a queue's length. Known while planning and the same at every run: a role
 * definition's name is a GUID within its tenant.
 */
export function queueReaderRole({ subscriptionId, parts }: Pick<Site, "subscriptionId" | "parts">): string {
  return stableGuid(subscriptionId, parts.name, parts.stack, "queue-reader");
}

/** The job queues. Cost about 10 USD a month on Standard, 680 on Premium, both together. */
export class ServiceBus extends ComponentResource {
  /** Short name, as KEDA wants it. */
  readonly namespaceName: Output<string>;
  /** `<namespace>.servicebus.windows.net`, as clients want it. */
  readonly host: Output<string>;
  readonly queueName: Output<string>;
  /** Of the queue with sessions. */
  readonly orderedQueueName: Output<string>;

  readonly #name: string;
  readonly #site: Site;
  /** The queues, by the words for them in resource names. */
  readonly #queues: Readonly<Record<"queue" | "ordered-queue", Queue>>;

  constructor(name: string, args: ServiceBusArgs, opts?: ComponentResourceOptions) {
    super("mcp:azure:ServiceBus", name, {}, opts);
    this.#name = name;
    this.#site = args.site;
    const premium = args.settings.serviceBus.sku === "Premium";
    const namespace = this.#createNamespace(args);
    const queue = (word: string, queueName: string, requiresSession: boolean) =>
      this.#createQueue(`${name}-${word}`, args.site, namespace, { queueName, requiresSession, premium });
    this.#queues = {
      queue: queue("queue", JOB_QUEUE, false),
      "ordered-queue": queue("ordered-queue", ORDERED_JOB_QUEUE, true),
    };
    this.#alertToDeadLetters(namespace, args.actionGroupId);
    const endpoint =
      args.privateLink &&
      new PrivateEndpoint(
        `${name}-link`,
        { site: args.site, link: args.privateLink, service: "service-bus", targetId: namespace.id },
        { parent: this },
      );
    args.telemetry.collect(
      name,
      namespace.id,
      // The other two are written by Premium alone.
      premium ? ["OperationalLogs", "RuntimeAuditLogs", "VNetAndIPFilteringLogs"] : ["OperationalLogs"],
      [ALL_METRICS],
    );

    this.namespaceName = namespace.name;
    this.host = onceReachable(interpolate`${namespace.name}.servicebus.windows.net`, endpoint);
    this.queueName = this.#queues.queue.name;
    this.orderedQueueName = this.#queues["ordered-queue"].name;
    this.registerOutputs({ host: this.host, queueName: this.queueName, orderedQueueName: this.orderedQueueName });
  }

  /** Lets `principal` send to both queues, and nothing else. */
  grantSend(principal: Principal): void {
    this.#grant(principal, "service-bus-data-sender");
  }

  /** Lets `principal` receive from both queues, settle messages and read dead letters, and nothing else. */
  grantReceive(principal: Principal): void {
    this.#grant(principal, "service-bus-data-receiver");
  }

  /**
   * Lets `principal` see how long the queues are. "queue-reader" is a custom role of that one action, which only Owners
   * and User Access Administrators may define (first-deployment failure 1); "receiver" is a built-in role that holds
   * the action, and the right to receive besides.
   */
  grantReadQueueLength(principal: Principal, role: Settings["keda"]["role"]): void {
    if (role === "receiver") {
      this.grantReceive(principal);
      return;
    }
    const definition = this.#defineQueueReader();
    this.#grant(
      principal,
      { name: "queue-reader", id: definition.id },
      // Right after its creation a definition may be unknown to whoever checks assignments; nothing waits for this one.
      settled(definition.resource, DEFINITION_MINUTES),
    );
  }

  #createNamespace({ site, settings, privateLink }: ServiceBusArgs): Namespace {
    const { sku } = settings.serviceBus;
    return new Namespace(
      this.#name,
      {
        resourceGroupName: site.resourceGroupName,
        namespaceName: site.suffix.apply((suffix) => globalName("serviceBus", site.parts, suffix)),
        location: site.location,
        tags: site.tags,
        sku: { name: sku, tier: sku, capacity: sku === "Premium" ? 1 : undefined },
        premiumMessagingPartitions: sku === "Premium" ? 1 : undefined,
        // No connection strings: Entra identities only.
        disableLocalAuth: true,
        minimumTlsVersion: "1.2",
        // Without a private endpoint the queue is reached by its public name, by whom a role lets.
        publicNetworkAccess: privateLink ? "Disabled" : "Enabled",
      },
      { parent: this, protect: site.protect },
    );
  }

  #createQueue(
    name: string,
    site: Site,
    namespace: Namespace,
    { queueName, requiresSession, premium }: { queueName: string; requiresSession: boolean; premium: boolean },
  ): Queue {
    return new Queue(
      name,
      {
        resourceGroupName: site.resourceGroupName,
        namespaceName: namespace.name,
        queueName,
        // A worker renews the lock while it works; after a crash its job is free again within the minute.
        lockDuration: "PT1M",
        // The store counts runs (JOB_ATTEMPTS) and gives up long before. This is for messages that bring down whoever
        // receives them before the store is asked; a worker that hands back what it cannot finish counts here, too.
        maxDeliveryCount: 50,
        // Longer than a job's longest deadline, seven days: workers say of a late job what became of it, not the queue.
        defaultMessageTimeToLive: "P8D",
        deadLetteringOnMessageExpiration: true,
        // A job submitted again after a lost answer is the same job.
        requiresDuplicateDetection: true,
        duplicateDetectionHistoryTimeWindow: "PT10M",
        requiresSession,
        enablePartitioning: false,
        enableBatchedOperations: true,
        maxSizeInMegabytes: 1024,
        maxMessageSizeInKilobytes: premium ? 1024 : undefined,
        // autoDeleteOnIdle stays unset: a quiet week must not delete the queue.
      },
      { parent: this, protect: site.protect },
    );
  }

  /**
   * Azure's own alert and not Prometheus's, for it looks at the queues and not at workers: it holds for as long as there
   * are dead letters, those that Service Bus itself put there among them, and with no worker running. 0.10 USD a month for
   * each queue.
   */
  #alertToDeadLetters(namespace: Namespace, actionGroupId: ServiceBusArgs["actionGroupId"]): MetricAlert {
    return new MetricAlert(
      `${this.#name}-dead-letters`,
      {
        resourceGroupName: this.#site.resourceGroupName,
        ruleName: localName("metricAlert", this.#site.parts),
        // Metric alerts belong to no region.
        location: "global",
        tags: this.#site.tags,
        description:
          "Jobs were set aside: their runs were lost, broke too often, or their messages could not be read. `mcp-aks jobs dead-letter list` says which and why; replay or drop each. docs/jobs-operations.md has the causes.",
        severity: 2,
        enabled: true,
        scopes: [namespace.id],
        evaluationFrequency: "PT5M",
        windowSize: "PT15M",
        autoMitigate: true,
        actions: actionGroupId === undefined ? [] : [{ actionGroupId }],
        criteria: {
          odataType: "Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria",
          allOf: [
            {
              criterionType: "StaticThresholdCriterion",
              name: "dead-letters",
              metricNamespace: "Microsoft.ServiceBus/namespaces",
              metricName: "DeadletteredMessages",
              dimensions: [
                {
                  name: "EntityName",
                  operator: "Include",
                  values: Object.values(this.#queues).map(({ name }) => name),
                },
              ],
              timeAggregation: "Maximum",
              operator: "GreaterThan",
              threshold: 0,
            },
          ],
        },
      },
      { parent: this },
    );
  }

  #defineQueueReader(): { id: string; resource: RoleDefinition } {
    const { resourceGroupId, suffix, parts } = this.#site;
    const id = queueReaderRole(this.#site);
    const resource = new RoleDefinition(
      `${this.#name}-queue-reader`,
      {
        roleDefinitionId: id,
        // Unique within the tenant, hence the suffix.
        roleName: suffix.apply((s) => `Service Bus queue reader (${parts.name}-${parts.stack}-${s})`),
        description: "Reads a queue's properties, its length among them; no messages.",
        roleType: "CustomRole",
        // Custom roles can be offered in a group, not on a resource; the assignments are on the queues.
        scope: resourceGroupId,
        assignableScopes: [resourceGroupId],
        permissions: [
          {
            actions: ["Microsoft.ServiceBus/namespaces/queues/read"],
            notActions: [],
            dataActions: [],
            notDataActions: [],
          },
        ],
      },
      { parent: this },
    );
    return { id, resource };
  }

  #grant(principal: Principal, role: RoleGrant["role"], after?: Output<RoleDefinition>): void {
    for (const [name, { id }] of Object.entries(this.#queues)) {
      assignRole({ site: this.#site, principal, role, on: { name, id } }, { parent: this, dependsOn: after });
    }
  }
}
