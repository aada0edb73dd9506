import { createHash } from "node:crypto";
import type { Manifest } from "../../../infra/cli/kubernetes-objects.ts";

/** The key that opens {@link serverObjects}' server. */
export const KEY = "mcp_test_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG";

interface Changes {
  readonly data?: Record<string, string>;
  readonly container?: Record<string, unknown>;
}

/** Where a plan has its jobs. */
export const JOB_VARIABLES = {
  SERVICE_BUS_NAMESPACE: "sb-mcp-test.servicebus.windows.net",
  SERVICE_BUS_QUEUE: "mcp-jobs",
  SERVICE_BUS_ORDERED_QUEUE: "mcp-jobs-ordered",
  JOBS_TABLE_ENDPOINT: "https://stmcptest.table.core.windows.net",
  JOBS_TABLE_NAME: "jobs",
  JOBS_BLOB_ENDPOINT: "https://stmcptest.blob.core.windows.net",
  JOBS_BLOB_CONTAINER: "jobs",
};

/** A worker as a plan has it: no Service leads to it, and it mounts the server's claim. */
export function workerObjects(): Manifest[] {
  const metadata = { name: "job-worker", namespace: "mcp-system" };
  const data = { HOST: "0.0.0.0", PORT: "8080", METRICS_PORT: "9090", WORKSPACE_PATH: "/workspace", ...JOB_VARIABLES };
  const container = {
    name: "job-worker",
    image: "registry.example.com/mcp-server@sha256:0",
    args: ["node", "worker.js"],
    envFrom: [{ configMapRef: { name: "job-worker" } }],
    ports: [
      { name: "http", containerPort: 8080 },
      { name: "metrics", containerPort: 9090 },
    ],
    readinessProbe: { httpGet: { path: "/health/ready", port: "http" }, periodSeconds: 1 },
    volumeMounts: [
      { name: "workspace", mountPath: "/workspace" },
      { name: "tmp", mountPath: "/tmp" },
    ],
  };
  const spec = {
    containers: [container],
    volumes: [
      { name: "workspace", persistentVolumeClaim: { claimName: "shared" } },
      { name: "tmp", emptyDir: {} },
    ],
  };
  return [
    { kind: "ConfigMap", metadata, data },
    { kind: "Deployment", metadata, spec: { template: { metadata: { labels: {} }, spec } } },
  ];
}

/** The objects that lead from a route to a server, as a plan has them, with changes. */
export function serverObjects({ data, container }: Changes = {}): Manifest[] {
  const metadata = { name: "mcp-server", namespace: "mcp-system" };
  const object = (kind: string, rest: Record<string, unknown>): Manifest => ({ kind, metadata, ...rest });
  const hash = `sha256:${createHash("sha256").update(KEY).digest("hex")}`;
  return [
    object("HTTPRoute", {
      metadata: { name: "redirect", namespace: "mcp-gateway" },
      spec: { rules: [{ filters: [{ type: "RequestRedirect" }] }] },
    }),
    object("HTTPRoute", {
      spec: { rules: [{ backendRefs: [{ kind: "Service", name: "mcp-server", port: 80 }] }] },
    }),
    object("Service", {
      spec: { selector: { app: "mcp-server" }, ports: [{ port: 80, targetPort: "http" }] },
    }),
    object("ConfigMap", {
      data: {
        HOST: "0.0.0.0",
        PORT: "8080",
        METRICS_PORT: "9090",
        WORKSPACE_PATH: "/workspace",
        AUTH_MODE: "api-key",
        SHUTDOWN_DRAIN_SECONDS: "10",
        ...data,
      },
    }),
    object("Secret", { stringData: { API_KEY_HASHES: hash } }),
    object("Deployment", {
      spec: {
        template: {
          metadata: { labels: { app: "mcp-server", "azure.workload.identity/use": "true" } },
          spec: {
            serviceAccountName: "mcp-server",
            terminationGracePeriodSeconds: 15,
            containers: [
              {
                name: "mcp-server",
                image: "registry.example.com/mcp-server@sha256:0",
                command: ["node", "main.js"],
                envFrom: [{ configMapRef: { name: "mcp-server" } }, { secretRef: { name: "mcp-server" } }],
                ports: [
                  { name: "http", containerPort: 8080 },
                  { name: "metrics", containerPort: 9090 },
                ],
                startupProbe: { httpGet: { path: "/health/live", port: "http" }, periodSeconds: 1 },
                readinessProbe: { httpGet: { path: "/health/ready", port: "http" }, periodSeconds: 1 },
                volumeMounts: [
                  { name: "workspace", mountPath: "/workspace" },
                  { name: "tmp", mountPath: "/tmp" },
                ],
                ...container,
              },
            ],
          },
        },
      },
    }),
  ];
}
