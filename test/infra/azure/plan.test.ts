import { beforeAll, describe, expect, it } from "vitest";
import { parse } from "yaml";
import { ROLES } from "../../../infra/azure/role-assignment.ts";
import { refuseOutsider } from "../../../infra/azure/site.ts";
import { secondsOf } from "../../../infra/rehearsal/azure/data.ts";
import type { Settings } from "../../../infra/settings.ts";
import {
  type Asked,
  type AzurePlan,
  DEPLOYER,
  type Inputs,
  planAzure,
  RUNNER_NETWORK,
  SUBSCRIPTION,
} from "./recorder.ts";

/** Resource types that Azure has no tags for. */
const UNTAGGED = new Set([
  "authorization:ManagementLockByScope",
  "authorization:RoleAssignment",
  "authorization:RoleDefinition",
  "containerservice:MaintenanceConfiguration",
  "managedidentity:FederatedIdentityCredential",
  "monitor:DiagnosticSetting",
  "network:PrivateDnsZoneGroup",
  "network:Subnet",
  "network:VirtualNetworkPeering",
  "operationalinsights:DataExport",
  "operationalinsights:Table",
  "redisenterprise:AccessPolicyAssignment",
  "redisenterprise:Database",
  "servicebus:Queue",
  "storage:BlobContainer",
  "storage:BlobServiceProperties",
  "storage:FileShare",
  "storage:ManagementPolicy",
  "storage:Table",
]);
const RANGES = ["20.30.40.50/32", "20.30.41.0/24"];
const PLANS = {
  dev: () => planAzure("dev"),
  staging: () =>
    planAzure("staging", { authorizedRanges: JSON.stringify(RANGES), alertEmails: '["oncall@example.com"]' }),
  prod: () => planAzure("prod", { authorizedRanges: JSON.stringify(RANGES) }),
  "private prod": () => planAzure("prod", { runnerNetworkId: RUNNER_NETWORK }),
};
type StackName = keyof typeof PLANS;
const STACKS = Object.keys(PLANS) as StackName[];

const plans = new Map<StackName, AzurePlan>();
beforeAll(async () => {
  // One after the other: Pulumi has one monitor a process.
  for (const stack of STACKS) plans.set(stack, await PLANS[stack]());
});

const plan = (stack: StackName) => plans.get(stack)?.resources ?? [];
const all = (stack: StackName, type: string) => plan(stack).filter((r) => r.type === `azure-native:${type}`);
function one(stack: StackName, type: string, name?: string): Asked {
  const found = all(stack, type).filter((r) => name === undefined || r.name === name);
  if (found.length !== 1 || found[0] === undefined) {
    throw new Error(`${stack} has ${found.length} of ${type} ${name ?? ""}: ${found.map((r) => r.name)}`);
  }
  return found[0];
}
const list = (value: unknown) => (Array.isArray(value) ? value : []) as Inputs[];
const at = (value: unknown, ...path: (string | number)[]): unknown =>
  path.reduce<unknown>((v, key) => (v as Record<string | number, unknown> | undefined)?.[key], value);
/** Those of the job table and of the workspace; the copy of the audit trail is another matter. */
const ownData = (stack: StackName) => all(stack, "storage:StorageAccount").filter((r) => r.name.startsWith("storage-"));
const cluster = (stack: StackName) => one(stack, "containerservice:ManagedCluster").inputs;
const vault = (stack: StackName) => one(stack, "keyvault:Vault").inputs.properties as Inputs;
const registry = (stack: StackName) => one(stack, "containerregistry:Registry").inputs;
const provider = (stack: StackName) => {
  const found = plan(stack).find((r) => r.type === "pulumi:providers:kubernetes");
  if (!found) throw new Error("no Kubernetes provider");
  return found;
};

/** Everything that must be there before `resource`, through inputs, options and components alike. */
function neededBy(stack: StackName, resource: Asked): Set<string> {
  const seen = new Set<string>();
  const visit = (r: Asked) => {
    for (const urn of r.dependencies) {
      if (seen.has(urn)) continue;
      seen.add(urn);
      const next = plan(stack).find((other) => other.urn === urn);
      if (next) visit(next);
    }
  };
  visit(resource);
  return new Set([...seen].map((urn) => urn.split("::").at(-1) ?? ""));
}

describe.each(STACKS)("%s", (stack) => {
  it("opens nothing by a shared key, a local account or an anonymous request", () => {
    expect(registry(stack)).toMatchObject({ adminUserEnabled: false, anonymousPullEnabled: false });
    expect(vault(stack)).toMatchObject({ enableRbacAuthorization: true, enableSoftDelete: true });
    expect(one(stack, "servicebus:Namespace").inputs).toMatchObject({
      disableLocalAuth: true,
      minimumTlsVersion: "1.2",
    });
    for (const account of all(stack, "storage:StorageAccount")) {
      expect(account.inputs).toMatchObject({
        allowSharedKeyAccess: false,
        allowBlobPublicAccess: false,
        isLocalUserEnabled: false,
        minimumTlsVersion: "TLS1_2",
      });
    }
    for (const database of all(stack, "redisenterprise:Database")) {
      expect(database.inputs).toMatchObject({ accessKeysAuthentication: "Disabled", clientProtocol: "Encrypted" });
    }
    expect(cluster(stack)).toMatchObject({
      disableLocalAccounts: true,
      enableRBAC: true,
      aadProfile: { managed: true, enableAzureRBAC: true },
    });
    expect(one(stack, "operationalinsights:Workspace").inputs).toMatchObject({ features: { disableLocalAuth: true } });
  });

  it("sets the hardening that reviews of AKS ask for", () => {
    expect(cluster(stack)).toMatchObject({
      identity: { type: "UserAssigned" },
      oidcIssuerProfile: { enabled: true },
      securityProfile: {
        workloadIdentity: { enabled: true },
        imageCleaner: { enabled: true },
        defender: { securityMonitoring: { enabled: false } },
      },
      autoUpgradeProfile: { upgradeChannel: "patch", nodeOSUpgradeChannel: "NodeImage" },
      networkProfile: {
        networkPlugin: "azure",
        networkPluginMode: "overlay",
        networkDataplane: "cilium",
        networkPolicy: "cilium",
        outboundType: "loadBalancer",
      },
      addonProfiles: { azurepolicy: { enabled: false }, azureKeyvaultSecretsProvider: { enabled: false } },
      apiServerAccessProfile: { disableRunCommand: true },
    });
    const pools = [
      at(cluster(stack), "agentPoolProfiles", 0),
      ...all(stack, "containerservice:AgentPool").map((pool) => pool.inputs),
    ];
    for (const pool of pools) {
      expect(pool).toMatchObject({
        osSKU: "AzureLinux",
        osDiskType: "Ephemeral",
        enableNodePublicIP: false,
        securityProfile: { sshAccess: "Disabled" },
        upgradeSettings: { maxSurge: "10%" },
      });
    }
    const windows = all(stack, "containerservice:MaintenanceConfiguration").map((c) => c.inputs);
    expect(windows.map((w) => w.configName).sort()).toEqual([
      "aksManagedAutoUpgradeSchedule",
      "aksManagedNodeOSUpgradeSchedule",
    ]);
    for (const window of windows) {
      expect(window.maintenanceWindow).toMatchObject({
        schedule: { weekly: { dayOfWeek: "Sunday", intervalWeeks: 1 } },
        startTime: "02:00",
        utcOffset: "+00:00",
      });
    }
  });

  it("gives each role on one resource, under a GUID of its own, and to identities by their type", () => {
    const assignments = all(stack, "authorization:RoleAssignment");
    const facts = assignments.map(({ inputs }) => `${inputs.scope} ${inputs.principalId} ${inputs.roleDefinitionId}`);
    expect(new Set(facts).size).toBe(assignments.length);
    expect(new Set(assignments.map((a) => a.inputs.roleAssignmentName)).size).toBe(assignments.length);

    const ids = new Map(plan(stack).map((resource) => [resource.id, resource]));
    const ipGroup = `/subscriptions/${SUBSCRIPTION}/resourceGroups/${one(stack, "network:PublicIPAddress").inputs.resourceGroupName}`;
    for (const { name, inputs } of assignments) {
      const scope = ids.get(String(inputs.scope));
      expect(scope, `${name}: ${inputs.scope} is a resource of the plan`).toBeDefined();
      if (scope?.type === "azure-native:resources:ResourceGroup") {
        // The load balancer's controller lists addresses of a group; this one holds nothing but the address.
        expect(inputs.scope).toBe(ipGroup);
      }
      expect(inputs.principalType, name).toBe("ServicePrincipal");
      expect(inputs.roleDefinitionId).toMatch(
        new RegExp(`^/subscriptions/${SUBSCRIPTION}/providers/Microsoft.Authorization/roleDefinitions/[0-9a-f-]{36}$`),
      );
    }
    const inIpGroup = plan(stack).filter(
      (r) => `/subscriptions/${SUBSCRIPTION}/resourceGroups/${r.inputs.resourceGroupName}` === ipGroup,
    );
    expect(inIpGroup.map((r) => r.type.split(":").at(-1)).sort()).toEqual(["PublicIPAddress", "ResourceGroup"]);
  });

  it("gives each workload what it needs and nothing more", () => {
    const roleNames = new Map(Object.entries(ROLES).map(([name, id]) => [id as string, name]));
    const custom = one(stack, "authorization:RoleDefinition").inputs;
    roleNames.set(String(custom.roleDefinitionId), "queue-reader");
    const rolesOf = (identity: string) => {
      const { id } = one(stack, "managedidentity:UserAssignedIdentity", `${identity}-identity`);
      return all(stack, "authorization:RoleAssignment")
        .filter((a) => a.name.startsWith(`${identity}-`) && id !== "")
        .map((a) => {
          const role = roleNames.get(String(a.inputs.roleDefinitionId).split("/").at(-1) ?? "");
          const scope = plan(stack).find((r) => r.id === a.inputs.scope);
          return `${role} on ${scope?.type.split(":").at(-1)}`;
        })
        .sort();
    };
    expect(rolesOf("mcp-server")).toEqual([
      "key-vault-secrets-user on Vault",
      "monitoring-metrics-publisher on DataCollectionRule",
      "service-bus-data-sender on Queue",
      "service-bus-data-sender on Queue",
      "storage-blob-data-contributor on BlobContainer",
      "storage-table-data-contributor on Table",
    ]);
    expect(rolesOf("job-worker")).toEqual([
      "monitoring-metrics-publisher on DataCollectionRule",
      "service-bus-data-receiver on Queue",
      "service-bus-data-receiver on Queue",
      "service-bus-data-sender on Queue",
      "service-bus-data-sender on Queue",
      "storage-blob-data-contributor on BlobContainer",
      "storage-table-data-contributor on Table",
    ]);
    expect(rolesOf("keda")).toEqual(["queue-reader on Queue", "queue-reader on Queue"]);
    expect(custom.permissions).toMatchObject([
      { actions: ["Microsoft.ServiceBus/namespaces/queues/read"], dataActions: [] },
    ]);
  });

  it("trusts each workload's own service account, and no other", () => {
    const trusted = all(stack, "managedidentity:FederatedIdentityCredential").map((c) => c.inputs);
    expect(trusted.map((c) => c.subject).sort()).toEqual([
      "system:serviceaccount:keda:keda-operator",
      "system:serviceaccount:mcp-system:job-worker",
      "system:serviceaccount:mcp-system:mcp-server",
    ]);
    for (const credential of trusted) {
      expect(credential).toMatchObject({
        issuer: "https://eastus2.oic.prod-aks.azure.com/t/c/",
        audiences: ["api://AzureADTokenExchange"],
      });
    }
  });

  it("closes the workspace to everyone but the cluster, and the jobs' state to all but those who manage the stack", () => {
    const node = one(stack, "network:Subnet", "network-nodes").id;
    expect(ownData(stack)).toHaveLength(2);
    const files = one(stack, "storage:StorageAccount", "storage-wsp").inputs;
    const state = one(stack, "storage:StorageAccount", "storage-job").inputs;
    const rules = (ranges: string[], subnets: string[]) => ({
      defaultAction: "Deny",
      ipRules: ranges.map((iPAddressOrRange) => ({ action: "Allow", iPAddressOrRange })),
      virtualNetworkRules: subnets.map((id) => ({ virtualNetworkResourceId: id, action: "Allow" })),
    });
    if (stack.includes("prod")) {
      for (const account of [files, state]) {
        expect(account).toMatchObject({ publicNetworkAccess: "Disabled", networkRuleSet: rules([], []) });
      }
    } else {
      expect(files.networkRuleSet).toMatchObject(rules([], [node]));
      // Storage takes no /32.
      const fromRanges = rules(["20.30.40.50", "20.30.41.0/24"], [node]);
      expect(state.networkRuleSet).toMatchObject(stack === "dev" ? { defaultAction: "Allow" } : fromRanges);
    }
    expect(one(stack, "storage:FileShare").inputs).toMatchObject({
      enabledProtocols: "NFS",
      shareQuota: 100,
      rootSquash: "NoRootSquash",
    });
  });

  it("takes each job once, in two queues that differ in nothing but order, and sets aside what cannot be run", () => {
    const queues = all(stack, "servicebus:Queue").map((r) => r.inputs);
    expect(queues.map((q) => [q.queueName, q.requiresSession])).toEqual([
      ["mcp-jobs", false],
      ["mcp-jobs-ordered", true],
    ]);
    for (const queue of queues) {
      expect(queue).toMatchObject({
        requiresDuplicateDetection: true,
        duplicateDetectionHistoryTimeWindow: "PT10M",
        deadLetteringOnMessageExpiration: true,
        lockDuration: "PT1M",
      });
      // A job's own count of failures (JOB_ATTEMPTS, 5) has to come first, and its longest deadline, seven days.
      expect(queue.maxDeliveryCount).toBeGreaterThan(20);
      expect(secondsOf(String(queue.defaultMessageTimeToLive))).toBeGreaterThan(7 * 86_400);
    }
  });

  it("tells of dead letters in either queue, with or without a worker", () => {
    const { inputs } = one(stack, "monitor:MetricAlert");
    expect(inputs).toMatchObject({ enabled: true, autoMitigate: true });
    expect(inputs.scopes).toEqual([one(stack, "servicebus:Namespace").id]);
    expect(at(inputs, "criteria", "allOf", 0)).toMatchObject({
      metricName: "DeadletteredMessages",
      operator: "GreaterThan",
      threshold: 0,
      dimensions: [{ name: "EntityName", operator: "Include", values: ["mcp-jobs", "mcp-jobs-ordered"] }],
    });
  });

  it("keeps what jobs were given and gave from everyone, and not for ever", () => {
    expect(one(stack, "storage:BlobContainer").inputs).toMatchObject({ containerName: "jobs", publicAccess: "None" });
    const account = one(stack, "storage:StorageAccount", "storage-job").inputs;
    // Or the rule below would be kept out with everybody else.
    expect(at(account, "networkRuleSet", "bypass")).toBe("AzureServices");
    expect(at(one(stack, "storage:ManagementPolicy").inputs, "policy", "rules")).toEqual([
      {
        name: "old-jobs",
        type: "Lifecycle",
        enabled: true,
        definition: {
          filters: { blobTypes: ["blockBlob"], prefixMatch: ["jobs/"] },
          actions: { baseBlob: { delete: { daysAfterModificationGreaterThan: 37 } } },
        },
      },
    ]);
  });

  it("admits web traffic from the internet to the nodes, and nothing else (failure 6)", () => {
    const groups = all(stack, "network:NetworkSecurityGroup");
    const fromInternet = groups.flatMap((group) =>
      list(group.inputs.securityRules)
        .filter((r) => r.access === "Allow" && ["Internet", "*", "0.0.0.0/0"].includes(String(r.sourceAddressPrefix)))
        .map((r) => ({ group: group.name, ports: r.destinationPortRanges, direction: r.direction })),
    );
    expect(fromInternet).toEqual([{ group: "network-nodes-nsg", ports: ["80", "443"], direction: "Inbound" }]);
    for (const group of groups) {
      const priorities = list(group.inputs.securityRules).map((r) => r.priority);
      expect(new Set(priorities).size).toBe(priorities.length);
    }
    for (const subnet of all(stack, "network:Subnet")) {
      expect(subnet.inputs.networkSecurityGroup, subnet.name).toMatchObject({ id: expect.any(String) });
    }
  });

  it("has the endpoint's name before anything exists, and tags of the controller are no drift (failure 5)", () => {
    const ip = one(stack, "network:PublicIPAddress");
    expect(ip.inputs).toMatchObject({ publicIPAllocationMethod: "Static", sku: { name: "Standard" } });
    expect(at(ip.inputs, "dnsSettings", "domainNameLabel")).toMatch(/^mcp-(dev|staging|prod)-[a-z0-9]+$/);
    expect(ip.ignoreChanges).toContain('tags["k8s-azure-service"]');
  });

  it("gives the cluster's identity its roles and the network before the cluster (failures 3 and 4)", () => {
    const needed = neededBy(stack, one(stack, "containerservice:ManagedCluster"));
    expect(needed).toContain("cluster-network-contributor-node-subnet");
    expect(needed).toContain("cluster-network-contributor-ip-group");
    expect(needed).toContain("cluster-managed-identity-operator-kubelet-identity");
    // On the way down the load balancer lets go of the address before the address goes.
    expect(needed).toContain("network-ip");
  });

  it("logs in to the cluster once the deployer may, on nodes that are there (failures 3, 9 and 12)", () => {
    const needed = neededBy(stack, provider(stack));
    expect(needed).toContain("deployer-aks-cluster-admin-cluster");
    expect(needed).toContain("deployer-aks-cluster-user-cluster");
    if (stack !== "dev") expect(needed).toContain("cluster-user-pool");
    const kubeconfig = parse(String(provider(stack).inputs.kubeconfig)) as Inputs;
    expect(at(kubeconfig, "users", 0, "user", "exec", "args")).toContain("azurecli");
  });

  it("builds the image while the cluster comes up: the registry waits for no cluster, the cluster for no registry", () => {
    const needsOf = (type: string) => neededBy(stack, one(stack, type));
    expect(needsOf("containerregistry:Registry")).not.toContain("cluster");
    expect(neededBy(stack, one(stack, "authorization:RoleAssignment", "deployer-acr-push-registry"))).not.toContain(
      "cluster",
    );
    for (const slow of ["registry", "vault", "cache", "jobs", "storage-job", "storage-wsp"]) {
      expect(needsOf("containerservice:ManagedCluster")).not.toContain(slow);
    }
  });

  it("asks for no token in a preview, and keeps secret what is", () => {
    const { login, secrets } = plans.get(stack) ?? {};
    expect(login).toEqual({
      server: expect.stringMatching(/^crmcp(dev|staging|prod)x7k2p\.azurecr\.io$/),
      username: "00000000-0000-0000-0000-000000000000",
      password: "not-fetched-in-a-preview",
    });
    expect(secrets).toEqual(["login", "connectionString"]);
  });

  it("changes one subnet at a time", () => {
    const order = all(stack, "network:Subnet");
    for (const [i, subnet] of order.entries()) {
      for (const other of order.slice(i + 1)) {
        const chained = neededBy(stack, subnet).has(other.name) || neededBy(stack, other).has(subnet.name);
        expect(chained, `${subnet.name} and ${other.name}`).toBe(true);
      }
    }
  });

  it("lets secrets go with their vault (failure 10)", () => {
    expect(one(stack, "keyvault:Secret").retainOnDelete).toBe(true);
    expect(vault(stack)).not.toHaveProperty("createMode");
    expect(String(one(stack, "keyvault:Vault").inputs.vaultName)).toMatch(/-x7k2p$/);
  });

  it("collects the logs of cluster, vault, registry and Service Bus, after Microsoft.Insights is in use (failure 14)", () => {
    const settings = all(stack, "monitor:DiagnosticSetting");
    expect(settings.map((s) => s.name).sort()).toEqual([
      "cluster-diagnostics",
      "jobs-diagnostics",
      "registry-diagnostics",
      "vault-diagnostics",
    ]);
    for (const setting of settings) expect(neededBy(stack, setting)).toContain("telemetry-insights");
    const logs = list(one(stack, "monitor:DiagnosticSetting", "cluster-diagnostics").inputs.logs);
    const categories = logs.map((log) => log.category);
    expect(categories).toContain("kube-audit-admin");
    expect(categories).not.toContain("kube-audit");
  });

  it("tags whatever can be tagged", () => {
    for (const resource of plan(stack).filter((r) => r.type.startsWith("azure-native:"))) {
      if (UNTAGGED.has(resource.type.replace("azure-native:", ""))) continue;
      expect(resource.inputs.tags, resource.name).toMatchObject({
        workload: "mcp",
        environment: expect.any(String),
        "managed-by": "pulumi",
      });
    }
  });

  it("keeps the autoscaler's node counts and the setting's fixed ones", () => {
    const system = one(stack, "containerservice:ManagedCluster");
    const autoscaled = at(system.inputs, "agentPoolProfiles", 0, "enableAutoScaling") === true;
    expect(system.ignoreChanges).toEqual(autoscaled ? ["agentPoolProfiles[0].count"] : []);
    for (const pool of all(stack, "containerservice:AgentPool")) {
      expect(pool.inputs).toMatchObject({ enableAutoScaling: true, mode: "User" });
      expect(pool.ignoreChanges).toEqual(["count"]);
      expect(pool.deletedWith).toBe(system.urn);
    }
  });
});

describe("dev", () => {
  it("is reachable from anywhere by whoever has a role, and costs the least", () => {
    expect(cluster("dev")).toMatchObject({
      sku: { tier: "Free" },
      apiServerAccessProfile: { enablePrivateCluster: false, authorizedIPRanges: [] },
    });
    expect(vault("dev")).toMatchObject({ publicNetworkAccess: "Enabled", networkAcls: { defaultAction: "Allow" } });
    expect(registry("dev")).toMatchObject({ sku: { name: "Basic" }, publicNetworkAccess: "Enabled" });
    // Azure refuses the property below Premium.
    expect(registry("dev")).not.toHaveProperty("networkRuleSet");
    expect(all("dev", "network:PrivateEndpoint")).toEqual([]);
    expect(all("dev", "redisenterprise:RedisEnterprise")).toEqual([]);
    expect(all("dev", "containerservice:AgentPool")).toEqual([]);
  });

  it("runs everything on the system pool, which therefore has no taint (failure 12)", () => {
    expect(at(cluster("dev"), "agentPoolProfiles", 0)).toMatchObject({ minCount: 1, maxCount: 3, nodeTaints: [] });
  });

  it("can be taken down without asking twice", () => {
    expect(plan("dev").filter((r) => r.protect)).toEqual([]);
    expect(vault("dev")).not.toHaveProperty("enablePurgeProtection");
  });
});

describe("staging with ranges", () => {
  it("admits them, and its nodes by their subnet, to API server and vault", () => {
    expect(at(cluster("staging"), "apiServerAccessProfile", "authorizedIPRanges")).toEqual(RANGES);
    expect(vault("staging").networkAcls).toEqual({
      bypass: "AzureServices",
      defaultAction: "Deny",
      ipRules: RANGES.map((value) => ({ value })),
      virtualNetworkRules: [
        { id: one("staging", "network:Subnet", "network-nodes").id, ignoreMissingVnetServiceEndpoint: false },
      ],
    });
    const endpoints = list(one("staging", "network:Subnet", "network-nodes").inputs.serviceEndpoints);
    expect(endpoints.map((e) => e.service)).toEqual(["Microsoft.Storage", "Microsoft.KeyVault"]);
  });

  it("leaves a Standard registry open, which nothing can narrow", () => {
    expect(registry("staging")).toMatchObject({ publicNetworkAccess: "Enabled" });
    expect(registry("staging")).not.toHaveProperty("networkRuleSet");
  });
});

describe("prod with ranges", () => {
  it("admits the ranges to its management planes, and its own nodes through private endpoints", () => {
    expect(cluster("prod")).toMatchObject({
      sku: { tier: "Standard" },
      apiServerAccessProfile: { enablePrivateCluster: false, authorizedIPRanges: RANGES },
    });
    expect(vault("prod").networkAcls).toMatchObject({
      defaultAction: "Deny",
      ipRules: RANGES.map((value) => ({ value })),
    });
    expect(registry("prod")).toMatchObject({
      publicNetworkAccess: "Enabled",
      networkRuleSet: {
        defaultAction: "Deny",
        ipRules: RANGES.map((range) => ({ action: "Allow", iPAddressOrRange: range })),
      },
    });
  });

  it("reaches registry, vault, queue, storage and cache by private endpoints alone", () => {
    const groups = all("prod", "network:PrivateEndpoint").map((e) =>
      at(e.inputs, "privateLinkServiceConnections", 0, "groupIds", 0),
    );
    expect(groups.sort()).toEqual(["blob", "file", "namespace", "redisEnterprise", "registry", "table", "vault"]);
    for (const type of ["servicebus:Namespace", "redisenterprise:RedisEnterprise"]) {
      expect(one("prod", type).inputs.publicNetworkAccess).toBe("Disabled");
    }
    for (const account of ownData("prod")) {
      expect(account.inputs.publicNetworkAccess).toBe("Disabled");
    }
  });

  it("keeps charts off the system pool and spreads nodes over zones (failure 12)", () => {
    expect(at(cluster("prod"), "agentPoolProfiles", 0)).toMatchObject({
      nodeTaints: ["CriticalAddonsOnly=true:NoSchedule"],
      availabilityZones: ["1", "2", "3"],
      count: 3,
      enableAutoScaling: false,
    });
    expect(one("prod", "containerservice:AgentPool").inputs).toMatchObject({
      minCount: 3,
      maxCount: 10,
      nodeTaints: [],
    });
  });

  it("guards whatever holds data", () => {
    const guarded = new Set(
      plan("prod")
        .filter((r) => r.protect)
        .map((r) => r.type.replace("azure-native:", "")),
    );
    expect([...guarded].sort()).toEqual([
      "containerregistry:Registry",
      "keyvault:Vault",
      "operationalinsights:Table",
      "operationalinsights:Workspace",
      "redisenterprise:RedisEnterprise",
      "servicebus:Namespace",
      "servicebus:Queue",
      "storage:BlobContainer",
      "storage:FileShare",
      "storage:StorageAccount",
      "storage:Table",
    ]);
    expect(vault("prod")).toMatchObject({ enablePurgeProtection: true, softDeleteRetentionInDays: 90 });
  });

  it("writes Redis users one after the other", () => {
    expect(neededBy("prod", one("prod", "redisenterprise:AccessPolicyAssignment", "cache-job-worker"))).toContain(
      "cache-mcp-server",
    );
  });
});

describe("prod without any public management plane", () => {
  const stack = "private prod";

  it("closes API server, registry and vault to the internet", () => {
    expect(at(cluster(stack), "apiServerAccessProfile")).toEqual({
      disableRunCommand: true,
      enablePrivateCluster: true,
      enableVnetIntegration: true,
      subnetId: one(stack, "network:Subnet", "network-apiserver").id,
      privateDNSZone: "system",
      enablePrivateClusterPublicFQDN: true,
    });
    expect(registry(stack)).toMatchObject({
      publicNetworkAccess: "Disabled",
      networkRuleSet: { defaultAction: "Deny" },
    });
    expect(vault(stack)).toMatchObject({ publicNetworkAccess: "Disabled", networkAcls: { ipRules: [] } });
  });

  it("has a subnet for the API server as AKS wants it (failure 7)", () => {
    const subnet = one(stack, "network:Subnet", "network-apiserver").inputs;
    expect(subnet.delegations).toEqual([{ name: "aks", serviceName: "Microsoft.ContainerService/managedClusters" }]);
    expect(Number(String(subnet.addressPrefix).split("/")[1])).toBeLessThanOrEqual(28);
    const rules = list(one(stack, "network:NetworkSecurityGroup", "network-apiserver-nsg").inputs.securityRules);
    expect(rules).toContainEqual(expect.objectContaining({ destinationPortRanges: ["443", "4443"] }));
    expect(rules).toContainEqual(
      expect.objectContaining({ destinationPortRange: "9988", sourceAddressPrefix: "AzureLoadBalancer" }),
    );
    expect(neededBy(stack, one(stack, "containerservice:ManagedCluster"))).toContain(
      "cluster-network-contributor-api-server-subnet",
    );
  });

  it("is deployed from the runner's network: peered both ways, every endpoint's name resolved there (failure 8)", () => {
    const peerings = all(stack, "network:VirtualNetworkPeering").map((p) => p.inputs);
    expect(peerings.map((p) => at(p, "remoteVirtualNetwork", "id")).sort()).toEqual(
      [RUNNER_NETWORK, one(stack, "network:VirtualNetwork").id].sort(),
    );
    expect(peerings.find((p) => p.virtualNetworkName === "vnet-runners")?.resourceGroupName).toBe("rg-runners");
    const links = all(stack, "privatedns:VirtualNetworkLink").map(
      (l) => `${l.inputs.privateZoneName} ${at(l.inputs, "virtualNetwork", "id")}`,
    );
    for (const zone of all(stack, "privatedns:PrivateZone")) {
      expect(links).toContain(`${zone.inputs.privateZoneName} ${RUNNER_NETWORK}`);
    }
    expect(neededBy(stack, provider(stack))).toContain("network-from-runner");
  });

  it("admits to private endpoints what workloads and runner speak, and denies the rest", () => {
    expect(one(stack, "network:Subnet", "network-endpoints").inputs).toMatchObject({
      privateEndpointNetworkPolicies: "NetworkSecurityGroupEnabled",
      defaultOutboundAccess: false,
    });
    const rules = list(one(stack, "network:NetworkSecurityGroup", "network-endpoints-nsg").inputs.securityRules);
    expect(rules.at(-1)).toMatchObject({ access: "Deny", sourceAddressPrefix: "*", priority: 4096 });
  });
});

describe("whoever deploys", () => {
  it("gives its roles to the admins that are named, once each, and to nobody else", async () => {
    const group = "44444444-4444-4444-8444-444444444444";
    const { resources: asked } = await planAzure("dev", {
      admins: JSON.stringify([`Group:${group}`, `Group:${group}`]),
    });
    const admins = (role: keyof typeof ROLES) =>
      asked
        .filter((r) => r.type === "azure-native:authorization:RoleAssignment")
        .filter((r) => String(r.inputs.roleDefinitionId).endsWith(ROLES[role]))
        .map((r) => `${r.inputs.principalType}:${r.inputs.principalId}`);
    for (const role of ["aks-cluster-admin", "aks-cluster-user", "key-vault-secrets-officer", "acr-push"] as const) {
      expect(admins(role), role).toEqual([`Group:${group}`]);
    }
  });

  it("tells a deployer who is not among the named admins, instead of failing at the first chart", () => {
    const deployer = { name: "deployer", principalId: DEPLOYER, principalType: "ServicePrincipal" } as const;
    const named =
      (...admins: Settings["admins"]) =>
      () =>
        refuseOutsider({ admins }, deployer);
    const other = "55555555-5555-4555-8555-555555555555";
    expect(named({ type: "User", objectId: other })).toThrow(`add "ServicePrincipal:${DEPLOYER}"`);
    expect(named({ type: "ServicePrincipal", objectId: DEPLOYER.toUpperCase() })).not.toThrow();
    expect(named({ type: "User", objectId: other }, { type: "Group", objectId: other })).not.toThrow();
    expect(named()).not.toThrow();
  });

  it("reaches a runner's network in another subscription by a provider of its own", async () => {
    const elsewhere = RUNNER_NETWORK.replace(SUBSCRIPTION, "99999999-9999-4999-8999-999999999999");
    const { resources: asked } = await planAzure("prod", { runnerNetworkId: elsewhere });
    expect(asked.find((r) => r.type === "pulumi:providers:azure-native")?.inputs).toMatchObject({
      subscriptionId: "99999999-9999-4999-8999-999999999999",
    });
  });
});

it("tells whoever is named of dead letters, and otherwise nobody", () => {
  const group = one("staging", "monitor:ActionGroup");
  expect(group.inputs.emailReceivers).toMatchObject([{ emailAddress: "oncall@example.com" }]);
  expect(one("staging", "monitor:MetricAlert").inputs.actions).toEqual([{ actionGroupId: group.id }]);
  expect(one("dev", "monitor:MetricAlert").inputs.actions ?? []).toEqual([]);
  expect(all("dev", "monitor:ActionGroup")).toEqual([]);
});
