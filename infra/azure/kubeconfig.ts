import { parse, stringify } from "yaml";
import { z } from "zod";

/** The Entra application that every AKS API server is, in the public cloud (AKS: "Use kubelogin"). */
const AKS_SERVER_APPLICATION = "6dae42f8-4368-4678-94ff-3960e28e3630";

const Kubeconfig = z.object({
  clusters: z
    .array(
      z.object({
        name: z.string().min(1),
        cluster: z.object({ server: z.url({ protocol: /^https$/ }), "certificate-authority-data": z.string().min(1) }),
      }),
    )
    .min(1),
});

/**
 * A kubeconfig that holds no credential: whoever uses it logs in as themselves, by kubelogin.
 *
 * First-deployment failure 9: what AKS answers asks for a device code, at which an unattended run hangs for ever. So
 * only the cluster's address and certificate are taken from it. `azurecli` uses the login of `az`: a person's, or in a
 * workflow the one that azure/login made, also from GitHub's OIDC token. Where there is no `az`, kubelogin takes
 * another way from its environment: `AAD_LOGIN_METHOD=workloadidentity` with AZURE_CLIENT_ID, AZURE_TENANT_ID,
 * AZURE_FEDERATED_TOKEN_FILE and AZURE_AUTHORITY_HOST. The text is the same for everyone, so that the plan is.
 *
 * @param credentials YAML of listClusterUserCredential.
 * @throws Error when that holds no cluster with an https address and a certificate.
 */
export function kubeloginKubeconfig(credentials: string): string {
  const parsed = Kubeconfig.safeParse(parseYaml(credentials));
  const entry = parsed.data?.clusters[0];
  if (entry === undefined) {
    throw new Error(
      `AKS answered with a kubeconfig that cannot be used (${parsed.error ? z.prettifyError(parsed.error) : "no cluster"}); the cluster may still be starting: run pulumi up again.`,
    );
  }
  const { name, cluster } = entry;
  const user = `${name}-kubelogin`;
  return stringify({
    apiVersion: "v1",
    kind: "Config",
    clusters: [
      {
        name,
        cluster: {
          server: cluster.server,
          "certificate-authority-data": cluster["certificate-authority-data"],
        },
      },
    ],
    users: [
      {
        name: user,
        user: {
          exec: {
            apiVersion: "client.authentication.k8s.io/v1beta1",
            command: "kubelogin",
            args: ["get-token", "--login", "azurecli", "--server-id", AKS_SERVER_APPLICATION],
            interactiveMode: "Never",
            provideClusterInfo: false,
            installHint: "Install kubelogin: az aks install-cli, or https://azure.github.io/kubelogin/install.html",
          },
        },
      },
    ],
    contexts: [{ name, context: { cluster: name, user } }],
    "current-context": name,
  });
}

function parseYaml(text: string): unknown {
  try {
    return parse(text);
  } catch {
    return undefined;
  }
}
