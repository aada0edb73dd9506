import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { afterAll, beforeAll, describe, test } from "vitest";
import { CHECKOUT } from "../../infra/cli/checkout.ts";
import { Azurite } from "../../infra/rehearsal/azurite.ts";
import { ServiceBusDouble } from "../../infra/rehearsal/service-bus/service-bus-double.ts";
import { type AtEnd, type ServerProcess, startServer, temporaryDirectory } from "../infra/cli/server-process.ts";
import { isRunning, sleepMark } from "./running-processes.ts";

/*
 * A server that takes jobs and workers that run them, each in a process of its own, with a queue and a store between them
 * that speak what Azure's do.
 */

/** How long a message, and a job, is its worker's without a sign of life: as long as a test can wait. */
const LOCK_MS = 3000;
const LEASE_SECONDS = "2";

let bus: ServiceBusDouble;
let storage: Azurite;

beforeAll(async () => {
  const settings = { lockMs: LOCK_MS, maxDeliveryCount: 10, duplicateWindowMs: 60_000 };
  [bus, storage] = await Promise.all([
    ServiceBusDouble.start({
      queues: ["one", "two", "three"].flatMap((name) => [
        { name, ...settings },
        { name: `${name}-ordered`, requiresSession: true, ...settings },
      ]),
    }),
    Azurite.start(),
  ]);
  await Promise.all([storage.createTable("jobs"), storage.createContainer("jobs")]);
});

afterAll(async () => {
  await Promise.all([bus.close(), storage.close()]);
});

const environment = (queue: string, workspace: string) => ({
  WORKSPACE_PATH: workspace,
  SHUTDOWN_GRACE_SECONDS: "25",
  SERVICE_BUS_NAMESPACE: bus.host,
  SERVICE_BUS_QUEUE: queue,
  SERVICE_BUS_ORDERED_QUEUE: `${queue}-ordered`,
  JOBS_TABLE_ENDPOINT: storage.tableEndpoint,
  JOBS_TABLE_NAME: "jobs",
  JOBS_BLOB_ENDPOINT: storage.blobEndpoint,
  JOBS_BLOB_CONTAINER: "jobs",
  JOBS_AUTH: "emulator",
  JOB_LEASE_SECONDS: LEASE_SECONDS,
});

interface Pair {
  readonly workspace: string;
  readonly client: Client;
  worker(env?: Record<string, string>): Promise<ServerProcess>;
}

/** A server with a client, and as many workers as are asked for, on queues of their own. */
async function pairOn(queue: string, atEnd: AtEnd): Promise<Pair> {
  const workspace = join(await temporaryDirectory(atEnd), "workspace");
  await mkdir(workspace);
  const start = (entry: string, env: Record<string, string>) =>
    startServer({ ...environment(queue, workspace), ...env }, [join(CHECKOUT, "server", entry)], atEnd);
  const server = await start("main.js", {});
  const client = new Client({ name: "test-client", version: "1.0.0" });
  await client.connect(new StreamableHTTPClientTransport(new URL(server.url)));
  atEnd(() => client.close());
  return { workspace, client, worker: (env = {}) => start("worker.js", env) };
}

type View = Record<string, unknown> & { id: string; state: string };

async function call(client: Client, name: string, args: object): Promise<View> {
  const { structuredContent, content } = await client.callTool({ name, arguments: { ...args } });
  if (structuredContent === undefined) throw new Error(JSON.stringify(content));
  return structuredContent as View;
}

const submit = (client: Client, command: string, rest: object = {}) =>
  call(client, "submit_job", { tool: "execute_command", arguments: { command }, ...rest });
const ended = (client: Client, { id }: View) => call(client, "get_job", { id, wait_seconds: 30 });

// Most of the time is spent waiting for processes and leases.
describe.concurrent("a worker in a process of its own", () => {
  test("runs what is submitted to a server, says when it can, and finishes when it is told to end", async ({
    expect,
    onTestFinished,
  }) => {
    const { client, worker } = await pairOn("one", onTestFinished);
    const early = await submit(client, "echo hello > out; cat out");
    const first = await worker();
    await expect.poll(async () => (await fetch(new URL("/health/ready", first.url))).status).toBe(200);
    expect((await fetch(new URL("/mcp", first.url), { method: "POST" })).status).toBe(404);
    expect(await ended(client, early)).toMatchObject({
      state: "succeeded",
      attempts: 1,
      result: { exitCode: 0, stdout: "hello\n" },
    });
    const metrics = await (await fetch(new URL("/metrics", first.metricsUrl))).text();
    expect(metrics).toContain('mcp_jobs_total{tool="execute_command",outcome="succeeded"} 1');

    // It is told to end while one runs: that is finished, and the next is another's.
    const running = await submit(client, "until [ -e go ]; do sleep 0.05; done; echo finished");
    await expect.poll(() => call(client, "get_job", { id: running.id })).toMatchObject({ state: "running" });
    void first.stop();
    await first.event("worker.draining");
    const next = await submit(client, "echo next");
    await client.callTool({ name: "file_operation", arguments: { operation: "write", path: "go", content: "" } });
    expect(await ended(client, running)).toMatchObject({ state: "succeeded", result: { stdout: "finished\n" } });
    expect(await first.exited).toEqual({ code: 0, signal: null });
    await worker();
    expect(await ended(client, next)).toMatchObject({ state: "succeeded", result: { stdout: "next\n" } });
  });

  test("that is killed leaves its jobs to another: run again if they may be, set aside if not", async ({
    expect,
    onTestFinished,
  }) => {
    const { workspace, client, worker } = await pairOn("two", onTestFinished);
    const killed = await worker();
    // The first run waits for ever.
    const command = (name: string) => `echo run >> ${name}; [ $(wc -l < ${name}) -gt 1 ] || sleep 86400`;
    const again = await submit(client, command("again"), { repeatable: true });
    const once = await submit(client, command("once"));
    for (const { id } of [again, once]) {
      await expect.poll(() => call(client, "get_job", { id })).toMatchObject({ state: "running" });
    }
    const begun = async () => (await readdir(workspace)).filter((name) => ["again", "once"].includes(name));
    await expect.poll(begun).toHaveLength(2);
    await killed.stop("SIGKILL");
    await worker();
    expect(await ended(client, again)).toMatchObject({ state: "succeeded", attempts: 2 });
    expect(await ended(client, once)).toMatchObject({
      state: "dead",
      attempts: 1,
      reason: expect.stringContaining("what it has done is not known"),
    });
    const { content } = await call(client, "file_operation", { operation: "read", path: "once" });
    expect(content).toBe("run\n");
  });

  test("ends a job's command when the job is cancelled, and hands back at the end of its grace", async ({
    expect,
    onTestFinished,
  }) => {
    const { client, worker } = await pairOn("three", onTestFinished);
    const first = await worker({ SHUTDOWN_GRACE_SECONDS: "1" });
    const mark = sleepMark();
    const job = await submit(client, `sleep ${mark}`);
    await expect.poll(() => isRunning(mark)).toBe(true);
    await call(client, "cancel_job", { id: job.id });
    expect(await ended(client, job)).toMatchObject({ state: "cancelled" });
    await expect.poll(() => isRunning(mark)).toBe(false);

    const back = await submit(client, "echo run >> back; [ $(wc -l < back) -gt 1 ] || sleep 86400", {
      repeatable: true,
    });
    await expect.poll(() => call(client, "get_job", { id: back.id })).toMatchObject({ state: "running" });
    void first.stop();
    expect(await first.exited).toEqual({ code: 0, signal: null });
    expect(await call(client, "get_job", { id: back.id })).toMatchObject({ state: "queued", attempts: 1 });
    await worker();
    expect(await ended(client, back)).toMatchObject({ state: "succeeded", attempts: 2 });
  });

  test("goes on when Azure's client leaves a promise to nobody, and ends when its own code does", async ({
    expect,
    onTestFinished,
  }) => {
    const entry = ["--import", join(CHECKOUT, "test/server/stray-rejections.ts"), join(CHECKOUT, "server/worker.js")];
    const workspace = await temporaryDirectory(onTestFinished);
    const worker = await startServer(environment("one", workspace), entry, onTestFinished);
    process.kill(worker.pid, "SIGUSR2");
    expect(await worker.event("rejection.stray")).toMatchObject({
      err: { message: expect.stringContaining("127.0.0.1:1") },
    });
    expect((await fetch(new URL("/health/live", worker.url))).status).toBe(200);
    process.kill(worker.pid, "SIGUSR2");
    expect(await worker.event("worker.failed")).toMatchObject({ err: { message: "Nobody handles this." } });
    expect(await worker.exited).toEqual({ code: 1, signal: null });
  });

  test("does not start without a queue and a store, and says what is missing", async ({ expect, onTestFinished }) => {
    const started = startServer({}, [join(CHECKOUT, "server/worker.js")], onTestFinished);
    await expect(started).rejects.toThrow(
      /ended with 1: .*SERVICE_BUS_NAMESPACE must be set: a worker has a queue to take jobs from, and a store/s,
    );
  });
});
