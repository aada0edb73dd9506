import { Component } from "@pulumi/azure-native/applicationinsights/index.js";
import { DiagnosticSetting } from "@pulumi/azure-native/monitor/index.js";
import { Workspace } from "@pulumi/azure-native/operationalinsights/index.js";
import { ComponentResource, type ComponentResourceOptions, type Input, type Output, secret } from "@pulumi/pulumi";
import { localName } from "../naming.ts";
import type { Site } from "./site.ts";

export interface TelemetryArgs {
  readonly site: Site;
  /** Days that logs are kept; 31 are free, more cost about 0.10 USD a GB and month. */
  readonly retentionDays: number;
}

/** The category that stands for every metric of a resource. */
export const ALL_METRICS = "AllMetrics";

/** Where Azure's own logs and the server's traces go: Log Analytics and Application Insights. 2.3 to 3 USD a GB. */
export class Telemetry extends ComponentResource {
  readonly workspaceId: Output<string>;
  readonly workspaceName: Output<string>;
  /** Secret: whoever has it can write telemetry, though read none. */
  readonly connectionString: Output<string>;

  readonly #insights: Component;

  constructor(name: string, args: TelemetryArgs, opts?: ComponentResourceOptions) {
    super("mcp:azure:Telemetry", name, {}, opts);
    const workspace = this.#createWorkspace(name, args);
    this.#insights = this.#createInsights(name, args.site, workspace);
    this.workspaceId = workspace.id;
    this.workspaceName = workspace.name;
    this.connectionString = secret(this.#insights.connectionString);
    this.registerOutputs({ workspaceId: this.workspaceId });
  }

  /**
   * Sends a resource's logs, and metrics where named, to the workspace.
   *
   * @param name word for the resource: `cluster`.
   */
  collect(
    name: string,
    resourceId: Input<string>,
    logCategories: readonly string[],
    metrics: readonly string[] = [],
  ): DiagnosticSetting {
    return new DiagnosticSetting(
      `${name}-diagnostics`,
      {
        name: "to-log-analytics",
        resourceUri: resourceId,
        workspaceId: this.workspaceId,
        logs: logCategories.map((category) => ({ category, enabled: true })),
        metrics: metrics.map((category) => ({ category, enabled: true })),
        // A table a category: cheaper to query, and each can have a retention of its own.
        logAnalyticsDestinationType: "Dedicated",
      },
      {
        parent: this,
        // The component is a resource of Microsoft.Insights itself. Creating it first registers the namespace, which
        // a diagnostic setting, an extension of another namespace's resource, does not (first-deployment failure 14).
        dependsOn: this.#insights,
        // Services with nothing but dedicated tables give the property back empty: not a change to make.
        ignoreChanges: ["logAnalyticsDestinationType"],
      },
    );
  }

  #createWorkspace(name: string, { site, retentionDays }: TelemetryArgs): Workspace {
    return new Workspace(
      `${name}-workspace`,
      {
        resourceGroupName: site.resourceGroupName,
        workspaceName: localName("logWorkspace", site.parts),
        location: site.location,
        tags: site.tags,
        sku: { name: "PerGB2018" },
        retentionInDays: retentionDays,
        features: {
          // Entra only: no workspace key reads or writes logs.
          disableLocalAuth: true,
          // Whoever may read a resource may read its logs, and nobody else's.
          enableLogAccessUsingOnlyResourcePermissions: true,
        },
        // Diagnostic settings arrive over Azure's own network; closing these would need an Azure Monitor Private Link
        // Scope, which takes over name resolution of every monitored service in the network.
        publicNetworkAccessForIngestion: "Enabled",
        publicNetworkAccessForQuery: "Enabled",
      },
      { parent: this, protect: site.protect },
    );
  }

  #createInsights(name: string, site: Site, workspace: Workspace): Component {
    return new Component(
      `${name}-insights`,
      {
        resourceGroupName: site.resourceGroupName,
        resourceName: localName("applicationInsights", site.parts),
        location: site.location,
        tags: site.tags,
        kind: "web",
        applicationType: "web",
        ingestionMode: "LogAnalytics",
        workspaceResourceId: workspace.id,
        // The exporter authenticates by the connection string, a key that can only write.
        disableLocalAuth: false,
        // Callers' addresses are personal data: Azure zeroes them on arrival.
        disableIpMasking: false,
        publicNetworkAccessForIngestion: "Enabled",
        publicNetworkAccessForQuery: "Enabled",
      },
      // The provider takes them for ordinary outputs, which would lie open in the state.
      { parent: this, additionalSecretOutputs: ["connectionString", "instrumentationKey"] },
    );
  }
}
