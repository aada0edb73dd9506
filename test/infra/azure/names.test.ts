import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ADDRESS_PLAN } from "../../../infra/azure/address-plan.ts";
import { osDisk, poolName } from "../../../infra/azure/node-pool.ts";
import { ROLES, stableGuid } from "../../../infra/azure/role-assignment.ts";
import { JOB_QUEUE } from "../../../infra/azure/service-bus.ts";
import { JOB_TABLE, WORKSPACE_SHARE } from "../../../infra/azure/storage.ts";
import {
  defaultDnsLabel,
  globalName,
  identityName,
  localName,
  privateEndpointName,
  storageName,
} from "../../../infra/naming.ts";

// What settings.ts admits: mcp:name, the stack's name, and the suffix that the program makes.
const word = (most: number) => fc.stringMatching(new RegExp(`^[a-z][a-z0-9]{0,${most - 1}}$`));
const parts = fc.record({
  name: fc.stringMatching(/^[a-z][a-z0-9]{1,5}$/),
  stack: word(8),
});
const suffix = fc.stringMatching(/^[a-z0-9]{5}$/);
const guid = fc.uuid();

/** Source of each rule: Microsoft, "Naming rules and restrictions for Azure resources". */
const RULES = {
  resourceGroup: /^(?=.{1,90}$)[\w().-]*[\w()-]$/,
  registry: /^[a-z0-9]{5,50}$/,
  vault: /^(?=.{3,24}$)[a-z]([a-z0-9]|-(?!-))*[a-z0-9]$/,
  serviceBus: /^(?=.{6,50}$)[a-z][a-z0-9-]*[a-z0-9]$/,
  storage: /^[a-z0-9]{3,24}$/,
  redis: /^(?=.{1,60}$)[a-z0-9]([a-z0-9]|-(?!-))*[a-z0-9]$/,
  dnsLabel: /^(?=.{3,63}$)[a-z][a-z0-9-]*[a-z0-9]$/,
  cluster: /^(?=.{1,63}$)[a-z0-9][a-z0-9_-]*[a-z0-9]$/,
  identity: /^(?=.{3,128}$)[a-z0-9][a-z0-9_-]*$/,
  network: /^(?=.{2,64}$)[a-z0-9][\w.-]*\w$/,
  address: /^(?=.{1,80}$)[a-z0-9][\w.-]*\w$/,
  workspace: /^(?=.{4,63}$)[a-z0-9][a-z0-9-]*[a-z0-9]$/,
  pool: /^[a-z][a-z0-9]{0,11}$/,
  guid: /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/,
};

describe("names", () => {
  it("that all of Azure shares obey its rules for every name, stack and suffix", () => {
    fc.assert(
      fc.property(parts, suffix, (p, s) => {
        expect(globalName("registry", p, s)).toMatch(RULES.registry);
        expect(globalName("keyVault", p, s)).toMatch(RULES.vault);
        expect(globalName("serviceBus", p, s)).toMatch(RULES.serviceBus);
        // Reserved endings (Service Bus: "Namespace name").
        expect(globalName("serviceBus", p, s)).not.toMatch(/-(sb|mgmt)$/);
        expect(globalName("redis", p, s)).toMatch(RULES.redis);
        expect(storageName("job", p, s)).toMatch(RULES.storage);
        expect(storageName("wsp", p, s)).toMatch(RULES.storage);
        expect(storageName("job", p, s)).not.toBe(storageName("wsp", p, s));
      }),
    );
  });

  it("within a subscription obey Azure's rules for every name and stack", () => {
    fc.assert(
      fc.property(parts, guid, (p, subscription) => {
        expect(localName("resourceGroup", p)).toMatch(RULES.resourceGroup);
        expect(localName("nodeResourceGroup", p)).toMatch(RULES.resourceGroup);
        expect(`${localName("resourceGroup", p)}-ip`).toMatch(RULES.resourceGroup);
        expect(localName("virtualNetwork", p)).toMatch(RULES.network);
        expect(localName("networkSecurityGroup", p)).toMatch(RULES.address);
        expect(localName("publicIp", p)).toMatch(RULES.address);
        expect(localName("cluster", p)).toMatch(RULES.cluster);
        expect(localName("logWorkspace", p)).toMatch(RULES.workspace);
        for (const purpose of ["cluster", "kubelet", "mcp-server", "job-worker", "keda"]) {
          expect(identityName(purpose, p)).toMatch(RULES.identity);
        }
        expect(privateEndpointName("service-bus", p)).toMatch(RULES.address);
        expect(defaultDnsLabel(p, subscription)).toMatch(RULES.dnsLabel);
      }),
    );
  });

  it("of the three resource groups never collide, whatever the stacks are called", () => {
    fc.assert(
      fc.property(parts, (p) => {
        const names = [
          localName("resourceGroup", p),
          `${localName("resourceGroup", p)}-ip`,
          localName("nodeResourceGroup", p),
        ];
        expect(new Set(names).size).toBe(3);
      }),
    );
  });

  it("of queue, table and share are valid", () => {
    expect(JOB_QUEUE).toMatch(/^[a-z0-9]([a-z0-9._-]{0,258}[a-z0-9])?$/);
    expect(JOB_TABLE).toMatch(/^[A-Za-z][A-Za-z0-9]{2,62}$/);
    expect(WORKSPACE_SHARE).toMatch(/^(?=.{3,63}$)[a-z0-9](-?[a-z0-9])*$/);
  });
});

describe("node pools", () => {
  const size = fc.constantFrom(
    "Standard_D4ds_v5",
    "Standard_D4s_v5",
    "Standard_D8ads_v5",
    "Standard_E4ds_v5",
    "Standard_F8s_v2",
  );
  const zones = fc.subarray(["1", "2", "3"]);

  it("have a valid name, another for nodes that cannot be turned into one another, and the same at every run", () => {
    fc.assert(
      fc.property(size, zones, size, zones, (vmSize, z, otherSize, otherZones) => {
        const name = poolName("user", { pool: { min: 1, max: 3, vmSize }, zones: z });
        const other = poolName("user", { pool: { min: 2, max: 9, vmSize: otherSize }, zones: otherZones });
        expect(name).toMatch(RULES.pool);
        expect(name === other).toBe(vmSize === otherSize && z.join() === otherZones.join());
      }),
    );
  });

  it.each([
    ["Standard_D4ds_v5", { osDiskType: "Ephemeral", osDiskSizeGB: 128 }],
    ["Standard_D2ads_v5", { osDiskType: "Ephemeral", osDiskSizeGB: 64 }],
    ["Standard_E16-4ds_v5", { osDiskType: "Ephemeral", osDiskSizeGB: 128 }],
    ["Standard_D4s_v5", { osDiskType: "Managed", osDiskSizeGB: 128 }],
    ["Standard_DS3_v2", { osDiskType: "Managed", osDiskSizeGB: 128 }],
    ["Standard_F8s_v2", { osDiskType: "Managed", osDiskSizeGB: 128 }],
  ])("of %s keep their system on %o", (vmSize, disk) => {
    expect(osDisk(vmSize)).toEqual(disk);
  });
});

describe("GUIDs of role assignments", () => {
  it("are the same for the same facts, however Azure cases the ids, and differ for others", () => {
    const facts = fc.tuple(
      fc.constantFrom("/subscriptions/a/x", "/subscriptions/a/y"),
      guid,
      fc.constantFrom(...Object.values(ROLES)),
    );
    fc.assert(
      fc.property(facts, facts, (a, b) => {
        expect(stableGuid(...a)).toMatch(RULES.guid);
        expect(stableGuid(...a.map((fact) => fact.toUpperCase()))).toBe(stableGuid(...a));
        expect(stableGuid(...a) === stableGuid(...b)).toBe(a.join("|") === b.join("|"));
      }),
    );
  });

  it("do not change from one version of this program to the next, which would replace every assignment", () => {
    expect(stableGuid("/subscriptions/s/resourceGroups/g", "p", ROLES["acr-pull"])).toMatchInlineSnapshot(
      `"69713979-7ce1-55e6-823d-6abe88d37d50"`,
    );
  });
});

describe("addresses", () => {
  const range = (cidr: string) => {
    const [address = "", bits = "32"] = cidr.split("/");
    const start = address.split(".").reduce((sum, octet) => sum * 256 + Number(octet), 0);
    return { start, end: start + 2 ** (32 - Number(bits)) - 1 };
  };
  const { network, nodes, apiServer, privateEndpoints, pods, services, dns } = ADDRESS_PLAN;
  const overlap = (a: string, b: string) => range(a).start <= range(b).end && range(b).start <= range(a).end;
  const within = (inner: string, outer: string) =>
    range(inner).start >= range(outer).start && range(inner).end <= range(outer).end;

  it("of subnets lie in the network, apart from one another", () => {
    for (const subnet of [nodes, apiServer, privateEndpoints]) expect(within(subnet, network)).toBe(true);
    expect(overlap(nodes, apiServer) || overlap(nodes, privateEndpoints) || overlap(apiServer, privateEndpoints)).toBe(
      false,
    );
  });

  it("of pods and services are nowhere in the network, and DNS is a service's", () => {
    expect(overlap(pods, network) || overlap(services, network) || overlap(pods, services)).toBe(false);
    expect(within(dns, services)).toBe(true);
  });

  it("keep clear of what portals hand out, for peered networks must not overlap", () => {
    for (const usual of ["10.0.0.0/16", "10.1.0.0/16", "10.224.0.0/12", "172.17.0.0/16", "192.168.0.0/16"]) {
      for (const own of [network, pods, services]) expect(overlap(own, usual)).toBe(false);
    }
  });
});
