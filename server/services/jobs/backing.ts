import type { Config } from "../../config.ts";
import { type Connectors, resilientQueue, resilientStore } from "../resilience.ts";
import type { JobBacking } from "./jobs.ts";

/**
 * Opens what jobs are brought by and kept in: Service Bus and Azure storage where the configuration names them, this
 * process's memory elsewhere. Loaded here and not before; Azure's own packages come with the first request.
 */
export async function openBacking(config: Config, connectors: Connectors): Promise<JobBacking> {
  const {
    SERVICE_BUS_NAMESPACE: namespace,
    SERVICE_BUS_QUEUE: queue,
    SERVICE_BUS_ORDERED_QUEUE: orderedQueue,
    JOBS_TABLE_ENDPOINT: tableEndpoint,
    JOBS_TABLE_NAME: table,
    JOBS_BLOB_ENDPOINT: blobEndpoint,
    JOBS_BLOB_CONTAINER: container,
    JOBS_AUTH: auth,
  } = config;
  if (namespace === undefined) {
    const [{ createMemoryQueue }, { createMemoryStore }] = await Promise.all([
      import("./queue-memory.ts"),
      import("./store-memory.ts"),
    ]);
    return { queue: createMemoryQueue(), store: createMemoryStore() };
  }
  if (
    queue === undefined ||
    orderedQueue === undefined ||
    tableEndpoint === undefined ||
    table === undefined ||
    blobEndpoint === undefined ||
    container === undefined
  ) {
    throw new Error("SERVICE_BUS_NAMESPACE is set, and not all that has to be with it.");
  }
  const [{ createServiceBusQueue }, { createAzureStore }] = await Promise.all([
    import("./queue-service-bus.ts"),
    import("./store-azure.ts"),
  ]);
  const store = createAzureStore({ tableEndpoint, table, blobEndpoint, container, auth });
  // Azure's clocks are one another's; this machine's may be any.
  const now = () => store.now();
  const bus = createServiceBusQueue({ host: namespace, queue, orderedQueue, credential: auth, now });
  return {
    queue: resilientQueue(bus, connectors.of("service-bus")),
    store: resilientStore(store, { tables: connectors.of("tables"), blobs: connectors.of("blobs") }),
  };
}
