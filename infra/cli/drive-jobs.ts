import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { asRecord, call, type Driven, expect, toolCalls } from "./driven-tools.ts";
import { type McpSession, openSession } from "./mcp-session.ts";
import type { Steps } from "./terminal.ts";

/** The tool that the jobs are made of. */
const TOOL = "execute_command";
/** As long as one call of get_job waits; twice that is more than any of these jobs takes. Seconds. */
const WAIT_SECONDS = 10;
const WAITS = 2;
/** Between two looks at a job that is about to begin. */
const LOOK_MS = 50;

/**
 * Has jobs run: one whose answer is seen, which reads a file that the server has written; the same again under its key;
 * one that is cancelled while it runs. Then it is seen who has run them.
 */
export async function driveJobs(driven: Driven, credential: string, steps: Steps): Promise<void> {
  const runner = driven.worker ?? driven;
  const who = driven.worker ? "the worker" : "the server itself";
  const before = await toolCalls(runner.metricsUrl);
  const session = await openSession("2.x", {
    url: driven.url,
    headers: { Authorization: `Bearer ${credential}` },
  });
  const file = `rehearsal-${randomBytes(4).toString("hex")}.txt`;
  const content = "for the job to read: ä€😀\n";
  const key = `rehearsal-${randomBytes(8).toString("hex")}`;
  const read = { tool: TOOL, arguments: { command: `cat ${file}` }, idempotency_key: key };
  try {
    await call(session, "file_operation", { operation: "write", path: file, content });
    const id = await steps.step(`A job is run by ${who}, in the same workspace`, () =>
      getsAnswer(session, read, content),
    );
    await steps.step("  submitted again under its key, it is the same job", () => isTheSame(session, read, id.job));
    await steps.step("  another is cancelled while it runs", () =>
      isCancelled(session, { tool: TOOL, arguments: { command: `tail -f ${file}` } }),
    );
    await call(session, "file_operation", { operation: "delete", path: file });
    await steps.step("  the metrics have counted its run", async () => {
      const after = await toolCalls(runner.metricsUrl);
      const counted = (after.get(TOOL) ?? 0) - (before.get(TOOL) ?? 0);
      expect(counted === 1, `${runner.metricsUrl} says ${counted} successful calls of ${TOOL} by jobs; one was made.`);
      return { note: `${TOOL} ${counted}` };
    });
  } finally {
    await session.close();
  }
}

type Submission = Readonly<Record<string, unknown>>;

async function getsAnswer(
  session: McpSession,
  submission: Submission,
  content: string,
): Promise<{ job: string; note: string }> {
  const submitted = await call(session, "submit_job", { ...submission });
  const job = await atEnd(session, submitted.id);
  expect(job.state === "succeeded", `The job ended ${job.state}: ${job.reason}`);
  const { stdout, stderr } = asRecord(job.result);
  expect(
    stdout === content,
    `The job read ${JSON.stringify(stdout)} where the server had written ${JSON.stringify(content)}, and said: ${stderr}`,
  );
  return { job: String(submitted.id), note: `job ${submitted.id}` };
}

async function isTheSame(session: McpSession, submission: Submission, id: string): Promise<undefined> {
  const again = await call(session, "submit_job", { ...submission });
  expect(again.id === id && again.existing === true, `It is job ${again.id}, and was job ${id}.`);
  return undefined;
}

async function isCancelled(session: McpSession, submission: Submission): Promise<undefined> {
  const { id } = await call(session, "submit_job", { ...submission });
  const deadline = performance.now() + WAITS * WAIT_SECONDS * 1000;
  for (;;) {
    const { state, reason } = await call(session, "get_job", { id });
    if (state === "running") break;
    expect(state === "queued" && performance.now() < deadline, `The job is ${state}, and should run: ${reason}`);
    await sleep(LOOK_MS);
  }
  await call(session, "cancel_job", { id });
  const { state, reason } = await atEnd(session, id);
  expect(state === "cancelled", `The job was cancelled and ended ${state}: ${reason}`);
  return undefined;
}

/** A job once it has ended, or as it is when nobody should wait any longer. */
async function atEnd(session: McpSession, id: unknown): Promise<Record<string, unknown>> {
  let job: Record<string, unknown> = {};
  for (let waits = 0; waits < WAITS && !("endedAt" in job); waits += 1) {
    job = await call(session, "get_job", { id, wait_seconds: WAIT_SECONDS });
  }
  return job;
}
