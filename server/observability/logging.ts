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
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: {
        paths: SECRET_NAMES.flatMap((name) => [name, `*.${name}`, `*.*.${name}`]),
        censor: "[redacted]",
      },
    },
    destination,
  );
}

/** Standard output as the log's destination, for the HTTP entry. */
export function standardOutput(): DestinationStream {
  return pino.destination({ dest: 1, sync: true });
}
