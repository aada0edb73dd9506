import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { parseEnvironment, parseWorkerEnvironment } from "../../../server/config.ts";
import { DIGEST, find, type PlannedCluster, planCluster } from "./planned-cluster.ts";
import { containerOf, deploymentOf, environmentOf, selects, specOf } from "./planned-pods.ts";

const CONFIG = { "mcp-server": parseEnvironment, "job-worker": parseWorkerEnvironment };

/** Of a stack with settings of its own. */
const POLICY = '{"tools":{"execute_command":{"role":"admin"}}}';

const plans: Record<string, PlannedCluster> = {};
beforeAll(async () => {
  for (const stack of ["dev", "staging", "prod"]) plans[stack] = await planCluster(stack);
  plans.own = await planCluster("dev", { "mcp:accessPolicy": POLICY, "mcp:workers": "2-7" });
});
const planOf = (stack: string): PlannedCluster => {
  const plan = plans[stack];
  if (!plan) throw new Error(`no plan of ${stack}`);
  return plan;
};

describe.each(
  ["dev", "staging", "prod"].flatMap((stack) => [
    { stack, workload: "mcp-server" as const, program: "main.ts", client: "server-client" },
    { stack, workload: "job-worker" as const, program: "worker.ts", client: "worker-client" },
  ]),
)("the pods of $workload in $stack", ({ stack, workload, program, client }) => {
  const pod = () => deploymentOf(planOf(stack), workload).template.spec;
  const container = () => containerOf(planOf(stack), workload);
  const config = () => CONFIG[workload](environmentOf(planOf(stack), workload));
  const everyContainer = () => [...pod().containers, ...(pod().initContainers ?? [])];

  // Kubernetes, "Pod Security Standards", profile Restricted (which includes Baseline), control by control.
  const restricted: readonly [control: string, check: () => void][] = [
    [
      "host namespaces",
      () => {
        for (const key of ["hostNetwork", "hostPID", "hostIPC"]) expect(pod()).not.toHaveProperty(key);
      },
    ],
    [
      "volume types",
      () => {
        const kinds = pod().volumes.flatMap((volume) => Object.keys(volume).filter((key) => key !== "name"));
        for (const kind of kinds) expect(["persistentVolumeClaim", "emptyDir"]).toContain(kind);
      },
    ],
    [
      "privilege escalation",
      () => {
        for (const { securityContext } of everyContainer()) {
          expect(securityContext).toMatchObject({ allowPrivilegeEscalation: false, privileged: false });
        }
      },
    ],
    [
      "running as non-root",
      () => {
        expect(pod().securityContext).toMatchObject({ runAsNonRoot: true });
        for (const { securityContext } of everyContainer()) expect(securityContext.runAsNonRoot).toBe(true);
      },
    ],
    ["running as a non-root user", () => expect(pod().securityContext.runAsUser).toBeGreaterThan(0)],
    ["seccomp", () => expect(pod().securityContext.seccompProfile).toEqual({ type: "RuntimeDefault" })],
    [
      "capabilities",
      () => {
        for (const { securityContext } of everyContainer()) {
          expect(securityContext.capabilities).toEqual({ drop: ["ALL"] });
        }
      },
    ],
    [
      "host ports",
      () => {
        for (const { ports } of everyContainer()) for (const port of ports) expect(port).not.toHaveProperty("hostPort");
      },
    ],
    ["sysctls", () => expect(pod().securityContext).not.toHaveProperty("sysctls")],
  ];
  it.each(restricted)("keep to Pod Security restricted: %s", (_control, check) => check());

  it("have a read-only root and write only where a volume is", () => {
    for (const { securityContext, volumeMounts } of everyContainer()) {
      expect(securityContext.readOnlyRootFilesystem).toBe(true);
      expect(volumeMounts.map(({ mountPath }) => mountPath).sort()).toEqual(["/tmp", "/workspace"]);
      const volumes = pod().volumes.map(({ name }) => name);
      for (const { name } of volumeMounts) expect(volumes).toContain(name);
    }
  });

  it("hold no token of the cluster, and Entra's through workload identity", () => {
    const { template } = deploymentOf(planOf(stack), workload);
    expect(template.spec).toMatchObject({ automountServiceAccountToken: false, enableServiceLinks: false });
    expect(template.metadata.labels["azure.workload.identity/use"]).toBe("true");
    const account = find(planOf(stack), "kubernetes:core/v1:ServiceAccount", String(template.spec.serviceAccountName));
    expect(account.inputs).toMatchObject({
      automountServiceAccountToken: false,
      metadata: {
        name: workload,
        namespace: "mcp-system",
        annotations: { "azure.workload.identity/client-id": client },
      },
    });
  });

  it("are the image's: its user, its program behind its entry point, its ports", () => {
    const dockerfile = readFileSync("server/Dockerfile", "utf8");
    const { runAsUser, runAsGroup, fsGroup } = pod().securityContext;
    expect(dockerfile).toMatch(new RegExp(`^USER ${runAsUser}:${runAsGroup}$`, "m"));
    expect(fsGroup).toBe(runAsGroup);
    const { command, args, ports } = container();
    expect(command).toBeUndefined();
    expect(args).toEqual(["node", program]);
    if (workload === "mcp-server") expect(dockerfile).toContain(`CMD ["node", "${program}"]`);
    expect(dockerfile).toMatch(
      new RegExp(`^EXPOSE ${ports.map(({ containerPort }) => containerPort).join(" ")}$`, "m"),
    );
  });

  it("listen where the environment says, and are probed there", () => {
    const { PORT, METRICS_PORT } = config();
    const { ports, startupProbe, livenessProbe, readinessProbe } = container();
    expect(ports.map(({ name, containerPort }) => [name, containerPort])).toEqual([
      ["http", PORT],
      ["metrics", METRICS_PORT],
    ]);
    for (const probe of [startupProbe, livenessProbe, readinessProbe]) {
      expect(ports.map(({ name }) => name)).toContain(probe.httpGet.port);
    }
    expect([startupProbe, livenessProbe, readinessProbe].map(({ httpGet }) => httpGet.path)).toEqual([
      "/health/live",
      "/health/live",
      "/health/ready",
    ]);
  });

  it("are given longer to end than the server takes", () => {
    const { SHUTDOWN_GRACE_SECONDS } = config();
    expect(pod().terminationGracePeriodSeconds).toBeGreaterThanOrEqual(SHUTDOWN_GRACE_SECONDS + 5);
  });

  it("run a digest, never a tag", () => {
    expect(container().image).toBe(`registry.example.com/mcp-server@${DIGEST}`);
  });

  it("ask for what they need and are held to what they may take", () => {
    const { requests, limits } = container().resources;
    expect(Object.keys(requests).sort()).toEqual(["cpu", "ephemeral-storage", "memory"]);
    expect(Object.keys(limits).sort()).toEqual(["cpu", "ephemeral-storage", "memory"]);
  });

  it("are found by what selects them", () => {
    const plan = planOf(stack);
    const { selector, template } = deploymentOf(plan, workload);
    const { labels } = template.metadata;
    expect(selects(selector.matchLabels, labels)).toBe(true);
    for (const { labelSelector } of template.spec.topologySpreadConstraints) {
      expect(selects(labelSelector.matchLabels, labels)).toBe(true);
    }
  });

  it("get their environment whole, and new pods for another one", () => {
    const names = container().envFrom.map((from) => from.configMapRef?.name ?? from.secretRef?.name);
    expect(names).toEqual([workload, workload]);
    const { annotations } = deploymentOf(planOf(stack), workload).template.metadata;
    expect(annotations["mcp-on-aks/environment"]).toMatch(/^[0-9a-f]{64}$/);
  });

  it("give way to others, workers to the server", () => {
    const priority = find(planOf(stack), "kubernetes:scheduling.k8s.io/v1:PriorityClass", workload);
    expect(pod().priorityClassName).toBe(workload);
    // Pods without a class have 0; below -10 the cluster autoscaler makes no node.
    expect(priority.inputs.value).toBe(workload === "mcp-server" ? 0 : -1);
  });

  it("are spread over zones and hosts", () => {
    expect(pod().topologySpreadConstraints.map(({ topologyKey }) => topologyKey)).toEqual([
      "topology.kubernetes.io/zone",
      "kubernetes.io/hostname",
    ]);
  });
});

describe("the worker's environment", () => {
  const config = (stack: string) => parseWorkerEnvironment(environmentOf(planOf(stack), "job-worker"));

  it("has the server's queues, store, audit trail, cache and rules for commands", () => {
    for (const stack of ["dev", "staging", "prod"]) {
      const server = environmentOf(planOf(stack), "mcp-server");
      const worker = environmentOf(planOf(stack), "job-worker");
      const shared = Object.keys(worker).filter((name) =>
        /^(SERVICE_BUS|JOBS_|JOB_RETENTION|AUDIT|REDIS|COMMAND_(ISOLATION|NETWORK|SHELL|ALLOWED)|WORKSPACE)/.test(name),
      );
      expect(shared.length).toBeGreaterThan(12);
      for (const name of shared) expect([name, worker[name]]).toEqual([name, server[name]]);
      expect(worker.REDIS_HOST === undefined).toBe(stack === "dev");
    }
  });

  it("has nothing of who may call", () => {
    const names = Object.keys(environmentOf(planOf("dev"), "job-worker"));
    expect(names.filter((name) => /API_KEY|AUTH_MODE|ENTRA_|OAUTH|KEY_VAULT|PUBLIC_URL/.test(name))).toEqual([]);
  });

  it("lets each of a worker's jobs run a command, for longer than a call may", () => {
    const { JOB_CONCURRENCY, COMMAND_CONCURRENCY, COMMAND_CALLER_CONCURRENCY, COMMAND_TIMEOUT_SECONDS } =
      config("prod");
    expect(COMMAND_CONCURRENCY).toBeGreaterThanOrEqual(JOB_CONCURRENCY);
    expect(COMMAND_CALLER_CONCURRENCY).toBeGreaterThanOrEqual(JOB_CONCURRENCY);
    expect(COMMAND_TIMEOUT_SECONDS).toBe(1800);
    expect(parseEnvironment(environmentOf(planOf("prod"))).COMMAND_TIMEOUT_SECONDS).toBe(60);
  });

  it("follows the access policy, as calls do", () => {
    expect(environmentOf(planOf("own"), "job-worker").ACCESS_POLICY).toBe(POLICY);
  });
});

describe("workers", () => {
  interface Scaler {
    minReplicaCount: number;
    maxReplicaCount: number;
    cooldownPeriod: number;
    fallback: { replicas: number; behavior: string };
    advanced: { horizontalPodAutoscalerConfig: { behavior: { scaleDown: { stabilizationWindowSeconds: number } } } };
    triggers: { type: string; metadata: Record<string, string>; authenticationRef: { name: string } }[];
  }
  const scalerOf = (plan: PlannedCluster) =>
    specOf<Scaler>(find(plan, "kubernetes:keda.sh/v1alpha1:ScaledObject", "job-worker-scaling"));

  it.each([
    ["dev", 0, 2],
    ["staging", 0, 10],
    ["prod", 1, 20],
    ["own", 2, 7],
  ])("come by the length of both queues in %s, from %i to %i", (stack, min, max) => {
    const plan = planOf(stack);
    const scaler = scalerOf(plan);
    expect(scaler).toMatchObject({
      scaleTargetRef: { apiVersion: "apps/v1", kind: "Deployment", name: "job-worker" },
      minReplicaCount: min,
      maxReplicaCount: max,
    });
    expect(scaler.triggers.map(({ type, metadata }) => [type, metadata])).toEqual(
      ["mcp-jobs", "mcp-jobs-ordered"].map((queueName) => [
        "azure-servicebus",
        { namespace: "sbns-mcp-test", queueName, messageCount: "5" },
      ]),
    );
    // The scaler's number, which Pulumi must not set back.
    expect(deploymentOf(plan, "job-worker")).not.toHaveProperty("replicas");
  });

  it("are asked for as KEDA's own identity, which holds no secret", () => {
    const plan = planOf("prod");
    const authentication = find(plan, "kubernetes:keda.sh/v1alpha1:TriggerAuthentication");
    expect(authentication.inputs.spec).toEqual({ podIdentity: { provider: "azure-workload" } });
    for (const { authenticationRef } of scalerOf(plan).triggers) expect(authenticationRef.name).toBe("job-worker");
  });

  it("run as many jobs each as the scaler reckons with", () => {
    for (const { metadata } of scalerOf(planOf("dev")).triggers) {
      expect(environmentOf(planOf("dev"), "job-worker").JOB_CONCURRENCY).toBe(metadata.messageCount);
    }
  });

  it("are there, and no fewer, while nobody knows how long the queues are", () => {
    expect(["dev", "staging", "prod"].map((stack) => scalerOf(planOf(stack)).fallback)).toEqual([
      { failureThreshold: 3, replicas: 1, behavior: "currentReplicasIfHigher" },
      { failureThreshold: 3, replicas: 2, behavior: "currentReplicasIfHigher" },
      { failureThreshold: 3, replicas: 4, behavior: "currentReplicasIfHigher" },
    ]);
  });

  it("go no sooner than a job that was running when the queue grew short has had the time to end", () => {
    const { advanced } = scalerOf(planOf("prod"));
    const { SHUTDOWN_GRACE_SECONDS } = parseWorkerEnvironment(environmentOf(planOf("prod"), "job-worker"));
    const { stabilizationWindowSeconds } = advanced.horizontalPodAutoscalerConfig.behavior.scaleDown;
    expect(stabilizationWindowSeconds).toBeGreaterThanOrEqual(SHUTDOWN_GRACE_SECONDS);
  });

  it("are given what the cluster autoscaler grants, and no more: it would kill them sooner", () => {
    const { terminationGracePeriodSeconds } = deploymentOf(planOf("prod"), "job-worker").template.spec;
    expect(terminationGracePeriodSeconds).toBe(600);
  });

  it("never keep a node from being drained for longer than AKS waits", () => {
    const budget = find(planOf("prod"), "kubernetes:policy/v1:PodDisruptionBudget", "job-worker");
    expect(budget.inputs.spec).toMatchObject({ maxUnavailable: "50%" });
  });

  it("are scraped by their pods, which no Service leads to", () => {
    const plan = planOf("prod");
    const monitor = specOf<{
      selector: { matchLabels: Record<string, string> };
      podMetricsEndpoints: { port: string; path: string }[];
    }>(find(plan, "kubernetes:monitoring.coreos.com/v1:PodMonitor", "job-worker-metrics"));
    expect(selects(monitor.selector.matchLabels, deploymentOf(plan, "job-worker").template.metadata.labels)).toBe(true);
    expect(monitor.podMetricsEndpoints).toMatchObject([{ port: "metrics", path: "/metrics" }]);
    const services = plan.resources.filter(({ type }) => type === "kubernetes:core/v1:Service");
    expect(services.map(({ name }) => name)).not.toContain("job-worker");
  });

  it("are bounded apart from the server, so that no number of them takes its share", () => {
    const plan = planOf("prod");
    for (const name of ["mcp-server", "job-worker"] as const) {
      const quota = specOf<{ hard: Record<string, string>; scopeSelector: unknown }>(
        find(plan, "kubernetes:core/v1:ResourceQuota", name),
      );
      expect(quota.hard.pods).toBe("40");
      expect(quota.scopeSelector).toEqual({
        matchExpressions: [{ scopeName: "PriorityClass", operator: "In", values: [name] }],
      });
    }
  });

  it("are nowhere in a stack that wants none, and the server then has no queue to send to", async () => {
    const plan = await planCluster("dev", { "mcp:workers": "none" });
    expect(
      plan.resources
        .filter(({ name }) => name.startsWith("job-worker"))
        .map(({ type }) => type)
        .sort(),
    ).toEqual(["kubernetes:core/v1:ServiceAccount", "kubernetes:scheduling.k8s.io/v1:PriorityClass"]);
    const rules = find(plan, "kubernetes:monitoring.coreos.com/v1:PrometheusRule").inputs.spec;
    expect(JSON.stringify(rules)).not.toContain("McpJob");
    const config = parseEnvironment(environmentOf(plan));
    expect(config.SERVICE_BUS_NAMESPACE).toBeUndefined();
    expect(config.JOBS_TABLE_NAME).toBe("jobs");
  });
});
