import { keepCompiled } from "./compile-cache.ts";

/* The HTTP entry. */
keepCompiled();
await import("./http.ts");
