import "./compile-cache.js";

/* The worker's entry. */
await import("./worker-http.ts");
