/** One thing that a log file holds: the text of a line, or of an object, and that object where it is one. */
export interface LogRecord {
  readonly text: string;
  /** Undefined when the text is no JSON object. */
  readonly object: Readonly<Record<string, unknown>> | undefined;
}

/** Columns of exports that hold a whole line of a log: this project's table in Log Analytics, and older custom tables. */
const LINE_COLUMNS = ["Line", "RawData"];

/**
 * The records of a log: JSON lines, with whatever stands before the first brace (a collector's time stamp), or one JSON
 * array, as `az` prints. Where a record is a row of an export, it is what its column with the line holds. One record is
 * in memory at a time.
 */
export async function* recordsIn(chunks: AsyncIterable<string>): AsyncGenerator<LogRecord> {
  const split = createSplitter();
  for await (const chunk of chunks) {
    for (const text of split.feed(chunk)) yield recordOf(text);
  }
  for (const text of split.end()) yield recordOf(text);
}

function recordOf(text: string): LogRecord {
  const brace = text.indexOf("{");
  const json = brace === -1 ? text : text.slice(brace);
  const object = parsed(json);
  if (object === undefined) return { text, object };
  for (const column of LINE_COLUMNS) {
    const line = object[column];
    if (typeof line === "string") return { text: line, object: parsed(line) };
  }
  return { text: json, object };
}

function parsed(text: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? { ...value } : undefined;
  } catch {
    return undefined;
  }
}

interface Splitter {
  feed(chunk: string): Iterable<string>;
  end(): Iterable<string>;
}

/** By lines, or when the first character is the one of an array, by its elements. */
function createSplitter(): Splitter {
  let chosen: Splitter | undefined;
  return {
    *feed(chunk) {
      // A byte order mark, and blank lines, come before everything.
      const text = chosen === undefined ? chunk.replace(/^\uFEFF?\s+|^\uFEFF/, "") : chunk;
      if (text === "") return;
      chosen ??= text.startsWith("[") ? elements() : lines();
      yield* chosen.feed(text);
    },
    *end() {
      if (chosen !== undefined) yield* chosen.end();
    },
  };
}

function lines(): Splitter {
  let rest = "";
  return {
    *feed(chunk) {
      const parts = (rest + chunk).split("\n");
      rest = parts.pop() ?? "";
      for (const part of parts) {
        const text = part.trim();
        if (text !== "") yield text;
      }
    },
    *end() {
      if (rest.trim() !== "") yield rest.trim();
    },
  };
}

/** The objects of an array, found by their braces outside of strings. */
function elements(): Splitter {
  let text = "";
  let at = 0;
  let start = 0;
  let depth = 0;
  let inString = false;
  return {
    *feed(chunk) {
      text += chunk;
      for (; at < text.length; at += 1) {
        const character = text[at];
        if (inString) {
          // What is escaped may lie in the next chunk.
          if (character === "\\" && at + 1 === text.length) break;
          if (character === "\\") at += 1;
          else if (character === '"') inString = false;
        } else if (character === '"') inString = true;
        else if (character === "{" && depth++ === 0) start = at;
        else if (character === "}" && --depth === 0) yield text.slice(start, at + 1);
      }
      const done = depth > 0 ? start : at;
      text = text.slice(done);
      at -= done;
      start = 0;
    },
    *end() {
      if (depth > 0) yield text;
    },
  };
}
