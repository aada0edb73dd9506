import { z } from "zod";
import { partitionOf } from "../../../server/services/jobs/job.ts";
import type { JobQueue } from "../../../server/services/jobs/queue.ts";
import type { JobStore } from "../../../server/services/jobs/store.ts";
import { azureLogin } from "../azure-login.ts";
import { knownStack } from "../checkout.ts";
import { runningRehearsal } from "../rehearsal-state.ts";
import { deployedOutputs } from "../stack-source.ts";
import { JobPlace } from "./job-place.ts";

const Outputs = z.object({ jobs: JobPlace });

export interface PlaceOptions {
  readonly stack?: string;
  readonly deployed?: true;
  readonly tenant?: string;
}

/** A stack's jobs, as an operator sees them. */
export interface OpenJobs {
  /** For people. */
  readonly place: string;
  /** Whose jobs are looked at. */
  readonly partitions: readonly string[];
  readonly store: JobStore;
  readonly queue: JobQueue;
}

/**
 * Does something with a stack's jobs: those of the rehearsal that runs on this machine, or those of the deployed stack,
 * with the rights of whoever is logged in to Azure.
 *
 * @throws CliError saying what to do when the place is not known, does not answer or refuses.
 */
export async function withJobs<T>(
  { stack = "dev", deployed, tenant }: PlaceOptions,
  run: (jobs: OpenJobs) => Promise<T>,
): Promise<T> {
  const known = knownStack(stack);
  const rehearsal = deployed ? undefined : await runningRehearsal(known);
  const rehearsed = rehearsal?.jobs;
  const where =
    rehearsed ??
    (
      await deployedOutputs(known, Outputs, {
        reader: "jobs",
        ...(!deployed && { because: `No rehearsal of ${known} with a queue is running, and ` }),
        otherwise: `To try jobs on this machine first: npm run rehearse -- ${known}`,
      })
    ).jobs;
  const place = rehearsed ? `the rehearsal of ${known} (process ${rehearsal.pid})` : `stack ${known}`;
  const { store, queue } = await openPlace(where, rehearsed ? "emulator" : "entra");
  try {
    const partitions: string[] = [];
    if (tenant !== undefined) partitions.push(partitionOf({ tenant, method: "entra" }));
    else for await (const partition of store.partitions()) partitions.push(partition);
    return await run({ place, partitions, store, queue });
  } catch (error) {
    const { unreachable } = await import("./unreachable.ts");
    throw unreachable(error, where);
  } finally {
    await Promise.allSettled([queue.close(), store.close()]);
  }
}

/** The same adapters as the server's. Loaded here, for they bring Azure's packages. */
async function openPlace(place: JobPlace, auth: "entra" | "emulator"): Promise<Pick<OpenJobs, "store" | "queue">> {
  const [{ createAzureStore }, { createServiceBusQueue }, { proveBy }] = await Promise.all([
    import("../../../server/services/jobs/store-azure.ts"),
    import("../../../server/services/jobs/queue-service-bus.ts"),
    import("../../../server/services/azure-credential.ts"),
  ]);
  if (auth === "entra") proveBy(azureLogin());
  const { serviceBus, queue, orderedQueue, tableEndpoint, tableName, blobEndpoint, blobContainer } = place;
  return {
    store: createAzureStore({ tableEndpoint, table: tableName, blobEndpoint, container: blobContainer, auth }),
    queue: createServiceBusQueue({ host: serviceBus, queue, orderedQueue, credential: auth }),
  };
}
