import "./compile-cache.js";

/* The HTTP entry. */
await import("./http.ts");
