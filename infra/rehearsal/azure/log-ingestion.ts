import { azureError } from "../cloud-error.ts";
import { hexOf, isProperties, numberAt, objectAt, objectsAt, textAt, textsAt } from "../values.ts";
import { armId, resourceGroupId } from "./arm-id.ts";
import { DEPLOYER } from "./deployer.ts";
import type { Azure, AzureRequest, AzureResource, AzureType } from "./resource-type.ts";

const WORKSPACE = "Microsoft.OperationalInsights/workspaces";
const TABLE = `${WORKSPACE}/tables`;
const ENDPOINT = "Microsoft.Insights/dataCollectionEndpoints";
const ACCOUNT = "Microsoft.Storage/storageAccounts";

/** Tables of one's own, the way into them, and the way on to storage. */
export const LOG_INGESTION_TYPES: Readonly<Record<string, AzureType>> = {
  "azure-native:operationalinsights:Table": {
    arm: TABLE,
    names: ["workspaceName", "tableName"],
    located: false,
    naming: {
      pattern: /^[A-Za-z][A-Za-z0-9_]{0,59}_CL$/,
      code: "InvalidParameter",
      sentence:
        "Table name '{name}' is invalid: names of custom tables have letters, digits and '_', and end in '_CL'.",
    },
    required: ["schema.name"],
    check: checkTable,
    outputs: ({ inputs }) => ({ totalRetentionInDays: inputs.totalRetentionInDays ?? inputs.retentionInDays }),
  },

  "azure-native:operationalinsights:DataExport": {
    arm: `${WORKSPACE}/dataExports`,
    names: ["workspaceName", "dataExportName"],
    located: false,
    naming: {
      pattern: /^[A-Za-z][A-Za-z0-9-]{2,61}[A-Za-z0-9]$/,
      sentence: "The data export name '{name}' is invalid: 4 to 63 letters, digits and hyphens, a letter first.",
    },
    required: ["resourceId", "tableNames"],
    check: checkExport,
    outputs: ({ id }) => ({ dataExportId: hexOf(32, "data export", id) }),
  },

  "azure-native:monitor:DataCollectionEndpoint": {
    arm: ENDPOINT,
    names: ["dataCollectionEndpointName"],
    naming: {
      pattern: /^[A-Za-z0-9][A-Za-z0-9-]{1,42}[A-Za-z0-9]$/,
      code: "InvalidResource",
      sentence: "The data collection endpoint name '{name}' is invalid: 3 to 44 letters, digits and hyphens.",
    },
    outputs: ({ name, id, location }) => ({
      immutableId: `dce-${hexOf(32, "endpoint", id)}`,
      logsIngestion: {
        endpoint: `https://${name}-${hexOf(4, "host", id)}.${location}-1.ingest.monitor.azure.com`,
      },
    }),
  },

  "azure-native:monitor:DataCollectionRule": {
    arm: "Microsoft.Insights/dataCollectionRules",
    names: ["dataCollectionRuleName"],
    naming: {
      pattern: /^[A-Za-z0-9][\w.-]{1,62}[A-Za-z0-9]$/,
      code: "InvalidResource",
      sentence: "The data collection rule name '{name}' is invalid: 3 to 64 letters, digits, '.', '-' and '_'.",
    },
    required: ["dataFlows", "destinations"],
    check: checkRule,
    outputs: ({ id }) => ({ immutableId: `dcr-${hexOf(32, "rule", id)}` }),
  },
};

/** Columns that Log Analytics keeps for itself; source: Microsoft, "Standard columns in Azure Monitor Logs". */
const RESERVED = /^(_.*|TenantId|Type|Id|Title|UniqueId|SourceSystem|MG|ManagementGroupName|BilledSize|IsBillable)$/i;
const COLUMN_TYPES = ["string", "int", "long", "real", "boolean", "dateTime", "guid", "dynamic"];
const YEARS = [1095, 1460, 1826, 2191, 2556, 2922, 3288, 3653, 4018, 4383];

function checkTable({ inputs, name }: AzureRequest): void {
  const fault = (message: string) => azureError("InvalidParameter", message);
  if (textAt(inputs, "schema.name") !== name) {
    throw fault(`The schema's name '${textAt(inputs, "schema.name")}' is not the table's, '${name}'.`);
  }
  const columns = objectsAt(inputs, "schema.columns");
  for (const { name: column, type } of columns) {
    if (!/^[A-Za-z]\w{0,44}$/.test(String(column)) || RESERVED.test(String(column))) {
      throw fault(`The column name '${String(column)}' is invalid or reserved.`);
    }
    if (!COLUMN_TYPES.some((known) => known.toLowerCase() === String(type).toLowerCase())) {
      throw fault(`The type '${String(type)}' of column ${String(column)} is not one of ${COLUMN_TYPES.join(", ")}.`);
    }
  }
  if (new Set(columns.map((column) => String(column.name).toLowerCase())).size < columns.length) {
    throw fault(`Two columns of table ${name} have the same name.`);
  }
  if (!columns.some((column) => column.name === "TimeGenerated" && /^datetime$/i.test(String(column.type)))) {
    throw fault(`Table ${name} has no column 'TimeGenerated' of type 'datetime'.`);
  }
  const interactive = numberAt(inputs, "retentionInDays");
  const total = numberAt(inputs, "totalRetentionInDays") ?? interactive;
  if (interactive !== undefined && interactive !== -1 && (interactive < 4 || interactive > 730)) {
    throw fault(`'RetentionInDays' of table ${name} is ${interactive}, and must be 4 to 730 or -1.`);
  }
  if (total !== undefined && total !== -1 && !(total >= 4 && total <= 730) && !YEARS.includes(total)) {
    throw fault(`'TotalRetentionInDays' of table ${name} is ${total}, and must be 4 to 730 or ${YEARS.join(", ")}.`);
  }
  if (total !== undefined && interactive !== undefined && total < interactive) {
    throw fault(`'TotalRetentionInDays' of table ${name} is less than its 'RetentionInDays'.`);
  }
}

function checkExport({ inputs, names, resourceGroup }: AzureRequest, azure: Azure): void {
  const workspaceId = armId(resourceGroupId(DEPLOYER.subscriptionId, resourceGroup), WORKSPACE, names.slice(0, 1));
  const workspace = azure.find(workspaceId);
  const account = azure.need(inputs.resourceId, "destination.resourceId");
  if (account?.arm === ACCOUNT && /^Premium/.test(textAt(account.inputs, "sku.name") ?? "")) {
    throw azureError("BadRequest", `Export to the premium storage account ${account.name} is not supported.`);
  }
  if (workspace && account && workspace.location !== account.location) {
    throw azureError(
      "BadRequest",
      `The destination ${account.name} is in ${account.location}, and must be in the workspace's region, ${workspace.location}.`,
    );
  }
  for (const table of textsAt(inputs, "tableNames")) {
    if (table.endsWith("_CL") && !azure.find(`${workspaceId}/tables/${table}`)) {
      throw azureError("BadRequest", `The table '${table}' does not exist in workspace ${names[0]}.`);
    }
  }
}

/** An export that Azure accepts and that never writes a line: the account's firewall keeps Azure Monitor out. */
export function deafExport(resource: AzureResource, azure: Azure): string | undefined {
  if (resource.arm !== `${WORKSPACE}/dataExports`) return undefined;
  const account = azure.find(String(resource.inputs.resourceId));
  const rules = objectAt(account?.inputs ?? {}, "networkRuleSet");
  if (rules.defaultAction !== "Deny" || String(rules.bypass).includes("AzureServices")) return undefined;
  return `the storage account ${account?.name} admits no Azure services (networkRuleSet.bypass), so nothing will be exported to it`;
}

function checkRule({ inputs, location }: AzureRequest, azure: Azure): void {
  const fault = (code: string, message: string) => azureError(code, message);
  azure.need(inputs.dataCollectionEndpointId, "dataCollectionEndpointId", ENDPOINT);
  const workspaces = new Map<string, AzureResource>();
  for (const { name, workspaceResourceId } of objectsAt(inputs, "destinations.logAnalytics")) {
    const workspace = azure.need(workspaceResourceId, "destinations.logAnalytics.workspaceResourceId", WORKSPACE);
    if (!workspace) continue;
    if (workspace.location !== location) {
      throw fault(
        "InvalidPayload",
        `The rule is in ${location}, and must be in its workspace's region, ${workspace.location}.`,
      );
    }
    workspaces.set(String(name), workspace);
  }
  const declared = objectAt(inputs, "streamDeclarations");
  for (const flow of objectsAt(inputs, "dataFlows")) {
    for (const stream of textsAt(flow, "streams")) {
      const columns = isProperties(declared[stream]) ? objectsAt(declared[stream], "columns") : [];
      if (!stream.startsWith("Custom-") || columns.length === 0) {
        throw fault(
          "InvalidStream",
          `The stream '${stream}' is not declared; names of custom streams begin with 'Custom-'.`,
        );
      }
    }
    for (const destination of textsAt(flow, "destinations")) {
      const workspace = workspaces.get(destination);
      if (!workspace) throw fault("InvalidDestination", `The destination '${destination}' is not among the rule's.`);
      checkFlow(flow, workspace, azure);
    }
  }
}

/** Azure looks the output table up by its name and compares its columns with what the transformation gives. */
function checkFlow(flow: Record<string, unknown>, workspace: AzureResource, azure: Azure): void {
  const [, table = ""] = /^Custom-(.+_CL)$/.exec(String(flow.outputStream)) ?? [];
  const found = azure.find(`${workspace.id}/tables/${table}`);
  if (!found) {
    throw azureError(
      "InvalidOutputTable",
      `Table for output stream '${String(flow.outputStream)}' is not available for destination '${workspace.name}'.`,
    );
  }
  const known = new Map(objectsAt(found.inputs, "schema.columns").map((column) => [column.name, column.type]));
  const query = typeof flow.transformKql === "string" ? flow.transformKql : "source";
  if (!/^source\b/.test(query)) {
    throw azureError("InvalidTransformQuery", "The transformation must begin with the virtual table 'source'.");
  }
  const project = /\| project (.*)$/s.exec(query)?.[1];
  for (const part of project?.split(", ") ?? []) {
    const [name = "", value = ""] = part.split(" = ");
    const given = /^to(string|long|real)\(/.exec(value)?.[1];
    const wanted = known.get(name);
    if (wanted === undefined || (given !== undefined && given !== wanted)) {
      throw azureError(
        "InvalidTransformOutput",
        `Types of transform output columns do not match the ones defined by the output stream: ${name} [produced:'${given ?? "dynamic"}', output:'${String(wanted ?? "none")}'].`,
      );
    }
  }
}

/** The resource that a lock keeps from being deleted, were `id` to be: the lock, where there is one. */
export function lockOver(id: string, azure: Azure): AzureResource | undefined {
  return azure
    .all("Microsoft.Authorization/locks")
    .find(
      (lock) =>
        lock.id.toLowerCase() !== id.toLowerCase() &&
        `${id}/`.toLowerCase().startsWith(`${String(lock.inputs.scope)}/`.toLowerCase()),
    );
}
