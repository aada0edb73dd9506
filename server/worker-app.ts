import { type BuildOptions, buildCore, detailsOf, type Listeners, listener, workOf } from "./app.ts";
import type { Config } from "./config.ts";
import { createReadiness, operatorPages, probes } from "./observability/health.ts";
import type { JobBacking } from "./services/jobs/jobs.ts";
import { within } from "./services/within.ts";

/** How long what queue and store have answered to a probe is good for. */
const ANSWER_MS = 5000;
/** A probe waits so long for an answer. */
const PATIENCE_MS = 3000;

/**
 * Builds the worker: the server's tools on the server's services, for jobs in place of callers. It listens for probes and
 * operators alone, and is ready while queue and store answer.
 */
export async function buildWorker(
  options: Pick<BuildOptions, "config" | "log" | "stream" | "tools" | "openJobs">,
): Promise<Listeners> {
  const { config, log } = options;
  const { services, metrics, shared, audit, jobService } = await buildCore(options);
  const readiness = createReadiness();
  const backing = await jobService.work();

  const app = await listener(log);
  await app.register(probes, { readiness, answers: answersOf(backing, log) });
  const operator = await listener(log);
  operator.addHook("onClose", async () => {
    await jobService.close();
    await shared.store.close();
  });
  await operator.register(operatorPages, {
    config,
    metrics,
    readiness,
    runtime: services.runtime,
    details: async () => ({
      audit: audit.details(),
      connectors: shared.connectors.details(),
      ...(await detailsOf({ services, shared, jobService })),
    }),
  });
  return { app, operator, readiness, work: workOf(services.commands, jobService), audit };
}

/** Whether queue and store answer, asked anew only so often. */
function answersOf({ queue, store }: JobBacking, log: BuildOptions["log"]): () => Promise<boolean> {
  let asked = Number.NEGATIVE_INFINITY;
  let known: boolean | undefined;
  let asking: Promise<boolean> | undefined;
  const ask = async () => {
    const silent = () => new Error(`Neither answer nor error in ${PATIENCE_MS} ms.`);
    try {
      await within(PATIENCE_MS, Promise.all([queue.check(), store.check()]), silent);
      return true;
    } catch (error) {
      log.warn({ event: "jobs.unavailable", err: error });
      return false;
    }
  };
  // No probe waits for what is known: what is asked anew is for the next.
  return async () => {
    if (performance.now() - asked > ANSWER_MS) {
      asked = performance.now();
      asking = ask();
      void asking.then((answer) => {
        known = answer;
      });
    }
    return known ?? asking ?? false;
  };
}

/** A worker has nobody to answer while load balancers take notice: it stops receiving at once. */
export const withoutDraining = (config: Config): Config => ({ ...config, SHUTDOWN_DRAIN_SECONDS: 0 });
