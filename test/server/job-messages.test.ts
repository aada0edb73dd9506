import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { z } from "zod";
import { type JobRef, newJobId } from "../../server/services/jobs/job.ts";
import {
  MESSAGE_VERSIONS,
  type MessageVersion,
  messageFormat,
  messageVersion,
  readMessage,
  writeMessage,
} from "../../server/services/jobs/messages.ts";

const ref: JobRef = { partition: "tenant-11111111-2222-3333-4444-555555555555", id: newJobId(1_700_000_000_000) };

const Ref = z.object({ partition: z.string(), id: z.string() });

/** What may come after today's last version: first something that older workers may ignore, then something they may not. */
function withSuccessors(today: readonly [MessageVersion, ...MessageVersion[]]) {
  const last = today.at(-1) ?? today[0];
  const hints = messageVersion({
    version: last.version + 1,
    readableFrom: last.readableFrom,
    schema: Ref.extend({ hint: z.string().default("none") }),
    write: (job) => ({ ...job, hint: "large" }),
    upcast: ({ partition, id, hint }) => ({ version: 3, readableFrom: 3, job: { tenant: partition, key: id }, hint }),
  });
  const nested = messageVersion({
    version: last.version + 2,
    readableFrom: last.version + 2,
    schema: z
      .object({ job: z.object({ tenant: z.string(), key: z.string() }), hint: z.string() })
      .transform(({ job, hint }) => ({ partition: job.tenant, id: job.key, hint })),
    write: ({ partition, id }) => ({ job: { tenant: partition, key: id }, hint: "none" }),
  });
  return [...today, hints, nested] as const;
}

/** The programs that may be deployed at the same time: each knows the versions up to its own. */
const versions = withSuccessors(MESSAGE_VERSIONS);
const programs = versions
  .map(({ version }, last) => {
    const [first, ...others] = versions.slice(0, last + 1);
    return { version, format: messageFormat([first ?? versions[0], ...others]) };
  })
  .slice(-3);
const today = MESSAGE_VERSIONS.at(-1)?.version ?? 0;

describe("a job's message", () => {
  test("says which job it is about, in which version, and nothing else", () => {
    expect(JSON.parse(writeMessage(ref))).toEqual({ version: 1, readableFrom: 1, ...ref });
    expect(readMessage(writeMessage(ref))).toEqual({ kind: "job", ref });
  });

  test("in the versions that are tested has today's among them", () => {
    expect(programs.map(({ version }) => version)).toEqual([today, today + 1, today + 2]);
  });

  test.each(
    programs.flatMap((writer) => programs.map((reader) => [writer.version, reader.version, writer, reader] as const)),
  )("written by version %i is not lost on a reader of version %i", (_from, _to, writer, reader) => {
    const body = writer.format.write(ref);
    const read = reader.format.read(body);
    const mayRead = JSON.parse(body).readableFrom <= reader.version;
    expect(read).toEqual(mayRead ? { kind: "job", ref } : { kind: "newer", version: writer.version });
    // What one gives back, the next can read as it is.
    if (!mayRead) expect(writer.format.read(body)).toEqual({ kind: "job", ref });
  });

  test("of a newer version that may be read is read, whatever it says besides", () => {
    const body = JSON.stringify({ version: 7, readableFrom: 1, ...ref, priority: { of: ["the", "future"] } });
    expect(readMessage(body)).toEqual({ kind: "job", ref });
  });

  test("of a version that is not read any more is set aside with the reason", () => {
    const [, ...later] = versions;
    const [first = versions[0], ...others] = later;
    const read = messageFormat([first, ...others]).read(messageFormat([versions[0]]).write(ref));
    expect(read).toEqual({ kind: "malformed", why: "Its version is 1, and 2 is the oldest that is read." });
  });

  test.each([
    ["nothing", "", "It is not a message of this queue: it has no version."],
    ["no JSON", "hello", "It is not a message of this queue: it has no version."],
    ["no object", "[1]", "It is not a message of this queue: it has no version."],
    ["no version", JSON.stringify(ref), "It is not a message of this queue: it has no version."],
    [
      "an id that no job has",
      JSON.stringify({ version: 1, readableFrom: 1, ...ref, id: "../x" }),
      "It says to be of version 1; id: is no job's id.",
    ],
    [
      "a partition that none has",
      JSON.stringify({ version: 1, readableFrom: 1, ...ref, partition: "a/b" }),
      "It says to be of version 1; partition: is no partition.",
    ],
  ])("that says %s is malformed, and why", (_what, body, why) => {
    expect(readMessage(body)).toEqual({ kind: "malformed", why });
  });

  test("that is garbage never throws, and names no job that it does not say", () => {
    const almost = fc.record(
      {
        version: fc.constantFrom<unknown>(1, 2, 3, 0, -1, 1.5, 1e300, "1", null, [], {}),
        readableFrom: fc.constantFrom<unknown>(1, 2, 3, 0, -1, 1.5, 1e300, "1", null, [], {}),
        partition: fc.oneof(fc.constant(ref.partition), fc.string()),
        id: fc.oneof(fc.constant(ref.id), fc.string()),
      },
      { requiredKeys: [] },
    );
    const garbage = fc.oneof(
      fc.uint8Array().map((bytes) => Buffer.from(bytes).toString("latin1")),
      fc.json(),
      almost.map((body) => JSON.stringify(body)),
    );
    fc.assert(
      fc.property(garbage, fc.constantFrom(...programs), (body, { format }) => {
        const read = format.read(body);
        if (read.kind === "job") expect(JSON.parse(body)).toMatchObject(read.ref);
        if (read.kind === "malformed") expect(read.why.length).toBeLessThan(200);
      }),
      { numRuns: 500 },
    );
  });
});
