import { access, appendFile, constants, open, readFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { z } from "zod";
import { defineTool, ToolFailure } from "../../server/tools/define-tool.ts";

/** What a job of the suite may be asked to do. */
export const DEEDS = ["work", "fail", "break", "break-first", "wait"] as const;

export const Task = z.object({
  does: z.enum(DEEDS),
  /** How long it works. */
  ms: z.number(),
  /** Its key and its place among the jobs of that key, where order matters. */
  order: z.object({ key: z.string(), place: z.number() }).optional(),
});
export type Task = z.output<typeof Task>;

export const CHAOS_TOOL = "chaos";

/**
 * A tool whose effects are in files of one directory, where they can be counted:
 *
 *   <job>.runs     a line for each run that came so far: the effect of a tool that knows no idempotency
 *   <job>.effect   made once, by whichever run comes first: the effect where the job's id is the idempotency token
 *   <key>.order    a line for each run of the jobs of an order key, in the order in which they came
 */
export function createChaosTool(directory: string) {
  return defineTool({
    name: CHAOS_TOOL,
    title: "Chaos",
    description: "Does what a job of the chaos suite says.",
    input: Task,
    output: z.object({ attempt: z.number() }),
    annotations: { readOnlyHint: false, destructiveHint: true, idempotentHint: false, openWorldHint: false },
    role: "operator",
    job: "only",
    async run({ does, ms, order }, { run, signal, client }) {
      if (run === undefined) throw new Error("It is none but a job's.");
      const { jobId, attempt } = run;
      if (order !== undefined) await appendFile(join(directory, `${order.key}.order`), `${order.place} ${attempt}\n`);
      await delay(ms / 2, undefined, { signal });
      await appendFile(join(directory, `${jobId}.runs`), `${attempt}\n`);
      await once(join(directory, `${jobId}.effect`));
      await client.progress({ progress: 1, total: 2 });
      await delay(ms / 2, undefined, { signal });
      if (does === "fail") throw new ToolFailure("There is nothing that it could do; ask for something else.");
      if (does === "break" || (does === "break-first" && attempt === 1)) throw new TypeError("It broke.");
      if (does === "wait") await delay(LONG_MS, undefined, { signal });
      return { attempt };
    },
  });
}

/** Longer than the suite. */
const LONG_MS = 600_000;

async function once(path: string): Promise<void> {
  try {
    await (await open(path, "wx")).close();
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "EEXIST")) throw error;
  }
}

/** What runs have left in the directory. */
export function effectsIn(directory: string) {
  const linesOf = async (name: string) => {
    const text = await readFile(join(directory, name), "utf8").catch(() => "");
    return text.split("\n").filter((line) => line !== "");
  };
  return {
    /** The runs of a job that had an effect, by their numbers. */
    runs: async (jobId: string) => (await linesOf(`${jobId}.runs`)).map(Number),
    hasEffect: (jobId: string) =>
      access(join(directory, `${jobId}.effect`), constants.F_OK).then(
        () => true,
        () => false,
      ),
    /** The runs of the jobs of a key, in the order in which they came. */
    order: async (key: string) =>
      (await linesOf(`${key}.order`)).map((line) => {
        const [place, attempt] = line.split(" ").map(Number);
        return { place, attempt };
      }),
  };
}
