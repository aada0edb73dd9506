import type { LineWriter } from "../line-writer.ts";
import { joined, type Loss, type Sink, type SinkReports } from "./sink.ts";

/** Lines to a descriptor: the standard stream, beside the log's, or a file. */
export function createLineSink(name: "stream" | "file", writer: LineWriter, reports: SinkReports): Sink {
  let waiting: Loss | undefined;
  writer.watch({
    written() {
      const lines = waiting?.lines ?? 0;
      waiting = undefined;
      if (lines > 0) reports.written(lines);
      reports.working();
    },
    failed(error, gone) {
      if (gone && waiting !== undefined) {
        reports.lost(waiting);
        waiting = undefined;
      }
      reports.failing(error);
    },
  });
  const push = () => writer.flush();
  return {
    name,
    get waiting() {
      return waiting?.lines ?? 0;
    },
    write({ seq, text }) {
      const line = { from: seq, to: seq, lines: 1 };
      // It may be written before this returns.
      const before = waiting;
      waiting = joined(waiting, line);
      if (writer.write(`${text}\n`)) return;
      waiting = before;
      reports.lost(line);
      reports.failing(writer.failure ?? new Error("What it is read by is too slow, and no more can wait."));
    },
    push,
    flush: async () => push(),
    close: async () => push(),
  };
}
