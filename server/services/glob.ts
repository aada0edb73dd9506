/**
 * Matches workspace paths against a pattern: `*` any run of characters within a name, `?` one character, and a whole
 * segment `**` any number of directories, none included, or at the end all that is below. A pattern without a slash is
 * matched against the name alone.
 *
 * Our own and small, because general glob libraries compile to regular expressions that a hostile pattern can make
 * run for hours; both loops here backtrack to one place only, so the cost is bounded by pattern times path.
 */
export function matchesPattern(pattern: string, path: string): boolean {
  const patternParts = pattern.includes("/") ? pattern.split("/").filter((part) => part !== "") : ["**", pattern];
  if (patternParts.at(-1) === "**") patternParts.push("*");
  const isAny = (part: string) => part === "**";
  return matchSequence(patternParts, path.split("/"), isAny, (part, name) => {
    return matchSequence([...part], [...name], (character) => character === "*", sameCharacter);
  });
}

const sameCharacter = (pattern: string, character: string) => pattern === "?" || pattern === character;

/** Wildcard matching over any sequence; `isAny` tells the element that matches any number of others. */
function matchSequence(
  pattern: readonly string[],
  subject: readonly string[],
  isAny: (element: string) => boolean,
  matches: (element: string, other: string) => boolean,
): boolean {
  let p = 0;
  let s = 0;
  let afterAny = -1;
  let resumeAt = 0;
  while (s < subject.length) {
    const element = pattern[p];
    const other = subject[s] ?? "";
    if (element !== undefined && isAny(element)) {
      afterAny = ++p;
      resumeAt = s;
    } else if (element !== undefined && matches(element, other)) {
      p++;
      s++;
    } else if (afterAny >= 0) {
      p = afterAny;
      s = ++resumeAt;
    } else {
      return false;
    }
  }
  return pattern.slice(p).every(isAny);
}
