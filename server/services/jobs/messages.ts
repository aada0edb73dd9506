import { z } from "zod";
import { JOB_ID, type JobRef } from "./job.ts";

/*
 * What a message says, in every version that may be met: servers and workers are not replaced at the same moment, and a
 * message may wait in the queue, or among the dead letters, for longer than a version is in use.
 *
 * To change it, append a version, and have the one before `upcast` to it. Additive: leave `readableFrom`, and older
 * workers ignore what they do not know. Breaking: set it to the new version; older workers give such messages back until
 * a newer one comes. A version may be dropped from the list when no message of it can be left.
 */

/** One version, made by {@link messageVersion}. */
export interface MessageVersion {
  readonly version: number;
  /** The oldest version whose readers understand it. */
  readonly readableFrom: number;
  /** What it writes, without the two numbers. */
  readonly write: (ref: JobRef) => object;
  /** What it says, and how the next version says the same. */
  readonly read: (body: unknown) => Understood | { readonly why: string };
}

interface Understood {
  readonly said: unknown;
  upcast(): unknown;
}

/**
 * @param schema what the version says; what it does not name is ignored.
 * @param upcast what the next version writes for the same. The last version has none.
 */
export function messageVersion<Body>({
  schema,
  upcast = (body) => body,
  ...version
}: {
  readonly version: number;
  readonly readableFrom: number;
  readonly schema: z.ZodType<Body>;
  readonly write: (ref: JobRef) => z.input<z.ZodType<Body>> & object;
  readonly upcast?: (body: Body) => unknown;
}): MessageVersion {
  return {
    ...version,
    read(body) {
      const parsed = schema.safeParse(body);
      if (parsed.success) return { said: parsed.data, upcast: () => upcast(parsed.data) };
      const [issue] = parsed.error.issues;
      return { why: `${issue?.path.join(".") || "message"}: ${issue?.message}` };
    },
  };
}

export type ReadMessage =
  | { readonly kind: "job"; readonly ref: JobRef }
  /** For a newer reader than this one: not to be lost, and no failure. */
  | { readonly kind: "newer"; readonly version: number }
  | { readonly kind: "malformed"; readonly why: string };

export interface MessageFormat {
  write(ref: JobRef): string;
  /** Never throws, whatever it is given. */
  read(body: string): ReadMessage;
}

const Envelope = z.object({ version: z.int().positive(), readableFrom: z.int().positive() });

/** What readers get of any message, by whatever version. */
const Ref = z.object({
  /** Names of partitions are `partitionOf`'s. */
  partition: z.string().regex(/^[\w-]{1,128}$/, "is no partition"),
  id: z.string().regex(JOB_ID, "is no job's id"),
});

/** @param versions from the oldest that may be met to the one that is written, each the next of the one before. */
export function messageFormat(versions: readonly [MessageVersion, ...MessageVersion[]]): MessageFormat {
  const oldest = versions[0].version;
  const newest = versions.at(-1) ?? versions[0];

  return {
    write: (ref) =>
      JSON.stringify({ version: newest.version, readableFrom: newest.readableFrom, ...newest.write(ref) }),
    read(text) {
      const body = parseJson(text);
      const envelope = Envelope.safeParse(body);
      if (!envelope.success) return { kind: "malformed", why: "It is not a message of this queue: it has no version." };
      const { version, readableFrom } = envelope.data;
      if (readableFrom > newest.version) return { kind: "newer", version };
      if (version < oldest) {
        return { kind: "malformed", why: `Its version is ${version}, and ${oldest} is the oldest that is read.` };
      }
      // A newer one that may be read is read as the newest that is known.
      const known = versions.slice(Math.min(version, newest.version) - oldest);
      let understood: Understood = { said: undefined, upcast: () => body };
      for (const each of known) {
        const read = each.read(understood.upcast());
        if ("why" in read) return { kind: "malformed", why: `It says to be of version ${version}; ${read.why}.` };
        understood = read;
      }
      const ref = Ref.safeParse(understood.said);
      if (ref.success) return { kind: "job", ref: ref.data };
      const [issue] = ref.error.issues;
      return { kind: "malformed", why: `It names no job; ${issue?.path.join(".") || "message"}: ${issue?.message}.` };
    },
  };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** A claim check: which job, and nothing about it, so that who can write to the queue cannot say who a job runs as. */
export const MESSAGE_VERSIONS: readonly [MessageVersion, ...MessageVersion[]] = [
  messageVersion({
    version: 1,
    readableFrom: 1,
    schema: Ref,
    write: ({ partition, id }) => ({ partition, id }),
  }),
];

const { write, read } = messageFormat(MESSAGE_VERSIONS);

/** A job's message, as JSON. */
export const writeMessage = write;

/** What a message says, whoever wrote it. Never throws. */
export const readMessage = read;
