import { createHash } from "node:crypto";
import { isSecret, type Output, runtime } from "@pulumi/pulumi";
import { MockMonitor, type MockResourceArgs } from "@pulumi/pulumi/runtime/mocks.js";
import { AlertEmails } from "../../../infra/azure/alert-emails.ts";
import { AuditTrail } from "../../../infra/azure/audit-trail.ts";
import { Cache } from "../../../infra/azure/cache.ts";
import { Cluster } from "../../../infra/azure/cluster.ts";
import { KeyVault } from "../../../infra/azure/key-vault.ts";
import { Network } from "../../../infra/azure/network.ts";
import { Registry, type RegistryLogin } from "../../../infra/azure/registry.ts";
import { ServiceBus } from "../../../infra/azure/service-bus.ts";
import { Site } from "../../../infra/azure/site.ts";
import { Storage } from "../../../infra/azure/storage.ts";
import { Telemetry } from "../../../infra/azure/telemetry.ts";
import { WorkloadIdentity } from "../../../infra/azure/workload-identity.ts";
import { parseSettings, type Settings } from "../../../infra/settings.ts";

export const SUBSCRIPTION = "11111111-1111-4111-8111-111111111111";
export const TENANT = "22222222-2222-4222-8222-222222222222";
export const DEPLOYER = "33333333-3333-4333-8333-333333333333";
export const RUNNER_NETWORK = `/subscriptions/${SUBSCRIPTION}/resourceGroups/rg-runners/providers/Microsoft.Network/virtualNetworks/vnet-runners`;

export type Inputs = Readonly<Record<string, unknown>>;

/** A resource as the program asked for it. */
export interface Asked {
  readonly urn: string;
  readonly type: string;
  readonly name: string;
  readonly id: string;
  readonly inputs: Inputs;
  readonly protect: boolean;
  readonly retainOnDelete: boolean;
  readonly deletedWith: string;
  readonly ignoreChanges: readonly string[];
  /** URNs, of resources and components, explicit and through inputs. */
  readonly dependencies: readonly string[];
}

/** The part of a registration request that the recorder reads. */
interface Request {
  getType(): string;
  getName(): string;
  getProtect(): boolean;
  getRetainondelete(): boolean;
  getDeletedwith(): string;
  getIgnorechangesList(): string[];
  getDependenciesList(): string[];
}
interface Response {
  getUrn(): string;
  getId(): string;
}

class Recorder extends MockMonitor {
  readonly asked: Asked[] = [];

  constructor() {
    const inputs = new Map<string, Inputs>();
    super({
      call: ({ token }) => answer(token),
      newResource: (args) => {
        inputs.set(`${args.type} ${args.name}`, args.inputs as Inputs);
        return created(args);
      },
    });
    this.#inputs = inputs;
  }

  readonly #inputs: ReadonlyMap<string, Inputs>;

  override async registerResource(request: Request, callback: (error: unknown, response: Response) => void) {
    await super.registerResource(request, (error: unknown, response: Response) => {
      if (!error) {
        this.asked.push({
          urn: response.getUrn(),
          type: request.getType(),
          name: request.getName(),
          id: response.getId(),
          inputs: this.#inputs.get(`${request.getType()} ${request.getName()}`) ?? {},
          protect: request.getProtect(),
          retainOnDelete: request.getRetainondelete(),
          deletedWith: request.getDeletedwith(),
          ignoreChanges: request.getIgnorechangesList(),
          dependencies: request.getDependenciesList(),
        });
      }
      callback(error, response);
    });
  }
}

export interface AzurePlan {
  readonly resources: readonly Asked[];
  readonly login: RegistryLogin;
  /** Which of the outputs that ought to be secret are. */
  readonly secrets: readonly string[];
}

/** Runs the Azure half of the program as a plan. */
export async function planAzure(stack: string, config: Record<string, string> = {}): Promise<AzurePlan> {
  const recorder = new Recorder();
  runtime.setMockOptions(recorder, "mcp", stack, true);
  const keys = Object.fromEntries(Object.entries(config).map(([key, value]) => [`mcp:${key}`, value]));
  const outputs = await new Promise<Sensitive>((resolve, reject) => {
    runtime.runInPulumiStack(async () => resolve(await azureHalf(parseSettings(stack, keys)))).catch(reject);
  });
  await runtime.disconnect();
  const login = await new Promise<RegistryLogin>((resolve) => outputs.login.apply(resolve));
  const secrets: string[] = [];
  for (const [name, value] of Object.entries(outputs)) if (await isSecret(value)) secrets.push(name);
  return { resources: recorder.asked, login, secrets };
}

/** As infra/index.ts puts them together. */
async function azureHalf(settings: Settings): Promise<Sensitive> {
  const site = await Site.create("site", settings);
  const telemetry = new Telemetry("telemetry", { site, retentionDays: settings.logRetentionDays });
  const auditTrail = new AuditTrail("audit", { site, settings, telemetry });
  const network = new Network("network", { site, settings });
  const { privateLink } = network;
  const registry = new Registry("registry", { site, settings, telemetry, privateLink });
  const vault = new KeyVault("vault", { site, settings, telemetry, network });
  const { emails } = settings.alerts;
  const alertEmails = emails.length > 0 ? new AlertEmails("alert-emails", { site, addresses: emails }) : undefined;
  const alerted = { actionGroupId: alertEmails?.actionGroupId };
  const jobs = settings.jobs.workers && new ServiceBus("jobs", { site, settings, telemetry, privateLink, ...alerted });
  const storage = new Storage("storage", { site, settings, network });
  const cache = settings.cache && new Cache("cache", { site, settings: settings.cache, privateLink });
  const cluster = new Cluster("cluster", { site, settings, network, registry, telemetry });
  const account = (namespace: string, name: string) => ({
    site,
    issuer: cluster.oidcIssuer,
    serviceAccount: { namespace, name },
  });
  const server = new WorkloadIdentity("mcp-server", account("mcp-system", "mcp-server"));
  const worker = new WorkloadIdentity("job-worker", account("mcp-system", "job-worker"));
  const scaler = new WorkloadIdentity("keda", account("keda", "keda-operator"));
  vault.grantReadSecrets(server);
  auditTrail.grantWrite(server);
  vault.addSecret("api-key", "mcp_dev_secret");
  auditTrail.grantWrite(worker);
  jobs?.grantSend(server);
  jobs?.grantReceive(worker);
  jobs?.grantSend(worker);
  jobs?.grantReadQueueLength(scaler, settings.keda.role);
  storage.grantJobState(server);
  storage.grantJobState(worker);
  cache?.grantUse(server);
  cache?.grantUse(worker);
  return { login: registry.pushToken(), connectionString: telemetry.connectionString };
}

interface Sensitive {
  readonly login: Output<RegistryLogin>;
  readonly connectionString: Output<string>;
}

export const CREDENTIALS = `apiVersion: v1
kind: Config
clusters:
- name: aks-mcp-dev
  cluster:
    certificate-authority-data: Q0VSVA==
    server: https://mcp-dev-abcd.hcp.eastus2.azmk8s.io:443
users:
- name: clusterUser_rg-mcp-dev_aks-mcp-dev
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1beta1
      command: kubelogin
      args: [get-token, --login, devicecode, --server-id, 6dae42f8-4368-4678-94ff-3960e28e3630]
contexts:
- name: aks-mcp-dev
  context: { cluster: aks-mcp-dev, user: clusterUser_rg-mcp-dev_aks-mcp-dev }
current-context: aks-mcp-dev
`;

/** An access token as Entra makes them, but for the signature. */
export function jwt(claims: Inputs): string {
  const part = (value: Inputs) => Buffer.from(JSON.stringify(value)).toString("base64url");
  return `${part({ typ: "JWT", alg: "RS256" })}.${part(claims)}.c2lnbmF0dXJl`;
}

function answer(token: string): Inputs {
  if (token.endsWith(":getClientConfig")) {
    return { clientId: "az", objectId: DEPLOYER, subscriptionId: SUBSCRIPTION, tenantId: TENANT };
  }
  if (token.endsWith(":getClientToken")) return { token: jwt({ idtyp: "app", oid: DEPLOYER }) };
  if (token.endsWith(":listManagedClusterUserCredentials")) {
    return { kubeconfigs: [{ name: "clusterUser", value: Buffer.from(CREDENTIALS).toString("base64") }] };
  }
  return {};
}

/** The input that holds a resource's own name, the most specific one first. */
const NAME_INPUTS = [
  ["operationalinsights:Table", "tableName"],
  ["operationalinsights:Workspace", "workspaceName"],
  ["network:Subnet", "subnetName"],
  ["network:PublicIPAddress", "publicIpAddressName"],
  ["network:VirtualNetworkPeering", "virtualNetworkPeeringName"],
  ["network:VirtualNetwork", "virtualNetworkName"],
  ["network:PrivateEndpoint", "privateEndpointName"],
  ["privatedns:PrivateZone", "privateZoneName"],
  ["containerregistry:Registry", "registryName"],
  ["keyvault:Vault", "vaultName"],
  ["servicebus:Namespace", "namespaceName"],
  ["servicebus:Queue", "queueName"],
  ["storage:StorageAccount", "accountName"],
  ["storage:Table", "tableName"],
  ["storage:FileShare", "shareName"],
  ["redisenterprise:RedisEnterprise", "clusterName"],
  ["redisenterprise:Database", "databaseName"],
  ["resources:ResourceGroup", "resourceGroupName"],
  ["managedidentity:UserAssignedIdentity", "resourceName"],
  ["containerservice:ManagedCluster", "resourceName"],
] as const;

function created({ type, name, inputs }: MockResourceArgs): { id: string; state: Inputs } {
  const given = inputs as Inputs;
  const nameInput = NAME_INPUTS.find(([suffix]) => type === `azure-native:${suffix}`)?.[1];
  const own = nameInput === undefined ? name : String(given[nameInput]);
  const group = `/subscriptions/${SUBSCRIPTION}/resourceGroups/${given.resourceGroupName}`;
  const id = type === "azure-native:resources:ResourceGroup" ? group : `${group}/providers/${type}/${own}`;
  const guid = createHash("md5").update(name).digest("hex");
  return {
    id,
    state: {
      ...given,
      name: own,
      result: "x7k2p",
      principalId: given.principalId ?? `principal-${guid}`,
      clientId: `client-${guid}`,
      ipAddress: "20.1.2.3",
      loginServer: `${own}.azurecr.io`,
      hostName: `${own}.eastus2.redis.azure.net`,
      connectionString: "InstrumentationKey=x",
      createdOn: "2026-01-01T00:00:00Z",
      oidcIssuerProfile: { enabled: true, issuerURL: "https://eastus2.oic.prod-aks.azure.com/t/c/" },
      ...(type === "azure-native:keyvault:Vault"
        ? { properties: { ...(given.properties as Inputs), vaultUri: `https://${own}.vault.azure.net/` } }
        : {}),
    },
  };
}
