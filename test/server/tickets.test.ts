import { createHash } from "node:crypto";
import { get, type IncomingMessage } from "node:http";
import { describe, expect, onTestFinished, test } from "vitest";
import { createTickets } from "../../server/auth/tickets.ts";
import { createMemoryStore } from "../../server/services/shared-store-memory.ts";
import type { Caller } from "../../server/tools/define-tool.ts";
import { listening, rpc, type TestApp, testApp } from "./running-app.ts";
import { websocketUrl } from "./websocket-client.ts";

const CALLER: Caller = Object.freeze({ subject: "key:ci", method: "api-key", role: "reader", keyId: "1f0c2a9b" });
const PAGE = "https://app.example.com";

function tickets() {
  let now = Date.now();
  const kept: string[] = [];
  const memory = createMemoryStore();
  const put: typeof memory.put = (...all) => {
    kept.push(all.join(" "));
    return memory.put(...all);
  };
  const store = { ...memory, put };
  const replica = () => createTickets({ store, clock: () => now });
  return { ...replica(), replica, kept, pass: (seconds: number) => (now += seconds * 1000) };
}

describe("a ticket", () => {
  test("tells once who its caller is, as the same object", async () => {
    const { issue, redeem } = tickets();
    const ticket = await issue({ caller: CALLER }, PAGE);
    expect(ticket).toMatch(/^[\w-]{43}$/);
    expect((await redeem(ticket, PAGE))?.caller).toBe(CALLER);
    expect(await redeem(ticket, PAGE)).toBeUndefined();
  });

  test("is taken by one of two that come at once", async () => {
    const { issue, redeem } = tickets();
    const ticket = await issue({ caller: CALLER }, PAGE);
    const found = await Promise.all([redeem(ticket, PAGE), redeem(ticket, PAGE)]);
    expect(found.filter((each) => each !== undefined)).toHaveLength(1);
  });

  test("of another replica is as good, and its caller the same object from then on", async () => {
    const { issue, replica } = tickets();
    const { redeem } = replica();
    const caller = (await redeem(await issue({ caller: CALLER })))?.caller;
    expect(caller).toEqual(CALLER);
    expect(Object.isFrozen(caller)).toBe(true);
    expect((await redeem(await issue({ caller: CALLER })))?.caller).toBe(caller);
  });

  test("carries the end of the token that it was asked for with, and none for a key", async () => {
    const { issue, replica } = tickets();
    const expires = Date.now() + 3_600_000;
    expect(await replica().redeem(await issue({ caller: CALLER, expires }))).toEqual({ caller: CALLER, expires });
    expect(await replica().redeem(await issue({ caller: CALLER }))).toEqual({ caller: CALLER });
  });

  test("is too old after half a minute", async () => {
    const { issue, redeem, pass } = tickets();
    const [one, other] = [await issue({ caller: CALLER }), await issue({ caller: CALLER })];
    pass(29);
    expect((await redeem(one))?.caller).toBe(CALLER);
    pass(1);
    expect(await redeem(other)).toBeUndefined();
  });

  test.each([
    ["another origin", PAGE, "https://evil.example"],
    ["no origin", PAGE, undefined],
    ["an origin, fetched without one", undefined, PAGE],
  ])("of %s is refused, and used up", async (_what, fetched, shown) => {
    const { issue, redeem } = tickets();
    const ticket = await issue({ caller: CALLER }, fetched);
    expect(await redeem(ticket, shown)).toBeUndefined();
    expect(await redeem(ticket, fetched)).toBeUndefined();
  });

  test("is not in the store that it is kept in", async () => {
    const { issue, kept } = tickets();
    const ticket = await issue({ caller: CALLER }, PAGE);
    expect(kept.join(" ")).not.toContain(ticket);
  });

  test.each(["", "x", "ticket", `${"a".repeat(43)},${"b".repeat(43)}`, "../".repeat(20)])(
    "is not %j",
    async (guess) => {
      expect(await tickets().redeem(guess)).toBeUndefined();
    },
  );
});

const KEY = "mcp_dev_correct-horse-battery-staple";
const hash = createHash("sha256").update(KEY).digest("hex");
const WITH_KEYS = { AUTH_MODE: "api-key", API_KEY_HASHES: `sha256:${hash}`, ALLOWED_ORIGINS: PAGE };

const INITIALIZE = {
  id: 0,
  method: "initialize",
  params: { protocolVersion: "2025-11-25", capabilities: {}, clientInfo: { name: "page", version: "1" } },
};

async function fetchTicket({ app }: TestApp, headers: Record<string, string> = {}) {
  return app.inject({
    method: "POST",
    url: "/mcp/ws/ticket",
    headers: { host: "127.0.0.1", authorization: `Bearer ${KEY}`, ...headers },
  });
}

/** Opens a connection as a page's script does, with sub-protocols and no headers, and calls a tool; tells what came of it. */
async function open(url: URL, protocols: string[], headers: Record<string, string> = {}, tool = ""): Promise<string> {
  const socket = new WebSocket(websocketUrl(url), { protocols, headers } as unknown as string[]);
  onTestFinished(() => socket.close());
  return new Promise((resolve) => {
    socket.addEventListener("open", () => {
      for (const message of tool === "" ? [] : [INITIALIZE, { id: 1, method: "tools/call", params: { name: tool } }]) {
        socket.send(JSON.stringify({ jsonrpc: "2.0", ...message }));
      }
      resolve(`opened as ${socket.protocol}`);
    });
    socket.addEventListener("error", () => resolve("refused"));
  });
}

describe("a page's WebSocket", () => {
  test("opens with a ticket, once, and the ticket is in no log", async () => {
    const server = await testApp(WITH_KEYS);
    const url = await listening(server);
    const response = await fetchTicket(server, { origin: PAGE });
    expect(response.statusCode).toBe(200);
    expect(response.headers["cache-control"]).toBe("no-store");
    const { ticket, expiresInSeconds } = response.json<{ ticket: string; expiresInSeconds: number }>();
    expect(expiresInSeconds).toBe(30);
    const opened = await open(url, ["mcp", `ticket.${ticket}`], { origin: PAGE }, "system_info");
    expect(opened).toBe("opened as mcp");
    expect(await open(url, ["mcp", `ticket.${ticket}`], { origin: PAGE })).toBe("refused");
    const called = expect.objectContaining({ event: "tool.called", subject: `key:${hash.slice(0, 8)}` });
    await expect.poll(() => server.events()).toContainEqual(called);
    expect(JSON.stringify(server.events())).not.toContain(ticket);
  });

  test.each<[string, (ticket: string) => [string[], Record<string, string>]]>([
    [
      "a ticket of a page from elsewhere",
      (ticket) => [["mcp", `ticket.${ticket}`], { origin: "http://localhost:3000" }],
    ],
    ["a ticket without the page's origin", (ticket) => [["mcp", `ticket.${ticket}`], {}]],
    ["two tickets", (ticket) => [["mcp", `ticket.${ticket}`, `ticket.${"x".repeat(43)}`], { origin: PAGE }]],
    ["a ticket and a key", (ticket) => [["mcp", `ticket.${ticket}`], { origin: PAGE, authorization: `Bearer ${KEY}` }]],
    ["a guess", () => [["mcp", `ticket.${"x".repeat(43)}`], { origin: PAGE }]],
    ["the ticket under another name", (ticket) => [["mcp", ticket], { origin: PAGE }]],
    ["a ticket alone", (ticket) => [[`ticket.${ticket}`], { origin: PAGE }]],
  ])("is refused with %s", async (_what, shown) => {
    const server = await testApp(WITH_KEYS);
    const url = await listening(server);
    const { ticket } = (await fetchTicket(server, { origin: PAGE })).json<{ ticket: string }>();
    expect(await open(url, ...shown(ticket))).toBe("refused");
  });

  test("gets no ticket without a key, from a foreign page, or for a ticket", async () => {
    const server = await testApp(WITH_KEYS);
    expect((await fetchTicket(server, { authorization: "" })).statusCode).toBe(401);
    expect((await fetchTicket(server, { authorization: "Bearer wrong" })).statusCode).toBe(401);
    expect((await fetchTicket(server, { origin: "https://evil.example" })).statusCode).toBe(403);
    const { ticket } = (await fetchTicket(server)).json<{ ticket: string }>();
    const shown = { authorization: "", "sec-websocket-protocol": `mcp, ticket.${ticket}` };
    expect((await fetchTicket(server, shown)).statusCode).toBe(401);
    expect((await fetchTicket(server, { authorization: `Bearer ${ticket}` })).statusCode).toBe(401);
  });

  test("does nothing for requests that are no handshake of its", async () => {
    const server = await testApp(WITH_KEYS);
    const { ticket } = (await fetchTicket(server)).json<{ ticket: string }>();
    const headers = { host: "127.0.0.1", "sec-websocket-protocol": `mcp, ticket.${ticket}` };
    for (const url of ["/mcp", "/mcp/ws"]) expect((await server.app.inject({ url, headers })).statusCode).toBe(401);
    expect((await server.app.inject({ method: "POST", url: "/mcp", headers })).statusCode).toBe(401);
    const url = await listening(server);
    expect(await open(url, ["mcp", `ticket.${ticket}`])).toBe("opened as mcp");
  });
});

test("without the store that replicas share, tickets are for later, and whoever asks is told so and on record", async () => {
  // Nothing listens on port 1. Everything else goes on.
  const redis = { REDIS_HOST: "127.0.0.1", REDIS_PORT: "1", REDIS_AUTH: "none", REDIS_TLS: "false" };
  const server = await testApp({ ...WITH_KEYS, ...redis });
  const issued = await fetchTicket(server, { origin: PAGE });
  expect(issued.statusCode).toBe(503);
  expect(issued.headers["retry-after"]).toBe("5");
  expect(issued.json()).toMatchObject({ error: { message: expect.stringMatching(/tickets .* try again/) } });

  const url = websocketUrl(await listening(server));
  const handshake = {
    ...{ connection: "Upgrade", upgrade: "websocket", "sec-websocket-version": "13" },
    ...{ "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==", origin: PAGE },
    "sec-websocket-protocol": `mcp, ticket.${"x".repeat(43)}`,
  };
  const redeemed = await new Promise<IncomingMessage>((resolve, reject) => {
    get({ port: url.port, path: url.pathname, headers: handshake }, resolve).once("error", reject);
  });
  redeemed.resume();
  expect([redeemed.statusCode, redeemed.headers["retry-after"]]).toEqual([503, "5"]);

  const refused = { stream: "audit", event: "request.refused", reason: "tickets unavailable" };
  expect(server.events().filter(({ stream, event }) => stream === "audit" && event === "request.refused")).toEqual([
    expect.objectContaining({ ...refused, subject: `key:${hash.slice(0, 8)}`, path: "/mcp/ws/ticket" }),
    expect.objectContaining({ ...refused, path: "/mcp/ws" }),
  ]);
  const call = await server.app.inject(rpc("tools/list", {}, { authorization: `Bearer ${KEY}` }));
  expect(call.statusCode).toBe(200);
});
