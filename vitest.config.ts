import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    testTimeout: 20_000,
    hookTimeout: 30_000,
    // Processes that start beside many others take longer than the second that vitest gives them.
    expect: { poll: { timeout: 10_000 } },
  },
});
