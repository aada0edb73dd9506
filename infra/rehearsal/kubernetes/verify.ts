import type { FakeAzure } from "../azure/azure.ts";
import type { Fault } from "../cloud-error.ts";
import type { FakeKubernetes } from "./kubernetes.ts";
import { verifyAzureSide } from "./verify-azure-side.ts";
import { verifyGateways } from "./verify-gateways.ts";
import { verifyPods } from "./verify-pods.ts";
import { verifyPolicies } from "./verify-policies.ts";
import { verifyQuotas } from "./verify-quotas.ts";
import { verifyScaling } from "./verify-scaling.ts";
import { verifyServices } from "./verify-services.ts";
import { verifyTraffic } from "./verify-traffic.ts";

/** Everything that the API server accepts object by object and that cannot work as a whole. */
export function verifyCluster(cluster: FakeKubernetes, azure: FakeAzure): Fault[] {
  return [
    ...verifyPods(cluster),
    ...verifyServices(cluster),
    ...verifyQuotas(cluster),
    ...verifyScaling(cluster),
    ...verifyGateways(cluster),
    ...verifyPolicies(cluster),
    ...verifyTraffic(cluster),
    ...verifyAzureSide(cluster, azure),
  ];
}
