import { Argument, Command, InvalidArgumentError } from "commander";
import { CliError, EXIT } from "./cli-error.ts";
import type { Terminal } from "./terminal.ts";

interface Options {
  readonly header: readonly string[];
  readonly headerFile?: string;
  readonly keyEnv?: string;
  readonly login?: true;
  readonly allowHttp?: true;
  readonly patience: number;
}

/** How long a request is tried, by default: as long as most clients wait for an answer. */
const PATIENCE_SECONDS = 60;

/** `bridge URL`: an MCP server on HTTP, for a client that only starts commands and talks to them on stdio. */
export function bridgeCommand(terminal: Terminal): Command {
  return (
    new Command("bridge")
      .summary("serve a client that speaks stdio from a server on HTTP")
      .description(
        "Passes MCP messages between standard input and output and a server's Streamable HTTP endpoint, for clients that " +
          "can only start a command. Every version of the protocol passes as it is. The bridge connects anew when the " +
          "server restarts, and ends with its client. Messages for people go to standard error.",
      )
      .addArgument(new Argument("<url>", "the MCP endpoint, such as https://mcp.example.com/mcp"))
      // One at a time: an option that took several values would take the URL, too.
      .option(
        "--header <name:value>",
        `a header for every request; ${"$"}{NAME} is an environment variable`,
        collect,
        [],
      )
      .option("--header-file <path>", "a file of headers, one a line; read again when the server refuses the key")
      .option("--key-env <name>", "environment variable with the key, sent as Authorization: Bearer <key>")
      .option("--login", "sign in in the browser when the server asks for it, and stay signed in")
      .option("--allow-http", "send the headers over plain http:// to another machine")
      .option("--patience <seconds>", "how long to try while the server cannot be reached", seconds, PATIENCE_SECONDS)
      .addHelpText(
        "after",
        `
Examples, as a client's configuration would have them:
  mcp-aks bridge https://mcp.example.com/mcp --header-file /home/me/.mcp-on-aks/mcp-dev.headers
  mcp-aks bridge https://mcp.example.com/mcp --key-env MCP_DEV_API_KEY
  mcp-aks bridge https://mcp.example.com/mcp --login
  mcp-aks bridge http://127.0.0.1:8080/mcp`,
      )
      .action((url: string, options: Options) => bridge(endpoint(url), options, terminal))
  );
}

async function bridge(url: URL, options: Options, terminal: Terminal): Promise<void> {
  const [{ isOpenToOthers, readHeaders }, { createSignIn, loginFile }, { createHttpFetch }, { Pump }] =
    await Promise.all([
      import("./bridge/headers.ts"),
      import("./bridge/sign-in.ts"),
      import("./bridge/http-fetch.ts"),
      import("./bridge/pump.ts"),
    ]);
  // A client's log has many servers' lines in it.
  const say = (line: string) => terminal.err(`mcp-aks bridge: ${line}\n`);
  const read = () => readHeaders(options, process.env);
  let headers = await read();
  if (options.login && "authorization" in headers) {
    throw new CliError(
      "--login and a header Authorization are two ways to be known; leave one of them out.",
      EXIT.usage,
    );
  }
  const hasSecrets = options.login || Object.keys(headers).length > 0;
  if (url.protocol === "http:" && !isLoopback(url.hostname) && hasSecrets && !options.allowHttp) {
    throw new CliError(
      `${shown(url)} is plain http on another machine, where everyone on the way can read the headers; ` +
        "use https, or say --allow-http.",
      EXIT.usage,
    );
  }
  if (options.headerFile !== undefined && (await isOpenToOthers(options.headerFile))) {
    say(`${options.headerFile} can be read by other users of this machine; chmod 600 keeps the key yours.`);
  }
  const signIn = options.login ? await createSignIn({ url, file: loginFile(url), say }) : undefined;
  const fetch = createHttpFetch({
    headers: () => ({ ...headers, ...signIn?.headers() }),
    async refreshHeaders() {
      if (signIn !== undefined) return signIn.refresh();
      // A file that is being written cannot be read for a moment; the key that was refused then stays refused.
      const fresh = await read().catch(() => headers);
      const changed = JSON.stringify(fresh) !== JSON.stringify(headers);
      headers = fresh;
      return changed;
    },
  });
  const ending = new AbortController();
  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) process.once(signal, () => ending.abort());
  say(`passing messages on to ${shown(url)}`);
  const pump = new Pump({
    url,
    fetch,
    input: process.stdin,
    output: process.stdout,
    say,
    patienceMs: options.patience * 1000,
  });
  await pump.run(ending.signal);
  fetch.close();
  process.stdin.destroy();
}

function endpoint(text: string): URL {
  const url = URL.parse(text);
  if (url === null || !["http:", "https:"].includes(url.protocol)) {
    throw new CliError(`${JSON.stringify(text)} is no http:// or https:// URL of an MCP endpoint.`, EXIT.usage);
  }
  if (url.username !== "" || url.password !== "") {
    throw new CliError(
      "The URL has a user or a password in it; give the key by --header-file or --key-env.",
      EXIT.usage,
    );
  }
  return url;
}

/** A URL without its query, where keys are sometimes put. */
const shown = (url: URL) => `${url.origin}${url.pathname}`;

const isLoopback = (host: string) => /^(localhost|127(\.\d{1,3}){3}|\[::1\])$/i.test(host);

function collect(value: string, before: readonly string[]): readonly string[] {
  return [...before, value];
}

function seconds(value: string): number {
  if (/^\d{1,6}$/.test(value)) return Number(value);
  throw new InvalidArgumentError("give whole seconds.");
}
