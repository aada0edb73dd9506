import type { Registration } from "./recorder.ts";
import { at, numberAt, objectAt, objectsAt, type Properties, textAt, textsAt } from "./values.ts";

/** What works and deserves a look before `pulumi up`. */
export function planWarnings(registrations: readonly Registration[]): string[] {
  const inputsOf = (type: string) => registrations.filter((r) => r.type === type).map((r) => r.inputs);
  const clusters = inputsOf("azure-native:containerservice:ManagedCluster");
  return [
    ...clusters.flatMap(accessWarnings),
    ...inputsOf("azure-native:containerservice:ManagedCluster").flatMap(poolWarnings),
    ...quotaWarnings(clusters, inputsOf("azure-native:containerservice:AgentPool")),
    ...certificateWarnings(registrations),
    ...inputsOf("azure-native:authorization:RoleDefinition").map(
      (role) =>
        `role "${String(role.roleName)}" is a custom one: only an Owner or User Access Administrator may define it (mcp:kedaRole "receiver" needs none)`,
    ),
    ...inputsOf("azure-native:monitor:MetricAlert")
      .filter((alert) => objectsAt(alert, "actions").length === 0)
      .map(
        (alert) =>
          `nobody hears of alert ${String(alert.ruleName)}, which the portal alone shows; mcp:alertEmails says who is written to`,
      ),
    ...inputsOf("kubernetes:helm.sh/v3:Release")
      .filter((release) => release.name === "kube-prometheus-stack" && !tellsSomebody(release))
      .map(
        () =>
          "nobody hears of the cluster's alerts, such as a key that ends or an audit trail that fails: Alertmanager keeps them to itself; mcp:alertWebhook says where they go",
      ),
    ...directoryWarnings(inputsOf("azuread:index/application:Application")),
    ...inputsOf("azure-native:keyvault:Vault").flatMap((vault) =>
      at(vault, "properties.enablePurgeProtection") === true
        ? [
            `purge protection of vault ${String(vault.vaultName)} cannot be turned off again; destroyed, it stays recoverable for ${String(at(vault, "properties.softDeleteRetentionInDays"))} days`,
          ]
        : [],
    ),
  ];
}

/** Whether a release of the Prometheus stack has a receiver with somewhere to send to, which its default has not. */
function tellsSomebody(release: Properties): boolean {
  return objectsAt(release, "values.alertmanager.config.receivers").some(
    (receiver) => Object.keys(receiver).length > 1,
  );
}

/** Rights in the subscription, Owner among them, say nothing of the directory. */
function directoryWarnings(applications: readonly Properties[]): string[] {
  if (applications.length === 0) return [];
  const names = applications.map(({ displayName }) => `"${String(displayName)}"`).join(" and ");
  return [
    `${names} are made in Entra, where roles in the subscription mean nothing: the deployer needs the directory's role Cloud Application Administrator, or Application Developer where owners may assign people (mcp:entraClientId names applications that an administrator has made)`,
  ];
}

// RFC 5737: ranges for documentation, which shipped stack files use.
const EXAMPLE_RANGE = /^(192\.0\.2|198\.51\.100|203\.0\.113)\./;

function accessWarnings(cluster: Properties): string[] {
  const access = objectAt(cluster, "apiServerAccessProfile");
  const ranges = textsAt(access, "authorizedIPRanges");
  const examples = ranges.filter((range) => EXAMPLE_RANGE.test(range));
  if (examples.length > 0) {
    return [
      `mcp:authorizedRanges still holds the example ${examples.join(", ")}, from which nobody can deploy: "pulumi up" refuses it`,
    ];
  }
  if (access.enablePrivateCluster === true) {
    return [
      "the API server is private: previews and updates have to run inside the network that mcp:runnerNetworkId names",
    ];
  }
  return ranges.length === 0
    ? [
        "the API server, the registry, the vault and the jobs' state can be reached from anywhere (roles still decide who may do what); mcp:authorizedRanges narrows that",
      ]
    : [];
}

/** AKS asks system pools for two nodes of four vCPUs, none of them burstable. */
function poolWarnings(cluster: Properties): string[] {
  return objectsAt(cluster, "agentPoolProfiles")
    .filter((pool) => pool.mode === "System")
    .flatMap((pool) => {
      const size = textAt(pool, "vmSize") ?? "";
      const least = numberAt(pool, "minCount") ?? numberAt(pool, "count") ?? 0;
      return [
        ...(least < 2
          ? [
              `system pool "${String(pool.name)}" may have a single node: while that one is upgraded or replaced, nothing answers`,
            ]
          : []),
        ...(/^Standard_B/.test(size)
          ? [`system pool "${String(pool.name)}" is of the burstable size ${size}, which AKS advises against`]
          : []),
        ...((vcpus(size) ?? 4) < 4
          ? [`system pool "${String(pool.name)}" is of size ${size}; AKS advises at least 4 vCPUs`]
          : []),
      ];
    });
}

function vcpus(size: string): number | undefined {
  const match = /^Standard_[A-Z]+(\d+)/.exec(size);
  return match?.[1] === undefined ? undefined : Number(match[1]);
}

/** Quotas are per family and region: nodes at their most and the surge of one upgrade. */
function quotaWarnings(clusters: readonly Properties[], pools: readonly Properties[]): string[] {
  const location = textAt(clusters[0], "location") ?? "the region";
  const families = new Map<string, number>();
  for (const pool of [...clusters.flatMap((cluster) => objectsAt(cluster, "agentPoolProfiles")), ...pools]) {
    const size = textAt(pool, "vmSize") ?? "";
    const family = size.replace(/^Standard_([A-Z]+)\d+(-\d+)?([a-z]*)(?:_(v\d+))?.*$/, "$1$3$4");
    const most = numberAt(pool, "maxCount") ?? numberAt(pool, "count") ?? 0;
    const surge = textAt(pool, "upgradeSettings.maxSurge") ?? "10%";
    const extra = surge.endsWith("%") ? Math.ceil((most * Number.parseInt(surge, 10)) / 100) : Number(surge);
    families.set(family, (families.get(family) ?? 0) + (most + extra) * (vcpus(size) ?? 0));
  }
  return [...families].map(
    ([family, cores]) =>
      `needs a quota of ${cores} vCPUs of family ${family} in ${location} (nodes at their most, and the surge of an upgrade)`,
  );
}

function certificateWarnings(registrations: readonly Registration[]): string[] {
  const objects = registrations.filter((r) => r.type.startsWith("kubernetes:cert-manager.io/")).map((r) => r.inputs);
  return objects
    .filter((object) => object.kind === "Certificate")
    .flatMap((certificate) => {
      const name = textAt(certificate, "spec.issuerRef.name");
      const issuer = objects.find(
        (object) => /Issuer$/.test(String(object.kind)) && textAt(object, "metadata.name") === name,
      );
      return textAt(issuer, "spec.acme.server")?.includes("staging")
        ? [
            `the certificate comes from ${String(name)}, which browsers and MCP clients distrust; mcp:certificateIssuer "letsencrypt-prod" is trusted`,
          ]
        : [];
    });
}
