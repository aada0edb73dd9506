/** A command line that is not one, with the reason as a sentence for whoever wrote it. */
export class CommandLineError extends Error {
  override readonly name = "CommandLineError";
}

/** Characters that a shell would act on. Outside quotes they are refused, since their meaning would be lost. */
const ACTIVE = new Map([
  ["|", "pipes"],
  ["&", "background commands and lists"],
  [";", "lists of commands"],
  ["<", "redirections"],
  [">", "redirections"],
  ["(", "subshells"],
  [")", "subshells"],
  ["$", "variables and substitutions"],
  ["`", "substitutions"],
  ["*", "patterns"],
  ["?", "patterns"],
  ["[", "patterns"],
  ["{", "braces"],
  ["}", "braces"],
  ["\n", "several lines"],
  ["\r", "several lines"],
]);
/** These mean something at the beginning of a word only. */
const ACTIVE_AT_START = new Map([
  ["~", "home directories"],
  ["#", "comments"],
]);

/**
 * Splits a command line into words, the way POSIX shells do (Shell Command Language, 2.2 "Quoting") as far as quotes
 * go: words are separated by spaces and tabs; '...' is taken literally; in "..." a backslash escapes `"` and `\`;
 * elsewhere a backslash escapes any one character. There is nothing else: whatever a shell would expand or act on is
 * refused by name unless it is quoted. Throws {@link CommandLineError}.
 */
export function splitWords(line: string): string[] {
  const words: string[] = [];
  let word: string | undefined;
  let quote: '"' | "'" | undefined;
  const characters = [...line];
  for (let at = 0; at < characters.length; at++) {
    const character = characters[at] ?? "";
    const next = characters[at + 1];
    if (quote === "'") {
      if (character === "'") quote = undefined;
      else word += character;
    } else if (quote === '"') {
      if (character === '"') quote = undefined;
      else if (character === "\\" && (next === '"' || next === "\\")) {
        word += next;
        at++;
      } else if (character === "$" || character === "`") throw active(character, ACTIVE.get(character));
      else word += character;
    } else if (character === "'" || character === '"') {
      quote = character;
      word ??= "";
    } else if (character === "\\") {
      if (next === undefined) throw new CommandLineError("it ends with a backslash; escape a character, or quote it");
      if (next === "\n" || next === "\r") throw active(next, ACTIVE.get(next));
      word = (word ?? "") + next;
      at++;
    } else if (character === " " || character === "\t") {
      if (word !== undefined) words.push(word);
      word = undefined;
    } else {
      const meaning = ACTIVE.get(character) ?? (word === undefined ? ACTIVE_AT_START.get(character) : undefined);
      if (meaning !== undefined) throw active(character, meaning);
      word = (word ?? "") + character;
    }
  }
  if (quote !== undefined) throw new CommandLineError(`its quote ${quote} is never closed; close it`);
  if (word !== undefined) words.push(word);
  return words;
}

function active(character: string, meaning = "expansion"): CommandLineError {
  const shown = character === "\n" || character === "\r" ? "a line break" : `"${character}"`;
  return new CommandLineError(
    `it has ${shown} (${meaning}), and no shell reads it; put it into single quotes if it is meant literally`,
  );
}
