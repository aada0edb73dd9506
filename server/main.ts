import "./compile-cache.ts";

/* The HTTP entry. */
await import("./http.ts");
