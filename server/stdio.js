import "./compile-cache.js";

/* The stdio entry, for a client that starts the server itself. */
await import("./stdio-server.ts");
