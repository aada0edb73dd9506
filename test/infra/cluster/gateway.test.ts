import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { parseEnvironment } from "../../../server/config.ts";
import { comesAfter, find, type PlannedCluster, planCluster, type Registered } from "./planned-cluster.ts";

const CERTIFICATE = "kubernetes:cert-manager.io/v1:Certificate";
const GATEWAY = "kubernetes:gateway.networking.k8s.io/v1:Gateway";
const ROUTE = "kubernetes:gateway.networking.k8s.io/v1:HTTPRoute";
const HOST = "mcp-test.eastus2.cloudapp.azure.com";

interface Listener {
  name: string;
  port: number;
  hostname?: string;
  tls?: { certificateRefs: { name: string }[] };
  allowedRoutes: { namespaces: { from: string; selector?: { matchLabels: Record<string, string> } } };
}
interface Route {
  parentRefs: { name: string; namespace: string; sectionName: string }[];
  hostnames: string[];
  rules: { matches: { path: { type: string; value: string } }[]; filters?: unknown[]; backendRefs?: unknown[] }[];
}

const specOf = <T>({ inputs }: Registered) => inputs.spec as T;
const annotationsOf = ({ inputs }: Registered) =>
  (inputs.metadata as { annotations?: Record<string, string> }).annotations ?? {};

let plan: PlannedCluster;
let own: PlannedCluster;
beforeAll(async () => {
  plan = await planCluster("prod");
  own = await planCluster("prod", { "mcp:domain": "mcp.example.com" });
});

const listener = (name: string): Listener => {
  const { listeners } = specOf<{ listeners: Listener[] }>(find(plan, GATEWAY));
  const found = listeners.find((l) => l.name === name);
  if (!found) throw new Error(`no listener ${name}`);
  return found;
};

describe("the load balancer", () => {
  const annotation = (name: string) => `service.beta.kubernetes.io/azure-${name}`;
  const service = () => {
    const proxy = specOf<{
      provider: {
        kubernetes: { envoyService: { annotations: Record<string, string>; externalTrafficPolicy: string } };
      };
    }>(find(plan, "kubernetes:gateway.envoyproxy.io/v1alpha1:EnvoyProxy"));
    return proxy.provider.kubernetes.envoyService;
  };

  it("takes the stack's own address, which is not in the node resource group", () => {
    expect(service().annotations).toMatchObject({
      [annotation("pip-name")]: "pip-mcp-test",
      [annotation("load-balancer-resource-group")]: "rg-mcp-test",
    });
  });

  it("leaves the address's DNS label alone: an annotation without one would delete it", () => {
    expect(service().annotations).not.toHaveProperty([annotation("dns-label-name")]);
  });

  it("is probed on the nodes' health port and not at a path that answers 404", () => {
    expect(service().externalTrafficPolicy).toBe("Local");
  });

  it("keeps silent streams as long as Azure lets it", () => {
    expect(service().annotations[annotation("load-balancer-tcp-idle-timeout")]).toBe("30");
  });
});

describe("the Gateway", () => {
  it("takes its settings from the EnvoyProxy beside it", () => {
    const { infrastructure, gatewayClassName } = specOf<{
      gatewayClassName: string;
      infrastructure: { parametersRef: Record<string, string> };
    }>(find(plan, GATEWAY));
    const { metadata } = find(plan, "kubernetes:gateway.envoyproxy.io/v1alpha1:EnvoyProxy").inputs;
    expect(metadata).toMatchObject({ name: infrastructure.parametersRef.name, namespace: "mcp-gateway" });
    const className = find(plan, "kubernetes:gateway.networking.k8s.io/v1:GatewayClass").inputs.metadata;
    expect(className).toMatchObject({ name: gatewayClassName });
  });

  it("serves HTTPS for one host name, with the certificate's Secret, to routes of the product's namespace alone", () => {
    const https = listener("https");
    const { secretName, dnsNames } = specOf<{ secretName: string; dnsNames: string[] }>(find(plan, CERTIFICATE));
    expect(https).toMatchObject({ port: 443, hostname: HOST, tls: { certificateRefs: [{ name: secretName }] } });
    expect(dnsNames).toEqual([HOST]);
    expect(https.allowedRoutes.namespaces).toEqual({
      from: "Selector",
      selector: { matchLabels: { "kubernetes.io/metadata.name": "mcp-system" } },
    });
  });

  it("takes plain HTTP for challenges and a redirect, and for no route from elsewhere", () => {
    expect(listener("http")).toMatchObject({ port: 80, allowedRoutes: { namespaces: { from: "Same" } } });
    const redirect = specOf<Route>(find(plan, ROUTE, "https-redirect"));
    // Bound to the HTTP listener: on both, HTTPS would redirect to itself. Host names like those of challenges:
    // without them, a challenge in progress would answer 404 to everything else.
    expect(redirect.parentRefs).toEqual([{ name: "mcp", namespace: "mcp-gateway", sectionName: "http" }]);
    expect(redirect.hostnames).toEqual([HOST]);
    expect(redirect.rules[0]?.filters).toEqual([
      { type: "RequestRedirect", requestRedirect: { scheme: "https", statusCode: 301 } },
    ]);
  });

  it("is waited for, since it is where Azure may refuse the address", () => {
    expect(annotationsOf(find(plan, GATEWAY))).toMatchObject({ "pulumi.com/waitFor": "condition=Programmed" });
  });
});

describe("the certificate", () => {
  it.each([
    ["dev", {}, "letsencrypt-staging"],
    ["staging", {}, "letsencrypt-prod"],
    ["prod", {}, "letsencrypt-prod"],
    ["dev", { "mcp:certificateIssuer": "letsencrypt-prod" }, "letsencrypt-prod"],
  ])("of %s with %j comes from %s, which the plan has", async (stack, config, issuer) => {
    const other = await planCluster(stack, config);
    const { issuerRef } = specOf<{ issuerRef: Record<string, string> }>(find(other, CERTIFICATE));
    expect(issuerRef).toMatchObject({ kind: "ClusterIssuer", name: issuer });
    const { acme } = specOf<{ acme: { server: string } }>(
      find(other, "kubernetes:cert-manager.io/v1:ClusterIssuer", issuer),
    );
    expect(acme.server.includes("staging")).toBe(issuer === "letsencrypt-staging");
  });

  it("is proven over the Gateway's HTTP listener", () => {
    for (const issuer of ["letsencrypt-staging", "letsencrypt-prod"]) {
      const { acme } = specOf<{ acme: { solvers: { http01: { gatewayHTTPRoute: { parentRefs: unknown[] } } }[] } }>(
        find(plan, "kubernetes:cert-manager.io/v1:ClusterIssuer", issuer),
      );
      expect(acme.solvers[0]?.http01.gatewayHTTPRoute.parentRefs).toEqual([
        expect.objectContaining({ kind: "Gateway", name: "mcp", namespace: "mcp-gateway", sectionName: "http" }),
      ]);
    }
  });

  it("is waited for on Azure's name, and not on a name that its owner has still to point at the address", () => {
    expect(annotationsOf(find(plan, CERTIFICATE))).toMatchObject({ "pulumi.com/waitFor": "condition=Ready" });
    expect(annotationsOf(find(own, CERTIFICATE))).toEqual({});
  });

  it("holds nothing else up", () => {
    const { urn } = find(plan, CERTIFICATE);
    for (const resource of plan.resources) expect(comesAfter(plan, resource), resource.name).not.toContain(urn);
  });

  it("gives Let's Encrypt an address when there is one", async () => {
    const other = await planCluster("dev", { "mcp:certificateEmail": "ops@example.com" });
    const issuer = find(other, "kubernetes:cert-manager.io/v1:ClusterIssuer", "letsencrypt-staging");
    expect(specOf(issuer)).toMatchObject({ acme: { email: "ops@example.com" } });
    expect(JSON.stringify(specOf(find(plan, issuer.type, "letsencrypt-prod")))).not.toContain("email");
  });
});

describe("a host name of one's own", () => {
  it("goes wherever the DNS label's went", () => {
    expect(own.endpoint).toBe("https://mcp.example.com/mcp");
    expect(own.healthUrl).toBe("https://mcp.example.com/health");
    expect(JSON.stringify(own.resources)).not.toContain(HOST);
    expect(specOf<Route>(find(own, ROUTE, "mcp-server-route")).hostnames).toEqual(["mcp.example.com"]);
  });
});

describe("the server's route", () => {
  it("lets the endpoint and its health through, and neither metrics nor details", () => {
    const { rules, parentRefs } = specOf<Route>(find(plan, ROUTE, "mcp-server-route"));
    expect(parentRefs).toEqual([{ name: "mcp", namespace: "mcp-gateway", sectionName: "https" }]);
    expect(rules).toEqual([
      {
        matches: [{ path: { type: "PathPrefix", value: "/mcp" } }, { path: { type: "Exact", value: "/health" } }],
        backendRefs: [{ kind: "Service", name: "mcp-server", port: 8080 }],
      },
    ]);
  });

  it("keeps streams open beyond Envoy's fifteen seconds", () => {
    const policy = find(plan, "kubernetes:gateway.envoyproxy.io/v1alpha1:BackendTrafficPolicy");
    expect(specOf(policy)).toMatchObject({
      targetRefs: [{ group: "gateway.networking.k8s.io", kind: "HTTPRoute", name: "mcp-server" }],
      timeout: { http: { requestTimeout: "0s", maxStreamDuration: "0s" } },
      circuitBreaker: { maxConnections: 8192, maxParallelRequests: 8192 },
    });
  });

  it("asks another replica where one refuses the connection, and sends nothing twice", () => {
    const policy = find(plan, "kubernetes:gateway.envoyproxy.io/v1alpha1:BackendTrafficPolicy");
    expect(specOf(policy)).toMatchObject({ retry: { retryOn: { triggers: ["connect-failure"] } } });
    expect(JSON.stringify(specOf(policy))).not.toContain("httpStatusCodes");
  });

  it("lets go of idle connections before the server does", () => {
    const policy = find(plan, "kubernetes:gateway.envoyproxy.io/v1alpha1:BackendTrafficPolicy");
    const { timeout } = specOf<{ timeout: { http: { connectionIdleTimeout: string } } }>(policy);
    const kept = /KEEP_ALIVE_TIMEOUT_MS = ([\d_]+)/.exec(readFileSync("server/app.ts", "utf8"))?.[1]?.replace("_", "");
    expect(Number.parseInt(timeout.http.connectionIdleTimeout, 10) * 1000).toBeLessThan(Number(kept));
  });

  it("bounds what comes from one address, beside all that, and leaves the headers about limits to the server", () => {
    const policy = find(plan, "kubernetes:gateway.envoyproxy.io/v1alpha1:BackendTrafficPolicy");
    // A second policy for the same route would be in conflict with this one.
    expect(specOf(policy)).toMatchObject({
      rateLimit: {
        type: "Local",
        local: {
          rules: [
            {
              clientSelectors: [{ sourceCIDR: { type: "Distinct", value: "0.0.0.0/0" } }],
              limit: { requests: 1200, unit: "Minute" },
            },
          ],
        },
      },
      loadBalancer: { type: "ConsistentHash" },
    });
    const client = find(plan, "kubernetes:gateway.envoyproxy.io/v1alpha1:ClientTrafficPolicy");
    expect(specOf(client)).toMatchObject({ headers: { disableRateLimitHeaders: true }, tls: { minVersion: "1.2" } });
    // More than one caller's share, or the gateway would refuse what the server grants.
    expect(1200).toBeGreaterThan(parseEnvironment({}).RATE_LIMIT_PER_MINUTE);
  });

  it("brings what belongs to one session to the replica that has its stream", () => {
    const policy = find(plan, "kubernetes:gateway.envoyproxy.io/v1alpha1:BackendTrafficPolicy");
    expect(specOf(policy)).toMatchObject({
      loadBalancer: { consistentHash: { type: "Headers", headers: [{ name: "Mcp-Session-Id" }] } },
    });
  });
});
