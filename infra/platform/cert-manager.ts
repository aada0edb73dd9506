import type { IClusterIssuer } from "@kubernetes-models/cert-manager/cert-manager.io/v1/ClusterIssuer";
import { Namespace } from "@pulumi/kubernetes/core/v1/index.js";
import type { Release } from "@pulumi/kubernetes/helm/v3/index.js";
import { ComponentResource, type ComponentResourceOptions } from "@pulumi/pulumi";
import type { CertificateIssuer } from "../settings.ts";
import { installChart } from "./chart-release.ts";
import { CHARTS } from "./charts.ts";
import { customResource } from "./custom-resource.ts";
import { GATEWAY, LISTENERS } from "./gateway-names.ts";
import { resources } from "./monitoring.ts";
import { podSecurity } from "./pod-security.ts";

const NAMESPACE = "cert-manager";

/** Let's Encrypt, "Staging Environment" and "Getting Started". */
const ACME_SERVERS: Readonly<Record<CertificateIssuer, string>> = {
  "letsencrypt-staging": "https://acme-staging-v02.api.letsencrypt.org/directory",
  "letsencrypt-prod": "https://acme-v02.api.letsencrypt.org/directory",
};

export interface CertManagerArgs {
  /** Contact that Let's Encrypt keeps with the account; absent: none. */
  readonly email?: string;
}

/** Certificates from Let's Encrypt, proven over the Gateway's HTTP listener and renewed by themselves. Free. */
export class CertManager extends ComponentResource {
  constructor(name: string, args: CertManagerArgs, options: ComponentResourceOptions) {
    super("mcp:platform:CertManager", name, {}, options);
    const namespace = this.#createNamespace();
    const controller = this.#installController(namespace);
    this.#createIssuer("letsencrypt-staging", args.email, controller);
    this.#createIssuer("letsencrypt-prod", args.email, controller);
    this.registerOutputs({});
  }

  #createNamespace(): Namespace {
    return new Namespace(
      NAMESPACE,
      { metadata: { name: NAMESPACE, labels: podSecurity("restricted") } },
      { parent: this },
    );
  }

  /** The release ends with a check that the webhook answers; before that, every issuer would be refused. */
  #installController(namespace: Namespace): Release {
    return installChart(
      "cert-manager",
      {
        chart: CHARTS.certManager,
        namespace: namespace.metadata.name,
        values: {
          // Kept on uninstall, or every Certificate and with it the served key would go along.
          crds: { enabled: true, keep: true },
          // Crash-loops unless the Gateway API's kinds are there first: this component depends on Envoy Gateway.
          config: { gatewayAPI: { enabled: true } },
          // Its lock would otherwise be in kube-system.
          global: { leaderElection: { namespace: NAMESPACE } },
          prometheus: { servicemonitor: { enabled: true } },
          resources: resources("10m", "64Mi", "256Mi"),
          webhook: { resources: resources("10m", "32Mi", "128Mi") },
          cainjector: { resources: resources("10m", "96Mi", "256Mi") },
          startupapicheck: { resources: resources("10m", "32Mi", "128Mi"), timeout: "5m" },
        },
      },
      { parent: this },
    );
  }

  /** Both, whichever the stack uses: changing over is then a matter of one setting. */
  #createIssuer(issuer: CertificateIssuer, email: string | undefined, controller: Release): void {
    customResource<IClusterIssuer>(
      issuer,
      {
        apiVersion: "cert-manager.io/v1",
        kind: "ClusterIssuer",
        // Not waited for: an issuer registers with Let's Encrypt, and the one that is not used must hold nothing up.
        metadata: { name: issuer },
        spec: {
          acme: {
            server: ACME_SERVERS[issuer],
            ...(email !== undefined && { email }),
            privateKeySecretRef: { name: `${issuer}-account` },
            solvers: [
              {
                http01: {
                  gatewayHTTPRoute: {
                    // No port on the nodes for a challenge.
                    serviceType: "ClusterIP",
                    parentRefs: [
                      {
                        group: "gateway.networking.k8s.io",
                        kind: "Gateway",
                        name: GATEWAY.name,
                        namespace: GATEWAY.namespace,
                        sectionName: LISTENERS.http,
                      },
                    ],
                  },
                },
              },
            ],
          },
        },
      },
      { parent: this, dependsOn: controller },
    );
  }
}
