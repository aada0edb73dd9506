import fc from "fast-check";
import { parse as parseJsonc, stripComments } from "jsonc-parser";
import { parse as parseToml, stringify as printToml } from "smol-toml";
import { describe, expect, test } from "vitest";
import { mergeConfig, printConfig } from "../../../infra/cli/config-file.ts";
import { mergeJson } from "../../../infra/cli/merge-json.ts";
import { mergeToml } from "../../../infra/cli/merge-toml.ts";
import { CLIENTS, ideConfig } from "../../../infra/ide-configs.ts";

const target = { name: "mcp-dev", url: "https://mcp-dev.example.com/mcp" };
const vscode = ideConfig("vscode", target).content;
const cursor = ideConfig("cursor", target).content;
const codex = ideConfig("codex", target).content;

describe("from key to login and back", () => {
  const login = { tenantId: "t", clientId: "c", ideClientId: "ide", scopes: ["api://c/Mcp.Read"] };

  test.each(CLIENTS)("%s keeps nothing of the other way in its entry", (client) => {
    const [byKey, byLogin] = [ideConfig(client, target), ideConfig(client, { ...target, login })];
    expect(mergeConfig(printConfig(byKey), byLogin).replace(/,\s*"inputs"[\s\S]*/, "")).not.toMatch(
      /bearer|header-file|API_KEY/i,
    );
    const back = mergeConfig(printConfig(byLogin), byKey);
    expect(back).not.toMatch(/"ide"|oauth/);
    expect(mergeConfig(back, byKey)).toBe(back);
  });

  test("headers of one's own stay", () => {
    const before = JSON.stringify({
      mcpServers: { "mcp-dev": { url: target.url, headers: { authorization: "Bearer x", "X-Team": "a" } } },
    });
    const { content } = ideConfig("cursor", { ...target, login });
    expect(JSON.parse(mergeJson(before, content)).mcpServers["mcp-dev"]).toEqual({
      url: target.url,
      headers: { "X-Team": "a" },
      auth: { CLIENT_ID: "ide", scopes: ["api://c/Mcp.Read", "offline_access"] },
    });
  });
});

describe("merging into JSON with comments", () => {
  test("an empty file and one of comments alone get the configuration and keep the comments", () => {
    expect(JSON.parse(mergeJson("", cursor))).toEqual(cursor);
    const merged = mergeJson("// mine\n", cursor);
    expect(merged.startsWith("// mine\n{")).toBe(true);
    expect(parseJsonc(merged)).toEqual(cursor);
  });

  test("comments, other servers, order, indentation and the final newline stay", () => {
    const before = `// servers of this project
{
    "inputs": [
        { "type": "promptString", "id": "other", "description": "d" } // asked once
    ],
    "servers": {
        /* local */ "mine": { "command": "node", "args": ["a.js"] }, // keep
    },
    "editor": 1,
}
`;
    expect(mergeJson(before, vscode)).toBe(`// servers of this project
{
    "inputs": [
        { "type": "promptString", "id": "other", "description": "d" },
        {
            "type": "promptString",
            "id": "mcp-dev-api-key",
            "description": "API key of mcp-dev",
            "password": true
        } // asked once
    ],
    "servers": {
        /* local */ "mine": { "command": "node", "args": ["a.js"] },
        "mcp-dev": {
            "type": "http",
            "url": "https://mcp-dev.example.com/mcp",
            "headers": {
                "Authorization": "Bearer \${input:mcp-dev-api-key}"
            }
        }, // keep
    },
    "editor": 1,
}
`);
  });

  test("merging twice changes nothing the second time, however the file is written", () => {
    const compact = `{"mcpServers":{"mcp-dev":${JSON.stringify(cursor.mcpServers).slice(11, -1)}}}`;
    expect(mergeJson(compact, cursor)).toBe(compact);
    const once = mergeJson('{\r\n\t"a": 1\r\n}\r\n', cursor);
    expect(mergeJson(once, cursor)).toBe(once);
    expect(once.replaceAll("\r\n", "")).not.toContain("\n");
    expect(once).toContain('\r\n\t"mcpServers"');
  });

  test("an older entry of the same server moves to the new address and keeps what its owner added", () => {
    const before = JSON.stringify({
      mcpServers: {
        "mcp-dev": {
          command: "npx",
          args: ["-y", "mcp-remote"],
          disabled: false,
          url: "http://127.0.0.1:8080/mcp",
          headers: { authorization: "Bearer old", "X-Team": "a" },
        },
      },
    });
    expect(JSON.parse(mergeJson(before, cursor))).toEqual({
      mcpServers: {
        "mcp-dev": {
          disabled: false,
          url: target.url,
          // biome-ignore lint/suspicious/noTemplateCurlyInString: Cursor's own syntax
          headers: { "X-Team": "a", Authorization: "Bearer ${env:MCP_DEV_API_KEY}" },
        },
      },
    });
  });

  test.each([
    ['{\n  "a": 1\n  "b": 2\n}', /line 3 is not JSON/],
    ['{ "mcpServers": ', /line 1 is not JSON/],
    ["[]", /something other than a JSON object/],
    ['{"mcpServers": []}', /"mcpServers" is a list where a table belongs/],
    ['{"mcpServers": null}', /"mcpServers" is null where a table belongs/],
    ['{"mcpServers": {}, "mcpServers": {"other": {}}}', /"mcpServers" occurs twice in the object at line 1/],
  ])("%s is refused with the reason", (text, reason) => {
    expect(() => mergeJson(text, cursor)).toThrow(reason);
  });

  const anyKey = fc.string({ maxLength: 8 }).filter((key) => key !== "__proto__" && key !== "mcpServers");
  const anyFile = fc.dictionary(anyKey, fc.jsonValue({ depthSize: "small", maxDepth: 3, noUnicodeString: false }), {
    maxKeys: 5,
    noNullPrototype: true,
  });

  test("property: whatever else a file holds is still there, comments included, and the server is", () => {
    const layout = fc.record({
      indent: fc.constantFrom(undefined, 2, 4, "\t"),
      head: fc.constantFrom("", "// head\n", "/* head */ "),
      tail: fc.constantFrom("", "\n", "\n// tail\n"),
    });
    fc.assert(
      fc.property(anyFile, fc.option(anyFile), layout, (others, servers, { indent, head, tail }) => {
        // Through JSON once, where -0 becomes 0.
        const file = JSON.parse(JSON.stringify(servers ? { ...others, mcpServers: servers } : others));
        const before = head + JSON.stringify(file, null, indent) + tail;
        const after = mergeJson(before, cursor);
        // No comma trails in what JSON.stringify writes, so plain JSON must come back.
        const found = JSON.parse(stripComments(after));
        const { mcpServers: _, ...rest } = file;
        expect(found.mcpServers["mcp-dev"]).toEqual(asTable(cursor.mcpServers)["mcp-dev"]);
        delete found.mcpServers["mcp-dev"];
        expect(JSON.stringify(found.mcpServers)).toBe(JSON.stringify(file.mcpServers ?? {}));
        delete found.mcpServers;
        expect(JSON.stringify(found)).toBe(JSON.stringify(rest));
        expect(after.startsWith(head) && after.endsWith(tail)).toBe(true);
        expect(mergeJson(after, cursor)).toBe(after);
      }),
      { numRuns: 200 },
    );
  });
});

describe("merging into TOML", () => {
  const entry = 'url = "https://mcp-dev.example.com/mcp"\nbearer_token_env_var = "MCP_DEV_API_KEY"\n';
  const table = `[mcp_servers.mcp-dev]\n${entry}`;

  test("an empty file gets the table", () => {
    expect(mergeToml("", codex)).toBe(table);
  });

  test("the table goes behind what is there, which stays to the letter", () => {
    const before = 'model = "o9" # the good one\n\n[mcp_servers.docs]\ncommand = "npx"\nargs = ["-y", "docs"] # "]"\n';
    expect(mergeToml(before, codex)).toBe(`${before}\n${table}`);
    expect(mergeToml(before.trimEnd(), codex)).toBe(`${before}\n${table}`);
  });

  test("an older entry moves to the new address, its other keys and its comments untouched", () => {
    const before = [
      "# mine",
      "[mcp_servers.'mcp-dev'] # the cluster",
      'command = "npx"',
      'url = """',
      'http://127.0.0.1:8080/mcp""" # local',
      "startup_timeout_sec = 20",
      "[mcp_servers.mcp-dev.tools.execute_command]",
      'approval_mode = "never"',
      "",
    ].join("\n");
    expect(mergeToml(before, codex)).toBe(
      [
        "# mine",
        "[mcp_servers.'mcp-dev'] # the cluster",
        'bearer_token_env_var = "MCP_DEV_API_KEY"',
        'url = "https://mcp-dev.example.com/mcp" # local',
        "startup_timeout_sec = 20",
        "[mcp_servers.mcp-dev.tools.execute_command]",
        'approval_mode = "never"',
        "",
      ].join("\n"),
    );
  });

  test.each([
    ["servers in one inline table", 'mcp_servers = { docs = { command = "x", args = ["a,}", "b"] } } # all\nz = 1\n'],
    ["an empty inline table", "mcp_servers = {}\n"],
    [
      "the entry in an inline table",
      '[mcp_servers]\nmcp-dev = { url = "old", enabled = false } # here\n[other]\nx = 1\n',
    ],
    ["dotted keys", 'mcp_servers.mcp-dev.url = "old"\nmcp_servers.docs.command = "x"\n[tui]\ntheme = "dark"\n'],
    ["dotted keys under a header", '[mcp_servers]\n  "mcp-dev".url = "old" # o\n  docs.command = "x"\n'],
    ["a header without keys at the end of the file", "[a]\nb = 1\n[mcp_servers.mcp-dev]"],
    ["a table that is only implied", "[mcp_servers.mcp-dev.tools.x]\na = 1\n"],
    [
      "arrays of tables, dates and odd strings",
      "[[profile]]\nn = 'a\"]'\n[[profile]]\nat = 1979-05-27 07:32:00\n[profile.sub]\ns = '''\n[mcp_servers.mcp-dev]\nurl = 1\n'''\n",
    ],
    ["Windows line ends", 'a = 1\r\n[mcp_servers.docs]\r\ncommand = "x"\r\n'],
  ])("%s", (_, before) => {
    const after = mergeToml(before, codex);
    const old = parseToml(before);
    const servers = asTable(old.mcp_servers);
    const wanted = asTable(asTable(codex.mcp_servers)["mcp-dev"]);
    expect(parseToml(after)).toEqual({
      ...old,
      mcp_servers: { ...servers, "mcp-dev": { ...asTable(servers["mcp-dev"]), ...wanted } },
    });
    for (const comment of before.match(/# \w+/g) ?? []) expect(after).toContain(comment);
    expect(mergeToml(after, codex)).toBe(after);
  });

  test.each([
    ["a = \n", /line 1 is not TOML/],
    ['a = 1\n[b]\nc = "open\n', /line 3 is not TOML/],
    ["mcp_servers = 3\n", /"mcp_servers" is a (number|bigint) where a table belongs/],
    ["[[mcp_servers]]\na = 1\n", /"mcp_servers" is a list where a table belongs/],
    ['mcp_servers = { mcp-dev = { command = "x" } }\n', /leaves no room for an edit/],
  ])("%j is refused with the reason", (text, reason) => {
    expect(() => mergeToml(text, codex)).toThrow(reason);
  });

  test("property: whatever else a file holds is still there to the letter, and the server is", () => {
    const scalar = fc.oneof(
      fc.string(),
      fc.integer(),
      fc.boolean(),
      fc.date({ noInvalidDate: true, min: new Date(0), max: new Date("2100-01-01") }),
      fc.array(fc.string(), { maxLength: 3 }),
    );
    const key = fc.string({ minLength: 1, maxLength: 6 }).filter((k) => k !== "__proto__" && k !== "mcp_servers");
    const tables = fc.letrec((tie) => ({
      table: fc.dictionary(
        key,
        fc.oneof(
          { weight: 3, arbitrary: scalar },
          { weight: 2, arbitrary: tie("table") },
          { weight: 1, arbitrary: fc.array(fc.dictionary(key, scalar, { maxKeys: 2 }), { maxLength: 2 }) },
        ),
        { maxKeys: 4, noNullPrototype: true },
      ),
    })).table;
    const note = fc.constantFrom("", "# [mcp_servers.mcp-dev]\n", '# "\n\n');
    fc.assert(
      fc.property(tables, fc.option(tables), note, note, (others, servers, head, tail) => {
        const file = servers ? { ...asTable(others), mcp_servers: servers } : asTable(others);
        const text = printToml(file);
        const before = `${head}${text}${text.endsWith("\n") || text === "" ? "" : "\n"}${tail}`;
        const old = parseToml(before);
        // A server whose entry is a scalar, or two of them in one array, is another test's business.
        fc.pre(Object.values(asTable(old.mcp_servers)).every((v) => typeof v === "object"));
        const after = mergeToml(before, codex);
        expect(parseToml(after)).toEqual({
          ...old,
          mcp_servers: { ...asTable(old.mcp_servers), ...asTable(codex.mcp_servers) },
        });
        expect(after.startsWith(before.trimEnd())).toBe(true);
        expect(mergeToml(after, codex)).toBe(after);
      }),
      { numRuns: 200 },
    );
  });
});

function asTable(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null ? { ...value } : {};
}
