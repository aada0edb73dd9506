/** Characters of one piece: large enough that small answers are one, small enough to be garbage soon. */
const PIECE_CHARACTERS = 64 * 1024;

/**
 * The JSON of `value` in pieces, together exactly what `JSON.stringify` gives for plain data. So a long result is
 * encoded as fast as its reader takes it, and never lies in memory a second and a third time, as text and as bytes.
 */
export function* jsonPieces(value: unknown): Generator<string, void, undefined> {
  let gathered = "";
  for (const part of parts(value)) {
    gathered += part;
    if (gathered.length < PIECE_CHARACTERS) continue;
    yield gathered;
    gathered = "";
  }
  if (gathered !== "") yield gathered;
}

function* parts(value: unknown): Generator<string, void, undefined> {
  if (typeof value === "string") {
    yield* stringParts(value);
  } else if (typeof value !== "object" || value === null) {
    yield JSON.stringify(value) ?? "null";
  } else if (Array.isArray(value)) {
    let before = "[";
    for (const item of value) {
      yield before;
      yield* parts(item);
      before = ",";
    }
    yield before === "[" ? "[]" : "]";
  } else {
    let before = "{";
    for (const [key, item] of Object.entries(value)) {
      // As in JSON.stringify: what has no JSON is left out.
      if (item === undefined) continue;
      yield `${before}${JSON.stringify(key)}:`;
      yield* parts(item);
      before = ",";
    }
    yield before === "{" ? "{}" : "}";
  }
}

function* stringParts(text: string): Generator<string, void, undefined> {
  if (text.length <= PIECE_CHARACTERS) {
    yield JSON.stringify(text);
    return;
  }
  yield '"';
  for (let start = 0; start < text.length; ) {
    let end = Math.min(start + PIECE_CHARACTERS, text.length);
    // Both halves of a surrogate pair in one piece: apart, each would be escaped by itself.
    if (end < text.length && /[\ud800-\udbff]/.test(text.charAt(end - 1))) end--;
    yield JSON.stringify(text.slice(start, end)).slice(1, -1);
    start = end;
  }
  yield '"';
}
