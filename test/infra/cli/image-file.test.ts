import { describe, expect, test } from "vitest";
import { imageConfig } from "../../../infra/cli/image-file.ts";

describe("what a Dockerfile's last stage says", () => {
  test("stages inherit from one another, and only the last counts", () => {
    const image = imageConfig(`
# syntax=docker/dockerfile:1
ARG BASE=node:24
FROM \${BASE} AS base
ENV NODE_ENV=production GREETING="hello \\"you\\"" \\
    # a comment between
    EMPTY=
WORKDIR /app
FROM base AS tests
CMD ["npm", "test"]
FROM --platform=linux/amd64 base
RUN <<EOF
CMD ["not", "this"]
EOF
WORKDIR server
EXPOSE 8080 9090/tcp
USER 10001:10001
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["node", "main.js"]
`);
    expect(image).toEqual({
      workingDir: "/app/server",
      user: "10001:10001",
      environment: { NODE_ENV: "production", GREETING: 'hello "you"', EMPTY: "" },
      exposedPorts: [8080, 9090],
      entrypoint: ["/usr/bin/tini", "--"],
      command: ["node", "main.js"],
    });
  });

  test("a command that a shell would run is refused, for the shell would swallow SIGTERM", () => {
    expect(() => imageConfig("FROM node\nCMD node main.js")).toThrow(/shell form.*SIGTERM/);
  });
});
