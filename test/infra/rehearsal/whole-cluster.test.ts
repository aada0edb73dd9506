import { describe, expect, test } from "vitest";
import { type Change, faultsAfter, set } from "./replayed-stack.ts";

const drop = (type: string, name?: string): Change => ({ type, name, to: () => undefined });
const change = (type: string, path: string, value: unknown, name?: string): Change => ({
  type,
  name,
  to: set(path, value),
});
const SERVER = "spec.template.spec.containers.0";

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
    [
      change("Deployment", `${SERVER}.env`, [
        { name: "X", valueFrom: { configMapKeyRef: { name: "mcp-server", key: "GONE" } } },
      ]),
    ],
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
    [change("Deployment", `${SERVER}.readinessProbe.httpGet.port`, "https")],
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
    [change("Deployment", "spec.template.metadata.labels", { "app.kubernetes.io/name": "mcp-server" })],
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
  ["KEDA's kinds gone", [drop("Release", "kube-prometheus-stack")], 'no matches for kind "PrometheusRule"'],
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
    const faults = await faultsAfter("staging", change("Deployment", "spec.replicas", 2));
    expect(faults.join("\n")).toContain("sets spec.replicas, which ScaledObject mcp-system/mcp-server decides");
  });

  test("an autoscaler without target", async () => {
    const faults = await faultsAfter("staging", change("ScaledObject", "spec.scaleTargetRef.name", "gone"));
    expect(faults.join("\n")).toContain('deployments.apps "gone" not found: the scaler has no target');
  });

  test("an autoscaler by CPU of pods that ask for none", async () => {
    const faults = await faultsAfter("staging", change("Deployment", `${SERVER}.resources.requests.cpu`, undefined));
    expect(faults.join("\n")).toContain("has a cpu trigger but the container");
  });

  test("a budget of nobody's pods", async () => {
    const faults = await faultsAfter(
      "staging",
      change("PodDisruptionBudget", "spec.selector.matchLabels", { app: "gone" }),
    );
    expect(faults.join("\n")).toContain("NoPods: No matching pods found");
  });
});

describe.each(["dev", "staging", "prod"])("stack %s as it is shipped", (stack) => {
  test("is built twice with nothing wrong", async () => {
    expect(await faultsAfter(stack)).toEqual([]);
  });
});
