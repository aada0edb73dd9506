import type { TableClient } from "@azure/data-tables";
import type { Config } from "../config.ts";
import { azureCredential } from "./azure-credential.ts";
import { EMULATOR_ACCOUNT } from "./jobs/emulator-account.ts";

/** Where the table is that a server's identity may write, and how it proves itself there. */
export interface JobsTable {
  readonly endpoint: string;
  readonly table: string;
  readonly auth: Config["JOBS_AUTH"];
}

/** The table of the configuration; undefined where there is none. */
export function jobsTableOf(
  config: Pick<Config, "JOBS_TABLE_ENDPOINT" | "JOBS_TABLE_NAME" | "JOBS_AUTH">,
): JobsTable | undefined {
  const { JOBS_TABLE_ENDPOINT: endpoint, JOBS_TABLE_NAME: table, JOBS_AUTH: auth } = config;
  return endpoint === undefined || table === undefined ? undefined : { endpoint, table, auth };
}

/** Tries beyond the first of what a call waits for, in a second or two. */
const RETRIES = { maxRetries: 2, retryDelayInMs: 200, maxRetryDelayInMs: 2000 };

/** A client of the jobs' table, for what is not a job: idempotency keys, and when API keys were last used. */
export async function connectJobsTable({ endpoint, table, auth }: JobsTable): Promise<TableClient> {
  const { AzureNamedKeyCredential, TableClient } = await import("@azure/data-tables");
  if (auth === "entra") return new TableClient(endpoint, table, await azureCredential(), { retryOptions: RETRIES });
  const credential = new AzureNamedKeyCredential(EMULATOR_ACCOUNT.name, EMULATOR_ACCOUNT.key);
  // An emulator's address is on loopback (server/config.ts).
  return new TableClient(endpoint, table, credential, { retryOptions: RETRIES, allowInsecureConnection: true });
}
