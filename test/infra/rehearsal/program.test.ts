import { getClientConfig } from "@pulumi/azure-native/authorization/index.js";
import { listManagedClusterUserCredentialsOutput } from "@pulumi/azure-native/containerservice/index.js";
import { Subnet, VirtualNetwork } from "@pulumi/azure-native/network/index.js";
import { ResourceGroup } from "@pulumi/azure-native/resources/index.js";
import { CustomResource } from "@pulumi/kubernetes/apiextensions/customResource.js";
import { ConfigMap, Namespace, Secret } from "@pulumi/kubernetes/core/v1/index.js";
import { Release } from "@pulumi/kubernetes/helm/v3/index.js";
import { Provider } from "@pulumi/kubernetes/provider.js";
import {
  ComponentResource,
  type ComponentResourceOptions,
  getStack,
  interpolate,
  log,
  output,
  runtime,
  secret,
} from "@pulumi/pulumi";
import { RandomPassword } from "@pulumi/random";
import { describe, expect, test } from "vitest";
import { type Plan, rehearsePlan } from "../../../infra/rehearsal/plan.ts";
import { planJson, planText } from "../../../infra/rehearsal/plan-view.ts";
import type { Program } from "../../../infra/rehearsal/run-program.ts";

const rehearse = (program: Program, stack = "test"): Promise<Plan> => rehearsePlan(stack, { program, config: {} });
const group = (name = "group", location = "eastus2") =>
  new ResourceGroup(name, { resourceGroupName: `rg-${name}`, location });
const network = (of: ResourceGroup) =>
  new VirtualNetwork("network", {
    resourceGroupName: of.name,
    virtualNetworkName: "vnet",
    addressSpace: { addressPrefixes: ["10.1.0.0/16"] },
  });
const kubernetes = () => new Provider("cluster", { kubeconfig: "{}" });

class Site extends ComponentResource {
  readonly group: ResourceGroup;

  constructor(name: string, opts?: ComponentResourceOptions) {
    super("mcp:test:Site", name, {}, opts);
    this.group = new ResourceGroup(
      `${name}-group`,
      { resourceGroupName: "rg", location: "eastus2" },
      { parent: this, protect: true },
    );
    this.registerOutputs({});
  }
}

describe("a plan", () => {
  test("has every resource with its type, parent, options and what it depends on", async () => {
    const plan = await rehearse(async () => {
      const site = new Site("site");
      const vnet = network(site.group);
      new Subnet(
        "subnet",
        { resourceGroupName: site.group.name, virtualNetworkName: vnet.name, addressPrefix: interpolate`10.1.0.0/24` },
        { dependsOn: site },
      );
      return { vnet: vnet.name };
    });
    const stack = "urn:pulumi:test::mcp::pulumi:pulumi:Stack::mcp-test";
    const siteUrn = "urn:pulumi:test::mcp::mcp:test:Site::site";
    const groupUrn = "urn:pulumi:test::mcp::mcp:test:Site$azure-native:resources:ResourceGroup::site-group";
    const vnetUrn = "urn:pulumi:test::mcp::azure-native:network:VirtualNetwork::network";
    expect(plan.faults).toEqual([]);
    expect(JSON.parse(planJson(plan))).toEqual({
      stack: "test",
      resources: [
        {
          urn: stack,
          type: "pulumi:pulumi:Stack",
          name: "mcp-test",
          parent: "",
          dependsOn: [],
          propertyDependencies: {},
          inputs: {},
        },
        {
          urn: siteUrn,
          type: "mcp:test:Site",
          name: "site",
          parent: stack,
          dependsOn: [],
          propertyDependencies: {},
          inputs: {},
        },
        {
          urn: groupUrn,
          type: "azure-native:resources:ResourceGroup",
          name: "site-group",
          parent: siteUrn,
          dependsOn: [],
          propertyDependencies: {},
          inputs: { resourceGroupName: "rg", location: "eastus2" },
          options: { protect: true },
        },
        expect.objectContaining({
          urn: vnetUrn,
          parent: stack,
          dependsOn: [groupUrn],
          propertyDependencies: { resourceGroupName: [groupUrn] },
          inputs: expect.objectContaining({
            resourceGroupName: "rg",
            virtualNetworkName: "vnet",
            addressSpace: { addressPrefixes: ["10.1.0.0/16"] },
          }),
        }),
        expect.objectContaining({ name: "subnet", dependsOn: [groupUrn, vnetUrn].sort() }),
      ],
      outputs: { vnet: "vnet" },
      warnings: [],
      faults: [],
    });
  });

  test("is that of a preview in which everything is known", async () => {
    const seen: unknown[] = [];
    const plan = await rehearse(async () => {
      const { tenantId } = await getClientConfig();
      seen.push(runtime.isDryRun(), getStack(), tenantId);
      group().id.apply((id) => seen.push(id));
      return {};
    });
    expect(plan.faults).toEqual([]);
    expect(seen).toEqual([
      true,
      "test",
      expect.stringMatching(/^[0-9a-f-]{36}$/),
      expect.stringMatching(/^\/subscriptions\/[0-9a-f-]{36}\/resourceGroups\/rg-group$/),
    ]);
  });

  test("counts a resource's provider among what it waits for", async () => {
    const plan = await rehearse(async () => {
      new Namespace("ns", { metadata: { name: "ns" } }, { provider: kubernetes() });
      return {};
    });
    const namespace = plan.resources.find(({ name }) => name === "ns");
    expect(namespace?.dependsOn).toEqual(["urn:pulumi:test::mcp::pulumi:providers:kubernetes::cluster"]);
  });

  test("tells what the program logged as warnings, and prints nothing in between", async () => {
    const plan = await rehearse(async () => {
      await log.warn("look at this");
      return {};
    });
    expect(plan.warnings).toEqual(["look at this"]);
  });
});

describe("what a cloud refuses", () => {
  test("is a fault with the resource's name; what needs it is skipped, and everything else is still looked at", async () => {
    const plan = await rehearse(async () => {
      const bad = group("bad", "moon");
      network(bad);
      const name = bad.id.apply((id) => id.length.toString());
      new ResourceGroup("third", { resourceGroupName: name, location: "moon" });
      group("other", "sun");
      return {};
    });
    expect(plan.faults.map(({ name }) => name)).toEqual(["bad", "other"]);
    expect(plan.faults[0]?.resource).toBe("urn:pulumi:test::mcp::azure-native:resources:ResourceGroup::bad");
    expect(plan.faults[1]?.message).toMatch(/^LocationNotAvailableForResourceGroup: The provided location 'sun'/);
    expect(plan.resources.map(({ name }) => name)).toContain("network");
  });

  test("in a function is a fault too", async () => {
    const plan = await rehearse(async () => {
      const credentials = listManagedClusterUserCredentialsOutput({
        resourceGroupName: group().name,
        resourceName: "gone",
      });
      new Provider("cluster", { kubeconfig: credentials.kubeconfigs.apply(([first]) => first?.value ?? "") });
      return {};
    });
    expect(plan.faults.map(({ message }) => message).join()).toContain(
      "ResourceNotFound: The Resource 'Microsoft.ContainerService/managedClusters/gone'",
    );
  });

  test("an error in the program after its first resource is a fault, with what was found before", async () => {
    const plan = await rehearse(async () => {
      group();
      throw new Error("no way");
    });
    expect(plan.faults).toEqual([{ name: "program", message: "no way" }]);
  });

  test("an error in an apply is a fault and ends nothing", async () => {
    const plan = await rehearse(async () => {
      const name = group().name.apply((): string => {
        throw new Error("apply failed");
      });
      new ResourceGroup("second", { resourceGroupName: name, location: "eastus2" });
      return {};
    });
    expect(plan.faults.map(({ message }) => message).join()).toContain("apply failed");
  });

  test("an error before the first resource is the caller's to see", async () => {
    const failing = rehearse(async () => {
      throw new RangeError("bad settings");
    });
    await expect(failing).rejects.toThrow(new RangeError("bad settings"));
  });

  test("one name for two resources", async () => {
    const plan = await rehearse(async () => {
      group();
      new ResourceGroup("group", { resourceGroupName: "rg-2", location: "eastus2" });
      return {};
    });
    expect(plan.faults.map(({ message }) => message).join()).toContain("Duplicate resource URN");
  });

  test("an object for whatever cluster kubectl points to", async () => {
    const plan = await rehearse(async () => {
      new Namespace("ns", { metadata: { name: "ns" } });
      return {};
    });
    expect(plan.faults[0]?.message).toContain("has no provider");
  });
});

describe("what happens to be in order and is not made to", () => {
  test("an object that names its namespace and does not wait for it", async () => {
    const plan = await rehearse(async () => {
      const provider = kubernetes();
      new Namespace("namespace", { metadata: { name: "app" } }, { provider });
      new ConfigMap("config", { metadata: { name: "config", namespace: "app" } }, { provider });
      return {};
    });
    expect(plan.faults).toEqual([
      expect.objectContaining({
        name: "config",
        message: expect.stringContaining("needs namespace (kubernetes:core/v1:Namespace) and does not wait for it"),
      }),
    ]);
  });

  test("a custom resource that does not wait for the chart with its kind", async () => {
    const program =
      (wait: boolean): Program =>
      async () => {
        const provider = kubernetes();
        const namespace = new Namespace("namespace", { metadata: { name: "keda" } }, { provider });
        const keda = new Release(
          "keda",
          {
            chart: "keda",
            version: "2.20.2",
            name: "keda",
            namespace: namespace.metadata.name,
            repositoryOpts: { repo: "https://kedacore.github.io/charts" },
          },
          { provider },
        );
        const spec = { podIdentity: { provider: "azure-workload" } };
        const metadata = { name: "auth", namespace: namespace.metadata.name };
        new CustomResource(
          "auth",
          { apiVersion: "keda.sh/v1alpha1", kind: "TriggerAuthentication", metadata, spec },
          { provider, dependsOn: wait ? keda : [] },
        );
        return {};
      };
    expect((await rehearse(program(false))).faults.map(({ message }) => message).join()).toMatch(
      /needs keda .*does not wait for it|no matches for kind/,
    );
    expect((await rehearse(program(true))).faults).toEqual([]);
  });

  test("two subnets of one network at a time", async () => {
    const plan = await rehearse(async () => {
      const vnet = network(group());
      for (const n of [1, 2]) {
        new Subnet(`subnet-${n}`, {
          resourceGroupName: "rg-group",
          virtualNetworkName: vnet.name,
          addressPrefix: `10.1.${n}.0/24`,
        });
      }
      return {};
    });
    expect(plan.faults.map(({ message }) => message).join()).toContain("AnotherOperationInProgress");
  });

  test("a component's dependencies are its children's", async () => {
    const plan = await rehearse(async () => {
      const provider = kubernetes();
      const namespace = new Namespace("namespace", { metadata: { name: "app" } }, { provider });
      const parent = new Site("site", { dependsOn: namespace });
      new ConfigMap("config", { metadata: { name: "config", namespace: "app" } }, { provider, parent });
      return {};
    });
    expect(plan.faults).toEqual([]);
  });
});

describe("secrets", () => {
  const program: Program = async () => {
    const provider = kubernetes();
    const namespace = new Namespace("namespace", { metadata: { name: "app" } }, { provider });
    const password = new RandomPassword("password", { length: 24 });
    const metadata = { name: "leaky", namespace: namespace.metadata.name };
    const base64 = password.result.apply((text) => Buffer.from(text).toString("base64"));
    new Secret(
      "secret",
      { metadata, stringData: { password: password.result, plain: "given-as-it-is" } },
      { provider },
    );
    new ConfigMap("leaky", { metadata, data: { url: runtime.isDryRun() ? "x" : "", kept: "kept" } }, { provider });
    const leaked = password.result.apply((text) => `postgres://user:${text}@host`);
    return {
      masked: leaked,
      encoded: base64,
      config: output(namespace.metadata.name),
      wrapped: secret({ user: "me", key: "of-the-kingdom" }),
    };
  };

  test("are masked wherever they are printed, also inside and encoded, and real in memory", async () => {
    const plan = await rehearse(program);
    const password = plan.cluster.object("Secret", "app", "leaky")?.object.stringData as Record<string, string>;
    expect(password.password).toMatch(/^.{24}$/);
    const real = plan.resources.find(({ name }) => name === "secret")?.inputs.stringData as Record<string, string>;
    expect(real.password).toBe(password.password);

    const printed = [planJson(plan), planText(plan, { color: false }), String(plan), JSON.stringify(plan.resources[4])];
    const forms = [
      password.password ?? "",
      Buffer.from(password.password ?? "").toString("base64"),
      "given-as-it-is",
      "of-the-kingdom",
    ];
    for (const text of printed) for (const form of forms) expect(text).not.toContain(form);
    const json = JSON.parse(planJson(plan));
    expect(json.outputs).toEqual({
      masked: "[secret]",
      encoded: "[secret]",
      config: "app",
      wrapped: { user: "[secret]", key: "[secret]" },
    });
    expect(json.resources.find((r: { name: string }) => r.name === "secret").inputs.stringData).toEqual({
      password: "[secret]",
      plain: "[secret]",
    });
    expect(plan.revealedOutputs.masked).toBe(`postgres://user:${password.password}@host`);
  });

  test("that somebody unwrapped on the way are masked all the same", async () => {
    const plan = await rehearse(async () => {
      const password = new RandomPassword("password", { length: 24, special: false });
      const provider = kubernetes();
      const plain = await new Promise<string>((resolve) => password.result.apply((text) => resolve(text)));
      const metadata = { name: "leak", namespace: "default", annotations: { note: `the password is ${plain}` } };
      new ConfigMap("leak", { metadata, data: { again: Buffer.from(plain).toString("hex") } }, { provider });
      return {};
    });
    const leak = JSON.parse(planJson(plan)).resources.find((r: { name: string }) => r.name === "leak");
    expect(leak.inputs).toMatchObject({
      data: { again: "[secret]" },
      metadata: { name: "leak", annotations: { note: "[secret]" } },
    });
  });
});

describe("several rehearsals in one process", () => {
  test("started together take turns and do not mix", async () => {
    const program: Program = async () => {
      const name = getStack();
      await new Promise((resolve) => setTimeout(resolve, 5));
      group(name);
      return { stack: getStack() };
    };
    const plans = await Promise.all(["one", "two", "three"].map((stack) => rehearse(program, stack)));
    expect(plans.map(({ outputs }) => outputs.stack)).toEqual(["one", "two", "three"]);
    expect(plans.map(({ resources }) => resources.map(({ name }) => name))).toEqual([
      ["mcp-one", "one"],
      ["mcp-two", "two"],
      ["mcp-three", "three"],
    ]);
  });

  test("after a failed one go on as if nothing had been", async () => {
    await expect(rehearse(async () => Promise.reject(new Error("first")))).rejects.toThrow("first");
    const plan = await rehearse(async () => ({ group: group().name }));
    expect(plan.faults).toEqual([]);
    expect(plan.outputs).toEqual({ group: "rg-group" });
  });

  test("leave the process's own handlers in place", async () => {
    const mine = () => {};
    process.on("unhandledRejection", mine);
    await rehearse(async () => ({ group: group().name }));
    expect(process.listeners("unhandledRejection")).toContain(mine);
    process.off("unhandledRejection", mine);
  });
});
