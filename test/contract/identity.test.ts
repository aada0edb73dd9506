import { describe, expect, test } from "vitest";
import { at, planOf, resourcesOf, STACKS } from "./planned-stacks.ts";

const CLIENT_ID = "azure.workload.identity/client-id";

describe.each(STACKS)("who the workloads of stack %s are", (stack) => {
  test("every ServiceAccount with an identity is the subject that this identity is federated with", async () => {
    const plan = await planOf(stack);
    const credentials = resourcesOf(plan, "managedidentity:FederatedIdentityCredential");
    const accounts = resourcesOf(plan, "ServiceAccount").filter(({ inputs }) => {
      return at(inputs, "metadata", "annotations", CLIENT_ID) !== undefined;
    });
    const subjects = accounts.map(({ inputs }) => {
      return `system:serviceaccount:${at(inputs, "metadata", "namespace")}:${at(inputs, "metadata", "name")}`;
    });
    expect(subjects.toSorted()).toEqual([
      "system:serviceaccount:mcp-system:job-worker",
      "system:serviceaccount:mcp-system:mcp-server",
    ]);
    for (const [i, account] of accounts.entries()) {
      const own = credentials.filter(({ inputs }) => inputs.subject === subjects[i]);
      expect(own).toHaveLength(1);
      // The account's client id is the federated identity's own, and waits for the federation.
      expect(account.dependsOn).toContain(own[0]?.urn);
    }
  });

  test("KEDA's operator has an identity of its own", async () => {
    const plan = await planOf(stack);
    const credentials = resourcesOf(plan, "managedidentity:FederatedIdentityCredential");
    const own = credentials.find(({ inputs }) => inputs.subject === "system:serviceaccount:keda:keda-operator");
    const release = resourcesOf(plan, "Release").find(({ inputs }) => at(inputs, "namespace") === "keda");
    expect(at(release?.inputs, "values", "podIdentity", "azureWorkload", "enabled")).toBe(true);
    expect(release?.dependsOn).toContain(own?.urn);
  });

  test("each credential has Entra's audience, the cluster's issuer, and an identity to itself", async () => {
    const plan = await planOf(stack);
    const credentials = resourcesOf(plan, "managedidentity:FederatedIdentityCredential");
    const issuers = new Set(credentials.map(({ inputs }) => inputs.issuer));
    expect(issuers.size).toBe(1);
    for (const { inputs } of credentials) expect(inputs.audiences).toEqual(["api://AzureADTokenExchange"]);
    const identities = credentials.map(({ inputs }) => inputs.resourceName);
    expect(new Set(identities).size).toBe(credentials.length);
    const [cluster] = resourcesOf(plan, "containerservice:ManagedCluster");
    for (const { dependsOn } of credentials) expect(dependsOn).toContain(cluster?.urn);
  });

  test("the server's pods run as its account, ask for the token, and get no other", async () => {
    const plan = await planOf(stack);
    const deployment = resourcesOf(plan, "Deployment").find(
      ({ inputs }) => at(inputs, "metadata", "name") === "mcp-server",
    );
    const template = at(deployment?.inputs, "spec", "template");
    expect(at(template, "spec", "serviceAccountName")).toBe("mcp-server");
    expect(at(template, "metadata", "labels", "azure.workload.identity/use")).toBe("true");
    expect(at(template, "spec", "automountServiceAccountToken")).toBe(false);
  });
});
