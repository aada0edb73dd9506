import { Release } from "@pulumi/kubernetes/helm/v3/index.js";
import type { CustomResourceOptions, Input } from "@pulumi/pulumi";
import { chartSource, type PinnedChart } from "./charts.ts";

/** A value of a chart: YAML, with outputs anywhere in it. */
export type ChartValue = Input<string | number | boolean | readonly ChartValue[] | ChartValues>;
export type ChartValues = { readonly [key: string]: ChartValue };

export interface ChartReleaseArgs {
  readonly chart: PinnedChart;
  /** Made by the caller, so that it carries Pod Security labels before the first pod. */
  readonly namespace: Input<string>;
  readonly values: ChartValues;
}

/** Images are pulled onto fresh nodes, and a pod may have to wait for the autoscaler's next node. Seconds. */
const TIMEOUT = 900;

/**
 * Installs a chart as a Helm release named `name`. A release and not a rendered chart, because Helm runs the hooks that
 * make admission certificates and check readiness, and because it is all or nothing: a failed installation is taken
 * back, so the next `pulumi up` starts it afresh.
 *
 * Only a process killed outright leaves the release "pending"; Helm then refuses the name until `helm uninstall`.
 */
export function installChart(name: string, args: ChartReleaseArgs, options: CustomResourceOptions): Release {
  return new Release(
    name,
    {
      ...chartSource(args.chart),
      // Fixed, for the names of Services and ServiceAccounts follow from it.
      name,
      namespace: args.namespace,
      createNamespace: false,
      values: args.values,
      timeout: TIMEOUT,
      atomic: true,
      cleanupOnFail: true,
      // Helm keeps every revision as a Secret, each with the whole chart inside.
      maxHistory: 5,
    },
    options,
  );
}
