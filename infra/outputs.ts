import { type Input, interpolate, type Output, output } from "@pulumi/pulumi";
import { REGISTER_SECRET } from "../server/auth/key-register.ts";
import type { Cluster } from "./azure/cluster.ts";
import type { EntraApp } from "./azure/entra-app.ts";
import type { GithubAccess } from "./azure/github-access.ts";
import type { KeyVault } from "./azure/key-vault.ts";
import type { Registry } from "./azure/registry.ts";
import type { ServiceBus } from "./azure/service-bus.ts";
import type { Site } from "./azure/site.ts";
import type { Storage } from "./azure/storage.ts";
import { ideConfigs, targetName } from "./ide-configs.ts";
import type { Monitoring } from "./platform/monitoring.ts";
import type { ManagementPlanes, Settings } from "./settings.ts";
import type { ApiKey } from "./workload/api-key.ts";
import type { ServerImage } from "./workload/image.ts";
import type { McpServer } from "./workload/mcp-server.ts";

export interface StackOutputsArgs {
  readonly settings: Settings;
  readonly site: Pick<Site, "resourceGroupName" | "tenantId" | "subscriptionId">;
  readonly cluster: Pick<Cluster, "name">;
  readonly registry: Pick<Registry, "loginServer">;
  readonly vault: Pick<KeyVault, "name" | "uri">;
  readonly storage: Pick<Storage, "tableEndpoint" | "tableName" | "blobEndpoint" | "containerName">;
  /** Absent: the server runs jobs itself, and keeps them in memory. */
  readonly jobs?: Pick<ServiceBus, "host" | "queueName" | "orderedQueueName"> | undefined;
  readonly monitoring: Pick<Monitoring, "namespace" | "grafana">;
  readonly mcpServer: Pick<McpServer, "endpoint" | "healthUrl">;
  readonly image: Pick<ServerImage, "reference">;
  /** Absent: tokens of Entra are not accepted. */
  readonly entra?: Pick<EntraApp, "tenantId" | "clientId" | "ideClientId" | "scopes" | "setup">;
  /** Absent: keys are not accepted. */
  readonly apiKey?: Pick<ApiKey, "vaultSecretName">;
  /** Absent: no repository deploys the stack. */
  readonly github?: Pick<GithubAccess, "clientId" | "principalId" | "previewClientId"> | undefined;
}

/** Local port of Grafana behind `kubectl port-forward`. */
const GRAFANA_PORT = 3000;

const INSIDE = "inside the network: the runner's (mcp:runnerNetworkId), or one that is peered with it";

/**
 * What a deployment tells its people and `connect`. None of it is secret: where a secret is needed, the output is the
 * command that fetches it with the reader's own rights.
 */
export function stackOutputs(args: StackOutputsArgs): Record<string, Output<unknown>> {
  const { settings, site, cluster, registry, vault, storage, jobs, monitoring, mcpServer, image } = args;
  const { entra, apiKey, github } = args;
  const name = targetName(settings);
  const from = whoReaches(settings.managementPlanes);
  return {
    /** The MCP endpoint. */
    endpoint: output(mcpServer.endpoint),
    /** Answers 200 while the server is ready. */
    healthUrl: output(mcpServer.healthUrl),
    resourceGroup: output(site.resourceGroupName),
    clusterName: output(cluster.name),
    registryLoginServer: output(registry.loginServer),
    /** The image that runs, by digest. */
    image: output(image.reference),
    /** How to reach Grafana, which has no public address. */
    grafana: output({
      login: interpolate`az aks get-credentials --resource-group ${site.resourceGroupName} --name ${cluster.name} && kubelogin convert-kubeconfig --login azurecli`,
      command: interpolate`kubectl --namespace ${monitoring.namespace} port-forward service/${monitoring.grafana.service} ${GRAFANA_PORT}:80`,
      url: `http://localhost:${GRAFANA_PORT}`,
      user: "admin",
      passwordCommand: showSecret(vault.name, monitoring.grafana.secretName),
      from,
    }),
    /** How people log in: ids and names, none of them secret. */
    ...(entra && { entra: output(login(entra)) }),
    /** What an administrator of the tenant has to see to, a step each, where the stack creates nothing in Entra. */
    ...(entra && entra.setup.length > 0 && { entraSetup: output(entra.setup) }),
    /** How to fetch the key that was made with the deployment, and where further ones are kept, by `mcp-aks keys`. */
    ...(apiKey && {
      apiKey: output({ command: showSecret(vault.name, apiKey.vaultSecretName), from }),
      keyRegister: output({
        vaultUrl: vault.uri,
        secretName: REGISTER_SECRET,
        lastUsed: { tableEndpoint: storage.tableEndpoint, tableName: storage.tableName },
      }),
    }),
    /** Where jobs are queued and kept, for `mcp-aks jobs`: names, none of them secret. */
    ...(jobs && {
      jobs: output({
        serviceBus: jobs.host,
        queue: jobs.queueName,
        orderedQueue: jobs.orderedQueueName,
        tableEndpoint: storage.tableEndpoint,
        tableName: storage.tableName,
        blobEndpoint: storage.blobEndpoint,
        blobContainer: storage.containerName,
        from: settings.privateEndpoints ? INSIDE : from,
      }),
    }),
    /** Variables to set in the repository's environments, and the identity to list in `mcp:admins`. */
    ...(github && {
      github: output({
        clientId: github.clientId,
        previewClientId: github.previewClientId,
        principalId: github.principalId,
        tenantId: site.tenantId,
        subscriptionId: site.subscriptionId,
      }),
    }),
    /** Each client's configuration; `npm run connect` merges it into the client's file. */
    ideConfigs: output({ url: mcpServer.endpoint, login: entra && login(entra) }).apply(({ url, login }) =>
      ideConfigs({ name, url, login }),
    ),
  };
}

function login({ tenantId, clientId, ideClientId, scopes }: NonNullable<StackOutputsArgs["entra"]>) {
  return { tenantId, clientId, ideClientId, scopes };
}

function showSecret(vault: Input<string>, secret: Input<string>): Output<string> {
  return interpolate`az keyvault secret show --vault-name ${vault} --name ${secret} --query value --output tsv`;
}

/** From where the commands above work. */
function whoReaches(planes: ManagementPlanes): string {
  switch (planes.access) {
    case "public":
      return "anywhere";
    case "ranges":
      return `the addresses in mcp:authorizedRanges (${planes.ranges.join(", ")})`;
    case "private":
      return INSIDE;
  }
}
