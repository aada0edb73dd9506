import { createHash } from "node:crypto";
import { z } from "zod";
import {
  idsUntil,
  JOB_ID,
  type Job,
  type JobEvent,
  JobEvent as JobEventSchema,
  type JobRef,
  Job as JobSchema,
} from "./job.ts";
import { UnreadableJob } from "./store.ts";

/*
 * How jobs are rows of one table. In a tenant's partition:
 *
 *   job-<id>              the job
 *   owner-<owner>-<id>    the same again, so that a caller's own are listed without looking at everybody's
 *   key-<owner>-<hash>    the id of the owner's job with an idempotency key, by the key's SHA-256
 *   event-<id>-<seq>      what happened to it
 *   content-<id>-<name>   what it was given, what it gave
 *
 * Ids sort the newest first, and so do the rows of each kind. Rows of a partition change together or not at all, in an
 * entity group transaction. Two kinds of partitions are no tenant's: their names begin with a dot.
 *
 *   .owed-<n>             <partition>-<id> of each job whose message is owed to the queue; with the name of its order
 *   .partitions           the tenants' partitions, for those who look at all of them
 */

/**
 * What a property of a row may hold, in UTF-16 code units: 64 KiB, and "about 32 K characters or less" ("Understanding
 * the Table service data model").
 */
export const PROPERTY_LENGTH = 30_000;

/** What may be a partition: no character that keys must not have, nor the dot of this store's own. */
const PARTITION = /^[0-9a-z][0-9a-z_-]{0,127}$/;
const CONTENT_NAME = /^[0-9a-z][0-9a-z-]{0,63}$/;

/** Names of rows that tell what they are, for whoever looks at the table. */
export const PARTITIONS = ".partitions";
/**
 * Every submission writes a row of what is owed and removes it, and Azure does 2,000 such things a second in one
 * partition ("Scalability and performance targets for Table storage"): so there are several, and few, since looking for
 * what is owed asks each.
 */
const OWED_PARTITIONS = 4;
export const OWED: readonly string[] = Array.from({ length: OWED_PARTITIONS }, (_, n) => `.owed-${n}`);

/** Above everything that a key may go on with. */
const END = "~";
const SEQ_DIGITS = 10;

export const JOBS = "job-";
export const EVENTS = "event-";
export const CONTENTS = "content-";
export const ownerKeys = (owner: string) => `owner-${owner}-`;
export const eventKeys = (id: string) => `${EVENTS}${id}-`;

export const jobKey = (id: string) => JOBS + id;
export const ownerKey = (owner: string, id: string) => ownerKeys(owner) + id;
export const idempotencyKey = (owner: string, key: string) =>
  `key-${owner}-${createHash("sha256").update(key).digest("hex")}`;
export const eventKey = (id: string, seq: number) => eventKeys(id) + String(seq).padStart(SEQ_DIGITS, "0");
export const contentKey = (id: string, name: string) => `${CONTENTS}${id}-${name}`;
export const owedKey = ({ partition, id }: JobRef) => ({
  partitionKey: OWED[id.charCodeAt(id.length - 1) % OWED_PARTITIONS] ?? "",
  rowKey: `${partition}-${id}`,
});
/** What is owed of jobs of the same partition. */
export const owedOf = ({ partition }: JobRef) => keysOf(`${partition}-`);
export const blobName = ({ partition, id }: JobRef, name: string) => `${partition}/${id}/${name}`;

/** The id in a key of that kind. */
export const idIn = (kind: string, rowKey: string) => rowKey.slice(kind.length).split("-", 1)[0] ?? "";

/** Row keys after `from` and before `to`. */
export interface KeyRange {
  readonly from: string;
  readonly to: string;
}
/** Rows of jobs submitted after that time. Milliseconds since 1970. */
export const jobsSince = (time: number): KeyRange => ({ from: JOBS, to: JOBS + idsUntil(time) });
/** All rows whose key begins so; those of ids after `id`, which are older, if there is one. */
export const keysOf = (prefix: string, after = ""): KeyRange => ({ from: prefix + after, to: prefix + END });

/** Whether there can be a row of that: what callers name need not be an id. */
export const isRef = ({ partition, id }: JobRef) => PARTITION.test(partition) && JOB_ID.test(id);
export const isPartition = (partition: string) => PARTITION.test(partition);
export const isContentName = (name: string) => CONTENT_NAME.test(name);

/** Throws a {@link RangeError} for what no row can be named after. */
export function assertRef(ref: JobRef): void {
  if (isRef(ref)) return;
  const { partition, id } = ref;
  throw new RangeError(
    `There is no job ${JSON.stringify(id)} of partition ${JSON.stringify(partition)}: an id has 26 of the digits that ` +
      "newJobId uses, a partition up to 128 small letters, digits, dashes and underscores.",
  );
}

export function assertContentName(name: string): void {
  if (isContentName(name)) return;
  throw new RangeError(`Content is named by up to 64 small letters, digits and dashes, not ${JSON.stringify(name)}.`);
}

/** As a row has it. Throws a {@link RangeError} for what is too long for one; content has a place of its own. */
export function textOf({ id }: JobRef, value: Job | JobEvent): string {
  const text = JSON.stringify(value);
  if (text.length <= PROPERTY_LENGTH) return text;
  const what = "type" in value ? `What happened to job ${id} (${value.type})` : `Job ${id}`;
  throw new RangeError(
    `${what} takes ${text.length} characters, and a row has room for ${PROPERTY_LENGTH}: shorten its texts.`,
  );
}

/** `write` is of one change of the row: who has lost the answer to its own finds out whether it was done. */
export function jobRow(job: Job, write: string) {
  const { partition, id, state, version, deadline } = job;
  return { partitionKey: partition, rowKey: jobKey(id), state, version, deadline, write, job: textOf(job, job) };
}

/** Written with the job's row, and like it. */
export function ownerRow(job: Job, write: string) {
  return { ...jobRow(job, write), rowKey: ownerKey(job.owner, job.id) };
}

/** Finds a job by its idempotency key; none for a job without. */
export function keyRow({ partition, id, owner, idempotencyKey: key }: Job) {
  return key === undefined ? undefined : { partitionKey: partition, rowKey: idempotencyKey(owner, key), id };
}

export function eventRow(ref: JobRef, seq: number, event: JobEvent, write: string) {
  const { type, at } = event;
  const keys = { partitionKey: ref.partition, rowKey: eventKey(ref.id, seq) };
  return { ...keys, seq, type, at, write, event: textOf(ref, event) };
}

const json = <T extends z.ZodType>(schema: T) =>
  z
    .string()
    .transform((text, context): unknown => {
      try {
        return JSON.parse(text);
      } catch {
        context.addIssue({ code: "custom", message: "is not JSON" });
        return z.NEVER;
      }
    })
    .pipe(schema);

// Loose: what a newer server keeps in a job goes on being kept when an older one writes it.
const JobRow = z.object({ job: json(JobSchema.loose()) });
/** What is known of a row whatever has become of the job in it. */
const RowVersion = z.object({ version: z.number().int().catch(0) });
export const EventRow = z.object({ seq: z.number().int(), event: json(JobEventSchema) });

export const KeyRow = z.object({ id: z.string() });
export const OwedRow = z.object({ partition: z.string(), id: z.string() });
export const ContentRow = z.object({ short: z.boolean(), text: z.string(), blob: z.string().optional() });

/** Version of the job in a row, 0 when there is none to be seen. */
export function versionIn(row: unknown): number {
  return RowVersion.parse(row).version;
}

/** The job in a row; undefined when it is none. */
export function jobIn(row: unknown): Job | undefined {
  return JobRow.safeParse(row).data?.job;
}

/** @throws UnreadableJob */
export function jobOf(row: unknown, ref: JobRef): Job {
  const parsed = JobRow.safeParse(row);
  if (!parsed.success) throw new UnreadableJob(ref, z.prettifyError(parsed.error));
  const { job } = parsed.data;
  if (job.id !== ref.id || job.partition !== ref.partition) throw new UnreadableJob(ref, "it is another one's");
  return job;
}
