import { RoleAssignment } from "@pulumi/azure-native/authorization/index.js";
import { type Output, runtime } from "@pulumi/pulumi";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { principalTypeOf } from "../../../infra/azure/deployer.ts";
import { exchangeToken, networkAccess } from "../../../infra/azure/registry.ts";
import { registerResourceProviders, requiredProviders } from "../../../infra/azure/resource-providers.ts";
import { remainingWait, settled } from "../../../infra/azure/role-assignment.ts";
import { jwt, SUBSCRIPTION, TENANT } from "./recorder.ts";

const TOKEN = jwt({ scp: "user_impersonation" });
const CREATED = "2026-11-20T10:00:00.000Z";

async function asDeployment(preview: boolean): Promise<void> {
  await runtime.setMocks(
    {
      call: () => ({ token: TOKEN }),
      newResource: ({ name, inputs }) => ({ id: `/${name}`, state: { ...inputs, createdOn: CREATED } }),
    },
    "mcp",
    "dev",
    preview,
  );
}

const resolved = <T>(value: Output<T>) => new Promise<unknown>((resolve) => value.apply(resolve));

beforeEach(() => asDeployment(false));
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
  vi.unstubAllEnvs();
});

describe("the deployer's type", () => {
  const CLI = "04b07795-8ddb-461a-bbee-02f9e1bf7b46";
  it.each([
    ["User", "a person by az", jwt({ scp: "user_impersonation" }), CLI],
    ["User", "a person by the newer claim", jwt({ idtyp: "user" }), "x"],
    ["ServicePrincipal", "a workflow or managed identity", jwt({ oid: "x" }), "x"],
    ["ServicePrincipal", "an application by the newer claim", jwt({ idtyp: "app" }), "x"],
    ["User", "az with a token that cannot be read", "opaque", CLI],
    ["ServicePrincipal", "another client with such a token", "opaque", "x"],
  ])("is %s for %s", (type, _, token, clientId) => {
    expect(principalTypeOf(token, { clientId })).toBe(type);
  });
});

describe("the wait for a role", () => {
  const at = (time: string) => Date.parse(time);

  it.each([
    ["just created", "2026-11-20T10:00:00Z", 300_000],
    ["two minutes old", "2026-11-20T10:02:00Z", 180_000],
    ["old enough", "2026-11-20T10:05:00Z", 0],
    ["made in a former run", "2026-12-24T00:00:00Z", 0],
    ["ahead of this clock", "2026-11-20T09:00:00Z", 300_000],
  ])("of five minutes, when it is %s", (_, now, expected) => {
    expect(remainingWait(CREATED, 5, at(now))).toBe(expected);
  });

  it("is none when Azure does not say since when", () => {
    expect(remainingWait("", 5, Date.now())).toBe(0);
  });

  const assignment = () =>
    new RoleAssignment("role", { scope: "/s", principalId: "p", principalType: "User", roleDefinitionId: "r" });

  it("holds back what depends on it until the role is that old", async () => {
    vi.useFakeTimers({ now: at("2026-11-20T10:04:59.900Z"), toFake: ["Date"] });
    const started = performance.now();
    await resolved(settled(assignment(), 5));
    expect(performance.now() - started).toBeGreaterThan(80);
  });

  it("never happens in a preview", async () => {
    await asDeployment(true);
    vi.useFakeTimers({ now: at(CREATED), toFake: ["Date"] });
    const role = assignment();
    expect(await resolved(settled(role, 5))).toBe(role);
  });
});

describe("resource providers", () => {
  const states = (registered: (namespace: string) => boolean, mayRegister = true) => {
    const done = new Set<string>();
    const asked = vi.fn((url: string, { method }: { method: string }) => {
      const namespace = /providers\/([^/?]+)/.exec(url)?.[1] ?? "";
      if (method === "POST") {
        if (mayRegister) done.add(namespace);
        return Promise.resolve(new Response("{}", { status: mayRegister ? 200 : 403 }));
      }
      const state = registered(namespace) || done.has(namespace) ? "Registered" : "NotRegistered";
      return Promise.resolve(Response.json({ registrationState: state }));
    });
    vi.stubGlobal("fetch", asked);
    return { posted: () => asked.mock.calls.filter(([, { method }]) => method === "POST").map(([url]) => url) };
  };
  const needed = requiredProviders({ cache: undefined });

  it("that are missing get registered, the others left alone", async () => {
    const azure = states((namespace) => namespace !== "Microsoft.Insights");
    await registerResourceProviders(SUBSCRIPTION, needed);
    expect(azure.posted()).toEqual([
      `https://management.azure.com/subscriptions/${SUBSCRIPTION}/providers/Microsoft.Insights/register?api-version=2021-04-01`,
    ]);
  });

  it("that the deployer may not register are named, with the command for an owner", async () => {
    states((namespace) => !["Microsoft.Insights", "Microsoft.Cache"].includes(namespace), false);
    const withCache = requiredProviders({ cache: { sku: "Balanced_B0", highAvailability: false } });
    await expect(registerResourceProviders(SUBSCRIPTION, withCache)).rejects.toThrow(
      /Microsoft\.Insights, Microsoft\.Cache not registered[\s\S]*az provider register --namespace Microsoft\.Cache/,
    );
  });

  it("are nobody's business in a preview, nor where the environment says so", async () => {
    const fetched = vi.fn();
    vi.stubGlobal("fetch", fetched);
    vi.stubEnv("ARM_SKIP_PROVIDER_REGISTRATION", "true");
    await registerResourceProviders(SUBSCRIPTION, needed);
    vi.unstubAllEnvs();
    await asDeployment(true);
    await registerResourceProviders(SUBSCRIPTION, needed);
    expect(fetched).not.toHaveBeenCalled();
  });

  it("do not stop a deployment when the subscription cannot be asked", async () => {
    vi.stubGlobal("fetch", () => Promise.reject(new TypeError("fetch failed")));
    await expect(registerResourceProviders(SUBSCRIPTION, needed)).resolves.toBeUndefined();
  });
});

describe("the login to the registry", () => {
  it("trades the deployer's token for the registry's", async () => {
    const fetched = vi.fn((_url: string, _init: { body: URLSearchParams }) =>
      Promise.resolve(Response.json({ refresh_token: "registry-token" })),
    );
    vi.stubGlobal("fetch", fetched);
    expect(await exchangeToken("crmcpdevx7k2p.azurecr.io", TENANT)).toBe("registry-token");
    const [url, { body }] = fetched.mock.calls[0] ?? ["", { body: new URLSearchParams() }];
    expect(url).toBe("https://crmcpdevx7k2p.azurecr.io/oauth2/exchange");
    expect(Object.fromEntries(body)).toEqual({
      grant_type: "access_token",
      service: "crmcpdevx7k2p.azurecr.io",
      tenant: TENANT,
      access_token: TOKEN,
    });
  });

  it("waits for a registry whose name does not resolve yet", async () => {
    let calls = 0;
    vi.stubGlobal("fetch", () =>
      ++calls < 3
        ? Promise.reject(new TypeError("fetch failed"))
        : Promise.resolve(Response.json({ refresh_token: "late" })),
    );
    expect(await exchangeToken("r.azurecr.io", TENANT, 1)).toBe("late");
  });

  it("says from where and as whom to deploy when it is refused, and never the token", async () => {
    vi.stubGlobal("fetch", () => Promise.resolve(new Response("denied", { status: 403 })));
    const failure: unknown = await exchangeToken("r.azurecr.io", TENANT, 1).catch((error: unknown) => error);
    expect(String(failure)).toMatch(/r\.azurecr\.io: HTTP 403.*authorizedRanges.*AcrPush/);
    expect(String(failure)).not.toContain(TOKEN);
  });
});

describe("who reaches the registry", () => {
  const ranges = { access: "ranges", ranges: ["20.30.40.50/32"] } as const;

  it("is said when the ranges cannot bind it", () => {
    expect(networkAccess("Standard", ranges, false).warning).toMatch(/Standard registry.*"Premium"/);
    expect(networkAccess("Premium", ranges, false).warning).toMatch(/privateEndpoints/);
    expect(networkAccess("Premium", ranges, true).warning).toBeUndefined();
    expect(networkAccess("Basic", { access: "public" }, false).warning).toBeUndefined();
  });

  it("includes the nodes: without a private endpoint they pull by its public name", () => {
    expect(networkAccess("Premium", ranges, false).properties).toMatchObject({
      publicNetworkAccess: "Enabled",
      networkRuleSet: { defaultAction: "Allow" },
    });
  });
});
