import { ManagementLockByScope, type RoleAssignment } from "@pulumi/azure-native/authorization/index.js";
import { DataCollectionEndpoint, DataCollectionRule } from "@pulumi/azure-native/monitor/index.js";
import { DataExport, Table } from "@pulumi/azure-native/operationalinsights/index.js";
import { BlobServiceProperties, StorageAccount } from "@pulumi/azure-native/storage/index.js";
import { ComponentResource, type ComponentResourceOptions, type Output, output } from "@pulumi/pulumi";
import { INGESTION_STREAM } from "../../server/observability/audit-sinks/ingestion.ts";
import { localName, storageName } from "../naming.ts";
import type { Settings } from "../settings.ts";
import { AUDIT_COLUMNS, auditTransformation, SENT_COLUMNS } from "./audit-columns.ts";
import type { Principal } from "./principal.ts";
import { assignRole } from "./role-assignment.ts";
import type { Site } from "./site.ts";
import { ENTRA_ONLY } from "./storage.ts";
import type { Telemetry } from "./telemetry.ts";

/** Custom tables end in `_CL`. `mcp-aks audit verify` and docs/audit.md name it in their query. */
export const AUDIT_TABLE = "McpAudit_CL";

/** Longest that a table can be queried without a search job. Days. */
const LONGEST_INTERACTIVE = 730;

/** A name for the workspace inside of the rule. */
const DESTINATION = "workspace";

export interface AuditTrailArgs {
  readonly site: Site;
  readonly settings: Pick<Settings, "audit" | "cluster">;
  readonly telemetry: Pick<Telemetry, "workspaceId" | "workspaceName">;
}

/**
 * Where the server's audit trail goes: a table of its own in Log Analytics, at 2.3 to 3 USD a GB and 0.10 a GB and month
 * from the second month on. A call is about 2 KB there, so a million calls cost some 6 USD.
 *
 * Log Analytics changes nothing that it has taken, but whoever administers the workspace may purge it. So where the trail
 * is to be immutable, it is also exported, about 0.10 USD a GB, to a storage account (0.02 to 0.03 a GB and month) that
 * lets nobody change or delete a blob before its time, and a lock keeps the workspace from being deleted by mistake.
 */
export class AuditTrail extends ComponentResource {
  /** AUDIT_INGESTION_ENDPOINT: `https://<name>.<region>-1.ingest.monitor.azure.com`. */
  readonly endpoint: Output<string>;
  /** AUDIT_INGESTION_RULE: `dcr-` and 32 hex digits. */
  readonly ruleId: Output<string>;

  readonly #site: Site;
  readonly #rule: DataCollectionRule;

  constructor(name: string, args: AuditTrailArgs, opts?: ComponentResourceOptions) {
    super("mcp:azure:AuditTrail", name, {}, opts);
    this.#site = args.site;
    const table = this.#createTable(name, args);
    const entry = this.#createEndpoint(name, args.site);
    this.#rule = this.#createRule(name, args, entry, table);
    if (args.settings.audit.immutable) {
      const copy = this.#exportCopy(name, args, table);
      this.#lockWorkspace(name, args, [table, copy]);
    }
    this.endpoint = entry.logsIngestion.apply((ingestion) => ingestion?.endpoint ?? "");
    this.ruleId = this.#rule.immutableId;
    this.registerOutputs({ endpoint: this.endpoint, ruleId: this.ruleId });
  }

  /** Lets `principal` send lines through the rule, and read nothing. Azure takes up to half an hour to honour it. */
  grantWrite(principal: Principal): RoleAssignment {
    return assignRole(
      {
        site: this.#site,
        principal,
        role: "monitoring-metrics-publisher",
        on: { name: "audit-rule", id: this.#rule.id },
      },
      { parent: this },
    );
  }

  #createTable(name: string, { site, settings, telemetry }: AuditTrailArgs): Table {
    const { retentionDays } = settings.audit;
    return new Table(
      `${name}-table`,
      {
        resourceGroupName: site.resourceGroupName,
        workspaceName: telemetry.workspaceName,
        tableName: AUDIT_TABLE,
        // Alerts, joins and the query for verification need it; the cheaper plans have none of them.
        plan: "Analytics",
        schema: {
          name: AUDIT_TABLE,
          columns: [...SENT_COLUMNS, ...AUDIT_COLUMNS].map(({ name, type }) => ({ name, type })),
        },
        retentionInDays: Math.min(retentionDays, LONGEST_INTERACTIVE),
        totalRetentionInDays: retentionDays,
      },
      { parent: this, protect: site.protect },
    );
  }

  /** Where lines come in. Only Entra identities with a role on a rule are let in, from wherever they come. */
  #createEndpoint(name: string, site: Site): DataCollectionEndpoint {
    return new DataCollectionEndpoint(
      `${name}-endpoint`,
      {
        resourceGroupName: site.resourceGroupName,
        dataCollectionEndpointName: localName("dataCollectionEndpoint", site.parts),
        location: site.location,
        tags: site.tags,
        // Public in every stack: closing it takes an Azure Monitor Private Link Scope (see telemetry.ts).
        networkAcls: { publicNetworkAccess: "Enabled" },
      },
      { parent: this },
    );
  }

  #createRule(
    name: string,
    { site, telemetry }: AuditTrailArgs,
    entry: DataCollectionEndpoint,
    table: Table,
  ): DataCollectionRule {
    return new DataCollectionRule(
      `${name}-rule`,
      {
        resourceGroupName: site.resourceGroupName,
        dataCollectionRuleName: localName("dataCollectionRule", site.parts),
        location: site.location,
        tags: site.tags,
        dataCollectionEndpointId: entry.id,
        streamDeclarations: { [INGESTION_STREAM]: { columns: SENT_COLUMNS.map((sent) => ({ ...sent })) } },
        destinations: { logAnalytics: [{ name: DESTINATION, workspaceResourceId: telemetry.workspaceId }] },
        dataFlows: [
          {
            streams: [INGESTION_STREAM],
            destinations: [DESTINATION],
            transformKql: auditTransformation(),
            outputStream: `Custom-${AUDIT_TABLE}`,
          },
        ],
      },
      // InvalidOutputTable: Azure looks the table up by name when the rule is made.
      { parent: this, dependsOn: table },
    );
  }

  /**
   * A continuous copy in blobs that nobody can change. Immutability of the whole account, and not of a container: Azure
   * makes the container when the first line comes, and names it itself. The policy is unlocked, as every new one is: its
   * administrators may still shorten it, until somebody locks it (docs/audit.md), for good.
   */
  #exportCopy(name: string, { site, settings, telemetry }: AuditTrailArgs, table: Table): DataExport {
    const account = new StorageAccount(
      `${name}-copy`,
      {
        resourceGroupName: site.resourceGroupName,
        accountName: site.suffix.apply((suffix) => storageName("aud", site.parts, suffix)),
        location: site.location,
        tags: site.tags,
        // Export to premium accounts is not supported.
        kind: "StorageV2",
        sku: { name: settings.cluster.zones.length > 0 ? "Standard_ZRS" : "Standard_LRS" },
        accessTier: "Cool",
        enableHttpsTrafficOnly: true,
        ...ENTRA_ONLY,
        // Azure Monitor writes as one of Azure's trusted services, and nobody reads from outside.
        publicNetworkAccess: "Enabled",
        networkRuleSet: { defaultAction: "Deny", bypass: "AzureServices", ipRules: [], virtualNetworkRules: [] },
        immutableStorageWithVersioning: {
          enabled: true,
          immutabilityPolicy: {
            state: "Unlocked",
            immutabilityPeriodSinceCreationInDays: settings.audit.retentionDays,
            // The export appends to a blob for five minutes.
            allowProtectedAppendWrites: true,
          },
        },
      },
      // Once locked, it is nobody's to set back.
      { parent: this, protect: site.protect, ignoreChanges: ["immutableStorageWithVersioning"] },
    );
    const blobs = new BlobServiceProperties(
      `${name}-copy-blobs`,
      {
        resourceGroupName: site.resourceGroupName,
        accountName: account.name,
        blobServicesName: "default",
        // What immutability of versions stands on; Azure refuses to switch it off here.
        isVersioningEnabled: true,
      },
      // A default that nothing could be set back to.
      { parent: this, deletedWith: account },
    );
    return new DataExport(
      `${name}-export`,
      {
        resourceGroupName: site.resourceGroupName,
        workspaceName: telemetry.workspaceName,
        dataExportName: "audit-copy",
        resourceId: account.id,
        tableNames: [table.name],
        enable: true,
      },
      { parent: this, dependsOn: blobs },
    );
  }

  /** The lock also holds for what the workspace contains, so it comes last and goes first. */
  #lockWorkspace(name: string, { telemetry }: AuditTrailArgs, dependsOn: (Table | DataExport)[]): void {
    new ManagementLockByScope(
      `${name}-lock`,
      {
        scope: output(telemetry.workspaceId),
        lockName: "audit-trail",
        level: "CanNotDelete",
        notes: "The audit trail is in here.",
      },
      { parent: this, dependsOn },
    );
  }
}
