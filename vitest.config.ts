import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // Most files wait for processes that they start: a core each, where the default leaves one idle.
    maxWorkers: "100%",
    // Generous: a bound for what hangs, not for how busy the machine is.
    testTimeout: 60_000,
    expect: { poll: { timeout: 20_000 } },
    hookTimeout: 60_000,
  },
});
