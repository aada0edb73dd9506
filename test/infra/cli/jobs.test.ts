import { spawn } from "node:child_process";
import { mkdir, mkdtemp, realpath, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { CHECKOUT } from "../../../infra/cli/checkout.ts";
import { unreachable } from "../../../infra/cli/jobs/unreachable.ts";
import { runProgram } from "../../../infra/cli/program.ts";
import { announceRehearsal } from "../../../infra/cli/rehearsal-state.ts";
import { Azurite } from "../../../infra/rehearsal/azurite.ts";
import { ServiceBusDouble } from "../../../infra/rehearsal/service-bus/service-bus-double.ts";
import { after, type Job, type JobEvent, type JobRef, newJobId } from "../../../server/services/jobs/job.ts";
import { queuedJob } from "../../../server/services/jobs/jobs.ts";
import type { JobQueue } from "../../../server/services/jobs/queue.ts";
import { createServiceBusQueue } from "../../../server/services/jobs/queue-service-bus.ts";
import type { JobStore } from "../../../server/services/jobs/store.ts";
import { createAzureStore } from "../../../server/services/jobs/store-azure.ts";
import { startAzureServices } from "../../server/azure-services.ts";
import { submitted } from "../../server/job-histories.ts";
import { recordingTerminal } from "./recording-terminal.ts";
import { temporaryDirectory } from "./server-process.ts";

const [QUEUE, ORDERED, TABLE, CONTAINER] = ["mcp-jobs", "mcp-jobs-ordered", "jobs", "jobs"];
const MINUTE = 60_000;

let bus: ServiceBusDouble;
let storage: Azurite;
let store: JobStore;
let queue: JobQueue;
let directory: string;
let before: string | undefined;
/** Each test's own tenant: the table is everybody's. */
let tenant: string;
let tenants = 0;

beforeAll(async () => {
  const settings = { lockMs: MINUTE, maxDeliveryCount: 10, duplicateWindowMs: 10 * MINUTE };
  [bus, storage, directory] = await Promise.all([
    ServiceBusDouble.start({
      queues: [
        { ...settings, name: QUEUE },
        { ...settings, name: ORDERED, requiresSession: true },
      ],
    }),
    Azurite.start(),
    mkdtemp(join(tmpdir(), "mcp-jobs-test-")),
  ]);
  await Promise.all([storage.createTable(TABLE), storage.createContainer(CONTAINER)]);
  const { tableEndpoint, blobEndpoint } = storage;
  store = createAzureStore({ tableEndpoint, table: TABLE, blobEndpoint, container: CONTAINER, auth: "emulator" });
  queue = createServiceBusQueue({ host: bus.host, queue: QUEUE, orderedQueue: ORDERED, credential: "emulator" });
  before = process.env.MCP_AKS_REHEARSALS;
  process.env.MCP_AKS_REHEARSALS = directory;
  await announceRehearsal(
    {
      stack: "dev",
      pid: process.pid,
      name: "mcp-dev",
      url: "http://127.0.0.1:1/mcp",
      metricsUrl: "http://127.0.0.1:1/metrics",
      plannedUrl: "https://mcp.example.com/mcp",
      startedAt: new Date().toISOString(),
      jobs: {
        serviceBus: bus.host,
        queue: QUEUE,
        orderedQueue: ORDERED,
        tableEndpoint,
        tableName: TABLE,
        blobEndpoint,
        blobContainer: CONTAINER,
        from: "this machine",
      },
    },
    "key",
  );
});
afterAll(async () => {
  if (before === undefined) delete process.env.MCP_AKS_REHEARSALS;
  else process.env.MCP_AKS_REHEARSALS = before;
  await Promise.all([queue.close(), store.close()]);
  await Promise.all([bus.close(), storage.close(), rm(directory, { recursive: true, force: true })]);
});
beforeEach(() => {
  tenants += 1;
  tenant = `00000000-0000-4000-8000-${String(tenants).padStart(12, "0")}`;
});

interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly text: string;
}

async function jobs(...args: string[]): Promise<Ran> {
  return ask(undefined, ...args);
}

async function ask(answer: ((question: string) => Promise<string>) | undefined, ...args: string[]): Promise<Ran> {
  const terminal = { ...recordingTerminal(), ...(answer && { ask: answer }) };
  const code = await runProgram(["jobs", ...args], terminal);
  return { code, text: terminal.text(), stdout: terminal.stdout() };
}

/** A job of this test's tenant, after these events. */
async function job(
  events: (attempt: { readonly at: string }) => readonly JobEvent[] = () => [],
  more: Parameters<typeof submitted>[0] = {},
): Promise<Job> {
  const at = new Date(store.now()).toISOString();
  const ref: JobRef = { partition: `tenant-${tenant}`, id: newJobId(store.now()) };
  const caller = { subject: "ada", method: "entra", role: "operator", tenant } as const;
  const first = submitted({ caller, deadline: new Date(store.now() + MINUTE).toISOString(), ...more });
  let kept = after(undefined, first, ref);
  await store.insert(kept, first);
  await store.sent(ref);
  for (const event of events({ at })) {
    const stored = await store.read(ref);
    if (stored === undefined) throw new Error("it was just inserted");
    kept = after(kept, event, ref);
    await store.update(stored, kept, [event]);
  }
  return kept;
}

const REASON = "Its worker was lost while it ran, and what it has done is not known.";
const toDeath = ({ at }: { at: string }): JobEvent[] => [
  { type: "started", attempt: 1, worker: "w1", at },
  { type: "dead-lettered", reason: REASON, at },
];

/** Sends a job's message and has it set aside, as a worker does. */
async function setAside(body: Job | string, reason = "lost"): Promise<void> {
  const message = typeof body === "string" ? { id: newJobId(0), body } : queuedJob(body);
  const done = Promise.withResolvers<void>();
  const receiving = queue.receive({
    concurrency: 1,
    onError: done.reject,
    handle: (delivery) => delivery.deadLetter(reason, "a sentence").then(done.resolve, done.reject),
  });
  await queue.send(message);
  await done.promise;
  await receiving.stop();
}

/** The next message of the queue. */
async function received(): Promise<{ readonly id: string; readonly body: string }> {
  const next = Promise.withResolvers<{ readonly id: string; readonly body: string }>();
  const receiving = queue.receive({
    concurrency: 1,
    onError: next.reject,
    handle: async (delivery) => {
      await delivery.complete();
      next.resolve(delivery);
    },
  });
  const delivery = await next.promise;
  await receiving.stop();
  return delivery;
}

const letters = async () => (await queue.deadLetters.list(100)).map(({ sequence }) => sequence);
const sequenceOf = async ({ id }: Job) => {
  const found = (await queue.deadLetters.list(100)).find(({ body }) => body.includes(id));
  if (found === undefined) throw new Error(`There is no dead letter of ${id}.`);
  return found.sequence;
};
const stateOf = async (ref: JobRef) => (await store.read(ref))?.job;

describe("jobs cancel", () => {
  const from = (subject: string) => ({ caller: { subject, method: "entra", role: "operator", tenant } as const });

  test("ends all of one submitter's that have not ended, and nobody else's", async () => {
    const waiting = await job(undefined, from("eve"));
    const running = await job(({ at }) => [{ type: "started", attempt: 1, worker: "w1", at }], from("eve"));
    const over = await job(toDeath, from("eve"));
    const others = await job(undefined, from("ada"));
    const { code, text } = await jobs("cancel", "--submitter", "eve", "--tenant", tenant, "--yes");
    expect(code, text).toBe(0);
    expect(await stateOf(waiting)).toMatchObject({ state: "cancelled" });
    expect(await stateOf(running)).toMatchObject({ state: "running", cancelRequestedAt: expect.any(String) });
    expect(await stateOf(over)).toMatchObject({ state: "dead" });
    expect(await stateOf(others)).toEqual(others);
    expect(text).toContain(`${waiting.id}: cancelled.`);
    expect(text).toContain(`${running.id}: it runs, and is told to end.`);
    // Nothing more comes of it the second time.
    const again = await jobs("cancel", running.id, waiting.id, "--tenant", tenant, "--yes", "--json");
    expect(JSON.parse(again.stdout)).toEqual({
      cancelled: [
        { id: running.id, outcome: "asked" },
        { id: waiting.id, outcome: "ended" },
      ],
    });
  });

  test("asks first, and wants to know which", async () => {
    const { id } = await job();
    const { code, text } = await ask(async () => "n", "cancel", id, "--tenant", tenant);
    expect(code, text).not.toBe(0);
    expect(text).toContain("Nothing was cancelled.");
    expect(await stateOf({ partition: `tenant-${tenant}`, id })).toMatchObject({ state: "queued" });
    expect((await jobs("cancel")).text).toContain("Say which, by id, or whose by --submitter");
    expect((await jobs("cancel", "x")).text).toContain('"x" is no job\'s id');
  });
});

describe("jobs list and show", () => {
  test("tell the jobs of a tenant, the newest first, and those in a state", async () => {
    const old = await job(toDeath, { tool: "execute_command" });
    await new Promise((resolve) => setTimeout(resolve, 2));
    const young = await job();
    const { code, stdout, text } = await jobs("list", "--tenant", tenant);
    expect(code, text).toBe(0);
    expect(stdout.split("\n").slice(1, 3)).toEqual([
      expect.stringMatching(new RegExp(`^${young.id} +system_info +queued +0 +.* - +ada$`)),
      expect.stringMatching(new RegExp(`^${old.id} +execute_command +dead +1 `)),
    ]);
    const dead = JSON.parse((await jobs("list", "--tenant", tenant, "--state", "dead", "--json")).stdout);
    expect(dead.jobs.map(({ id }: Job) => id)).toEqual([old.id]);
    const one = await jobs("list", "--tenant", tenant, "--limit", "1");
    expect(one.stdout).not.toContain(old.id);
    expect(one.text).toContain("There are more");
    const all = JSON.parse((await jobs("list", "--json", "--limit", "500")).stdout);
    expect(all.jobs.map(({ id }: Job) => id)).toEqual(expect.arrayContaining([old.id, young.id]));
  });

  test("tell everything that happened to one, whoever's it is", async () => {
    const { id } = await job(toDeath);
    const { code, stdout } = await jobs("show", id);
    expect(code).toBe(0);
    expect(stdout).toMatch(/state +dead\n +why +Its worker was lost/);
    expect(stdout).toMatch(/1 .* submitted: system_info.*\n.*2 .* started: run 1 by w1\n.*3 .* dead-lettered: Its/);
    const { job: shown, events } = JSON.parse((await jobs("show", id, "--json")).stdout);
    expect([shown.id, events.length]).toEqual([id, 3]);
    const unknown = await jobs("show", newJobId(0));
    expect([unknown.code, unknown.text]).toEqual([1, expect.stringContaining("removed after its time")]);
    expect((await jobs("show", "42")).text).toContain('"42" is no job\'s id');
  });
});

describe("jobs dead-letter", () => {
  test("lists letters with their jobs, dead jobs without a letter, and messages that nobody can read", async () => {
    const lost = await job(toDeath);
    await setAside(lost);
    const bare = await job(toDeath);
    await setAside('{"not":"ours"}', "unreadable");
    const { stdout, code } = await jobs("dead-letter", "list");
    expect(code).toBe(0);
    expect(stdout).toMatch(new RegExp(`^\\d+ +${lost.id} +system_info +dead .* lost\n  ${REASON}$`, "m"));
    expect(stdout).toMatch(new RegExp(`^- +${bare.id} +system_info +dead `, "m"));
    expect(stdout).toMatch(/^\d+ +- +- +- .* unreadable\n {2}a sentence$/m);
    const report = (await jobs("dead-letter", "list", "--json")).stdout;
    expect(report).not.toContain('not\\"');
    expect(JSON.parse(report).setAside.find((each: { job?: string }) => each.job === lost.id)).toMatchObject({
      letter: { reason: "lost", deliveries: 1 },
      state: "dead",
    });
    const all = await jobs("dead-letter", "drop", "--all", "--yes");
    expect(all.code, all.text).toBe(0);
    expect(await letters()).toEqual([]);
    expect((await stateOf(lost))?.state).toBe("dead");
    expect(all.text).not.toContain(bare.id);
  });

  test("replays a dead job: it is queued until a new deadline, and its message comes again, at once", async () => {
    const dead = await job(toDeath);
    await setAside(dead);
    const { code, text } = await jobs("dead-letter", "replay", await sequenceOf(dead), "--deadline", "2h", "--yes");
    expect(code, text).toBe(0);
    expect(text).toMatch(new RegExp(`✔ \\d+ \\(job ${dead.id}\\): replayed\\.`));
    const now = await stateOf(dead);
    expect(now).toMatchObject({ state: "queued", failures: 0, attempts: 1 });
    expect(Date.parse(now?.deadline ?? "") - store.now()).toBeGreaterThan(119 * MINUTE);
    const message = await received();
    expect(message.body).toContain(dead.id);
    expect(message.id).not.toBe(dead.id);
    expect(await letters()).toEqual([]);
    for await (const owed of store.owed(0)) expect(owed.id).not.toBe(dead.id);
    const again = await jobs("dead-letter", "replay", dead.id, "--yes");
    expect([again.code, again.text]).toEqual([1, expect.stringContaining("Nothing was set aside as")]);
  });

  test("replays a dead job of which the queue has no letter, and one whose jobs run in order in its place", async () => {
    const bare = await job(toDeath);
    expect((await jobs("dead-letter", "replay", bare.id, "--yes")).code).toBe(0);
    expect((await received()).body).toContain(bare.id);
    const inOrder = await job(toDeath, { orderKey: "mine" });
    await setAside(inOrder);
    const sequence = await sequenceOf(inOrder);
    expect((await jobs("dead-letter", "replay", sequence, "--yes")).code).toBe(0);
    expect((await received()).body).toContain(inOrder.id);
  });

  test("goes on where it was ended: after the store was told, and before the queue was", async () => {
    const dead = await job(toDeath);
    await setAside(dead);
    const stored = await store.read(dead);
    if (stored === undefined) throw new Error("it was just written");
    const at = new Date(store.now()).toISOString();
    const event = { type: "replayed", by: "ada", deadline: new Date(store.now() + MINUTE).toISOString(), at } as const;
    await store.update(stored, after(stored.job, event, dead), [event], { owed: true });
    const { code, text } = await jobs("dead-letter", "replay", dead.id, "--yes");
    expect([code, text]).toEqual([0, expect.stringContaining("resent")]);
    expect((await received()).body).toContain(dead.id);
    expect(await letters()).toEqual([]);
    expect((await stateOf(dead))?.version).toBe(4);
  });

  test("does not run again what has ended since, and takes its letter away", async () => {
    const done = await job(({ at }) => [
      { type: "started", attempt: 1, worker: "w1", at },
      { type: "completed", attempt: 1, outcome: "succeeded", at },
    ]);
    await setAside(done);
    const { code, text } = await jobs("dead-letter", "replay", "--all", "--tenant", tenant, "--yes");
    expect([code, text]).toEqual([0, expect.stringContaining("ended. It has ended since: succeeded.")]);
    expect(await letters()).toEqual([]);
    expect((await stateOf(done))?.state).toBe("succeeded");
  });

  test("drops a letter for good; a job that had not ended is dead by that, and says why", async () => {
    const queued = await job();
    await setAside(queued, "MaxDeliveryCountExceeded");
    const { code, text } = await jobs("dead-letter", "drop", await sequenceOf(queued), "--yes");
    expect(code, text).toBe(0);
    expect(await letters()).toEqual([]);
    expect(await stateOf(queued)).toMatchObject({
      state: "dead",
      reason: "Its message was set aside by the queue (MaxDeliveryCountExceeded), and dropped by an operator.",
    });
  });

  test("drops nothing of a job that runs", async () => {
    const running = await job(({ at }) => [{ type: "started", attempt: 1, worker: "w1", at }]);
    await setAside(running);
    const { code, text } = await jobs("dead-letter", "drop", await sequenceOf(running), "--yes");
    expect([code, text]).toEqual([1, expect.stringMatching(/kept\. It is running[\s\S]*1 of 1 could not be done/)]);
    expect((await stateOf(running))?.state).toBe("running");
    // Left for nobody.
    await queue.deadLetters.drop(await sequenceOf(running));
  });

  test("asks before it changes anything, and says when a job may do a second time what it did", async () => {
    const dead = await job(toDeath, { repeatable: false });
    const unasked = await jobs("dead-letter", "replay", dead.id);
    expect([unasked.code, unasked.text]).toEqual([2, expect.stringContaining("say --yes")]);
    let question = "";
    const refused = await ask(
      async (asked) => {
        question = asked;
        return "n";
      },
      "dead-letter",
      "replay",
      dead.id,
    );
    expect([refused.code, refused.text]).toEqual([1, expect.stringContaining("Nothing was replayed.")]);
    expect(question).toMatch(/^Have one job run again\? Of 1 it is not known .* second time\./);
    expect((await stateOf(dead))?.state).toBe("dead");
  });
});

describe("jobs replay", () => {
  test("finds what is not as the events say, mends it when told to, and runs nothing", async () => {
    const sound = await job(toDeath);
    const wrong = await job(toDeath);
    const stored = await store.read(wrong);
    if (stored === undefined) throw new Error("it was just written");
    await store.update(stored, { ...wrong, state: "succeeded", reason: undefined }, []);
    const dry = await jobs("replay", "--since", "1h", "--dry-run");
    expect(dry.code).toBe(1);
    expect(dry.stdout).toMatch(new RegExp(`✖ ${wrong.id} differs: .*state.* by its events it is dead`));
    expect(dry.stdout).not.toContain(sound.id);
    expect((await stateOf(wrong))?.state).toBe("succeeded");
    const mended = await jobs("replay", "--since", "1h", "--yes", "--json");
    expect(mended.code, mended.text).toBe(0);
    expect(JSON.parse(mended.stdout)).toMatchObject({ mended: [wrong.id], differences: [{ kind: "differs" }] });
    expect(await stateOf(wrong)).toMatchObject({ state: "dead", reason: REASON });
    const again = await jobs("replay", "--since", "1h", "--dry-run");
    expect([again.code, again.text]).toEqual([0, expect.stringContaining("all are as their events say")]);
  });
});

describe("a deployed stack's jobs", () => {
  const place = {
    serviceBus: "sb-mcp-prod-x7k2p.servicebus.windows.net",
    queue: QUEUE,
    orderedQueue: ORDERED,
    tableEndpoint: "https://stmcpprodx7k2p.table.core.windows.net",
    tableName: TABLE,
    blobEndpoint: "https://stmcpprodx7k2p.blob.core.windows.net",
    blobContainer: CONTAINER,
    from: "inside the network",
  };
  const odata = (code: string) =>
    Object.assign(new Error(code), { statusCode: 403, details: { odataError: { code } } });

  test.each([
    [odata("AuthorizationFailure"), "They are reached from inside the network."],
    [odata("AuthorizationPermissionMismatch"), "It takes the roles"],
    [new Error("ENOTFOUND: getaddrinfo ENOTFOUND sb-mcp"), "They are reached from inside the network."],
    [Object.assign(new Error("Listen claim"), { code: "UnauthorizedAccess" }), "It takes the roles"],
    [new AggregateError([Object.assign(new Error("x"), { code: "ServiceTimeout" })]), "They are reached from"],
    [Object.assign(new Error("az"), { name: "CredentialUnavailableError" }), "Log in first: az login."],
  ])("behind %s are told with what to do", (error, mend) => {
    expect(unreachable(error, place)).toMatchObject({ message: expect.stringContaining(mend) });
  });

  test("that Azure refuses to show are told with the roles that they take, and from where", async () => {
    const ends: (() => Promise<void>)[] = [];
    onTestFinished(async () => {
      for (const end of ends) await end();
    });
    const here = await realpath(await temporaryDirectory((end) => ends.push(end)));
    const azure = await startAzureServices(here);
    ends.unshift(() => azure.close());
    azure.onRequest = () => 403;
    const outputs = {
      jobs: {
        serviceBus: "sb-mcp-dev-x7k2p.servicebus.windows.net",
        queue: QUEUE,
        orderedQueue: ORDERED,
        tableEndpoint: azure.tableEndpoint,
        tableName: TABLE,
        blobEndpoint: azure.tableEndpoint,
        blobContainer: CONTAINER,
        from: "the office",
      },
    };
    const bin = join(here, "bin");
    await mkdir(bin);
    await writeFile(join(bin, "pulumi"), `#!/bin/sh\necho '${JSON.stringify(outputs)}'\n`, { mode: 0o755 });
    const person = await azure.personEnv();
    const child = spawn(process.execPath, [join(CHECKOUT, "infra/cli/main.ts"), "jobs", "list", "--deployed"], {
      env: { HOME: here, ...person, PATH: bin + delimiter + person.PATH },
      stdio: ["ignore", "ignore", "pipe"],
    });
    const text = await child.stderr.setEncoding("utf8").toArray();
    expect(text.join("")).toMatch(
      /cannot be reached: .*\nIt takes the roles Azure Service Bus Data Receiver.*the office/,
    );
    expect(text.join("")).not.toMatch(/token-of|\n\s+at /);
    expect(azure.requests).toEqual(["GET /jobs()"]);
  });
});

describe("the command line", () => {
  test.each([
    [["dead-letter", "replay"], /Say which, .* or --all/],
    [["dead-letter", "drop", "1", "--all"], /Say which, .* not both/],
    [["list", "--state", "asleep"], /Allowed choices are queued, running/],
    [["list", "--limit", "0"], /give a number from 1/],
    [["replay"], /required option '--since <time>'/],
    [["replay", "--since", "yesterday"], /2026-01-31T12:00:00Z, or so long ago/],
    [["list", "--stack", "prd"], /There is no stack "prd"; did you mean prod\?/],
  ])("%j is a mistake", async (args, message) => {
    const { code, text } = await jobs(...args);
    expect(code).toBe(2);
    expect(text).toMatch(message);
    expect(text).not.toMatch(/\n\s+at /);
  });
});
