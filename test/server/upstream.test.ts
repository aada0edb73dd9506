import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { Readable } from "node:stream";
import { describe, expect, onTestFinished, test } from "vitest";
import { ToolFailure } from "../../server/tools/define-tool.ts";
import { fetchWithin } from "../../server/tools/upstream.ts";

type Answer = [status: number, headers?: Record<string, string>, body?: string];

function endWithTest(server: Server): void {
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
}

/** A service that gives those answers, one after the other, the last one again and again. */
async function service(...answers: Answer[]) {
  const bodies: string[] = [];
  const server = createServer(async (request: IncomingMessage, response: ServerResponse) => {
    let body = "";
    for await (const chunk of request) body += String(chunk);
    const [status, headers, text] = answers[Math.min(bodies.length, answers.length - 1)] ?? [500];
    bodies.push(body);
    response.sendDate = headers?.date === undefined;
    response.writeHead(status, headers).end(text);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  endWithTest(server);
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/deployments/secret?key=hush`, bodies };
}

/** Time that passes by being waited for. */
function clock(start = Date.parse("2026-11-03T10:00:00Z")) {
  const waits: number[] = [];
  let now = start;
  return {
    waits,
    now: () => now,
    wait: async (ms: number) => {
      waits.push(ms);
      now += ms;
    },
  };
}

const call = () => ({ signal: new AbortController().signal });

/** What the caller of the tool is told. */
async function failure(attempt: Promise<unknown>): Promise<ToolFailure> {
  const error = await attempt.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (error instanceof ToolFailure) return error;
  throw new Error("It did not fail as a tool does.", { cause: error });
}

describe("a request to a service that is busy", () => {
  test.each<[string, Answer, number]>([
    ["seconds", [429, { "retry-after": "7" }], 7000],
    ["a date, by the service's own clock", [429, retryAt("09:00:12", "09:00:00")], 12_000],
    ["a date that has passed", [503, retryAt("09:00:00", "09:00:12")], 0],
    ["Azure's milliseconds", [429, { "retry-after-ms": "250", "retry-after": "1" }], 250],
    ["nothing at all", [429], 1000],
  ])("is made again when it should be: %s", async (_what, busy, wait) => {
    const { url, bodies } = await service(busy, [200, {}, "done"]);
    const time = clock();
    const response = await fetchWithin(30, url, { ...call(), method: "POST", body: "again" }, time);
    expect([response.status, await response.text()]).toEqual([200, "done"]);
    expect(time.waits).toEqual([wait]);
    expect(bodies).toEqual(["again", "again"]);
  });

  test("waits longer and longer, as long as there is time, where the service does not say", async () => {
    const { url } = await service([429]);
    const time = clock();
    const { message, output } = await failure(fetchWithin(10, url, call(), time));
    expect(time.waits).toEqual([1000, 2000, 4000]);
    expect(message).toMatch(/^127\.0\.0\.1:\d+ takes no more requests now \(HTTP 429\); call again in 8 seconds\.$/);
    expect(output).toEqual({ status: 429, retryAfterSeconds: 8 });
  });

  test("fails at once when the wait is longer than the call, and tells no more of the address than its host", async () => {
    const { url, bodies } = await service([503, { "retry-after": "120" }]);
    const time = clock();
    const { message, output } = await failure(fetchWithin(30, url, call(), time));
    expect(message).toContain("call again in 120 seconds");
    expect(message).not.toMatch(/secret|hush/);
    expect(output).toEqual({ status: 503, retryAfterSeconds: 120 });
    expect([time.waits, bodies.length]).toEqual([[], 1]);
  });

  test("fails rather than send half of a stream again", async () => {
    const { url, bodies } = await service([429, { "retry-after": "1" }], [200]);
    const body = Readable.toWeb(Readable.from([Buffer.from("once")])) as ReadableStream;
    const request = { ...call(), method: "POST", body, duplex: "half" } as const;
    expect((await failure(fetchWithin(30, url, request, clock()))).message).toContain("call again in 1 second.");
    expect(bodies).toEqual(["once"]);
  });

  test("ends when the call is cancelled", async () => {
    const { url, bodies } = await service([429, { "retry-after": "20" }]);
    const cancelling = new AbortController();
    const attempt = fetchWithin(30, url, { signal: cancelling.signal });
    await expect.poll(() => bodies.length).toBe(1);
    cancelling.abort();
    await expect(attempt).rejects.toThrow(/abort/i);
  });
});

test.each([200, 404, 500, 503])("an answer of %i that names no time is the tool's to judge", async (status) => {
  const { url } = await service([status, {}, "as it is"]);
  const time = clock();
  const response = await fetchWithin(30, url, call(), time);
  expect([response.status, await response.text(), time.waits]).toEqual([status, "as it is", []]);
});

test("a service that never answers is one that the caller is told of", async () => {
  const server = createServer(() => {}).listen(0, "127.0.0.1");
  await once(server, "listening");
  endWithTest(server);
  const { port } = server.address() as AddressInfo;
  const { message } = await failure(fetchWithin(0.05, `http://127.0.0.1:${port}/`, call()));
  expect(message).toBe(`127.0.0.1:${port} did not answer within 0.05 seconds; call again, or ask it for less.`);
});

function retryAt(until: string, now: string): Record<string, string> {
  return { "retry-after": `Tue, 03 Nov 2026 ${until} GMT`, date: `Tue, 03 Nov 2026 ${now} GMT` };
}
