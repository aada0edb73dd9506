import type { AddressInfo } from "node:net";
import type { DestinationStream } from "pino";
import { z } from "zod";
import { Azurite } from "../../infra/rehearsal/azurite.ts";
import { ServiceBusDouble } from "../../infra/rehearsal/service-bus/service-bus-double.ts";
import { buildApp } from "../../server/app.ts";
import { parseEnvironment, parseWorkerEnvironment } from "../../server/config.ts";
import { createLogger, standardStream } from "../../server/observability/logging.ts";
import { defineTool } from "../../server/tools/define-tool.ts";
import { tools } from "../../server/tools/index.ts";
import { buildWorker } from "../../server/worker-app.ts";
import { environment } from "./environment.ts";
import { type Doubles, type JobEnd, now } from "./job-end.ts";
import { tellStarter } from "./processes.ts";
import { JOB_TOOL } from "./workloads.ts";

/*
 * One process of the bench of jobs: `node serve-jobs.ts server|worker|doubles`. The doubles are what stands in for Service
 * Bus and for Azure's tables; they say in which environment a server and a worker find them. Without that, the server
 * runs its jobs itself. Whoever runs jobs tells the process that started it of each one's end.
 */

const HOST = "127.0.0.1";

const noWork = defineTool({
  name: JOB_TOOL,
  title: "No work",
  description: "Does nothing.",
  input: z.object({}),
  output: z.object({}),
  annotations: { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false },
  role: "reader",
  job: true,
  run: () => ({}),
});

const roles: Record<string, () => Promise<object>> = {
  async server() {
    const config = parseEnvironment({ ...process.env, ...environment });
    const { app, readiness } = await buildApp({ config, ...logOf(config), tools: [...tools, noWork] });
    await app.listen({ host: HOST, port: 0 });
    readiness.start();
    return { port: (app.server.address() as AddressInfo).port };
  },

  async worker() {
    const config = parseWorkerEnvironment({ ...process.env, ...environment });
    const { readiness } = await buildWorker({ config, ...logOf(config), tools: [...tools, noWork] });
    readiness.start();
    return {};
  },

  async doubles(): Promise<Doubles> {
    // As infra/azure/service-bus.ts makes them.
    const settings = { lockMs: 60_000, maxDeliveryCount: 50, duplicateWindowMs: 600_000 };
    const [bus, storage] = await Promise.all([
      ServiceBusDouble.start({
        queues: [
          { name: "jobs", ...settings },
          { name: "jobs-ordered", requiresSession: true, ...settings },
        ],
      }),
      Azurite.start(),
    ]);
    await Promise.all([storage.createTable("jobs"), storage.createContainer("jobs")]);
    const env = {
      SERVICE_BUS_NAMESPACE: bus.host,
      SERVICE_BUS_QUEUE: "jobs",
      SERVICE_BUS_ORDERED_QUEUE: "jobs-ordered",
      JOBS_TABLE_ENDPOINT: storage.tableEndpoint,
      JOBS_TABLE_NAME: "jobs",
      JOBS_BLOB_ENDPOINT: storage.blobEndpoint,
      JOBS_BLOB_CONTAINER: "jobs",
      JOBS_AUTH: "emulator",
    };
    return { env };
  },
};

/** The log as it is, and each job's end to whoever started this process, from the log's own lines. */
function logOf(config: Parameters<typeof createLogger>[0]) {
  const stream = standardStream(1);
  const started = new Map<string, number>();
  const destination: DestinationStream = {
    write(line) {
      stream.write(line);
      const [, outcome, job] = /"event":"job\.([a-z-]+)","job":"(\w+)"/.exec(line) ?? [];
      if (outcome === undefined || job === undefined || outcome === "submitted") return;
      if (outcome === "started") {
        started.set(job, now());
        return;
      }
      const end: JobEnd = { job, outcome, startedAt: started.get(job) ?? Number.NaN, endedAt: now() };
      started.delete(job);
      process.send?.(end);
    },
  };
  return { log: createLogger(config, destination), stream };
}

const start = roles[process.argv[2] ?? ""];
if (start === undefined) throw new Error(`There are ${Object.keys(roles).join(", ")}.`);
tellStarter(await start());
