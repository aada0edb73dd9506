import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { DEPLOYER } from "../../infra/rehearsal/azure/deployer.ts";
import type { CloudRequest } from "../../infra/rehearsal/cloud-request.ts";
import { Deployment, missing } from "./deployment.ts";
import { UNKNOWN } from "./property-values.ts";
import type { Run } from "./pulumi-cli.ts";

/** Where an office really could be; the shipped prod file names a range for documentation, which `up` refuses. */
const OFFICE = ["20.30.40.50/32"];
const RUNNER_NETWORK = `/subscriptions/${DEPLOYER.subscriptionId}/resourceGroups/rg-runners/providers/Microsoft.Network/virtualNetworks/vnet-runners`;
const PUBLISHED_IMAGE = `ghcr.io/example/mcp-server@sha256:${"5f".repeat(32)}`;

/** What holds something that no second `up` brings back. */
const PROTECTED = [
  ...["audit-copy", "audit-table", "cache", "entra-api", "entra-ide"],
  ...["jobs", "jobs-ordered-queue", "jobs-queue", "registry"],
  ...["storage-job", "storage-job-blobs", "storage-jobs", "storage-workspace", "storage-wsp"],
  ...["telemetry-workspace", "vault"],
];

/** Milliseconds that a test may take on a busy machine; most run the engine two or three times. */
const PATIENCE = 120_000;

const ofType =
  (type: string) =>
  (request: CloudRequest): boolean =>
    request.type === type;
const roleAssignment = ofType("azure-native:authorization:RoleAssignment");
const publicAddress = ofType("azure-native:network:PublicIPAddress");
const userPool = ofType("azure-native:containerservice:AgentPool");
const release = (name: string) => (request: CloudRequest) =>
  request.type === "kubernetes:helm.sh/v3:Release" && request.name === name;

describe.skipIf(missing !== undefined)("under the Pulumi engine", { timeout: PATIENCE }, () => {
  describe("dev, its image built from the sources", { concurrent: true }, () => {
    const dev = deployment("dev");

    step("is previewed before anything exists: the endpoint known, the cloud untouched", async () => {
      const { outputs, summary } = succeeded(await dev().project.preview());
      expect(Object.keys(summary)).toEqual(["create"]);
      const host = expect.stringMatching(/^https:\/\/mcp-dev-[a-z0-9]{5}\.eastus2\.cloudapp\.azure\.com\//);
      expect(outputs).toMatchObject({ endpoint: host, healthUrl: host });
      // Names that end in a suffix which does not exist yet, and the ids of applications that Entra has yet to give.
      expect(outputs.registryLoginServer).toBe(UNKNOWN);
      expect(outputs.ideConfigs).toBe(UNKNOWN);
      expect(dev().cloud.standing()).toEqual([]);
    });

    step("stops where Azure refuses a role to an identity that it does not know yet", async () => {
      const { cloud, project } = dev();
      cloud.refuseOnce(roleAssignment, "PrincipalNotFound: Principal 0f does not exist in the directory.");
      const failed = await project.up("--skip-preview");
      expect(failed.code).not.toBe(0);
      expect(failed.diagnostics).toContain("PrincipalNotFound");
      expect(cloud.standing()).not.toEqual([]);
    });

    step("comes up when run again, every resource after those it needs", async () => {
      const { outputs } = succeeded(await dev().project.up("--skip-preview"));
      expect(dev().cloud.faults()).toEqual([]);
      expect(outputs.image).toMatch(/^crmcpdev[a-z0-9]{5}\.azurecr\.io\/mcp-server@sha256:[0-9a-f]{64}$/);
      expect(dev().azure.unregistered).toEqual(new Set());
    });

    step("keeps no secret in the clear in its state", async () => {
      const state = await dev().project.state();
      const { secrets } = dev().cloud;
      expect([...secrets.keys()]).toEqual(
        expect.arrayContaining(["grafana-admin-password", "mcp-api-key", "telemetry-insights"]),
      );
      const signIns = dev().azure.refreshTokens.map((token): [string, string] => ["registry sign-in", token]);
      expect(signIns).not.toEqual([]);
      const found = [...secrets, ...signIns].filter(([, secret]) => state.includes(secret));
      expect(found.map(([name]) => name)).toEqual([]);
    });

    step("changes nothing in a second up", async () => {
      expect(succeeded(await dev().project.up("--skip-preview", "--expect-no-changes")).changes).toEqual([]);
    });

    step("is the same to a preview and a refresh", () => staysAsItIs(dev()));

    step("goes away entirely", () => goesAway(dev()));
  });

  describe("staging, from a published image", { concurrent: true }, () => {
    const staging = deployment("staging", { "mcp:image": PUBLISHED_IMAGE });

    step("stops at Ctrl-C, and where a chart runs out of time", async () => {
      const { cloud, project } = staging();
      succeeded(await project.preview());
      const stopped = await project.interruptedUp(cloud.creationOf(release("kube-prometheus-stack")));
      expect(stopped.code).not.toBe(0);
      cloud.timeOutOnce(release("loki"), 'Helm release "loki" was created but has a failed status');
      const late = await project.up("--skip-preview");
      expect(late.diagnostics).toContain("failed status");
    });

    step("comes up when run again, every resource after those it needs", async () => {
      succeeded(await staging().project.up("--skip-preview"));
      expect(staging().cloud.faults()).toEqual([]);
    });

    step("is the same to a preview and a refresh", () => staysAsItIs(staging()));

    step("takes for drift what people change, and not what AKS does by itself", async () => {
      const { cloud, project } = staging();
      const tagged = (tags: object) => (outputs: Record<string, unknown>) => ({
        ...outputs,
        tags: { ...Object(outputs.tags), ...tags },
      });
      cloud.meddle(publicAddress, tagged({ "k8s-azure-service": "envoy-gateway-system/envoy" }));
      cloud.meddle(userPool, (outputs) => ({ ...outputs, count: 4 }));
      expect(succeeded(await project.preview("--refresh", "--expect-no-changes")).changes).toEqual([]);

      cloud.meddle(publicAddress, tagged({ environment: "somebody's" }));
      const drift = await project.preview("--refresh", "--expect-no-changes");
      expect(drift.changes).toContain("update azure-native:network:PublicIPAddress network-ip");
      expect(drift.code).not.toBe(0);
    });

    step("goes away entirely", () => goesAway(staging()));
  });

  describe("prod, deployed from an office", { concurrent: true }, () => {
    const prod = deployment("prod", { "mcp:authorizedRanges": OFFICE });

    step("comes up, every resource after those it needs", async () => {
      succeeded(await prod().project.up());
      expect(prod().cloud.faults()).toEqual([]);
    });

    step("is the same to a preview and a refresh", () => staysAsItIs(prod()));

    step("refuses to be destroyed while its data is protected, and loses nothing", async () => {
      const { cloud, project } = prod();
      const guarded = (await project.resources()).flatMap(({ protect, urn }) =>
        protect ? [urn.split("::").at(-1)] : [],
      );
      expect(guarded.toSorted()).toEqual(PROTECTED);
      const before = cloud.standing();
      const refused = await project.destroy();
      expect(refused.code).not.toBe(0);
      expect(refused.diagnostics).toMatch(/cannot be deleted\s+because it is protected/);
      expect(cloud.standing()).toEqual(before);
    });

    step("goes away entirely once unprotected", async () => {
      await prod().project.unprotectAll();
      await goesAway(prod());
    });
  });

  describe("prod, deployed from inside the network", { concurrent: true }, () => {
    const prod = deployment("prod", { "mcp:authorizedRanges": undefined, "mcp:runnerNetworkId": RUNNER_NETWORK }, [
      RUNNER_NETWORK,
    ]);

    step("comes up, every resource after those it needs", async () => {
      succeeded(await prod().project.up());
      expect(prod().cloud.faults()).toEqual([]);
    });

    step("is the same to a preview and a refresh", () => staysAsItIs(prod()));

    step("goes away entirely once unprotected", async () => {
      await prod().project.unprotectAll();
      await goesAway(prod());
    });
  });

  describe("a stack's file with faults", { concurrent: true }, () => {
    const prod = deployment("prod", { "mcp:cahce": "memory", "mcp:zones": "4", "mcp:logRetentionDays": 5 });

    step("is refused with all of them before anything is created", async () => {
      const refused = await prod().project.up("--skip-preview");
      expect(refused.code).not.toBe(0);
      for (const key of ["mcp:cahce", "mcp:zones", "mcp:logRetentionDays"]) expect(refused.diagnostics).toContain(key);
      expect(prod().cloud.standing()).toEqual([]);
    });

    step("is refused for the example of an address that it ships with", async () => {
      const { cloud, project } = prod();
      await project.configure({ "mcp:cahce": undefined, "mcp:zones": undefined, "mcp:logRetentionDays": undefined });
      const refused = await project.up("--skip-preview");
      expect(refused.code).not.toBe(0);
      expect(refused.diagnostics).toContain("203.0.113.10/32");
      expect(cloud.standing()).toEqual([]);
    });
  });
});

/** Stacks live side by side, and the life of each is told in order. */
function step(name: string, happens: () => Promise<void>): void {
  it(name, { concurrent: false }, happens);
}

function deployment(
  stack: string,
  config: Readonly<Record<string, unknown>> = {},
  standingBefore: readonly string[] = [],
): () => Deployment {
  let begun: Deployment | undefined;
  beforeAll(async () => {
    begun = await Deployment.begin(stack, config, standingBefore);
  });
  afterAll(() => begun?.end());
  return () => {
    if (!begun) throw new Error(`the deployment of ${stack} did not begin`);
    return begun;
  };
}

function succeeded(run: Run): Run {
  expect(run.code, [run.diagnostics, ...run.changes, run.stderr].join("\n")).toBe(0);
  return run;
}

async function staysAsItIs({ project }: Deployment): Promise<void> {
  expect(succeeded(await project.preview("--expect-no-changes")).changes).toEqual([]);
  expect(succeeded(await project.refresh("--expect-no-changes")).changes).toEqual([]);
}

async function goesAway({ project, cloud }: Deployment): Promise<void> {
  succeeded(await project.destroy());
  expect(cloud.standing()).toEqual([]);
  expect(await project.resources()).toEqual([]);
}
