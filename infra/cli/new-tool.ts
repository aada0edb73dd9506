import { spawn } from "node:child_process";
import { readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Argument, Command } from "commander";
import { CHECKOUT } from "./checkout.ts";
import { CliError, EXIT } from "./cli-error.ts";
import { shortPath } from "./rehearsal-state.ts";
import type { Terminal } from "./terminal.ts";

/** A tool's name in the forms that it takes. */
interface ToolName {
  /** As clients see it: `weather_report`. */
  readonly tool: string;
  /** As its files are called: `weather-report`. */
  readonly file: string;
  /** As the code calls it: `weatherReport`. */
  readonly constant: string;
  /** As people read it: `Weather report`. */
  readonly title: string;
}

const TOOLS = "server/tools";
const INDEX = `${TOOLS}/index.ts`;

/** `new-tool NAME`: the start of a tool, with its test and its line in the list. */
export function newToolCommand(terminal: Terminal): Command {
  return new Command("new-tool")
    .summary("write the start of a new tool")
    .description(
      "Writes server/tools/<name>.ts, a working tool to be made into the one you want, its test in test/server, and its " +
        "line in server/tools/index.ts. Types, style and the new test pass at once. docs/tools.md says how to go on.",
    )
    .addArgument(new Argument("<name>", "what clients call it: lower-case words joined by _, such as weather_report"))
    .addHelpText(
      "after",
      `
Example:
  npm run new:tool -- weather_report`,
    )
    .action(async (name: string) => {
      const { written, test } = await writeTool(name);
      for (const path of written) terminal.out(`${terminal.colours.green("✔")} ${path}\n`);
      const place = shortPath(CHECKOUT);
      terminal.err(
        `\nNext, in ${place}:\n- describe and write the tool in ${written[0]}; docs/tools.md says what belongs there\n` +
          `- run its test:  npx vitest run ${test}\n- try it:        npm start\n`,
      );
    });
}

/**
 * Writes a tool's files into a checkout. All are written, or none.
 *
 * @returns the files, by their paths in the checkout, and the test among them.
 * @throws CliError when the name is no tool's, or is taken.
 */
export async function writeTool(given: string, checkout = CHECKOUT): Promise<{ written: string[]; test: string }> {
  const name = toolName(given);
  await refuseTaken(name, checkout);
  const paths = { tool: `${TOOLS}/${name.file}.ts`, test: `test/server/${name.file}.test.ts`, index: INDEX };
  const before = await readFile(join(checkout, INDEX), "utf8");
  const made: string[] = [];
  try {
    for (const [path, text] of [
      [paths.tool, toolSource(name)],
      [paths.test, testSource(name)],
    ] as const) {
      await writeFile(join(checkout, path), text, { flag: "wx" });
      made.push(path);
    }
    await writeFile(join(checkout, INDEX), withTool(before, name));
    await format(Object.values(paths), checkout);
  } catch (error) {
    await Promise.all(made.map((path) => rm(join(checkout, path), { force: true })));
    await writeFile(join(checkout, INDEX), before);
    const code = error instanceof Error && "code" in error ? error.code : undefined;
    if (code === "EEXIST") throw taken(name, `${made.length === 0 ? paths.tool : paths.test} is there already`);
    throw error;
  }
  return { written: Object.values(paths), test: paths.test };
}

/** Clients put a server's name before a tool's and allow 64 characters or so for both. */
const LENGTH_LIMIT = 48;

/** Words that cannot name a constant, and names that the list of tools and its tests use themselves. */
const RESERVED: ReadonlySet<string> = new Set([
  ..."await break case catch class const continue debugger default delete do else enum export extends false".split(" "),
  ..."finally for function if implements import in instanceof interface let new null package private".split(" "),
  ..."protected public return static super switch this throw true try typeof undefined var void while with".split(" "),
  ..."yield arguments eval tool tools index define_tool z describe expect test rpc test_app message_in".split(" "),
]);

function toolName(given: string): ToolName {
  const words = given
    .replace(/([a-z0-9])([A-Z])/g, "$1_$2")
    .toLowerCase()
    .split(/[^a-z0-9]+/)
    .filter(Boolean);
  const meant = words.join("_").replace(/^[0-9_]+/, "");
  if (given !== meant || meant.length < 2 || meant.length > LENGTH_LIMIT) {
    const fits = meant.length >= 2 && meant.length <= LENGTH_LIMIT && meant !== given;
    throw new CliError(
      `${JSON.stringify(given)} is no name for a tool: lower-case words of letters and digits joined by _, a letter ` +
        `first, 2 to ${LENGTH_LIMIT} characters${fits ? `; did you mean ${meant}?` : ", such as weather_report."}`,
      EXIT.usage,
    );
  }
  const [first = "", ...others] = words;
  const capital = (word: string) => `${word.slice(0, 1).toUpperCase()}${word.slice(1)}`;
  const name: ToolName = {
    tool: meant,
    file: words.join("-"),
    constant: [first, ...others.map(capital)].join(""),
    title: capital(words.join(" ")),
  };
  if (RESERVED.has(meant) || RESERVED.has(name.constant)) {
    throw new CliError(
      `"${meant}" means something else in the code; say what the tool does, such as ${meant}_file.`,
      2,
    );
  }
  return name;
}

/** Refuses a name that another tool, or another file of the tools', has. */
async function refuseTaken(name: ToolName, checkout: string): Promise<void> {
  const folder = join(checkout, TOOLS);
  for (const file of await readdir(folder)) {
    if (file === `${name.file}.ts`) throw taken(name, `${TOOLS}/${file} is there already`);
    const source = await readFile(join(folder, file), "utf8");
    if (source.includes(`name: "${name.tool}"`)) throw taken(name, `${TOOLS}/${file} has a tool of that name`);
  }
  const test = `test/server/${name.file}.test.ts`;
  const tests = await readdir(join(checkout, "test/server"));
  if (tests.includes(`${name.file}.test.ts`)) throw taken(name, `${test} is there already`);
}

const taken = ({ tool }: ToolName, why: string) =>
  new CliError(`The name "${tool}" is taken: ${why}. Take another.`, EXIT.usage);

/** The list of tools with one more, last: clients see the tools in this order, and the known ones keep their place. */
function withTool(index: string, { constant, file }: ToolName): string {
  const list = /(export const tools: readonly Tool\[\] = \[)([^\]]*)\]/.exec(index);
  const firstImport = index.indexOf("import ");
  if (list === null || firstImport === -1) {
    throw new CliError(`${INDEX} has no list "export const tools: readonly Tool[] = [...]" to put the tool into.`);
  }
  const items = (list[2] ?? "").trim().replace(/,$/, "");
  const longer = index.replace(list[0], `${list[1]}${items}${items === "" ? "" : ", "}${constant}]`);
  const line = `import { ${constant} } from "./${file}.ts";\n`;
  return `${longer.slice(0, firstImport)}${line}${longer.slice(firstImport)}`;
}

/** Brings files into the house style, the order of imports included. */
async function format(paths: readonly string[], checkout: string): Promise<void> {
  const biome = join(checkout, "node_modules/@biomejs/biome/bin/biome");
  const child = spawn(process.execPath, [biome, "check", "--write", ...paths], {
    cwd: checkout,
    stdio: ["ignore", "ignore", "pipe"],
  });
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    said += text;
  });
  const code = await new Promise((resolve) => child.once("close", resolve));
  if (code !== 0) throw new CliError(`The new files could not be formatted; run npm ci, then try again.\n${said}`);
}

function toolSource({ tool, constant, title }: ToolName): string {
  return `import { z } from "zod";
import { defineTool, ToolFailure } from "./define-tool.ts";

/** Longest text that is taken, in characters. */
const TEXT_LIMIT = 10_000;

export const ${constant} = defineTool({
  name: "${tool}",
  title: "${title}",
  // What a model reads to choose the tool and to use it right: what it does, when to use it, what comes back.
  description: "Counts the words of a text. Replace this by what ${tool} does, and when to use it.",
  input: z.object({
    text: z.string().max(TEXT_LIMIT, \`give at most \${TEXT_LIMIT} characters\`).describe("Text to count the words of"),
  }),
  output: z.object({
    words: z.number().int().describe("Words in the text"),
  }),
  annotations: { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false },
  // Who may call: reader for what looks, operator for what changes, admin for what governs. Where only some arguments
  // change something, roleFor: (input) => role says which.
  role: "reader",
  // What of the arguments rules of access may go by, and the audit shows: never a secret, never content. Here: nothing.
  facets: {},
  // The second parameter has the workspace, the runner of commands, the caller, a signal for cancellation and the log.
  async run({ text }) {
    const words = text.split(/\\s+/).filter(Boolean).length;
    // What the caller can mend is a ToolFailure: it names the argument, its value and the mend.
    if (words === 0) throw new ToolFailure('Argument "text" has no words in it; give some.');
    return { words };
  },
});
`;
}

function testSource({ tool, constant, file }: ToolName): string {
  return `import { describe, expect, test } from "vitest";
import { ${constant} } from "../../server/tools/${file}.ts";
import { messageIn, rpc, testApp } from "./running-app.ts";

/** Calls the tool as a client does, over the protocol. */
async function call(args: Record<string, unknown>) {
  const { app } = await testApp({}, [${constant}]);
  const { result } = messageIn((await app.inject(rpc("tools/call", { name: "${tool}", arguments: args }))).body);
  return result;
}

describe("${tool}", () => {
  test("counts the words", async () => {
    expect(await call({ text: "one two  three" })).toMatchObject({ structuredContent: { words: 3 } });
  });

  test.each([
    [{ text: "  " }, 'Argument "text" has no words in it; give some.'],
    [{ text: "x".repeat(10_001) }, "give at most 10000 characters"],
    [{}, 'Argument "text" is missing'],
    [{ text: "one", more: 1 }, 'Unknown argument "more"; ${tool} takes text.'],
  ])("%o is refused, with what to do", async (args, message) => {
    const result = await call(args);
    expect(result?.isError).toBe(true);
    expect(JSON.stringify(result?.content).replaceAll("\\\\", "")).toContain(message);
  });
});
`;
}
