import type { JobProgress } from "../services/jobs/job.ts";
import type { ClientChannel } from "../tools/client-channel.ts";

/** Between two reports of one job, each of which is written to the store. */
const INTERVAL_MS = 1000;
/** Characters of a report that are kept: the last, since the newest is what somebody who looks wants to see. */
const MESSAGE_CHARACTERS = 500;

/** The client of a job is whoever looks at it later: it hears of progress, and cannot be asked. */
export interface JobChannel extends ClientChannel {
  /** Nothing more is written. */
  end(): void;
}

export function createJobChannel(write: (progress: JobProgress) => Promise<unknown>): JobChannel {
  let latest: JobProgress | undefined;
  let highest = Number.NEGATIVE_INFINITY;
  let timer: NodeJS.Timeout | undefined;
  let lastWrite = Number.NEGATIVE_INFINITY;
  let ended = false;

  const flush = async () => {
    const report = latest;
    latest = undefined;
    if (report === undefined) return;
    lastWrite = performance.now();
    // Progress that is not written is no reason for anything: the next one may be.
    await write(report).catch(() => {});
    timer = undefined;
    schedule();
  };
  const schedule = () => {
    if (ended || timer !== undefined || latest === undefined) return;
    timer = setTimeout(() => void flush(), Math.max(0, lastWrite + INTERVAL_MS - performance.now()));
  };

  return {
    wantsProgress: true,
    async progress({ progress, total, message }) {
      if (progress <= highest) return;
      highest = progress;
      latest = {
        progress,
        ...(total !== undefined && { total }),
        ...(message !== undefined && { message: message.slice(-MESSAGE_CHARACTERS) }),
      };
      schedule();
    },
    log: async () => {},
    capabilities: {},
    answers: {},
    state: undefined,
    end() {
      ended = true;
      clearTimeout(timer);
    },
  };
}
