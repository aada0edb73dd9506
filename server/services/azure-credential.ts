import type { TokenCredential } from "@azure/identity";

let credential: Promise<TokenCredential> | undefined;

/**
 * How this process proves to Azure who it is: in a pod by workload identity, elsewhere by what the machine has to offer
 * (Azure's variables, `az login`). Loaded when first asked for, since it costs memory that many servers do not need;
 * one a process, since it keeps the tokens.
 */
export function azureCredential(): Promise<TokenCredential> {
  credential ??= import("@azure/identity").then(({ DefaultAzureCredential, WorkloadIdentityCredential }) =>
    // The webhook of workload identity sets it, and the other variables that its credential reads.
    process.env.AZURE_FEDERATED_TOKEN_FILE === undefined
      ? new DefaultAzureCredential()
      : new WorkloadIdentityCredential(),
  );
  return credential;
}

/** Has this process prove itself otherwise: for commands, which people run. To be called before the first is needed. */
export function proveBy(other: Promise<TokenCredential>): void {
  credential = other;
}
