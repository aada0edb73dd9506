import { armId, resourceGroupId } from "../azure/arm-id.ts";
import type { FakeAzure } from "../azure/azure.ts";
import { CLUSTER } from "../azure/containers.ts";
import { DEPLOYER } from "../azure/deployer.ts";
import { PUBLIC_IP } from "../azure/network.ts";
import type { AzureResource } from "../azure/resource-type.ts";
import { QUEUE_READERS, ROLE } from "../azure/roles.ts";
import type { Fault } from "../cloud-error.ts";
import { at, objectsAt, type Properties, textAt, textMapAt, textsAt } from "../values.ts";
import { knowledgeOf } from "./charts.ts";
import { Faults, workloadsOf } from "./faults.ts";
import type { FakeKubernetes } from "./kubernetes.ts";
import { containersOf, type KubernetesObject } from "./objects.ts";
import { accountAnnotations } from "./verify-pods.ts";
import { checkChartSecrets } from "./verify-services.ts";

const CLIENT_ID = "azure.workload.identity/client-id";
const USE_LABEL = "azure.workload.identity/use";
const IDENTITY = "Microsoft.ManagedIdentity/userAssignedIdentities";
const CREDENTIAL = `${IDENTITY}/federatedIdentityCredentials`;

/** Where cluster and Azure meet: identities, images, addresses, shares. */
export function verifyAzureSide(cluster: FakeKubernetes, azure: FakeAzure): Fault[] {
  const faults = new Faults();
  checkWorkloadIdentity(cluster, azure, faults);
  checkCredentials(cluster, azure, faults);
  checkKeda(cluster, azure, faults);
  checkImages(cluster, azure, faults);
  for (const proxy of cluster.objects("EnvoyProxy")) {
    const annotations = textMapAt(proxy.object, "spec.provider.kubernetes.envoyService.annotations");
    checkPublicIp(proxy, annotations, azure, faults);
  }
  for (const service of cluster.objects("Service")) {
    checkPublicIp(service, textMapAt(service.object, "metadata.annotations"), azure, faults);
  }
  for (const volume of cluster.objects("PersistentVolume")) checkShare(volume, azure, faults);
  return [...faults.list, ...checkChartSecrets(cluster)];
}

/** The identity of a client id, and why a service account cannot be it. */
function federation(azure: FakeAzure, clientId: string, subject: string): string | undefined {
  const identity = azure.all(IDENTITY).find(({ outputs }) => outputs.clientId === clientId);
  if (!identity)
    return `AADSTS700016: Application with identifier '${clientId}' was not found in the directory: no user-assigned identity has that client id`;
  const credentials = azure.children(identity.id, CREDENTIAL);
  const trusted = credentials.filter(({ inputs }) => inputs.subject === subject);
  if (trusted.length === 0) {
    const subjects = credentials.map(({ inputs }) => `'${String(inputs.subject)}'`).join(", ") || "none";
    return `AADSTS700213: No matching federated identity record found for presented assertion subject '${subject}': ${identity.name} trusts ${subjects}`;
  }
  const issuers = azure.all(CLUSTER).map(({ outputs }) => textAt(outputs, "oidcIssuerProfile.issuerURL"));
  const issued = trusted.some(({ inputs }) => issuers.includes(String(inputs.issuer)));
  return issued || issuers.length === 0
    ? undefined
    : `AADSTS700211: No matching federated identity record found for presented assertion issuer '${String(issuers[0])}': ${identity.name} trusts '${String(trusted[0]?.inputs.issuer)}'`;
}

function checkWorkloadIdentity(cluster: FakeKubernetes, azure: FakeAzure, faults: Faults): void {
  for (const account of cluster.objects("ServiceAccount")) {
    const clientId = textMapAt(account.object, "metadata.annotations")[CLIENT_ID];
    if (clientId === undefined) continue;
    const fault = federation(azure, clientId, `system:serviceaccount:${account.namespace}:${account.name}`);
    if (fault !== undefined) faults.add(account, fault);
  }
  for (const workload of workloadsOf(cluster)) {
    const labelled = workload.labels[USE_LABEL] === "true";
    const annotated = accountAnnotations(workload, cluster)[CLIENT_ID] !== undefined;
    if (annotated && !labelled) {
      faults.add(
        workload.owner,
        `its service account has a client id, and its pods lack the label ${USE_LABEL}: "true": no token would be mounted`,
      );
    }
    if (labelled && !annotated && !cluster.hasCharts(workload.owner.namespace)) {
      faults.add(
        workload.owner,
        `its pods ask for workload identity, and their service account has no annotation ${CLIENT_ID}`,
      );
    }
  }
}

/** Every subject that Azure trusts has to be somebody. */
function checkCredentials(cluster: FakeKubernetes, azure: FakeAzure, faults: Faults): void {
  for (const credential of azure.all(CREDENTIAL)) {
    const [, , namespace = "", name = ""] = String(credential.inputs.subject).split(":");
    if (!String(credential.inputs.subject).startsWith("system:serviceaccount:")) continue;
    const own = cluster.object("ServiceAccount", namespace, name);
    const fromChart = cluster
      .releases()
      .some(
        (release) =>
          release.namespace === namespace &&
          knowledgeOf(release.chart).serviceAccounts?.(release.name, release.values).includes(name),
      );
    if (!own && !fromChart) {
      faults.list.push({
        name: credential.name,
        resource: credential.id,
        message: `trusts ${String(credential.inputs.subject)}, and there is no such service account`,
      });
    }
  }
}

/** KEDA reads queue lengths as its operator, whichever workload it scales. */
function checkKeda(cluster: FakeKubernetes, azure: FakeAzure, faults: Faults): void {
  for (const release of cluster.releases().filter(({ chart }) => chart === "keda")) {
    const owner = { kind: "Release", namespace: release.namespace, name: release.name };
    const operator = String(at(release.values, "serviceAccount.operator.name") ?? "keda-operator");
    const subject = `system:serviceaccount:${release.namespace}:${operator}`;
    const clientId = textAt(release.values, "podIdentity.azureWorkload.clientId");
    if (at(release.values, "podIdentity.azureWorkload.enabled") === true) {
      const fault =
        clientId === undefined ? "podIdentity.azureWorkload.clientId is missing" : federation(azure, clientId, subject);
      if (fault !== undefined) faults.add(owner, fault);
    }
    for (const authentication of [
      ...cluster.objects("TriggerAuthentication"),
      ...cluster.objects("ClusterTriggerAuthentication"),
    ]) {
      if (textAt(authentication.object, "spec.podIdentity.provider") !== "azure-workload") continue;
      const id = textAt(authentication.object, "spec.podIdentity.identityId");
      const fault = id === undefined ? undefined : federation(azure, id, subject);
      if (fault !== undefined) faults.add(authentication, fault);
    }
    for (const scaler of [...cluster.objects("ScaledObject"), ...cluster.objects("ScaledJob")]) {
      for (const trigger of objectsAt(scaler.object, "spec.triggers")) {
        if (trigger.type !== "azure-servicebus" || textAt(trigger, "metadata.queueName") === undefined) continue;
        checkQueueTrigger(scaler, trigger, clientId, cluster, azure, faults);
      }
    }
  }
}

const QUEUE_READ = "Microsoft.ServiceBus/namespaces/queues/read";
const SERVICE_BUS = "Microsoft.ServiceBus/namespaces";

/** The scaler asks the namespace for the queue's length, as KEDA's own identity unless its authentication names another. */
function checkQueueTrigger(
  scaler: KubernetesObject,
  trigger: Properties,
  operatorClientId: string | undefined,
  cluster: FakeKubernetes,
  azure: FakeAzure,
  faults: Faults,
): void {
  const queueName = textAt(trigger, "metadata.queueName") ?? "";
  const namespace = azure.all(SERVICE_BUS).find(({ name }) => name === textAt(trigger, "metadata.namespace"));
  const queue = namespace && azure.find(`${namespace.id}/queues/${queueName}`);
  if (!queue) {
    faults.add(
      scaler,
      `error getting queue length: there is no queue "${queueName}" in the namespace "${textAt(trigger, "metadata.namespace")}"`,
    );
    return;
  }
  const authentication = cluster.object(
    "TriggerAuthentication",
    scaler.namespace,
    textAt(trigger, "authenticationRef.name") ?? "",
  );
  const clientId = textAt(authentication?.object, "spec.podIdentity.identityId") ?? operatorClientId;
  const identity = azure.all(IDENTITY).find(({ outputs }) => outputs.clientId === clientId);
  const definitions = azure
    .all("Microsoft.Authorization/roleDefinitions")
    .filter(({ inputs }) =>
      objectsAt(inputs, "permissions").some((permission) => textsAt(permission, "actions").includes(QUEUE_READ)),
    );
  const readers = [...QUEUE_READERS, ...definitions.map(({ name }) => name.toLowerCase())];
  const principal = textAt(identity?.outputs, "principalId");
  if (principal !== undefined && !readers.some((role) => azure.hasRole(principal, role, queue.id))) {
    faults.add(
      scaler,
      `error getting queue length: 401 Unauthorized: ${identity?.name} has no role on ${queueName} that reads it`,
    );
  }
}

/** Nodes pull as the kubelet's identity. */
function checkImages(cluster: FakeKubernetes, azure: FakeAzure, faults: Faults): void {
  for (const { owner, spec } of workloadsOf(cluster)) {
    for (const container of containersOf(spec)) {
      const image = String(container.image);
      const registry = azure
        .all("Microsoft.ContainerRegistry/registries")
        .find(({ outputs }) => image.startsWith(`${String(outputs.loginServer)}/`));
      if (!registry) continue; // somebody else's, who answers for it
      for (const aks of azure.all(CLUSTER)) {
        const kubelet = textAt(aks.outputs, "identityProfile.kubeletidentity.objectId");
        if (kubelet !== undefined && !azure.hasRole(kubelet, ROLE.acrPull, registry.id)) {
          faults.add(
            owner,
            `Failed to pull image "${image}": failed to authorize: 401 Unauthorized: the kubelet's identity has no AcrPull on ${registry.name}`,
          );
        }
      }
    }
  }
}

const SERVICE = "service.beta.kubernetes.io/azure-";

function checkPublicIp(
  object: KubernetesObject,
  annotations: Readonly<Record<string, string>>,
  azure: FakeAzure,
  faults: Faults,
): void {
  const name = annotations[`${SERVICE}pip-name`];
  if (name === undefined) return;
  const [aks] = azure.all(CLUSTER);
  const group =
    annotations[`${SERVICE}load-balancer-resource-group`] ?? textAt(aks?.outputs, "nodeResourceGroup") ?? "";
  const id = armId(resourceGroupId(DEPLOYER.subscriptionId, group), PUBLIC_IP, [name]);
  const ip = azure.find(id);
  if (!ip) {
    faults.add(object, `SyncLoadBalancerFailed: public IP ${name} was not found in resource group ${group}`);
    return;
  }
  const label = annotations[`${SERVICE}dns-label-name`];
  const own = textAt(ip.inputs, "dnsSettings.domainNameLabel");
  if (label !== undefined && label !== own) {
    faults.add(
      object,
      `SyncLoadBalancerFailed: the annotation ${SERVICE}dns-label-name "${label}" would replace the address's own label "${String(own)}"`,
    );
  }
  const idle = annotations[`${SERVICE}load-balancer-tcp-idle-timeout`];
  // cloud-provider-azure: 4 to 30 minutes, or 100.
  if (idle !== undefined && !(Number(idle) >= 4 && Number(idle) <= 30) && idle !== "100") {
    faults.add(
      object,
      `SyncLoadBalancerFailed: idle timeout value must be a valid integer between 4 and 30 minutes, and is "${idle}"`,
    );
  }
  const identity = aks && controlPlane(aks, azure);
  if (
    identity &&
    group !== textAt(aks?.outputs, "nodeResourceGroup") &&
    !azure.hasRole(String(identity.outputs.principalId), ROLE.networkContributor, id)
  ) {
    faults.add(
      object,
      `AuthorizationFailed: The client '${String(identity.outputs.principalId)}' (${identity.name}) does not have authorization to perform action 'Microsoft.Network/publicIPAddresses/read' over scope '${id}'`,
    );
  }
}

function controlPlane(aks: AzureResource, azure: FakeAzure): AzureResource | undefined {
  const given = at(aks.inputs, "identity.userAssignedIdentities");
  const [id] = Array.isArray(given) ? given : [];
  return typeof id === "string" ? azure.find(id) : undefined;
}

function checkShare(volume: KubernetesObject, azure: FakeAzure, faults: Faults): void {
  const source = objectsAt({ list: [at(volume.object, "spec.csi")] }, "list")[0];
  if (source?.driver !== "file.csi.azure.com") return;
  const { storageAccount, shareName, resourceGroup, protocol } = textMapAt(source, "volumeAttributes");
  const account = azure.all("Microsoft.Storage/storageAccounts").find(({ name }) => name === storageAccount);
  if (!account) {
    faults.add(volume, `MountVolume.MountDevice failed: storage account ${String(storageAccount)} was not found`);
    return;
  }
  const groupOfAccount = account.id.split("/")[4];
  if (resourceGroup !== undefined && resourceGroup !== groupOfAccount) {
    faults.add(
      volume,
      `MountVolume.MountDevice failed: storage account ${account.name} is in resource group ${String(groupOfAccount)}, not ${resourceGroup}`,
    );
  }
  const share = azure
    .children(account.id, "Microsoft.Storage/storageAccounts/fileServices/shares")
    .find(({ name }) => name === shareName);
  if (!share) {
    faults.add(volume, `MountVolume.MountDevice failed: share ${String(shareName)} of ${account.name} was not found`);
    return;
  }
  if ((protocol ?? "smb").toLowerCase() !== String(share.inputs.enabledProtocols ?? "SMB").toLowerCase()) {
    faults.add(
      volume,
      `MountVolume.MountDevice failed: share ${share.name} speaks ${String(share.inputs.enabledProtocols ?? "SMB")}, and the volume asks for ${protocol ?? "smb"}`,
    );
  }
  if (
    textsAt(volume.object, "spec.mountOptions").some((option) =>
      /^(dir_mode|file_mode|uid|gid|mfsymlinks|nobrl)/.test(option),
    ) &&
    protocol === "nfs"
  ) {
    faults.add(volume, "mount.nfs: an incorrect mount option was specified: its mountOptions are for SMB");
  }
}
