import type { FastifyDynamicSwaggerOptions } from "@fastify/swagger";
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest, type RouteOptions } from "fastify";
import type { Config } from "./config.ts";
import type { Runtime } from "./services/runtime.ts";

export interface OpenapiOptions {
  readonly config: Pick<Config, "AUTH_MODE" | "PUBLIC_URL">;
  readonly runtime: Pick<Runtime, "name" | "version">;
}

/** Where the pages are; the document itself is at `/docs/json` and `/docs/yaml`. */
const PREFIX = "/docs";

/** The page loads its own scripts and styles and asks this server alone; everything else stays forbidden. */
const CONTENT_SECURITY_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

type Route = Pick<RouteOptions, "method" | "url">;

/**
 * Serves the OpenAPI document of the HTTP surface, and a page to read it and to try it with. The paths are those of the
 * routes registered after this; the words for them are below. All is made when somebody first looks: the page and what
 * it is made with cost a server's start some 50 ms and 6 MB, which most never need.
 */
export function registerOpenapi(app: FastifyInstance, options: OpenapiOptions): void {
  let pages: Promise<FastifyInstance> | undefined;
  const show = async (request: FastifyRequest, reply: FastifyReply) => {
    pages ??= buildPages(routes, options);
    const { routing } = await pages;
    reply.hijack();
    routing(request.raw, reply.raw);
  };
  for (const url of [PREFIX, `${PREFIX}/*`]) app.get(url, show);
  const routes: Route[] = [];
  app.addHook("onRoute", ({ method, url }) => {
    // Fastify adds HEAD to every GET by itself.
    for (const each of [method].flat()) if (each !== "HEAD") routes.push({ method: each, url });
  });
  app.addHook("onClose", async () => (await pages)?.close());
}

/** The pages, as an application of their own that is about `routes` and serves none of them. */
async function buildPages(routes: readonly Route[], { config, runtime }: OpenapiOptions): Promise<FastifyInstance> {
  const [{ default: swagger }, { default: swaggerUi }] = await Promise.all([
    import("@fastify/swagger"),
    import("@fastify/swagger-ui"),
  ]);
  const schemes = {
    ...(config.AUTH_MODE.includes("api-key") && { key: { type: "http", scheme: "bearer" } as const }),
    ...(config.AUTH_MODE.includes("entra") && {
      token: { type: "http", scheme: "bearer", bearerFormat: "JWT" } as const,
    }),
  };
  const security = Object.keys(schemes).map((scheme) => ({ [scheme]: [] }));
  const options: FastifyDynamicSwaggerOptions = {
    openapi: {
      openapi: "3.1.0",
      info: {
        title: runtime.name,
        version: runtime.version,
        description:
          "A Model Context Protocol server. Its tools are called by JSON-RPC messages over one path, `/mcp`, as the " +
          "protocol's Streamable HTTP transport has it (https://modelcontextprotocol.io); `tools/list` describes them.",
      },
      ...(config.PUBLIC_URL !== undefined && { servers: [{ url: new URL(config.PUBLIC_URL).origin }] }),
      components: {
        ...(security.length > 0 && { securitySchemes: schemes }),
      },
    },
    transform: ({ schema, url, route }) => {
      // The endpoint's other methods only say that they are not there.
      const method = [route.method].flat().join();
      // Browsers ask by OPTIONS of themselves; it is nobody's to call.
      const hide = method === "OPTIONS" || (url === "/mcp" && OPERATIONS[`${method} ${url}`] === undefined);
      return { schema: hide ? { ...schema, hide } : schema, url };
    },
    transformObject: (document) => {
      if (!("openapiObject" in document)) return {};
      const { openapiObject } = document;
      // Version 3.1's schemas are JSON Schema; the plugin's types stop at 3.0's.
      Object.assign(openapiObject, { components: { ...openapiObject.components, schemas: SCHEMAS } });
      for (const [path, operations] of Object.entries(openapiObject.paths ?? {})) {
        for (const method of Object.keys(operations ?? {})) {
          const described = OPERATIONS[`${method.toUpperCase()} ${path}`];
          if (described === undefined) continue;
          const { authenticated, ...operation } = described;
          Object.assign(operations ?? {}, {
            [method]: { ...operation, ...(authenticated && security.length > 0 && { security }) },
          });
        }
      }
      return openapiObject;
    },
  };
  const app = Fastify();
  await app.register(swagger, options);
  for (const { method, url } of routes) app.route({ method, url, handler: (_request, reply) => reply.callNotFound() });
  await app.register(swaggerUi, { routePrefix: PREFIX, staticCSP: CONTENT_SECURITY_POLICY });
  await app.ready();
  return app;
}

interface Operation {
  readonly summary: string;
  readonly description?: string;
  readonly tags: readonly string[];
  readonly authenticated?: boolean;
  readonly parameters?: readonly object[];
  readonly requestBody?: object;
  readonly responses: Readonly<Record<string, object>>;
}

const SCHEMAS = {
  Message: {
    type: "object",
    description: "One JSON-RPC 2.0 message",
    properties: {
      jsonrpc: { const: "2.0" },
      id: { type: ["string", "integer"], description: "Of a request; a notification has none" },
      method: { type: "string" },
      params: { type: "object" },
    },
    required: ["jsonrpc"],
  },
  Answer: {
    type: "object",
    description: "A JSON-RPC 2.0 response: a result or an error",
    properties: {
      jsonrpc: { const: "2.0" },
      id: { type: ["string", "integer", "null"] },
      result: { type: "object" },
      error: {
        type: "object",
        properties: { code: { type: "integer" }, message: { type: "string" }, data: {} },
        required: ["code", "message"],
      },
    },
    required: ["jsonrpc", "id"],
  },
  Ticket: {
    type: "object",
    properties: { ticket: { type: "string" }, expiresInSeconds: { type: "integer" } },
    required: ["ticket", "expiresInSeconds"],
  },
  Status: {
    type: "object",
    properties: { status: { enum: ["ok", "unavailable"] } },
    required: ["status"],
  },
} as const;

const json = (schema: keyof typeof SCHEMAS, more: object = {}) => ({
  "application/json": { schema: { $ref: `#/components/schemas/${schema}` }, ...more },
});
const refusal = (description: string) => ({ description, content: json("Answer") });
const header = (name: string, description: string) => ({
  name,
  in: "header",
  description,
  schema: { type: "string" },
});

const META = {
  "io.modelcontextprotocol/protocolVersion": "2026-07-28",
  "io.modelcontextprotocol/clientCapabilities": {},
};

const live: Operation = {
  summary: "Whether the process lives",
  tags: ["probes"],
  responses: { 200: { description: "It does", content: json("Status") } },
};
const ready: Operation = {
  summary: "Whether it takes requests",
  tags: ["probes"],
  responses: {
    200: { description: "It does", content: json("Status") },
    503: { description: "It starts, or it ends", content: json("Status") },
  },
};

const metadata = (summary: string): Operation => ({
  summary,
  tags: ["sign-in"],
  responses: { 200: { description: "The document", content: { "application/json": { schema: { type: "object" } } } } },
});
const inQuery = (name: string, required = false) => ({ name, in: "query", required, schema: { type: "string" } });
const oauthFault = (description: string) => ({
  description,
  content: {
    "application/json": {
      schema: {
        type: "object",
        properties: { error: { type: "string" }, error_description: { type: "string" } },
        required: ["error"],
      },
    },
  },
});

/** Every operation of the public listener. */
const OPERATIONS: Readonly<Record<string, Operation>> = {
  "GET /.well-known/oauth-protected-resource": metadata("Where to sign in for this server (RFC 9728)"),
  "GET /.well-known/oauth-protected-resource/mcp": metadata("Where to sign in for the endpoint (RFC 9728)"),
  "GET /.well-known/oauth-authorization-server": metadata("How to sign in through this server (RFC 8414)"),
  "GET /oauth/authorize": {
    summary: "Sign in",
    description: "Sends the browser on to Entra, which sends it back to the client with a code.",
    tags: ["sign-in"],
    parameters: [
      inQuery("response_type", true),
      inQuery("client_id", true),
      inQuery("redirect_uri", true),
      inQuery("code_challenge", true),
      inQuery("code_challenge_method", true),
      inQuery("scope"),
      inQuery("state"),
      inQuery("resource"),
    ],
    responses: {
      302: { description: "To Entra, or back to the client with an error" },
      400: oauthFault("The client or its redirect URI is not known"),
    },
  },
  "POST /oauth/token": {
    summary: "Get an access token for a code or a refresh token",
    tags: ["sign-in"],
    requestBody: {
      required: true,
      content: {
        "application/x-www-form-urlencoded": { schema: { type: "object", required: ["grant_type", "client_id"] } },
      },
    },
    responses: {
      200: {
        description: "Entra's answer (RFC 6749, section 5.1)",
        content: { "application/json": { schema: { type: "object" } } },
      },
      400: oauthFault("The request is refused, here or by Entra"),
      429: oauthFault("Too many failed attempts; `Retry-After` says when to come back"),
      503: oauthFault("Entra cannot be asked now; `Retry-After` says when to come back"),
    },
  },
  "POST /oauth/register": {
    summary: "Get the client id that people sign in with (RFC 7591)",
    description: "Everyone gets the same, and nothing is kept.",
    tags: ["sign-in"],
    requestBody: {
      required: true,
      content: { "application/json": { schema: { type: "object", required: ["redirect_uris"] } } },
    },
    responses: {
      201: { description: "The client", content: { "application/json": { schema: { type: "object" } } } },
      400: oauthFault("A redirect URI is neither on loopback nor a known client's"),
    },
  },
  "POST /mcp": {
    summary: "Send one protocol message",
    description:
      "Takes one JSON-RPC message of any version of the protocol. A request is answered by one JSON object, or by a " +
      "stream of server-sent events that ends with the response. Any replica answers any request.",
    tags: ["protocol"],
    authenticated: true,
    parameters: [
      header(
        "MCP-Protocol-Version",
        "Version of the protocol; from 2026-07-28 on required, and the same as in `_meta`",
      ),
      header("Mcp-Method", "From 2026-07-28 on required: the message's method"),
      header("Mcp-Name", "From 2026-07-28 on required for calls: the tool's, prompt's or resource's name"),
      header("Mcp-Session-Id", "Before 2026-07-28: what the answer to `initialize` had in this header"),
    ],
    requestBody: {
      required: true,
      content: json("Message", {
        examples: {
          list: { summary: "List the tools", value: { jsonrpc: "2.0", id: 1, method: "tools/list", params: {} } },
          call: {
            summary: "Call a tool",
            value: { jsonrpc: "2.0", id: 2, method: "tools/call", params: { name: "system_info", arguments: {} } },
          },
          newer: {
            summary: "Call a tool, as of 2026-07-28 (with the three headers)",
            value: {
              jsonrpc: "2.0",
              id: 3,
              method: "tools/call",
              params: { name: "system_info", arguments: {}, _meta: META },
            },
          },
        },
      }),
    },
    responses: {
      200: {
        description: "The response, with what the server had to say before it",
        content: { ...json("Answer"), "text/event-stream": { schema: { type: "string" } } },
      },
      202: { description: "A notification was taken" },
      400: refusal("The body is no message, or does not agree with the headers"),
      401: refusal("No credentials, or none that are valid; `WWW-Authenticate` says where to get some"),
      403: refusal(
        "A web page that may not call this server, or a caller that may not call this tool; `WWW-Authenticate` names the " +
          "scope where one would help",
      ),
      404: refusal("No such method (from 2026-07-28 on), or no session of that name (before)"),
      406: refusal("`Accept` must have both application/json and text/event-stream"),
      413: refusal("The body is too large"),
      415: refusal("The body must be application/json"),
      429: refusal("Too many requests; `Retry-After` says when to come back"),
      503: refusal("Too much to do; `Retry-After` says when to come back"),
    },
  },
  "GET /mcp": {
    summary: "Open the stream of what the server says unasked",
    description:
      "For sessions of the protocols before 2026-07-28. Later ones have the method `subscriptions/listen` for it.",
    tags: ["protocol"],
    authenticated: true,
    parameters: [
      { ...header("Mcp-Session-Id", "What the answer to `initialize` had in this header"), required: true },
      header("Last-Event-ID", "The id of the last event received, on a reconnect"),
    ],
    responses: {
      200: { description: "The stream", content: { "text/event-stream": { schema: { type: "string" } } } },
      400: refusal("No such version of the protocol"),
      401: refusal("No credentials, or none that are valid; `WWW-Authenticate` says where to get some"),
      403: refusal("A web page that may not call this server"),
      404: refusal("No session of that name; begin a new one with `initialize`"),
      405: refusal("No `Mcp-Session-Id`"),
      406: refusal("`Accept` must have text/event-stream"),
      503: refusal("Too much to do; `Retry-After` says when to come back"),
    },
  },
  "GET /mcp/ws": {
    summary: "Open a connection for protocol messages",
    description: "WebSocket with the sub-protocol `mcp`: one JSON-RPC message a text frame, in both directions.",
    tags: ["protocol"],
    authenticated: true,
    parameters: [
      {
        ...header("Sec-WebSocket-Protocol", "The sub-protocol, `mcp`; in a browser, `mcp, ticket.<ticket>`"),
        required: true,
      },
    ],
    responses: {
      101: { description: "The connection is open" },
      400: refusal("The handshake does not offer the sub-protocol `mcp`"),
      401: refusal("No credentials, or none that are valid; `WWW-Authenticate` says where to get some"),
      403: refusal("A web page that may not call this server"),
      426: refusal("A request that is no WebSocket handshake"),
      503: refusal("This server takes no more connections now"),
    },
  },
  "POST /mcp/ws/ticket": {
    summary: "Get a ticket for a WebSocket",
    description:
      "For web pages, whose WebSocket takes no `Authorization` header. The ticket opens one connection, from the same " +
      "origin, and only in the next seconds: offer it as the sub-protocol `ticket.<ticket>` beside `mcp`.",
    tags: ["protocol"],
    authenticated: true,
    responses: {
      200: { description: "The ticket, and how long it holds", content: json("Ticket") },
      401: refusal("No key, or a wrong one"),
      403: refusal("A web page that may not call this server"),
      503: refusal("Too much to do, or nowhere to keep a ticket; `Retry-After` says when to come back"),
    },
  },
  "GET /": {
    summary: "What this server is",
    tags: ["protocol"],
    responses: {
      200: {
        description: "Its name and where its endpoint is",
        content: { "application/json": { schema: { type: "object" } } },
      },
    },
  },
  "GET /health/live": live,
  "GET /healthz": live,
  "GET /health": ready,
  "GET /health/ready": ready,
  "GET /readyz": ready,
};
