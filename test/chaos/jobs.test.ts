import { randomInt } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { pino } from "pino";
import { expect, onTestFinished, test } from "vitest";
import { Azurite } from "../../infra/rehearsal/azurite.ts";
import { ServiceBusDouble } from "../../infra/rehearsal/service-bus/service-bus-double.ts";
import { type Config, parseEnvironment } from "../../server/config.ts";
import { retryDelayMs } from "../../server/jobs/retry-delay.ts";
import { createSweeper } from "../../server/jobs/sweeper.ts";
import { openBacking } from "../../server/services/jobs/backing.ts";
import {
  FINAL_STATES,
  type Job,
  type JobEvent,
  type LoggedEvent,
  partitionOf,
} from "../../server/services/jobs/job.ts";
import {
  createJobs,
  type JobBacking,
  type Jobs,
  JobsUnavailable,
  queuedJob,
  resultName,
  type Submitter,
} from "../../server/services/jobs/jobs.ts";
import { readMessage } from "../../server/services/jobs/messages.ts";
import { LOST } from "../../server/services/jobs/next-step.ts";
import type { DeadLetter } from "../../server/services/jobs/queue.ts";
import { createServiceBusQueue } from "../../server/services/jobs/queue-service-bus.ts";
import { compare, rebuild } from "../../server/services/jobs/replay.ts";
import type { JobStore } from "../../server/services/jobs/store.ts";
import { createAzureStore } from "../../server/services/jobs/store-azure.ts";
import { submitterOf } from "../../server/tools/job-answers.ts";
import { startFaultProxy } from "../contract/fault-proxy.ts";
import { quietConnectors } from "../server/quiet-connectors.ts";
import { CHAOS_TOOL, effectsIn } from "./chaos-tool.ts";
import { disturb } from "./disturbances.ts";
import { type PlannedJob, planJobs } from "./plan.ts";
import { chanceOf } from "./random.ts";
import { Workers } from "./workers.ts";

/*
 * Jobs of all sorts, taken by a server and run by worker processes, while about everything fails that can fail: each of
 * them has one end, effects happen once, and what was set aside says why.
 *
 * CHAOS_SEED has a failure tried again, as far as what happens is not the scheduler's doing; CHAOS_JOBS takes fewer.
 */

const SEED = Number(process.env.CHAOS_SEED ?? randomInt(2 ** 31));
const JOBS = Number(process.env.CHAOS_JOBS ?? 2000);
/** Submitters at the same time. */
const SUBMITTERS = 100;
/** How long a message is locked, and a run its worker's, without a sign of life. */
const LOCK_MS = 2000;
const LEASE_SECONDS = 2;
const ATTEMPTS = 4;
const HOUR_MS = 3_600_000;
/** By how much each worker's clock is wrong. */
const SKEWS = [0, HOUR_MS, 0, -HOUR_MS];
/** How long things go wrong at least, how long after the last submission at most, and until the last job has ended then. */
const LEAST_CHAOS_MS = 10_000;
const MORE_CHAOS_MS = 10_000;
const SETTLING_MS = 240_000;
const TIMEOUT_MS = 600_000;

const QUEUES = { SERVICE_BUS_QUEUE: "jobs", SERVICE_BUS_ORDERED_QUEUE: "jobs-ordered" };
const PLACES = { JOBS_TABLE_NAME: "jobs", JOBS_BLOB_CONTAINER: "jobs" };

test(
  `jobs have one end and one effect, whatever fails (CHAOS_SEED=${SEED} CHAOS_JOBS=${JOBS})`,
  async () => {
    const chance = chanceOf(SEED);
    const directory = await mkdtemp(join(tmpdir(), "mcp-kit-chaos-"));
    onTestFinished(() => rm(directory, { recursive: true, force: true, maxRetries: 3 }));
    const settings = { lockMs: LOCK_MS, maxDeliveryCount: 20, duplicateWindowMs: 600_000 };
    const [bus, storage] = await Promise.all([
      ServiceBusDouble.start({
        queues: [
          { name: QUEUES.SERVICE_BUS_QUEUE, ...settings },
          { name: QUEUES.SERVICE_BUS_ORDERED_QUEUE, requiresSession: true, ...settings },
        ],
      }),
      Azurite.start(),
    ]);
    onTestFinished(async () => void (await Promise.all([bus.close(), storage.close()])));
    await Promise.all([
      storage.createTable(PLACES.JOBS_TABLE_NAME),
      storage.createContainer(PLACES.JOBS_BLOB_CONTAINER),
    ]);
    const tables = await startFaultProxy(storage.tableEndpoint);
    onTestFinished(() => tables.close());

    const environment = {
      PATH: process.env.PATH,
      CHAOS_DIRECTORY: directory,
      WORKSPACE_PATH: directory,
      PORT: "0",
      METRICS_PORT: "0",
      COMMAND_ISOLATION: "off",
      SHUTDOWN_GRACE_SECONDS: "3",
      RATE_LIMIT_PER_MINUTE: "0",
      RATE_LIMIT_TOOL_PER_MINUTE: "0",
      RATE_LIMIT_GLOBAL_PER_MINUTE: "0",
      SERVICE_BUS_NAMESPACE: bus.host,
      ...QUEUES,
      ...PLACES,
      JOBS_TABLE_ENDPOINT: tables.url,
      JOBS_BLOB_ENDPOINT: storage.blobEndpoint,
      JOBS_AUTH: "emulator",
      JOB_LEASE_SECONDS: String(LEASE_SECONDS),
      JOB_ATTEMPTS: String(ATTEMPTS),
      JOB_CONCURRENCY: "16",
    };
    const { CHAOS_DIRECTORY: _directory, PATH: _path, ...known } = environment;
    const server = await serverOf(parseEnvironment(known));
    onTestFinished(() => server.close());
    const workers = new Workers(directory, environment, SKEWS);
    onTestFinished(() => workers.end());

    const planned = planJobs(JOBS, chance.fork());
    const began = performance.now();
    const disturbances = disturb({ workers, bus, tables, lockMs: LOCK_MS }, chance.fork());
    onTestFinished(() => disturbances.stop());
    const ids = await submitAll(planned, server);
    const submitted = performance.now();
    await delay(Math.max(0, LEAST_CHAOS_MS - (submitted - began)));

    // Nothing in front of it any more: what is looked at is what is there.
    const store = createAzureStore({
      tableEndpoint: storage.tableEndpoint,
      table: PLACES.JOBS_TABLE_NAME,
      blobEndpoint: storage.blobEndpoint,
      container: PLACES.JOBS_BLOB_CONTAINER,
      auth: "emulator",
    });
    const partitions = [...new Set(planned.map(({ tenant }) => partitionOf(submitter(tenant).caller)))];
    const countOf = (...states: ("active" | "scheduled" | "deferred")[]) => {
      const depths = Object.values(QUEUES).map((queue) => bus.queue(queue).depth());
      return depths.flatMap((depth) => states.map((state) => depth[state])).reduce((sum, count) => sum + count, 0);
    };
    const messages = () => countOf("active", "scheduled", "deferred");
    // Most of them have ended by then, and the others go on as they are.
    while (messages() > JOBS / 10 && performance.now() - submitted < MORE_CHAOS_MS) await delay(200);
    await disturbances.stop();
    const calm = performance.now();
    /**
     * One that is not due yet may be a second one of a job that has ended meanwhile, put off for as long as the job was.
     * Emulated storage looks at all its rows for each list of some: asked when the queues have nothing any more.
     */
    const remaining = async () => {
      const states = ["queued", "running"] as const;
      const pages = await Promise.all(partitions.map((partition) => store.list({ partition, states, limit: JOBS })));
      const owed = (await all(store.owed(-1))).map(({ id }) => id);
      return {
        unfinished: pages.flatMap(({ jobs }) => jobs.map(({ id }) => id)),
        messages: countOf("active", "deferred"),
        owed,
      };
    };
    const isLate = () => performance.now() - calm > SETTLING_MS;
    const DONE = { unfinished: [], messages: 0, owed: [] };
    let left: Awaited<ReturnType<typeof remaining>>;
    do {
      while (messages() > 0 && !isLate()) await delay(100);
      await delay(500);
      left = await remaining();
    } while (JSON.stringify(left) !== JSON.stringify(DONE) && !isLate());
    const settled = performance.now();
    // Asked anew, for the server's circuit may be open for a minute after the last failure.
    const operator = createServiceBusQueue({
      host: bus.host,
      queue: QUEUES.SERVICE_BUS_QUEUE,
      orderedQueue: QUEUES.SERVICE_BUS_ORDERED_QUEUE,
      credential: "emulator",
    });
    const letters = await operator.deadLetters.list(JOBS);
    await operator.close();

    const faults = await findFaults({ planned, ids, store, letters, directory });
    const checked = performance.now();
    const seconds = (from: number, to: number) => `${((to - from) / 1000).toFixed(1)} s`;
    console.info(
      [
        `CHAOS_SEED=${SEED} CHAOS_JOBS=${JOBS}`,
        `taken in ${seconds(began, submitted)}, disturbed until ${seconds(began, calm)}, settled after ${seconds(calm, settled)}, checked in ${seconds(settled, checked)}`,
        [...disturbances.counts].map(([what, count]) => `${what}: ${count}`).join(", "),
        `ends: ${JSON.stringify(faults.ends)}; dead letters: ${letters.length}`,
      ].join("\n"),
    );
    for (const id of [...faults.found.keys(), ...left.unfinished].slice(0, MOST_TOLD)) {
      console.error([`Job ${id}: ${faults.found.get(id) ?? "has no end"}`, ...(await historyOf(id))].join("\n"));
    }
    for (const queue of Object.values(QUEUES)) {
      for (const { message, state, dueAt, failures } of bus.queue(queue).peek(0, MOST_TOLD)) {
        const due = dueAt === undefined ? "" : `, due in ${dueAt - Date.now()} ms`;
        console.error(`Left in ${queue}: ${message.message_id}, ${state}${due}, failed ${failures} times`);
      }
    }
    expect(left).toEqual(DONE);
    expect([...faults.found]).toEqual([]);
    expect(workers.failed).toEqual([]);

    async function historyOf(id: string): Promise<string[]> {
      const ref = { id, partition: faults.partitionOf(id) };
      const row = await store.read(ref).catch(String);
      const log = (await all(store.events({ ref }))).map(({ event }) => JSON.stringify(event));
      return [
        JSON.stringify(row),
        ...log,
        ...(await workers.lines(id)),
        ...server.lines.filter((line) => line.includes(id)),
      ];
    }
  },
  TIMEOUT_MS,
);

async function all<Item>(items: AsyncIterable<Item>): Promise<Item[]> {
  const found: Item[] = [];
  for await (const item of items) found.push(item);
  return found;
}

/** Jobs whose history is printed when there is something wrong with them. */
const MOST_TOLD = 5;

type Server = Awaited<ReturnType<typeof serverOf>>;

/** What a server has to do with jobs, and one that sweeps more often than it would. */
async function serverOf(config: Config) {
  const lines: string[] = [];
  const log = pino({ base: null }, { write: (line) => void lines.push(line) });
  const backing: JobBacking = await openBacking(config, quietConnectors());
  const rules = { leaseMs: LEASE_SECONDS * 1000, attempts: ATTEMPTS, retryDelayMs };
  const jobs = createJobs({
    open: async () => backing,
    tools: { names: [CHAOS_TOOL], examine: () => ({ repeatable: false }) },
    rules,
    deadlineSeconds: 600,
    observe: { changed: () => {}, unavailable: (error) => log.warn({ event: "jobs.unavailable", err: error }) },
  });
  const sweeper = createSweeper({ backing, rules, deadlineSeconds: 600, retentionDays: 7, log, tellOf: () => {} });
  let closed = false;
  const sweeping = (async () => {
    while (!closed) {
      await delay(SWEEP_MS);
      await sweeper.sweep(OWED_MS).catch((error: unknown) => log.warn({ event: "jobs.sweep.failed", err: error }));
    }
  })();
  return {
    jobs,
    backing,
    lines,
    async close() {
      closed = true;
      await sweeping;
      await Promise.all([backing.queue.close(), backing.store.close()]);
    },
  };
}

const SWEEP_MS = 1500;
const OWED_MS = 2000;

function submitter(tenant: string): Submitter {
  return submitterOf({ subject: "chaos", method: "entra", tenant, role: "operator" });
}

/** The id of each, by its key. Those of one order key one after the other, as their order is meant. */
async function submitAll(planned: readonly PlannedJob[], server: Server): Promise<ReadonlyMap<string, string>> {
  const ids = new Map<string, string>();
  const lines = Map.groupBy(planned, ({ key, task }) => task.order?.key ?? key);
  const left = lines.values();
  const later: Promise<unknown>[] = [];
  await Promise.all(
    Array.from({ length: SUBMITTERS }, async () => {
      for (const line of left) {
        for (const each of line) {
          const job = await submit(server.jobs, each);
          ids.set(each.key, job.id);
          later.push(cancelLater(server.jobs, each, job), sendTwice(server.backing, each, job));
        }
      }
    }),
  );
  await Promise.all(later);
  return ids;
}

async function submit(jobs: Jobs, { key, tenant, task, repeatable, deadlineSeconds }: PlannedJob): Promise<Job> {
  const request = {
    tool: CHAOS_TOOL,
    args: task,
    idempotencyKey: key,
    orderKey: task.order?.key,
    repeatable,
    deadlineSeconds,
  };
  return (await untilAvailable(() => jobs.submit(submitter(tenant), request))).job;
}

async function cancelLater(jobs: Jobs, { tenant, cancelAfterMs }: PlannedJob, { id }: Job): Promise<void> {
  if (cancelAfterMs === undefined) return;
  await delay(cancelAfterMs);
  await untilAvailable(() => jobs.cancel(submitter(tenant), id));
}

async function sendTwice({ queue }: JobBacking, { twiceAfterMs }: PlannedJob, job: Job): Promise<void> {
  if (twiceAfterMs === undefined) return;
  await delay(twiceAfterMs);
  // Whether or not it arrives.
  await queue.send({ ...queuedJob(job), id: `${job.id}-twice` }).catch(() => {});
}

/** As a client does who has heard that it may try again. */
async function untilAvailable<Result>(ask: () => Promise<Result>): Promise<Result> {
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof JobsUnavailable)) throw error;
      await delay(200);
    }
  }
}

interface Outcome {
  readonly planned: readonly PlannedJob[];
  readonly ids: ReadonlyMap<string, string>;
  readonly store: JobStore;
  readonly letters: readonly DeadLetter[];
  readonly directory: string;
}

/** Looked at at once. */
const READERS = 16;

/** What is not as it should be, by the id of the job. */
async function findFaults({ planned, ids, store, letters, directory }: Outcome) {
  const found = new Map<string, string>();
  const ends: Record<string, number> = {};
  const partitions = new Map<string, string>();
  const ended = new Map<string, Job>();
  const effects = effectsIn(directory);
  const lettersOf = Map.groupBy(letters, ({ body }) => {
    const message = readMessage(body);
    return message.kind === "job" ? message.ref.id : "";
  });

  const left = planned.values();
  const look = async () => {
    for (const plan of left) {
      const id = ids.get(plan.key) ?? "";
      const ref = { id, partition: partitionOf(submitter(plan.tenant).caller) };
      partitions.set(id, ref.partition);
      const job = (await store.read(ref))?.job;
      if (job === undefined) {
        found.set(id, `was taken as ${plan.key}, and is lost`);
        continue;
      }
      ended.set(plan.key, job);
      ends[job.state] = (ends[job.state] ?? 0) + 1;
      const logged = await all(store.events({ ref }));
      const faults = [
        ...(await faultsOfLog(store, job, logged)),
        ...faultsOfEnd(plan, job),
        ...faultsOfLetters(job, lettersOf.get(id) ?? []),
        ...(await faultsOfEffects(job, {
          runs: await effects.runs(id),
          hasEffect: await effects.hasEffect(id),
          result: await store.content(ref, resultName(job.attempts)),
        })),
      ];
      if (faults.length > 0) found.set(id, `(${plan.key}) ${faults.join("; ")}`);
    }
  };
  await Promise.all(Array.from({ length: READERS }, look));

  for (const [key, line] of Map.groupBy(planned, ({ task }) => task.order?.key)) {
    if (key === undefined) continue;
    const order = await effects.order(key);
    let last = -1;
    for (const plan of line) {
      const job = ended.get(plan.key);
      // The run that counts. One that was lost may not have come so far as to leave a line.
      const at = order.findIndex(
        ({ place, attempt }) => place === plan.task.order?.place && attempt === job?.attempts && job?.attempts !== 0,
      );
      if (at < 0 || job === undefined) continue;
      if (at < last)
        found.set(job.id, `(${plan.key}) ran before one of ${key} that was taken earlier: ${JSON.stringify(order)}`);
      last = Math.max(at, last);
    }
  }
  for (const letter of lettersOf.get("") ?? [])
    found.set(letter.id, `is a dead letter of no job: ${letter.description}`);
  return { found, ends, partitionOf: (id: string) => partitions.get(id) ?? "" };
}

const END_EVENTS: ReadonlySet<JobEvent["type"]> = new Set(["completed", "cancelled", "expired", "dead-lettered"]);

async function faultsOfLog(store: JobStore, job: Job, logged: readonly LoggedEvent[]): Promise<string[]> {
  const faults: string[] = [];
  const last = logged.at(-1)?.event.type;
  const finals = logged.filter(({ event }) => END_EVENTS.has(event.type)).length;
  if (!FINAL_STATES.has(job.state)) faults.push(`is ${job.state}`);
  if (finals !== 1 || last === undefined || !END_EVENTS.has(last)) faults.push(`has ${finals} ends, and then ${last}`);
  const told = rebuild(
    (async function* () {
      yield* logged;
    })(),
  );
  for await (const { detail } of compare(told, store)) faults.push(detail);
  return faults;
}

const REASONS: Partial<Record<Job["state"], RegExp>> = {
  failed: /^(There is nothing that it could do; |chaos failed by a fault of its own; )/,
  expired: /^Its deadline passed /,
  dead: /(so what it has done is not known|^\d runs? (was|were) lost or broke\. The last: .{20})/,
};

function faultsOfEnd({ ends }: PlannedJob, { state, reason = "", repeatable }: Job): string[] {
  const faults: string[] = [];
  const may = [...ends, "dead"];
  if (!may.includes(state)) faults.push(`is ${state} (${reason}), and should be ${may.join(" or ")}`);
  const expected = REASONS[state];
  if (expected !== undefined && !expected.test(reason)) faults.push(`is ${state} with the reason ${reason}`);
  if (repeatable && reason === LOST) faults.push("is repeatable, and was given up for lost");
  return faults;
}

function faultsOfLetters({ state, reason }: Job, letters: readonly DeadLetter[]): string[] {
  const faults = letters
    .filter(({ description }) => description !== reason)
    .map(({ reason, description }) => `has a dead letter that says ${reason}: ${description}`);
  if (state === "dead" && letters.length === 0) faults.push("is dead, and has no dead letter");
  if (state !== "dead" && letters.length > 0) faults.push(`is ${state}, and has a dead letter`);
  return faults;
}

interface Effects {
  readonly runs: readonly number[];
  readonly hasEffect: boolean;
  readonly result: string | undefined;
}

async function faultsOfEffects(
  { state, attempts, repeatable }: Job,
  { runs, hasEffect, result }: Effects,
): Promise<string[]> {
  const faults: string[] = [];
  if (new Set(runs).size !== runs.length) faults.push(`did the same run twice: ${runs}`);
  if (runs.some((run) => run > attempts)) faults.push(`did runs that were never begun: ${runs}`);
  if (!repeatable && runs.length > 1) faults.push(`had its effect ${runs.length} times, by the runs ${runs}`);
  if (!repeatable && attempts > 1 && runs.some((run) => run !== attempts))
    faults.push(`was begun again after it did something`);
  if (state !== "succeeded") return faults;
  if (!runs.includes(attempts)) faults.push(`succeeded by run ${attempts}, which did nothing: ${runs}`);
  if (!hasEffect) faults.push("succeeded without its effect");
  if (!result?.includes(`"structuredContent":{"attempt":${attempts}}`)) faults.push(`has the result ${result}`);
  return faults;
}
