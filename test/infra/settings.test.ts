import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parse } from "yaml";
import {
  parseSettings,
  refuseClearText,
  refusePlaceholders,
  SECRET_KEYS,
  SETTING_KEYS,
  SettingsError,
} from "../../infra/settings.ts";

type Config = Record<string, string>;

const withKeys = (config: Config) => Object.fromEntries(Object.entries(config).map(([k, v]) => [`mcp:${k}`, v]));
const settingsOf = (stack: string, config: Config = {}) => parseSettings(stack, withKeys(config));
const GUID = "11111111-1111-1111-1111-111111111111";
const PROD = { authorizedRanges: '["20.30.40.50/32"]' };

function faultsOf(stack: string, config: Config): readonly string[] {
  try {
    settingsOf(stack, config);
  } catch (error) {
    if (error instanceof SettingsError) return error.faults;
    throw error;
  }
  return [];
}

const project = parse(readFileSync("Pulumi.yaml", "utf8")) as {
  config: Record<string, { type: string; default: unknown; description: string }>;
};

describe("profiles", () => {
  it("fill in what a stack's file leaves open", () => {
    const dev = settingsOf("dev");
    expect(dev.cluster).toMatchObject({ tier: "Free", systemPool: { min: 1, max: 3 }, userPool: undefined, zones: [] });
    expect(dev.server.replicas).toEqual({ min: 1, max: 1 });
    expect(dev).toMatchObject({ cache: undefined, protect: false, privateEndpoints: false });

    const staging = settingsOf("staging");
    expect(staging.cluster).toMatchObject({
      tier: "Standard",
      systemPoolDedicated: false,
      userPool: { min: 2, max: 5 },
    });
    expect(staging.cache).toEqual({ sku: "Balanced_B0", highAvailability: false });
    expect(staging.certificate.issuer).toBe("letsencrypt-prod");

    const prod = settingsOf("prod", PROD);
    expect(prod.cluster).toMatchObject({
      systemPoolDedicated: true,
      zones: ["1", "2", "3"],
      userPool: { min: 3, max: 10 },
    });
    expect(prod).toMatchObject({
      protect: true,
      privateEndpoints: true,
      registry: { sku: "Premium" },
      serviceBus: { sku: "Premium" },
      keyVault: { retentionDays: 90, purgeProtection: true },
      cache: { highAvailability: true },
      server: { commands: { isolation: "required", network: false } },
    });
    expect(prod.server.commands.programs).toContain("grep");
    expect(dev.server.commands).toEqual({ isolation: "auto", network: true, programs: undefined });
  });

  it("run workers when there are jobs, and in prod one at all times", () => {
    expect(settingsOf("dev").jobs).toEqual({ retentionDays: 7, workers: { min: 0, max: 2 } });
    expect(settingsOf("staging").jobs.workers).toEqual({ min: 0, max: 10 });
    expect(settingsOf("prod", PROD).jobs.workers).toEqual({ min: 1, max: 20 });
    expect(settingsOf("dev", { workers: "1-4", jobRetentionDays: "30" }).jobs).toEqual({
      retentionDays: 30,
      workers: { min: 1, max: 4 },
    });
    expect(settingsOf("dev", { workers: "none" }).jobs.workers).toBeUndefined();
  });

  it("keep the audit trail longer, and harder, the more depends on it", () => {
    expect(settingsOf("dev")).toMatchObject({ audit: { retentionDays: 30, immutable: false } });
    expect(settingsOf("staging")).toMatchObject({ audit: { retentionDays: 90, immutable: false } });
    expect(settingsOf("prod", PROD)).toMatchObject({ audit: { retentionDays: 365, immutable: true } });
    expect(["dev", "staging"].map((stack) => settingsOf(stack).server.auditFailure)).toEqual(["open", "open"]);
    expect(settingsOf("prod", PROD).server.auditFailure).toBe("closed");
    const own = { auditRetentionDays: "2556", auditImmutable: "on", auditFailure: "closed" };
    expect(settingsOf("dev", own)).toMatchObject({
      audit: { retentionDays: 2556, immutable: true },
      server: { auditFailure: "closed" },
    });
  });

  it("log people in at Entra, and take keys in dev alone", () => {
    const entra = { allowedTenants: [], clientIds: [], roleAssignments: [] };
    expect(settingsOf("dev").authentication).toEqual({ apiKeys: true, entra });
    expect(settingsOf("staging").authentication).toEqual({ apiKeys: false, entra });
    expect(settingsOf("prod", PROD).authentication).toEqual({ apiKeys: false, entra });
    expect(settingsOf("dev", { authentication: "api-key" }).authentication).toEqual({ apiKeys: true });
  });

  it("take a repository by its name, or by its names and ids, and nothing between", () => {
    for (const repository of ["acme/mcp", "Acme-1/mcp.on_aks", "acme@1/mcp@22"]) {
      expect(settingsOf("dev", { githubRepository: repository }).github).toEqual({ repository });
    }
    expect(settingsOf("dev").github).toBeUndefined();
    const wrong = [
      "acme",
      "acme/mcp/x",
      "acme@1/mcp",
      "acme/mcp@2",
      "acme@x/mcp@2",
      "repo:acme/mcp",
      "acme/*",
      "https://github.com/acme/mcp",
    ];
    for (const githubRepository of wrong) {
      expect(faultsOf("dev", { githubRepository }), githubRepository).toEqual([
        expect.stringContaining("mcp:githubRepository"),
      ]);
    }
  });

  it("serve a stack of any other name that says which it resembles", () => {
    expect(settingsOf("qa", { profile: "staging" }).registry.sku).toBe("Standard");
  });

  it("give way to the stack's file, line by line", () => {
    const s = settingsOf("staging", {
      systemPool: "3",
      userPool: "none",
      replicas: "2-3",
      zones: "1,3",
      keyVaultRetentionDays: "30",
    });
    expect(s.cluster).toMatchObject({ systemPool: { min: 3, max: 3 }, userPool: undefined, zones: ["1", "3"] });
    expect(s.server.replicas).toEqual({ min: 2, max: 3 });
    expect(s.keyVault.retentionDays).toBe(30);
  });

  it("drop the system pool's taint when there is no other pool to run on", () => {
    expect(settingsOf("prod", { ...PROD, userPool: "none" }).cluster.systemPoolDedicated).toBe(false);
  });
});

describe("management planes", () => {
  it("are narrowed to the ranges wherever some are given, a bare address being one", () => {
    for (const stack of ["dev", "staging", "prod"]) {
      expect(settingsOf(stack, { authorizedRanges: '["20.30.40.50"]' }).managementPlanes).toEqual({
        access: "ranges",
        ranges: ["20.30.40.50/32"],
      });
    }
  });

  it("are private in prod for a runner inside the network", () => {
    const runnerNetworkId =
      "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/hub/providers/Microsoft.Network/virtualNetworks/hub";
    expect(settingsOf("prod", { runnerNetworkId }).managementPlanes).toEqual({ access: "private", runnerNetworkId });
  });
});

describe("who may call", () => {
  const [ONE, TWO] = [GUID, "aaaaaaaa-2222-2222-2222-222222222222"];
  const entraOf = (config: Config) => settingsOf("dev", config).authentication.entra;

  it("is listed by role, kind and object id, each assignment once, whatever its case", () => {
    const roleAssignments = JSON.stringify([
      `admin:group:${TWO}`,
      `Admin:Group:${TWO.toUpperCase()}`,
      `reader:servicePrincipal:${ONE}`,
    ]);
    expect(entraOf({ roleAssignments })?.roleAssignments).toEqual([
      { role: "admin", type: "Group", objectId: TWO },
      { role: "reader", type: "ServicePrincipal", objectId: ONE },
    ]);
  });

  it("may come by applications that stand already", () => {
    expect(entraOf({ entraClientId: ONE, oauthClientId: TWO })?.existing).toEqual({ clientId: ONE, ideClientId: TWO });
    expect(entraOf({ oauthClientId: TWO })).toMatchObject({ existing: undefined, ideClientId: TWO });
  });

  it("is told to the server as it stands in the file, and nothing of it where it says nothing", () => {
    const policy = JSON.stringify({ roles: { admin: { groups: [TWO] } } });
    expect(settingsOf("dev", { accessPolicy: policy }).accessPolicy).toBe(policy);
    expect(settingsOf("dev", { accessPolicy: "{}" }).accessPolicy).toBeUndefined();
    expect(settingsOf("dev", { corsOrigins: '["https://a.example","https://a.example"]' }).corsOrigins).toEqual([
      "https://a.example",
    ]);
  });
});

/** One bad stack file a row: stack, what it says, what the message must name (key, value, mend). */
const REFUSALS: [stack: string, config: Config, ...names: string[]][] = [
  ["dev", { locaton: "eastus2" }, "mcp:locaton", "did you mean mcp:location?"],
  ["dev", { entirelyElse: "1" }, "mcp:entirelyElse", "docs/settings.md"],
  ["dev", { profile: "test" }, "mcp:profile", '"test"', "dev, staging, prod"],
  ["qa", {}, "mcp:profile", '"qa"', "resembles"],
  ["My-Stack", { profile: "dev" }, '"My-Stack"', "lower-case"],
  ["verylongname", { profile: "dev" }, '"verylongname"', "up to 8"],
  ["dev", { name: "my-app" }, "mcp:name", '"my-app"', "2 to 6"],
  ["dev", { name: "1mcp" }, "mcp:name", '"1mcp"', "a letter first"],
  ["dev", { location: "East US 2" }, "mcp:location", '"East US 2"', '"eastus2"'],
  ["dev", { tags: '["owner"]' }, "mcp:tags.0", '"owner"', "key=value"],
  ["dev", { tags: '["a/b=c"]' }, "mcp:tags.0", '"a/b=c"', "without"],
  ["dev", { tags: "owner=me" }, "mcp:tags", '"owner=me"', "YAML list"],
  ["dev", { dnsLabel: "-mcp" }, "mcp:dnsLabel", '"-mcp"', "a letter first"],
  ["dev", { dnsLabel: "Mcp" }, "mcp:dnsLabel", '"Mcp"', "lower-case"],
  ["dev", { domain: "https://mcp.example.com" }, "mcp:domain", "https://mcp.example.com", "without scheme"],
  ["dev", { domain: "localhost" }, "mcp:domain", '"localhost"', "mcp.example.com"],
  ["dev", { image: "mcp-server:latest" }, "mcp:image", '"mcp-server:latest"', "@sha256:"],
  ["dev", { image: `ghcr.io/a/b@sha256:${"0".repeat(63)}` }, "mcp:image", "64 hex digits"],
  ["dev", { authorizedRanges: '["10.1.0.0/16"]' }, "mcp:authorizedRanges.0", '"10.1.0.0/16"', "public address"],
  ["dev", { authorizedRanges: '["100.64.1.1"]' }, "mcp:authorizedRanges.0", '"100.64.1.1"', "public address"],
  ["dev", { authorizedRanges: '["0.0.0.0/0"]' }, "mcp:authorizedRanges.0", '"0.0.0.0/0"', "name the addresses"],
  ["dev", { authorizedRanges: '["20.1.2.3/24"]' }, "mcp:authorizedRanges.0", '"20.1.2.3/24"', "write 20.1.2.0/24"],
  ["dev", { authorizedRanges: '["20.1.2.300"]' }, "mcp:authorizedRanges.0", '"20.1.2.300"', "255"],
  ["dev", { authorizedRanges: '["my-office"]' }, "mcp:authorizedRanges.0", '"my-office"', "203.0.113.7/32"],
  ["dev", { authorizedRanges: "[20]" }, "mcp:authorizedRanges.0", "20", "CIDR"],
  ["dev", { authorizedRanges: '{"a":1}' }, "mcp:authorizedRanges", "YAML list"],
  ["dev", { runnerNetworkId: "hub" }, "mcp:runnerNetworkId", '"hub"', "az network vnet show"],
  ["dev", { managementPlanes: "closed" }, "mcp:managementPlanes", '"closed"', "public, private"],
  ["dev", { privateEndpoints: "yes" }, "mcp:privateEndpoints", '"yes"', "on, off"],
  ["dev", { admins: '["alice@example.com"]' }, "mcp:admins.0", "alice@example.com", "User:<object id>"],
  ["dev", { protect: "true" }, "mcp:protect", '"true"', "on, off"],
  ["dev", { certificateIssuer: "letsencrypt" }, "mcp:certificateIssuer", '"letsencrypt"', "letsencrypt-staging"],
  ["dev", { certificateEmail: "ops" }, "mcp:certificateEmail", '"ops"', "e-mail"],
  ["dev", { logRetentionDays: "7" }, "mcp:logRetentionDays", "7", "30 to 730"],
  ["dev", { logRetentionDays: "a month" }, "mcp:logRetentionDays", '"a month"', "30 to 730"],
  ["dev", { maintenanceWindow: "Sun 2am" }, "mcp:maintenanceWindow", '"Sun 2am"', '"Sunday 02:00"'],
  ["dev", { maintenanceWindow: "Sunday 24:00" }, "mcp:maintenanceWindow", '"Sunday 24:00"'],
  ["dev", { kubernetesVersion: "1.29" }, "mcp:kubernetesVersion", '"1.29"', "1.35, 1.36"],
  ["dev", { aksTier: "Premium" }, "mcp:aksTier", '"Premium"', "Free, Standard"],
  ["dev", { zones: "1,4" }, "mcp:zones", '"1,4"', '"1,2,3"'],
  ["dev", { zones: "1,1" }, "mcp:zones", '"1,1"', '"1,2,3"'],
  ["dev", { systemPool: "3-1" }, "mcp:systemPool", "3", "min <= max"],
  ["dev", { systemPool: "0-1" }, "mcp:systemPool", "1 <= min"],
  ["dev", { systemPool: "many" }, "mcp:systemPool", '"many"', "min-max"],
  ["dev", { systemPool: "none" }, "mcp:systemPool", '"none"', "min-max"],
  ["dev", { systemVmSize: "Standard_B4ms" }, "mcp:systemVmSize", "Standard_B4ms", "burstable"],
  ["dev", { systemVmSize: "Standard_D2ds_v5" }, "mcp:systemVmSize", "Standard_D2ds_v5", "vCPU"],
  ["dev", { userVmSize: "D4" }, "mcp:userVmSize", '"D4"', "Standard_D4ds_v5"],
  ["dev", { registrySku: "premium" }, "mcp:registrySku", '"premium"', "Premium"],
  ["dev", { keyVaultRetentionDays: "3" }, "mcp:keyVaultRetentionDays", "3", "7 to 90"],
  ["dev", { serviceBusSku: "Basic" }, "mcp:serviceBusSku", '"Basic"', "Standard, Premium"],
  ["dev", { cache: "redis" }, "mcp:cache", '"redis"', "Balanced_B1"],
  ["dev", { workspace: "smb" }, "mcp:workspace", '"smb"', "nfs, emptyDir"],
  ["dev", { workspaceSizeGiB: "50" }, "mcp:workspaceSizeGiB", "50", "100"],
  ["dev", { replicas: "0" }, "mcp:replicas", "1 <= min"],
  ["dev", { workers: "many" }, "mcp:workers", '"many"', "min-max"],
  ["dev", { workers: "0-101" }, "mcp:workers", "max <= 100"],
  ["dev", { jobRetentionDays: "0" }, "mcp:jobRetentionDays", "1 to 365"],
  ["dev", { commandIsolation: "off" }, "mcp:commandIsolation", '"off"', "required, auto"],
  ["dev", { commandNetwork: "none" }, "mcp:commandNetwork", '"none"', "on, off"],
  ["dev", { commandPrograms: "rm -rf" }, "mcp:commandPrograms", '"rm -rf"', '"cat,grep,/opt/tools/lint"'],
  ["dev", { authentication: "api-key,entra" }, "mcp:authentication", '"api-key,entra"', "entra,api-key"],
  ["dev", { authentication: "none" }, "mcp:authentication", '"none"', "api-key"],
  ["dev", { entraClientId: "mcp-dev" }, "mcp:entraClientId", '"mcp-dev"', "az ad app list"],
  ["dev", { oauthClientId: "ide" }, "mcp:oauthClientId", '"ide"', "az ad app list"],
  ["dev", { allowedTenants: '["contoso.com"]' }, "mcp:allowedTenants.0", '"contoso.com"', "az account show"],
  ["dev", { clientIds: '["Azure CLI"]' }, "mcp:clientIds.0", '"Azure CLI"', "not its name"],
  [
    "dev",
    { roleAssignments: '["owner:user:x"]' },
    "mcp:roleAssignments.0",
    '"owner:user:x"',
    "reader, operator, admin",
  ],
  ["dev", { roleAssignments: `["admin:${GUID}"]` }, "mcp:roleAssignments.0", "user, group, servicePrincipal"],
  ["dev", { accessPolicy: "admins" }, "mcp:accessPolicy", "JSON"],
  ["dev", { accessPolicy: '{"roles":{"boss":{}}}' }, "mcp:accessPolicy", "boss", "reader, operator, admin"],
  ["dev", { accessPolicy: '{"roles":{"admin":{"groups":[]}}}' }, "mcp:accessPolicy", "groups"],
  ["dev", { corsOrigins: '["*"]' }, "mcp:corsOrigins.0", '"*"', "https://app.example.com"],
  ["dev", { corsOrigins: '["https://a.example/"]' }, "mcp:corsOrigins.0", "trailing slash"],
  ["dev", { corsOrigins: '["http://a.example"]' }, "mcp:corsOrigins.0", "http for localhost alone"],
  ["dev", { corsOrigins: "[1]" }, "mcp:corsOrigins.0", "1", "not text"],
  ["dev", { kedaRole: "owner" }, "mcp:kedaRole", '"owner"', "queue-reader, receiver"],
  // combinations
  ["dev", { authentication: "api-key", roleAssignments: `["admin:user:${GUID}"]` }, "mcp:roleAssignments", "drop it"],
  ["dev", { authentication: "api-key", entraClientId: GUID }, "mcp:entraClientId", GUID, "drop it"],
  ["dev", { entraClientId: GUID }, "mcp:oauthClientId", GUID, "public client"],
  ["dev", { entraClientId: GUID, oauthClientId: GUID }, "mcp:oauthClientId", GUID, "the other one"],
  ["dev", { replicas: "2" }, "mcp:cache", '"memory"', "Balanced_B0"],
  ["staging", { workspace: "emptyDir" }, "mcp:workspace", '"emptyDir"', '"nfs"'],
  ["dev", { workspace: "emptyDir" }, "mcp:workspace", '"emptyDir"', "2 workers", '"nfs"', 'mcp:workers to "none"'],
  ["dev", { workers: "0" }, "mcp:workers", '"0"', '"0-2"', '"none"'],
  ["staging", { workers: "none" }, "mcp:workers", '"none"', "6 replicas", '"0-2"'],
  ["dev", { privateEndpoints: "on" }, "mcp:registrySku", '"Basic"', "Premium"],
  ["staging", { privateEndpoints: "on", registrySku: "Premium" }, "mcp:serviceBusSku", '"Standard"', "Premium"],
  ["prod", {}, "mcp:managementPlanes", "mcp:runnerNetworkId", "mcp:authorizedRanges"],
  ["prod", { ...PROD, managementPlanes: "private" }, "mcp:authorizedRanges", "20.30.40.50/32", "drop them"],
  ["dev", { managementPlanes: "private" }, "mcp:privateEndpoints", '"off"', '"on"'],
];

describe("a bad stack file is refused", () => {
  it.each(REFUSALS)("%s %o", (stack, config, ...names) => {
    const faults = faultsOf(stack, config);
    expect(
      faults.some((fault) => names.every((name) => fault.includes(name))),
      faults.join("\n"),
    ).toBe(true);
  });

  it("with all its faults at once, each naming its key", () => {
    const faults = faultsOf("dev", { locaton: "x", image: "a:b", zones: "9", admins: '["me","User:1"]' });
    expect(faults).toHaveLength(5);
    for (const key of ["mcp:locaton", "mcp:image", "mcp:zones", "mcp:admins.0", "mcp:admins.1"]) {
      expect(faults.some((f) => f.startsWith(`${key}:`))).toBe(true);
    }
  });

  it("without a stack trace in front of the user", () => {
    const error = new SettingsError("dev", ["mcp:x: y"]);
    expect(error.message).toContain('Stack "dev" has one setting to mend before anything is created');
    expect((error as { __pulumiRunError?: boolean }).__pulumiRunError).toBe(true);
  });
});

describe("the examples of the shipped stack files", () => {
  it("may be planned but not deployed", () => {
    const settings = settingsOf("prod", { authorizedRanges: '["203.0.113.10/32"]' });
    expect(() => refusePlaceholders(settings)).toThrow(/203\.0\.113\.10\/32.*name the public address/);
    expect(() => refusePlaceholders(settingsOf("prod", PROD))).not.toThrow();
  });
});

describe("who hears of alerts", () => {
  const SLACK = "https://hooks.slack.com/services/T0/B0/topsecret";

  it("is nobody until somebody is named, each address once", () => {
    expect(settingsOf("prod", PROD).alerts).toEqual({ emails: [], webhook: undefined });
    const alertEmails = '["oncall@example.com", "Ops@example.com", "ops@example.com"]';
    const named = settingsOf("dev", { alertEmails, alertWebhook: SLACK, alertWebhookKind: "slack" }).alerts;
    expect(named.webhook).toEqual({ url: SLACK, kind: "slack" });
    expect(named.emails.map((address) => address.toLowerCase())).toEqual(["oncall@example.com", "ops@example.com"]);
    expect(settingsOf("dev", { alertWebhook: "https://pager.example.com/x" }).alerts.webhook?.kind).toBe("json");
  });

  it.each([
    ["no address", { alertEmails: '["oncall"]' }, "mcp:alertEmails.0", '"oncall" is not an e-mail address'],
    ["nothing to write of", { alertEmails: '["a@b.example"]', workers: "none" }, "mcp:alertEmails", "mcp:alertWebhook"],
    ["a kind of no webhook", { alertWebhookKind: "teams" }, "mcp:alertWebhookKind", "there is none"],
    ["what Slack refuses", { alertWebhook: SLACK }, "mcp:alertWebhookKind", 'set it to "slack"'],
    ["an open line", { alertWebhook: "http://x.example/topsecret" }, "mcp:alertWebhook", "is not an https URL"],
    ["no URL", { alertWebhook: "topsecret" }, "mcp:alertWebhook", "is not an https URL"],
  ])("is not %s, and no fault shows a secret", (_, config: Config, key, sentence) => {
    const faults = faultsOf("dev", config);
    expect(faults).toEqual([expect.stringContaining(sentence)]);
    expect(faults[0]?.startsWith(`${key}: `)).toBe(true);
    expect(faults.join()).not.toContain("topsecret");
  });

  it("does not stand in the clear in a stack's file, where it is a secret", () => {
    const open = { "mcp:alertWebhook": SLACK, "mcp:location": "westeurope" };
    expect(() => refuseClearText("dev", open, () => false)).toThrow(/pulumi config set --secret mcp:alertWebhook/);
    expect(() => refuseClearText("dev", open, () => false)).not.toThrow(/topsecret/);
    expect(() => refuseClearText("dev", open, (key) => key === "mcp:alertWebhook")).not.toThrow();
    expect(() => refuseClearText("dev", { "mcp:alertWebhook": "" }, () => false)).not.toThrow();
    expect(SETTING_KEYS).toEqual(expect.arrayContaining([...SECRET_KEYS]));
  });
});

describe("any configuration at all", () => {
  it("is either complete or refused with faults that name their keys", () => {
    const key = fc.oneof(fc.constantFrom(...SETTING_KEYS), fc.string());
    fc.assert(
      fc.property(
        fc.dictionary(key, fc.oneof(fc.string(), fc.constantFrom("profile", "on", "2-3", "[]", "none"))),
        (config) => {
          const faults = faultsOf("dev", config);
          for (const fault of faults) expect(fault).toMatch(/^mcp:/);
        },
      ),
    );
  });

  it("leaves providers' own settings alone", () => {
    expect(parseSettings("dev", { "azure-native:location": "anything", "kubernetes:x": "y" }).location).toBe("eastus2");
  });

  it("accepts every public range whose host bits are zero, as written", () => {
    fc.assert(
      fc.property(fc.integer({ min: 8, max: 32 }), fc.integer({ min: 0, max: 2 ** 24 - 1 }), (bits, rest) => {
        const address = 20 * 2 ** 24 + rest;
        const start = address - (address % 2 ** (32 - bits));
        const cidr = `${[24, 16, 8, 0].map((s) => Math.floor(start / 2 ** s) % 256).join(".")}/${bits}`;
        expect(settingsOf("dev", { authorizedRanges: JSON.stringify([cidr]) }).managementPlanes).toEqual({
          access: "ranges",
          ranges: [cidr],
        });
      }),
    );
  });
});

describe("Pulumi.yaml", () => {
  it("describes every setting, and no other", () => {
    expect(Object.keys(project.config).sort()).toEqual([...SETTING_KEYS].sort());
    for (const [key, entry] of Object.entries(project.config)) expect(entry.description, key).toMatch(/\.$/);
  });

  it("has defaults that mean the same as silence", () => {
    const defaults = Object.fromEntries(
      Object.entries(project.config).map(([k, { default: d }]) => [k, typeof d === "string" ? d : JSON.stringify(d)]),
    );
    expect(settingsOf("dev", defaults)).toEqual(settingsOf("dev"));
    expect(settingsOf("prod", { ...defaults, ...PROD })).toEqual(settingsOf("prod", PROD));
  });
});

describe("the settings reference", () => {
  const reference = readFileSync("docs/settings.md", "utf8");
  const readme = readFileSync("README.md", "utf8");

  it.each(Object.keys(project.config))("has a row for mcp:%s, there and in the README", (key) => {
    expect(reference).toContain(`| \`${key}\` |`);
    expect(readme).toContain(`\`${key}\``);
  });
});
