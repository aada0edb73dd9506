import { getStack, type Output, runtime } from "@pulumi/pulumi";
import { AlertEmails } from "./azure/alert-emails.ts";
import { AuditTrail } from "./azure/audit-trail.ts";
import { Cache } from "./azure/cache.ts";
import { Cluster } from "./azure/cluster.ts";
import { EntraApp } from "./azure/entra-app.ts";
import { GithubAccess } from "./azure/github-access.ts";
import { KeyVault } from "./azure/key-vault.ts";
import { Network } from "./azure/network.ts";
import { Registry } from "./azure/registry.ts";
import { queueReaderRole, ServiceBus } from "./azure/service-bus.ts";
import { Site } from "./azure/site.ts";
import { Storage } from "./azure/storage.ts";
import { Telemetry } from "./azure/telemetry.ts";
import { WorkloadIdentity } from "./azure/workload-identity.ts";
import { stackOutputs } from "./outputs.ts";
import { CertManager } from "./platform/cert-manager.ts";
import { EnvoyGateway } from "./platform/envoy-gateway.ts";
import { Gateway } from "./platform/gateway.ts";
import { KEDA_OPERATOR, Keda } from "./platform/keda.ts";
import { Logging } from "./platform/logging.ts";
import { Monitoring } from "./platform/monitoring.ts";
import { parseSettings, refuseClearText, refusePlaceholders } from "./settings.ts";
import { Alerts } from "./workload/alerts.ts";
import { ApiKey } from "./workload/api-key.ts";
import { ServerImage } from "./workload/image.ts";
import { JobWorker } from "./workload/job-worker.ts";
import { McpServer } from "./workload/mcp-server.ts";
import { JOB_WORKER, MCP_SERVER, WorkloadNamespace } from "./workload/namespace.ts";
import { NetworkPolicies } from "./workload/network-policies.ts";
import { Quotas } from "./workload/quotas.ts";
import { Workspace } from "./workload/workspace.ts";

/** Pulumi's runtime knows which keys are encrypted, and leaves that out of its types (sdk/nodejs/runtime/config.ts). */
const { isConfigSecret } = runtime as typeof runtime & { isConfigSecret(key: string): boolean };

/** The whole stack: settings, then Azure, then what the cluster runs for everyone, then the product. */
export default async function stack(): Promise<Record<string, Output<unknown>>> {
  const settings = parseSettings(getStack(), runtime.allConfig());
  refuseClearText(getStack(), runtime.allConfig(), isConfigSecret);
  if (!runtime.isDryRun()) refusePlaceholders(settings);

  // Azure
  const site = await Site.create("site", settings);
  const telemetry = new Telemetry("telemetry", { site, retentionDays: settings.logRetentionDays });
  const auditTrail = new AuditTrail("audit", { site, settings, telemetry });
  const network = new Network("network", { site, settings });
  const { privateLink } = network;
  const registry = new Registry("registry", { site, settings, telemetry, privateLink });
  const vault = new KeyVault("vault", { site, settings, telemetry, network });
  const { workers } = settings.jobs;
  const { emails } = settings.alerts;
  const alertEmails = emails.length > 0 ? new AlertEmails("alert-emails", { site, addresses: emails }) : undefined;
  const alerted = { actionGroupId: alertEmails?.actionGroupId };
  const jobs = workers && new ServiceBus("jobs", { site, settings, telemetry, privateLink, ...alerted });
  const storage = new Storage("storage", { site, settings, network });
  const cache = settings.cache && new Cache("cache", { site, settings: settings.cache, privateLink });
  const cluster = new Cluster("cluster", { site, settings, network, registry, telemetry });

  // Who the workloads are, and what each may do
  const federation = { site, issuer: cluster.oidcIssuer };
  const server = new WorkloadIdentity("mcp-server", { ...federation, serviceAccount: MCP_SERVER });
  const worker = new WorkloadIdentity("job-worker", { ...federation, serviceAccount: JOB_WORKER });
  const scaler = new WorkloadIdentity("keda", { ...federation, serviceAccount: KEDA_OPERATOR });
  vault.grantReadSecrets(server);
  auditTrail.grantWrite(server);
  auditTrail.grantWrite(worker);
  jobs?.grantSend(server);
  jobs?.grantReceive(worker);
  jobs?.grantSend(worker); // what is to be run again
  jobs?.grantReadQueueLength(scaler, settings.keda.role);
  // Who operates the stack sees to its jobs, by `mcp-aks jobs`.
  for (const admin of site.admins) {
    jobs?.grantSend(admin);
    jobs?.grantReceive(admin);
    storage.grantJobState(admin);
  }
  storage.grantJobState(server);
  storage.grantJobState(worker);
  cache?.grantUse(server);
  cache?.grantUse(worker);

  // Who may deploy, beside people
  const ownRoles = [queueReaderRole(site)];
  const github =
    settings.github && new GithubAccess("github", { site, settings, ...settings.github, cluster, ownRoles });

  // Who may call
  const { authentication } = settings;
  const entra = authentication.entra && new EntraApp("entra", { site, settings: authentication.entra });
  const apiKey = authentication.apiKeys ? new ApiKey("api-key", { stack: settings.stack, vault }) : undefined;

  // What the cluster runs for everyone
  const { inCluster } = cluster;
  const monitoring = new Monitoring("monitoring", { vault, settings }, inCluster);
  const withMetrics = { ...inCluster, dependsOn: monitoring };
  new Logging("logging", {}, withMetrics);
  const envoy = new EnvoyGateway("envoy-gateway", { publicIp: network.publicIp }, withMetrics);
  const certManager = new CertManager(
    "cert-manager",
    { email: settings.certificate.email },
    { ...inCluster, dependsOn: envoy },
  );
  const keda = new Keda("keda", { identity: scaler }, withMetrics);

  // The product
  const image = new ServerImage("image", { registry, published: settings.image });
  const namespace = new WorkloadNamespace("workload", { server, worker }, inCluster);
  const gateway = new Gateway(
    "gateway",
    {
      publicIp: network.publicIp,
      domain: settings.domain,
      issuer: settings.certificate.issuer,
      routesFrom: namespace.name,
    },
    { ...inCluster, dependsOn: [envoy, certManager] },
  );
  const workspace = new Workspace(
    "workspace",
    { settings: settings.workspace, share: storage.workspaceShare, namespace },
    inCluster,
  );
  new NetworkPolicies("network-policies", { namespace }, inCluster);
  const quotas = new Quotas("quotas", { settings, namespace }, inCluster);
  const { accessPolicy } = settings;
  const backing = { storage, cache, telemetry, auditTrail };
  const mcpServer = new McpServer(
    "mcp-server",
    {
      settings,
      namespace,
      quotas,
      image,
      workspace,
      gateway,
      callers: { entra, apiKey, accessPolicy, origins: settings.corsOrigins },
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
    { namespace, apiKeys: authentication.apiKeys, sharedStore: cache !== undefined, workers },
    { ...inCluster, dependsOn: monitoring },
  );

  return stackOutputs({
    settings,
    site,
    cluster,
    registry,
    vault,
    storage,
    jobs,
    monitoring,
    mcpServer,
    image,
    entra,
    apiKey,
    github,
  });
}
