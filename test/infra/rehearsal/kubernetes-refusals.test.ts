import { describe, expect, test } from "vitest";
import { FakeCloud } from "../../../infra/rehearsal/cloud.ts";
import { CloudError } from "../../../infra/rehearsal/cloud-error.ts";
import type { CloudRequest } from "../../../infra/rehearsal/cloud-request.ts";
import type { Properties } from "../../../infra/rehearsal/values.ts";
import { set } from "./replayed-stack.ts";

function object(type: string, name: string, rest: Properties, metadata: Properties = {}): CloudRequest {
  const [apiVersion = "", kind = ""] = type.split(":");
  return {
    type: `kubernetes:${type}`,
    name,
    inputs: {
      apiVersion: apiVersion === "core/v1" ? "v1" : apiVersion,
      kind,
      metadata: { name, namespace: "app", ...metadata },
      ...rest,
    },
  };
}

const changed = (request: CloudRequest, path: string, value: unknown): CloudRequest => ({
  ...request,
  inputs: set(path, value)(structuredClone(request.inputs)),
});

const labels = { app: "web" };
const SAFE = {
  allowPrivilegeEscalation: false,
  capabilities: { drop: ["ALL"] },
  runAsNonRoot: true,
  seccompProfile: { type: "RuntimeDefault" },
};
const deployment = object("apps/v1:Deployment", "web", {
  spec: {
    selector: { matchLabels: labels },
    template: {
      metadata: { labels },
      spec: {
        containers: [
          {
            name: "web",
            image: "registry.example.com/web@sha256:0",
            ports: [{ name: "http", containerPort: 8080 }],
            resources: { requests: { cpu: "100m" }, limits: { cpu: "1" } },
            securityContext: SAFE,
          },
        ],
      },
    },
  },
});
const CONTAINER = "spec.template.spec.containers.0";
const service = object("core/v1:Service", "web", {
  spec: { selector: labels, ports: [{ port: 80, targetPort: "http" }] },
});
const gateway = object("gateway.networking.k8s.io/v1:Gateway", "mcp", {
  spec: { gatewayClassName: "envoy", listeners: [{ name: "http", port: 80, protocol: "HTTP" }] },
});
const scaled = object("keda.sh/v1alpha1:ScaledObject", "web", {
  spec: {
    scaleTargetRef: { name: "web" },
    minReplicaCount: 1,
    maxReplicaCount: 3,
    triggers: [{ type: "cpu", metricType: "Utilization", metadata: { value: "70" } }],
  },
});
const chart = (name: string, inputs: Properties): CloudRequest => ({
  type: "kubernetes:helm.sh/v3:Release",
  name,
  inputs: { chart: "oci://example.com/charts/thing", version: "1.2.3", name, namespace: "app", ...inputs },
});
const GATEWAY_KINDS = chart("kinds", {
  chart: "oci://docker.io/envoyproxy/gateway-crds-helm",
  version: "v1.9.0",
  values: { crds: { gatewayAPI: { enabled: true }, envoyGateway: { enabled: true } } },
});
const KEDA = chart("keda", { chart: "oci://ghcr.io/kedacore/charts/keda", version: "2.20.2" });

/** A cluster with a namespace that enforces Pod Security "restricted". */
function cluster(...more: readonly CloudRequest[]): FakeCloud {
  const cloud = new FakeCloud();
  const restricted = { "pod-security.kubernetes.io/enforce": "restricted" };
  cloud.create(object("core/v1:Namespace", "app", {}, { namespace: undefined, labels: restricted }));
  cloud.create(object("core/v1:Namespace", "loose", {}, { namespace: undefined }));
  for (const request of more) cloud.create(request);
  return cloud;
}

type Case = readonly [what: string, request: CloudRequest, sentence: string, before?: readonly CloudRequest[]];

const REFUSALS: readonly Case[] = [
  [
    "an object in no namespace",
    object("core/v1:ConfigMap", "web", {}, { namespace: "gone" }),
    'namespaces "gone" not found',
  ],
  ["a name twice", service, 'services "web" already exists', [service]],
  [
    "a name in capitals",
    object("core/v1:ConfigMap", "Web", {}),
    'ConfigMap "Web" is invalid: metadata.name: Invalid value: "Web": a lowercase RFC 1123 subdomain must consist of',
  ],
  [
    "a Service whose name starts with a digit",
    object("core/v1:Service", "1web", service.inputs.spec ? { spec: service.inputs.spec } : {}),
    "a DNS-1035 label must consist of",
  ],
  [
    "a namespace with a dot",
    object("core/v1:Namespace", "a.b", {}, { namespace: undefined }),
    "a lowercase RFC 1123 label must consist of",
  ],
  [
    "a label with a space",
    object("core/v1:ConfigMap", "web", {}, { labels: { app: "my web" } }),
    'metadata.labels: Invalid value: "my web": a valid label must be an empty string or consist of',
  ],
  [
    "a kind that does not exist",
    object("apps/v1:Deploiment", "web", {}),
    'no matches for kind "Deploiment" in version "apps/v1"',
  ],
  [
    "a field that does not exist",
    changed(deployment, "spec.replica", 2),
    'Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: unknown field "spec.replica"',
  ],
  [
    "a field that does not exist deep inside",
    changed(deployment, `${CONTAINER}.ports.0.nmae`, "http"),
    'unknown field "spec.template.spec.containers[0].ports[0].nmae"',
  ],
  [
    "an unknown field of a custom resource",
    changed(gateway, "spec.listeners.0.host", "a.example"),
    'Gateway in version "v1" cannot be handled as a Gateway: strict decoding error: unknown field "spec.listeners[0].host"',
    [GATEWAY_KINDS],
  ],
  [
    "a value of the wrong type",
    changed(deployment, "spec.replicas", "two"),
    'Deployment.apps "web" is invalid: spec.replicas: Invalid value: "two": must be of type integer',
  ],
  [
    "a missing field",
    changed(deployment, `${CONTAINER}.name`, undefined),
    "spec.template.spec.containers[0].name: Required value",
  ],
  [
    "a value outside its list",
    changed(gateway, "spec.listeners.0.allowedRoutes", { namespaces: { from: "Everywhere" } }),
    'spec.listeners[0].allowedRoutes.namespaces.from: Unsupported value: "Everywhere": supported values:',
    [GATEWAY_KINDS],
  ],
  [
    "a custom resource before its kind",
    gateway,
    'no matches for kind "Gateway" in version "gateway.networking.k8s.io/v1"',
  ],
  [
    "a selector that misses its own template",
    changed(deployment, "spec.selector.matchLabels", { app: "api" }),
    "`selector` does not match template `labels`",
  ],
  [
    "a rollout that can never move",
    changed(deployment, "spec.strategy", { rollingUpdate: { maxSurge: 0, maxUnavailable: 0 } }),
    "may not be 0 when `maxSurge` is 0",
  ],
  [
    "a mount of no volume",
    changed(deployment, `${CONTAINER}.volumeMounts`, [{ name: "tmp", mountPath: "/tmp" }]),
    'spec.template.spec.containers[0].volumeMounts[0].name: Not found: "tmp"',
  ],
  [
    "a request above its limit",
    changed(deployment, `${CONTAINER}.resources.requests.cpu`, "2"),
    "must be less than or equal to cpu limit of 1",
  ],
  [
    "a port beyond the last",
    changed(deployment, `${CONTAINER}.ports.0.containerPort`, 80_000),
    "must be between 1 and 65535, inclusive",
  ],
  [
    "a port name that is too long",
    changed(deployment, `${CONTAINER}.ports.0.name`, "the-port-of-metrics"),
    "must be no more than 15 characters",
  ],
  [
    "a Service with two nameless ports",
    changed(service, "spec.ports", [{ port: 80 }, { port: 81 }]),
    "spec.ports[0].name: Required value",
  ],
  [
    "a budget with both ends",
    object("policy/v1:PodDisruptionBudget", "web", { spec: { minAvailable: 1, maxUnavailable: 1 } }),
    "minAvailable and maxUnavailable cannot be both set",
  ],
  [
    "a policy peer of two minds",
    object("networking.k8s.io/v1:NetworkPolicy", "web", {
      spec: { podSelector: {}, ingress: [{ from: [{ ipBlock: { cidr: "0.0.0.0/0" }, podSelector: {} }] }] },
    }),
    "spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer",
  ],
  [
    "a claim without access mode",
    object("core/v1:PersistentVolumeClaim", "web", { spec: { resources: { requests: { storage: "1Gi" } } } }),
    "at least 1 access mode is required",
  ],
  [
    "Secret data that is not base64",
    object("core/v1:Secret", "web", { data: { key: "not base64!" } }),
    "data.key: Invalid value:",
  ],
  [
    "two listeners of one name",
    changed(gateway, "spec.listeners.1", { name: "http", port: 81, protocol: "HTTP" }),
    "Listener name must be unique within the Gateway",
    [GATEWAY_KINDS],
  ],
  [
    "an HTTPS listener without certificate",
    changed(gateway, "spec.listeners.0", { name: "https", port: 443, protocol: "HTTPS", tls: { mode: "Terminate" } }),
    "certificateRefs or options must be specified when mode is Terminate",
    [GATEWAY_KINDS],
  ],
  [
    "a redirect that also forwards",
    object("gateway.networking.k8s.io/v1:HTTPRoute", "web", {
      spec: {
        rules: [
          {
            filters: [{ type: "RequestRedirect", requestRedirect: { scheme: "https" } }],
            backendRefs: [{ name: "web", port: 80 }],
          },
        ],
      },
    }),
    "RequestRedirect filter must not be used together with backendRefs",
    [GATEWAY_KINDS],
  ],
  [
    "scaling to nothing by CPU",
    changed(scaled, "spec.minReplicaCount", 0),
    "has only cpu/memory triggers AND minReplica is 0",
    [KEDA],
  ],
  [
    "scaling from 5 to 3",
    changed(scaled, "spec.minReplicaCount", 5),
    "MinReplicaCount=5 must be less than or equal to MaxReplicaCount=3",
    [KEDA],
  ],
  [
    "a trigger without threshold",
    changed(scaled, "spec.triggers.0", {
      type: "prometheus",
      metadata: { serverAddress: "http://p:9090", query: "up" },
    }),
    'missing required parameter "threshold"',
    [KEDA],
  ],
  [
    "a trigger of a queue in no namespace",
    changed(scaled, "spec.triggers.0", {
      type: "azure-servicebus",
      metadata: { queueName: "jobs" },
      authenticationRef: { name: "queue" },
    }),
    "namespace is required when using pod identity",
    [KEDA],
  ],
  [
    "a trigger of no queue",
    changed(scaled, "spec.triggers.0", {
      type: "azure-servicebus",
      metadata: { namespace: "sbns" },
      authenticationRef: { name: "queue" },
    }),
    "give either queueName or topicName with subscriptionName",
    [KEDA],
  ],
  [
    "a trigger that aims at no number",
    changed(scaled, "spec.triggers.0", {
      type: "azure-servicebus",
      metadata: { namespace: "sbns", queueName: "jobs", messageCount: "many" },
      authenticationRef: { name: "queue" },
    }),
    'messageCount "many" is no number',
    [KEDA],
  ],
  [
    "a priority above the cluster's own",
    object("scheduling.k8s.io/v1:PriorityClass", "high", { value: 1_000_000_001 }, { namespace: undefined }),
    "maximum allowed value of a user defined priority is 1000000000",
  ],
  [
    "a quota by priority of what has none",
    object("core/v1:ResourceQuota", "web", {
      spec: {
        hard: { services: "1" },
        scopeSelector: { matchExpressions: [{ scopeName: "PriorityClass", operator: "In", values: ["web"] }] },
      },
    }),
    "unsupported scope applied to resource services",
  ],
  [
    "containers that get more by default than they may have",
    object("core/v1:LimitRange", "web", {
      spec: { limits: [{ type: "Container", default: { memory: "2Gi" }, max: { memory: "1Gi" } }] },
    }),
    "spec.limits[0].max[memory]: Invalid value",
  ],
  [
    "a pod that may become root",
    changed(deployment, `${CONTAINER}.securityContext`, {}),
    'is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false (container "web" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container "web" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true (pod or container "web" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container "web" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")',
  ],
  [
    "a pod with a path of its node",
    changed(deployment, "spec.template.spec.volumes", [{ name: "host", hostPath: { path: "/" } }]),
    'restricted volume types (volume "host" uses restricted volume type "hostPath")',
  ],
  [
    "a chart by a range of versions",
    chart("it", { version: "1.x" }),
    'chart "thing" is not pinned: version "1.x" is not an exact version',
  ],
  [
    "a chart from nowhere",
    chart("it", { chart: "thing" }),
    'failed to download "thing" at version "1.2.3": no repository given',
  ],
  [
    "a chart in no namespace",
    chart("it", { namespace: "gone" }),
    'create: failed to create: namespaces "gone" not found',
  ],
  ["a release of a name too long", chart("x".repeat(54), {}), "exceeds max length of 53"],
  ["a release twice", chart("it", {}), "cannot re-use a name that is still in use", [chart("it", {})]],
  [
    "a chart with monitors before their kind",
    chart("keda", {
      chart: "oci://ghcr.io/kedacore/charts/keda",
      version: "2.20.2",
      values: { prometheus: { operator: { enabled: true, serviceMonitor: { enabled: true } } } },
    }),
    'no matches for kind "ServiceMonitor" in version "monitoring.coreos.com/v1"\nensure CRDs are installed first',
  ],
  [
    "cert-manager for a Gateway API that is not there",
    chart("cert-manager", {
      chart: "oci://quay.io/jetstack/charts/cert-manager",
      version: "v1.21.1",
      values: { config: { gatewayAPI: { enabled: true } } },
    }),
    'no matches for kind "Gateway" in version "gateway.networking.k8s.io/v1"',
  ],
];

describe("Kubernetes in memory refuses", () => {
  test.each(REFUSALS.map((refusal) => ({ what: refusal[0], refusal })))(
    "$what",
    ({ refusal: [, request, sentence, before = []] }) => {
      const cloud = cluster(...before);
      expect(() => cloud.create(request)).toThrow(CloudError);
      expect(() => cloud.create(request)).toThrow(sentence);
    },
  );
});

describe("Kubernetes in memory takes", () => {
  test("what is fine", () => {
    const cloud = cluster(GATEWAY_KINDS, KEDA);
    for (const request of [deployment, service, gateway, scaled]) expect(() => cloud.create(request)).not.toThrow();
  });

  test("a careless pod where nothing is enforced", () => {
    const careless = changed(changed(deployment, `${CONTAINER}.securityContext`, {}), "metadata.namespace", "loose");
    expect(() => cluster().create(careless)).not.toThrow();
  });

  test("keys of maps and free-form values for what they are", () => {
    const cloud = cluster(KEDA);
    const annotated = object(
      "core/v1:ConfigMap",
      "web",
      { data: { "any.key": "v" } },
      { annotations: { "a.b/c": "d" } },
    );
    expect(() => cloud.create(annotated)).not.toThrow();
  });
});

describe("once everything is there, a scaler", () => {
  const authentication = object("keda.sh/v1alpha1:TriggerAuthentication", "queue", {
    spec: { podIdentity: { provider: "azure-workload", identityId: "00000000-0000-4000-8000-000000000000" } },
  });
  const faults = (...more: CloudRequest[]) =>
    cluster(KEDA, ...more)
      .verify()
      .map(({ name, message }) => `${name}: ${message}`);

  test("whose authentication is gone is found", () => {
    const byQueue = {
      type: "azure-servicebus",
      metadata: { namespace: "sbns", topicName: "jobs", subscriptionName: "all" },
      authenticationRef: { name: "queue" },
    };
    const queued = changed(scaled, "spec.triggers", [byQueue]);
    expect(faults(deployment, queued).join()).toContain('TriggerAuthentication.keda.sh "queue" not found');
    expect(faults(deployment, queued, authentication).join()).not.toContain("not found:");
  });

  test("that authenticates as nobody is found", () => {
    expect(faults(authentication)).toEqual([
      expect.stringContaining("TriggerAuthentication app/queue: AADSTS700016: Application with identifier"),
    ]);
  });

  test("beside another of the same Deployment is found", () => {
    const spec = { scaleTargetRef: { apiVersion: "apps/v1", kind: "Deployment", name: "web" }, maxReplicas: 3 };
    const hpa = object("autoscaling/v2:HorizontalPodAutoscaler", "web", { spec });
    expect(faults(deployment, scaled, hpa).join()).toContain("the two overwrite each other");
  });
});

describe("over its life", () => {
  test("an object keeps its selector", () => {
    const cloud = cluster(deployment);
    const other = changed(
      changed(deployment, "spec.selector.matchLabels", { app: "x" }),
      "spec.template.metadata.labels",
      { app: "x" },
    );
    expect(() => cloud.update("app/web", other)).toThrow("spec.selector: Invalid value:");
    expect(() => cloud.update("app/web", changed(deployment, "spec.replicas", 2))).not.toThrow();
    expect(cloud.read(deployment.type, "app/web")).toMatchObject({ spec: { replicas: 2 } });
  });

  test("a namespace takes its objects along", () => {
    const cloud = cluster(service, KEDA);
    cloud.delete("kubernetes:core/v1:Namespace", "app");
    expect(cloud.read(service.type, "app/web")).toBeUndefined();
    expect(cloud.kubernetes.releases()).toEqual([]);
  });

  test("a kind goes with the chart that brought it", () => {
    const cloud = cluster(GATEWAY_KINDS);
    cloud.delete("kubernetes:helm.sh/v3:Release", "app/kinds");
    expect(() => cloud.create(gateway)).toThrow("no matches for kind");
  });
});
