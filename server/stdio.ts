import { keepCompiled } from "./compile-cache.ts";

/* The stdio entry, for a client that starts the server itself. */
keepCompiled();
await import("./stdio-server.ts");
