let lastTime = 0;
let lastText = "";

/** The time now, as ISO 8601 with milliseconds. Made once for all lines of a millisecond. */
export function isoTime(): string {
  const now = Date.now();
  if (now !== lastTime) {
    lastTime = now;
    lastText = new Date(now).toISOString();
  }
  return lastText;
}
