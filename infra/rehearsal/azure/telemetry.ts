import { azureError } from "../cloud-error.ts";
import { guidOf, numberAt, objectsAt, textAt, textsAt } from "../values.ts";
import { parseArmId } from "./arm-id.ts";
import type { Azure, AzureRequest, AzureType } from "./resource-type.ts";

const WORKSPACE = "Microsoft.OperationalInsights/workspaces";
const ACTION_GROUP = "Microsoft.Insights/actionGroups";

export const TELEMETRY_TYPES: Readonly<Record<string, AzureType>> = {
  "azure-native:operationalinsights:Workspace": {
    arm: WORKSPACE,
    names: ["workspaceName"],
    naming: {
      pattern: /^[A-Za-z0-9][A-Za-z0-9-]{2,61}[A-Za-z0-9]$/,
      code: "InvalidParameter",
      sentence:
        "Invalid workspace name '{name}': 4 to 63 letters, digits and hyphens, none of the hyphens first or last.",
    },
    check({ inputs }) {
      const sku = textAt(inputs, "sku.name") ?? "PerGB2018";
      if (!["PerGB2018", "CapacityReservation", "Free", "LACluster"].includes(sku)) {
        throw azureError("InvalidParameter", `'Sku.Name' property is invalid: '${sku}'.`);
      }
      const days = numberAt(inputs, "retentionInDays");
      if (days !== undefined && sku !== "Free" && (days < 30 || days > 730)) {
        throw azureError(
          "InvalidParameter",
          `'RetentionInDays' property doesn't match the SKU limits: ${days} is not between 30 and 730.`,
        );
      }
    },
    outputs: ({ id }) => ({ customerId: guidOf("workspace", id), createdDate: "2020-01-01T00:00:00Z" }),
  },

  "azure-native:applicationinsights:Component": {
    arm: "Microsoft.Insights/components",
    names: ["resourceName"],
    naming: {
      pattern: /^(?=.{1,260}$)[\w.()-]*[\w()-]$/,
      sentence: "The name '{name}' of the Application Insights component is invalid.",
    },
    required: ["kind", "applicationType"],
    check({ inputs }, azure) {
      if (inputs.ingestionMode === "LogAnalytics" || inputs.ingestionMode === undefined) {
        if (inputs.workspaceResourceId === undefined) {
          throw azureError(
            "BadRequest",
            "The ingestionMode 'LogAnalytics' needs a workspaceResourceId: classic Application Insights resources can no longer be created.",
          );
        }
        azure.need(inputs.workspaceResourceId, "workspaceResourceId", WORKSPACE);
      }
    },
    outputs: ({ id, location, name }) => {
      const key = guidOf("instrumentation key", id);
      const appId = guidOf("application", id);
      const hosts = `IngestionEndpoint=https://${location}-0.in.applicationinsights.azure.com/;LiveEndpoint=https://${location}.livediagnostics.monitor.azure.com/`;
      return {
        instrumentationKey: key,
        appId,
        applicationId: name,
        connectionString: `InstrumentationKey=${key};${hosts};ApplicationId=${appId}`,
        retentionInDays: 90,
      };
    },
  },

  "azure-native:monitor:DiagnosticSetting": {
    arm: "Microsoft.Insights/diagnosticSettings",
    names: ["name"],
    scope: "anyResource",
    scopeProperty: "resourceUri",
    located: false,
    naming: {
      pattern: /^[^*#&+:<>?]{1,260}$/,
      sentence: "The diagnostic setting name '{name}' is invalid.",
    },
    check: checkDiagnosticSetting,
  },

  "azure-native:monitor:MetricAlert": {
    arm: "Microsoft.Insights/metricAlerts",
    names: ["ruleName"],
    naming: {
      pattern: /^(?=.{1,260}$)[^*#&+:<>?@%{}\\/|]*[^*#&+:<>?@%{}\\/|. ]$/,
      sentence: "The metric alert name '{name}' is invalid.",
    },
    required: ["severity", "enabled", "scopes", "evaluationFrequency", "windowSize", "criteria"],
    check: checkMetricAlert,
  },

  "azure-native:monitor:ActionGroup": {
    arm: ACTION_GROUP,
    names: ["actionGroupName"],
    naming: {
      pattern: /^(?=.{1,260}$)[^:<>+/&%\\?]*[^:<>+/&%\\?. ]$/,
      sentence: "The action group name '{name}' is invalid.",
    },
    required: ["groupShortName", "enabled"],
    check: checkActionGroup,
  },
};

/** Azure Monitor, "Action groups" and "Azure Monitor service limits", 2026. */
const MOST_SHORT_NAME = 12;

function checkActionGroup({ inputs, location, name }: AzureRequest): void {
  const fault = (message: string) => azureError("BadRequest", `Action group ${name}: ${message}`);
  if (location !== "global") throw fault(`location must be 'global', not '${location}'.`);
  const shortName = textAt(inputs, "groupShortName") ?? "";
  if (shortName.length < 1 || shortName.length > MOST_SHORT_NAME) {
    throw fault(`groupShortName '${shortName}' must have 1 to ${MOST_SHORT_NAME} characters.`);
  }
  const receivers = Object.entries(inputs)
    .filter(([key]) => key.endsWith("Receivers"))
    .flatMap(([key]) => objectsAt(inputs, key));
  const names = receivers.map((receiver) => String(receiver.name).toLowerCase());
  const twice = names.find((other, i) => names.indexOf(other) !== i);
  if (twice !== undefined) throw fault(`receiver names must be unique, and '${twice}' is not.`);
  const wrong = objectsAt(inputs, "emailReceivers").find(
    (receiver) => !/^[^\s@]+@[^\s@]+\.[^\s@]+$/.test(textAt(receiver, "emailAddress") ?? ""),
  );
  if (wrong) throw fault(`'${String(wrong.emailAddress)}' is not a valid email address.`);
}

/** Metrics that alerts may ask for; source: Microsoft, "Supported metrics with Azure Monitor", 2026. */
const METRICS: Readonly<Record<string, Readonly<Record<string, { aggregations: string[]; dimensions: string[] }>>>> = {
  "Microsoft.ServiceBus/namespaces": {
    ActiveMessages: { aggregations: ["Average", "Minimum", "Maximum"], dimensions: ["EntityName"] },
    DeadletteredMessages: { aggregations: ["Average", "Minimum", "Maximum"], dimensions: ["EntityName"] },
    ServerErrors: { aggregations: ["Total"], dimensions: ["EntityName", "OperationResult"] },
    ThrottledRequests: {
      aggregations: ["Total"],
      dimensions: ["EntityName", "OperationResult", "MessagingErrorSubCode"],
    },
  },
};
const FREQUENCIES = ["PT1M", "PT5M", "PT15M", "PT30M", "PT1H"];
const WINDOWS = [...FREQUENCIES, "PT6H", "PT12H", "P1D"];

function checkMetricAlert({ inputs, location, name }: AzureRequest, azure: Azure): void {
  const fault = (message: string) => azureError("BadRequest", `Metric alert ${name}: ${message}`);
  if (location !== "global") throw fault(`location must be 'global', not '${location}'.`);
  const severity = numberAt(inputs, "severity");
  if (severity === undefined || severity < 0 || severity > 4) throw fault("severity must be 0 to 4.");
  const frequency = WINDOWS.indexOf(textAt(inputs, "evaluationFrequency") ?? "");
  const window = WINDOWS.indexOf(textAt(inputs, "windowSize") ?? "");
  if (frequency < 0 || frequency >= FREQUENCIES.length || window < frequency) {
    throw fault(`evaluationFrequency must be one of ${FREQUENCIES.join(", ")}, and windowSize no shorter.`);
  }
  for (const { actionGroupId } of objectsAt(inputs, "actions")) azure.need(actionGroupId, "actions", ACTION_GROUP);
  const types = textsAt(inputs, "scopes").map((scope) => {
    azure.need(scope, "scopes");
    return parseArmId(scope)?.type ?? "";
  });
  for (const criterion of objectsAt(inputs, "criteria.allOf")) {
    for (const type of types) {
      const metric = METRICS[type]?.[String(criterion.metricName)];
      if (!metric) throw fault(`couldn't find a metric named '${String(criterion.metricName)}' of ${type}.`);
      if (!metric.aggregations.includes(String(criterion.timeAggregation))) {
        throw fault(`the metric has no aggregation '${String(criterion.timeAggregation)}'.`);
      }
      const foreign = objectsAt(criterion, "dimensions").find(({ name }) => !metric.dimensions.includes(String(name)));
      if (foreign) throw fault(`the metric has no dimension '${String(foreign.name)}'.`);
    }
  }
}

/** Categories by resource type; source: Microsoft, "Supported resource logs in Azure Monitor", 2026. */
const LOGS: Readonly<Record<string, readonly string[]>> = {
  "Microsoft.ContainerService/managedClusters": [
    "kube-apiserver",
    "kube-audit",
    "kube-audit-admin",
    "kube-controller-manager",
    "kube-scheduler",
    "cluster-autoscaler",
    "cloud-controller-manager",
    "guard",
    "csi-azuredisk-controller",
    "csi-azurefile-controller",
    "csi-snapshot-controller",
    "fleet-member-agent",
    "fleet-member-net-controller-manager",
    "fleet-mcs-controller-manager",
  ],
  "Microsoft.ContainerRegistry/registries": ["ContainerRegistryLoginEvents", "ContainerRegistryRepositoryEvents"],
  "Microsoft.KeyVault/vaults": ["AuditEvent", "AzurePolicyEvaluationDetails"],
  "Microsoft.ServiceBus/namespaces": [
    "OperationalLogs",
    "VNetAndIPFilteringLogs",
    "RuntimeAuditLogs",
    "ApplicationMetricsLogs",
    "DataDRLogs",
    "DiagnosticErrorLogs",
  ],
  "Microsoft.Storage/storageAccounts": [],
  "Microsoft.Storage/storageAccounts/tableServices": ["StorageRead", "StorageWrite", "StorageDelete"],
  "Microsoft.Storage/storageAccounts/fileServices": ["StorageRead", "StorageWrite", "StorageDelete"],
  "Microsoft.Storage/storageAccounts/blobServices": ["StorageRead", "StorageWrite", "StorageDelete"],
  "Microsoft.Cache/redisEnterprise": [],
  "Microsoft.Cache/redisEnterprise/databases": ["ConnectionEvents"],
  "Microsoft.Network/publicIPAddresses": [
    "DDoSProtectionNotifications",
    "DDoSMitigationFlowLogs",
    "DDoSMitigationReports",
  ],
  "Microsoft.Network/networkSecurityGroups": ["NetworkSecurityGroupEvent", "NetworkSecurityGroupRuleCounter"],
  "Microsoft.Network/virtualNetworks": ["VMProtectionAlerts"],
  "Microsoft.OperationalInsights/workspaces": ["Audit", "SummaryLogs", "Jobs"],
};

function checkDiagnosticSetting({ inputs, id }: AzureRequest, azure: Azure): void {
  const target = String(inputs.resourceUri);
  const type = parseArmId(target)?.type ?? "";
  const logs = LOGS[type];
  if (!logs)
    throw azureError(
      "ResourceTypeNotSupported",
      `The resource type '${type.toLowerCase()}' does not support diagnostic settings.`,
    );
  const metrics = type.startsWith("Microsoft.Storage/") ? ["Transaction", "Capacity"] : ["AllMetrics"];
  for (const log of objectsAt(inputs, "logs")) {
    if ((log.category === undefined) === (log.categoryGroup === undefined)) {
      throw azureError("BadRequest", "A log of a diagnostic setting names either a category or a category group.");
    }
    if (log.retentionPolicy !== undefined && textAt(log, "retentionPolicy.days") !== "0") {
      throw azureError("BadRequest", "Diagnostic settings does not support retention for new diagnostic settings.");
    }
    const known = log.category === undefined ? ["allLogs", "audit"] : logs;
    const asked = String(log.category ?? log.categoryGroup);
    if (!known.includes(asked)) throw azureError("BadRequest", `Category '${asked}' is not supported.`);
  }
  for (const metric of objectsAt(inputs, "metrics")) {
    if (!metrics.includes(String(metric.category))) {
      throw azureError("BadRequest", `Metric category '${String(metric.category)}' is not supported.`);
    }
  }
  if (
    inputs.workspaceId === undefined &&
    inputs.storageAccountId === undefined &&
    inputs.eventHubAuthorizationRuleId === undefined
  ) {
    throw azureError("BadRequest", "At least one data sink needs to be specified.");
  }
  if (inputs.workspaceId !== undefined) azure.need(inputs.workspaceId, "workspaceId", WORKSPACE);
  // "Data sinks can't be reused in different settings on the same category for the same resource."
  const others = azure
    .all("Microsoft.Insights/diagnosticSettings")
    .filter(
      (other) =>
        other.id !== id && other.inputs.resourceUri === target && other.inputs.workspaceId === inputs.workspaceId,
    );
  if (others.length > 0) {
    throw azureError(
      "Conflict",
      `Data sink '${String(inputs.workspaceId)}' is already used in diagnostic setting '${others[0]?.name}'. Data sinks can't be reused in different settings on the same category for the same resource.`,
      409,
    );
  }
}
