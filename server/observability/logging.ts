import { type DestinationStream, type Logger, pino } from "pino";
import type { Config } from "../config.ts";
import { isoTime } from "./iso-time.ts";
import { createLineWriter, type LineWriter } from "./line-writer.ts";

/** Names under which credentials travel; their values are cut out wherever an event carries them. */
const SECRET_NAMES = ["authorization", "cookie", "token", "apiKey", "key", "password", "connectionString"];

/**
 * One event a line, in JSON: `{"level":"info","time":"...","event":"server.listening",...}`. Over stdio the destination must
 * be standard error, since standard output is the protocol's.
 */
export function createLogger(config: Pick<Config, "LOG_LEVEL">, destination: DestinationStream): Logger {
  return pino(
    {
      level: config.LOG_LEVEL,
      // Pods tell themselves apart; the process id is 1 and the host name the pod's, which the collector adds.
      base: null,
      // As pino's own.
      timestamp: () => `,"time":"${isoTime()}"`,
      formatters: { level: (label) => ({ level: label }) },
      redact: {
        paths: SECRET_NAMES.flatMap((name) => [name, `*.${name}`, `*.*.${name}`]),
        censor: "[redacted]",
      },
    },
    destination,
  );
}

/** A standard stream as the destination of the log, and of what else is written in lines beside it. */
export function standardStream(descriptor: 1 | 2): LineWriter {
  const writer = createLineWriter(descriptor);
  process.on("exit", () => writer.flushSync());
  return writer;
}
