import { execFile } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, describe, expect, test } from "vitest";
import { parse } from "yaml";
import { FakeCloud } from "../../../infra/rehearsal/cloud.ts";
import { type Plan, rehearsePlan } from "../../../infra/rehearsal/plan.ts";
import { planJson, planText } from "../../../infra/rehearsal/plan-view.ts";
import { renderKubernetes } from "../../../infra/rehearsal/render.ts";
import { shippedPlan } from "./replayed-stack.ts";

const STACKS = ["dev", "staging", "prod"];
const RUNNER =
  "/subscriptions/7f1c2d3e-4b5a-4c6d-8e7f-901234567890/resourceGroups/rg-runner/providers/Microsoft.Network/virtualNetworks/vnet-runner";

/** Each stack as somebody else would have it. */
const VARIANTS = {
  prod: { authorizedRanges: "[]", runnerNetworkId: RUNNER, admins: '["Group:6e2f5a0c-1111-4222-8333-444455556666"]' },
  dev: {
    userPool: "1-2",
    cache: "Balanced_B0",
    replicas: "1-3",
    kedaRole: "receiver",
    authorizedRanges: '["8.8.8.8"]',
    alertEmails: '["oncall@example.com"]',
    alertWebhook: "https://hooks.slack.com/services/T0/B0/not-so-secret",
    alertWebhookKind: "slack",
  },
  staging: {
    domain: "mcp.example.com",
    image: `ghcr.io/a/b@sha256:${"a".repeat(64)}`,
    workspace: "emptyDir",
    workers: "none",
    replicas: "1",
  },
} as const;
const variants = new Map<keyof typeof VARIANTS, Promise<Plan>>();

/** A variant's plan, made once. */
function variantPlan(stack: keyof typeof VARIANTS): Promise<Plan> {
  const plan = variants.get(stack) ?? rehearsePlan(stack, { overrides: VARIANTS[stack] });
  variants.set(stack, plan);
  return plan;
}

describe.each(STACKS)("the plan of stack %s", (stack) => {
  test("has no faults", async () => {
    expect((await shippedPlan(stack)).faults).toEqual([]);
  });

  test("is the same every time", async () => {
    expect(planJson(await rehearsePlan(stack))).toBe(planJson(await shippedPlan(stack)));
  });

  test("refers to resources of the plan alone, without going in circles", async () => {
    const { resources } = await shippedPlan(stack);
    const urns = new Set(resources.map(({ urn }) => urn));
    expect(urns.size).toBe(resources.length);
    for (const { parent, dependsOn, propertyDependencies, urn } of resources) {
      const all = [...dependsOn, ...Object.values(propertyDependencies).flat(), ...(parent === "" ? [] : [parent])];
      for (const other of all) expect(urns, urn).toContain(other);
      for (const other of Object.values(propertyDependencies).flat()) expect(dependsOn, urn).toContain(other);
      expect(all).not.toContain(urn);
    }
  });

  test("leaves nothing unknown or pending", async () => {
    const json = planJson(await shippedPlan(stack));
    expect(json).not.toContain("[unknown]");
    expect(json).not.toMatch(/04da6b54-80e4-46f7-96ec-b56ff0331ba9|\[object Object\]|Calling \[toString\]/);
  });

  test("as text shows every component and resource, counts, the longest chain and every warning", async () => {
    const plan = await shippedPlan(stack);
    const text = planText(plan, { color: false });
    for (const { name, type } of plan.resources) if (type !== "pulumi:pulumi:Stack") expect(text).toContain(name);
    for (const warning of plan.warnings) expect(text).toContain(warning);
    expect(text).toMatch(/^Stack \w+: \d+ resources \(azure-native \d+, kubernetes \d+, .*\) in \d+ components$/m);
    expect(text).toMatch(/^Longest chain \(\d+ resources\): site-group → .*cluster → .*→ kube-prometheus-stack → /m);
  });
});

describe("what a plan says", () => {
  test.each([
    [
      "dev",
      [
        "Free · Kubernetes 1.36 · azure/overlay/cilium · system 1-3 × Standard_D4ds_v5",
        "crmcpdevk6h4g · Basic",
        "NFS · 100 GiB",
        "1 replica",
        "kube-prometheus-stack 88.5.3",
        "soft delete 7 days",
      ],
    ],
    ["staging", ["Balanced_B0", "2-6 replicas · by cpu, prometheus", "sbns-mcp-staging-k6h4g · Standard"]],
    [
      "prod",
      [
        "zones 1,2,3, tainted",
        "Premium · no public access",
        "purge protection · protected",
        "2-20 replicas",
        "retained",
        "highly available",
      ],
    ],
  ])("of %s names sizes, SKUs, replicas and versions", async (stack, facts) => {
    const text = planText(await shippedPlan(stack), { color: false });
    for (const fact of facts) expect(text).toContain(fact);
  });

  test.each([
    ["dev", "as shipped", "letsencrypt-staging, which browsers and MCP clients distrust"],
    ["dev", "as shipped", 'system pool "system" may have a single node'],
    ["dev", "as shipped", "can be reached from anywhere"],
    ["prod", "as shipped", "mcp:authorizedRanges still holds the example 203.0.113.10/32"],
    ["prod", "as shipped", "needs a quota of 60 vCPUs of family Ddsv5 in eastus2"],
    ["prod", "as shipped", "cannot be turned off again"],
    ["staging", "as shipped", 'mcp:kedaRole "receiver" needs none'],
    ["prod", "as shipped", "nobody hears of alert ma-mcp-prod"],
    ["prod", "as shipped", "nobody hears of the cluster's alerts"],
    ["prod", "made private", "the API server is private"],
  ] as const)("of %s, %s, warns: %s", async (stack, how, warning) => {
    const plan = await (how === "as shipped" ? shippedPlan(stack) : variantPlan(stack));
    expect(plan.faults).toEqual([]);
    expect(plan.warnings.join("\n")).toContain(warning);
  });

  test("names who hears of alerts, and not where the webhook leads", async () => {
    const plan = await variantPlan("dev");
    const shown = planText(plan, { color: false });
    expect(shown).toContain("ag-mcp-dev · 1 e-mail");
    expect(shown).toContain("DeadletteredMessages above 0 · tells ag-mcp-dev");
    expect(shown).not.toContain("nobody hears");
    for (const text of [shown, planJson(plan)]) {
      expect(text).not.toContain("not-so-secret");
      expect(text).toContain("alertmanager-webhook");
    }
    expect(JSON.stringify(plan.revealedOutputs)).not.toContain("not-so-secret");
  });

  test("is not made with a secret in the clear", async () => {
    const config = { "mcp:alertWebhook": "https://pager.example.com/not-so-secret" };
    const plan = rehearsePlan("dev", { config });
    await expect(plan).rejects.toThrow('run "npx pulumi config set --secret mcp:alertWebhook"');
    await expect(plan).rejects.not.toThrow("not-so-secret");
  });

  test("that its settings do not allow is not made", async () => {
    const overrides = { systemVmSize: "Standard_D2ds_v5" };
    await expect(rehearsePlan("dev", { overrides })).rejects.toThrow("mcp:systemVmSize");
  });

  test("has colours only when asked for", async () => {
    const plan = await shippedPlan("dev");
    const escapeCharacter = String.fromCharCode(27);
    expect(planText(plan)).not.toContain(escapeCharacter); // a test's output is no terminal
    expect(planText(plan, { color: true })).toContain(escapeCharacter);
  });

  test.each(["prod", "dev", "staging"] as const)("of %s with other settings holds together as well", async (stack) => {
    expect((await variantPlan(stack)).faults).toEqual([]);
  });

  test("shows what a region lacks", async () => {
    const plan = await rehearsePlan("dev", { overrides: { location: "westus", zones: "1" } });
    expect(plan.faults.map(({ message }) => message).join()).toContain("AvailabilityZoneNotSupported");
  });

  test("is there within three seconds, whole process", async () => {
    const program =
      "const { rehearsePlan } = await import(process.argv[1]); await rehearsePlan('prod'); " +
      "const { user, system } = process.cpuUsage(); console.log((user + system) / 1e6);";
    const module = join(import.meta.dirname, "../../../infra/rehearsal/plan.ts");
    const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", program, module]);
    // Seconds of CPU time, all that a plan takes: by the clock it would depend on what else the machine does. Twice the
    // bound, since two processes on one core slow each other down.
    expect(Number(stdout)).toBeLessThan(6);
  });
});

const inGroup = { resourceGroupName: "rg", location: "eastus2" };
const clusterWithCilium = [
  { type: "azure-native:resources:ResourceGroup", name: "group", inputs: inGroup },
  {
    type: "azure-native:containerservice:ManagedCluster",
    name: "cluster",
    inputs: {
      ...inGroup,
      resourceName: "aks",
      dnsPrefix: "aks",
      identity: { type: "SystemAssigned" },
      agentPoolProfiles: [{ name: "system", mode: "System", vmSize: "Standard_D4ds_v5", count: 1 }],
      networkProfile: { networkPlugin: "azure", networkPluginMode: "overlay", networkDataplane: "cilium" },
    },
  },
];

describe.each(STACKS)("the Kubernetes objects of stack %s", (stack) => {
  const directories: string[] = [];
  const rendered = async () => {
    const directory = await mkdtemp(join(tmpdir(), "rendered-"));
    directories.push(directory);
    const files = await renderKubernetes(await shippedPlan(stack), directory);
    return { directory, files };
  };
  afterAll(async () => {
    for (const directory of directories) await rm(directory, { recursive: true });
  });

  test("are files of one valid object each, all of the plan's", async () => {
    const plan = await shippedPlan(stack);
    const { directory, files } = await rendered();
    const objects = [];
    for (const file of files.filter((name) => name.endsWith(".yaml"))) {
      objects.push(parse(await readFile(join(directory, file), "utf8")));
    }
    const names = objects.map(({ kind, metadata }) => `${kind} ${metadata.namespace ?? ""}/${metadata.name}`).sort();
    expect(names).toEqual(
      plan.cluster
        .objects()
        .map(({ kind, namespace, name }) => `${kind} ${namespace}/${name}`)
        .sort(),
    );
    expect(JSON.stringify(objects)).not.toContain("pulumi.com/");
  });

  test("apply in the order of their numbers to an empty cluster, charts in between", async () => {
    const plan = await shippedPlan(stack);
    const { directory, files } = await rendered();
    const script = await readFile(join(directory, "install.sh"), "utf8");
    const cloud = new FakeCloud();
    // Cilium's kinds come with AKS and not with a chart.
    for (const { type, name, inputs } of clusterWithCilium) cloud.create({ type, name, inputs });
    let steps = 0;
    for (const line of script.split("\n")) {
      const file = /-f (\S+\.yaml)$/.exec(line)?.[1];
      const helm =
        /^helm (?:upgrade --install|template) (\S+) (\S+) --version (\S+).* --namespace (\S+) --values (\S+)/.exec(
          line,
        );
      if (file !== undefined) {
        const object = parse(await readFile(join(directory, file), "utf8"));
        cloud.create({ type: `kubernetes:${object.apiVersion}:${object.kind}`, name: file, inputs: object });
        steps++;
      } else if (helm) {
        const [, name = "", chart, version, namespace, values = ""] = helm;
        const repo = /--repo (\S+)/.exec(line)?.[1];
        const inputs = {
          name,
          chart,
          version,
          namespace,
          values: parse(await readFile(join(directory, values), "utf8")),
          ...(repo && { repositoryOpts: { repo } }),
        };
        cloud.create({ type: "kubernetes:helm.sh/v3:Release", name, inputs });
        steps++;
      } else if (/^(kubectl|helm)/.test(line)) throw new Error(`not understood: ${line}`);
    }
    expect(steps).toBe(files.length - 1);
    expect(cloud.kubernetes.releases().length).toBe(plan.cluster.releases().length);
  });

  test("have no value of any Secret, and say which to fill in", async () => {
    const plan = await shippedPlan(stack);
    const { directory, files } = await rendered();
    const texts = await Promise.all(files.map((file) => readFile(join(directory, file), "utf8")));
    const secrets = plan.cluster.objects("Secret");
    expect(secrets.length).toBeGreaterThan(0);
    for (const { name, object } of secrets) {
      const own = texts.find((text) => /kind: Secret/.test(text) && text.includes(`name: ${name}`));
      for (const [key, value] of Object.entries({ ...Object(object.stringData), ...Object(object.data) })) {
        expect(own).toContain(key);
        if (String(value).length >= 8) for (const text of texts) expect(text).not.toContain(String(value));
      }
      expect(own).toMatch(/^# Secret values are not rendered\. Before applying, fill in: /);
    }
  });

  test("replace those of an earlier rendering and nothing else", async () => {
    const { directory, files } = await rendered();
    await writeFile(join(directory, "999-configmap-gone.yaml"), "");
    await writeFile(join(directory, "mine.yaml"), "");
    await renderKubernetes(await shippedPlan(stack), directory);
    expect((await readdir(directory)).sort()).toEqual([...files, "mine.yaml"].sort());
  });
});
