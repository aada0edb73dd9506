import { isUtf8 } from "node:buffer";
import { wholeCharactersFromStart, wholeCharactersToEnd } from "./utf8.ts";
import type { FileSlice } from "./workspace.ts";

/** A stretch of text out of a file, whole characters only. Offsets count bytes. */
export interface TextPage {
  readonly text: string;
  readonly size: number;
  /** Where the next page begins, if there is one. */
  readonly nextOffset?: number;
}

/**
 * The text of `slice`. A slice may begin and end within a character; it gives up what it does not hold whole, and the
 * next page has it. Undefined when the bytes are not UTF-8 text.
 */
export function textPageOf({ bytes, offset, size }: FileSlice): TextPage | undefined {
  const reachesEnd = offset + bytes.length === size;
  const fromCharacter = offset === 0 ? bytes : wholeCharactersToEnd(bytes);
  const whole = reachesEnd ? fromCharacter : wholeCharactersFromStart(fromCharacter);
  if (!isUtf8(whole) || whole.includes(0)) return undefined;
  const end = offset + bytes.length - (fromCharacter.length - whole.length);
  return { text: whole.toString("utf8"), size, ...(end < size && { nextOffset: end }) };
}
