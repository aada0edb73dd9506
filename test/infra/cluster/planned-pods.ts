import { find, type PlannedCluster, type Registered } from "./planned-cluster.ts";

/* What a plan says of the pods of server and workers. */

export interface Probe {
  httpGet: { path: string; port: string };
  periodSeconds: number;
  failureThreshold: number;
}
export interface Container {
  image: string;
  command?: string[];
  args?: string[];
  ports: { name: string; containerPort: number }[];
  envFrom: { configMapRef?: { name: string }; secretRef?: { name: string } }[];
  securityContext: Record<string, unknown>;
  resources: { requests: Record<string, string>; limits: Record<string, string> };
  volumeMounts: { name: string; mountPath: string }[];
  startupProbe: Probe;
  livenessProbe: Probe;
  readinessProbe: Probe;
}
export interface PodSpec extends Record<string, unknown> {
  containers: Container[];
  initContainers?: Container[];
  securityContext: Record<string, unknown>;
  volumes: Record<string, unknown>[];
  terminationGracePeriodSeconds: number;
  topologySpreadConstraints: { topologyKey: string; labelSelector: { matchLabels: Record<string, string> } }[];
}
export interface DeploymentSpec {
  replicas?: number;
  selector: { matchLabels: Record<string, string> };
  strategy: unknown;
  template: { metadata: { labels: Record<string, string>; annotations: Record<string, string> }; spec: PodSpec };
}

/** The name of a Deployment, and so of whatever belongs to it. */
export type WorkloadName = "mcp-server" | "job-worker";

export const specOf = <T>({ inputs }: Registered) => inputs.spec as T;

export const deploymentOf = (plan: PlannedCluster, name: WorkloadName = "mcp-server") =>
  specOf<DeploymentSpec>(find(plan, "kubernetes:apps/v1:Deployment", name));

export function containerOf(plan: PlannedCluster, name?: WorkloadName): Container {
  const [only] = deploymentOf(plan, name).template.spec.containers;
  if (!only) throw new Error("no container");
  return only;
}

export const selects = (selector: Record<string, string>, labels: Record<string, string>) =>
  Object.entries(selector).every(([key, value]) => labels[key] === value);

/** As the container gets it. */
export function environmentOf(plan: PlannedCluster, name: WorkloadName = "mcp-server"): Record<string, string> {
  const data = find(plan, "kubernetes:core/v1:ConfigMap", name).inputs.data;
  const stringData = find(plan, "kubernetes:core/v1:Secret", name).inputs.stringData;
  return { ...(data as Record<string, string>), ...(stringData as Record<string, string>) };
}
