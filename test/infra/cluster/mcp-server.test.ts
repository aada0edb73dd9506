import { createHash } from "node:crypto";
import { beforeAll, describe, expect, it } from "vitest";
import { parseEnvironment } from "../../../server/config.ts";
import { CONNECTION_STRING, find, type PlannedCluster, planCluster, settle } from "./planned-cluster.ts";
import { containerOf, deploymentOf, environmentOf, selects, specOf } from "./planned-pods.ts";

const SCALED_OBJECT = "kubernetes:keda.sh/v1alpha1:ScaledObject";
const BUDGET = "kubernetes:policy/v1:PodDisruptionBudget";
const SERVICE = "kubernetes:core/v1:Service";
const SERVICE_MONITOR = "kubernetes:monitoring.coreos.com/v1:ServiceMonitor";

const plans: Record<string, PlannedCluster> = {};
beforeAll(async () => {
  for (const stack of ["dev", "staging", "prod"]) plans[stack] = await planCluster(stack);
});
const planOf = (stack: string): PlannedCluster => {
  const plan = plans[stack];
  if (!plan) throw new Error(`no plan of ${stack}`);
  return plan;
};

describe.each(["dev", "staging", "prod"])("the server's environment in %s", (stack) => {
  it("is one that the server starts with", () => {
    const config = parseEnvironment(environmentOf(planOf(stack)));
    expect(config).toMatchObject({
      HOST: "0.0.0.0",
      AUTH_MODE: "api-key",
      PUBLIC_URL: planOf(stack).endpoint,
      WORKSPACE_PATH: "/workspace",
      SERVICE_BUS_NAMESPACE: "sbns-mcp-test.servicebus.windows.net",
    });
    expect(config.REDIS_HOST).toBe(stack === "dev" ? undefined : "amr-mcp-test.eastus2.redis.azure.net");
  });

  it("keeps its secrets in a Secret, which Pulumi keeps encrypted", () => {
    const secret = find(planOf(stack), "kubernetes:core/v1:Secret", "mcp-server");
    expect(Object.keys(secret.inputs.stringData as object).sort()).toEqual([
      "API_KEY_HASHES",
      "APPLICATIONINSIGHTS_CONNECTION_STRING",
    ]);
    expect(secret.secretPaths).toEqual(["stringData"]);
    const workers = find(planOf(stack), "kubernetes:core/v1:Secret", "job-worker");
    expect(workers.secretPaths).toEqual(["stringData"]);
    expect(Object.keys(workers.inputs.stringData as object)).toEqual(["APPLICATIONINSIGHTS_CONNECTION_STRING"]);
    for (const other of planOf(stack).resources.filter(({ urn }) => ![secret.urn, workers.urn].includes(urn))) {
      expect(JSON.stringify(other.inputs), other.name).not.toContain(CONNECTION_STRING);
    }
  });

  it("has the queues that jobs go to, and where their state and their long results are", () => {
    expect(parseEnvironment(environmentOf(planOf(stack)))).toMatchObject({
      SERVICE_BUS_QUEUE: "mcp-jobs",
      SERVICE_BUS_ORDERED_QUEUE: "mcp-jobs-ordered",
      JOBS_BLOB_ENDPOINT: "https://stmcptestjob.blob.core.windows.net",
      JOBS_BLOB_CONTAINER: "jobs",
      JOB_RETENTION_DAYS: 7,
    });
  });
});

describe("a changed environment", () => {
  const annotation = (plan: PlannedCluster) =>
    deploymentOf(plan).template.metadata.annotations["mcp-on-aks/environment"];

  it("makes new pods, since running ones never read it again", async () => {
    const same = await planCluster("dev");
    const other = await planCluster("dev", { "mcp:domain": "mcp.example.com" });
    expect(annotation(same)).toBe(annotation(planOf("dev")));
    expect(annotation(other)).not.toBe(annotation(same));
    expect(annotation(other)).toMatch(/^[0-9a-f]{64}$/);
  });
});

describe("commands", () => {
  it("have a shell and the network in dev; in prod a list of programs, no network, and isolation or no server", () => {
    const { COMMAND_SHELL, COMMAND_NETWORK, COMMAND_ISOLATION } = parseEnvironment(environmentOf(planOf("dev")));
    expect([COMMAND_SHELL, COMMAND_NETWORK, COMMAND_ISOLATION]).toEqual([true, true, "auto"]);
    const prod = parseEnvironment(environmentOf(planOf("prod")));
    expect([prod.COMMAND_SHELL, prod.COMMAND_NETWORK, prod.COMMAND_ISOLATION]).toEqual([false, false, "required"]);
    expect(prod.COMMAND_ALLOWED_PROGRAMS).toContain("grep");
    expect(prod.COMMAND_ALLOWED_PROGRAMS).not.toContain("sh");
  });
});

describe("the API key", () => {
  it("is known to the vault alone; the server can only check it", async () => {
    const plan = planOf("staging");
    const key = await settle(plan.vaultSecrets.get("mcp-api-key") ?? "");
    expect(key).toMatch(/^mcp_staging_[A-Za-z0-9_-]{43}$/);
    const source = plan.resources.find(({ name }) => name === "mcp-api-key");
    // 43 letters and digits: log2(62) x 43 = 256 bits.
    expect(source?.inputs).toMatchObject({ length: 43, special: false });
    expect(environmentOf(plan).API_KEY_HASHES).toBe(`sha256:${createHash("sha256").update(key).digest("hex")}`);
    expect(JSON.stringify(plan.resources)).not.toContain(key);
  });
});

describe.each(["dev", "staging", "prod"])("the server's Service in %s", (stack) => {
  it("leads to its pods by their ports, and is found by what scrapes it", () => {
    const plan = planOf(stack);
    const { labels } = deploymentOf(plan).template.metadata;
    const service = find(plan, SERVICE);
    const spec = specOf<{ selector: Record<string, string>; ports: { name: string; targetPort: string }[] }>(service);
    expect(selects(spec.selector, labels)).toBe(true);
    const containerPorts = containerOf(plan).ports.map(({ name }) => name);
    for (const { targetPort } of spec.ports) expect(containerPorts).toContain(targetPort);
    const monitor = specOf<{ selector: { matchLabels: Record<string, string> }; endpoints: { port: string }[] }>(
      find(plan, SERVICE_MONITOR),
    );
    expect(
      selects(monitor.selector.matchLabels, (service.inputs.metadata as { labels: Record<string, string> }).labels),
    ).toBe(true);
    for (const { port } of monitor.endpoints) expect(spec.ports.map(({ name }) => name)).toContain(port);
  });

  it("has pods behind it at every moment of an update", () => {
    expect(deploymentOf(planOf(stack)).strategy).toEqual({
      type: "RollingUpdate",
      rollingUpdate: { maxUnavailable: 0, maxSurge: 1 },
    });
  });
});

describe("replicas", () => {
  const has = (plan: PlannedCluster, type: string) =>
    plan.resources.some((r) => r.type === type && r.name.startsWith("mcp-server"));

  it("stay at one in dev, with nothing that could keep its node from being drained", () => {
    expect(deploymentOf(planOf("dev")).replicas).toBe(1);
    expect(has(planOf("dev"), SCALED_OBJECT)).toBe(false);
    expect(has(planOf("dev"), BUDGET)).toBe(false);
  });

  it.each([
    ["staging", {}, 2, 6],
    ["prod", {}, 2, 20],
    ["prod", { "mcp:replicas": "3-9" }, 3, 9],
  ])("follow the load in %s with %j, from %i to %i", async (stack, config, min, max) => {
    const plan = await planCluster(stack, config);
    // The scaler's number, which Pulumi must not set back.
    expect(deploymentOf(plan)).not.toHaveProperty("replicas");
    const scaler = specOf<{ triggers: { type: string; metadata: Record<string, string> }[] }>(
      find(plan, SCALED_OBJECT, "mcp-server-scaling"),
    );
    expect(scaler).toMatchObject({
      scaleTargetRef: { apiVersion: "apps/v1", kind: "Deployment", name: "mcp-server" },
      minReplicaCount: min,
      maxReplicaCount: max,
    });
    expect(scaler.triggers.map(({ type }) => type)).toEqual(["cpu", "prometheus"]);
    expect(scaler.triggers[1]?.metadata.query).toContain("mcp_active_connections");
  });

  it("are held to one missing at a time wherever there are several", () => {
    for (const stack of ["staging", "prod"]) {
      const budget = specOf<{ selector: { matchLabels: Record<string, string> } }>(
        find(planOf(stack), BUDGET, "mcp-server"),
      );
      expect(budget).toMatchObject({ maxUnavailable: 1 });
      expect(selects(budget.selector.matchLabels, deploymentOf(planOf(stack)).template.metadata.labels)).toBe(true);
    }
  });

  it("are a fixed number where the setting is one", async () => {
    const plan = await planCluster("staging", { "mcp:replicas": "3" });
    expect(deploymentOf(plan).replicas).toBe(3);
    expect(has(plan, SCALED_OBJECT)).toBe(false);
    expect(has(plan, BUDGET)).toBe(true);
  });
});

describe("the image", () => {
  it("is built for the nodes' platform from server/Dockerfile, and in no preview", () => {
    const { inputs, secretPaths } = find(planOf("dev"), "docker:index/image:Image");
    expect(inputs).toMatchObject({
      imageName: "registry.example.com/mcp-server:current",
      build: { context: ".", dockerfile: "./server/Dockerfile", platform: "linux/amd64" },
      buildOnPreview: false,
    });
    expect(secretPaths.join()).toContain("registry");
  });

  it("is the published one where a setting names it, and then nothing is built", async () => {
    const published = `ghcr.io/example/mcp-server@sha256:${"cd".repeat(32)}`;
    const plan = await planCluster("prod", { "mcp:image": published });
    expect(containerOf(plan).image).toBe(published);
    expect(plan.resources.some(({ type }) => type.startsWith("docker:"))).toBe(false);
  });
});

describe("the workspace", () => {
  const volumeOf = (plan: PlannedCluster) =>
    deploymentOf(plan).template.spec.volumes.find(({ name }) => name === "workspace");

  it("is one NFS share for all replicas, bound to this claim and outliving it, with no key anywhere", () => {
    const plan = planOf("prod");
    const claim = find(plan, "kubernetes:core/v1:PersistentVolumeClaim");
    expect(volumeOf(plan)).toEqual({ name: "workspace", persistentVolumeClaim: { claimName: "workspace" } });
    expect(claim.inputs.spec).toMatchObject({ accessModes: ["ReadWriteMany"], storageClassName: "" });
    const volume = specOf<{ csi: Record<string, unknown> }>(find(plan, "kubernetes:core/v1:PersistentVolume"));
    expect(volume).toMatchObject({
      accessModes: ["ReadWriteMany"],
      persistentVolumeReclaimPolicy: "Retain",
      storageClassName: "",
      claimRef: { namespace: "mcp-system", name: "workspace" },
      csi: {
        driver: "file.csi.azure.com",
        volumeHandle: "rg-mcp-test#stmcptestwsp#workspace",
        volumeAttributes: { protocol: "nfs", storageAccount: "stmcptestwsp", shareName: "workspace" },
      },
    });
    expect(volume.csi).not.toHaveProperty("nodeStageSecretRef");
    expect(specOf(claim)).toMatchObject({ volumeName: "mcp-workspace" });
  });

  it("has the size that the setting asks for, on both sides of the binding", async () => {
    const plan = await planCluster("dev", { "mcp:workspaceSizeGiB": "250" });
    const size = { storage: "250Gi" };
    expect(specOf(find(plan, "kubernetes:core/v1:PersistentVolume"))).toMatchObject({ capacity: size });
    expect(specOf(find(plan, "kubernetes:core/v1:PersistentVolumeClaim"))).toMatchObject({
      resources: { requests: size },
    });
  });

  it("is a directory of the pod's where no share is asked for, bounded below what the pod may take", async () => {
    const plan = await planCluster("dev", { "mcp:workspace": "emptyDir", "mcp:workers": "none" });
    expect(volumeOf(plan)).toEqual({ name: "workspace", emptyDir: { sizeLimit: "10Gi" } });
    expect(Number.parseInt(containerOf(plan).resources.limits["ephemeral-storage"] ?? "", 10)).toBeGreaterThan(10);
    expect(plan.resources.some(({ type }) => type.includes("PersistentVolume"))).toBe(false);
  });
});
