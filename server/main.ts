import { enableCompileCache } from "node:module";
import { fileURLToPath } from "node:url";

/*
 * The HTTP entry. Half of the time to being ready would go into compiling, so what was compiled once is kept, with the
 * packages: where the server's own files lie and nowhere else, since whoever writes there decides what runs. Where that
 * place may not be written, as in the image, what is there is used and nothing is added.
 */
enableCompileCache(fileURLToPath(new URL("./node_modules/.cache/compiled/", import.meta.url)));
await import("./http.ts");
