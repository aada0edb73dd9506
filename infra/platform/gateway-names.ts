import type { PodsElsewhere } from "./network-peer.ts";

/*
 * Names by which the parts of the gateway find one another: its controller, its certificate's solver, its routes and
 * the policies that let its proxies in.
 */

export const GATEWAY_CLASS = "envoy";

/** The one Gateway of the stack. Certificate, challenge solvers and proxy settings live beside it. */
export const GATEWAY = { namespace: "mcp-gateway", name: "mcp" } as const;

export const LISTENERS = { http: "http", https: "https" } as const;

/** Where the controller runs, and with it the proxies: they do not run beside their Gateway. */
export const ENVOY_NAMESPACE = "envoy-gateway-system";

/** The Gateway's proxies, by the labels that Envoy Gateway gives them. */
export const ENVOY_PROXIES: PodsElsewhere = {
  namespace: ENVOY_NAMESPACE,
  labels: {
    "app.kubernetes.io/name": "envoy",
    "app.kubernetes.io/component": "proxy",
    "gateway.envoyproxy.io/owning-gateway-name": GATEWAY.name,
    "gateway.envoyproxy.io/owning-gateway-namespace": GATEWAY.namespace,
  },
};
