import { existsSync, writeFileSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { ElicitResult, ListResourcesResult } from "@modelcontextprotocol/client";
import { describe, test } from "vitest";
import { endMarked, isRunning, sleepMark } from "./running-processes.ts";
import { connect, ways } from "./transports.ts";

/* What the server offers beside its tools, the same over every transport and in every era of the protocol. */

// Most of the time is spent waiting for commands and changes.
describe.concurrent.each(ways)("over %s, protocol %s", (...way) => {
  const [, era] = way;

  describe("resources", () => {
    test("are the files of the workspace, read as text or bytes", async ({ expect, onTestFinished: atEnd }) => {
      const { client, workspace } = await connect(way, { atEnd });
      await mkdir(join(workspace, "src"));
      await writeFile(join(workspace, "src/größe 1.ts"), "export {};\n");
      await writeFile(join(workspace, "logo.png"), Buffer.from([0x89, 0x50, 0, 1]));
      await writeFile(join(workspace, ".hidden"), "");

      const { resources } = await client.listResources();
      expect(resources.map(({ uri, name, mimeType, size }) => ({ uri, name, mimeType, size }))).toEqual([
        { uri: "workspace:///logo.png", name: "logo.png", mimeType: "image/png", size: 4 },
        { uri: "workspace:///src/gr%C3%B6%C3%9Fe%201.ts", name: "src/größe 1.ts", mimeType: undefined, size: 11 },
      ]);
      const read = async (uri: string) => (await client.readResource({ uri })).contents;
      expect(await read(resources[1]?.uri ?? "")).toEqual([
        { uri: "workspace:///src/gr%C3%B6%C3%9Fe%201.ts", mimeType: "text/plain", text: "export {};\n" },
      ]);
      expect(await read("workspace:///logo.png")).toEqual([
        { uri: "workspace:///logo.png", mimeType: "image/png", blob: "iVAAAQ==" },
      ]);
      expect((await client.listResourceTemplates()).resourceTemplates.map(({ uriTemplate }) => uriTemplate)).toEqual([
        "workspace:///{+path}",
        "workspace:///{+path}{?offset,length}",
      ]);
    });

    test("that are long come in parts, each naming the next, and nothing is lost", async ({
      expect,
      onTestFinished: atEnd,
    }) => {
      const { client, workspace } = await connect(way, { atEnd });
      // Characters of three bytes, so that no part ends where a character does.
      const text = "→ zeile\n".repeat(60_000);
      await writeFile(join(workspace, "long.log"), text);
      let found = "";
      let uri: string | undefined = "workspace:///long.log";
      let parts = 0;
      while (uri !== undefined) {
        const { contents } = await client.readResource({ uri });
        const [part, rest] = contents;
        if (part === undefined || !("text" in part)) throw new Error("A part is missing.");
        found += part.text;
        parts++;
        uri = rest?.uri;
        if (rest !== undefined && "text" in rest) expect(rest.text).toContain(`goes on at ${uri}`);
      }
      expect(parts).toBe(3);
      expect(found).toBe(text);
    });

    test("come in pages, in the same order each time", async ({ expect, onTestFinished: atEnd }) => {
      const { client, workspace } = await connect(way, { atEnd });
      const names = Array.from({ length: 450 }, (_, at) => `f${String(at).padStart(4, "0")}.txt`);
      await Promise.all(names.map((name) => writeFile(join(workspace, name), "")));
      const listed = async () => {
        const found: string[] = [];
        let cursor: string | undefined;
        let pages = 0;
        do {
          const params = cursor === undefined ? {} : { cursor };
          const page: ListResourcesResult = await client.request({ method: "resources/list", params });
          found.push(...page.resources.map(({ name }) => name));
          cursor = page.nextCursor;
          pages++;
        } while (cursor !== undefined);
        return { found, pages };
      };
      const first = await listed();
      expect(first).toEqual({ found: names, pages: 3 });
      expect(await listed()).toEqual(first);
      await expect(client.listResources({ cursor: "nonsense" })).rejects.toThrow("none of this server's");
    });

    test("that are none are an error that names them", async ({ expect, onTestFinished: atEnd }) => {
      const { client } = await connect(way, { atEnd });
      for (const [uri, sentence] of [
        ["workspace:///none.txt", "does not exist"],
        ["workspace:///../../etc/passwd", "does not exist"],
        ["workspace:///%2e%2e/%2e%2e/etc/passwd", "does not exist"],
        ["workspace:///..%2f..%2fetc%2fpasswd", "leads outside"],
        ["workspace://host/file", "is no file here"],
        ["workspace:///", "names no file"],
        ["workspace:///a%ff", "names no file"],
        ["file:///etc/passwd", "not found"],
      ] as const) {
        const failure = await client.readResource({ uri }).catch((error: unknown) => error);
        expect(failure).toMatchObject({
          // On the wire of the older protocols it is -32002; the client makes one of both.
          code: -32602,
          message: expect.stringContaining(sentence),
          data: { uri },
        });
      }
    });

    test("tell of their changes to who subscribes, and of nothing else", async ({ expect, onTestFinished: atEnd }) => {
      const updated: string[] = [];
      const { client, workspace } = await connect(way, {
        atEnd,
        prepare: (each) =>
          each.setNotificationHandler("notifications/resources/updated", ({ params }) => {
            updated.push(params.uri);
          }),
      });
      await writeFile(join(workspace, "watched.txt"), "1");
      const uris = ["workspace:///watched.txt", "workspace:///later.txt"];
      if (era === "2026-07-28") await client.listen({ resourceSubscriptions: uris });
      else for (const uri of uris) await client.subscribeResource({ uri });
      await writeFile(join(workspace, "unwatched.txt"), "1");
      // The stream that carries them is opened beside the first request over HTTP, and what comes before is not kept.
      let changes = "1";
      const heard = async () => {
        changes += "2";
        await writeFile(join(workspace, "watched.txt"), changes);
        return updated;
      };
      await expect.poll(heard).toContain(uris[0]);
      await writeFile(join(workspace, "later.txt"), "new");
      // A file that is made and then written may be seen twice.
      await expect.poll(() => [...new Set(updated)].sort()).toEqual([...uris].sort());
      if (era === "2026-07-28") return;
      for (const uri of uris) await client.unsubscribeResource({ uri });
      const before = updated.length;
      await writeFile(join(workspace, "watched.txt"), "333");
      await new Promise((resolve) => setTimeout(resolve, 300));
      expect(updated).toHaveLength(before);
    });
  });

  describe("prompts", () => {
    test("are listed with their arguments, and attach what they speak of", async ({
      expect,
      onTestFinished: atEnd,
    }) => {
      const { client, workspace } = await connect(way, { atEnd });
      await writeFile(join(workspace, "pod.log"), "starting\nFATAL ERROR: JavaScript heap out of memory\n");
      const { prompts } = await client.listPrompts();
      expect(
        prompts.map(({ name, arguments: args }) => [name, args?.map((each) => [each.name, each.required])]),
      ).toEqual([
        [
          "diagnose_pod_log",
          [
            ["log", true],
            ["manifest", false],
            ["symptom", false],
          ],
        ],
        [
          "explain_repository",
          [
            ["path", false],
            ["focus", false],
          ],
        ],
        [
          "review_diff",
          [
            ["diff", true],
            ["intent", false],
          ],
        ],
      ]);
      const { messages } = await client.getPrompt({
        name: "diagnose_pod_log",
        arguments: { log: "pod.log", symptom: "CrashLoopBackOff" },
      });
      expect(messages.map(({ content }) => content)).toMatchObject([
        {
          type: "text",
          text: expect.stringMatching(/CrashLoopBackOff[\s\S]*memory: compare use with the container's limit/),
        },
        {
          type: "resource",
          resource: { uri: "workspace:///pod.log", text: expect.stringContaining("heap out of memory") },
        },
      ]);
    });

    test("say what is wrong with their arguments", async ({ expect, onTestFinished: atEnd }) => {
      const { client } = await connect(way, { atEnd });
      const get = (name: string, args: Record<string, string>) => client.getPrompt({ name, arguments: args });
      await expect(get("diagnose_pod_log", {})).rejects.toThrow("give the path of the log");
      await expect(get("diagnose_pod_log", { log: "none.log" })).rejects.toThrow('"none.log" does not exist');
      await expect(get("review_diff", { diff: "a\nb\n" })).rejects.toThrow("no unified diff");
      await expect(get("review_diff", { diff: "x", other: "y" })).rejects.toThrow('Unknown argument "other"');
      await expect(get("nonsense", {})).rejects.toThrow("there are diagnose_pod_log, explain_repository, review_diff");
    });
  });

  test("completions lead to files, directory by directory", async ({ expect, onTestFinished: atEnd }) => {
    const { client, workspace } = await connect(way, { atEnd });
    await mkdir(join(workspace, "logs/deep"), { recursive: true });
    await writeFile(join(workspace, "logs/pod.log"), "");
    await writeFile(join(workspace, "logs/.state"), "");
    await writeFile(join(workspace, "readme.md"), "");
    const complete = async (ref: Parameters<typeof client.complete>[0]["ref"], name: string, value: string) =>
      (await client.complete({ ref, argument: { name, value } })).completion.values;
    const template = { type: "ref/resource", uri: "workspace:///{+path}" } as const;
    expect(await complete(template, "path", "")).toEqual(["logs/", "readme.md"]);
    expect(await complete(template, "path", "logs/")).toEqual(["logs/deep/", "logs/pod.log"]);
    expect(await complete(template, "path", "logs/.")).toEqual(["logs/.state"]);
    expect(await complete(template, "path", "../")).toEqual([]);
    expect(await complete({ type: "ref/prompt", name: "diagnose_pod_log" }, "log", "logs/p")).toEqual(["logs/pod.log"]);
    expect(await complete({ type: "ref/prompt", name: "explain_repository" }, "path", "")).toEqual(["logs/"]);
    expect(await complete({ type: "ref/prompt", name: "diagnose_pod_log" }, "symptom", "x")).toEqual([]);
    await expect(complete({ type: "ref/prompt", name: "none" }, "log", "")).rejects.toThrow('Unknown prompt "none"');
  });

  test("a command's output is watched while it runs", async ({ expect, onTestFinished: atEnd }) => {
    const { client, workspace } = await connect(way, { atEnd });
    const reports: { progress: number; message?: string | undefined }[] = [];
    const said = () => reports.map(({ message }) => message).join("");
    // Each line is written when the one before has been seen.
    const command = "for i in 1 2 3; do echo line $i; until [ -e seen$i ]; do sleep 0.02; done; done; echo ä >&2";
    const result = await client.callTool(
      { name: "execute_command", arguments: { command } },
      {
        onprogress: (report) => {
          reports.push(report);
          for (const [, line] of said().matchAll(/^line (\d)\n/gm)) writeFileSync(join(workspace, `seen${line}`), "");
        },
      },
    );
    expect(result.structuredContent).toMatchObject({ exitCode: 0, stdout: "line 1\nline 2\nline 3\n", stderr: "ä\n" });
    expect(reports.length).toBeGreaterThanOrEqual(3);
    expect(said()).toBe("line 1\nline 2\nline 3\nä\n");
    expect(reports.at(-1)?.progress).toBe(24);
    for (const [at, { progress }] of reports.entries())
      expect(progress).toBeGreaterThan(reports[at - 1]?.progress ?? 0);
  });

  test("a call that its client cancels ends, and so does what it started", async ({
    expect,
    onTestFinished: atEnd,
  }) => {
    const { client, workspace } = await connect(way, { atEnd });
    const cancelling = new AbortController();
    const mark = sleepMark();
    atEnd(() => endMarked(mark));
    const call = client.callTool(
      { name: "execute_command", arguments: { command: `sleep ${mark}; echo > finished` } },
      { signal: cancelling.signal },
    );
    call.catch(() => {});
    await expect.poll(() => isRunning(mark)).toBe(true);
    cancelling.abort();
    await expect(call).rejects.toThrow();
    const running = async () => {
      const { structuredContent } = await client.callTool({ name: "system_info", arguments: {} });
      return (structuredContent as { commands: { running: number } }).commands.running;
    };
    await expect.poll(running).toBe(0);
    await expect.poll(() => isRunning(mark)).toBe(false);
    expect(existsSync(join(workspace, "finished"))).toBe(false);
  });

  describe("deleting a directory with all it holds", () => {
    const remove = { name: "file_operation", arguments: { operation: "delete", path: "build", recursive: true } };

    test("is done when the user agrees, and not otherwise", async ({ expect, onTestFinished: atEnd }) => {
      const questions: string[] = [];
      let answer: ElicitResult = { action: "cancel" };
      const { client, workspace } = await connect(way, {
        atEnd,
        capabilities: { elicitation: {} },
        prepare: (each) =>
          each.setRequestHandler("elicitation/create", async ({ params }) => {
            questions.push(params.message);
            return answer;
          }),
      });
      await mkdir(join(workspace, "build/deep"), { recursive: true });
      await writeFile(join(workspace, "build/deep/a"), "");
      const refusals: ElicitResult[] = [
        { action: "cancel" },
        { action: "decline" },
        { action: "accept", content: { confirm: false } },
        { action: "accept", content: {} },
      ];
      for (const refusal of refusals) {
        answer = refusal;
        const result = await client.callTool(remove);
        expect(result).toMatchObject({ isError: true });
        expect(existsSync(join(workspace, "build/deep/a"))).toBe(true);
      }
      answer = { action: "accept", content: { confirm: true } };
      expect((await client.callTool(remove)).isError ?? false).toBe(false);
      expect(existsSync(join(workspace, "build"))).toBe(false);
      expect(new Set(questions)).toEqual(
        new Set(['Delete the directory "build" with everything in it (2 entries)? This cannot be undone.']),
      );
      expect(questions).toHaveLength(5);
    });

    test("asks nobody where the client cannot ask, nor for a file or an empty directory", async ({
      expect,
      onTestFinished: atEnd,
    }) => {
      const { client, workspace } = await connect(way, { atEnd });
      await mkdir(join(workspace, "build"));
      await writeFile(join(workspace, "build/a"), "");
      expect((await client.callTool(remove)).isError ?? false).toBe(false);
      expect(existsSync(join(workspace, "build"))).toBe(false);
    });
  });

  test("a result that is too long for an answer is linked to, whole", async ({ expect, onTestFinished: atEnd }) => {
    const { client, workspace } = await connect(way, { atEnd, env: { RESULT_LIMIT_BYTES: "65536" } });
    await writeFile(join(workspace, "long.txt"), "x".repeat(200_000));
    const read = (limit: number) =>
      client.callTool({ name: "file_operation", arguments: { operation: "read", path: "long.txt", limit } });
    const result = await read(200_000);
    expect(result).toMatchObject({
      isError: true,
      content: [{ text: expect.stringMatching(/was carried out.*in parts/) }, { type: "resource_link" }],
    });
    const link = result.content[1];
    if (link?.type !== "resource_link") throw new Error("There is no link.");
    const { contents } = await client.readResource({ uri: link.uri });
    expect(JSON.parse((contents[0] as { text: string }).text)).toMatchObject({ content: "x".repeat(200_000) });
    expect((await read(50_000)).structuredContent).toMatchObject({ nextOffset: 50_000, size: 200_000 });
    expect((await client.listResources()).resources.map(({ name }) => name)).toEqual(["long.txt"]);
  });

  test("a result of 100,000 tokens arrives whole", async ({ expect, onTestFinished: atEnd }) => {
    const { client, workspace } = await connect(way, { atEnd });
    const text = "token ".repeat(80_000);
    await writeFile(join(workspace, "long.txt"), text);
    const { structuredContent } = await client.callTool({
      name: "file_operation",
      arguments: { operation: "read", path: "long.txt", limit: 500_000 },
    });
    expect(structuredContent).toMatchObject({ content: text });
  });
});
