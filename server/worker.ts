import "./compile-cache.ts";

/* The worker's entry. */
await import("./worker-http.ts");
