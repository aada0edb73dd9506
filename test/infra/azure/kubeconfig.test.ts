import { describe, expect, it } from "vitest";
import { parse } from "yaml";
import { kubeloginKubeconfig } from "../../../infra/azure/kubeconfig.ts";
import { CREDENTIALS } from "./recorder.ts";

describe("the kubeconfig", () => {
  it("keeps the cluster's address and certificate, and logs in by az instead of a device code", () => {
    expect(parse(kubeloginKubeconfig(CREDENTIALS))).toEqual({
      apiVersion: "v1",
      kind: "Config",
      clusters: [
        {
          name: "aks-mcp-dev",
          cluster: {
            server: "https://mcp-dev-abcd.hcp.eastus2.azmk8s.io:443",
            "certificate-authority-data": "Q0VSVA==",
          },
        },
      ],
      users: [
        {
          name: "aks-mcp-dev-kubelogin",
          user: {
            exec: {
              apiVersion: "client.authentication.k8s.io/v1beta1",
              command: "kubelogin",
              args: ["get-token", "--login", "azurecli", "--server-id", "6dae42f8-4368-4678-94ff-3960e28e3630"],
              interactiveMode: "Never",
              provideClusterInfo: false,
              installHint: expect.stringContaining("kubelogin"),
            },
          },
        },
      ],
      contexts: [{ name: "aks-mcp-dev", context: { cluster: "aks-mcp-dev", user: "aks-mcp-dev-kubelogin" } }],
      "current-context": "aks-mcp-dev",
    });
  });

  it("carries no credential over, should Azure's answer hold one", () => {
    const answer = CREDENTIALS.replace(
      /users:[\s\S]*contexts:/,
      "users:\n- name: admin\n  user: { token: hunter2 }\ncontexts:",
    );
    expect(answer).toContain("hunter2");
    expect(kubeloginKubeconfig(answer)).not.toContain("hunter2");
  });

  it.each([
    ["nothing", ""],
    ["no YAML", "{ clusters: ["],
    ["no cluster", "apiVersion: v1\nclusters: []"],
    ["an address without TLS", CREDENTIALS.replace("https://", "http://")],
    ["no certificate", CREDENTIALS.replace(/.*certificate-authority-data.*\n/, "")],
  ])("is refused when the answer holds %s, with what to do", (_, answer) => {
    expect(() => kubeloginKubeconfig(answer)).toThrow(/cannot be used .*run pulumi up again/s);
  });
});
