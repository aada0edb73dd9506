import type { TokenCredential } from "@azure/identity";

/** Who runs the command, to Azure: mostly somebody who has logged in by az; in a pipeline there are other ways. */
export async function azureLogin(): Promise<TokenCredential> {
  const { AzureCliCredential, ChainedTokenCredential, DefaultAzureCredential } = await import("@azure/identity");
  return new ChainedTokenCredential(new AzureCliCredential(), new DefaultAzureCredential());
}
