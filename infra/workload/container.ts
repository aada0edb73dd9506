/* What the image and the deployment agree on, for the server and the workers alike. */

/** Who runs inside the containers: `USER` in server/Dockerfile. Files of the workspace belong to the group. */
export const CONTAINER_USER = 10001;

/**
 * Container ports: the first is for requests and probes, the second Prometheus's alone. NetworkPolicies need the numbers.
 */
export const PORTS = { http: 8080, metrics: 9090 } as const;

export const WORKSPACE_PATH = "/workspace";
