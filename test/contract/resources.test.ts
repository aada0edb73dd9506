import { beforeAll, describe, expect, test } from "vitest";
import { z } from "zod";
import { runProgram } from "../../infra/cli/program.ts";
import { recordingTerminal } from "../infra/cli/recording-terminal.ts";

const PlanJson = z.object({
  stack: z.literal("prod"),
  resources: z.array(
    z.looseObject({
      urn: z.string().startsWith("urn:pulumi:prod::mcp::"),
      type: z.string(),
      name: z.string(),
      parent: z.string().optional(),
      dependsOn: z.array(z.string()),
      propertyDependencies: z.record(z.string(), z.array(z.string())),
      inputs: z.looseObject({}),
    }),
  ),
  outputs: z.looseObject({}),
});

let plan: z.output<typeof PlanJson>;
beforeAll(async () => {
  const terminal = recordingTerminal();
  expect(await runProgram(["plan", "prod", "--json"], terminal)).toBe(0);
  plan = PlanJson.parse(JSON.parse(terminal.stdout()));
});

/** Resources whose type ends so, and whose inputs hold all of these texts. */
function planned(type: string, ...texts: string[]) {
  return plan.resources.filter((resource) => {
    const inputs = JSON.stringify(resource.inputs);
    return resource.type.endsWith(type) && texts.every((text) => inputs.includes(text));
  });
}

describe("plan prod --json holds what the stack is made of", () => {
  test.each([
    ["a resource group", "resources:ResourceGroup", []],
    ["a virtual network", "network:VirtualNetwork", []],
    ["a subnet of nodes", "network:Subnet", ["node"]],
    ["a subnet of private endpoints", "network:Subnet", ["endpoint"]],
    ["a static address with a DNS label", "network:PublicIPAddress", ["Static", "domainNameLabel"]],
    ["a registry without an admin user", "containerregistry:Registry", ['"adminUserEnabled":false', "Premium"]],
    ["the cluster", "containerservice:ManagedCluster", ['"disableLocalAccounts":true', "cilium", "overlay"]],
    ["a user pool", "containerservice:AgentPool", ['"enableAutoScaling":true']],
    ["a maintenance window", "containerservice:MaintenanceConfiguration", []],
    ["a vault", "keyvault:Vault", ['"enableRbacAuthorization":true', '"enablePurgeProtection":true']],
    ["a Service Bus namespace", "servicebus:Namespace", ['"disableLocalAuth":true', "1.2"]],
    [
      "the queue",
      "servicebus:Queue",
      ["mcp-jobs", '"requiresDuplicateDetection":true', "maxDeliveryCount", "lockDuration"],
    ],
    ["the job table", "storage:Table", []],
    ["the workspace share", "storage:FileShare", ["NFS"]],
    ["a Redis", "redisenterprise:RedisEnterprise", ["Balanced_B1"]],
    ["a log workspace", "operationalinsights:Workspace", []],
    ["Application Insights", "applicationinsights:Component", []],
    ["the audit trail's table", "operationalinsights:Table", ["McpAudit_CL", '"totalRetentionInDays":365']],
    ["the rule that takes it", "monitor:DataCollectionRule", ["Custom-McpAudit"]],
    ["a copy that nobody can change", "storage:StorageAccount", ['"immutableStorageWithVersioning":{"enabled":true']],
    ["the image, for AMD64", "docker:index/image:Image", ["linux/amd64"]],
    ["cert-manager", ":Release", ["cert-manager"]],
    ["a staging issuer", ":ClusterIssuer", ["acme-staging-v02.api.letsencrypt.org"]],
    ["a production issuer", ":ClusterIssuer", ["acme-v02.api.letsencrypt.org"]],
    ["Envoy Gateway", ":Release", ["gateway-helm"]],
    ["its class", ":GatewayClass", []],
    ["the Gateway", ":Gateway", ["HTTPS"]],
    ["its certificate", ":Certificate", []],
    ["a redirect to HTTPS", ":HTTPRoute", ["RequestRedirect"]],
    ["Prometheus and Grafana", ":Release", ["kube-prometheus-stack"]],
    ["Loki", ":Release", ["loki"]],
    ["Alloy", ":Release", ["alloy"]],
    ["KEDA with workload identity", ":Release", ["keda", "azureWorkload"]],
    ["the namespace, restricted", ":Namespace", ["mcp-system", '"pod-security.kubernetes.io/enforce":"restricted"']],
    ["the server's account", ":ServiceAccount", ["mcp-server"]],
    ["the worker's account", ":ServiceAccount", ["job-worker"]],
    ["the server's ConfigMap", "core/v1:ConfigMap", ["WORKSPACE_PATH"]],
    [
      "the Deployment",
      ":Deployment",
      ["mcp-server", '"maxUnavailable":0', '"readOnlyRootFilesystem":true', "RuntimeDefault"],
    ],
    ["the Service", "core/v1:Service", ["mcp-server"]],
    ["a disruption budget", ":PodDisruptionBudget", ["mcp-server"]],
    ["a scaler", ":ScaledObject", ['"maxReplicaCount":20']],
    ["the workers' Deployment", ":Deployment", ["job-worker", "worker.js", '"readOnlyRootFilesystem":true']],
    ["the workers' scaler", ":ScaledObject", ["mcp-jobs-ordered", '"messageCount":"5"', '"fallback"']],
    ["KEDA's way to the queues", ":TriggerAuthentication", ["azure-workload"]],
    ["a quota for each", ":ResourceQuota", ["PriorityClass"]],
    ["a priority below the server's", ":PriorityClass", ['"value":-1']],
    ["a monitor of workers", ":PodMonitor", ["job-worker", "/metrics"]],
    ["an alert to dead letters", "monitor:MetricAlert", ["DeadletteredMessages"]],
    ["a monitor", ":ServiceMonitor", ["/metrics"]],
    ["a route to the server", ":HTTPRoute", ["backendRefs"]],
    ["network policies", ":NetworkPolicy", ["mcp-system"]],
    ["the workspace volume", ":PersistentVolume", ["file.csi.azure.com"]],
    ["its claim", ":PersistentVolumeClaim", ["ReadWriteMany"]],
  ])("%s", (_, type, texts) => {
    expect(planned(type, ...texts)).not.toEqual([]);
  });

  test("private endpoints for registry, vault, Service Bus, storage and Redis", () => {
    const groups = planned("network:PrivateEndpoint").map(({ inputs }) => {
      return /"groupIds":\["(\w+)"\]/.exec(JSON.stringify(inputs))?.[1];
    });
    expect(groups.toSorted()).toEqual(["blob", "file", "namespace", "redisEnterprise", "registry", "table", "vault"]);
  });

  test("logs of cluster, vault, registry and Service Bus flow into the workspace", () => {
    const sources = planned("monitor:DiagnosticSetting").map(({ inputs }) => String(inputs.resourceUri));
    for (const provider of ["managedClusters", "vaults", "registries", "namespaces"]) {
      expect(
        sources.some((source) => source.includes(`/${provider}/`)),
        provider,
      ).toBe(true);
    }
  });

  test("identities for server, worker, scaler, cluster and kubelet", () => {
    const names = planned("managedidentity:UserAssignedIdentity").map(({ inputs }) => String(inputs.resourceName));
    for (const purpose of ["mcp-server", "job-worker", "keda", "cluster", "kubelet"]) {
      expect(
        names.some((name) => name.endsWith(purpose)),
        `${purpose} among ${names.join(", ")}`,
      ).toBe(true);
    }
  });

  test("every chart has a version", () => {
    for (const { name, inputs } of planned(":Release")) expect(inputs.version, name).toMatch(/^v?\d+\.\d+\.\d+$/);
  });

  test("everything in Azure that takes tags has them", () => {
    const tagged = plan.resources.filter(
      ({ type, inputs }) => type.startsWith("azure-native:") && inputs.location !== undefined,
    );
    expect(tagged.length).toBeGreaterThan(10);
    for (const { name, inputs } of tagged) {
      expect(inputs.tags, name).toMatchObject({ workload: "mcp", environment: "prod", "managed-by": "pulumi" });
    }
  });

  test("the outputs that people and connect read", () => {
    expect(Object.keys(plan.outputs).toSorted()).toEqual([
      "clusterName",
      "endpoint",
      "entra",
      "grafana",
      "healthUrl",
      "ideConfigs",
      "image",
      "jobs",
      "registryLoginServer",
      "resourceGroup",
    ]);
  });

  test("every dependency is a planned resource, and none depends on itself", () => {
    const urns = new Set(plan.resources.map(({ urn }) => urn));
    for (const { urn, dependsOn, propertyDependencies } of plan.resources) {
      for (const dependency of [...dependsOn, ...Object.values(propertyDependencies).flat()]) {
        expect(urns.has(dependency), dependency).toBe(true);
        expect(dependency).not.toBe(urn);
      }
    }
  });
});
