import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { z } from "zod";
import { retryDelayMs } from "../../server/jobs/retry-delay.ts";
import { after } from "../../server/services/jobs/job.ts";
import { JobRefused, JobsUnavailable, MOST_UNFINISHED } from "../../server/services/jobs/jobs.ts";
import type { JobQueue } from "../../server/services/jobs/queue.ts";
import { createMemoryQueue } from "../../server/services/jobs/queue-memory.ts";
import { type JobStore, UnreadableJob } from "../../server/services/jobs/store.ts";
import { createMemoryStore } from "../../server/services/jobs/store-memory.ts";
import { defineTool, type Tool } from "../../server/tools/define-tool.ts";
import { tools as ownTools } from "../../server/tools/index.ts";
import { authenticate, bearer } from "./callers.ts";
import { jobParts } from "./job-parts.ts";
import { messageIn, rpc, type TestApp, testApp } from "./running-app.ts";

/*
 * Jobs as callers have them: what is taken and what is refused, who sees what, and what is kept when queue or store is not
 * there. The server runs its jobs itself here.
 */

interface Result {
  readonly content: { type: string; text?: string; uri?: string }[];
  readonly structuredContent?: Record<string, unknown> & { id: string; state: string };
  readonly isError?: boolean;
}

async function call({ app }: TestApp, caller: string, name: string, args: object = {}): Promise<Result> {
  const { body } = await app.inject(rpc("tools/call", { name, arguments: args }, bearer(caller)));
  const { result, error } = messageIn(body);
  return result === undefined
    ? { isError: true, content: [{ type: "text", text: error?.message ?? "" }] }
    : (result as never);
}

const said = ({ isError, content }: Result) => (isError ? content[0]?.text : content);
const serving = (env: Record<string, string> = {}, tools?: readonly Tool[]) => testApp(env, tools, { authenticate });
const submit = async (server: TestApp, caller: string, command: string, rest: object = {}) => {
  const { structuredContent, content } = await call(server, caller, "submit_job", {
    tool: "execute_command",
    arguments: { command },
    ...rest,
  });
  if (structuredContent === undefined) throw new Error(JSON.stringify(content));
  return structuredContent;
};
const ended = (server: TestApp, caller: string, { id }: { id: string }) =>
  call(server, caller, "get_job", { id, wait_seconds: 20 });

test("a job gives what the call would have given, to its submitter, and is on record as its call", async () => {
  const server = await serving();
  const job = await submit(server, "operator", "echo hello > file; cat file");
  expect(job).toMatchObject({ tool: "execute_command", existing: false });
  const { structuredContent, content } = await ended(server, "operator", job);
  const result = { exitCode: 0, stdout: "hello\n" };
  expect(structuredContent).toMatchObject({ id: job.id, state: "succeeded", attempts: 1, result });
  const [view, own] = content.map(({ text = "{}" }) => JSON.parse(text));
  expect(view).toMatchObject({ id: job.id, state: "succeeded" });
  expect(view).not.toHaveProperty("result");
  expect(own).toMatchObject(result);
  const read = { operation: "read", path: "file" };
  expect((await call(server, "operator", "file_operation", read)).structuredContent).toMatchObject({
    content: "hello\n",
  });

  const calls = server.events().filter(({ event }) => event === "tool.called");
  expect(calls).toContainEqual(
    expect.objectContaining({
      tool: "execute_command",
      subject: "the operator",
      outcome: "ok",
      arguments: expect.objectContaining({ job: job.id, attempt: "1" }),
    }),
  );
  expect(calls).toContainEqual(expect.objectContaining({ tool: "submit_job", arguments: { tool: "execute_command" } }));
});

test("the description of submit_job names the tools that may be jobs", () => {
  const description = ownTools.find(({ name }) => name === "submit_job")?.listing.description ?? "";
  const named = ownTools.filter(({ job }) => job).map(({ name }) => name);
  expect(named.length).toBeGreaterThan(0);
  expect(description).toContain(`Tools that may be jobs: ${named.join(", ")}.`);
});

describe("a job is refused", () => {
  const policy = JSON.stringify({ tools: { execute_command: { allow: { operator: { program: ["git"] } } } } });

  test("as the call would be, when it is submitted", async () => {
    const server = await serving({ ACCESS_POLICY: policy });
    const sentence = async (caller: string, args: object) => said(await call(server, caller, "submit_job", args));
    const ls = { command: "ls", args: [] };
    const there = "tools that may be jobs are execute_command.";
    expect(await sentence("operator", { tool: "rm" })).toBe(`Unknown tool "rm"; ${there}`);
    expect(await sentence("operator", { tool: "system_info" })).toBe(
      `system_info is none that may be a job: call it directly; ${there}`,
    );
    // Hidden is as unknown.
    expect(await sentence("reader", { tool: "execute_command", arguments: ls })).toBe(
      'Unknown tool "execute_command"; no tool may be a job for you.',
    );
    expect(await sentence("operator", { tool: "execute_command", arguments: ls })).toBe(
      'execute_command was not run: "program" is "ls", and your role (operator) may have git.',
    );
    expect(await sentence("admin", { tool: "execute_command", arguments: { comand: "ls" } })).toMatch(
      /^execute_command was not run\. .*Unknown argument "comand"; execute_command takes command, args/,
    );
    expect(await sentence("admin", { tool: "execute_command", arguments: ls, deadline_seconds: 700_000 })).toBe(
      'Argument "deadline_seconds" is 700000: a job has at most 604800 seconds, a week; give less, or leave it out.',
    );
    expect((await call(server, "operator", "list_jobs")).structuredContent).toEqual({ jobs: [] });
  });

  test("with the scope to sign in for, where the caller's role is enough and its token is not", async () => {
    const { app } = await serving();
    const args = { tool: "execute_command", arguments: { command: "ls" } };
    const { statusCode, headers } = await app.inject(
      rpc("tools/call", { name: "submit_job", arguments: args }, bearer("scoped-operator")),
    );
    expect(statusCode).toBe(403);
    expect(headers["www-authenticate"]).toContain('error="insufficient_scope"');
  });

  test("while its submitter has as many as there may be", async () => {
    const parts = jobParts({});
    const first = await parts.submit("x");
    await Promise.all(Array.from({ length: MOST_UNFINISHED - 1 }, () => parts.submit("x")));
    await expect(parts.submit("x")).rejects.toThrow(JobRefused);
    await expect(parts.submit("x")).rejects.toThrow(`You have ${MOST_UNFINISHED} jobs that have not ended`);
    // Others are not kept from it, and room comes back.
    await parts.submit("x", { as: "admin" });
    await parts.jobs.cancel(parts.by("operator"), first.id);
    await parts.submit("x");
  });
});

describe("an idempotency key", () => {
  test("makes one job of the same submitted again, at the same time too, and no other caller's", async () => {
    const parts = jobParts({});
    const request = { tool: "task", args: { name: "x", note: "y" }, idempotencyKey: "k" };
    const by = parts.by("operator");
    const together = await Promise.all(Array.from({ length: 10 }, () => parts.jobs.submit(by, request)));
    expect(new Set(together.map(({ job }) => job.id)).size).toBe(1);
    expect(together.filter(({ existing }) => !existing)).toHaveLength(1);
    const shuffled = { ...request, args: { note: "y", name: "x" } };
    expect(await parts.jobs.submit(by, shuffled)).toMatchObject({ existing: true, job: { id: together[0]?.job.id } });
    expect((await parts.jobs.submit(parts.by("admin"), request)).existing).toBe(false);
    expect((await parts.jobs.submit(parts.by("two"), request)).existing).toBe(false);
    await expect(parts.jobs.submit(by, { ...request, args: { name: "z" } })).rejects.toThrow(
      `Argument "idempotency_key" is "k": job ${together[0]?.job.id} has it, with another tool or other arguments.`,
    );
  });
});

describe("who sees a job", () => {
  test("its submitter and its tenant's admins; to all others it might as well not be", async () => {
    // A run hears of being cancelled by its next sign of life.
    const server = await serving({ JOB_LEASE_SECONDS: "2" });
    const job = await submit(server, "one", "sleep 60");
    const never = "zy".padEnd(26, "0");
    for (const other of ["neighbour", "two", "key", "operator", "reader"]) {
      for (const name of ["get_job", "cancel_job"]) {
        const [hidden, none] = [
          await call(server, other, name, { id: job.id }),
          await call(server, other, name, { id: never }),
        ];
        expect(said(hidden)).toBe(String(said(none)).replaceAll(never, job.id));
        expect(hidden.isError).toBe(true);
      }
      expect((await call(server, other, "list_jobs")).structuredContent).toEqual({ jobs: [] });
      expect(said(await call(server, other, "list_jobs", { everyone: true }))).toContain("it needs the role admin");
    }
    expect(said(await call(server, "scoped-admin", "get_job", { id: job.id }))).toContain("There is no job");
    expect((await call(server, "admin", "list_jobs")).structuredContent).toEqual({ jobs: [] });
    expect((await call(server, "admin", "list_jobs", { everyone: true })).structuredContent).toMatchObject({
      jobs: [{ id: job.id, submittedBy: "99999999-9999-4999-8999-999999999999" }],
    });
    expect((await call(server, "admin", "cancel_job", { id: job.id })).structuredContent).toMatchObject({ id: job.id });
    expect((await ended(server, "one", job)).structuredContent).toMatchObject({ state: "cancelled" });
  });

  test("lists come in pages, the newest first, by state", async () => {
    const parts = jobParts({});
    const by = parts.by("operator");
    const ids: string[] = [];
    for (let at = 0; at < 5; at++) {
      ids.unshift((await parts.submit("x")).id);
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    const first = await parts.jobs.list(by, { limit: 3 });
    const second = await parts.jobs.list(by, { limit: 3, cursor: first.cursor });
    expect([...first.jobs, ...second.jobs].map(({ id }) => id)).toEqual(ids);
    expect(second.cursor).toBeUndefined();
    await parts.jobs.cancel(by, ids[2] ?? "");
    const cancelled = await parts.jobs.list(by, { limit: 3, states: ["cancelled"] });
    expect(cancelled.jobs.map(({ id }) => id)).toEqual([ids[2]]);
    await expect(parts.jobs.list(by, { limit: 3, cursor: "nonsense" })).rejects.toThrow(JobRefused);
    await expect(parts.jobs.list(by, { limit: 3, everyone: true })).rejects.toThrow("needs the role admin");
  });
});

test("a result too long for an answer comes as a link to all of it", async () => {
  const long = defineTool({
    name: "long",
    title: "Long",
    description: "Says a lot.",
    input: z.object({}),
    output: z.object({ text: z.string() }),
    annotations: { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false },
    role: "reader",
    job: true,
    run: () => ({ text: "x".repeat(100_000) }),
  });
  const server = await serving({ RESULT_LIMIT_BYTES: "65536" }, [...ownTools, long]);
  const { structuredContent: job } = await call(server, "reader", "submit_job", { tool: "long" });
  const { structuredContent, content, isError } = await ended(server, "reader", job ?? { id: "" });
  expect(isError).toBeUndefined();
  const uri = structuredContent?.resultResource;
  expect(structuredContent).toMatchObject({
    state: "succeeded",
    resultResource: expect.stringContaining("workspace:///.results/"),
  });
  expect(content[1]).toMatchObject({ type: "resource_link", uri });
  const { body } = await server.app.inject(rpc("resources/read", { uri }, bearer("reader")));
  expect(messageIn(body).result?.contents).toMatchObject([{ text: JSON.stringify({ text: "x".repeat(100_000) }) }]);
});

describe("without queue or store", () => {
  const refusing = async () => {
    throw new Error("ECONNREFUSED 10.0.0.4");
  };

  test("jobs are not taken, their caller is told to try again, and all else goes on", async () => {
    const store: JobStore = { ...createMemoryStore(), insert: refusing, list: refusing, read: refusing };
    const server = await testApp({}, undefined, {
      authenticate,
      openJobs: async () => ({ store, queue: createMemoryQueue() }),
    });
    const args = { tool: "execute_command", arguments: { command: "ls" } };
    expect(said(await call(server, "operator", "submit_job", args))).toBe(
      "Jobs cannot be reached at the moment; try again in a while.",
    );
    expect(said(await call(server, "operator", "list_jobs"))).toContain("try again");
    expect(await call(server, "operator", "execute_command", { command: "true" })).not.toHaveProperty("isError");
    const told = server.events().filter(({ event }) => event === "jobs.unavailable");
    expect(JSON.stringify(told)).toContain("ECONNREFUSED");
  });

  test("that cannot be opened is tried again by who asks next", async () => {
    let tries = 0;
    const server = await testApp({}, undefined, {
      authenticate,
      async openJobs() {
        if (++tries === 1) return refusing();
        return { store: createMemoryStore(), queue: createMemoryQueue() };
      },
    });
    expect((await call(server, "operator", "list_jobs")).isError).toBe(true);
    expect((await call(server, "operator", "list_jobs")).structuredContent).toEqual({ jobs: [] });
  });

  test("a message that could not be sent is sent by who sweeps, and the job is run once", async () => {
    const inner = createMemoryQueue();
    let down = true;
    const queue: JobQueue = { ...inner, send: (message) => (down ? refusing() : inner.send(message)) };
    let runs = 0;
    const parts = jobParts({ x: () => `run ${++runs}` }, { queue });
    const job = await parts.submit("x");
    expect(job.state).toBe("queued");
    down = false;
    parts.worker();
    const sweepers = [1, 2].map(() => parts.sweeper());
    await Promise.all(sweepers.map((sweeper) => sweeper.sweep(-1)));
    await expect.poll(() => parts.state(job)).toMatchObject({ state: "succeeded", attempts: 1 });
    expect(runs).toBe(1);
    for await (const ref of parts.store.owed(-1)) expect(ref).toBeUndefined();
  });

  test("what was taken later in an order is sent after what could not be sent", async () => {
    const inner = createMemoryQueue();
    let down = true;
    const queue: JobQueue = { ...inner, send: (message) => (down ? refusing() : inner.send(message)) };
    const ran: string[] = [];
    const tell = (name: string) => () => {
      ran.push(name);
      return name;
    };
    const parts = jobParts({ first: tell("first"), second: tell("second"), third: tell("third") }, { queue });
    await parts.submit("first", { orderKey: "k" });
    await parts.submit("second", { orderKey: "k" });
    down = false;
    parts.worker();
    const last = await parts.submit("third", { orderKey: "k" });
    // Another order's waits for nobody.
    const other = await parts.submit("first", { orderKey: "k", as: "admin" });
    await expect.poll(() => parts.state(other)).toMatchObject({ state: "succeeded" });
    expect(ran).toEqual(["first"]);
    await Promise.all([1, 2].map(() => parts.sweeper().sweep(-1)));
    await expect.poll(() => parts.state(last)).toMatchObject({ state: "succeeded" });
    expect(ran).toEqual(["first", "first", "second", "third"]);
  });

  test("a job whose message is gone is ended after its deadline by who sweeps, though nobody asks for it", async () => {
    let hours = 0;
    const store = createMemoryStore(() => Date.now() + hours * 3_600_000);
    const inner = createMemoryQueue();
    const swallowing: JobQueue = { ...inner, send: async () => {} };
    const parts = jobParts({}, { store, queue: swallowing });
    const waiting = await parts.submit("x");
    const begun = await parts.submit("x");
    const stored = await store.read(begun);
    const event = { type: "started", attempt: 1, worker: "lost", at: new Date(store.now()).toISOString() } as const;
    if (stored !== undefined) await store.update(stored, after(stored.job, event, begun), [event]);
    await parts.sweeper().sweep();
    expect(await parts.state(waiting)).toMatchObject({ state: "queued" });
    hours = 1;
    await parts.sweeper().sweep();
    expect(await parts.state(waiting)).toMatchObject({
      state: "expired",
      reason: "Its deadline passed before it could be run; submit it again, with more time.",
    });
    expect(await parts.state(begun)).toMatchObject({ state: "dead", reason: expect.stringContaining("is not known") });
    expect(parts.events.map(({ event }) => event)).toEqual(
      expect.arrayContaining(["job.expired", "job.dead-lettered"]),
    );
  });

  test("a row that is no job keeps who sweeps from no other", async () => {
    const inner = createMemoryStore();
    let spoilt = "";
    const store: JobStore = {
      ...inner,
      async read(ref) {
        if (ref.id === spoilt) throw new UnreadableJob(ref, "somebody changed it");
        return inner.read(ref);
      },
    };
    const queue = createMemoryQueue();
    let down = true;
    const parts = jobParts({}, { store, queue: { ...queue, send: (each) => (down ? refusing() : queue.send(each)) } });
    spoilt = (await parts.submit("x")).id;
    const job = await parts.submit("x");
    down = false;
    parts.worker();
    await parts.sweeper({ queue }).sweep(-1);
    await expect.poll(() => parts.state(job)).toMatchObject({ state: "succeeded" });
  });

  test("an unavailable store is told from what the caller can mend", async () => {
    const parts = jobParts({}, { store: { ...createMemoryStore(), find: refusing } });
    await expect(parts.submit("x", { idempotencyKey: "k" })).rejects.toThrow(JobsUnavailable);
  });
});

test("retries come later and later, never at once and never after more than five minutes", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 1000 }), fc.double({ min: 0, max: 1, noNaN: true }), (failures, random) => {
      const delay = retryDelayMs(failures, () => random);
      expect(delay).toBeGreaterThanOrEqual(1000);
      expect(delay).toBeLessThanOrEqual(300_000);
      expect(retryDelayMs(failures + 1, () => random)).toBeGreaterThanOrEqual(delay);
    }),
  );
});

test("a server that nobody asks for jobs opens neither queue nor store", async () => {
  let opened = 0;
  const server = await testApp({}, undefined, {
    authenticate,
    async openJobs() {
      opened++;
      return { store: createMemoryStore(), queue: createMemoryQueue() };
    },
  });
  await call(server, "operator", "system_info");
  expect(said(await call(server, "operator", "submit_job", { tool: "none" }))).toContain("Unknown tool");
  expect(opened).toBe(0);
});
