import { type DestinationStream, type Logger, pino } from "pino";
import type { Config } from "../config.ts";

/** Names under which credentials travel; their values are cut out wherever an event carries them. */
const SECRET_NAMES = ["authorization", "cookie", "token", "apiKey", "key", "password", "connectionString"];

/**
 * One event a line, in JSON: `{"level":"info","time":"...","event":"tool.called",...}`. Over stdio the destination must
 * be standard error, since standard output is the protocol's.
 */
export function createLogger(config: Pick<Config, "LOG_LEVEL">, destination: DestinationStream): Logger {
  return pino(
    {
      level: config.LOG_LEVEL,
      // Pods tell themselves apart; the process id is 1 and the host name the pod's, which the collector adds.
      base: null,
      timestamp: isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: {
        paths: SECRET_NAMES.flatMap((name) => [name, `*.${name}`, `*.*.${name}`]),
        censor: "[redacted]",
      },
    },
    destination,
  );
}

let lastTime = 0;
let lastText = "";

/** As pino's own, made once for all events of a millisecond. */
function isoTime(): string {
  const now = Date.now();
  if (now !== lastTime) {
    lastTime = now;
    lastText = `,"time":"${new Date(now).toISOString()}"`;
  }
  return lastText;
}

/** Bytes of events that are written at once. */
const WRITE_BYTES = 8 * 1024;

/**
 * Standard output as the log's destination, for the HTTP entry. The events of one turn of the event loop are one write,
 * and no event waits for longer, so that a process that is killed leaves a log of all that it did before this turn.
 */
export function standardOutput(): DestinationStream & { flushSync(): void } {
  const output = pino.destination({ dest: 1, sync: true, minLength: WRITE_BYTES });
  let due = false;
  const flushSync = () => output.flushSync();
  const flush = () => {
    due = false;
    // In the sync mode this writes; flushSync would have the kernel sync as well, which is for the end.
    output.flush();
  };
  process.on("exit", flushSync);
  return {
    write(event) {
      output.write(event);
      if (due) return;
      due = true;
      setImmediate(flush);
    },
    // pino calls it after a fatal event.
    flushSync,
  };
}
