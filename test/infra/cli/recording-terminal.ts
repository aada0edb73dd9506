import pico from "picocolors";
import type { Terminal } from "../../../infra/cli/terminal.ts";

/** A terminal without colours that remembers what was written. */
export interface RecordingTerminal extends Terminal {
  /** Everything written, results and the rest. */
  text(): string;
  /** What a pipe would get. */
  stdout(): string;
}

export function recordingTerminal(): RecordingTerminal {
  const written: { to: "out" | "err"; text: string }[] = [];
  const joined = (only?: "out") => {
    return written.flatMap(({ to, text }) => (only === undefined || to === only ? [text] : [])).join("");
  };
  return {
    out: (text) => void written.push({ to: "out", text }),
    err: (text) => void written.push({ to: "err", text }),
    live: false,
    colours: pico.createColors(false),
    text: () => joined(),
    stdout: () => joined("out"),
  };
}
