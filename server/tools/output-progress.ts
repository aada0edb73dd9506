import { StringDecoder } from "node:string_decoder";
import type { ClientChannel } from "./client-channel.ts";

/** Passes a command's output on to its client while it runs. */
export interface OutputProgress {
  /** To be called with each piece of output. */
  readonly add: (stream: "stdout" | "stderr", chunk: Buffer) => void;
  /** Sends what is left. Resolves when it is on its way. */
  end(): Promise<void>;
}

/** Time in which output is gathered: often enough to watch, seldom enough for a client that shows each report. */
const INTERVAL_MS = 150;
/** Characters of one report. A command that writes faster is watched in pieces; its result has what is to be had. */
const REPORT_CHARACTERS = 4096;

/**
 * Reports output as progress, `progress` being the bytes written so far and `message` the text since the report
 * before. One report is on its way at a time: a slow client gets fewer and fuller ones, and holds up nothing. Undefined
 * when the client did not ask for progress.
 */
export function streamOutput(client: ClientChannel): OutputProgress | undefined {
  if (!client.wantsProgress) return undefined;
  const decoders = { stdout: new StringDecoder("utf8"), stderr: new StringDecoder("utf8") };
  let bytes = 0;
  let text = "";
  let leftOut = 0;
  let timer: NodeJS.Timeout | undefined;
  let sending: Promise<void> | undefined;

  const flush = async () => {
    timer = undefined;
    if (text === "" && leftOut === 0) return;
    const message = leftOut === 0 ? text : `[... ${leftOut} characters left out here ...]\n${text}`;
    text = "";
    leftOut = 0;
    sending = client.progress({ progress: bytes, message });
    await sending;
    sending = undefined;
    schedule();
  };
  const schedule = () => {
    if (timer === undefined && sending === undefined && text !== "")
      timer = setTimeout(() => void flush(), INTERVAL_MS);
  };

  return {
    add(stream, chunk) {
      bytes += chunk.length;
      text += decoders[stream].write(chunk);
      if (text.length > REPORT_CHARACTERS) {
        // The newest is what somebody who watches wants to see.
        leftOut += text.length - REPORT_CHARACTERS;
        text = text.slice(-REPORT_CHARACTERS);
      }
      schedule();
    },
    async end() {
      clearTimeout(timer);
      await sending;
      clearTimeout(timer);
      await flush();
      clearTimeout(timer);
    },
  };
}
