import { FINAL_STATES, JOB_ID, type Job, type JobRef, type LoggedEvent, orderOf } from "./job.ts";
import { assertNext, conflict, InvalidCursor, type JobStore, type StoredJob, StoreFull } from "./store.ts";
import { assertContentName, assertRef, textOf } from "./store-rows.ts";

/** Jobs that are kept, and the length of what they were given and gave together, in UTF-16 code units: 128 MiB. */
const MOST_JOBS = 10_000;
const MOST_CONTENT = 64 * 1024 * 1024;

interface Kept {
  stored: Omit<StoredJob, "readAt">;
  readonly events: LoggedEvent[];
}

interface Content {
  readonly ref: JobRef;
  readonly texts: Map<string, string>;
  changedAt: number;
}

/**
 * The store of a server by itself: it ends with it. Bounded: the oldest jobs that have ended make room for new ones.
 * `now` gives milliseconds since 1970.
 */
export function createMemoryStore(now: () => number = Date.now): JobStore {
  // In the order of their insertion.
  const jobs = new Map<string, Kept>();
  const contents = new Map<string, Content>();
  // The one that has been owed for longest first.
  const debts = new Map<string, { readonly ref: JobRef; readonly since: number }>();
  let contentLength = 0;
  let changes = 0;

  const nameOf = ({ partition, id }: JobRef) => `${partition}/${id}`;
  const copy = ({ partition, id }: JobRef): JobRef => ({ partition, id });
  const stamp = (job: Job): Omit<StoredJob, "readAt"> => ({ job, etag: String(++changes), changedAt: now() });
  const owe = (ref: JobRef) => {
    debts.delete(nameOf(ref));
    debts.set(nameOf(ref), { ref: copy(ref), since: now() });
  };
  const lengthOf = (content: Content | undefined) =>
    [...(content?.texts.values() ?? [])].reduce((sum, text) => sum + text.length, 0);

  const remove = (name: string) => {
    contentLength -= lengthOf(contents.get(name));
    contents.delete(name);
    jobs.delete(name);
    debts.delete(name);
  };
  /** Removes what has ended, the oldest first, until `fits`. */
  const makeRoom = (fits: () => boolean) => {
    for (const [name, { stored }] of jobs) {
      if (fits()) return;
      if (FINAL_STATES.has(stored.job.state)) remove(name);
    }
    if (fits()) return;
    throw new StoreFull(
      `There is no room for another job: ${jobs.size} are kept, and none of them has ended. Wait for some, or cancel some.`,
    );
  };
  const keyed = (query: Pick<Job, "partition" | "owner" | "idempotencyKey">): Job | undefined => {
    for (const { stored } of jobs.values()) {
      const { partition, owner, idempotencyKey } = stored.job;
      if (idempotencyKey !== query.idempotencyKey) continue;
      if (partition === query.partition && owner === query.owner) return stored.job;
    }
    return undefined;
  };
  const newestFirst = (a: Job, b: Job) => (a.id < b.id ? -1 : 1);

  return {
    kind: "memory",
    now,

    async insert(job, event) {
      assertRef(job);
      for (const value of [job, event]) textOf(job, value);
      const name = nameOf(job);
      if (jobs.has(name) || (job.idempotencyKey !== undefined && keyed(job) !== undefined)) return false;
      makeRoom(() => jobs.size < MOST_JOBS);
      jobs.set(name, { stored: stamp(job), events: [{ ...copy(job), seq: job.version, event }] });
      owe(job);
      return true;
    },

    async find(query) {
      const found = keyed(query);
      return found && copy(found);
    },

    async read(ref) {
      const kept = jobs.get(nameOf(ref));
      return kept && { ...kept.stored, readAt: now() };
    },

    async update(before, job, events, { owed = false } = {}) {
      assertNext(before.job, job, events);
      for (const value of [job, ...events]) textOf(job, value);
      const kept = jobs.get(nameOf(job));
      if (kept?.stored.etag !== before.etag) {
        throw conflict(before.job);
      }
      kept.stored = stamp(job);
      events.forEach((event, at) => void kept.events.push({ ...copy(job), seq: before.job.version + at + 1, event }));
      if (owed) owe(job);
      return { ...kept.stored, readAt: now() };
    },

    async list({ partition, owner, states, limit, cursor }) {
      if (cursor !== undefined && !JOB_ID.test(cursor)) throw new InvalidCursor();
      const found = [...jobs.values()]
        .map(({ stored }) => stored.job)
        .filter((job) => job.partition === partition && (owner === undefined || job.owner === owner))
        .filter((job) => states === undefined || states.includes(job.state))
        .filter(({ id }) => cursor === undefined || id > cursor)
        .toSorted(newestFirst);
      const page = found.slice(0, limit);
      return found.length > limit ? { jobs: page, cursor: page.at(-1)?.id } : { jobs: page };
    },

    async *partitions() {
      yield* new Set([...jobs.values()].map(({ stored }) => stored.job.partition));
    },

    async sent(ref) {
      debts.delete(nameOf(ref));
    },

    async *owed(olderThanMs) {
      const before = now() - olderThanMs;
      for (const { ref, since } of [...debts.values()]) if (since < before) yield ref;
    },

    async owesEarlier(job) {
      const order = orderOf(job);
      if (order === undefined || !debts.has(nameOf(job))) return false;
      for (const name of debts.keys()) {
        if (name === nameOf(job)) return false;
        const other = jobs.get(name)?.stored.job;
        if (other !== undefined && orderOf(other) === order) return true;
      }
      return false;
    },

    async *overdue({ byMs, withinMs }) {
      for (const { stored } of [...jobs.values()]) {
        const { job } = stored;
        const isDue = Date.parse(job.deadline) < now() - byMs && Date.parse(job.submittedAt) > now() - withinMs;
        if (isDue && !FINAL_STATES.has(job.state)) yield copy(job);
      }
    },

    async *events({ ref, since }) {
      const told = ref === undefined ? [...jobs.values()] : [jobs.get(nameOf(ref))];
      for (const kept of told) {
        const events = kept?.events ?? [];
        if (since === undefined || events.some(({ event }) => event.at >= since)) yield* [...events];
      }
    },

    async putContent(ref, name, text) {
      assertRef(ref);
      assertContentName(name);
      const key = nameOf(ref);
      const content = contents.get(key) ?? { ref: copy(ref), texts: new Map(), changedAt: 0 };
      const more = text.length - (content.texts.get(name)?.length ?? 0);
      makeRoom(() => contentLength + more <= MOST_CONTENT);
      contentLength += more;
      content.texts.set(name, text);
      content.changedAt = now();
      contents.set(key, content);
    },

    async content(ref, name) {
      return contents.get(nameOf(ref))?.texts.get(name);
    },

    async repair(job) {
      assertRef(job);
      const kept = jobs.get(nameOf(job));
      if (kept !== undefined && kept.stored.job.version > job.version) return false;
      if (kept === undefined) jobs.set(nameOf(job), { stored: stamp(job), events: [] });
      else kept.stored = stamp(job);
      if (!FINAL_STATES.has(job.state)) owe(job);
      return true;
    },

    async sweep(olderThanMs) {
      const before = now() - olderThanMs;
      let swept = 0;
      for (const [name, { stored }] of jobs) {
        if (!FINAL_STATES.has(stored.job.state) || Date.parse(stored.job.endedAt ?? "") > before) continue;
        remove(name);
        swept += 1;
      }
      for (const [name, { changedAt }] of contents) if (!jobs.has(name) && changedAt <= before) remove(name);
      return swept;
    },

    async check() {},
    async close() {},
  };
}
