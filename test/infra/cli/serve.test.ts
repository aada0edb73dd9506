import { join } from "node:path";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { describe, expect, onTestFinished, test } from "vitest";
import { CHECKOUT } from "../../../infra/cli/checkout.ts";
import { EXIT } from "../../../infra/cli/cli-error.ts";
import { runProgram } from "../../../infra/cli/program.ts";
import { recordingTerminal } from "./recording-terminal.ts";
import { startServer } from "./server-process.ts";

const STDIO_SERVER = [process.execPath, join(CHECKOUT, "test/server/stdio-servers/older.ts")];

describe("mcp-aks serve", () => {
  test("serves the command, hands on what is the command's, and ends when told to", async () => {
    const server = await startServer({ TOKEN: "t" }, [
      join(CHECKOUT, "infra/cli/mcp-aks.js"),
      ...["serve", "--stdio", "--port", "0", "--metrics-port", "0", "--env", "TOKEN"],
      ...[...STDIO_SERVER, "--env", "theirs"],
    ]);
    const client = new Client({ name: "test-client", version: "1.0.0" }, { versionNegotiation: { mode: "auto" } });
    await client.connect(new StreamableHTTPClientTransport(new URL(server.url)));
    onTestFinished(() => client.close());
    const { content } = await client.callTool({ name: "env", arguments: {} });
    expect(JSON.stringify(content)).toContain("TOKEN");
    await client.close();
    expect(await server.stop("SIGTERM")).toBe(0);
    await expect(fetch(server.url)).rejects.toThrow();
  });

  test.each([
    [["serve", "some-server"], /required option '--stdio' not specified/],
    [["serve", "--stdio"], /missing required argument 'command'/],
    [["serve", "--stdio", "--prot", "1", "x"], /unknown option '--prot'/],
  ])("%j is refused", async (args, message) => {
    const terminal = recordingTerminal();
    expect(await runProgram(args, terminal)).toBe(EXIT.usage);
    expect(terminal.text()).toMatch(message);
  });
});
