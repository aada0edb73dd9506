import { z } from "zod";
import type { Plan } from "../rehearsal/plan.ts";
import type { JobPlace } from "./jobs/job-place.ts";
import type { LocalJobs } from "./local-workload.ts";

/** A queue and a store for jobs on this machine, while a rehearsal runs. */
export interface JobEmulators {
  /** For server and worker. */
  readonly local: LocalJobs;
  /** For `mcp-aks jobs`. */
  readonly place: JobPlace;
  close(): Promise<void>;
}

/** What the rehearsal reads of a queue in the plan; the words are Azure's. */
const PlannedQueue = z.looseObject({
  queueName: z.string(),
  lockDuration: z.string().transform(milliseconds),
  maxDeliveryCount: z.number(),
  requiresSession: z.boolean(),
  requiresDuplicateDetection: z.boolean(),
  duplicateDetectionHistoryTimeWindow: z.string().transform(milliseconds),
});

/** What it reads of a container's environment. */
const Variables = z.object({
  SERVICE_BUS_QUEUE: z.string(),
  SERVICE_BUS_ORDERED_QUEUE: z.string(),
  JOBS_TABLE_NAME: z.string(),
  JOBS_BLOB_CONTAINER: z.string(),
});

const QUEUE = "azure-native:servicebus:Queue";

/** Starts them with the queues of the plan, as the plan makes them, and the table and container that the worker names. */
export async function startJobEmulators(
  { resources }: Pick<Plan, "resources">,
  environment: Readonly<Record<string, string>>,
): Promise<JobEmulators> {
  // AMQP and Azurite take longer to load than all that most commands do.
  const [{ ServiceBusDouble }, { Azurite }] = await Promise.all([
    import("../rehearsal/service-bus/service-bus-double.ts"),
    import("../rehearsal/azurite.ts"),
  ]);
  const variables = Variables.parse(environment);
  const queues = resources.filter(({ type }) => type === QUEUE).map(({ inputs }) => PlannedQueue.parse(inputs));
  const [bus, storage] = await Promise.all([
    ServiceBusDouble.start({
      queues: queues.map((queue) => ({
        name: queue.queueName,
        requiresSession: queue.requiresSession,
        lockMs: queue.lockDuration,
        maxDeliveryCount: queue.maxDeliveryCount,
        duplicateWindowMs: queue.requiresDuplicateDetection ? queue.duplicateDetectionHistoryTimeWindow : 0,
      })),
    }),
    Azurite.start(),
  ]);
  await Promise.all([
    storage.createTable(variables.JOBS_TABLE_NAME),
    storage.createContainer(variables.JOBS_BLOB_CONTAINER),
  ]);
  const { tableEndpoint, blobEndpoint } = storage;
  return {
    local: { serviceBus: bus.host, tableEndpoint, blobEndpoint },
    place: {
      serviceBus: bus.host,
      queue: variables.SERVICE_BUS_QUEUE,
      orderedQueue: variables.SERVICE_BUS_ORDERED_QUEUE,
      tableEndpoint,
      tableName: variables.JOBS_TABLE_NAME,
      blobEndpoint,
      blobContainer: variables.JOBS_BLOB_CONTAINER,
      from: "this machine, while the rehearsal runs",
    },
    close: async () => {
      await Promise.all([bus.close(), storage.close()]);
    },
  };
}

/** Of `PT10M`, as far as queues use ISO 8601. */
function milliseconds(duration: string): number {
  const [, hours = 0, minutes = 0, seconds = 0] = /^PT(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?$/.exec(duration) ?? [];
  return ((Number(hours) * 60 + Number(minutes)) * 60 + Number(seconds)) * 1000;
}
