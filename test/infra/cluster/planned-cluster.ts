import type { Secret } from "@pulumi/azure-native/keyvault/index.js";
import { PublicIPAddress } from "@pulumi/azure-native/network/index.js";
import { Provider } from "@pulumi/kubernetes/provider.js";
import { type ComponentResourceOptions, type Input, output, runtime, secret } from "@pulumi/pulumi";
import { type MockCallArgs, MockMonitor, type MockResourceArgs } from "@pulumi/pulumi/runtime/mocks.js";
import { CertManager } from "../../../infra/platform/cert-manager.ts";
import { EnvoyGateway } from "../../../infra/platform/envoy-gateway.ts";
import { Gateway } from "../../../infra/platform/gateway.ts";
import { Keda } from "../../../infra/platform/keda.ts";
import { Logging } from "../../../infra/platform/logging.ts";
import { Monitoring } from "../../../infra/platform/monitoring.ts";
import { parseSettings, type Settings } from "../../../infra/settings.ts";
import { Alerts } from "../../../infra/workload/alerts.ts";
import { ApiKey } from "../../../infra/workload/api-key.ts";
import { ServerImage } from "../../../infra/workload/image.ts";
import { JobWorker } from "../../../infra/workload/job-worker.ts";
import { McpServer } from "../../../infra/workload/mcp-server.ts";
import { WorkloadNamespace } from "../../../infra/workload/namespace.ts";
import { NetworkPolicies } from "../../../infra/workload/network-policies.ts";
import { Quotas } from "../../../infra/workload/quotas.ts";
import { Workspace } from "../../../infra/workload/workspace.ts";

/*
 * The in-cluster half of a stack, planned for real over an Azure that is a handful of constants, and everything that
 * Pulumi's engine was told about it.
 */

export const DIGEST = `sha256:${"ab".repeat(32)}`;
export const CONNECTION_STRING = "InstrumentationKey=11111111-2222-4333-8444-555555555555;IngestionEndpoint=https://x/";
export const RANDOM_TEXT = "not-so-random-text-of-a-password";
const HOST = "mcp-test.eastus2.cloudapp.azure.com";

export interface Registered {
  readonly urn: string;
  readonly type: string;
  readonly name: string;
  readonly parent: string;
  readonly dependencies: readonly string[];
  readonly provider: string;
  /** Secrets unwrapped. */
  readonly inputs: Record<string, unknown>;
  /** Paths of `inputs` that Pulumi keeps encrypted. */
  readonly secretPaths: readonly string[];
}

// Pulumi's own wire format: the key and the value that mark a secret (sdk/nodejs/runtime/rpc.ts).
const SIGNATURE = "4dabf18193072939515e22adb298388d";
const SECRET = "1b47061264138c4ac30d75fd1eb44270";

function unwrap(value: unknown, path: string, secretPaths: string[]): unknown {
  if (Array.isArray(value)) return value.map((item, i) => unwrap(item, `${path}[${i}]`, secretPaths));
  if (typeof value !== "object" || value === null) return value;
  if (SIGNATURE in value && value[SIGNATURE] === SECRET && "value" in value) {
    secretPaths.push(path);
    return unwrap(value.value, path, []);
  }
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => [key, unwrap(inner, path ? `${path}.${key}` : key, secretPaths)]),
  );
}

/** Mocks that also keep what the engine would receive of each resource. */
async function recordEverything(stack: string): Promise<Registered[]> {
  const registered: Registered[] = [];
  await runtime.setMocks({ newResource, call: ({ inputs }: MockCallArgs) => inputs }, "mcp", stack, true);
  const monitor: unknown = runtime.getMonitor();
  if (!(monitor instanceof MockMonitor)) throw new Error("Pulumi did not take the mocks");
  const registerResource = monitor.registerResource.bind(monitor);
  monitor.registerResource = (request, callback) =>
    registerResource(request, (error, response) => {
      if (!error) {
        const secretPaths: string[] = [];
        registered.push({
          urn: response.getUrn(),
          type: request.getType(),
          name: request.getName(),
          parent: request.getParent(),
          dependencies: request.getDependenciesList(),
          provider: request.getProvider(),
          inputs: unwrap(request.getObject()?.toJavaScript() ?? {}, "", secretPaths) as Record<string, unknown>,
          secretPaths,
        });
      }
      callback(error, response);
    });
  return registered;
}

/** What each resource turns out to be: its inputs, and the little that the cloud adds. */
function newResource({ type, name, inputs }: MockResourceArgs) {
  const computed: Record<string, Record<string, unknown>> = {
    "random:index/randomPassword:RandomPassword": { result: RANDOM_TEXT.padEnd(Number(inputs.length), "0") },
    "docker:index/image:Image": { repoDigest: `registry.example.com/mcp-server@${DIGEST}` },
  };
  const { metadata } = inputs as { metadata?: { namespace?: string; name?: string } };
  const id = [metadata?.namespace, metadata?.name].filter(Boolean).join("/") || `${name}-id`;
  return { id, state: { ...inputs, ...computed[type] } };
}

export interface PlannedCluster {
  readonly settings: Settings;
  readonly resources: readonly Registered[];
  readonly vaultSecrets: ReadonlyMap<string, Input<string>>;
  readonly endpoint: string;
  readonly healthUrl: string;
}

/** Plans a stack's cluster. One at a time: Pulumi's runtime is the process's. */
export async function planCluster(stack: string, config: Record<string, string> = {}): Promise<PlannedCluster> {
  const reachable: Record<string, string> = stack === "prod" ? { "mcp:authorizedRanges": '["20.30.40.50/32"]' } : {};
  const settings = parseSettings(stack, { ...reachable, ...config });
  const resources = await recordEverything(stack);

  const vaultSecrets = new Map<string, Input<string>>();
  const vault = {
    uri: output("https://kv-mcp-test.vault.azure.net/"),
    addSecret(name: string, value: Input<string>) {
      vaultSecrets.set(name, value);
      return undefined as unknown as Secret; // nobody here looks at it
    },
  };
  const address = new PublicIPAddress("public-ip", { resourceGroupName: "rg-mcp-test", publicIpAddressName: "pip" });
  const publicIp = {
    name: output("pip-mcp-test"),
    resourceGroupName: output("rg-mcp-test"),
    id: address.id,
    address: output("20.1.2.3"),
    fqdn: output(HOST),
  };
  const identity = (clientId: string) => ({ clientId: output(clientId) });
  const share = {
    resourceGroupName: output("rg-mcp-test"),
    accountName: output("stmcptestwsp"),
    shareName: output("workspace"),
  };

  const inCluster: ComponentResourceOptions = { provider: new Provider("cluster", { kubeconfig: "{}" }) };
  const monitoring = new Monitoring("monitoring", { vault, settings }, inCluster);
  const withMetrics = { ...inCluster, dependsOn: monitoring };
  new Logging("logging", {}, withMetrics);
  const envoy = new EnvoyGateway("envoy-gateway", { publicIp }, withMetrics);
  const certManager = new CertManager(
    "cert-manager",
    { email: settings.certificate.email },
    { ...inCluster, dependsOn: envoy },
  );
  const keda = new Keda("keda", { identity: identity("keda-client") }, withMetrics);
  const pushToken = () => secret({ server: "registry.example.com", username: "0", password: "push-token" });
  const image = new ServerImage("image", {
    registry: { loginServer: output("registry.example.com"), pushToken },
    published: settings.image,
  });
  const accounts = { server: identity("server-client"), worker: identity("worker-client") };
  const namespace = new WorkloadNamespace("workload", accounts, inCluster);
  const gateway = new Gateway(
    "gateway",
    { publicIp, domain: settings.domain, issuer: settings.certificate.issuer, routesFrom: namespace.name },
    { ...inCluster, dependsOn: [envoy, certManager] },
  );
  const apiKey = new ApiKey("api-key", { stack, vault });
  const workspace = new Workspace(
    "workspace",
    { settings: settings.workspace, share: settings.workspace.kind === "nfs" ? share : undefined, namespace },
    inCluster,
  );
  new NetworkPolicies("network-policies", { namespace }, inCluster);
  const quotas = new Quotas("quotas", { settings, namespace }, inCluster);
  const { workers } = settings.jobs;
  const jobs = workers && {
    host: output("sbns-mcp-test.servicebus.windows.net"),
    namespaceName: output("sbns-mcp-test"),
    queueName: output("mcp-jobs"),
    orderedQueueName: output("mcp-jobs-ordered"),
  };
  const backing = {
    storage: {
      tableEndpoint: output("https://stmcptestjob.table.core.windows.net/"),
      tableName: output("jobs"),
      blobEndpoint: output("https://stmcptestjob.blob.core.windows.net"),
      containerName: output("jobs"),
    },
    cache: settings.cache && { host: output("amr-mcp-test.eastus2.redis.azure.net"), port: 10_000 as const },
    telemetry: { connectionString: secret(CONNECTION_STRING) },
    auditTrail: {
      endpoint: output("https://dce-mcp-test-x1y2.eastus2-1.ingest.monitor.azure.com"),
      ruleId: output(`dcr-${"0".repeat(32)}`),
    },
  };
  const { accessPolicy } = settings;
  const mcpServer = new McpServer(
    "mcp-server",
    {
      settings,
      namespace,
      quotas,
      image,
      workspace,
      gateway,
      callers: { apiKey, accessPolicy, origins: settings.corsOrigins },
      backing: { ...backing, vault, jobs },
    },
    { ...inCluster, dependsOn: [keda, envoy] },
  );
  if (workers && jobs) {
    new JobWorker(
      "job-worker",
      { settings, workers, namespace, quotas, image, workspace, accessPolicy, backing: { ...backing, jobs } },
      { ...inCluster, dependsOn: keda },
    );
  }
  new Alerts(
    "alerts",
    { namespace, apiKeys: settings.authentication.apiKeys, sharedStore: settings.cache !== undefined, workers },
    { ...inCluster, dependsOn: monitoring },
  );

  const [endpoint, healthUrl] = await Promise.all([settle(mcpServer.endpoint), settle(mcpServer.healthUrl)]);
  await runtime.disconnect();
  return { settings, resources, vaultSecrets, endpoint, healthUrl };
}

/** An output's value, once it is there. */
export function settle<T>(value: Input<T>): Promise<T> {
  return new Promise((resolve) => {
    output(value).apply((known) => resolve(known as T));
  });
}

/** The one resource of that Pulumi type, and name if given. */
export function find(plan: PlannedCluster, type: string, name?: string): Registered {
  const found = plan.resources.filter((r) => r.type === type && (name === undefined || r.name === name));
  const [only] = found;
  if (only === undefined || found.length > 1) throw new Error(`${found.length} resources ${type} ${name ?? ""}`);
  return only;
}

/** Every Kubernetes object of the plan, charts aside. */
export function objects(plan: PlannedCluster): Registered[] {
  return plan.resources.filter((r) => r.type.startsWith("kubernetes:") && "kind" in r.inputs);
}

/** Everything that must be there before `resource`, and be gone only after it. */
export function comesAfter(plan: PlannedCluster, resource: Registered): ReadonlySet<string> {
  const byUrn = new Map(plan.resources.map((r) => [r.urn, r]));
  const seen = new Set<string>();
  const visit = (r: Registered | undefined): void => {
    for (const urn of [...(r?.dependencies ?? []), ...(r?.parent ? [r.parent] : [])]) {
      if (seen.has(urn)) continue;
      seen.add(urn);
      visit(byUrn.get(urn));
    }
  };
  visit(resource);
  return seen;
}
