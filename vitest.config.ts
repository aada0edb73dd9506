import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

/** Minutes together, so `npm test` leaves them to `npm run test:long`: whole lives of stacks, of commands, of replicas. */
const long = [
  "test/chaos/**/*.test.ts",
  "test/engine/**/*.test.ts",
  "test/infra/cli/bridge.test.ts",
  "test/infra/cli/command.test.ts",
  "test/infra/cli/new-tool.test.ts",
  "test/contract/job-*.test.ts",
  "test/server/process.test.ts",
  "test/server/replicas.test.ts",
  "test/server/sandbox.test.ts",
  "test/server/serve-stdio.test.ts",
  "test/server/worker-process.test.ts",
];

// Each file's worker loads the same packages: compiled once. Node reads this when a worker starts.
process.env.NODE_COMPILE_CACHE ??= fileURLToPath(new URL("node_modules/.cache/compiled/", import.meta.url));

export default defineConfig({
  test: {
    // Most files wait for processes that they start: a core each, where the default leaves one idle.
    maxWorkers: "100%",
    // Tests of one file that run at the same time. Each may start a server: more at once and they would starve each
    // other, and servers refuse calls then, as they should.
    maxConcurrency: 3,
    // Generous: a bound for what hangs, not for how busy the machine is.
    testTimeout: 60_000,
    expect: { poll: { timeout: 20_000 } },
    hookTimeout: 60_000,
    projects: [
      { extends: true, test: { name: "long", include: long } },
      // Pulumi, the cluster's schemas and the SDKs take seconds to load: once a worker, not once a file. Files share no
      // state.
      { extends: true, test: { name: "short", include: ["test/**/*.test.ts"], exclude: long, isolate: false } },
    ],
  },
});
