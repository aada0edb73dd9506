import { existsSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { CHECKOUT } from "../../infra/cli/checkout.ts";
import { deployedServer, portNumber } from "../../infra/cli/deployed-workload.ts";
import { objectsOf, Service } from "../../infra/cli/kubernetes-objects.ts";
import { rehearsePlan } from "../../infra/rehearsal/plan.ts";
import { ENVIRONMENT_VARIABLES, parseEnvironment } from "../../server/config.ts";
import { at, manifestsOf, planOf, resourcesOf, STACKS, startPlanned } from "./planned-stacks.ts";

describe.each(STACKS)("what stack %s gives the server", (stack) => {
  const planned = async () => {
    const plan = await planOf(stack);
    const server = deployedServer(manifestsOf(plan));
    const pod = server.deployment.spec.template.spec;
    return { plan, server, pod, config: parseEnvironment(server.environment) };
  };

  test("its environment parses with the server's own schema, and holds nothing that the server does not read", async () => {
    const { server, config } = await planned();
    expect(config.AUTH_MODE).toBe(stack === "dev" ? "entra,api-key" : "entra");
    expect(config.API_KEY_HASHES).toHaveLength(stack === "dev" ? 1 : 0);
    const unknown = Object.keys(server.environment).filter(
      (name) => !ENVIRONMENT_VARIABLES.some((known) => known === name),
    );
    expect(unknown).toEqual(["NODE_ENV"]);
  });

  test("the endpoint, the route's host and paths, and PUBLIC_URL are the same", async () => {
    const { plan, config } = await planned();
    const endpoint = new URL(String(plan.outputs.endpoint));
    expect(config.PUBLIC_URL).toBe(endpoint.href);
    expect(endpoint.protocol).toBe("https:");
    const route = resourcesOf(plan, "HTTPRoute").find(
      ({ inputs }) => at(inputs, "metadata", "namespace") === "mcp-system",
    );
    expect(at(route?.inputs, "spec", "hostnames")).toEqual([endpoint.hostname]);
    const paths = JSON.stringify(at(route?.inputs, "spec", "rules"));
    for (const path of [endpoint.pathname, new URL(String(plan.outputs.healthUrl)).pathname])
      expect(paths).toContain(path);
  });

  test("tokens are those of the plan's application, in the subscription's tenant, and IDEs log in by its client", async () => {
    const { plan, server, config } = await planned();
    expect(plan.outputs.entra).toMatchObject({
      tenantId: config.ENTRA_TENANT_ID,
      clientId: config.ENTRA_CLIENT_ID,
      ideClientId: config.OAUTH_CLIENT_ID,
    });
    expect(server.environment.ENTRA_ALLOWED_TENANTS).toBe(config.ENTRA_TENANT_ID);
    // Envoy appends the caller's address; what stands before it in the header, anybody may have written.
    expect(config.TRUSTED_PROXY_HOPS).toBe(1);
  });

  test("what clients ask before they log in reaches the server", async () => {
    const { plan } = await planned();
    const route = resourcesOf(plan, "HTTPRoute").find(
      ({ inputs }) => at(inputs, "metadata", "namespace") === "mcp-system",
    );
    const prefixes = JSON.stringify(at(route?.inputs, "spec", "rules", 0, "matches"));
    for (const path of ["/.well-known/oauth-protected-resource", "/.well-known/oauth-authorization-server", "/oauth"]) {
      expect(prefixes).toContain(`"type":"PathPrefix","value":"${path}"`);
    }
  });

  test("ports are the server's, the image's, the Service's and the monitor's", async () => {
    const { plan, server, config } = await planned();
    const { container, image } = server;
    expect(server.port).toBe(config.PORT);
    expect(container.ports.map(({ containerPort }) => containerPort).toSorted()).toEqual([
      config.PORT,
      config.METRICS_PORT,
    ]);
    expect(image.exposedPorts.toSorted()).toEqual([config.PORT, config.METRICS_PORT]);

    const service = objectsOf(Service, manifestsOf(plan)).find(({ metadata }) => metadata.namespace === "mcp-system");
    const monitor = resourcesOf(plan, "ServiceMonitor").find(
      ({ inputs }) => at(inputs, "metadata", "namespace") === "mcp-system",
    );
    const scraped = service?.spec.ports.find(
      ({ name }) => name === at(monitor?.inputs, "spec", "endpoints", 0, "port"),
    );
    expect(portNumber(container, scraped?.targetPort ?? 0)).toBe(config.METRICS_PORT);
    expect(at(monitor?.inputs, "spec", "endpoints", 0, "path")).toBe("/metrics");
  });

  test("command and working directory are the image's, and start a file that is there", async () => {
    const { server } = await planned();
    const { entrypoint, command } = server.image;
    // With the image's own process 1, or without it where the pod's pause container reaps in its stead.
    const shared = at(server.deployment, "spec", "template", "spec", "shareProcessNamespace") === true;
    expect(server.command).toEqual(shared && server.container.command ? command : [...entrypoint, ...command]);
    expect(server.workingDir).toBe("/app/server");
    expect(existsSync(`${CHECKOUT}/server/${server.command.at(-1)}`)).toBe(true);
  });

  test("its user is the image's, and not root", async () => {
    const { server, pod } = await planned();
    expect(`${pod.securityContext?.runAsUser}:${pod.securityContext?.runAsGroup}`).toBe(server.image.user);
    expect(at(pod.securityContext, "runAsNonRoot")).toBe(true);
    expect(at(pod.securityContext, "fsGroup")).toBe(pod.securityContext?.runAsGroup);
  });

  test("what it writes to is mounted, and everything else is read-only", async () => {
    const { server, pod, config } = await planned();
    const mounts = server.container.volumeMounts;
    const volumes = pod.volumes.map(({ name }) => name);
    for (const { name } of mounts) expect(volumes).toContain(name);
    expect(mounts.map(({ mountPath }) => mountPath).toSorted()).toEqual(["/tmp", config.WORKSPACE_PATH]);
    expect(mounts.every(({ readOnly }) => !readOnly)).toBe(true);
    expect(config.WORKSPACE_PATH).toBe(server.image.environment.WORKSPACE_PATH);
    expect(at(server.container, "securityContext", "readOnlyRootFilesystem")).toBe(true);
  });

  test("the pod waits for as long as the server may take to end", async () => {
    const { server, config } = await planned();
    expect(server.terminationGraceSeconds).toBeGreaterThanOrEqual(config.SHUTDOWN_GRACE_SECONDS + 5);
    expect(config.SHUTDOWN_DRAIN_SECONDS).toBeGreaterThan(0);
  });

  test("the image that runs is one by digest, and the one in the outputs", async () => {
    const { plan, server } = await planned();
    expect(server.container.image).toMatch(/@sha256:[0-9a-f]{64}$/);
    expect(plan.outputs.image).toBe(server.container.image);
  });

  test("the server starts with it, and every probe of the Deployment succeeds", async () => {
    const started = await startPlanned(await planOf(stack));
    await started.stop();
    expect(Object.keys(started.server.probes).toSorted()).toEqual(["liveness", "readiness", "startup"]);
  });
});

test("what a stack's file says of callers is what its server reads, word for word", async () => {
  const group = "11111111-1111-1111-1111-111111111111";
  const accessPolicy = JSON.stringify({ roles: { admin: { groups: [group] } } });
  const overrides = {
    accessPolicy,
    allowedTenants: JSON.stringify([group]),
    corsOrigins: JSON.stringify(["https://a.example", "http://localhost:3000"]),
  };
  const { environment } = deployedServer(manifestsOf(await rehearsePlan("staging", { overrides })));
  expect(environment).toMatchObject({
    ACCESS_POLICY: accessPolicy,
    ALLOWED_ORIGINS: "https://a.example,http://localhost:3000",
    ENTRA_ALLOWED_TENANTS: group,
  });
  expect(environment).not.toHaveProperty("API_KEY_HASHES");
  expect(environment).not.toHaveProperty("API_KEYS_SECRET");
});

test("a stack of keys alone tells its server nothing of Entra, and lets nobody ask where to log in", async () => {
  const plan = await rehearsePlan("dev", { overrides: { authentication: "api-key" } });
  const { environment } = deployedServer(manifestsOf(plan));
  expect(environment).toMatchObject({ AUTH_MODE: "api-key", API_KEYS_SECRET: "mcp-api-keys" });
  expect(Object.keys(environment).filter((name) => /ENTRA|OAUTH/.test(name))).toEqual([]);
  expect(JSON.stringify(resourcesOf(plan, "HTTPRoute").map(({ inputs }) => inputs))).not.toContain("well-known");
});
