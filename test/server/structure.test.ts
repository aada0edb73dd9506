import { existsSync, globSync, readFileSync } from "node:fs";
import { builtinModules } from "node:module";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { parseEnvironment } from "../../server/config.ts";

const server = fileURLToPath(new URL("../../server", import.meta.url));
const text = (path: string) => readFileSync(join(server, path), "utf8");
const sources = globSync("**/*.{ts,js}", { cwd: server, exclude: ["node_modules/**", "workspace/**"] });

const importsOf = (path: string, pattern = /^(?:import|export)\s[^;]*?from "([^"]+)";/gms) =>
  [...text(path).matchAll(pattern)].map((match) => match[1] ?? "");

/** Rooms from the bottom up; what stands higher may use what stands lower, or beside it. */
const LEVELS: [RegExp, number][] = [
  [/^(config|icons)\.ts$|^compile-cache\.js$/, 0],
  [/^services\//, 1],
  [/^(tools|prompts|resources)\//, 2],
  [/^(auth|jobs|limits|observability|mcp|proxy)\//, 3],
  [/^(app|openapi|worker-app)\.ts$/, 4],
  [/^(http|stdio-server|stdio-over-http|worker-http|run|shutdown)\.ts$|^(main|stdio|serve-stdio|worker)\.js$/, 5],
];
const levelOf = (path: string) => LEVELS.find(([pattern]) => pattern.test(path))?.[1];

describe("the server's sources", () => {
  test.each(sources)("%s imports what lies below it, or what its package depends on", (path) => {
    const manifest = JSON.parse(text("package.json")) as { dependencies: Record<string, string> };
    const level = levelOf(path);
    expect(level).toBeDefined();
    for (const specifier of importsOf(path)) {
      if (specifier.startsWith(".")) {
        const target = relative(server, join(server, dirname(path), specifier));
        expect(existsSync(join(server, target))).toBe(true);
        expect(levelOf(target)).toBeLessThanOrEqual(level ?? -1);
      } else if (specifier.startsWith("node:")) {
        expect(builtinModules).toContain(specifier.slice("node:".length));
      } else {
        const name = specifier
          .split("/")
          .slice(0, specifier.startsWith("@") ? 2 : 1)
          .join("/");
        expect(Object.keys(manifest.dependencies)).toContain(name);
      }
    }
  });

  /** All that is loaded with an entry: what it imports, but for types, and what that imports. */
  const loadedWith = (entry: string) => {
    const loaded = new Set([entry]);
    for (const path of loaded) {
      if (!existsSync(join(server, path))) continue;
      for (const specifier of importsOf(path, /^(?:import|export)\s(?!type\s)[^;]*?from "([^"]+)";/gms)) {
        loaded.add(specifier.startsWith(".") ? join(dirname(path), specifier) : specifier);
      }
    }
    return [...loaded];
  };

  // Some 70 MiB and a second, which a server that is asked for none of it does without.
  test.each(["http.ts", "stdio-server.ts", "stdio-over-http.ts"])(
    "%s starts without Azure's clients, Redis's, what guards requests to them, and what runs jobs",
    (entry) => {
      const loaded = loadedWith(entry);
      expect(loaded).toContain("mcp/protocol.ts");
      const unasked =
        /^(@azure|@redis)\/|^(cockatiel|redis)$|^jobs\/(worker|run-job|sweeper)\.ts$|^services\/jobs\/(queue|store)-/;
      expect(loaded.filter((name) => unasked.test(name))).toEqual([]);
    },
  );

  test("config.ts, which the infrastructure imports, needs zod and nothing else", () => {
    expect(importsOf("config.ts").filter((specifier) => !specifier.startsWith("node:"))).toEqual(["zod"]);
  });
});

/** Where compiled code is kept, under the server's directory. */
const COMPILED = "node_modules/.cache/compiled";

describe("the image", () => {
  const instructions = text("Dockerfile")
    .replace(/\\\n\s*/g, " ")
    .split("\n")
    .filter((line) => /^[A-Z]/.test(line));
  const last = (name: string) => instructions.findLast((line) => line.startsWith(`${name} `))?.slice(name.length + 1);

  test("runs the HTTP entry as a numbered user that is not root", () => {
    expect(last("USER")).toMatch(/^[1-9]\d*:[1-9]\d*$/);
    expect(JSON.parse(last("ENTRYPOINT") ?? "")).toEqual(["/usr/bin/tini", "--"]);
    const [program, script] = JSON.parse(last("CMD") ?? "") as string[];
    expect(program).toBe("node");
    expect(existsSync(join(server, script ?? ""))).toBe(true);
  });

  test("keeps commands from reading the server's environment out of /proc", () => {
    expect(instructions.filter((line) => line.startsWith("RUN")).join()).toContain("chmod 0711 /usr/bin/tini");
    expect(instructions).toContain("COPY --from=node --chmod=0711 /usr/local/bin/node /usr/local/bin/node");
  });

  test("has what keeps commands apart", () => {
    expect(instructions.join("\n")).toMatch(/apt-get install [^&]*\bmount\b[^&]*\btini\b[^&]*\butil-linux\b/);
    // Debian 13 is the first with a setpriv that knows Landlock and seccomp.
    expect(text("Dockerfile")).toMatch(/RUNTIME_IMAGE=.*debian:(trixie|forky|duke)-slim/);
  });

  test("has its code compiled by the user that will run it, and owned by root", () => {
    const [uid, gid] = last("USER")?.split(":") ?? [];
    const compiling = instructions.find((line) => line.includes(COMPILED));
    expect(compiling).toContain(`setpriv --reuid=${uid} --regid=${gid} `);
    const entries = sources.filter((path) => text(path).startsWith('import "./compile-cache.js";'));
    expect(entries.toSorted()).toEqual(["main.js", "serve-stdio.js", "stdio.js", "worker.js"]);
    for (const entry of entries) expect(compiling).toMatch(new RegExp(`(node |in |"|\\.js )${entry} `));
    expect(compiling).toMatch(
      /&& chown -R 0:0 node_modules\/\.cache\b.*&& chmod -R u=rwX,go=rX node_modules\/\.cache$/,
    );
    expect(text("compile-cache.js")).toContain(`./${COMPILED}/`);
    const order = instructions.map((line) => line.split(" ", 2).join(" "));
    expect(order.indexOf("COPY server/")).toBeLessThan(instructions.indexOf(compiling ?? ""));
  });

  test("exposes the ports that the server listens on by default", () => {
    const { PORT, METRICS_PORT } = parseEnvironment({});
    expect(last("EXPOSE")).toBe(`${PORT} ${METRICS_PORT}`);
  });

  test("runs on the Node that the server's package asks for", () => {
    const { engines } = JSON.parse(text("package.json")) as { engines: { node: string } };
    const major = /BASE_IMAGE=.*node:(\d+)\./.exec(text("Dockerfile"))?.[1];
    expect(engines.node).toBe(`>=${major}`);
  });

  test("is built from the manifests and the server alone", () => {
    const allowed = text("Dockerfile.dockerignore")
      .split("\n")
      .filter((line) => line.startsWith("!"));
    expect(allowed).toEqual(["!package.json", "!package-lock.json", "!server"]);
    expect(text("Dockerfile.dockerignore")).toMatch(/^\*$/m);
  });
});
