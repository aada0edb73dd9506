import { createHash } from "node:crypto";
import type { Manifest } from "../../../infra/cli/kubernetes-objects.ts";

/** The key that opens {@link serverObjects}' server. */
export const KEY = "mcp_test_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG";

interface Changes {
  readonly data?: Record<string, string>;
  readonly container?: Record<string, unknown>;
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
