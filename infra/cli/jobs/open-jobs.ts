import { z } from "zod";
import { partitionOf } from "../../../server/services/jobs/job.ts";
import type { JobQueue } from "../../../server/services/jobs/queue.ts";
import type { JobStore } from "../../../server/services/jobs/store.ts";
import { knownStack } from "../checkout.ts";
import { runningRehearsal } from "../rehearsal-state.ts";
import { deployedOutputs } from "../stack-source.ts";
import { JobPlace } from "./job-place.ts";
import { unreachable } from "./unreachable.ts";

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
  const place =
    rehearsal?.jobs ??
    (
      await deployedOutputs(known, Outputs, {
        reader: "jobs",
        because: deployed ? "" : `No rehearsal of ${known} is running, and `,
        otherwise: `To try jobs on this machine first: npm run rehearse -- ${known}`,
      })
    ).jobs;
  const { store, queue } = openPlace(place, rehearsal ? "emulator" : "entra");
  try {
    const partitions =
      tenant === undefined ? await store.partitions() : [partitionOf({ tenant, method: "entra" })];
    const kind = rehearsal ? `the rehearsal of ${known} (process ${rehearsal.pid})` : `stack ${known}`;
    return await run({ place: kind, partitions, store, queue });
  } catch (error) {
    throw unreachable(error, place);
  } finally {
    await Promise.allSettled([queue.close(), store.close()]);
  }
}
