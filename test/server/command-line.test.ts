import { execFileSync } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import fc from "fast-check";
import { beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { CommandLineError, splitWords } from "../../server/services/command-line.ts";
import type { CommandRunner } from "../../server/services/commands.ts";
import { openWorkspace, type Workspace } from "../../server/services/workspace.ts";
import { ToolFailure } from "../../server/tools/define-tool.ts";
import { executeCommand } from "../../server/tools/execute-command.ts";
import { temporaryDirectory } from "./running-app.ts";
import { commandRunner, contextWith, isolation } from "./tool-context.ts";

describe("a command line without a shell", () => {
  test.each<[string, string[]]>([
    ["git status", ["git", "status"]],
    ["  a \t b  ", ["a", "b"]],
    ["echo 'one two' \"three four\"", ["echo", "one two", "three four"]],
    ["echo ''", ["echo", ""]],
    ["a'b'\"c\"d", ["abcd"]],
    ['echo "say \\"hi\\" \\\\ \\n"', ["echo", 'say "hi" \\ \\n']],
    ["echo one\\ two \\| \\\\", ["echo", "one two", "|", "\\"]],
    ["grep '$HOME|*' \"a;b\" x~y a#b", ["grep", "$HOME|*", "a;b", "x~y", "a#b"]],
    ["echo 'Grüße 😀'", ["echo", "Grüße 😀"]],
    ["", []],
  ])("%j is split as a shell would", (line, words) => {
    expect(splitWords(line)).toEqual(words);
  });

  test.each<[string, string]>([
    ["ls | wc", '"|" (pipes)'],
    ["ls; id", '";" (lists of commands)'],
    ["ls && id", '"&" (background commands and lists)'],
    ["ls > file", '">" (redirections)'],
    ["cat <file", '"<" (redirections)'],
    ["echo $HOME", '"$" (variables and substitutions)'],
    ['echo "$HOME"', '"$" (variables and substitutions)'],
    ["echo `id`", '"`" (substitutions)'],
    ['echo "`id`"', '"`" (substitutions)'],
    ["(id)", '"(" (subshells)'],
    ["ls *.ts", '"*" (patterns)'],
    ["ls ?", '"?" (patterns)'],
    ["ls [ab]", '"[" (patterns)'],
    ["echo {a,b}", '"{" (braces)'],
    ["ls ~/x", '"~" (home directories)'],
    ["# ls", '"#" (comments)'],
    ["ls\nid", "a line break (several lines)"],
    ["ls\\\nid", "a line break (several lines)"],
    ["echo 'open", "its quote ' is never closed"],
    ['echo "open', 'its quote " is never closed'],
    ["echo \\", "it ends with a backslash"],
  ])("%j is refused by what it has", (line, reason) => {
    expect(() => splitWords(line)).toThrow(reason);
  });

  test("gives back every word that was quoted", () => {
    const quote = (word: string) => `'${word.replaceAll("'", `'\\''`)}'`;
    fc.assert(
      fc.property(fc.array(fc.string({ unit: "binary" })), (words) => {
        expect(splitWords(words.map(quote).join(" "))).toEqual(words);
      }),
    );
  });

  test("means to the shell what it means here, or is refused", () => {
    const piece = fc.constantFrom(
      "a",
      "b c",
      "'",
      '"',
      "\\",
      " ",
      "\t",
      "$",
      "'x y'",
      '"x\\"y"',
      "|",
      "é",
      "#",
      "~",
      "=",
      "-n",
      "!",
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 8 }), (pieces) => {
        const line = pieces.join("");
        let words: string[];
        try {
          words = splitWords(line);
        } catch (error) {
          expect(error).toBeInstanceOf(CommandLineError);
          return;
        }
        const script = `set -- ${line}\nfor word in "$@"; do printf '%s\\0' "$word"; done`;
        const output = execFileSync("/bin/sh", ["-c", script], { encoding: "utf8" });
        // Without words, `set --` clears them all the same.
        expect(output.split("\0").slice(0, -1)).toEqual(words);
      }),
      { numRuns: 60 },
    );
  });
});

describe("commands without a shell", () => {
  let workspace: Workspace;
  beforeEach(async () => {
    workspace = await openWorkspace(await temporaryDirectory(), { fileSizeLimit: 1024 });
    await writeFile(join(workspace.root, "a b.txt"), "content\n");
  });
  const call = (args: Record<string, unknown>, commands: CommandRunner) =>
    executeCommand.call(args, contextWith({ workspace, commands }));
  async function refusal(args: Record<string, unknown>, commands: CommandRunner): Promise<string> {
    try {
      await call(args, commands);
    } catch (error) {
      if (error instanceof ToolFailure) return error.message;
      throw error;
    }
    throw new Error("It ran.");
  }
  const listed = async (programs: readonly string[]) => {
    const isolated = await isolation({ programs });
    onTestFinished(() => isolated.close());
    return { runner: commandRunner({ shell: false, isolation: Promise.resolve(isolated) }), facts: isolated.facts };
  };

  test("run one program with its arguments", async () => {
    const commands = commandRunner({ shell: false });
    expect(await call({ command: "cat 'a b.txt'" }, commands)).toMatchObject({ exitCode: 0, stdout: "content\n" });
    expect(await call({ command: "cat", args: ["a b.txt"] }, commands)).toMatchObject({ stdout: "content\n" });
    expect(await call({ command: "echo", args: ["$HOME", "*", "; id"] }, commands)).toMatchObject({
      stdout: "$HOME * ; id\n",
    });
    await mkdir(join(workspace.root, "bin"));
    await writeFile(join(workspace.root, "bin/tool"), "#!/bin/sh\necho $1\n", { mode: 0o755 });
    expect(await call({ command: "bin/tool ran" }, commands)).toMatchObject({ stdout: "ran\n" });
  });

  test("take arguments as they are with a shell, too", async () => {
    const commands = commandRunner();
    expect(await call({ command: "echo", args: ["$HOME", "| wc"] }, commands)).toMatchObject({
      stdout: "$HOME | wc\n",
    });
  });

  test.each<[Record<string, unknown>, string]>([
    [{ command: "cat x | wc" }, 'Argument "command" is "cat x | wc": it has "|" (pipes), and no shell reads it'],
    [{ command: "no-such-program x" }, 'There is no program "no-such-program" on this server'],
    [{ command: "   " }, 'Argument "command" names no program'],
    [{ command: "''" }, 'Argument "command" names no program'],
    [{ command: "echo", args: ["a\0b"] }, "it must not contain NUL characters"],
    [{ command: "echo", args: "x" }, 'Argument "args" is "x"'],
    [{ command: "echo", args: ["x".repeat(131_072)] }, "131072 bytes in one piece, and a program takes at most 131071"],
    [{ command: "echo", args: Array(9).fill("x".repeat(131_000)) }, "more than 1048576 bytes together"],
  ])("are refused for what they are: %#", async (args, sentence) => {
    expect(await refusal(args, commandRunner({ shell: false }))).toContain(sentence);
  });

  test("are those of the list alone", async () => {
    const { runner } = await listed(["cat", "/bin/echo"]);
    expect(await call({ command: "cat 'a b.txt'" }, runner)).toMatchObject({ stdout: "content\n" });
    expect(await call({ command: "/bin/echo hi" }, runner)).toMatchObject({ stdout: "hi\n" });
    for (const command of [
      "sh -c id",
      "/bin/sh",
      "./cat x",
      "../../bin/cat x",
      "CAT x",
      "cat\u200b x",
      "echo hi",
      "env cat",
    ]) {
      expect(await refusal({ command }, runner)).toContain(
        "is not a program that this server runs; it runs cat, /bin/echo.",
      );
    }
  });

  test.runIf(process.platform === "linux")("of the list run no others", async ({ skip }) => {
    const { runner, facts } = await listed(["find", "cat"]);
    if (!facts.landlock) skip(facts.missing.join("; "));
    await writeFile(join(workspace.root, "evil"), "#!/bin/cat\n", { mode: 0o755 });
    for (const other of ["/bin/sh -c 'echo ran'", "/usr/bin/id", "./evil"]) {
      const result = await call({ command: `find . -maxdepth 0 -exec ${other} \\;` }, runner);
      expect(result).toMatchObject({ stdout: "", stderr: expect.stringContaining("Permission denied") });
    }
    expect(await call({ command: "find . -name 'a*' -exec cat '{}' \\;" }, runner)).toMatchObject({
      stdout: "content\n",
    });
  });
});
