import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { scalingTable } from "../bench/scaling.ts";
import { type Scenario, simulate } from "../bench/scaling-rules.ts";

const page = readFileSync("docs/scaling.md", "utf8");

test("docs/scaling.md has the figures that `npm run bench:scaling` prints today", () => {
  const [, table] = /<!-- npm run bench:scaling -->\n([\s\S]*?)\n<!-- end -->/.exec(page) ?? [];
  expect(table?.split("\n")).toEqual(scalingTable());
});

const SCENARIO: Scenario = {
  jobs: 100,
  jobSeconds: 30,
  deadlineSeconds: 3600,
  workers: { min: 0, max: 20 },
  jobsPerWorker: 5,
  pollingSeconds: 15,
  cooldownSeconds: 300,
  scaleDown: { stabilizationSeconds: 600, pods: 2, periodSeconds: 60 },
  room: { now: 100, perNode: 7, moreNodes: 0 },
  podSeconds: 20,
  nodeSeconds: 180,
};

describe("the simulation", () => {
  test("keeps the last worker for as long as a job runs, and the cooldown after it", () => {
    const { drainedSeconds, restSeconds } = simulate({ ...SCENARIO, jobs: 1, jobSeconds: 2000 });
    expect(drainedSeconds).toBe(15 + 20 + 2000);
    expect(restSeconds - drainedSeconds).toBeGreaterThanOrEqual(300 - 15);
    expect(restSeconds - drainedSeconds).toBeLessThanOrEqual(300 + 15);
  });

  test("asks for a worker for every five jobs, rounded up, and no more than there may be", () => {
    const most = (jobs: number) => simulate({ ...SCENARIO, jobs, jobSeconds: 300 }).mostWorkers;
    expect([1, 5, 6, 28, 99, 100, 1000].map(most)).toEqual([1, 1, 2, 6, 20, 20, 20]);
  });

  test("changes nothing within a tenth of the target", () => {
    // 21 jobs of 4 workers are 5.25 each: within. 23 are 5.75: not.
    const within = { ...SCENARIO, workers: { min: 4, max: 20 }, jobSeconds: 600 };
    expect(simulate({ ...within, jobs: 21 }).mostWorkers).toBe(4);
    expect(simulate({ ...within, jobs: 23 }).mostWorkers).toBe(5);
  });

  test("doubles, or adds four, every fifteen seconds", () => {
    const { mostWorkersSeconds } = simulate({ ...SCENARIO, workers: { min: 0, max: 40 }, jobs: 10_000 });
    // 1 at the first poll, then 5, 10, 20, 40.
    expect(mostWorkersSeconds).toBe(15 + 4 * 15);
  });

  test("lets workers go two a minute, ten minutes after the queue wanted them", () => {
    const { drainedSeconds, restSeconds } = simulate({ ...SCENARIO, workers: { min: 1, max: 20 }, jobs: 1000 });
    expect(restSeconds - drainedSeconds).toBeGreaterThan(600 + 8 * 60 - 30);
    expect(restSeconds - drainedSeconds).toBeLessThan(600 + 10 * 60 + 30);
  });

  test("orders nodes for workers that find no room, waits for them, and gives them back", () => {
    const room = { now: 2, perNode: 7, moreNodes: 2 };
    const crowded = simulate({ ...SCENARIO, jobs: 1000, room });
    expect(crowded).toMatchObject({ moreNodes: 2, mostWorkers: 16 });
    expect(crowded.mostWorkersSeconds).toBeGreaterThan(180);
    expect(crowded.drainedSeconds).toBeGreaterThan(simulate({ ...SCENARIO, jobs: 1000 }).drainedSeconds);
  });

  test("runs each job once: workers' time is enough for all, and no faster than all at once", () => {
    const { drainedSeconds, inTime } = simulate({ ...SCENARIO, jobs: 10_000, workers: { min: 20, max: 20 } });
    expect(drainedSeconds).toBe((10_000 / 100) * 30);
    expect(inTime).toBe(10_000);
  });

  test("counts who is late: what cannot end within the deadline", () => {
    const { inTime } = simulate({ ...SCENARIO, deadlineSeconds: 300, jobs: 10_000, workers: { min: 20, max: 20 } });
    expect(inTime).toBe((300 / 30) * 100);
  });
});
