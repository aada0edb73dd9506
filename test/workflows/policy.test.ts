import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { actions, evaluate, type Job, job, triggers, workflows } from "./workflow.ts";

const files = Object.entries(workflows);
const jobs = files.flatMap(([file, { on, jobs }]) =>
  Object.entries(jobs).map(([name, job]) => ({ id: `${file}: ${name}`, file, name, on, job })),
);
const steps = [
  ...jobs.flatMap(({ id, job }) => job.steps.map((step) => ({ id, step }))),
  ...Object.entries(actions).flatMap(([id, { runs }]) => runs.steps.map((step) => ({ id, step }))),
];
const texts = [...files, ...Object.entries(actions)].map(([id, { text }]) => ({ id, text }));
const { scripts, devDependencies } = z
  .object({ scripts: z.record(z.string(), z.string()), devDependencies: z.record(z.string(), z.string()) })
  .parse(JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")));

const writes = (job: Job) =>
  Object.entries(job.permissions ?? {}).flatMap(([what, may]) => (may === "write" ? what : []));

describe("what workflows run", () => {
  it("pins every action by commit, with its version beside it", () => {
    for (const { id, text } of texts) {
      for (const [line] of text.matchAll(/^.*\buses:.*$/gm)) {
        expect(line, id).toMatch(/uses: (\.\/\S+|[\w-]+\/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+)$/);
      }
    }
  });

  it("pins one action to one commit everywhere", () => {
    const pins = new Set(
      texts.flatMap(({ text }) => [...text.matchAll(/uses: (\S+)@(\S+)/g)].map(([, a, c]) => `${a}@${c}`)),
    );
    const names = [...pins].map((pin) => pin.split("@")[0]);
    expect(new Set(names).size).toBe(names.length);
  });

  it("uses local actions and workflows that exist", () => {
    for (const { id, step } of steps) {
      if (step.uses?.startsWith("./")) expect(Object.keys(actions), id).toContain(step.uses);
    }
    for (const { id, job } of jobs) {
      if (job.uses)
        expect(
          files.map(([file]) => `./.github/workflows/${file}`),
          id,
        ).toContain(job.uses);
    }
  });

  it("calls npm scripts and commands that the project has", () => {
    for (const { id, step } of steps) {
      for (const [, script] of (step.run ?? "").matchAll(/\bnpm run (?:--silent )?([\w:-]+)/g)) {
        expect(Object.keys(scripts), id).toContain(script);
      }
      for (const [, command] of (step.run ?? "").matchAll(/\bnpx (\S+)/g)) {
        expect(Object.keys(devDependencies), id).toContain(command);
      }
    }
  });

  it("stops at the first failing command of a script", () => {
    for (const { id, step } of steps) {
      if (step.run?.includes("\n")) expect(step.run, `${id}: ${step.name}`).toMatch(/^set -euo pipefail\n/);
    }
  });

  it("bounds every job in time", () => {
    for (const { id, job } of jobs) if (!job.uses) expect(job["timeout-minutes"], id).toBeLessThanOrEqual(120);
  });
});

describe("what workflows may", () => {
  it("starts from nothing, or from reading, and says so for every job", () => {
    for (const [file, { permissions, jobs }] of files) {
      expect(permissions, file).toBeDefined();
      expect(Object.values(permissions ?? {}), file).not.toContain("write");
      for (const [name, job] of Object.entries(jobs)) {
        expect(job.permissions ?? permissions, `${file}: ${name}`).not.toEqual({});
      }
    }
  });

  it("writes only what the job is for", () => {
    const granted = Object.fromEntries(
      jobs.filter(({ job }) => writes(job).length > 0).map(({ id, job }) => [id, writes(job)]),
    );
    expect(granted).toEqual({
      "deploy.yml: dev": ["id-token"],
      "deploy.yml: staging": ["id-token"],
      "deploy.yml: prod": ["id-token"],
      "deploy-stack.yml: deploy": ["id-token"],
      "preview.yml: preview": ["id-token"],
      "preview.yml: comment": ["pull-requests"],
      "drift.yml: check": ["id-token"],
      "drift.yml: report": ["issues"],
    });
  });

  it("runs no checked-out code in a job that can write to the repository", () => {
    for (const { id, job } of jobs) {
      if (writes(job).some((what) => what !== "id-token")) {
        expect(job.steps.map((step) => step.uses).filter(Boolean), id).toEqual([]);
      }
    }
  });

  it("leaves no token behind in the checkout", () => {
    for (const { id, step } of steps) {
      if (step.uses?.startsWith("actions/checkout@")) expect(step.with["persist-credentials"], id).toBe(false);
    }
  });

  it("holds no secret", () => {
    for (const { id, text } of texts) expect(text, id).not.toMatch(/\bsecrets\b/);
  });

  it("gives an Azure identity only to jobs of an environment, whose rules then apply", () => {
    for (const { id, job } of jobs) {
      if (job.permissions?.["id-token"] === "write" && !job.uses) expect(job.environment, id).toBeDefined();
    }
  });

  it("puts no value of an event, and no other expression, into a script's text", () => {
    for (const { id, step } of steps) expect(step.run ?? "", `${id}: ${step.name}`).not.toContain("${{");
  });
});

describe("pull requests", () => {
  const repository = "owner/mcp-on-aks";
  const preview = job("preview.yml", "preview");
  const offline = job("preview.yml", "offline");
  const pullRequest = (head: string | null, author: string, tenant: string) => ({
    vars: tenant === "" ? {} : { AZURE_TENANT_ID: tenant },
    github: {
      repository,
      event: { pull_request: { head: { repo: head === null ? null : { full_name: head } }, user: { login: author } } },
    },
  });

  it("never meet a trigger that gives a fork's code this repository's rights", () => {
    for (const [file, { on }] of files) {
      expect(["push", "pull_request", "schedule", "workflow_dispatch", "workflow_call"], file).toEqual(
        expect.arrayContaining(triggers(on)),
      );
    }
  });

  it.each([
    ["a branch of this repository", repository, "mona", "tenant", "preview"],
    ["a fork", "mallory/mcp-on-aks", "mallory", "tenant", "offline"],
    ["a fork that is gone", null, "mallory", "tenant", "offline"],
    ["a dependency bot", repository, "dependabot[bot]", "tenant", "offline"],
    ["a repository without Azure", repository, "mona", "", "offline"],
  ])("%s gets the right preview and not the other", (_, head, author, tenant, expected) => {
    const context = pullRequest(head, author, tenant);
    expect(evaluate(preview.if ?? "", context)).toBe(expected === "preview");
    expect(evaluate(offline.if ?? "", context)).toBe(expected === "offline");
  });

  it("carry credentials nowhere but in that one guarded job", () => {
    const reachable = jobs.filter(({ on }) => triggers(on).includes("pull_request"));
    const signedIn = reachable.filter(
      ({ job }) =>
        job.permissions?.["id-token"] === "write" ||
        job.steps.some((step) => step.uses?.includes("azure") || step.uses?.startsWith("./")),
    );
    expect(signedIn.map(({ id }) => id)).toEqual(["preview.yml: preview"]);
    expect(offline.environment).toBeUndefined();
  });
});

describe("deployments", () => {
  it("go to main's code only, after the checks, one stage after the other", () => {
    const { dev, staging, prod } = {
      dev: job("deploy.yml", "dev"),
      staging: job("deploy.yml", "staging"),
      prod: job("deploy.yml", "prod"),
    };
    expect([dev.needs, staging.needs, prod.needs]).toEqual(["check", "dev", "staging"]);
    expect(job("deploy.yml", "check").uses).toBe("./.github/workflows/ci.yml");
    const set = { vars: { AZURE_TENANT_ID: "tenant" } };
    expect(evaluate(dev.if ?? "", { ...set, github: { ref: "refs/heads/main" } })).toBe(true);
    expect(evaluate(dev.if ?? "", { ...set, github: { ref: "refs/heads/feature" } })).toBe(false);
    expect(evaluate(dev.if ?? "", { github: { ref: "refs/heads/main" } })).toBe(false);
  });

  it("wait for their turn at a stack and are never cut off", () => {
    const { concurrency } = job("deploy-stack.yml", "deploy");
    // biome-ignore lint/suspicious/noTemplateCurlyInString: a GitHub expression
    expect(concurrency).toEqual({ group: "deploy-${{ inputs.stack }}", "cancel-in-progress": false });
    expect(workflows["deploy.yml"]?.concurrency).toBeUndefined();
  });

  it("take the image from the stage before", () => {
    const from = (stage: string) => ({
      image: `\${{ needs.${stage}.outputs.image }}`,
      "image-registry": `\${{ needs.${stage}.outputs.registry }}`,
    });
    expect(job("deploy.yml", "dev").with).not.toHaveProperty("image");
    expect(job("deploy.yml", "staging").with).toMatchObject(from("dev"));
    expect(job("deploy.yml", "prod").with).toMatchObject(from("staging"));
  });

  it("run for prod where PROD_RUNNER says, else on GitHub's own runner", () => {
    const runner = String(job("deploy.yml", "prod").with.runner);
    expect(evaluate(runner, { vars: { PROD_RUNNER: "inside" } })).toBe("inside");
    expect(evaluate(runner, {})).toBe("ubuntu-24.04");
    for (const runsOn of [job("preview.yml", "preview")["runs-on"], job("drift.yml", "check")["runs-on"]]) {
      expect(evaluate(runsOn ?? "", { vars: { PROD_RUNNER: "inside" }, matrix: { stack: "prod" } })).toBe("inside");
      expect(evaluate(runsOn ?? "", { vars: { PROD_RUNNER: "inside" }, matrix: { stack: "dev" } })).toBe(
        "ubuntu-24.04",
      );
    }
  });
});

describe("the set-up that docs/first-deployment.md describes", () => {
  const guide = readFileSync(new URL("../../docs/first-deployment.md", import.meta.url), "utf8");

  it("sets every variable that a workflow reads", () => {
    const read = new Set(texts.flatMap(({ text }) => [...text.matchAll(/\bvars\.([A-Z_]+)/g)].map(([, name]) => name)));
    for (const name of read) expect(guide, name).toContain(`${name}`);
    expect([...read].sort()).toEqual([
      "AZURE_CLIENT_ID",
      "AZURE_SUBSCRIPTION_ID",
      "AZURE_TENANT_ID",
      "PROD_RUNNER",
      "PULUMI_STATE_ACCOUNT",
    ]);
  });

  it("creates every environment that a job runs in", () => {
    const environments = new Set(
      jobs.flatMap(({ job, file }) => {
        if (job.uses === "./.github/workflows/deploy-stack.yml") return [String(job.with.stack)];
        if (file === "deploy-stack.yml" || job.environment === undefined) return [];
        return [typeof job.environment === "string" ? job.environment : job.environment.name];
      }),
    );
    const created = /^for environment in (.*); do$/m.exec(guide)?.[1]?.split(" ");
    expect(created?.sort()).toEqual([...environments].sort());
  });
});
