import { Namespace } from "@pulumi/kubernetes/core/v1/index.js";
import type { Release } from "@pulumi/kubernetes/helm/v3/index.js";
import { ComponentResource, type ComponentResourceOptions } from "@pulumi/pulumi";
import type { WorkloadIdentity } from "../azure/workload-identity.ts";
import { installChart } from "./chart-release.ts";
import { CHARTS } from "./charts.ts";
import { resources } from "./monitoring.ts";
import { podSecurity } from "./pod-security.ts";

/** Who asks Azure for queue lengths, whichever workload a ScaledObject scales: the subject of the federation. */
export const KEDA_OPERATOR = { namespace: "keda", name: "keda-operator" } as const;

export interface KedaArgs {
  /** Federated with {@link KEDA_OPERATOR}. */
  readonly identity: Pick<WorkloadIdentity, "clientId">;
}

/** Scales workloads by load and by queue length, the latter down to nothing. Free. */
export class Keda extends ComponentResource {
  constructor(name: string, args: KedaArgs, options: ComponentResourceOptions) {
    super("mcp:platform:Keda", name, {}, options);
    const namespace = this.#createNamespace();
    this.#installOperator(namespace, args.identity);
    this.registerOutputs({});
  }

  #createNamespace(): Namespace {
    return new Namespace(
      KEDA_OPERATOR.namespace,
      { metadata: { name: KEDA_OPERATOR.namespace, labels: podSecurity("restricted") } },
      { parent: this },
    );
  }

  /** Its kinds are part of the release: uninstalling deletes every ScaledObject, so they have to depend on this. */
  #installOperator(namespace: Namespace, { clientId }: KedaArgs["identity"]): Release {
    const scraped = { enabled: true, serviceMonitor: { enabled: true } };
    return installChart(
      "keda",
      {
        chart: CHARTS.keda,
        namespace: namespace.metadata.name,
        values: {
          podIdentity: { azureWorkload: { enabled: true, clientId } },
          serviceAccount: { operator: { name: KEDA_OPERATOR.name } },
          prometheus: { operator: scraped, metricServer: scraped, webhooks: scraped },
          resources: {
            operator: resources("50m", "128Mi", "512Mi"),
            metricServer: resources("25m", "64Mi", "256Mi"),
            webhooks: resources("10m", "32Mi", "128Mi"),
          },
        },
      },
      { parent: this },
    );
  }
}
