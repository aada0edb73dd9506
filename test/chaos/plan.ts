import type { JobState } from "../../server/services/jobs/job.ts";
import type { Task } from "./chaos-tool.ts";
import type { Chance } from "./random.ts";

/** A job of the suite before it is submitted, and how it may end. */
export interface PlannedJob {
  /** Its number, and its idempotency key. */
  readonly key: string;
  readonly tenant: string;
  readonly task: Task;
  readonly repeatable: boolean;
  readonly deadlineSeconds?: number;
  /** Its submitter asks for its end, so long after it was taken. Milliseconds. */
  readonly cancelAfterMs?: number;
  /** Its message is sent a second time, under another id, so long after it was taken. Milliseconds. */
  readonly twiceAfterMs?: number;
  /** Ends that can be told from what became of its workers: `dead` may be any job's whose worker is lost. */
  readonly ends: readonly JobState[];
}

/** Storage emulators get slow with one large partition. */
const TENANTS = 20;
/** Jobs a key, more or less: they are submitted one after the other, and each submission may take seconds. */
const JOBS_IN_ORDER = 5;
const ORDERED = 8;
const TWICE = 0.1;

type Sort = (chance: Chance, count: number) => Pick<PlannedJob, "task" | "repeatable" | "ends"> & Partial<PlannedJob>;

const work = (ms: number): Task => ({ does: "work", ms });

/** By how many of a hundred are of it. */
const SORTS: readonly (readonly [number, Sort])[] = [
  [38, (chance) => ({ task: work(chance.whole(0, 30)), repeatable: false, ends: ["succeeded"] })],
  [22, (chance) => ({ task: work(chance.whole(0, 30)), repeatable: true, ends: ["succeeded"] })],
  [6, (chance) => ({ task: work(chance.whole(300, 3000)), repeatable: false, ends: ["succeeded"] })],
  [8, (chance) => ({ task: work(chance.whole(300, 3000)), repeatable: true, ends: ["succeeded"] })],
  [4, (chance) => ({ task: { does: "fail", ms: 0 }, repeatable: chance.happens(0.5), ends: ["failed"] })],
  [4, () => ({ task: { does: "break-first", ms: 10 }, repeatable: true, ends: ["succeeded"] })],
  [2, () => ({ task: { does: "break", ms: 0 }, repeatable: true, ends: ["dead"] })],
  [2, () => ({ task: { does: "break", ms: 0 }, repeatable: false, ends: ["failed"] })],
  [
    ORDERED,
    (chance, count) => {
      const key = `order-${chance.whole(1, Math.ceil((count * ORDERED) / 100 / JOBS_IN_ORDER))}`;
      const does = chance.happens(0.1) ? "break-first" : "work";
      const order = { key, place: 0 };
      return { task: { does, ms: chance.whole(0, 100), order }, repeatable: true, ends: ["succeeded"] };
    },
  ],
  [
    3,
    (chance) => ({
      task: { does: "wait", ms: 10 },
      repeatable: chance.happens(0.5),
      cancelAfterMs: chance.whole(0, 3000),
      ends: ["cancelled"],
    }),
  ],
  [
    3,
    (chance) => ({
      task: { does: "wait", ms: 10 },
      repeatable: chance.happens(0.5),
      deadlineSeconds: chance.whole(1, 5),
      ends: ["expired"],
    }),
  ],
];

/** So many jobs of all sorts, in the order in which they are to be submitted. */
export function planJobs(count: number, chance: Chance): readonly PlannedJob[] {
  const places = new Map<string, number>();
  const total = SORTS.reduce((sum, [share]) => sum + share, 0);
  return Array.from({ length: count }, (_, number) => {
    let left = chance.next() * total;
    const found = SORTS.find(([share]) => {
      left -= share;
      return left < 0;
    });
    if (found === undefined) throw new Error("Shares make a whole.");
    const planned = found[1](chance, count);
    const key = planned.task.order?.key;
    const place = key === undefined ? 0 : (places.get(key) ?? 0) + 1;
    if (key !== undefined) places.set(key, place);
    return {
      ...planned,
      key: `job-${number}`,
      // All jobs of an order key are one caller's.
      tenant: key ?? `tenant-${chance.whole(1, TENANTS)}`,
      task: key === undefined ? planned.task : { ...planned.task, order: { key, place } },
      // One in an order has its place by its first message, which may not have been sent by then.
      ...(key === undefined && chance.happens(TWICE) && { twiceAfterMs: chance.whole(0, 2000) }),
    };
  });
}
