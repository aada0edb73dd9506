import { pathToFileURL } from "node:url";
import { parseSettings, type Settings } from "../../infra/settings.ts";
import { SERVER_RESOURCES, WORKER_RESOURCES, WORKER_SCALING } from "../../infra/workload/sizes.ts";
import { parseEnvironment } from "../../server/config.ts";
import { type Outcome, type Scenario, simulate } from "./scaling-rules.ts";

/*
 * `npm run bench:scaling`: a queue of 10,000 jobs of 30 seconds, in each stack as it is shipped, and with more workers;
 * the table of docs/scaling.md. It needs no cluster and takes less than a second.
 */

const JOBS = 10_000;
const JOB_SECONDS = 30;
/** What a job has whose submitter names no time. */
const DEADLINE_SECONDS = parseEnvironment({}).JOB_DEADLINE_SECONDS;

/** Standard_D4ds_v5: 4 vCPUs, of which AKS reserves 140 m (AKS, "Resource reservations"), and DaemonSets ask for 220 m. */
const NODE_CPU = 4;
const FREE_CPU = NODE_CPU - 0.14 - 0.22;
/** USD a month of East US's list, and hours that Azure counts in one. */
const NODE_PRICE = 165 / 730;
/** What AKS's own pods and the charts ask for; an estimate, by which dev rests at two nodes. vCPUs. */
const PLATFORM_CPU = 3.5;

/** An image on the node, a start of a second, and the first readiness probe; a node's time is AKS's usual. Estimates. */
const POD_SECONDS = 20;
const NODE_SECONDS = 180;

const STACKS: readonly (readonly [stack: string, config: Record<string, string>])[] = [
  ["dev", {}],
  ["staging", {}],
  ["prod", {}],
  ["prod", { workers: "1-50" }],
  ["prod", { workers: "10-20" }],
];

/** The scenario that a stack's settings make. */
export function scenarioOf({ cluster, jobs, server }: Settings): Scenario {
  const workers = jobs.workers ?? { min: 0, max: 0 };
  const own = milliCpu(WORKER_RESOURCES) / 1000;
  const { systemPool, userPool, systemPoolDedicated } = cluster;
  // A dedicated system pool runs no workloads.
  const pools = [systemPoolDedicated ? undefined : systemPool, userPool].filter((pool) => pool !== undefined);
  const most = pools.reduce((sum, { max }) => sum + max, 0);
  const taken = PLATFORM_CPU + server.replicas.min * (milliCpu(SERVER_RESOURCES) / 1000);
  const atRest = Math.max(
    pools.reduce((sum, { min }) => sum + min, 0),
    Math.ceil(taken / FREE_CPU),
  );
  return {
    jobs: JOBS,
    jobSeconds: JOB_SECONDS,
    deadlineSeconds: DEADLINE_SECONDS,
    workers,
    ...WORKER_SCALING,
    room: {
      now: Math.floor((atRest * FREE_CPU - taken) / own),
      perNode: Math.floor(FREE_CPU / own),
      moreNodes: most - atRest,
    },
    podSeconds: POD_SECONDS,
    nodeSeconds: NODE_SECONDS,
  };
}

/** The lines of the table, as docs/scaling.md has them. */
export function scalingTable(): string[] {
  return [
    "| stack | workers | first job begins | queue empty | in their hour | most workers | at rest again | worker hours | their share of nodes, USD | nodes added | for them, USD |",
    "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ...STACKS.map(([stack, config]) => {
      const values = Object.fromEntries(Object.entries(config).map(([key, value]) => [`mcp:${key}`, value]));
      // Where prod is deployed from makes no difference here.
      const settings = parseSettings(stack, {
        ...(stack === "prod" && { "mcp:authorizedRanges": '["20.30.40.50/32"]' }),
        ...values,
      });
      return row(stack, settings, simulate(scenarioOf(settings)));
    }),
  ];
}

function row(stack: string, { jobs }: Settings, outcome: Outcome): string {
  const hours = outcome.workerSeconds / 3600;
  const share = milliCpu(WORKER_RESOURCES) / 1000 / NODE_CPU;
  return `| ${[
    stack,
    `${jobs.workers?.min}-${jobs.workers?.max}`,
    `after ${duration(outcome.firstJobSeconds)}`,
    `after ${duration(outcome.drainedSeconds)}`,
    outcome.inTime,
    `${outcome.mostWorkers}, after ${duration(outcome.mostWorkersSeconds)}`,
    `after ${duration(outcome.restSeconds)}`,
    hours.toFixed(1),
    (hours * share * NODE_PRICE).toFixed(2),
    outcome.moreNodes,
    ((outcome.nodeSeconds / 3600) * NODE_PRICE).toFixed(2),
  ].join(" | ")} |`;
}

const milliCpu = ({ requests }: { readonly requests: { readonly cpu: string } }) => Number.parseInt(requests.cpu, 10);

function duration(seconds: number): string {
  if (seconds < 120) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) console.log(scalingTable().join("\n"));
