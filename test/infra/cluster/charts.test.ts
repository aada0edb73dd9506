import { beforeAll, describe, expect, it } from "vitest";
import { alertRouting } from "../../../infra/platform/alert-routing.ts";
import { CHARTS } from "../../../infra/platform/charts.ts";
import {
  CONNECTION_STRING,
  find,
  type PlannedCluster,
  planCluster,
  RANDOM_TEXT,
  type Registered,
} from "./planned-cluster.ts";

const RELEASE = "kubernetes:helm.sh/v3:Release";
const CHART = "kubernetes:helm.sh/v4:Chart";

let plan: PlannedCluster;
let charts: Registered[];
beforeAll(async () => {
  plan = await planCluster("prod");
  charts = plan.resources.filter(({ type }) => type === RELEASE || type === CHART);
});

/** A value of a chart by its path. */
function value(release: string, ...path: string[]): unknown {
  return path.reduce<unknown>(
    (inner, key) => (inner as Record<string, unknown> | undefined)?.[key],
    find(plan, RELEASE, release).inputs.values,
  );
}

describe("charts", () => {
  it("are pinned to one version each, from the one table", () => {
    const pins = new Set(Object.values(CHARTS).map(({ chart, version }) => `${chart} ${version}`));
    for (const { inputs } of charts) {
      expect(inputs.version).toMatch(/^v?\d+\.\d+\.\d+$/);
      expect(pins).toContain(`${inputs.chart} ${inputs.version}`);
      // A chart by bare name needs the repository it is looked up in.
      if (!String(inputs.chart).startsWith("oci://")) expect(inputs.repositoryOpts).toHaveProperty("repo");
    }
    expect(new Set(charts.map(({ inputs }) => inputs.chart)).size).toBe(pins.size);
  });

  it("are all or nothing, with an end to the waiting, in namespaces that carry their labels first", () => {
    for (const { inputs, name } of charts.filter(({ type }) => type === RELEASE)) {
      expect(inputs, name).toMatchObject({ atomic: true, cleanupOnFail: true, createNamespace: false, name });
      expect(Number(inputs.timeout), name).toBeGreaterThan(300);
    }
  });

  it("hold no secret: whatever is one goes by reference", () => {
    for (const { inputs, secretPaths, name } of charts) {
      const text = JSON.stringify(inputs);
      expect(text, name).not.toContain(RANDOM_TEXT);
      expect(text, name).not.toContain(CONNECTION_STRING);
      expect(secretPaths, name).toEqual([]);
      expect(text.match(/"[^"]*(?:password|token|secretkey|accountkey)[^"]*":"[^"]+"/gi) ?? [], name).toEqual(
        name === "kube-prometheus-stack" ? ['"passwordKey":"admin-password"'] : [],
      );
    }
    expect(value("kube-prometheus-stack", "grafana", "admin", "existingSecret")).toBe("grafana-admin");
  });

  it("install the Gateway API's kinds apart from the controller, of its version, and before it", () => {
    expect(CHARTS.gatewayCrds.version).toBe(CHARTS.envoyGateway.version);
    expect(value("envoy-gateway", "crds", "enabled")).toBe(false);
    const kinds = find(plan, CHART, "gateway-crds");
    expect(kinds.inputs.values).toMatchObject({
      crds: { gatewayAPI: { enabled: true, channel: "standard" }, envoyGateway: { enabled: true } },
    });
    expect(find(plan, RELEASE, "envoy-gateway").dependencies).toContain(kinds.urn);
  });

  it("let Prometheus see monitors that nobody labelled for it, and nothing that AKS keeps to itself", () => {
    const stack = value("kube-prometheus-stack") as Record<string, { enabled?: boolean }>;
    for (const kind of ["serviceMonitor", "podMonitor", "rule", "probe", "scrapeConfig"]) {
      const key = `${kind}SelectorNilUsesHelmValues`;
      expect(value("kube-prometheus-stack", "prometheus", "prometheusSpec", key), key).toBe(false);
    }
    for (const part of ["kubeEtcd", "kubeScheduler", "kubeControllerManager", "kubeProxy"]) {
      expect(stack[part], part).toEqual({ enabled: false });
    }
  });

  it("run KEDA's operator as the account that the federation names", () => {
    expect(find(plan, RELEASE, "keda").inputs.namespace).toBe("keda");
    expect(value("keda", "serviceAccount", "operator", "name")).toBe("keda-operator");
    expect(value("keda", "podIdentity", "azureWorkload")).toEqual({ enabled: true, clientId: "keda-client" });
  });

  it("give Alloy no way to read Secrets, as its chart would", () => {
    for (const release of ["alloy", "alloy-events"]) {
      expect(JSON.stringify(value(release, "rbac")), release).not.toMatch(/secrets|configmaps|\*/);
    }
  });
});

describe("Alertmanager", () => {
  const URL = "https://hooks.example.com/not-so-secret";
  const config = () => value("kube-prometheus-stack", "alertmanager", "config") as ReturnType<typeof alertRouting>;

  it("tells nobody unless somebody is named", () => {
    expect(config()).toBeUndefined();
    expect(value("kube-prometheus-stack", "alertmanager", "alertmanagerSpec")).not.toHaveProperty("secrets");
  });

  it("has the webhook's URL from a Secret that is there before it, and not from its values", async () => {
    const told = await planCluster("dev", { "mcp:alertWebhook": URL });
    const secret = find(told, "kubernetes:core/v1:Secret", "alertmanager-webhook");
    expect(secret.inputs).toMatchObject({ metadata: { namespace: "monitoring" }, stringData: { url: URL } });
    expect(secret.secretPaths).toEqual(["stringData"]);
    const release = find(told, RELEASE, "kube-prometheus-stack");
    expect(release.dependencies).toContain(secret.urn);
    expect(release.secretPaths).toEqual([]);
    expect(JSON.stringify(release.inputs)).not.toContain("not-so-secret");
    expect(release.inputs.values).toMatchObject({
      prometheus: { prometheusSpec: { externalLabels: { stack: "dev" } } },
      alertmanager: {
        alertmanagerSpec: { secrets: ["alertmanager-webhook"] },
        config: {
          receivers: [{}, { webhook_configs: [{ url_file: "/etc/alertmanager/secrets/alertmanager-webhook/url" }] }],
        },
      },
    });
  });

  it.each(["json", "slack", "teams"] as const)(
    "tells %s what is wrong and when it ends, the Watchdog aside",
    (kind) => {
      const { route, receivers } = alertRouting(kind, { name: "hook", key: "url" }) as {
        route: { receiver: string; routes: { receiver: string; matchers: string[] }[] };
        receivers: { name: string; [integration: string]: unknown }[];
      };
      const names = receivers.map(({ name }) => name);
      for (const { receiver } of [route, ...route.routes]) expect(names).toContain(receiver);
      const text = JSON.stringify(receivers.find(({ name }) => name === route.receiver));
      expect(text).toContain('url_file":"/etc/alertmanager/secrets/hook/url"');
      expect(text).toContain('"send_resolved":true');
      expect(receivers.find(({ name }) => name === route.routes[0]?.receiver)).toEqual({ name: "nobody" });
      // The chart gives its Watchdog the severity none.
      expect(route.routes[0]?.matchers).toEqual(['severity =~ "none|info"']);
    },
  );
});

describe("Grafana", () => {
  it("has a generated password, in the vault for people and in a Secret for itself", () => {
    expect(plan.vaultSecrets.has("grafana-admin-password")).toBe(true);
    const copy = find(plan, "kubernetes:core/v1:Secret", "grafana-admin");
    expect(copy.inputs.stringData).toEqual({ "admin-user": "admin", "admin-password": RANDOM_TEXT });
    expect(copy.secretPaths).toEqual(["stringData"]);
  });
});
