import { createHash } from "node:crypto";
import { access, mkdtemp, readdir, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { deployedServer, deployedWorker } from "../../../infra/cli/deployed-workload.ts";
import { drive } from "../../../infra/cli/drive.ts";
import { waitForProbe } from "../../../infra/cli/kubelet.ts";
import { credentialOf, localIdentity } from "../../../infra/cli/local-identity.ts";
import { assertPortIsFree, freePorts, startWorkload } from "../../../infra/cli/local-process.ts";
import { localServer, localWorkload } from "../../../infra/cli/local-workload.ts";
import { Steps } from "../../../infra/cli/terminal.ts";
import { JOB_VARIABLES, KEY, serverObjects, workerObjects } from "./planned-objects.ts";
import { recordingTerminal } from "./recording-terminal.ts";

async function directory(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "mcp-cli-test-"));
  onTestFinished(() => rm(path, { recursive: true, force: true }));
  return path;
}

describe("the server that a plan deploys", () => {
  test("is found by the way a request takes, with its whole environment", () => {
    const server = deployedServer(serverObjects());
    expect(server.command).toEqual(["node", "main.js"]);
    expect(server.workingDir).toBe("/app/server");
    expect(server.port).toBe(8080);
    expect(server.environment).toMatchObject({ NODE_ENV: "production", HOST: "0.0.0.0", WORKSPACE_PATH: "/workspace" });
    expect(server.terminationGraceSeconds).toBe(15);
  });

  test("starts by the image's own entry point when the Deployment names no command", () => {
    const { command } = deployedServer(serverObjects({ container: { command: undefined } }));
    expect(command).toEqual(["/usr/bin/tini", "--", "node", "main.js"]);
    const { command: replaced } = deployedServer(
      serverObjects({ container: { command: ["node"], args: ["worker.js"] } }),
    );
    expect(replaced).toEqual(["node", "worker.js"]);
  });

  test.each([
    ["the Service", 2],
    ["the route to it", 1],
    ["the Deployment", 5],
  ])("is not found when %s is missing", (_, index) => {
    const objects = serverObjects().toSpliced(index, 1);
    expect(() => deployedServer(objects)).toThrow(/no HTTPRoute that leads to a container/);
  });

  test("does not start with a reference that leads nowhere, and the message is Kubernetes' own", () => {
    expect(() => deployedServer(serverObjects().toSpliced(4, 1))).toThrow('secret "mcp-server" not found');
  });
});

describe("the worker that a plan deploys", () => {
  test("is found by its name, with its command, environment and probes", () => {
    const worker = deployedWorker([...serverObjects(), ...workerObjects()]);
    expect(worker.command).toEqual(["/usr/bin/tini", "--", "node", "worker.js"]);
    expect(worker.environment).toMatchObject({ NODE_ENV: "production", ...JOB_VARIABLES });
    expect(Object.keys(worker.probes)).toEqual(["readiness"]);
    expect(() => deployedWorker(serverObjects())).toThrow(/no Deployment job-worker/);
  });

  test("has its jobs in emulators on this machine, and shares what it mounts by a claim alone", () => {
    const jobs = {
      serviceBus: "localhost:5672",
      tableEndpoint: "http://127.0.0.1:10002/devstoreaccount1",
      blobEndpoint: "http://127.0.0.1:10000/devstoreaccount1",
    };
    const ports = { http: 18_080, metrics: 18_081 };
    // Under a directory that the container mounts something at, as the rehearsal's own is.
    const local = localWorkload(deployedWorker(workerObjects()), { volumes: "/tmp/rehearsal", jobs, ports });
    expect(local.environment).toMatchObject({
      ...JOB_VARIABLES,
      JOBS_AUTH: "emulator",
      SERVICE_BUS_NAMESPACE: jobs.serviceBus,
      JOBS_TABLE_ENDPOINT: jobs.tableEndpoint,
      JOBS_BLOB_ENDPOINT: jobs.blobEndpoint,
      WORKSPACE_PATH: "/tmp/rehearsal/shared",
      TMPDIR: "/tmp/rehearsal/job-worker/tmp",
    });
    expect(local.metricsUrl).toBe("http://127.0.0.1:18081/metrics");
    expect(local.differences.join("\n")).toMatch(
      /emulators of Service Bus \(localhost:5672\).*rather than in sb-mcp-test[\s\S]*18080 and 18081 rather than 8080/,
    );
  });
});

describe("on this machine", () => {
  test("it differs from its container in what is said, and in nothing else", () => {
    const server = deployedServer(serverObjects({ data: { NOTES: "/workspace/notes", OTHER: "/workspaces" } }));
    const local = localServer(server, { key: "another", volumes: "/volumes" });
    const changed = Object.entries(server.environment).filter(([name, value]) => local.environment[name] !== value);
    expect(Object.fromEntries(changed.map(([name]) => [name, local.environment[name]]))).toEqual({
      HOST: "127.0.0.1",
      API_KEY_HASHES: `sha256:${createHash("sha256").update("another").digest("hex")}`,
      SHUTDOWN_DRAIN_SECONDS: "0",
      WORKSPACE_PATH: "/volumes/mcp-server/workspace",
      NOTES: "/volumes/mcp-server/workspace/notes",
    });
    expect(local.url).toBe("http://127.0.0.1:8080/mcp");
    expect(local.differences.join("\n")).toMatch(/127\.0\.0\.1[\s\S]*load balancers[\s\S]*\/workspace is a temporary/);
  });

  test("it looks for Entra where the stand-in is, and for no keys in a vault that there is not", () => {
    const data = { AUTH_MODE: "entra,api-key", API_KEYS_SECRET: "mcp-api-keys", KEY_VAULT_URL: "https://kv.example" };
    const server = deployedServer(serverObjects({ data }));
    const authority = "http://127.0.0.1:1234/";
    const local = localServer(server, { key: KEY, authority, volumes: "/volumes" });
    expect(local.environment.AZURE_AUTHORITY_HOST).toBe(authority);
    expect(local.environment).not.toHaveProperty("API_KEYS_SECRET");
    expect(local.environment).not.toHaveProperty("AZURE_CLIENT_ID");
    expect(local.differences.join("\n")).toMatch(/no register of keys[\s\S]*AZURE_AUTHORITY_HOST alone/);
  });

  test("without emulators it runs jobs itself, and looks for no queue and no table in Azure", () => {
    const server = deployedServer(serverObjects({ data: JOB_VARIABLES }));
    const local = localServer(server, { key: KEY, volumes: "/volumes" });
    expect(Object.keys(local.environment).filter((name) => Object.hasOwn(JOB_VARIABLES, name))).toEqual([]);
    expect(local.differences.join("\n")).toContain("runs jobs itself");
  });

  test("its callers are those of its AUTH_MODE, and a server open to all is none to rehearse", async () => {
    const byKey = await localIdentity({ AUTH_MODE: "api-key" }, "dev");
    expect(byKey).toMatchObject({ key: expect.stringMatching(/^mcp_dev_/) });
    expect(byKey.tokens).toBeUndefined();
    const ids = { ENTRA_TENANT_ID: "t", ENTRA_CLIENT_ID: "c", OAUTH_CLIENT_ID: "i" };
    const both = await localIdentity({ AUTH_MODE: "entra,api-key", ...ids }, "dev");
    onTestFinished(() => both.close());
    expect(credentialOf(both)).toEqual({ kind: "key", value: both.key });
    const { key: _, ...byToken } = both;
    expect(credentialOf(byToken)).toEqual({ kind: "token", value: both.tokens?.admin });
    expect(new Set(Object.values(both.tokens ?? {})).size).toBe(3);
    await expect(localIdentity({ AUTH_MODE: "none" }, "dev")).rejects.toThrow(/AUTH_MODE is none/);
  });

  test("none of the user's own variables reach it", () => {
    process.env.AUTH_MODE = "none";
    onTestFinished(() => {
      delete process.env.AUTH_MODE;
    });
    const local = localServer(deployedServer(serverObjects()), { key: KEY, volumes: "/volumes" });
    expect(local.environment.AUTH_MODE).toBe("api-key");
    expect(local.environment).not.toHaveProperty("HOME");
  });

  test("it starts, passes its probes, serves real clients of both generations, and ends leaving nothing", async () => {
    const volumes = await directory();
    // A cancelled job hears of it within a third of its lease.
    const server = deployedServer(serverObjects({ data: { JOB_LEASE_SECONDS: "2" } }));
    const local = localServer(server, { key: KEY, volumes, ports: await freePorts() });
    const running = await startWorkload(local, server.terminationGraceSeconds);
    onTestFinished(async () => void (await running.stop()));
    for (const name of ["startup", "readiness"] as const) {
      const probe = server.probes[name];
      if (probe) await waitForProbe(name, probe, server, local, running);
    }
    const terminal = recordingTerminal();
    await drive({ url: local.url, metricsUrl: local.metricsUrl, key: KEY }, new Steps(terminal));
    expect(terminal.text()).toContain("protocol 2026-07-28");
    expect(terminal.text()).toContain("protocol 2025-11-25");
    expect(terminal.text()).toContain("system_info 2, file_operation 8, execute_command 2");
    expect(terminal.text()).not.toContain(KEY);
    const left = await readdir(join(volumes, "mcp-server/workspace"), { recursive: true, withFileTypes: true });
    expect(left.filter((entry) => entry.isFile())).toEqual([]);

    await expect(running.stop()).resolves.toEqual({ code: 0, signal: null, killed: false });
    await expect(fetch(local.url)).rejects.toThrow();
  });

  test("a server that refuses its environment is reported with its own words", async () => {
    const server = deployedServer(serverObjects({ data: { LOG_LEVEL: "loud" } }));
    const local = localServer(server, { key: KEY, volumes: await directory(), ports: await freePorts() });
    const running = await startWorkload(local, 1);
    const probe = server.probes.startup;
    if (!probe) throw new Error("the fixture has a startup probe");
    await expect(waitForProbe("startup", probe, server, local, running)).rejects.toThrow(
      /ended \(exit code 1\) before its startup probe succeeded[\s\S]*LOG_LEVEL="loud" must be one of/,
    );
  });

  test("a probe that the server does not answer fails when the kubelet would give up", async () => {
    const container = {
      startupProbe: { httpGet: { path: "/nowhere", port: "http" }, periodSeconds: 1, failureThreshold: 1 },
    };
    const server = deployedServer(serverObjects({ container }));
    const local = localServer(server, { key: KEY, volumes: await directory(), ports: await freePorts() });
    const running = await startWorkload(local, 5);
    onTestFinished(async () => void (await running.stop()));
    const probe = server.probes.startup;
    const listening = server.probes.readiness;
    if (!probe || !listening) throw new Error("the fixture has both probes");
    await waitForProbe("readiness", { ...listening, failureThreshold: 60 }, server, local, running);
    await expect(waitForProbe("startup", probe, server, local, running)).rejects.toThrow(
      /startup probe failed for 1 s.*GET \/nowhere answered 404/,
    );
  });

  test("a port that is taken is named, with the way out", async () => {
    const taken = createServer();
    await new Promise<void>((resolve) => taken.listen(0, "127.0.0.1", resolve));
    onTestFinished(() => void taken.close());
    const address = taken.address();
    const port = typeof address === "object" && address ? address.port : 0;
    await expect(assertPortIsFree(port, "MCP endpoint")).rejects.toThrow(
      new RegExp(`Port ${port}, where the plan's Deployment has its MCP endpoint, is in use.*--port`),
    );
  });

  test("volume directories are made under the rehearsal's own", async () => {
    const volumes = await directory();
    const local = localServer(deployedServer(serverObjects()), { key: KEY, volumes, ports: await freePorts() });
    const running = await startWorkload({ ...local, command: [process.execPath, "--version"] }, 1);
    await running.ended;
    await Promise.all(["workspace", "tmp"].map((name) => access(join(volumes, "mcp-server", name))));
    expect(running.lastLines()).toBe(process.version);
  });
});
