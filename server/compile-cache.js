import { enableCompileCache } from "node:module";
import { fileURLToPath } from "node:url";

/*
 * Half of the time to being ready would go into compiling, so what was compiled once is kept, with the packages: where
 * the server's own files lie and nowhere else, since whoever writes there decides what runs. Where that place may not
 * be written, as in the image, what is there is used and nothing is added; it is of use to the same user on the same
 * kind of processor only, by whose names Node keeps it apart. An entry imports this first, and what it is made of by
 * `await import(...)` after it: Node compiles static imports before any of them runs.
 *
 * This and the entries are JavaScript, since what is kept is without its types already: with not one file of TypeScript
 * left to read before, Node does not load its parser for it, which would stay, 13 MiB of it.
 */
enableCompileCache(fileURLToPath(new URL("./node_modules/.cache/compiled/", import.meta.url)));
