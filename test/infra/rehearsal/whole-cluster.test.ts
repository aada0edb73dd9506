import { describe, expect, test } from "vitest";
import { type Change, faultsAfter, set } from "./replayed-stack.ts";

const drop = (type: string, name?: string): Change => ({ type, name, to: () => undefined });
const change = (type: string, path: string, value: unknown, name?: string): Change => ({
  type,
  name,
  to: set(path, value),
});
const SERVER = "spec.template.spec.containers.0";

const ofServer = (path: string, value: unknown) => change("Deployment", path, value, "mcp-server");
const ofWorker = (path: string, value: unknown) => change("Deployment", path, value, "job-worker");
const WORKERS_SCALER = "job-worker-scaling";

type Case = readonly [what: string, changes: readonly Change[], sentence: string | RegExp];

/** Each breaks the shipped stack in one place, as a careless edit of the program would. */
const BROKEN: readonly Case[] = [
  [
    "a pod that reads a ConfigMap that is gone",
    [drop("ConfigMap", "mcp-server")],
    'Error: configmap "mcp-server" not found',
  ],
  ["a pod that reads a Secret that is gone", [drop("Secret", "mcp-server")], 'Error: secret "mcp-server" not found'],
  [
    "a variable from a key that is not there",
    [ofServer(`${SERVER}.env`, [{ name: "X", valueFrom: { configMapKeyRef: { name: "mcp-server", key: "GONE" } } }])],
    "Error: couldn't find key GONE in ConfigMap mcp-system/mcp-server",
  ],
  [
    "a pod of an account that is gone",
    [drop("ServiceAccount", "mcp-server")],
    'error looking up service account mcp-system/mcp-server: serviceaccount "mcp-server" not found',
  ],
  ["a pod on a claim that is gone", [drop("PersistentVolumeClaim")], 'persistentvolumeclaim "workspace" not found'],
  ["a claim on a volume that is gone", [drop("PersistentVolume")], 'volume "mcp-workspace" not found'],
  [
    "a claim that asks for more than its volume has",
    [change("PersistentVolumeClaim", "spec.resources.requests.storage", "1Ti")],
    "requested PV is too small",
  ],
  [
    "a claim of another class",
    [change("PersistentVolumeClaim", "spec.storageClassName", "managed-csi")],
    "storageClassName does not match",
  ],
  [
    "a volume of a share that is not there",
    [change("PersistentVolume", "spec.csi.volumeAttributes.shareName", "other")],
    "MountVolume.MountDevice failed: share other",
  ],
  [
    "a volume of another protocol",
    [change("PersistentVolume", "spec.csi.volumeAttributes.protocol", "smb")],
    "speaks NFS, and the volume asks for smb",
  ],
  [
    "a probe of a port that is not there",
    [ofServer(`${SERVER}.readinessProbe.httpGet.port`, "https")],
    'readinessProbe asks port "https", and the container has none of that name or number',
  ],
  [
    "a Service that selects nobody",
    [change("Service", "spec.selector", { app: "gone" }, "mcp-server")],
    "has no endpoints: no pod template of mcp-system carries",
  ],
  [
    "a Service to a port that is not there",
    [change("Service", "spec.ports.0.targetPort", "web", "mcp-server")],
    'goes to targetPort "web", which no container of its pods has',
  ],
  [
    "a monitor of a port that is not there",
    [change("ServiceMonitor", "spec.endpoints.0.port", "prom")],
    'scrapes port "prom", and the Services it selects have none of that name',
  ],
  [
    "a monitor that selects nothing",
    [change("ServiceMonitor", "spec.selector.matchLabels", { app: "gone" })],
    "its selector matches no Service",
  ],
  [
    "a route to a port that is not there",
    [change("HTTPRoute", "spec.rules.0.backendRefs.0.port", 81, "mcp-server-route")],
    "BackendNotFound: Service mcp-system/mcp-server has no port 81",
  ],
  [
    "a route to a Service that is gone",
    [change("HTTPRoute", "spec.rules.0.backendRefs.0.name", "gone", "mcp-server-route")],
    "BackendNotFound: Service mcp-system/gone not found",
  ],
  [
    "a route to a listener that is not there",
    [change("HTTPRoute", "spec.parentRefs.0.sectionName", "tls", "mcp-server-route")],
    'NoMatchingParent: Gateway mcp-gateway/mcp has no listener "tls"',
  ],
  [
    "a route through a listener that is for neighbours",
    [change("HTTPRoute", "spec.parentRefs.0.sectionName", "http", "mcp-server-route")],
    'NotAllowedByListeners: listener "http" of Gateway mcp-gateway/mcp takes routes from namespace mcp-system',
  ],
  [
    "a route of another host",
    [change("HTTPRoute", "spec.hostnames", ["other.example.com"], "mcp-server-route")],
    "NoMatchingListenerHostname: other.example.com",
  ],
  ["a Gateway of a class that is gone", [drop("GatewayClass")], 'GatewayClass "envoy" not found'],
  [
    "a Gateway with parameters that are gone",
    [drop("EnvoyProxy")],
    "InvalidParameters: EnvoyProxy mcp-gateway/mcp not found",
  ],
  ["a Gateway whose certificate nobody asks for", [drop("Certificate")], "does not exist and no Certificate makes it"],
  [
    "a certificate for another name",
    [change("Certificate", "spec.dnsNames", ["other.example.com"])],
    "is for other.example.com",
  ],
  [
    "a certificate of an issuer that is gone",
    [change("Certificate", "spec.issuerRef.name", "letsencrypt")],
    'Referenced "ClusterIssuer" not found',
  ],
  [
    "challenges on a listener that is not there",
    [
      change("Gateway", "spec.listeners.0.name", "web"),
      change("HTTPRoute", "spec.parentRefs.0.sectionName", "web", "https-redirect"),
    ],
    'would not be served: NoMatchingParent: Gateway mcp-gateway/mcp has no listener "http"',
  ],
  [
    "a traffic policy of a route that is gone",
    [change("BackendTrafficPolicy", "spec.targetRefs.0.name", "gone")],
    "TargetNotFound: HTTPRoute mcp-system/gone not found",
  ],
  [
    "a policy that protects nothing",
    [change("NetworkPolicy", "spec.podSelector", { matchLabels: { app: "gone" } }, "workload-server-requests")],
    "its podSelector matches no pod of the namespace",
  ],
  [
    "a policy that opens for nobody",
    [
      change(
        "NetworkPolicy",
        "spec.ingress.0.from",
        [{ namespaceSelector: { matchLabels: { name: "gone" } } }],
        "workload-server-requests",
      ),
    ],
    "matches no namespace",
  ],
  [
    "an account whose identity trusts another",
    [change("FederatedIdentityCredential", "subject", "system:serviceaccount:mcp-system:other", "mcp-server-trust")],
    "AADSTS700213: No matching federated identity record found for presented assertion subject 'system:serviceaccount:mcp-system:mcp-server'",
  ],
  [
    "trust in an account that nobody has",
    [change("FederatedIdentityCredential", "subject", "system:serviceaccount:mcp-system:other", "job-worker-trust")],
    "trusts system:serviceaccount:mcp-system:other, and there is no such service account",
  ],
  [
    "trust in another cluster",
    [
      change(
        "FederatedIdentityCredential",
        "issuer",
        "https://eastus2.oic.prod-aks.azure.com/x/y/",
        "mcp-server-trust",
      ),
    ],
    "AADSTS700211: No matching federated identity record found for presented assertion issuer",
  ],
  [
    "an account with a client id that is nobody's",
    [
      change(
        "ServiceAccount",
        "metadata.annotations",
        { "azure.workload.identity/client-id": "00000000-0000-4000-8000-000000000000" },
        "mcp-server",
      ),
    ],
    "AADSTS700016: Application with identifier '00000000-0000-4000-8000-000000000000' was not found",
  ],
  [
    "pods that do not ask for their identity",
    [ofServer("spec.template.metadata.labels", { "app.kubernetes.io/name": "mcp-server" })],
    'its pods lack the label azure.workload.identity/use: "true"',
  ],
  [
    "KEDA as somebody else",
    [change("Release", "values.podIdentity.azureWorkload.clientId", "00000000-0000-4000-8000-000000000000", "keda")],
    "AADSTS700016",
  ],
  [
    "nodes that may not pull",
    [drop("RoleAssignment", "kubelet-acr-pull-registry")],
    "the kubelet's identity has no AcrPull on crmcpdev",
  ],
  [
    "a chart whose Secret is gone",
    [drop("Secret", "grafana-admin")],
    'secret "grafana-admin" not found: its values name it as existingSecret',
  ],
  [
    "an Alertmanager whose Secret is not there",
    [change("Release", "values.alertmanager.alertmanagerSpec.secrets", ["hook"], "kube-prometheus-stack")],
    'secret "hook" not found: alertmanagerSpec.secrets names it',
  ],
  [
    "an Alertmanager that reads a URL from where none is",
    [
      change(
        "Release",
        "values.alertmanager.config",
        { receivers: [{ name: "a", webhook_configs: [{ url_file: "/etc/alertmanager/secrets/grafana-admin/url" }] }] },
        "kube-prometheus-stack",
      ),
    ],
    "reads /etc/alertmanager/secrets/grafana-admin/url, which no Secret of alertmanagerSpec.secrets brings",
  ],
  [
    "Prometheus's kinds gone",
    [drop("Release", "kube-prometheus-stack")],
    'no matches for kind "PrometheusRule" in version "monitoring.coreos.com/v1"',
  ],
  [
    "an API server nobody may talk to",
    [drop("RoleAssignment", "deployer-aks-cluster-admin-cluster")],
    "User does not have access to the resource in Azure. Update role assignment to allow access.",
  ],
  [
    "an image pushed without the right to",
    [drop("RoleAssignment", "deployer-acr-push-registry")],
    "denied: requested access to the resource is denied",
  ],
  [
    "pods of a priority that nobody made",
    [drop("PriorityClass", "job-worker")],
    "pods are forbidden: no PriorityClass with name job-worker was found",
  ],
  [
    "a quota that lets in fewer workers than may be asked for",
    [change("ResourceQuota", "spec.hard.pods", "2", "job-worker")],
    "pods are forbidden: exceeded quota: job-worker, limited: pods=2, and 3 pods need more",
  ],
  [
    "workers that outgrow their quota",
    [ofWorker(`${SERVER}.resources.requests.cpu`, "1900m")],
    "exceeded quota: job-worker, limited: requests.cpu=2000m",
  ],
  [
    "a container larger than its namespace permits",
    [ofWorker(`${SERVER}.resources.limits.memory`, "8Gi")],
    "maximum memory usage per Container is 4Gi, but limit is 8Gi",
  ],
  [
    "a quota of a limit that pods do not name",
    [
      drop("LimitRange"),
      change("ResourceQuota", "spec.hard", { "limits.cpu": "100" }, "mcp-server"),
      ofServer(`${SERVER}.resources.limits.cpu`, undefined),
    ],
    "failed quota: mcp-server: must specify limits.cpu for: mcp-server",
  ],
  [
    "a scaler by a queue that is not there",
    [change("ScaledObject", "spec.triggers.1.metadata.queueName", "gone", WORKERS_SCALER)],
    'error getting queue length: there is no queue "gone" in the namespace',
  ],
  [
    "a scaler by a queue that KEDA may not read",
    [drop("RoleAssignment", "keda-queue-reader-ordered-queue")],
    "error getting queue length: 401 Unauthorized: id-mcp-dev-keda has no role on mcp-jobs-ordered that reads it",
  ],
  [
    "a monitor of workers by a port that they do not have",
    [change("PodMonitor", "spec.podMetricsEndpoints.0.port", "prom", "job-worker-metrics")],
    'scrapes port "prom", and the pods it selects have none of that name',
  ],
  [
    "a rule about old blobs that the account keeps out",
    [change("StorageAccount", "networkRuleSet", { defaultAction: "Deny", bypass: "None" }, "storage-job")],
    "admits no Azure services (networkRuleSet.bypass), so its lifecycle rules do nothing",
  ],
];

const ANNOTATIONS = "spec.provider.kubernetes.envoyService.annotations";
const PIP = "service.beta.kubernetes.io/azure-pip-name";

describe("a shipped stack that is broken in one place", () => {
  test.each(BROKEN.map((broken) => ({ what: broken[0], broken })))(
    "$what",
    async ({ broken: [, changes, sentence] }) => {
      const faults = await faultsAfter("dev", ...changes);
      expect(faults.join("\n")).toContain(sentence);
    },
  );

  test("a load balancer on an address that is not there", async () => {
    const faults = await faultsAfter("dev", change("EnvoyProxy", ANNOTATIONS, { [PIP]: "pip-gone" }));
    expect(faults.join("\n")).toContain(
      "SyncLoadBalancerFailed: public IP pip-gone was not found in resource group rg-nodes-mcp-dev",
    );
  });

  test("a load balancer on an address that the cluster may not use", async () => {
    const faults = await faultsAfter("dev", drop("RoleAssignment", "cluster-network-contributor-ip-group"));
    expect(faults.join("\n")).toMatch(
      /AuthorizationFailed: The client '[0-9a-f-]{36}' \(id-mcp-dev-cluster\) does not have authorization to perform action 'Microsoft.Network\/publicIPAddresses\/read'/,
    );
  });

  test("a policy that keeps requests out", async () => {
    const faults = await faultsAfter("dev", drop("NetworkPolicy", "workload-server-requests"));
    expect(faults.join("\n")).toContain("no NetworkPolicy lets the proxies of Gateway mcp-gateway/mcp in on port 8080");
  });

  test("a policy that keeps scrapes out", async () => {
    const faults = await faultsAfter("dev", drop("NetworkPolicy", "workload-metrics"));
    expect(faults.join("\n")).toContain("no NetworkPolicy lets Prometheus in on port 9090");
  });

  test("policies that leave no way to the DNS", async () => {
    const faults = await faultsAfter("dev", drop("NetworkPolicy", "workload-dns"));
    expect(faults.join("\n")).toContain("no NetworkPolicy lets its pods out to the cluster's DNS (UDP 53)");
  });

  test("two autoscalers of one Deployment, and a number that is fixed beside them", async () => {
    const faults = await faultsAfter("staging", ofServer("spec.replicas", 2));
    expect(faults.join("\n")).toContain("sets spec.replicas, which ScaledObject mcp-system/mcp-server decides");
  });

  test("an autoscaler without target", async () => {
    const faults = await faultsAfter(
      "staging",
      change("ScaledObject", "spec.scaleTargetRef.name", "gone", "mcp-server-scaling"),
    );
    expect(faults.join("\n")).toContain('deployments.apps "gone" not found: the scaler has no target');
  });

  test("an autoscaler by CPU of pods that ask for none", async () => {
    const faults = await faultsAfter("staging", ofServer(`${SERVER}.resources.requests.cpu`, undefined));
    expect(faults.join("\n")).toContain("has a cpu trigger but the container");
  });

  test("a budget of nobody's pods", async () => {
    const faults = await faultsAfter(
      "staging",
      change("PodDisruptionBudget", "spec.selector.matchLabels", { app: "gone" }, "mcp-server"),
    );
    expect(faults.join("\n")).toContain("NoPods: No matching pods found");
  });
});

describe.each(["dev", "staging", "prod"])("stack %s as it is shipped", (stack) => {
  test("is built twice with nothing wrong", async () => {
    expect(await faultsAfter(stack)).toEqual([]);
  });
});
